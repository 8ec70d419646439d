//! Where the tokens of the management interface are kept: `admin.token_file`, else in the state directory.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Config;
use super::atomic::{self, DirectoryLock};
use super::secrets::read_secret;
use super::tokens::{self, Role, Token};

/// The token of the first start, in the clear, within the state directory.
pub const FIRST: &str = "admin.token";

/// Named tokens, within the state directory.
const NAMED: &str = "tokens";

/// The file of named tokens.
#[must_use]
pub fn named_file(config: &Config) -> PathBuf {
    let own = config.admin.token_file.clone();
    own.unwrap_or_else(|| config.node.state_dir.join(NAMED))
}

/// The file with the token of the first start; there is none where `admin.token_file` says who may come in.
#[must_use]
pub fn first_file(config: &Config) -> Option<PathBuf> {
    let own = config.admin.token_file.is_some();
    (!own).then(|| config.node.state_dir.join(FIRST))
}

/// Sees to it that there is a way in before the first request: the token of the first start is made where there is none, and
/// taken away where `admin.token_file` is given. The state directory must be there.
///
/// # Errors
/// What the system refused.
pub fn prepare(config: &Config) -> Result<(), String> {
    let Some(path) = first_file(config) else {
        let left = config.node.state_dir.join(FIRST);
        return match std::fs::remove_file(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{} cannot be removed: {error}", left.display()))
            }
            _ => Ok(()),
        };
    };
    make_first(&path, false)
}

/// Makes another token of the first start; the one before counts until the configuration is read again.
///
/// # Errors
/// What the system refused; then the old one stays.
pub fn renew_first(config: &Config) -> Result<(), String> {
    first_file(config).map_or(Ok(()), |path| make_first(&path, true))
}

fn make_first(path: &Path, again: bool) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("{} cannot be made: {why}", path.display());
    let lock = DirectoryLock::of(path).map_err(|error| failed(&error))?;
    if path.exists() && !again {
        return Ok(());
    }
    let token = tokens::generate().map_err(|error| failed(&error))?;
    let line = Zeroizing::new(format!("{}\n", token.as_str()));
    atomic::write(&lock, path, line.as_bytes(), atomic::SECRET).map_err(|error| failed(&error))
}

/// The token of the first start.
///
/// # Errors
/// It cannot be read; nothing where `admin.token_file` takes its place.
pub fn first(config: &Config) -> Result<Option<Zeroizing<String>>, String> {
    let Some(path) = first_file(config) else {
        return Ok(None);
    };
    let content = read_secret(&path).map_err(|error| error.to_string())?;
    let text = str::from_utf8(&content).unwrap_or_default().trim();
    if text.len() < tokens::MIN_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{} is no token: remove it, and the next start makes another",
            path.display()
        ));
    }
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// The tokens in force. Those that stand in their file in the clear are hashed there, where the file can be written.
///
/// # Errors
/// Everything that is wrong with the files, without a word of what they hold.
pub fn load(config: &Config) -> Result<Vec<Token>, Vec<String>> {
    let mut all = Vec::new();
    if let Some(first) = prepare(config)
        .and_then(|()| first(config))
        .map_err(|error| vec![error])?
    {
        all.push(Token::new(FIRST, Role::Admin, &first, None));
    }
    let path = named_file(config);
    if config.admin.token_file.is_none() && !path.exists() {
        return Ok(all);
    }
    let shown = path.display();
    let content = read_secret(&path).map_err(|error| vec![error.to_string()])?;
    let parsed = tokens::parse(&content).map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("{shown}, {error}"))
            .collect::<Vec<_>>()
    })?;
    if parsed.rewritten.is_some() {
        // Read again under the lock, so that no change of another is lost. Where it cannot be written, as in a directory of
        // credentials, it stays as it is.
        drop(hash_clear_tokens(&path));
    }
    all.extend(parsed.all);
    Ok(all)
}

fn hash_clear_tokens(path: &Path) -> std::io::Result<()> {
    let lock = DirectoryLock::of(path)?;
    let content = read_secret(path).map_err(|error| std::io::Error::other(error.to_string()))?;
    match tokens::parse(&content).map(|parsed| parsed.rewritten) {
        Ok(Some(text)) => atomic::write(&lock, path, text.as_bytes(), atomic::SECRET),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_first_start_makes_a_token_and_a_later_one_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = testing::parse("").unwrap();
        config.node.state_dir = directory.path().to_owned();
        prepare(&config).unwrap();
        let token = first(&config).unwrap().unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(atomic::mode_of(&directory.path().join(FIRST), 0), 0o600);
        prepare(&config).unwrap();
        assert_eq!(first(&config).unwrap().unwrap(), token);
        let known = load(&config).unwrap();
        assert_eq!(known, [Token::new(FIRST, Role::Admin, &token, None)]);

        let named = directory.path().join("own");
        config.admin.token_file = Some(named.clone());
        let lock = DirectoryLock::of(&named).unwrap();
        atomic::write(&lock, &named, b"readonly:0123456789-abcdef\n", atomic::SECRET).unwrap();
        drop(lock);
        assert_eq!(load(&config).unwrap()[0].role, Role::ReadOnly);
        assert!(
            !directory.path().join(FIRST).exists(),
            "a token in the clear beside a file of hashes"
        );
        assert!(!std::fs::read_to_string(&named).unwrap().contains("0123456789"));
        assert_eq!(load(&config).unwrap()[0].name, "readonly-1");
    }
}
