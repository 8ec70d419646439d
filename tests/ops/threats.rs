//! The threat model against the tests that it names.

use std::collections::BTreeSet;

use super::named_tests::{complaints, names};
use super::text_of;

const PAGE: &str = "docs/threat-model.md";

/// The rows of the tables whose first column is called `first` and that have `N`: where each stands, and its cells.
fn rows<'a, const N: usize>(text: &'a str, first: &str) -> Vec<(String, [&'a str; N])> {
    let mut within = false;
    let mut found = Vec::new();
    for (line, row) in (1..).zip(text.lines()) {
        let cells = row.trim_start_matches("| ").trim_end_matches('|').split(" | ");
        let cells: Vec<&str> = cells.map(str::trim).collect();
        match <[&str; N]>::try_from(cells) {
            Ok(cells) if cells.first() == Some(&first) => within = true,
            Ok(cells) if within => found.push((format!("{PAGE}:{line}"), cells)),
            _ => within &= row.starts_with('|'),
        }
    }
    found
}

#[test]
fn every_threat_names_tests_that_exist() {
    let text = text_of(PAGE);
    let rows = rows(&text, "who");
    assert!(
        rows.len() > 30,
        "{} rows: the tables have another form",
        rows.len()
    );
    let mut wrong = Vec::new();
    for (place, [_, _, stops, shown]) in rows {
        if names(shown).is_empty() && !stops.starts_with("nothing") {
            wrong.push(format!("{place}: shown by no test"));
        }
        wrong.extend(complaints(&place, shown));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_known_fault_of_others_names_tests_that_exist() {
    let text = text_of(PAGE);
    let rows = rows(&text, "number");
    assert!(rows.len() > 10, "{} rows: the table has another form", rows.len());
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (place, [numbers, _, _, _, shown]) in rows {
        for number in numbers.split(", ") {
            if !["CVE-", "GHSA-"].iter().any(|kind| number.starts_with(kind)) {
                wrong.push(format!("{place}: {number} is no number"));
            }
            if !seen.insert(number) {
                wrong.push(format!("{place}: {number} stands twice"));
            }
        }
        if names(shown).is_empty() {
            wrong.push(format!("{place}: shown by no test"));
        }
        wrong.extend(complaints(&place, shown));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The crates that `.deny.toml` bans below a version, against those that are built in.
#[test]
fn what_is_banned_is_not_built_in() {
    let version = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let (deny, lock) = (text_of(".deny.toml"), text_of("Cargo.lock"));
    let mut judged = 0;
    for ban in deny.split("crate = \"").skip(1) {
        let Some((name, mended)) = ban.split('"').next().unwrap().split_once("@<") else {
            continue;
        };
        for package in lock.split(&format!("name = \"{name}\"\nversion = \"")).skip(1) {
            let built_in = package.split('"').next().unwrap();
            assert!(version(built_in) >= version(mended), "{name} {built_in}");
            judged += 1;
        }
    }
    assert!(judged >= 3, "{judged}");
}
