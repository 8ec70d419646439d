//! The threat model against the tests that it names.

use std::path::PathBuf;

use super::repository;

const PAGE: &str = "docs/threat-model.md";

/// The rows that say who attempts what: line number, what stops it, and what shows it.
fn rows(text: &str) -> Vec<(usize, String, String)> {
    let rows = (1..).zip(text.lines()).filter_map(|(line, row)| {
        let cells: Vec<&str> = row.split(" | ").collect();
        match cells.as_slice() {
            [who, _, stops, shown] if !["| who", "|---"].contains(who) => Some((
                line,
                (*stops).to_owned(),
                shown.trim_end_matches('|').trim().to_owned(),
            )),
            _ => None,
        }
    });
    rows.collect()
}

/// What stands between backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Where the tests of a name may stand: `binary module::test` in a folder of `tests/`, `module::test` in `src/` or `crates/`, or in a file of
/// `tests/`.
fn files(binary: Option<&str>, module: &str) -> Vec<PathBuf> {
    if let Some(binary) = binary {
        return vec![repository(&format!("tests/{binary}/{module}.rs"))];
    }
    let mut found = vec![repository(&format!("tests/{module}.rs"))];
    let mut folders = vec![repository("src"), repository("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is = |name: &str| path.file_name().is_some_and(|found| found == name);
            let within = |name: &str| {
                path.parent()
                    .unwrap()
                    .file_name()
                    .is_some_and(|found| found == name)
            };
            if path.is_dir() {
                folders.push(path);
            } else if is(&format!("{module}.rs")) || within(module) && (is("tests.rs") || is("mod.rs")) {
                found.push(path);
            }
        }
    }
    found
}

/// Whether `text` has a test of this name, or any at all for `*`.
fn has_test(text: &str, test: &str) -> bool {
    let is_marked = |at: usize| {
        let before: Vec<&str> = text[..at].lines().rev().take(6).collect();
        before
            .iter()
            .take_while(|line| !line.starts_with('}') && !line.starts_with("    }"))
            .any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
    };
    let in_each_transport = |name: &str| {
        text.split("each_transport!(").nth(1).is_some_and(|list| {
            let list = list.split(");").next().unwrap_or_default();
            list.split(',').any(|listed| listed.trim() == name)
        })
    };
    if test == "*" {
        return text.contains("#[test]") || text.contains("#[tokio::test");
    }
    let Some(at) = text.find(&format!("fn {test}(")) else {
        return false;
    };
    is_marked(at) || in_each_transport(test)
}

/// What is wrong with a name of the page.
fn complaint(name: &str) -> Option<String> {
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
    let found = files(binary, module)
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .any(|text| has_test(&text, test));
    (!found).then(|| format!("`{name}` is no test"))
}

#[test]
fn every_threat_names_tests_that_exist() {
    let text = std::fs::read_to_string(repository(PAGE)).unwrap();
    let rows = rows(&text);
    assert!(
        rows.len() > 30,
        "{} rows: the tables have another form",
        rows.len()
    );
    let mut complaints = Vec::new();
    for (line, stops, shown) in rows {
        let names = names(&shown);
        if names.is_empty() && !stops.starts_with("nothing") {
            complaints.push(format!("{PAGE}:{line}: shown by no test"));
        }
        let wrong = names.into_iter().filter_map(complaint);
        complaints.extend(wrong.map(|wrong| format!("{PAGE}:{line}: {wrong}")));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn names_that_are_no_tests_are_found() {
    assert_eq!(
        complaint("source_rates::workers_that_count_at_once_lose_and_invent_nothing"),
        None
    );
    assert_eq!(complaint("e2e amplification::*"), None);
    assert_eq!(
        complaint("e2e connection::wrong_tokens_are_rate_limited_per_source"),
        None
    );
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
