//! What commands say: as much as helps, all at once, with the way out.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use openssl::x509::X509;

fn portcullis(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(directory)
        .env("PORTCULLIS_STATE_DIR", directory.join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What `check-config` says of a text, and how it ends.
fn checked(text: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("p.toml"), text).unwrap();
    let output = portcullis(directory.path(), &["check-config", "--config", "p.toml"]);
    (output.status.code(), said(&output))
}

#[test]
fn a_text_that_is_no_toml_hides_no_other_mistake() {
    let text = "[node]\nworkrs = 2\n[coap.blockwise]\nmax_body_size = 3MiB\nmax_block_size = 100\n[log]\nlevel = \"noisy\"\n\
                [metrics]\nbind = nowhere\n";
    let (code, said) = checked(text);
    assert_eq!(code, Some(78), "{said}");
    for place in [
        "line 2, column 1",
        "line 4, column ",
        "line 5, column 18",
        "line 7, column 9",
        "line 9, column ",
    ] {
        assert!(said.contains(place), "no {place}: {said}");
    }
    assert!(said.contains("did you mean `workers`"), "{said}");
    assert_eq!(said.matches(": error").count(), 5, "{said}");
    // What stands below the head of a table that is none belongs to nobody knows which.
    let (_, said) = checked("[node\nworkers = 2\nbind = 7\n");
    assert!(!said.contains("unknown key"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_told_with_the_command_that_makes_it() {
    let text = "[listeners.dtls.d]\nbind = \"127.0.0.1:0\"\npsk_file = \"k.txt\"\ncert_file = \"s.pem\"\nkey_file = \"s.key\"\n\
                ca_file = \"c.pem\"\nverify = \"optional\"\n[authentication]\nbackend = \"file\"\nfile = \"u.txt\"\n[admin]\ntoken_file = \"t.txt\"\n";
    let (code, said) = checked(text);
    assert_eq!(code, Some(78), "{said}");
    for command in ["psk add", "certs dev", "user add", "token add"] {
        assert!(
            said.contains(&format!("`portcullis {command}")),
            "no {command}: {said}"
        );
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_is_refused_before_a_start() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("taken"), "").unwrap();
    for state in [directory.path().join("taken/state"), "/proc/1/portcullis".into()] {
        let text = format!(
            "[node]\nstate_dir = {:?}\n[listeners.udp.d]\nbind = \"127.0.0.1:0\"\n",
            state.display().to_string()
        );
        let (code, said) = checked(&text);
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("line 2, column 13") && said.contains("node.state_dir"),
            "{said}"
        );
        std::fs::write(directory.path().join("p.toml"), text).unwrap();
        let told = self::said(&portcullis(directory.path(), &["doctor", "--config", "p.toml"]));
        assert!(told.contains("problem  state directory"), "{told}");
    }
}

#[test]
fn a_second_quick_start_says_who_runs_already() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    let first = UnixListener::bind(directory.path().join("state/admin.sock")).unwrap();
    let output = portcullis(directory.path(), &["run"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(
        text.contains("already runs here") && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    assert!(!text.contains("listeners.udp"), "{text}");
    drop(first);
}

#[test]
fn keys_of_several_files_are_listed_without_being_asked_which() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[listeners.dtls.a]\nbind = \"127.0.0.1:1\"\npsk_file = \"a.txt\"\n[listeners.dtls.b]\nbind = \"127.0.0.1:2\"\npsk_file = \"b.txt\"\n";
    std::fs::write(directory.path().join("p.toml"), text).unwrap();
    for (listener, identity) in [("a", "lamp-1"), ("b", "lamp-2")] {
        let arguments = [
            "psk",
            "add",
            identity,
            "--listener",
            listener,
            "--config",
            "p.toml",
        ];
        assert!(portcullis(directory.path(), &arguments).status.success());
    }
    let listed = said(&portcullis(
        directory.path(),
        &["psk", "list", "--config", "p.toml"],
    ));
    assert!(
        listed.contains("a.txt:\n  lamp-1\n") && listed.contains("b.txt:\n  lamp-2\n"),
        "{listed}"
    );
}

#[test]
fn a_name_that_a_certificate_has_already_is_not_in_it_twice() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "certs",
        "dev",
        "--dir",
        ".",
        "--host",
        "localhost",
        "--host",
        "gw-3",
        "--host",
        "gw-3",
    ];
    assert!(portcullis(directory.path(), &arguments).status.success());
    let pem = std::fs::read(directory.path().join("server.pem")).unwrap();
    let own = X509::from_pem(&pem).unwrap();
    let names = own.subject_alt_names().unwrap();
    let names: Vec<&str> = names.iter().filter_map(|name| name.dnsname()).collect();
    for wanted in ["localhost", "gw-3"] {
        assert_eq!(
            names.iter().filter(|name| **name == wanted).count(),
            1,
            "{names:?}"
        );
    }
}

#[test]
fn manual_pages_and_help_show_examples_and_where_the_documentation_is() {
    let directory = tempfile::tempdir().unwrap();
    assert!(
        portcullis(directory.path(), &["man", "--dir", "man"])
            .status
            .success()
    );
    let page = |name: &str| std::fs::read_to_string(directory.path().join("man").join(name)).unwrap();
    assert!(page("portcullis.toml.5").contains("max_half_open"));
    for name in [
        "portcullis-psk-add.1",
        "portcullis-migrate.1",
        "portcullis-bench.1",
    ] {
        let text = page(name);
        for section in [
            "EXAMPLES",
            "\"EXIT STATUS\"",
            "FILES",
            "ENVIRONMENT",
            "\"SEE ALSO\"",
        ] {
            assert!(
                text.contains(&format!(".SH {section}\n")),
                "{name} has no {section}"
            );
        }
    }
    for arguments in [
        &["--help"][..],
        &["trace", "--help"],
        &["clients", "kick", "--help"],
    ] {
        let help = said(&portcullis(directory.path(), arguments));
        assert!(
            help.contains("Examples:\n  portcullis ") && help.contains("/usr/share/doc/portcullis"),
            "{help}"
        );
    }
}

#[test]
fn a_script_sees_by_the_exit_status_what_the_access_rules_deny() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rules"), "user bea\ntopic write tank/+\n").unwrap();
    let check = |topic| {
        portcullis(
            directory.path(),
            &["acl", "check", "bea", "publish", topic, "--acl-file", "rules"],
        )
    };
    for (topic, status, word) in [("tank/4", 0, "allowed"), ("tank/4/level", 1, "denied")] {
        let output = check(topic);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}
