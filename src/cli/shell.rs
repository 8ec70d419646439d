//! Completions and manual pages, made from the same definitions as the command line.

use std::io;
use std::path::Path;

use clap::{Arg, ArgAction};

use super::exit::{CANNOT_CREATE, Failure, IO_ERROR};
use super::{manual, output};

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

/// Prints `portcullis(1)`, or writes it, a page of each subcommand, and `portcullis.toml(5)` into `dir`.
pub(super) fn man(dir: Option<&Path>) -> Result<(), Failure> {
    let mut root = command();
    root.build();
    let Some(dir) = dir else {
        let page = page(&root)
            .map_err(|error| Failure::new(IO_ERROR, format!("cannot make the manual page: {error}")))?;
        return output::print(&String::from_utf8_lossy(&page));
    };
    let failed =
        |error: io::Error| Failure::new(CANNOT_CREATE, format!("cannot write {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    write_all(&root, dir).map_err(failed)?;
    std::fs::write(dir.join("portcullis.toml.5"), manual::configuration()).map_err(failed)
}

fn write_all(command: &clap::Command, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    std::fs::write(dir.join(format!("{name}.1")), page(command)?)?;
    let mut inner = command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help");
    inner.try_for_each(|inner| write_all(inner, dir))
}

/// One page.
fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    let words = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let path = words.strip_prefix("portcullis").unwrap_or_default().trim();
    let man = clap_mangen::Man::new(command.clone()).title(name.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend_from_slice(
        format!(".SH SYNOPSIS\n{}\n", manual::escaped(&synopsis(command, words))).as_bytes(),
    );
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend_from_slice(manual::sections(path, &related(command, &name)).as_bytes());
    Ok(page)
}

/// How a command is written, each option with its value.
fn synopsis(command: &clap::Command, words: &str) -> String {
    let mut parts = vec![words.to_owned()];
    let shown = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && arg.get_id() != "help" && arg.get_id() != "version");
    let (named, placed): (Vec<&Arg>, Vec<&Arg>) = shown.partition(|arg| !arg.is_positional());
    for arg in named.into_iter().chain(placed) {
        let value = arg
            .get_value_names()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string);
        let value = value.collect::<Vec<_>>().join(" ");
        let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let written = match arg.get_long() {
            Some(long) if takes => format!("--{long} {value}"),
            Some(long) => format!("--{long}"),
            None => value,
        };
        parts.push(if arg.is_required_set() {
            written
        } else {
            format!("[{written}]")
        });
    }
    if command.has_subcommands() {
        parts.push("COMMAND".to_owned());
    }
    parts.join(" ")
}

/// The pages beside one: what stands above and below it.
fn related(command: &clap::Command, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    if let Some((above, _)) = name.rsplit_once('-').filter(|_| name != "portcullis") {
        // `check-config` is one word.
        let above = if above == "portcullis-check" {
            "portcullis"
        } else {
            above
        };
        all.push(format!("{above}(1)"));
        if above != "portcullis" {
            all.push("portcullis(1)".to_owned());
        }
    }
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        all.push(format!(
            "{}(1)",
            inner.get_display_name().unwrap_or_else(|| inner.get_name())
        ));
    }
    all.push("portcullis.toml(5)".to_owned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(command: &clap::Command, into: &mut Vec<(String, String)>) {
        let words = command.get_bin_name().unwrap_or_default().to_owned();
        let text = String::from_utf8(page(command).unwrap()).unwrap();
        into.push((words, text));
        let inner = command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help");
        inner.for_each(|inner| all(inner, into));
    }

    #[test]
    fn no_page_lacks_examples_exit_status_files_environment_or_see_also() {
        let mut root = command();
        root.build();
        let mut pages = Vec::new();
        all(&root, &mut pages);
        assert!(pages.len() > 30, "{}", pages.len());
        for (words, text) in &pages {
            for section in [
                "NAME",
                "SYNOPSIS",
                "EXAMPLES",
                "\"EXIT STATUS\"",
                "FILES",
                "ENVIRONMENT",
                "\"SEE ALSO\"",
            ] {
                assert!(
                    text.contains(&format!(".SH {section}\n")),
                    "{words} has no {section}"
                );
            }
        }
        let trace = &pages
            .iter()
            .find(|(words, _)| words == "portcullis trace")
            .unwrap()
            .1;
        assert!(
            trace.contains("[\\-\\-for SECONDS] [\\-\\-payload BYTES]"),
            "{trace}"
        );
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for (path, examples) in manual::EXAMPLES {
            for (line, _) in *examples {
                assert!(line.starts_with("portcullis") && line.contains(path), "{line}");
                let words = line.split_whitespace().map(|word| word.trim_matches('\''));
                let outcome = super::super::command().try_get_matches_from(words);
                assert!(outcome.is_ok(), "{line}: {}", outcome.unwrap_err());
            }
        }
    }
}
