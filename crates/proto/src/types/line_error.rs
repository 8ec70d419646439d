//! What is wrong in a text file of keys, users, tokens or rules, said without a word of what stands there: whoever may name a
//! file to the gateway would read it by its errors otherwise.

use std::fmt;
use std::str::Utf8Error;

/// The part of a line that is wrong, and why.
pub type Fault<'a> = (&'a str, String);

/// What is wrong at one place of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1, where the part begins that is wrong.
    pub column: usize,
    /// What is wrong and what would be right; nothing of the text.
    pub message: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for LineError {}

impl LineError {
    /// What is wrong with `part` of `line`, which is line `number`; a part of another text counts as its begin.
    #[must_use]
    pub fn at(number: usize, line: &str, part: &str, message: impl Into<String>) -> Self {
        let before = part.as_ptr().addr().checked_sub(line.as_ptr().addr());
        let before = before.and_then(|bytes| line.get(..bytes)).unwrap_or_default();
        Self {
            line: number,
            column: before.chars().count() + 1,
            message: message.into(),
        }
    }

    /// Where `bytes` stop to be UTF-8.
    #[must_use]
    pub fn no_text(bytes: &[u8], error: Utf8Error) -> Self {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let good = String::from_utf8_lossy(good);
        let line = good.rsplit('\n').next().unwrap_or_default();
        Self {
            line: good.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            message: "this is no UTF-8 text".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_counts_characters_from_one() {
        let line = "zähler x";
        let (_, word) = line.split_once(' ').unwrap();
        assert_eq!(
            LineError::at(3, line, word, "odd").to_string(),
            "line 3, column 8: odd"
        );
        assert_eq!(LineError::at(3, line, line, "odd").column, 1);
        assert_eq!(LineError::at(3, line, "elsewhere", "odd").column, 1);
    }

    #[test]
    fn bytes_that_are_no_text_are_found() {
        let bytes = "a\nüb".bytes().chain([0xff, b'\n']).collect::<Vec<_>>();
        let error = std::str::from_utf8(&bytes).unwrap_err();
        let at = LineError::no_text(&bytes, error);
        assert_eq!((at.line, at.column), (2, 3));
    }
}
