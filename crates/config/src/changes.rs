//! What a file that leaves a key out says has changed since a former version: told with the line to write, until this version has
//! served from the state directory once.

use std::path::Path;

use super::access::{Authentication, Backend, Login};
use super::document::Document;
use super::problem::Severity;
use super::{Config, secrets};

/// The version that served from a state directory last, within that directory. Versions before this file was kept did not write it.
pub const VERSION_FILE: &str = "version";

/// What versions that wrote no [`VERSION_FILE`] leave in a state directory.
const FORMER: [&str; 3] = ["tickets.key", "retained.redb", "spool"];

/// Whether a version that did not write [`VERSION_FILE`] served from this directory last.
fn is_of_former(state_dir: &Path) -> bool {
    let has = |name: &&str| state_dir.join(name).exists();
    FORMER.iter().any(has) && !has(&VERSION_FILE)
}

/// Notes what will be otherwise than it was before the upgrade.
pub(super) fn check(config: &Config, doc: &mut Document<'_>) {
    if !is_of_former(&config.node.state_dir) {
        return;
    }
    for (key, message) in defaults(config) {
        if !doc.has(&key) {
            note(&key, &message, doc);
        }
    }
    if config.admin.bind.is_some() && config.admin.token_file.is_none() {
        let message = "the HTTP API asks for a token on loopback too, and the next start makes one, admin.token in the state directory; \
            write `token_file = \"tokens\"` in [admin] for tokens of `portcullis token add` alone";
        note("admin.token_file", message, doc);
    }
    if !tells_of_events(config) {
        let message = "devices read and observe `$portcullis/#` only where it says so; write `topic read $portcullis/#` into it to let \
            them";
        note("authorization.acl_file", message, doc);
    }
}

fn note(key: &str, message: &str, doc: &mut Document<'_>) {
    let message = format!("changed since the version that served here: {message}");
    doc.complain_as(Severity::Note, &[key], message);
}

/// What holds where a key is left out, if it held something else before.
fn defaults(config: &Config) -> Vec<(String, String)> {
    let mut changed = vec![
        (
            "limits.topic_levels".to_owned(),
            "topics and filters have 32 levels at most; write `topic_levels = 0` in [limits] to have as many as before".to_owned(),
        ),
        (
            "limits.topic_bytes".to_owned(),
            "topics and filters have 1024 bytes at most; write `topic_bytes = 0` in [limits] to have as long ones as before".to_owned(),
        ),
    ];
    if config.listeners.iter().any(|listener| listener.dtls.is_some()) {
        changed.push((
            "limits.per_identity.sessions".to_owned(),
            "one identity has 1000 sessions at most, whose most idle one gives way to the next; write \
             `per_identity = { sessions = 100000 }` in [limits] where more devices share a key"
                .to_owned(),
        ));
    }
    let tokens = logins(config)
        .into_iter()
        .filter(|(_, login)| login.backend == Backend::Jwt);
    changed.extend(tokens.map(|(key, _)| {
        (
            format!("{key}.jwt.require_exp"),
            format!("a token without `exp` is refused; write `require_exp = false` in [{key}.jwt] to take it as before"),
        )
    }));
    changed
}

/// Who decides about logins, and the tables that say so.
fn logins(config: &Config) -> Vec<(String, &Authentication)> {
    let own = config
        .listeners
        .iter()
        .filter_map(|listener| match &listener.authentication {
            Login::Own(own) => Some((format!("{}.authentication", listener.key()), own.as_ref())),
            Login::Inherited | Login::Required | Login::Off => None,
        });
    std::iter::once(("authentication".to_owned(), &config.authentication))
        .chain(own)
        .collect()
}

/// Whether the ACL has a word about what the gateway tells of its clients.
fn tells_of_events(config: &Config) -> bool {
    let acl = config.authorization.acl_file.as_deref();
    let text = acl.and_then(|file| secrets::read_public(file).ok());
    text.is_some_and(|text| String::from_utf8_lossy(&text).contains("$portcullis"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::load_from;

    #[test]
    fn an_upgrade_says_once_what_changed_and_the_line_that_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let file = path("portcullis.toml");
        fs::write(path("jwt.key"), "0123456789abcdef0123456789abcdef").unwrap();
        let notes = |more: &str| {
            let text = format!(
                "[node]\nstate_dir = \"state\"\n[listeners.udp.x]\nbind = \"127.0.0.1:0\"\n[authentication]\nbackend = \"jwt\"\n\
                 [authentication.jwt]\nkey_file = \"jwt.key\"\n{more}"
            );
            let loaded = load_from(&text, &file).unwrap_or_else(|problems| panic!("{problems}"));
            assert!(loaded.warnings.only_notes());
            loaded
                .warnings
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path("jwt.key"), fs::Permissions::from_mode(0o600)).unwrap();
        // Nothing served here before.
        assert!(notes("").is_empty());
        fs::create_dir(path("state")).unwrap();
        fs::write(path("state/tickets.key"), "").unwrap();
        let told = notes("");
        for line in [
            "topic_levels = 0",
            "topic_bytes = 0",
            "require_exp = false",
            "token_file = ",
            "topic read $portcullis/#",
        ] {
            assert!(told.iter().any(|note| note.contains(line)), "{line} in {told:?}");
        }
        // Without a DTLS listener nobody shares a key.
        assert!(!told.iter().any(|note| note.contains("per_identity")));
        fs::write(path("acl.txt"), "topic readwrite #\ntopic read $portcullis/#\n").unwrap();
        let written = "require_exp = false\n[limits]\ntopic_levels = 0\ntopic_bytes = 1024\n[admin]\nbind = \"\"\n\
            [authorization]\nacl_file = \"acl.txt\"\n";
        assert_eq!(notes(written), Vec::<String>::new());
        fs::write(path("state").join(super::VERSION_FILE), "0.1.0\n").unwrap();
        assert!(notes("").is_empty());
    }
}
