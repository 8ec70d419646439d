//! The commands.
//!
//! Each command is a function from its arguments to `Result<(), Failure>`; a `Failure` carries a message and the exit code
//! of sysexits(3) that fits it. Results go to standard output, everything else to standard error.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

mod acl;
mod args;
mod atomic;
mod bench;
mod bugreport;
mod certs;
mod check;
mod doctor;
mod exit;
mod group;
mod import;
mod manual;
mod migrate;
mod output;
mod profile;
mod psk;
mod quickstart;
mod remote;
mod run;
mod shell;
mod target;
mod token;
mod user;

use crate::config::Config;

use exit::Failure;

use args::{Cli, Command};

/// Called once every listener is up.
pub type OnReady = Box<dyn FnOnce() + Send>;

/// Serves until told to stop; the daemon.
pub type Serve = fn(Config, OnReady) -> ExitCode;

/// Runs the command line of this process; `serve` is what `run` comes to.
#[must_use]
pub fn main(serve: Serve) -> ExitCode {
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
            // Nothing is left to say it with when even this cannot be written.
            return error.print().map_or(exit::IO_ERROR, |()| code).into();
        }
    };
    match dispatch(cli.command, serve) {
        Ok(code) => code,
        Err(failure) => {
            if failure.bare {
                output::note(&failure.message);
            } else {
                output::error(&failure.message);
            }
            failure.code.into()
        }
    }
}

fn dispatch(command: Command, serve: Serve) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => return run::run(&args, serve),
        Command::CheckConfig(args) => check::check_config(&args)?,
        Command::Psk(command) => psk::run(&command)?,
        Command::User(command) => user::run(&command)?,
        Command::Acl(command) => return acl::run(&command),
        Command::Token(command) => token::run(&command)?,
        Command::Certs(command) => certs::run(&command)?,
        Command::Ban(command) => remote::bans::run(&command)?,
        Command::Clients(command) => remote::clients::run(&command)?,
        Command::Drain(args) => remote::status::drain(&args)?,
        Command::Status(args) => remote::status::run(&args)?,
        Command::Top(args) => remote::top::run(&args)?,
        Command::Trace(args) => remote::trace::run(&args)?,
        Command::Reload(args) => remote::reload::run(&args)?,
        Command::Group(command) => group::run(&command)?,
        Command::Config(command) => remote::config::run(&command)?,
        Command::Pub(args) => remote::messages::publish(&args)?,
        Command::Sub(args) => remote::messages::listen(&args)?,
        Command::Doctor(args) => doctor::run(&args)?,
        Command::Bugreport(args) => bugreport::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
        Command::Migrate(args) => migrate::run(&args)?,
        Command::Completions { shell } => shell::completions(shell)?,
        Command::Man { dir } => shell::man(dir.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole command line; the help of each command ends with examples and the place of the documentation.
fn command() -> clap::Command {
    with_examples(Cli::command(), "")
}

fn with_examples(command: clap::Command, path: &str) -> clap::Command {
    let mut help = String::new();
    for (line, what) in manual::examples(path).unwrap_or_default() {
        let head = if help.is_empty() { "Examples:\n" } else { "" };
        help.push_str(&format!("{head}  {line}\n      {what}\n"));
    }
    let gap = if help.is_empty() { "" } else { "\n" };
    help.push_str(&format!("{gap}{}", manual::DOCUMENTATION));
    let inner: Vec<String> = command
        .get_subcommands()
        .map(|inner| inner.get_name().to_owned())
        .collect();
    inner.into_iter().fold(command.after_help(help), |command, name| {
        let path = format!("{path} {name}");
        command.mut_subcommand(name, |inner| with_examples(inner, path.trim_start()))
    })
}
