//! `token add`, `token remove`, `token list`.

use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use crate::config::quantity::parse_duration;
use crate::config::secrets::read_secret;
use crate::config::tokens::{self, Role, Token};
use crate::config::{Config, token_store};
use crate::daemon::clock;

use super::args::TokenCommand;
use super::atomic::{DirectoryLock, write_secret};
use super::exit::{DATA_ERROR, Failure, NO_USER, SOFTWARE, USAGE};
use super::output;
use super::psk::wrong_lines;
use super::quickstart::make_private;
use super::remote::http::configured;

/// What is to be done for a running gateway to heed a change.
const TAKEN: &str = "A running gateway takes it after a reload.";

pub(super) fn run(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Add {
            name,
            role,
            expires,
            config,
        } => add(name, role, expires.as_deref(), &configured(config.as_deref())?),
        TokenCommand::Remove { name, config } => remove(name, &configured(config.as_deref())?),
        TokenCommand::List { json, config } => list(*json, &configured(config.as_deref())?),
    }
}

fn add(name: &str, role: &str, expires: Option<&str>, config: &Config) -> Result<(), Failure> {
    let wrong = |message| Failure::new(DATA_ERROR, message);
    tokens::check_name(name).map_err(wrong)?;
    let role = Role::from_word(role).ok_or_else(|| Failure::new(USAGE, "the role is admin or readonly"))?;
    let until = expires
        .map(|text| {
            let life =
                parse_duration(text).map_err(|why| Failure::new(USAGE, format!("--expires: {why}")))?;
            clock::wall()
                .checked_add(life)
                .ok_or_else(|| Failure::new(USAGE, "--expires: this is too long a time"))
        })
        .transpose()?;
    let path = token_store::named_file(config);
    if config.admin.token_file.is_none() {
        make_private(&config.node.state_dir)?;
    }
    let lock = DirectoryLock::of(&path)?;
    let (text, all) = read(&path)?;
    if name == token_store::FIRST || all.iter().any(|token| token.name == name) {
        return Err(wrong(format!(
            "a token `{name}` is there already: remove it first"
        )));
    }
    let secret = tokens::generate()?;
    let token = Token::new(name, role, &secret, until);
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let text = Zeroizing::new(format!("{}{gap}{}\n", text.as_str(), token.line()));
    write_secret(&lock, &path, text.as_bytes())?;
    let said = format!(
        "{}: token `{name}` ({}) written. It is shown this once:\n{}\n{TAKEN}\n",
        path.display(),
        role.label(),
        secret.as_str()
    );
    output::print(&Zeroizing::new(said))
}

fn remove(name: &str, config: &Config) -> Result<(), Failure> {
    if let Some(first) = token_store::first_file(config)
        && name == token_store::FIRST
        && first.exists()
    {
        std::fs::remove_file(&first).map_err(|error| Failure::write(&first, &error))?;
        return output::print(&format!(
            "{} removed. The next start or reload makes another.\n",
            first.display()
        ));
    }
    let path = token_store::named_file(config);
    let missing = || Failure::new(NO_USER, format!("{} has no token `{name}`", path.display()));
    if !path.exists() {
        return Err(missing());
    }
    let lock = DirectoryLock::of(&path)?;
    let (text, all) = read(&path)?;
    if !all.iter().any(|token| token.name == name) {
        return Err(missing());
    }
    let is_it = |line: &&str| line.split_ascii_whitespace().next() == Some(name);
    let mut kept = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !is_it(line)) {
        kept.push_str(line);
        kept.push('\n');
    }
    write_secret(&lock, &path, kept.as_bytes())?;
    output::print(&format!("{}: token `{name}` removed. {TAKEN}\n", path.display()))
}

fn list(as_json: bool, config: &Config) -> Result<(), Failure> {
    let mut all = Vec::new();
    if let Some(first) = token_store::first_file(config).filter(|first| first.exists()) {
        let secret = token_store::first(config).map_err(|why| Failure::new(DATA_ERROR, why))?;
        let token = |secret: Zeroizing<String>| Token::new(token_store::FIRST, Role::Admin, &secret, None);
        all.extend(secret.map(token).map(|token| (token, first)));
    }
    let path = token_store::named_file(config);
    let named = read(&path)?.1;
    all.extend(named.into_iter().map(|token| (token, path.clone())));
    let now = clock::wall();
    let until = |token: &Token| {
        token
            .until
            .map(|until| humantime::format_rfc3339_seconds(until).to_string())
    };
    let is_over = |token: &Token| token.until.is_some_and(|until| until <= now);
    if as_json {
        let view = |(token, file): &(Token, std::path::PathBuf)| {
            json!({
                "name": token.name,
                "role": token.role.label(),
                "until": until(token),
                "expired": is_over(token),
                "file": file,
            })
        };
        return output::json(&all.iter().map(view).collect());
    }
    let width = all
        .iter()
        .map(|(token, _)| token.name.len())
        .max()
        .unwrap_or_default();
    let line = |(token, _): &(Token, std::path::PathBuf)| {
        let end = match until(token) {
            None => String::new(),
            Some(until) if is_over(token) => format!("  expired on {until}"),
            Some(until) => format!("  until {until}"),
        };
        format!("{:width$}  {:8}{end}\n", token.name, token.role.label())
    };
    output::print(&all.iter().map(line).collect::<String>())
}

/// The text of a file of tokens, with hashes in place of those in the clear, and its tokens; nothing where there is no file.
fn read(path: &Path) -> Result<(Zeroizing<String>, Vec<Token>), Failure> {
    if !path.exists() {
        return Ok((Zeroizing::default(), Vec::new()));
    }
    let content = read_secret(path)?;
    let parsed = tokens::parse(&content).map_err(|errors| wrong_lines(path, &errors))?;
    let text = match parsed.rewritten {
        Some(text) => text,
        None => Zeroizing::new(
            str::from_utf8(&content)
                .map_err(|_| Failure::new(SOFTWARE, "text that was read is none"))?
                .to_owned(),
        ),
    };
    Ok((text, parsed.all))
}
