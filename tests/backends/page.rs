//! What `docs/authentication.md` says, to be done as it stands there.

use std::path::Path;
use std::process::Command;

use super::support::{Config, Gateway};

/// The block with this after its fence.
pub fn block(info: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/authentication.md");
    let text = std::fs::read_to_string(path).unwrap();
    let start = format!("\n```{info}\n");
    let (_, rest) = text
        .split_once(&start)
        .unwrap_or_else(|| panic!("no block {info}"));
    rest.split("\n```").next().unwrap().to_owned() + "\n"
}

/// The configuration of a block, `there` for the address in it.
pub fn config(backend: &str, usual: &str, there: &str) -> Config {
    let text = block(&format!("toml {backend}"));
    assert!(text.contains(usual), "{text}");
    let (mut config, mut table) = (Config::new(), String::new());
    for line in text.replace(usual, there).lines() {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => table = name.to_owned(),
            None => config = config.set(&table, line),
        }
    }
    config
}

/// Tries the login of the page with the client that it names.
pub fn login_works(gateway: &Gateway) {
    says_nothing(&block("text login").replace("127.0.0.1:5683", &gateway.udp_addr().to_string()));
}

/// Tries the key of the page with the client that it names.
pub fn key_works(gateway: &Gateway) {
    says_nothing(&block("text psk-try").replace("127.0.0.1:5684", &gateway.dtls_addr().to_string()));
}

fn says_nothing(line: &str) {
    says_nothing_in(&std::env::temp_dir(), line);
}

/// Runs a line of the page where its files are; nothing is said where all is well.
pub fn says_nothing_in(directory: &Path, line: &str) {
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", line]).current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{line}: {said}"
    );
}
