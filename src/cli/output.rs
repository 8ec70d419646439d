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
    print(&format!("{value:#}\n"))
}
