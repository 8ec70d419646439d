//! `token add`, `token remove`, `token list`.

use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use crate::config::quantity::parse_duration;
use crate::config::secrets::read_secret;
use crate::config::tokens::{self, Named, Role, Token};
use crate::config::{Config, token_store};
use crate::daemon::clock;

use super::args::TokenCommand;
use super::atomic::{DirectoryLock, write_secret};
use super::exit::{DATA_ERROR, Failure, NO_USER, USAGE};
use super::group::Sharing;
use super::output;
use super::psk::wrong_lines;
use super::quickstart::make_private;
use super::remote::http::configured;

/// What is to be done for a running gateway to heed a change.
const TAKEN: &str = "A running gateway takes it after `portcullis reload`.";

pub(super) fn run(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Add {
            name,
            role,
            expires,
            config,
            local,
        } => {
            let sharing = Sharing::begin(config.as_deref(), false, *local)?;
            add(name, role, expires.as_deref(), &configured(config.as_deref())?)?;
            sharing.end()
        }
        TokenCommand::Remove { name, config, local } => {
            let sharing = Sharing::begin(config.as_deref(), false, *local)?;
            remove(name, &configured(config.as_deref())?)?;
            sharing.end()
        }
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
            if life.is_zero() {
                return Err(Failure::new(USAGE, "--expires: the token would never be good"));
            }
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
    let named = read(&path)?;
    if name == token_store::FIRST || named.contains(name) {
        return Err(wrong(format!(
            "a token `{name}` is there already: remove it first"
        )));
    }
    let secret = tokens::generate()?;
    let token = Token::new(name, role, &secret, until);
    write_secret(&lock, &path, named.with(&token).as_bytes())?;
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
    let named = read(&path)?;
    if !named.contains(name) {
        return Err(missing());
    }
    write_secret(&lock, &path, named.without(name).as_bytes())?;
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
    let named = read(&path)?;
    all.extend(named.all.into_iter().map(|token| (token, path.clone())));
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

/// The tokens of a file; none where there is no file.
fn read(path: &Path) -> Result<Named, Failure> {
    let content = if path.exists() {
        read_secret(path)?
    } else {
        Zeroizing::default()
    };
    Named::read(&content).map_err(|errors| wrong_lines(path, &errors))
}
