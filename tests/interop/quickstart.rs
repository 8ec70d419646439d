//! The lines that the quick start prints, run as printed.

use std::process::Command;
use std::time::Duration;

use crate::tool::start;

/// In a network of its own, because the quick start has fixed ports; without the right to make one, on this machine's loopback.
#[test]
fn the_printed_lines_work_as_printed() {
    let home = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/quickstart.sh");
    let mut command = Command::new("bash");
    command
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_portcullis"))
        .env("HOME", home.path())
        .env_remove("XDG_STATE_HOME")
        .env_remove("PORTCULLIS_STATE_DIR");
    let done = start(command, b"").wait(Duration::from_secs(300));
    assert_eq!(done.code, Some(0), "{}\n{}", done.text(), done.stderr);
    assert!(done.text().contains("12 lines worked"), "{}", done.text());
}
