//! The shape of the source: a pure core, imports in one direction, small files, `unsafe` in two places.
//!
//! Each rule is a function from a file's path and text to complaints; each is also held against a sample that breaks it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::Path;

/// The pure folders, and what each may use of the others.
const CORE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("dtls", &["types"]),
    ("coap", &["types"]),
    ("policy", &["types", "coap"]),
    ("bridge", &["types", "coap", "policy"]),
    ("gateway", &["types", "dtls", "coap", "policy", "bridge"]),
];

/// The edges. `net` uses `types` only; each of the others may use the core and the edges before it.
const EDGES: &[&str] = &["net", "broker", "auth", "config", "admin", "daemon", "cli"];

fn is_core(folder: &str) -> bool {
    CORE.iter().any(|(name, _)| *name == folder)
}

fn is_placed(folder: &str) -> bool {
    is_core(folder) || EDGES.contains(&folder)
}

fn may_use(own: &str, used: &str) -> bool {
    if let Some((_, allowed)) = CORE.iter().find(|(name, _)| *name == own) {
        return allowed.contains(&used);
    }
    let place = |folder| EDGES.iter().position(|edge| *edge == folder);
    match own {
        "net" => used == "types",
        _ => is_core(used) || place(used) < place(own),
    }
}

/// What a pure folder never says: tasks, sockets, files, clocks, global randomness.
const IMPURE: &[&str] = &[
    "tokio",
    ".await",
    "async fn",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::fs",
    "std::thread",
    "rumqttc",
    "SystemTime::now",
    "Instant::now",
    "OsRng",
    "thread_rng",
    "rand::rng()",
    "rand::random",
    "from_os_rng",
];

/// The only homes of `unsafe`.
const UNSAFE_FILES: &[&str] = &["src/dtls/ffi.rs", "src/net/mmsg.rs"];

const MAX_LINES: usize = 500;

/// The text with comments and the contents of string literals blanked; line breaks stay.
fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::new();
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len()).find(|&j| at(j) == '\n').unwrap_or(chars.len()),
            ('/', '*') => block_comment_end(&chars, i),
            ('r', '"' | '#') if raw_string_hashes(&chars, i).is_some() => raw_string_end(&chars, i),
            ('"', _) => string_end(&chars, i),
            ('\'', '"') if at(i + 2) == '\'' => i + 3,
            ('\'', '\\') => (i + 3..chars.len())
                .find(|&j| at(j) == '\'')
                .map_or(chars.len(), |j| j + 1),
            _ => {
                out.push(at(i));
                i += 1;
                continue;
            }
        };
        out.extend(chars[i..end].iter().filter(|c| **c == '\n'));
        out.push(' ');
        i = end;
    }
    out
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// How many `#` open the raw string at `start`, if one does.
fn raw_string_hashes(chars: &[char], start: usize) -> Option<usize> {
    let part_of_word = start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_');
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    // A byte string `br"` is preceded by its own `b`.
    let opens = chars.get(start + 1 + hashes) == Some(&'"');
    (opens && (!part_of_word || chars[start - 1] == 'b')).then_some(hashes)
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = raw_string_hashes(chars, start).unwrap();
    let mut i = start + 2 + hashes;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

/// The code without its inline test modules.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..start]);
        let tail = &rest[start..];
        let brace = tail.find('{').unwrap_or(usize::MAX);
        let semicolon = tail.find(';').unwrap_or(usize::MAX);
        let end = if semicolon < brace {
            semicolon + 1
        } else {
            closing_brace(tail, brace)
        };
        rest = tail.get(end..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// Just behind the brace that closes the one at `open`.
fn closing_brace(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices().skip_while(|(i, _)| *i < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    text.len()
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("_tests.rs")
}

/// The folder under `src/` that a file belongs to; `src/types.rs` belongs to `types`.
fn folder(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    Some(rest.split('/').next()?.trim_end_matches(".rs"))
}

fn purity(path: &str, source: &str) -> Vec<String> {
    if is_test_file(path) || !folder(path).is_some_and(is_core) {
        return vec![];
    }
    let code = without_tests(&code_only(source));
    let said = IMPURE.iter().filter(|word| code.contains(**word));
    said.map(|word| format!("{path}: the core says {word}")).collect()
}

/// The names that follow the crate's root, however it is spelt, groups in braces included.
fn used_folders(path: &str, code: &str) -> Vec<String> {
    let mut used = vec![];
    let supers = "super::".repeat(module_depth(path));
    let roots = ["crate::", "portcullis::", supers.as_str()];
    let starts = roots
        .iter()
        .filter(|root| !root.is_empty())
        .flat_map(|root| code.match_indices(root).map(|(start, _)| start + root.len()));
    for start in starts {
        let tail = &code[start..];
        let name = |text: &str| {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        if !tail.starts_with('{') {
            used.push(name(tail));
            continue;
        }
        let group = &tail[1..closing_brace(tail, 0).saturating_sub(1)];
        let mut depth = 0;
        for part in group.split_inclusive(['{', '}', ',']) {
            if depth == 0 {
                used.push(name(part));
            }
            depth += i32::from(part.ends_with('{')) - i32::from(part.ends_with('}'));
        }
    }
    used
}

fn direction(path: &str, source: &str) -> Vec<String> {
    let Some(own) = folder(path).filter(|own| is_placed(own) && !is_test_file(path)) else {
        return vec![];
    };
    let code = without_tests(&code_only(source));
    used_folders(path, &code)
        .into_iter()
        .filter(|used| is_placed(used) && used != own && !may_use(own, used))
        .map(|used| format!("{path}: {own} uses {used}"))
        .collect()
}

/// How many modules deep a file is: 1 for `src/coap/mod.rs`, 2 for `src/coap/x.rs`.
fn module_depth(path: &str) -> usize {
    let own = ["/mod.rs", "lib.rs", "main.rs"]
        .iter()
        .any(|name| path.ends_with(name));
    path.matches('/').count() - usize::from(own)
}

fn size(path: &str, source: &str) -> Vec<String> {
    let lines = match is_test_file(path) {
        true => 0,
        // Comments count: they are read too.
        false => without_inline_tests(source).lines().count(),
    };
    (lines > MAX_LINES)
        .then(|| format!("{path}: {lines} lines"))
        .into_iter()
        .collect()
}

/// The source, comments included, up to its inline test module.
fn without_inline_tests(source: &str) -> &str {
    let start = source.match_indices("#[cfg(test)]\nmod ").find(|(start, _)| {
        source[*start..]
            .lines()
            .nth(1)
            .is_some_and(|line| line.ends_with('{'))
    });
    start.map_or(source, |(start, _)| &source[..start])
}

fn opening(path: &str, source: &str) -> Vec<String> {
    (!source.starts_with("//!"))
        .then(|| format!("{path}: does not begin with //!"))
        .into_iter()
        .collect()
}

fn unsafety(path: &str, source: &str) -> Vec<String> {
    if UNSAFE_FILES.contains(&path) {
        return vec![];
    }
    let code = code_only(source);
    let word = |(start, _): (usize, &str)| {
        let before = code[..start].chars().next_back().unwrap_or(' ');
        let after = code[start + "unsafe".len()..].chars().next().unwrap_or(' ');
        !(before.is_alphanumeric() || before == '_' || after.is_alphanumeric() || after == '_')
    };
    code.match_indices("unsafe")
        .any(word)
        .then(|| format!("{path}: unsafe"))
        .into_iter()
        .collect()
}

type Rule = fn(&str, &str) -> Vec<String>;

/// Holds a rule against every file of the crate.
fn check(rule: Rule) {
    let mut complaints = vec![];
    let mut files = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files += 1;
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                complaints.extend(rule(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files > 20, "only {files} files found");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_core_is_pure() {
    check(purity);
}

#[test]
fn imports_go_one_way() {
    check(direction);
}

#[test]
fn files_are_small() {
    check(size);
}

#[test]
fn every_file_says_what_it_is() {
    check(opening);
}

#[test]
fn unsafe_has_two_homes() {
    check(unsafety);
}

#[test]
fn every_folder_has_its_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let placed = is_placed(name) || ["lib", "main"].contains(&name);
        assert!(placed, "src/{name} has no place in the order of the folders");
    }
}

#[test]
fn impurity_is_seen() {
    for word in IMPURE {
        let source = format!("//! X.\nfn f() {{ x({word}) }}\n");
        assert_eq!(purity("src/coap/x.rs", &source).len(), 1, "{word}");
        assert_eq!(purity("src/types/x.rs", &source).len(), 1, "{word}");
        assert!(purity("src/daemon/x.rs", &source).is_empty(), "edges may");
        assert!(purity("src/coap/tests.rs", &source).is_empty(), "tests may");
        let in_tests = format!("//! X.\n#[cfg(test)]\nmod tests {{\n fn f() {{ x({word}) }}\n}}\n");
        assert!(purity("src/coap/x.rs", &in_tests).is_empty(), "inline tests may");
        let after_tests = format!("{in_tests}fn g() {{ x({word}) }}\n");
        assert_eq!(
            purity("src/coap/x.rs", &after_tests).len(),
            1,
            "code after the tests may not"
        );
        let said =
            format!("// {word}\n/* {word} /* */ {word} */ fn f() {{ g(\"{word}\", r#\"{word}\"#) }}\n");
        assert!(
            purity("src/coap/x.rs", &said).is_empty(),
            "comments and strings may: {word}"
        );
    }
    let hidden = "fn f() { let quote = '\"'; Instant::now(); let other = '\"'; }";
    assert_eq!(
        purity("src/coap/x.rs", hidden).len(),
        1,
        "a quote character opens no string"
    );
}

#[test]
fn a_wrong_import_is_seen() {
    let cases: &[(&str, &str, usize)] = &[
        ("src/types/x.rs", "use crate::coap::Y;", 1),
        ("src/dtls/x.rs", "use crate::{types::A, coap::{B, C}};", 1),
        ("src/dtls/x.rs", "use crate::{types::{A, B}, types::C};", 0),
        ("src/coap/x.rs", "fn f() { crate::policy::g() }", 1),
        ("src/coap/x.rs", "use crate::dtls::A;", 1),
        ("src/bridge/x.rs", "use crate::gateway::A;", 1),
        (
            "src/gateway/x.rs",
            "use crate::broker::A; use crate::bridge::B;",
            1,
        ),
        ("src/gateway/x.rs", "use crate::net::A;", 1),
        (
            "src/broker/x.rs",
            "use crate::daemon::A; use crate::bridge::B;",
            1,
        ),
        ("src/cli/x.rs", "use crate::daemon::A;", 0),
        ("src/net/x.rs", "use crate::types::A;", 0),
        ("src/net/x.rs", "use crate::coap::A;", 1),
        ("src/config/x.rs", "use crate::net::A; use crate::gateway::B;", 0),
        ("src/coap/x.rs", "use crate::labels; // crate::policy\n", 0),
        ("src/coap/x.rs", "use super::super::policy::A;", 1),
        ("src/coap/x.rs", "use super::policy::A;", 0),
        ("src/coap/mod.rs", "use super::policy::A;", 1),
        ("src/coap/tests.rs", "use crate::policy::A;", 0),
        ("src/main.rs", "use portcullis::policy::A;", 0),
    ];
    for (path, source, complaints) in cases {
        assert_eq!(direction(path, source).len(), *complaints, "{path}: {source}");
    }
}

#[test]
fn a_long_file_is_seen() {
    let long = format!("//! X.\n{}", "// line\n".repeat(MAX_LINES));
    assert_eq!(size("src/coap/x.rs", &long).len(), 1);
    assert!(size("src/coap/tests.rs", &long).is_empty());
    let tested = format!(
        "//! X.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
        "// line\n".repeat(MAX_LINES)
    );
    assert!(size("src/coap/x.rs", &tested).is_empty());
    let sibling = format!(
        "//! X.\n#[cfg(test)]\nmod tests;\n{}",
        "// line\n".repeat(MAX_LINES)
    );
    assert_eq!(
        size("src/coap/x.rs", &sibling).len(),
        1,
        "tests in a file of their own excuse nothing"
    );
}

#[test]
fn a_missing_opening_is_seen() {
    assert_eq!(opening("src/coap/x.rs", "use a;\n").len(), 1);
    assert!(opening("src/coap/x.rs", "//! What it is.\n").is_empty());
}

#[test]
fn stray_unsafe_is_seen() {
    for source in [
        "unsafe { f() }",
        "unsafe fn f() {}",
        "unsafe impl Send for X {}",
        "x(unsafe{ y })",
    ] {
        assert_eq!(unsafety("src/coap/x.rs", source).len(), 1, "{source}");
        for home in UNSAFE_FILES {
            assert!(unsafety(home, source).is_empty());
        }
    }
    for source in [
        "#![expect(unsafe_code)]",
        "// unsafe {\n",
        "f(\"unsafe {\")",
        "let not_unsafe = 1;",
    ] {
        assert!(unsafety("src/coap/x.rs", source).is_empty(), "{source}");
    }
}
