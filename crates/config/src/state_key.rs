//! The key that seals kept state on disk: `state.key_file`, else in the state directory.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Config;
use super::atomic::{self, DirectoryLock};
use super::secrets::read_secret;

/// Its name within the state directory.
const FILE: &str = "state.key";

/// A key of AES-256.
pub type StateKey = Zeroizing<[u8; 32]>;

/// Where it is.
#[must_use]
pub fn file(config: &Config) -> PathBuf {
    let own = config.state.key_file.clone();
    own.unwrap_or_else(|| config.node.state_dir.join(FILE))
}

/// Makes it where there is none, unless `state.key_file` says where it is. The state directory must be there. One that is
/// damaged is set aside: what it seals is lost, and that is no reason not to serve.
///
/// # Errors
/// What the system refused.
pub fn prepare(config: &Config) -> Result<Option<Damaged>, String> {
    let path = file(config);
    let failed = |why: &dyn std::fmt::Display| format!("{} cannot be made: {why}", path.display());
    if config.state.key_file.is_some() {
        return Ok(None);
    }
    let lock = DirectoryLock::of(&path).map_err(|error| failed(&error))?;
    let damaged = damage(&path);
    if damaged.is_some() {
        std::fs::rename(&path, free(path.with_extension("key.damaged"))).map_err(|error| failed(&error))?;
    } else if path.exists() {
        return Ok(None);
    }
    let mut key = Zeroizing::new([0; 32]);
    openssl::rand::rand_bytes(key.as_mut()).map_err(|error| failed(&error))?;
    let line = Zeroizing::new(format!("{}\n", hex::encode(key.as_slice())));
    atomic::write(&lock, &path, line.as_bytes(), atomic::SECRET).map_err(|error| failed(&error))?;
    Ok(damaged)
}

/// `path` where nothing has that name, else with as many `+` as it takes.
fn free(path: PathBuf) -> PathBuf {
    let mut name = path.into_os_string();
    while Path::new(&name).symlink_metadata().is_ok() {
        name.push("+");
    }
    name.into()
}

/// What was wrong with a key of the gateway's own making, which is set aside as `state.key.damaged`.
pub type Damaged = &'static str;

/// Whether what stands at `path` is no key that a start made.
pub(super) fn damage(path: &Path) -> Option<Damaged> {
    path.symlink_metadata().ok()?;
    if !path.is_file() {
        return Some("it is no regular file");
    }
    // One that cannot be read may be whole.
    parse(&read_secret(path).ok()?).err()
}

/// The key in a file.
///
/// # Errors
/// It cannot be read, others can read it, or it is no key.
pub fn read(path: &Path) -> Result<StateKey, String> {
    let content = read_secret(path).map_err(|error| error.to_string())?;
    parse(&content).map_err(|why| format!("{}: {why}", path.display()))
}

/// The key in the content of a file.
pub(super) fn parse(content: &[u8]) -> Result<StateKey, &'static str> {
    let mut key = Zeroizing::new([0; 32]);
    match hex::decode_to_slice(content.trim_ascii(), key.as_mut()) {
        Ok(()) => Ok(key),
        Err(_) => Err("expected a key of 64 hexadecimal digits, as `openssl rand -hex 32` writes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(directory: &Path) -> crate::Loaded {
        let text = "[node]\nstate_dir = \".\"\n[listeners.udp.x]\nbind = \"127.0.0.1:0\"\n[state]\nkeep = \"disk\"\n";
        crate::load_from(text, &directory.join("portcullis.toml")).unwrap()
    }

    #[test]
    fn keys_of_our_own_that_are_damaged_are_set_aside_side_by_side_and_others_are_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let config = loaded(directory.path()).config;
        assert_eq!(prepare(&config), Ok(None));
        let first = read(&path).unwrap();
        assert_eq!(prepare(&config), Ok(None));
        assert_eq!(read(&path).unwrap(), first);
        let damages = [Vec::new(), hex::encode(&first[1..]).into_bytes(), vec![0xff; 65]];
        for damage in &damages {
            std::fs::write(&path, damage).unwrap();
            assert!(
                loaded(directory.path())
                    .warnings
                    .iter()
                    .any(|note| note.key == "state.key_file")
            );
            assert!(prepare(&config).unwrap().is_some());
            assert_ne!(read(&path).unwrap(), first);
        }
        for (name, damage) in ["key.damaged", "key.damaged+", "key.damaged++"]
            .iter()
            .zip(&damages)
        {
            assert_eq!(std::fs::read(path.with_extension(name)).unwrap(), *damage);
        }
    }

    #[test]
    fn a_directory_under_the_name_of_a_damaged_key_leaves_no_gateway_without_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let config = loaded(directory.path()).config;
        for name in ["key", "key.damaged"] {
            std::fs::create_dir(path.with_extension(name)).unwrap();
        }
        assert!(prepare(&config).unwrap().is_some());
        read(&path).unwrap();
        assert!(path.with_extension("key.damaged+").is_dir());
    }

    #[test]
    fn a_key_is_64_digits_and_a_line_end_at_most() {
        let digits = "00ff".repeat(16);
        for text in [digits.clone(), format!("{digits}\n"), digits.to_uppercase()] {
            assert_eq!(parse(text.as_bytes()).unwrap()[..2], [0, 0xff]);
        }
        for text in [
            "",
            &digits[1..],
            &format!("{digits}00"),
            &format!("{}zz", &digits[2..]),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
