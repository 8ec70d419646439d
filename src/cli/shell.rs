//! Completions and manual pages, made from the same definitions as the command line.

use std::path::Path;

use super::exit::{Failure, IO_ERROR};
use super::output;

/// The command line with a version of one line, which is all that a page's footer has room for.
fn command() -> clap::Command {
    super::command().version(env!("CARGO_PKG_VERSION"))
}

/// Prints the completion script of a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "portcullis", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// Prints `portcullis(1)`, or writes it and a page of each subcommand into `dir`.
pub(super) fn man(dir: Option<&Path>) -> Result<(), Failure> {
    if let Some(dir) = dir {
        return std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(command(), dir))
            .map_err(|error| Failure::write(dir, &error));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command())
        .render(&mut page)
        .map_err(|error| Failure::new(IO_ERROR, format!("cannot make the manual page: {error}")))?;
    output::print(&String::from_utf8_lossy(&page))
}
