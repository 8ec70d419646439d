//! The lines that come with a key that was just made, run as they are printed.

use std::process::Command;

use crate::support::{Config, Gateway, ports};
use crate::tool::run;

/// Runs a line in a shell; a publish says nothing when it succeeds.
fn publishes(line: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("timeout 20 {line}")]);
    let done = run(shell);
    assert!(
        done.code == Some(0) && done.stdout.is_empty() && done.stderr.is_empty(),
        "{line}: {done:?}"
    );
}

#[test]
fn a_line_that_comes_with_a_new_key_works_as_printed_and_keeps_to_the_acl() {
    let admin = ports::reserve();
    let config = Config::new()
        .file("acl", "pattern readwrite site/%c/#\n")
        .set("authorization", "acl_file = \"acl\"")
        .set("admin", &format!("bind = \"127.0.0.1:{}\"", admin.number))
        .dtls("identity = \"clientid\"");
    let gateway = Gateway::start(config);
    let token = std::fs::read_to_string(gateway.path("state/admin.token")).unwrap();
    for identity in ["pump 9", "hex:ffc3"] {
        let mut add = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        add.args(["psk", "add", identity, "--config"])
            .arg(gateway.path("portcullis.toml"));
        let said = run(add).text();
        let mut lines = said.lines().map(str::trim);
        let publish = lines.find(|line| line.contains(" -m put ") && line.contains("/ps/site/"));
        assert!(gateway.reloaded());
        publishes(publish.unwrap_or_else(|| panic!("{said}")));

        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "-i",
            "-H",
            "content-type: application/json",
            "-H",
            &format!("authorization: Bearer {}", token.trim()),
            "-d",
            &format!(r#"{{"identity": "{identity}", "replace": true}}"#),
            &format!("http://127.0.0.1:{}/api/v1/psk", admin.number),
        ]);
        let said = run(curl).text();
        assert!(said.to_lowercase().contains("cache-control: no-store"), "{said}");
        let made: serde_json::Value = serde_json::from_str(said.split("\r\n\r\n").last().unwrap()).unwrap();
        publishes(made["try_lines"][1].as_str().unwrap());
    }
}
