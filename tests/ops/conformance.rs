//! The page of conformance against the tests that it names.

use std::fmt::Write as _;

use super::named_tests::{complaints, names};
use super::text_of;

pub(crate) const PAGE: &str = "docs/conformance.md";

/// How a requirement begins.
const LEVELS: [&str; 5] = ["MUST NOT ", "MUST", "SHOULD NOT ", "SHOULD ", "says "];
/// What becomes of one, as its cell begins.
const OUTCOMES: [&str; 4] = ["kept", "in part: ", "not kept: ", "not ours: "];

/// A row of a table: where it stands, the heading above it, what it asks, whether that holds, and what shows it.
struct Row<'a> {
    place: String,
    heading: &'a str,
    asks: &'a str,
    holds: &'a str,
    shown: &'a str,
}

impl Row<'_> {
    fn is_case(&self) -> bool {
        self.heading == "Plugtests"
    }

    /// Which of [`OUTCOMES`] it is; "kept" has nothing behind it but how.
    fn outcome(&self) -> Option<usize> {
        OUTCOMES
            .iter()
            .position(|outcome| self.holds.starts_with(outcome))
    }

    fn complaints(&self) -> Vec<String> {
        let mut wrong = complaints(&self.place, self.shown);
        let mut complain = |what: &str| wrong.push(format!("{}: {what}", self.place));
        if !self.is_case() && !LEVELS.iter().any(|level| self.asks.starts_with(level)) {
            complain("begins with no level");
        }
        match self.outcome() {
            None => complain("is neither kept, nor says why it is not"),
            Some(0 | 1) if names(self.shown).is_empty() => complain("shown by no test"),
            Some(0) if self.holds != OUTCOMES[0] => complain("what is kept needs no more words"),
            Some(_) => {}
        }
        wrong
    }
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let mut heading = "";
    let mut found = Vec::new();
    for (line, row) in (1..).zip(text.lines()) {
        if let Some(next) = row.strip_prefix("## ") {
            heading = next;
        }
        let cells = row.trim_start_matches("| ").trim_end_matches('|').split(" | ");
        let cells: Vec<&str> = cells.map(str::trim).collect();
        if let [section, asks, holds, shown] = cells[..]
            && !["section", "case"].contains(&section)
        {
            found.push(Row {
                place: format!("{PAGE}:{line}"),
                heading,
                asks,
                holds,
                shown,
            });
        }
    }
    found
}

/// How many of each document are kept.
pub(crate) fn numbers() -> String {
    let text = text_of(PAGE);
    let rows = rows(&text);
    let mut table = String::from(
        "| document | rows | kept | in part | not kept | not ours |\n|---|---|---|---|---|---|\n",
    );
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    for heading in headings {
        let of: Vec<_> = rows.iter().filter(|row| row.heading == heading).collect();
        let count = |wanted: usize| of.iter().filter(|row| row.outcome() == Some(wanted)).count();
        let counts = [0, 1, 2, 3].map(|wanted| count(wanted).to_string()).join(" | ");
        writeln!(table, "| {heading} | {} | {counts} |", of.len()).unwrap();
    }
    table
}

#[test]
fn every_requirement_names_tests_that_exist_or_says_why_it_is_not_kept() {
    let text = text_of(PAGE);
    let rows = rows(&text);
    for document in ["7252", "7641", "7959", "7967", "9175", "6347", "9146", "9853"] {
        let heading = format!("RFC {document},");
        assert!(
            rows.iter().any(|row| row.heading.starts_with(&heading)),
            "{heading} the tables have another form"
        );
    }
    assert!(rows.iter().any(Row::is_case));
    let wrong: Vec<String> = rows.iter().flat_map(Row::complaints).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rows_that_show_nothing_are_found() {
    let right =
        "## RFC 1, x\n| 1 | MUST be | kept | `e2e amplification::*` |\n| 2 | SHOULD be | not kept: why | |\n";
    assert!(rows(right).iter().all(|row| row.complaints().is_empty()));
    assert_eq!(rows(right).len(), 2);
    for wrong in [
        "| 1 | MUST be | kept | |",
        "| 1 | MUST be | kept | `e2e amplification::nothing_of_the_kind` |",
        "| 1 | MUST be | kept, nearly | `e2e amplification::*` |",
        "| 1 | MUST be | in part: why | |",
        "| 1 | MUST be | not kept | |",
        "| 1 | is | kept | `e2e amplification::*` |",
    ] {
        assert!(!rows(wrong)[0].complaints().is_empty(), "{wrong}");
    }
}
