//! What is wrong with a configuration, shown where it stands.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use portcullis_proto::types::LineError;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// Something ran out (a certificate, a CRL): `check-config` refuses it, a start or reload says so and goes on, because
    /// what does not depend on it still works.
    Outdated,
    /// It works, but not all of it does what it seems to. `check-config` says so and is content.
    Note,
}

/// Where in the file a problem stands. What stands there is never repeated: who may name a file would read it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are meant; at least 1.
    pub width: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file that was read.
    pub file: PathBuf,
    /// Where in it; `None` when the file says nothing about it.
    pub place: Option<Place>,
    /// The key it is about, dotted; empty for what is no key.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
    /// Whether the file itself could not be read.
    pub unreadable: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let kind = match self.severity {
            Severity::Error | Severity::Outdated => "error",
            Severity::Note => "note",
        };
        write!(f, "{file}: {kind}")?;
        if let Some(Place { line, column, .. }) = &self.place {
            write!(f, " at line {line}, column {column}")?;
        }
        let gap = if self.key.is_empty() { "" } else { ": " };
        write!(f, "\n{}{gap}{}", self.key, self.message)
    }
}

/// Everything that is wrong, in the order of the file. Never empty when returned as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The file cannot be read.
    #[must_use]
    pub fn unreadable(file: &Path, message: impl Into<String>) -> Self {
        Self(vec![Problem {
            file: file.to_owned(),
            place: None,
            key: String::new(),
            message: message.into(),
            severity: Severity::Error,
            unreadable: true,
        }])
    }

    /// The file is wrong at one place, whatever it says elsewhere.
    #[must_use]
    pub(crate) fn at(file: &Path, wrong: &LineError) -> Self {
        Self(vec![Problem {
            file: file.to_owned(),
            place: Some(Place {
                line: wrong.line,
                column: wrong.column,
                width: 1,
            }),
            key: String::new(),
            message: wrong.message.clone(),
            severity: Severity::Error,
            unreadable: false,
        }])
    }

    /// Why the configuration is refused: errors, then what ran out. What only is to be noted is no reason.
    #[must_use]
    pub fn reasons(&self) -> Vec<&Problem> {
        let of = |severity| self.0.iter().filter(move |problem| problem.severity == severity);
        of(Severity::Error).chain(of(Severity::Outdated)).collect()
    }

    /// The problems one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Whether there is nothing that an operator has to mend.
    #[must_use]
    pub fn only_notes(&self) -> bool {
        self.0.iter().all(|problem| problem.severity == Severity::Note)
    }

    /// Whether any of them forbids a start.
    #[must_use]
    pub(crate) fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Place {
    /// The place of a byte range of `text`; what goes past the end of its first line is cut.
    pub(super) fn of(text: &str, span: &Range<usize>) -> Self {
        let start = floor_char(text, span.start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = text.get(line_start..).unwrap_or_default();
        let full_line = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let end = floor_char(text, span.end)
            .min(line_start + full_line.len())
            .max(start);
        Self {
            line: before.matches('\n').count() + 1,
            column: text.get(line_start..start).unwrap_or_default().chars().count() + 1,
            width: text.get(start..end).unwrap_or_default().chars().count().max(1),
        }
    }
}

fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_and_what_and_repeats_nothing_of_the_file() {
        let text = "[a]\nb = 1\nmax_session = 3\n";
        let problem = Problem {
            file: "x.toml".into(),
            place: Some(Place::of(text, &(10..21))),
            key: "a.max_session".into(),
            message: "unknown key".into(),
            severity: Severity::Error,
            unreadable: false,
        };
        assert_eq!(
            problem.to_string(),
            "x.toml: error at line 3, column 1\na.max_session: unknown key"
        );
    }

    #[test]
    fn columns_count_characters_and_ranges_stop_at_the_line() {
        let text = "ü = \"é\nx\"";
        let place = Place::of(text, &(5..text.len()));
        assert_eq!((place.line, place.column, place.width), (1, 5, 2));
        let end = Place::of("a = ", &(4..4));
        assert_eq!((end.line, end.column, end.width), (1, 5, 1));
    }
}
