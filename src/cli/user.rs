//! `user add`, `user remove`, `user list`.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use crate::auth::hash::StoredHash;
use crate::auth::users::hash_password;
use crate::config::named_lines::{self, NamedLines};
use crate::config::secrets::read_secret;
use crate::config::users_file;
use crate::policy::authentication::MAX_PASSWORD;
use crate::types::reason::Label as _;

use super::args::{UserCommand, UsersFile};
use super::atomic::{DirectoryLock, write_secret};
use super::exit::{DATA_ERROR, Failure, NO_INPUT, NO_USER, SOFTWARE};
use super::group::Sharing;
use super::psk::wrong_lines;
use super::remote::table::printable;
use super::{import, output, target};

pub(super) fn run(command: &UserCommand) -> Result<(), Failure> {
    let file = match command {
        UserCommand::Add { file, .. }
        | UserCommand::Import { file, .. }
        | UserCommand::Remove { file, .. } => file,
        UserCommand::List { json, file } => return list(*json, file),
    };
    let sharing = Sharing::begin(file.config.as_deref(), file.users_file.is_some(), file.local)?;
    change(command)?;
    sharing.end()
}

fn change(command: &UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, replace, file } => add(name, *replace, file),
        UserCommand::Import { input, hashes, file } => {
            import::users(input, hashes, &target::users_file(file)?)
        }
        UserCommand::Remove { name, file } => remove(name, file),
        UserCommand::List { json, file } => list(*json, file),
    }
}

fn add(name: &str, replace: bool, file: &UsersFile) -> Result<(), Failure> {
    named_lines::check_name(name, &users_file::FORM).map_err(|message| Failure::new(DATA_ERROR, message))?;
    let path = target::users_file(file)?;
    // Asked before the password, so that nobody types one in vain.
    refuse_present(&read_or_empty(&path)?, name, replace)?;
    let password = read_password(name)?;
    let hash = hash_password(password.as_bytes()).map_err(|message| Failure::new(SOFTWARE, message))?;
    let lock = DirectoryLock::of(&path)?;
    let lines = read_or_empty(&path)?;
    refuse_present(&lines, name, replace)?;
    write_secret(&lock, &path, lines.with(name, &hash).as_bytes())?;
    output::print(&format!(
        "{}: password of `{name}` written. A running gateway takes it after `portcullis reload`.\n",
        path.display()
    ))
}

fn refuse_present(lines: &NamedLines, name: &str, replace: bool) -> Result<(), Failure> {
    if lines.contains(name) && !replace {
        return Err(Failure::new(
            DATA_ERROR,
            format!("user `{name}` is there already; --replace gives a new password"),
        ));
    }
    Ok(())
}

fn remove(name: &str, file: &UsersFile) -> Result<(), Failure> {
    let path = target::users_file(file)?;
    let lock = DirectoryLock::of(&path)?;
    let lines = read(&path)?;
    if !lines.contains(name) {
        return Err(Failure::new(
            NO_USER,
            format!("{} has no user `{name}`", path.display()),
        ));
    }
    write_secret(&lock, &path, lines.without(name).as_bytes())?;
    output::print(&format!("{}: user `{name}` removed.\n", path.display()))
}

fn list(as_json: bool, file: &UsersFile) -> Result<(), Failure> {
    let lines = read(&target::users_file(file)?)?;
    let users: Vec<(&str, StoredHash)> = lines
        .names()
        .filter_map(|name| Some((name, StoredHash::parse(&lines.secret(name)?).ok()?)))
        .collect();
    if as_json {
        let user = |(name, hash): &(&str, StoredHash)| json!({ "user": name, "scheme": hash.scheme().label(), "weakness": hash.weakness() });
        return output::json(&users.iter().map(user).collect());
    }
    let width = users
        .iter()
        .map(|(name, _)| printable(name).chars().count())
        .max()
        .unwrap_or_default();
    let line = |(name, hash): &(&str, StoredHash)| {
        let weak = hash
            .weakness()
            .map(|why| format!("  weak: {why}"))
            .unwrap_or_default();
        format!("{:width$}  {}{weak}\n", printable(name), hash.scheme().label())
    };
    output::print(&users.iter().map(line).collect::<String>())
}

fn read(path: &Path) -> Result<NamedLines, Failure> {
    users_file::parse(&read_secret(path)?).map_err(|errors| wrong_lines(path, &errors))
}

fn read_or_empty(path: &Path) -> Result<NamedLines, Failure> {
    if path.exists() {
        read(path)
    } else {
        users_file::parse(b"").map_err(|errors| wrong_lines(path, &errors))
    }
}

/// The password: asked for twice at a terminal, else the first line of standard input. Never an argument, where every user of the
/// machine sees it.
fn read_password(name: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: std::io::Error| Failure::new(NO_INPUT, format!("cannot read the password: {error}"));
    let password = if std::io::stdin().is_terminal() {
        let first =
            Zeroizing::new(rpassword::prompt_password(format!("Password of {name}: ")).map_err(failed)?);
        let second = Zeroizing::new(rpassword::prompt_password("Again: ").map_err(failed)?);
        if first != second {
            return Err(Failure::new(DATA_ERROR, "the two passwords differ"));
        }
        first
    } else {
        let mut input = Zeroizing::new(String::with_capacity(MAX_PASSWORD + 2));
        std::io::stdin()
            .take(MAX_PASSWORD as u64 + 2)
            .read_to_string(&mut input)
            .map_err(failed)?;
        Zeroizing::new(input.lines().next().unwrap_or_default().to_owned())
    };
    if password.is_empty() {
        return Err(Failure::new(DATA_ERROR, "the password is empty"));
    }
    if password.len() > MAX_PASSWORD {
        return Err(Failure::new(
            DATA_ERROR,
            format!("the password is longer than {MAX_PASSWORD} bytes"),
        ));
    }
    Ok(password)
}
