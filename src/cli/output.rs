//! Standard output and standard error of the commands.

use std::io::{ErrorKind, Write as _};

use super::exit::{Failure, IO_ERROR};

/// Writes a result to standard output. A reader that has enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            IO_ERROR,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Writes a part of a result that goes on; whether anyone still reads.
pub(super) fn stream(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(
            IO_ERROR,
            format!("cannot write to standard output: {error}"),
        )),
    }
}

/// Writes a line for a person to standard error.
pub(super) fn note(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Without standard error nobody is left to be told.
    drop(writeln!(stderr, "{text}"));
}

/// Says why a command failed.
pub(super) fn error(message: &str) {
    note(&format!("portcullis: {message}"));
}

/// Prints a value as JSON.
pub(super) fn json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{}\n", harmless(&format!("{value:#}"))))
}

/// JSON that means the same and holds nothing that a terminal obeys: of what devices say JSON itself escapes only a part.
pub(super) fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // They can only stand in strings, and none is beyond the characters that take one escape.
        if matches!(c, '\u{7f}'..='\u{9f}') || is_unseen(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// Characters that turn the direction of writing, break lines or have no width.
pub(super) const fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_a_terminal_does_not_obey_it() {
        let value = serde_json::json!({"id": "a\u{9b}31m\u{7f}\u{202e}\u{1b}[2J é"});
        let text = harmless(&value.to_string());
        assert_eq!(text, r#"{"id":"a\u009b31m\u007f\u202e\u001b[2J é"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
