//! What the tests of this folder share.

use std::path::Path;

use super::{Config, PathBase, Problems};

/// Reads a text as if it stood in `/etc/portcullis/portcullis.toml`, without the files that it names; what is compared is what it
/// says, not how it is written.
pub(super) fn parse(text: &str) -> Result<Config, Problems> {
    let base = PathBase {
        directory: "/etc/portcullis".into(),
        credentials: None,
    };
    let mut config = super::parse(text, Path::new("/etc/portcullis/portcullis.toml"), &base)?;
    config.text = "".into();
    Ok(config)
}
