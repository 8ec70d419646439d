//! Tests that pages name between backticks, against those that there are.

use std::path::Path;
use std::sync::OnceLock;

use super::repository;

/// A source file: its path in the repository, and its text.
type Source = (String, String);

/// All of `src/`, `crates/` and `tests/`, read once.
fn sources() -> &'static [Source] {
    fn walk(folder: &Path, found: &mut Vec<Source>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(repository("")).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut found = Vec::new();
        for folder in ["src", "crates", "tests"] {
            walk(&repository(folder), &mut found);
        }
        found
    })
}

/// What stands between backticks.
pub(crate) fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether the tests of a name may stand in this file: of `binary module::test` in a folder of `tests/`, of `module::test` in
/// `src/` or `crates/`, or in a file of `tests/`.
fn may_hold(path: &str, binary: Option<&str>, module: &str) -> bool {
    match binary {
        Some(binary) => path == format!("tests/{binary}/{module}.rs"),
        None if path.starts_with("tests/") => path == format!("tests/{module}.rs"),
        None => [".rs", "/tests.rs", "/mod.rs"]
            .iter()
            .any(|end| path.ends_with(&format!("/{module}{end}"))),
    }
}

/// Whether a macro that makes tests is given this name.
fn is_listed(text: &str, name: &str) -> bool {
    [("each_transport!(", ");"), ("replayed! {", "}")]
        .iter()
        .any(|(begin, end)| {
            let lists = text.split(begin).skip(1);
            let mut items = lists.flat_map(|list| list.split(end).next().unwrap_or_default().split(','));
            items.any(|item| item.split(':').next().unwrap_or_default().trim() == name)
        })
}

/// Whether `text` has a test of this name, or any at all for `*`.
fn has_test(text: &str, test: &str) -> bool {
    if test == "*" {
        return text.contains("#[test]") || text.contains("#[tokio::test");
    }
    let is_marked = text
        .split_once(&format!("fn {test}("))
        .is_some_and(|(before, _)| {
            before
                .lines()
                .rev()
                .take(6)
                .take_while(|line| !line.starts_with('}') && !line.starts_with("    }"))
                .any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
        });
    is_marked || is_listed(text, test)
}

/// What is wrong with a name of a page: `binary module::test`, `module::test`, `binary module::*`, or a folder.
pub(crate) fn complaint(name: &str) -> Option<String> {
    if name.ends_with('/') {
        return (!repository(name).is_dir()).then(|| format!("`{name}` is not there"));
    }
    let (binary, path) = match name.split_once(' ') {
        Some((binary, path)) => (Some(binary), path),
        None => (None, name),
    };
    let Some((module, test)) = path.rsplit_once("::") else {
        return Some(format!("`{name}` is not a module and a test"));
    };
    let module = module.rsplit("::").next().unwrap_or(module);
    let found = sources()
        .iter()
        .any(|(path, text)| may_hold(path, binary, module) && has_test(text, test));
    (!found).then(|| format!("`{name}` is no test"))
}

/// The complaints about the tests that a cell names, with the place of its row.
pub(crate) fn complaints(place: &str, cell: &str) -> Vec<String> {
    let wrong = names(cell).into_iter().filter_map(complaint);
    wrong.map(|wrong| format!("{place}: {wrong}")).collect()
}

#[test]
fn names_that_are_no_tests_are_found() {
    for right in [
        "source_rates::workers_that_count_at_once_lose_and_invent_nothing",
        "e2e amplification::*",
        "e2e connection::wrong_tokens_are_rate_limited_per_source",
        "fuzz main::coap_codec",
    ] {
        assert_eq!(complaint(right), None);
    }
    for wrong in [
        "failures::nothing_of_the_kind",
        // A function, but no test.
        "failures::charge",
        "e2e amplification::nothing_of_the_kind",
        "policy failures::zero_is_no_limit_and_a_new_limit_holds_at_once",
        "e2e",
        "nowhere/",
    ] {
        assert!(complaint(wrong).is_some(), "{wrong}");
    }
}
