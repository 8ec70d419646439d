//! Which file a command changes: one named on the command line, or the one that a configuration names.

use std::path::{Path, PathBuf};

use crate::config::access;
use crate::config::secrets::read_public;
use crate::config::{self, Config, DEFAULT_FILE, Listener, Login, PathBase};

use crate::policy::authorization::NoMatch;

use super::args::{PskFile, UsersFile};
use super::exit::{CONFIG, Failure, NO_INPUT, USAGE};
use super::{output, quickstart};

/// A file of keys, and the listener that uses it where one is known.
pub(super) struct PskTarget {
    pub(super) path: PathBuf,
    /// The listener that uses it, and the configuration that has that.
    pub(super) listener: Option<(Box<Config>, Listener)>,
    /// Whether it is the quick start's, whose directory may not be there yet.
    pub(super) quick_start: bool,
}

/// The file of keys that the arguments mean: named, of the configuration named, of the installed configuration, or of the
/// quick start.
pub(super) fn psk_file(args: &PskFile) -> Result<PskTarget, Failure> {
    if let Some(path) = &args.psk_file {
        return Ok(PskTarget {
            path: path.clone(),
            listener: None,
            quick_start: false,
        });
    }
    let config = match (args.config.as_deref(), installed()) {
        (Some(file), _) | (None, Some(file)) => read_config(file)?,
        (None, None) => quickstart::config(&quickstart::state_dir()?)?,
    };
    let quick_start = config.source.is_none();
    let target = of_listeners(&config, args.listener.as_deref())?;
    Ok(PskTarget {
        quick_start,
        ..target
    })
}

/// All files of keys that the arguments may mean, each once.
pub(super) fn psk_files(args: &PskFile) -> Result<Vec<PathBuf>, Failure> {
    if args.psk_file.is_some() || args.listener.is_some() {
        return Ok(vec![psk_file(args)?.path]);
    }
    let config = match (args.config.as_deref(), installed()) {
        (Some(file), _) | (None, Some(file)) => read_config(file)?,
        (None, None) => quickstart::config(&quickstart::state_dir()?)?,
    };
    let files = config
        .listeners
        .iter()
        .filter_map(|listener| listener.dtls.as_ref()?.handshake.psk_file.clone());
    let mut all: Vec<PathBuf> = Vec::new();
    for file in files {
        if !all.contains(&file) {
            all.push(file);
        }
    }
    if all.is_empty() {
        return Err(Failure::new(CONFIG, "no DTLS listener has a psk_file"));
    }
    Ok(all)
}

fn of_listeners(config: &Config, name: Option<&str>) -> Result<PskTarget, Failure> {
    let mut targets = config
        .listeners
        .iter()
        .filter(|listener| name.is_none_or(|name| listener.name == name))
        .filter_map(|listener| {
            let path = listener.dtls.as_ref()?.handshake.psk_file.clone()?;
            Some(PskTarget {
                path,
                listener: Some((Box::new(config.clone()), listener.clone())),
                quick_start: false,
            })
        });
    let Some(first) = targets.next() else {
        let which = name.map(|name| format!(" called `{name}`")).unwrap_or_default();
        return Err(Failure::new(
            CONFIG,
            format!("no DTLS listener{which} has a psk_file"),
        ));
    };
    if targets.any(|other| other.path != first.path) {
        return Err(Failure::new(
            USAGE,
            "the DTLS listeners have different files of keys: say which with --listener NAME",
        ));
    }
    Ok(first)
}

/// The file of users that the arguments mean.
pub(super) fn users_file(args: &UsersFile) -> Result<PathBuf, Failure> {
    if let Some(path) = &args.users_file {
        return Ok(path.clone());
    }
    let file = match (args.config.as_deref(), installed()) {
        (Some(file), _) | (None, Some(file)) => file,
        (None, None) => {
            return Err(Failure::new(
                USAGE,
                format!("there is no {DEFAULT_FILE}: name a file with --config or --users-file"),
            ));
        }
    };
    of_logins(&read_config(file)?, args.listener.as_deref())
}

/// The users file of the listener called `name`; without a name the only one in use, or the one that `[authentication]` names
/// although another backend, or none yet, decides.
fn of_logins(config: &Config, name: Option<&str>) -> Result<PathBuf, Failure> {
    let common = || {
        config
            .authentication
            .file
            .clone()
            .ok_or_else(|| Failure::new(CONFIG, "authentication.file names no file"))
    };
    if let Some(name) = name {
        let mut files = Vec::new();
        for listener in config.listeners.iter().filter(|listener| listener.name == name) {
            files.push(match &listener.authentication {
                Login::Own(own) => own.file.clone().ok_or_else(|| {
                    let key = listener.key();
                    Failure::new(CONFIG, format!("{key}.authentication.file names no file"))
                })?,
                Login::Inherited | Login::Required | Login::Off => common()?,
            });
        }
        files.dedup();
        return match files.as_slice() {
            [file] => Ok(file.clone()),
            [] => Err(Failure::new(CONFIG, format!("no listener is called `{name}`"))),
            _ => Err(Failure::new(
                USAGE,
                format!(
                    "the listeners called `{name}` have different files of users: name one with --users-file"
                ),
            )),
        };
    }
    match config.users_files().as_slice() {
        [] => common(),
        [file] => Ok(file.to_path_buf()),
        _ => Err(Failure::new(
            USAGE,
            "the listeners have different files of users: say which with --listener NAME",
        )),
    }
}

/// The file of access rules that a configuration names, and what holds where none matches.
pub(super) fn acl_file(config: Option<&Path>) -> Result<(PathBuf, NoMatch), Failure> {
    let ((Some(file), _) | (None, Some(file))) = (config, installed()) else {
        let message = format!("there is no {DEFAULT_FILE}: name a file with --config or --acl-file");
        return Err(Failure::new(USAGE, message));
    };
    let authorization = read_config(file)?.authorization;
    let no_match = match authorization.no_match {
        access::NoMatch::Allow => NoMatch::Allow,
        access::NoMatch::Deny => NoMatch::Deny,
    };
    let path = authorization.acl_file.ok_or_else(|| {
        Failure::new(
            CONFIG,
            "authorization.acl_file names no file: everything is allowed",
        )
    })?;
    Ok((path, no_match))
}

pub(super) fn installed() -> Option<&'static Path> {
    let file = Path::new(DEFAULT_FILE);
    file.exists().then_some(file)
}

/// The configuration without the files that it names: this command may be about to make one of them.
pub(super) fn read_config(file: &Path) -> Result<Config, Failure> {
    let content = read_public(file).map_err(|error| Failure::new(NO_INPUT, error.to_string()))?;
    let text = String::from_utf8_lossy(&content);
    Ok(config::parse(&text, file, &PathBase::of_file(file))?)
}

/// The same for who looks for the running gateway: of a broken file, which that does not have in force, what leads there.
pub(super) fn read_leniently(file: &Path) -> Result<Config, Failure> {
    let failure = match read_config(file) {
        Ok(config) => return Ok(config),
        Err(failure) if failure.code == CONFIG => failure,
        Err(failure) => return Err(failure),
    };
    let text = read_public(file).map_err(|error| Failure::new(NO_INPUT, error.to_string()))?;
    let text = ways_of(&String::from_utf8_lossy(&text));
    let Ok(config) = config::parse(&text, file, &PathBase::of_file(file)) else {
        let hint = "the running gateway is reached by --url and --token-file all the same";
        return Err(Failure {
            message: format!("{}\n{hint}", failure.message),
            ..failure
        });
    };
    output::note(&failure.message);
    output::note(
        "portcullis: the file is broken, and the running gateway does not have it in force; going on",
    );
    Ok(config)
}

/// The lines of a file that say where its gateway is, each once.
fn ways_of(text: &str) -> String {
    let mut node: Vec<&str> = Vec::new();
    let mut admin: Vec<&str> = Vec::new();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let key_of = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let key = key_of(line);
        let (kept, wanted) = match section {
            "[node]" => (&mut node, key == "state_dir"),
            "[admin]" => {
                let ways = ["bind", "socket", "token_file", "cert_file", "key_file"];
                (&mut admin, ways.contains(&key.as_str()))
            }
            _ => continue,
        };
        if wanted && toml_line(line) && !kept.iter().any(|other| key_of(other) == key) {
            kept.push(line);
        }
    }
    format!("[node]\n{}\n[admin]\n{}\n", node.join("\n"), admin.join("\n"))
}

/// Whether a line is whole by itself.
fn toml_line(line: &str) -> bool {
    config::parse(line, Path::new(""), &PathBase::of_file(Path::new("")))
        .err()
        .is_none_or(|problems| problems.iter().all(|problem| !problem.key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_broken_file_the_way_to_its_gateway_is_left() {
        let text = "zzz = 1\n[node]\nname = 7\nstate_dir = \"s\"\n[coap]\nheartbeat = 8MiB\n[admin]\nbind = \"127.0.0.1:9\" # here\nyyy = [\n  socket = \"\n[node]\nstate_dir = \"t\"";
        assert_eq!(
            ways_of(text),
            "[node]\nstate_dir = \"s\"\n[admin]\nbind = \"127.0.0.1:9\" # here\n"
        );
    }
}
