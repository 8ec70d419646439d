//! All pages: links lead somewhere, and commands are run.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{repository, text_of};

/// The README files, and all of `docs/`.
fn pages() -> Vec<String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![repository("README.md"), repository("certs/README.md")];
    walk(&repository("docs"), &mut found);
    found.sort();
    let root = repository("");
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
    found.iter().map(relative).collect()
}

/// A fenced block: what stands after the fence, its lines, and where it begins.
pub(crate) struct Block {
    pub(crate) info: String,
    pub(crate) text: String,
    line: usize,
}

pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim().strip_prefix("```"), open.as_mut()) {
            (Some(info), None) => {
                open = Some(Block {
                    info: info.to_owned(),
                    text: String::new(),
                    line: number + 1,
                });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

fn headings(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = text_of(&page);
        let directory = Path::new(&page).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                PathBuf::from(&page)
            } else {
                directory.join(file)
            };
            let path = repository(&target.display().to_string());
            let known = heading.is_empty()
                || std::fs::read_to_string(&path).is_ok_and(|text| headings(&text).contains(heading));
            if !path.exists() || !known {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_index() {
    let index = text_of("docs/README.md");
    for page in pages() {
        let Some(name) = page.strip_prefix("docs/") else {
            continue;
        };
        assert!(
            name == "README.md" || name.starts_with("decisions/") || index.contains(&format!("({name})")),
            "{page} is not in docs/README.md"
        );
    }
}

#[test]
fn every_decision_is_in_the_index_with_its_date_and_status() {
    let directory = "docs/decisions/";
    let index = text_of("docs/decisions/README.md");
    let mut numbers = BTreeSet::new();
    for page in pages() {
        let Some(name) = page.strip_prefix(directory).filter(|name| *name != "README.md") else {
            continue;
        };
        let text = text_of(&page);
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let title = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap();
        // What may follow: which page this one replaces.
        let standing = lines.next().and_then(|line| line.split(". ").next());
        let standing = standing.and_then(|line| line.trim_end_matches('.').split_once(", "));
        let (date, status) = standing.unwrap_or_else(|| panic!("{page}: no line `DATE, STATUS.`"));
        let number = name.split('-').next().unwrap();
        assert!(
            number.len() == 4 && number.parse::<u16>().is_ok(),
            "{page}: no number"
        );
        assert!(numbers.insert(number.to_owned()), "{number} is there twice");
        let row = format!("| [{number}]({name}) | {title} | {date} | {status} |");
        assert!(index.contains(&row), "not in {directory}README.md: {row}");
        // Where the link leads is looked at by the test of links.
        assert!(
            status == "in force" || status.starts_with("replaced by ["),
            "{page}: {status}"
        );
    }
    assert!(numbers.len() >= 15, "{numbers:?}");
}

#[test]
fn every_command_is_run_by_some_test() {
    for page in pages() {
        // A block that is indented instead of fenced would be run by nobody.
        let (mut before, mut fenced) = ("", false);
        for (number, line) in text_of(&page).lines().enumerate() {
            fenced ^= line.trim().starts_with("```");
            let indented =
                !fenced && before.is_empty() && line.starts_with("    ") && !line.trim().is_empty();
            assert!(!indented, "{page}:{}: a block without a fence", number + 1);
            before = line.trim();
        }
        for block in blocks(&text_of(&page)) {
            let mut words = block.info.split_whitespace();
            let language = words.next().unwrap_or_default();
            assert!(!language.is_empty(), "{page}:{}: a block of what?", block.line);
            if !["sh", "python", "console", "bash"].contains(&language) {
                continue;
            }
            let by = words.next().unwrap_or_default();
            assert!(
                by != "task" || page == "docs/tasks.md",
                "{page}:{}: tasks are run on the page of their name alone",
                block.line
            );
            let known = match language {
                "sh" => ["test", "task", "deb", "systemd", "make"].contains(&by),
                "python" => by == "test",
                _ => false,
            };
            assert!(
                known,
                "{page}:{}: ```{} is run by no test",
                block.line, block.info
            );
            for target in block.text.lines().filter(|_| by == "make") {
                let target = target.split('#').next().unwrap().trim();
                let words: Vec<&str> = target.split_whitespace().collect();
                match words.as_slice() {
                    ["make", targets @ ..] => is_a_target(targets),
                    ["cargo", "test" | "bench", rest @ ..] => is_a_cargo_target(rest),
                    ["UPDATE_DOCS=1", "cargo", "test", rest @ ..] => is_a_cargo_target(rest),
                    _ => panic!("{page}:{}: not make or cargo: {target}", block.line),
                }
            }
        }
    }
}

/// Commands between backticks in the running text: their names and options exist.
#[test]
fn commands_in_the_text_exist() {
    let mut count = 0;
    for page in pages() {
        let mut fenced = false;
        for line in text_of(&page).lines() {
            fenced ^= line.trim().starts_with("```");
            for span in line.split('`').skip(1).step_by(2).filter(|_| !fenced) {
                let words: Vec<&str> = span.split_whitespace().collect();
                match words.as_slice() {
                    ["portcullis", rest @ ..] if !rest.is_empty() => is_a_command(&page, rest),
                    ["make", targets @ ..] if !targets.is_empty() => is_a_target(targets),
                    ["cargo", "test" | "bench", rest @ ..]
                    | ["UPDATE_DOCS=1", "cargo", "test", rest @ ..] => is_a_cargo_target(rest),
                    _ => continue,
                }
                count += 1;
            }
        }
    }
    assert!(count >= 20, "{count}");
}

fn is_a_command(page: &str, words: &[&str]) {
    let is_option = |word: &&&str| word.starts_with("--");
    let names = words
        .iter()
        .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(names)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{page}: portcullis {words:?}");
    for option in words.iter().filter(is_option) {
        assert!(help.contains(*option), "{page}: portcullis {words:?}: {option}");
    }
}

/// Blocks of configuration are accepted as they stand, beside the files that they name.
#[test]
fn configurations_of_the_pages_are_accepted() {
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have ended by now; whether it did what it should is seen below.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{arguments:?}: {said}\n{input}");
    };
    run(&["certs", "dev", "--dir", "."], "");
    run(&["psk", "add", "device-1", "--psk-file", "psk.txt"], "");
    run(
        &["user", "add", "ann", "--users-file", "users.txt"],
        "correct horse\n",
    );
    for (file, content) in [("redis.password", "secret\n"), ("group.key", &"0a".repeat(32))] {
        let path = place.path().join(file);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    let mut count = 0;
    for page in pages() {
        for block in blocks(&text_of(&page)) {
            match block.info.as_str() {
                "toml" => {
                    std::fs::write(place.path().join("page.toml"), &block.text).unwrap();
                    run(&["check-config", "--config", "page.toml"], &block.text);
                }
                "yaml" => {
                    let text = block.text.replace(
                        "/usr/share/portcullis",
                        &repository("config").display().to_string(),
                    );
                    let file = place.path().join("prometheus.yml");
                    std::fs::write(&file, &text).unwrap();
                    let output = Command::new("promtool")
                        .args(["check", "config", "--syntax-only"])
                        .arg(file)
                        .output()
                        .unwrap();
                    assert!(output.status.success(), "{output:?}\n{text}");
                }
                _ => continue,
            }
            count += 1;
        }
    }
    assert!(count >= 3, "{count}");
}

fn is_a_target(targets: &[&str]) {
    let makefile = text_of("Makefile");
    for target in targets.iter().filter(|word| !word.contains('=')) {
        let known = makefile
            .lines()
            .any(|line| line.starts_with(&format!("{target}:")));
        assert!(known, "make {target}: no such target");
    }
}

/// What follows `--test`, `--bench` or `--lib` exists.
fn is_a_cargo_target(words: &[&str]) {
    for pair in words.windows(2) {
        match pair {
            ["--test", name] => assert!(
                repository(&format!("tests/{name}.rs")).exists()
                    || repository(&format!("tests/{name}/main.rs")).exists(),
                "no test {name}"
            ),
            ["--bench", name] => assert!(
                repository(&format!("benches/{name}.rs")).exists(),
                "no bench {name}"
            ),
            _ => {}
        }
    }
}

/// All `test` blocks of all pages, against a gateway with the packaged configuration, in a network of its own.
#[test]
fn commands_of_the_pages_work() {
    let work = tempfile::tempdir().unwrap();
    let mut count = 0;
    for page in pages() {
        for block in blocks(&text_of(&page)) {
            let extension = match block.info.as_str() {
                "sh test" => "sh",
                "python test" => "py",
                _ => continue,
            };
            let name = format!(
                "{:02}-{}-{}.{extension}",
                count,
                page.replace('/', "_"),
                block.line
            );
            std::fs::write(work.path().join(name), block.text).unwrap();
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
    let output = Command::new("bash")
        .arg(repository("tests/ops/pages.sh"))
        .arg(env!("CARGO_BIN_EXE_portcullis"))
        .arg(work.path())
        .arg(repository("config/portcullis.toml"))
        .arg(interop().join("venv/bin/python"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{count} blocks worked")), "{said}");
}

/// Where `make clients` put the Python that has aiocoap.
fn interop() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository("target"), PathBuf::from);
    target.join("interop")
}
