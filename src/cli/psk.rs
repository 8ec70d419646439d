//! `psk add`, `psk remove`, `psk list`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use crate::config::named_lines::{self, NamedLines};
use crate::config::psk_file;
use crate::config::secrets::read_secret;
use crate::config::trial;
use crate::policy::attributes::Attributes;
use crate::types::LineError;

use super::args::{PskCommand, PskFile};
use super::atomic::{DirectoryLock, write_secret};
use super::exit::{DATA_ERROR, Failure, NO_INPUT, NO_USER};
use super::group::Sharing;
use super::remote::table::printable;
use super::target::{self, PskTarget};
use super::{import, output, quickstart};

/// Keys shorter than this are warned of: 128 bits.
const WEAK_KEY: usize = 16;

pub(super) fn run(command: &PskCommand) -> Result<(), Failure> {
    let file = match command {
        PskCommand::Add { file, .. }
        | PskCommand::Attributes { file, .. }
        | PskCommand::Import { file, .. }
        | PskCommand::Remove { file, .. } => file,
        PskCommand::List { json, file } => return list(*json, file),
    };
    let sharing = Sharing::begin(file.config.as_deref(), file.psk_file.is_some(), file.local)?;
    change(command)?;
    sharing.end()
}

fn change(command: &PskCommand) -> Result<(), Failure> {
    match command {
        PskCommand::Add {
            identity,
            key_stdin,
            replace,
            another,
            attributes,
            file,
        } => {
            let beside = match (replace, another) {
                (true, _) => Beside::Replaces,
                (_, true) => Beside::Another,
                _ => Beside::First,
            };
            let attributes = attributes.as_deref().map(read_object).transpose()?;
            add(identity, *key_stdin, beside, attributes.as_ref(), file)
        }
        PskCommand::Attributes {
            identity,
            attributes,
            file,
        } => describe(identity, &read_object(attributes)?, file),
        PskCommand::Import { input, file } => import::keys(input, &target::psk_file(file)?.path),
        PskCommand::Remove {
            identity,
            older,
            file,
        } => remove(identity, *older, file),
        PskCommand::List { json, file } => list(*json, file),
    }
}

/// What a new key is to those that its identity has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// It must have none.
    First,
    /// It takes their place.
    Replaces,
    /// It counts beside the one that there is.
    Another,
}

fn read_object(text: &str) -> Result<Attributes, Failure> {
    let wrong = |why: String| Failure::new(DATA_ERROR, format!("attributes: {why}"));
    let object = serde_json::from_str(text)
        .map_err(|_| wrong("this is no JSON object, such as {\"site\": \"north\"}".to_owned()))?;
    Attributes::from_json(&object).map_err(wrong)
}

fn describe(identity: &str, attributes: &Attributes, file: &PskFile) -> Result<(), Failure> {
    let path = target::psk_file(file)?.path;
    let lock = DirectoryLock::of(&path)?;
    let lines = read(&path)?;
    if !lines.contains(identity) {
        return Err(no_identity(&path, identity));
    }
    let text = psk_file::described(&lines, identity, attributes);
    write_secret(&lock, &path, text.as_bytes())?;
    output::print(&format!(
        "{}: attributes of `{identity}` written.\n",
        path.display()
    ))
}

fn no_identity(path: &Path, identity: &str) -> Failure {
    Failure::new(
        NO_USER,
        format!("{} has no identity `{identity}`", path.display()),
    )
}

fn add(
    identity: &str,
    key_stdin: bool,
    beside: Beside,
    attributes: Option<&Attributes>,
    file: &PskFile,
) -> Result<(), Failure> {
    named_lines::check_name(identity, &psk_file::FORM)
        .map_err(|message| Failure::new(DATA_ERROR, message))?;
    let target = target::psk_file(file)?;
    let (hex, text) = if key_stdin {
        (read_key()?, None)
    } else {
        let text = psk_file::generate()?;
        (Zeroizing::new(hex::encode(&*text)), Some(text))
    };
    if target.quick_start {
        quickstart::make_private(&quickstart::state_dir()?)?;
    }
    let lock = DirectoryLock::of(&target.path)?;
    let lines = read_or_empty(&target.path)?;
    let refused = |why: String| Failure::new(DATA_ERROR, why);
    let text_of_file = match beside {
        Beside::First if lines.contains(identity) => {
            return Err(refused(format!(
                "`{identity}` has a key already; --replace gives it a new one, --another a second one"
            )));
        }
        Beside::First | Beside::Replaces => psk_file::with(&lines, identity, &hex, attributes),
        Beside::Another => psk_file::with_another(&lines, identity, &hex, attributes).map_err(refused)?,
    };
    write_secret(&lock, &target.path, text_of_file.as_bytes())?;
    output::print(&how_to_try(
        identity,
        &hex,
        text.as_deref().map(String::as_str),
        &target,
    ))
}

fn how_to_try(identity: &str, hex: &str, text: Option<&str>, target: &PskTarget) -> Zeroizing<String> {
    let mut said = Zeroizing::new(format!(
        "{}: key of `{identity}` written.\n",
        target.path.display()
    ));
    if target.listener.is_some() {
        said.push_str("A running gateway takes it after `portcullis reload`.\n");
    }
    // A key that was sent in is not shown, in a line to try it neither.
    let Some(key) = text else { return said };
    said.push_str(&format!("key as text: {key}\nkey in hexadecimal: {hex}\n"));
    let Some((config, listener)) = &target.listener else {
        return said;
    };
    match trial::of_key(config, listener, identity, key) {
        Ok(lines) => {
            said.push_str("To try it, observe in one terminal and publish in another:\n");
            lines
                .iter()
                .for_each(|line| said.push_str(&format!("  {line}\n")));
        }
        Err(why) => said.push_str(&format!("{why}\n")),
    }
    said
}

fn remove(identity: &str, older: bool, file: &PskFile) -> Result<(), Failure> {
    let path = target::psk_file(file)?.path;
    let lock = DirectoryLock::of(&path)?;
    let lines = read(&path)?;
    if !lines.contains(identity) {
        return Err(no_identity(&path, identity));
    }
    if older && lines.secrets(identity).len() < 2 {
        return Err(Failure::new(
            DATA_ERROR,
            format!("`{identity}` has one key only: without --older it is removed"),
        ));
    }
    let (left, what) = if older {
        (lines.without_older(identity), "older key")
    } else {
        (lines.without(identity), "key")
    };
    write_secret(&lock, &path, left.as_bytes())?;
    output::print(&format!("{}: {what} of `{identity}` removed.\n", path.display()))
}

fn list(as_json: bool, file: &PskFile) -> Result<(), Failure> {
    let paths = target::psk_files(file)?;
    let is_one = paths.len() == 1;
    let mut all = Vec::new();
    let mut text = String::new();
    for path in &paths {
        let lines = read(path)?;
        if !is_one {
            text.push_str(&format!("{}:\n", path.display()));
        }
        for (identity, secrets) in lines.all() {
            let (keys, attributes) = (secrets.len(), psk_file::attributes(&secrets));
            let mut entry = serde_json::Map::new();
            entry.insert("identity".to_owned(), json!(identity));
            entry.insert("keys".to_owned(), json!(keys));
            if !attributes.is_empty() {
                let known: BTreeMap<_, _> = attributes.iter().collect();
                entry.insert("attributes".to_owned(), json!(known));
            }
            if !is_one {
                entry.insert("file".to_owned(), json!(path));
            }
            all.push(entry);
            let indent = if is_one { "" } else { "  " };
            let mut more = String::new();
            if keys > 1 {
                more.push_str(&format!("  ({keys} keys)"));
            }
            for (name, value) in attributes.iter() {
                more.push_str(&format!("  {name}={}", printable(value)));
            }
            text.push_str(&format!("{indent}{}{more}\n", printable(identity)));
        }
    }
    if as_json {
        return output::json(&json!(all));
    }
    output::print(&text)
}

fn read(path: &Path) -> Result<NamedLines, Failure> {
    psk_file::parse(&read_secret(path)?).map_err(|errors| wrong_lines(path, &errors))
}

/// The file, or no lines when there is none yet.
pub(super) fn read_or_empty(path: &Path) -> Result<NamedLines, Failure> {
    if path.exists() {
        read(path)
    } else {
        psk_file::parse(b"").map_err(|errors| wrong_lines(path, &errors))
    }
}

pub(super) fn wrong_lines(path: &Path, errors: &[LineError]) -> Failure {
    let lines: Vec<String> = errors
        .iter()
        .map(|error| format!("{}, {error}", path.display()))
        .collect();
    Failure::new(DATA_ERROR, lines.join("\n"))
}

/// The key on standard input, in hexadecimal digits. It never stands in an argument, where every user of the machine sees it.
fn read_key() -> Result<Zeroizing<String>, Failure> {
    let mut input = Zeroizing::new(String::with_capacity(4096));
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut input)
        .map_err(|error| {
            Failure::new(
                NO_INPUT,
                format!("cannot read the key from standard input: {error}"),
            )
        })?;
    let hex = Zeroizing::new(input.trim().to_ascii_lowercase());
    psk_file::check_key(&hex).map_err(|message| Failure::new(DATA_ERROR, message))?;
    if hex.len() / 2 < WEAK_KEY {
        output::note(&format!(
            "portcullis: warning: the key has only {} bytes; {WEAK_KEY} or more are advised",
            hex.len() / 2
        ));
    }
    Ok(hex)
}

/// What the hexadecimal digits of a key spell, when that is printable ASCII that a command line can carry.
pub(super) fn as_text(hex: &str) -> Option<Zeroizing<String>> {
    let mut key = Zeroizing::new(vec![0; hex.len() / 2]);
    hex::decode_to_slice(hex, &mut key).ok()?;
    key.iter()
        .all(u8::is_ascii_graphic)
        .then(|| Zeroizing::new(key.iter().copied().map(char::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_and_text_are_the_same_key() {
        assert_eq!(hex::encode("Az09"), "417a3039");
        assert_eq!(as_text("417a3039").unwrap().as_str(), "Az09");
        assert!(as_text("00ff").is_none());
        assert!(as_text("4").is_none());
    }
}
