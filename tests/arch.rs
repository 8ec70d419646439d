//! What the crates' boundaries do not show by themselves: which of them are pure, and where `unsafe` lives.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The pure crates never name tasks, sockets, files, clocks or global randomness. `Instant::now` is for clippy to find, which
/// knows tests from code (`.clippy.toml`).
const PURE: &[&str] = &["crates/proto/src", "crates/dtls/src"];
const IMPURE: &[&str] = &[
    "tokio",
    ".await;",
    ".await?",
    "async fn",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::fs",
    "thread::spawn",
    "thread::sleep",
    "thread::Builder",
    "SystemTime",
    "OsRng",
    "rand::rng()",
    "rand::random",
    "from_os_rng",
];

/// The only homes of `unsafe`.
const UNSAFE_FILES: &[&str] = &[
    "crates/dtls/src/ffi.rs",
    "crates/net/src/memory.rs",
    "crates/net/src/mmsg.rs",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of code before a file's tests, comments left out.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .map(|line| line.split("//").next().unwrap_or_default())
}

fn is_test(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    path.ends_with("tests.rs") || path.contains("/tests/")
}

fn impurities(source: &str) -> Vec<&'static str> {
    let said = |word: &&&str| code(source).any(|line| line.contains(**word));
    IMPURE.iter().filter(said).copied().collect()
}

#[test]
fn the_core_is_pure() {
    for folder in PURE {
        let files = sources(&root().join(folder));
        assert!(files.len() > 20, "only {} files in {folder}", files.len());
        for file in files.iter().filter(|file| !is_test(file)) {
            let said = impurities(&fs::read_to_string(file).unwrap());
            assert!(said.is_empty(), "{} says {said:?}", file.display());
        }
    }
    assert_eq!(
        impurities("let now = SystemTime::now(); // tokio\n"),
        ["SystemTime"]
    );
    assert!(
        impurities("//! tokio\nuse std::time::Instant;\n#[cfg(test)]\nmod tests { std::fs::read }")
            .is_empty()
    );
}

#[test]
fn the_pure_crates_depend_on_nothing_impure() {
    for (member, banned) in [
        ("proto", &["tokio", "openssl", "portcullis-"][..]),
        ("dtls", &["tokio", "portcullis-net", "portcullis-broker"]),
    ] {
        let manifest = fs::read_to_string(root().join(format!("crates/{member}/Cargo.toml"))).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        for word in banned {
            let used = dependencies.lines().any(|line| line.starts_with(word));
            assert!(!used, "{member} depends on {word}");
        }
    }
}

#[test]
fn unsafe_has_two_homes() {
    for folder in ["src", "crates"] {
        for file in sources(&root().join(folder)) {
            let name = file.strip_prefix(root()).unwrap().to_str().unwrap();
            let source = fs::read_to_string(&file).unwrap();
            let lets = code(&source).any(|line| line.contains("(unsafe_code"));
            let home = UNSAFE_FILES.contains(&name) || name == "crates/proto/src/lib.rs";
            assert!(home || !lets, "{name} lets unsafe code in");
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["src", "crates"] {
        for file in sources(&root().join(folder)) {
            let opens = fs::read_to_string(&file).unwrap().starts_with("//!");
            assert!(opens, "{} does not begin with //!", file.display());
        }
    }
}

/// The functions that a text names behind `before`.
fn functions<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let is_name = |it: char| it.is_alphanumeric() || it == '_';
    let behind = text.split(before).skip(1);
    behind.filter_map(move |rest| {
        let (name, _) = rest.split_once(['(', '<'])?;
        name.chars().all(is_name).then_some(name)
    })
}

/// For each file of a folder that has a part of an object of many files, the files whose methods of it that one calls.
fn calls(folder: &str, object: &str) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let files = sources(&root().join(folder));
    let parts = files
        .into_iter()
        .filter(|file| !is_test(file))
        .filter_map(|file| {
            let text = code(&fs::read_to_string(&file).unwrap())
                .collect::<Vec<_>>()
                .join("\n");
            let of_it = |part: &&str| {
                part.starts_with(&format!(" {object} {{")) || part.contains(&format!("> {object}<C> {{"))
            };
            let bodies = text.split("\nimpl").skip(1).filter(of_it);
            let bodies: Vec<&str> = bodies.map(|body| body.split("\n}").next().unwrap()).collect();
            (!bodies.is_empty()).then(|| (file, bodies.join("\n")))
        });
    let parts: BTreeMap<PathBuf, String> = parts.collect();
    let home = |method: &str| {
        let mut it = parts
            .iter()
            .filter(|(_, body)| functions(body, "fn ").any(|name| name == method));
        it.next().map(|(file, _)| file.clone())
    };
    let called = |file: &PathBuf, body: &str| {
        let homes: BTreeSet<PathBuf> = functions(body, "self.").filter_map(home).collect();
        homes.into_iter().filter(|it| it != file).collect()
    };
    parts
        .iter()
        .map(|(file, body)| (file.clone(), called(file, body)))
        .collect()
}

#[test]
fn files_of_one_object_call_each_other_in_one_direction() {
    for (folder, object) in [
        ("crates/proto/src/gateway", "Gateway"),
        ("crates/dtls/src/listener", "DtlsListener"),
        ("src/daemon/worker", "Worker"),
    ] {
        let mut left = calls(folder, object);
        assert!(left.len() > 4, "{folder} has {} files", left.len());
        // Who calls nobody that is left is in no circle.
        while let Some(file) = left
            .keys()
            .find(|it| left[*it].iter().all(|to| !left.contains_key(to)))
            .cloned()
        {
            left.remove(&file);
        }
        assert!(left.is_empty(), "they call each other in a circle: {left:#?}");
    }
}
