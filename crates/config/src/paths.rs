//! What a relative path of the configuration is relative to.

use std::path::{Path, PathBuf};

/// How a file of the credentials directory is named explicitly.
const CREDENTIALS_PREFIXES: [&str; 2] = ["$CREDENTIALS_DIRECTORY/", "${CREDENTIALS_DIRECTORY}/"];

/// The directories that relative paths are looked for in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathBase {
    /// The directory of the configuration file; empty is the current one.
    pub directory: PathBuf,
    /// `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential=), if set.
    pub credentials: Option<PathBuf>,
}

impl PathBase {
    /// The base for a configuration file, with the process's `$CREDENTIALS_DIRECTORY`.
    #[must_use]
    pub fn of_file(file: &Path) -> Self {
        Self {
            directory: file.parent().map(Path::to_owned).unwrap_or_default(),
            credentials: credentials_directory(),
        }
    }

    /// Where `path` is. A relative path that names a credential is that credential, else it is beside the configuration file.
    ///
    /// # Errors
    /// When it names the credentials directory and there is none.
    pub fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        if let Some(name) = CREDENTIALS_PREFIXES
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix))
        {
            return match &self.credentials {
                Some(directory) => Ok(directory.join(name)),
                None => Err("$CREDENTIALS_DIRECTORY is not set: the service manager sets it when the unit has LoadCredential="
                    .to_owned()),
            };
        }
        if Path::new(path).is_relative()
            && let Some(credential) = self.credentials.as_ref().map(|directory| directory.join(path))
            && credential.exists()
        {
            return Ok(credential);
        }
        Ok(self.directory.join(path))
    }
}

/// `$CREDENTIALS_DIRECTORY`, when it is set to something.
#[must_use]
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_comes_before_a_file_beside_the_configuration() {
        let credentials = tempfile::tempdir().unwrap();
        std::fs::write(credentials.path().join("psk.txt"), "x").unwrap();
        let base = PathBase {
            directory: "/etc/portcullis".into(),
            credentials: Some(credentials.path().to_owned()),
        };
        assert_eq!(
            base.resolve("psk.txt").unwrap(),
            credentials.path().join("psk.txt")
        );
        assert_eq!(
            base.resolve("other.txt").unwrap(),
            Path::new("/etc/portcullis/other.txt")
        );
        assert_eq!(base.resolve("/abs/psk.txt").unwrap(), Path::new("/abs/psk.txt"));
        assert_eq!(
            base.resolve("${CREDENTIALS_DIRECTORY}/a").unwrap(),
            credentials.path().join("a")
        );
    }

    #[test]
    fn without_a_credentials_directory_naming_it_is_an_error() {
        let base = PathBase {
            directory: "/etc".into(),
            credentials: None,
        };
        assert!(base.resolve("$CREDENTIALS_DIRECTORY/x").is_err());
        assert_eq!(base.resolve("x").unwrap(), Path::new("/etc/x"));
    }
}
