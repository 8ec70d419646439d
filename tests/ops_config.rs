//! The commands that read and change configuration, keys, users and certificates, driven as an operator drives them.

#![expect(clippy::unwrap_used, reason = "what fails here is the test")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::symm::Cipher;
use openssl::x509::extension::AuthorityKeyIdentifier;
use openssl::x509::{CrlNumber, X509, X509Builder, X509CrlBuilder};

#[path = "support/certs.rs"]
mod certs;

use certs::{Recipe, authority};

/// A directory of its own, and commands run in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env_remove("CREDENTIALS_DIRECTORY")
            .env("PORTCULLIS_STATE_DIR", self.path("state"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses before it reads closes the pipe.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        Ran::from(child.wait_with_output().unwrap())
    }

    fn certificates(&self) {
        self.run(&["certs", "dev", "--dir", "."]).succeeded();
    }

    /// Checks a configuration of one DTLS listener.
    fn check_dtls(&self, keys: &str) -> Ran {
        self.write(
            "c.toml",
            &format!("[listeners.dtls.default]\nbind = \"127.0.0.1:0\"\n{keys}"),
        );
        self.run(&["check-config", "--config", "c.toml"])
    }
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    fn failed(self, code: i32, wanted: &[&str]) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for wanted in wanted {
            assert!(self.stderr.contains(wanted), "no `{wanted}` in: {}", self.stderr);
        }
        self.stderr
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn version_names_both_openssls() {
    let said = Place::new().run(&["--version"]).succeeded();
    assert!(
        said.starts_with(&format!("portcullis {}\n", env!("CARGO_PKG_VERSION"))),
        "{said}"
    );
    assert!(
        said.contains("built with 3.") || said.contains("built with 4."),
        "{said}"
    );
    assert!(
        said.contains(&format!("running with {}", openssl::version::version())),
        "{said}"
    );
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    let place = Place::new();
    place.run(&[]).failed(64, &["Usage"]);
    place.run(&["serve"]).failed(64, &["unrecognized subcommand"]);
    place.run(&["psk", "add"]).failed(64, &["<IDENTITY>"]);
    assert!(place.run(&["help", "psk"]).succeeded().contains("remove"));
}

#[test]
fn a_good_file_is_ok() {
    let place = Place::new();
    place.certificates();
    place
        .run(&["psk", "add", "a", "--psk-file", "psk.txt"])
        .succeeded();
    let said =
        place.check_dtls("psk_file = \"psk.txt\"\ncert_file = \"server.pem\"\nkey_file = \"server.key\"\n");
    assert_eq!(said.succeeded(), "c.toml: ok\n");
    // The same from elsewhere: paths are relative to the file.
    let file = place.path("c.toml");
    let said = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["check-config", "--config"])
        .arg(&file)
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(Ran::from(said).succeeded(), format!("{}: ok\n", file.display()));
}

#[test]
fn a_file_that_is_not_there_is_66() {
    let place = Place::new();
    place
        .run(&["check-config", "--config", "none.toml"])
        .failed(66, &["none.toml", "no such file"]);
    place
        .run(&["run", "--config", "none.toml"])
        .failed(66, &["no such file"]);
    place
        .run(&["check-config", "--config", "."])
        .failed(66, &["no regular file"]);
}

#[test]
fn a_configuration_that_is_no_text_is_wrong_at_a_place_like_any_other() {
    let place = Place::new();
    let text = b"[node]\nname = \"caf\xe9\"\n";
    fs::write(place.path("c.toml"), text).unwrap();
    for command in ["check-config", "run"] {
        place
            .run(&[command, "--config", "c.toml"])
            .failed(78, &["c.toml: error at line 2, column 12", "no UTF-8 text"]);
    }
}

#[test]
fn an_unknown_key_is_shown_where_it_stands() {
    let place = Place::new();
    place.write(
        "c.toml",
        "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n\n[coap]\n  heartbeet = \"30s\"\n",
    );
    let said = place.run(&["check-config", "--config", "c.toml"]).failed(78, &[]);
    assert_eq!(
        said,
        "c.toml: error at line 5, column 3\n\
         coap.heartbeet: unknown key `heartbeet` in [coap]; did you mean `heartbeat`?\n"
    );
}

#[test]
fn several_errors_are_said_at_once() {
    let place = Place::new();
    place.write(
        "c.toml",
        "[coap]\nheartbeat = 30\nnotify_typ = \"con\"\n[listeners.dtls.a]\nbind = \"127.0.0.1\"\npsk_file = \"none\"\n[log]\nlevel = \"loud\"\n",
    );
    let wanted = [
        "line 2, column 13",
        "line 3, column 1",
        "did you mean `notify_type`",
        "line 5, column 8",
        "line 6, column 12",
        "no such file",
        "line 8, column 9",
        "\"error\", \"warn\", \"info\", \"debug\", \"trace\"",
    ];
    let said = place
        .run(&["check-config", "--config", "c.toml"])
        .failed(78, &wanted);
    assert_eq!(said.matches(": error at line").count(), 5, "{said}");
    // A start says the same, and does not serve.
    assert_eq!(
        place.run(&["run", "--config", "c.toml"]).failed(78, &wanted),
        said
    );
}

#[test]
fn problems_as_json_name_key_and_place() {
    let place = Place::new();
    place.write(
        "c.toml",
        "[node]\nworkers = \"two\"\n[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n",
    );
    let ran = place.run(&["check-config", "--config", "c.toml", "--json"]);
    assert_eq!(ran.code, 78);
    let problems: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let problem = &problems[0];
    assert_eq!(
        (&problem["key"], &problem["line"], &problem["column"]),
        (&"node.workers".into(), &2.into(), &11.into())
    );
    place.write("c.toml", "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n");
    assert_eq!(
        place
            .run(&["check-config", "--config", "c.toml", "--json"])
            .succeeded(),
        "[]\n"
    );
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let place = Place::new();
    place.certificates();
    let psk = place.write("psk.txt", "a:00112233445566778899aabbccddeeff\n");
    for (file, keys) in [
        (&psk, "psk_file = \"psk.txt\"\n"),
        (
            &place.path("server.key"),
            "cert_file = \"server.pem\"\nkey_file = \"server.key\"\n",
        ),
    ] {
        place.check_dtls(keys).succeeded();
        for exposed in [0o640, 0o604, 0o666] {
            fs::set_permissions(file, fs::Permissions::from_mode(exposed)).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            place.check_dtls(keys).failed(
                78,
                &[&format!("chmod 600 {name}"), &format!("{exposed:04o}"), "_file: "],
            );
        }
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o644)).unwrap();
    place
        .run(&["psk", "list", "--psk-file", "psk.txt"])
        .failed(77, &["chmod 600"]);
}

#[test]
fn a_credential_of_the_service_manager_is_taken_as_it_is() {
    let place = Place::new();
    fs::create_dir(place.path("credentials")).unwrap();
    let psk = place.write("credentials/psk.txt", "a:00112233445566778899aabbccddeeff\n");
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o440)).unwrap();
    place
        .check_dtls("psk_file = \"psk.txt\"\n")
        .failed(78, &["no such file"]);
    for name in ["psk.txt", "${CREDENTIALS_DIRECTORY}/psk.txt"] {
        place.write(
            "c.toml",
            &format!("[listeners.dtls.a]\nbind = \"127.0.0.1:0\"\npsk_file = \"{name}\"\n"),
        );
        let output = place
            .command(&["check-config", "--config", "c.toml"])
            .env("CREDENTIALS_DIRECTORY", place.path("credentials"))
            .output()
            .unwrap();
        Ran::from(output).succeeded();
    }
}

#[test]
fn wrong_lines_of_a_psk_file_are_shown_with_their_numbers_and_without_their_keys() {
    let place = Place::new();
    place.write("psk.txt", "# devices\na:0011\nb=1122334455\na:0011\nc:44zz\n");
    let said = place.check_dtls("psk_file = \"psk.txt\"\n").failed(
        78,
        &[
            "line 3, column 12",
            "listeners.dtls.default.psk_file: psk.txt, line 3, column 1:",
            "psk.txt, line 4, column 1: the identity is already on line 2",
            "psk.txt, line 5, column 3:",
        ],
    );
    assert!(!said.contains("1122334455") && !said.contains("44zz"), "{said}");
}

#[test]
fn an_emptied_psk_file_and_keys_that_can_be_guessed_are_pointed_out() {
    for (content, said) in [
        ("# nobody\n", "note at line"),
        ("# nobody\n", "there is no key in it"),
        (
            "a:00ff\nb:000102030405060708090a0b0c0d0e0f\n",
            "keys under 16 bytes can be guessed: 1 of 2",
        ),
    ] {
        let place = Place::new();
        place.write("psk.txt", content);
        let ran = place.check_dtls("psk_file = \"psk.txt\"");
        let all = ran.stdout + &ran.stderr;
        assert!(ran.code == 0 && all.contains(said), "{all}");
    }
    let place = Place::new();
    place.write("psk.txt", "b:000102030405060708090a0b0c0d0e0f\n");
    let ran = place.check_dtls("psk_file = \"psk.txt\"");
    assert!(ran.code == 0 && !(ran.stdout + &ran.stderr).contains("note"));
}

#[test]
fn a_certificate_that_does_not_fit_its_key_is_refused() {
    let place = Place::new();
    place.certificates();
    place
        .check_dtls("cert_file = \"server.pem\"\nkey_file = \"client.key\"\n")
        .failed(
            78,
            &[
                "line 4, column 12",
                "client.key does not fit the first certificate in server.pem",
            ],
        );
}

#[test]
fn pem_files_that_hold_something_else_say_what() {
    let place = Place::new();
    place.certificates();
    place.write("noise.pem", "hello\n");
    place
        .check_dtls("cert_file = \"server.key\"\nkey_file = \"server.pem\"\n")
        .failed(
            78,
            &[
                "server.key: expected a certificate; found PRIVATE KEY",
                "holds secrets",
            ],
        );
    place
        .check_dtls("cert_file = \"noise.pem\"\nkey_file = \"ca.key\"\n")
        .failed(
            78,
            &["noise.pem: expected a certificate in PEM form; found no PEM block"],
        );
    let damaged = fs::read_to_string(place.path("server.pem"))
        .unwrap()
        .replacen("MII", "AAA", 1);
    place.write("damaged.pem", &damaged);
    place
        .check_dtls("cert_file = \"damaged.pem\"\nkey_file = \"server.key\"\n")
        .failed(78, &["damaged.pem: a certificate in it is damaged"]);
}

#[test]
fn a_key_behind_a_passphrase_is_refused_without_asking_for_it() {
    let place = Place::new();
    place.certificates();
    let key = PKey::private_key_from_pem(&fs::read(place.path("server.key")).unwrap()).unwrap();
    let sealed = key
        .private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"x")
        .unwrap();
    place.write("sealed.key", std::str::from_utf8(&sealed).unwrap());
    place
        .check_dtls("cert_file = \"server.pem\"\nkey_file = \"sealed.key\"\n")
        .failed(78, &["sealed.key: the private key is protected by a passphrase"]);
}

/// A certificate for `server.key` that expired in 1980.
fn expired(place: &Place) {
    let key = PKey::private_key_from_pem(&fs::read(place.path("server.key")).unwrap()).unwrap();
    let old = Recipe {
        from: Asn1Time::from_unix(0).unwrap(),
        to: Asn1Time::from_unix(315_532_800).unwrap(),
        key,
        ..Recipe::server("old.example")
    };
    let pem = old.make(Some(&authority("old ca"))).cert_pem();
    place.write("old.pem", std::str::from_utf8(&pem).unwrap());
}

#[test]
fn an_expired_certificate_is_refused_by_the_check() {
    let place = Place::new();
    place.certificates();
    expired(&place);
    place
        .check_dtls("cert_file = \"old.pem\"\nkey_file = \"server.key\"\n")
        .failed(
            78,
            &[
                "line 3, column 13",
                "certificate 1 in it expired on Jan  1 00:00:00 1980 GMT",
            ],
        );
    // A restart at night must not take down what does not depend on it: a start says so and serves.
    let loaded = portcullis::config::load(&place.path("c.toml")).unwrap();
    assert_eq!(loaded.warnings.iter().count(), 1);
    // It is said of a certificate that does not fit its key too: both are to be mended.
    place
        .check_dtls("cert_file = \"old.pem\"\nkey_file = \"client.key\"\n")
        .failed(78, &["expired on", "does not fit"]);
}

#[test]
fn the_check_says_which_suites_of_a_list_are_left_out() {
    let place = Place::new();
    place
        .run(&["psk", "add", "a", "--psk-file", "psk.txt"])
        .succeeded();
    let said = place.check_dtls(
        "psk_file = \"psk.txt\"\nciphers = \"PSK-AES128-CCM8:PSK-AES128-CBC-SHA256:ECDHE-ECDSA-AES128-CCM8\"\n",
    );
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, "c.toml: ok\n"),
        "{}",
        said.stderr
    );
    for part in [
        "note at line 4, column 11",
        "PSK-AES128-CBC-SHA256, ECDHE-ECDSA-AES128-CCM8",
    ] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    assert!(!said.stderr.contains("PSK-AES128-CCM8,"), "{}", said.stderr);
}

#[test]
fn a_revocation_list_must_be_of_the_authority_and_in_time() {
    let place = Place::new();
    place.certificates();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    let authority = X509::from_pem(&read("ca.pem")).unwrap();
    let list = |key: &str, days: u32| {
        let key = PKey::private_key_from_pem(&read(key)).unwrap();
        let mut builder = X509CrlBuilder::new().unwrap();
        builder.set_issuer_name(authority.subject_name()).unwrap();
        builder.set_last_update(&Asn1Time::from_unix(0).unwrap()).unwrap();
        let next = if days == 0 {
            Asn1Time::from_unix(1)
        } else {
            Asn1Time::days_from_now(days)
        };
        builder.set_next_update(&next.unwrap()).unwrap();
        let certificate = X509Builder::new().unwrap();
        let context = certificate.x509v3_context(Some(&authority), None);
        let extension = AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap();
        builder.append_extension(extension).unwrap();
        let number = CrlNumber::new(BigNum::from_u32(1).unwrap()).unwrap();
        builder.append_extension(number.build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        place.write(
            "crl.pem",
            std::str::from_utf8(&builder.build().unwrap().to_pem().unwrap()).unwrap(),
        );
    };
    let keys = "cert_file = \"server.pem\"\nkey_file = \"server.key\"\nca_file = \"ca.pem\"\ncrl_file = \"crl.pem\"\nverify = \"required\"\n";
    list("ca.key", 7);
    place.check_dtls(keys).succeeded();
    list("server.key", 7);
    place
        .check_dtls(keys)
        .failed(78, &["line 6, column 12", "no certificate in ca_file signed"]);
    list("ca.key", 0);
    place
        .check_dtls(keys)
        .failed(78, &["line 6, column 12", "ran out on Jan  1"]);
    place.write("crl.pem", std::str::from_utf8(&read("ca.pem")).unwrap());
    place
        .check_dtls(keys)
        .failed(78, &["expected a revocation list; found CERTIFICATE"]);
}

#[test]
fn what_only_the_whole_listener_shows_is_found_too() {
    let place = Place::new();
    place.certificates();
    place
        .check_dtls("cert_file = \"client.pem\"\nkey_file = \"client.key\"\n")
        .failed(78, &["line 3, column 13", "serverAuth"]);
    place.write("psk.txt", "");
    place
        .check_dtls("psk_file = \"psk.txt\"\nciphers = \"ECDHE-ECDSA-AES128-GCM-SHA256\"\n")
        .failed(78, &["line 4, column 11", "keys and certificates at hand"]);
}

#[test]
fn a_cipher_that_the_linked_openssl_does_not_know_is_named() {
    let place = Place::new();
    place.write("psk.txt", "");
    place
        .check_dtls("psk_file = \"psk.txt\"\nciphers = \"PSK-AES128-CCM8:PSK-AES128-GCM-SHA256\"\n")
        .succeeded();
    place
        .check_dtls("psk_file = \"psk.txt\"\nciphers = \"PSK-AES128-CCM8:PSK-AES129-GCM\"\n")
        .failed(
            78,
            &["line 4, column 11", "no cipher suite `PSK-AES129-GCM`", "OpenSSL"],
        );
}

#[test]
fn the_files_of_the_other_sections_are_read_too() {
    let place = Place::new();
    place.write("u.txt", "alice:plain\n");
    place.write("t.txt", "\n");
    place.write("a.acl", "# rules\ntopic all a/b\n");
    place.write("p.txt", "one\ntwo\n");
    place.write(
        "c.toml",
        "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n[authentication]\nbackend = \"file\"\nfile = \"u.txt\"\n[admin]\ntoken_file = \"t.txt\"\n\
         [broker]\nurl = \"mqtt://127.0.0.1\"\nusername = \"gw\"\npassword_file = \"p.txt\"\n[authorization]\nacl_file = \"a.acl\"\n",
    );
    let said = place.run(&["check-config", "--config", "c.toml"]).failed(
        78,
        &[
            "u.txt, line 1, column ",
            "t.txt: expected a token",
            "p.txt: expected a password on one line",
            "a.acl, line 2, column 7: ",
        ],
    );
    assert!(!said.contains("plain"), "{said}");
}

#[test]
fn a_secret_written_into_the_configuration_is_refused_and_not_repeated() {
    let place = Place::new();
    place.write(
        "c.toml",
        "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n[broker]\nurl = \"mqtt://gw:hunter2@127.0.0.1\"\npassword = \"hunter3\"\n",
    );
    let said = place
        .run(&["check-config", "--config", "c.toml"])
        .failed(78, &["line 4", "line 5", "password_file"]);
    assert!(!said.contains("hunter"), "{said}");
}

#[test]
fn psk_add_makes_a_key_that_libcoap_takes_as_text() {
    let place = Place::new();
    let psk = place.write(
        "psk.txt",
        "# the fleet\nold:00112233445566778899aabbccddeeff\n# end\n",
    );
    place.write(
        "c.toml",
        "[listeners.dtls.default]\nbind = \"127.0.0.1:7684\"\npsk_file = \"psk.txt\"\n",
    );
    let said = place
        .run(&["psk", "add", "dev 1", "--config", "c.toml"])
        .succeeded();
    let (_, after) = said.split_once("-u 'dev 1' -k ").expect("a line to try");
    let key = after.split(' ').next().unwrap();
    assert!(
        (16..=32).contains(&key.len()) && key.chars().all(|c| c.is_ascii_alphanumeric()),
        "{said}"
    );
    assert!(said.contains("coaps://127.0.0.1:7684/ps/"), "{said}");
    assert!(said.contains("`portcullis reload`"), "{said}");
    let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        fs::read_to_string(&psk).unwrap(),
        format!("# the fleet\nold:00112233445566778899aabbccddeeff\n# end\ndev 1:{hex}\n")
    );
    assert_eq!(mode(&psk), 0o600);
    place.run(&["check-config", "--config", "c.toml"]).succeeded();

    let listed = place.run(&["psk", "list", "--config", "c.toml"]).succeeded();
    assert_eq!(listed, "old\ndev 1\n");
    let listed = place
        .run(&["psk", "list", "--json", "--psk-file", "psk.txt"])
        .succeeded();
    assert!(!listed.contains(&hex) && !listed.contains(key));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        listed,
        serde_json::json!([{ "identity": "old", "keys": 1 }, { "identity": "dev 1", "keys": 1 }])
    );

    place
        .run(&["psk", "add", "old", "--config", "c.toml"])
        .failed(65, &["--replace"]);
    place
        .run(&["psk", "remove", "nobody", "--config", "c.toml"])
        .failed(67, &["no identity `nobody`"]);
    place
        .run(&["psk", "remove", "old", "--config", "c.toml"])
        .succeeded();
    assert_eq!(
        fs::read_to_string(&psk).unwrap(),
        format!("# the fleet\n# end\ndev 1:{hex}\n")
    );
    place
        .run(&["psk", "add", "dev 1", "--replace", "--config", "c.toml"])
        .succeeded();
    assert!(!fs::read_to_string(&psk).unwrap().contains(&hex));
}

#[test]
fn psk_add_takes_a_key_from_standard_input_and_does_not_repeat_it() {
    let place = Place::new();
    let key = "00112233445566778899AABBCCDDEEFF";
    let args = ["psk", "add", "a", "--key-stdin", "--psk-file", "psk.txt"];
    let ran = place.run_with_input(&args, &format!("{key}\n"));
    assert!(!ran.stdout.to_uppercase().contains(key) && ran.stderr.is_empty());
    ran.succeeded();
    assert_eq!(
        fs::read_to_string(place.path("psk.txt")).unwrap(),
        format!("a:{}\n", key.to_lowercase())
    );
    let mut args = args;
    args[2] = "b";
    let said = place
        .run_with_input(&args, "not hex")
        .failed(65, &["not hexadecimal"]);
    assert!(!said.contains("not hex\""), "{said}");
    assert!(
        place
            .run_with_input(&args, "0011")
            .stderr
            .contains("only 2 bytes")
    );
}

#[test]
fn psk_add_refuses_what_cannot_be_an_identity() {
    let place = Place::new();
    let long = "x".repeat(256);
    for (name, why) in [
        ("", "name"),
        ("#a", "name"),
        (" a", "name"),
        ("a\nb", "name"),
        (&long, "255 bytes"),
    ] {
        place
            .run(&["psk", "add", name, "--psk-file", "psk.txt"])
            .failed(65, &[why]);
    }
    assert!(!place.path("psk.txt").exists());
    place
        .run_with_input(&["user", "add", "a:b", "--users-file", "u.txt"], "x\n")
        .failed(65, &["colon"]);
    place
        .run(&["psk", "add", "urn:dev:7", "--psk-file", "psk.txt"])
        .succeeded();
    assert_eq!(
        place.run(&["psk", "list", "--psk-file", "psk.txt"]).succeeded(),
        "urn:dev:7\n"
    );
}

#[test]
fn psk_commands_leave_a_broken_file_alone() {
    let place = Place::new();
    let psk = place.write("psk.txt", "a:xx\n");
    place
        .run(&["psk", "add", "b", "--psk-file", "psk.txt"])
        .failed(65, &["psk.txt, line 1"]);
    assert_eq!(fs::read_to_string(psk).unwrap(), "a:xx\n");
}

#[test]
fn psk_add_at_the_same_time_loses_nothing() {
    let place = Place::new();
    let children: Vec<_> = (0..8)
        .map(|n| {
            let name = format!("dev-{n}");
            place
                .command(&["psk", "add", &name, "--psk-file", "psk.txt"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let listed = place.run(&["psk", "list", "--psk-file", "psk.txt"]).succeeded();
    assert_eq!(listed.lines().count(), 8, "{listed}");
    assert_eq!(
        fs::read_dir(place.0.path()).unwrap().count(),
        1,
        "nothing else is left behind"
    );
}

#[test]
fn psk_add_asks_which_listener_when_their_files_differ() {
    let place = Place::new();
    place.write(
        "c.toml",
        "[listeners.dtls.a]\nbind = \"127.0.0.1:1\"\npsk_file = \"a.txt\"\n[listeners.dtls.b]\nbind = \"127.0.0.1:2\"\npsk_file = \"b.txt\"\n",
    );
    place
        .run(&["psk", "add", "x", "--config", "c.toml"])
        .failed(64, &["--listener"]);
    place
        .run(&["psk", "add", "x", "--config", "c.toml", "--listener", "b"])
        .succeeded();
    assert!(place.path("b.txt").exists() && !place.path("a.txt").exists());
    place
        .run(&["psk", "add", "x", "--config", "c.toml", "--listener", "c"])
        .failed(78, &["`c`"]);
}

#[test]
fn psk_without_a_file_is_the_quick_starts() {
    if Path::new("/etc/portcullis/portcullis.toml").exists() {
        return;
    }
    let place = Place::new();
    let said = place.run(&["psk", "add", "x"]).succeeded();
    assert!(said.contains("coaps://127.0.0.1/ps/"), "{said}");
    assert_eq!(
        (mode(&place.path("state")), mode(&place.path("state/psk.txt"))),
        (0o700, 0o600)
    );
    assert_eq!(place.run(&["psk", "list"]).succeeded(), "x\n");
}

#[test]
fn users_are_added_listed_and_removed() {
    let place = Place::new();
    place.write(
        "c.toml",
        "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n[authentication]\nbackend = \"file\"\n",
    );
    let file = place.path("users.txt");
    place
        .run_with_input(
            &["user", "add", "alice", "--config", "c.toml"],
            "p=w&d\nignored\n",
        )
        .succeeded();
    let content = fs::read_to_string(&file).unwrap();
    assert!(
        content.starts_with("alice:$argon2id$v=19$m=") && !content.contains("p=w&d"),
        "{content}"
    );
    assert_eq!(mode(&file), 0o600);
    place.run(&["check-config", "--config", "c.toml"]).succeeded();
    place
        .run_with_input(&["user", "add", "alice", "--config", "c.toml"], "x\n")
        .failed(65, &["--replace"]);
    place
        .run_with_input(&["user", "add", "bob", "--config", "c.toml"], "\n")
        .failed(65, &["empty"]);
    fs::write(
        &file,
        format!(
            "{content}carol:$7$101$c2FsdHNhbHRzYWx0${}QQ==\n",
            "QUFB".repeat(21)
        ),
    )
    .unwrap();
    assert_eq!(
        place.run(&["user", "list", "--config", "c.toml"]).succeeded(),
        "alice  argon2id\ncarol  pbkdf2-sha512  weak: PBKDF2 with 101 iterations only\n"
    );
    let listed: serde_json::Value = serde_json::from_str(
        &place
            .run(&["user", "list", "--json", "--users-file", "users.txt"])
            .succeeded(),
    )
    .unwrap();
    assert_eq!(
        (&listed[1]["user"], &listed[1]["scheme"]),
        (&"carol".into(), &"pbkdf2-sha512".into())
    );
    place
        .run(&["user", "remove", "alice", "--config", "c.toml"])
        .succeeded();
    place
        .run(&["user", "remove", "alice", "--config", "c.toml"])
        .failed(67, &["no user `alice`"]);
}

#[test]
fn a_token_that_ends_as_it_is_made_is_refused() {
    let place = Place::new();
    place.write("c.toml", "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n");
    place
        .run(&["token", "add", "brief", "--expires", "0s", "--config", "c.toml"])
        .failed(64, &["--expires: the token would never be good"]);
}

#[test]
fn certs_dev_makes_a_chain_that_clients_accept() {
    let place = Place::new();
    place
        .run(&[
            "certs",
            "dev",
            "--dir",
            "new/dir",
            "--host",
            "gw.example",
            "--host",
            "192.0.2.1",
        ])
        .succeeded();
    let read = |name: &str| fs::read(place.path("new/dir").join(name)).unwrap();
    let authority = X509::from_pem(&read("ca.pem")).unwrap();
    for name in ["ca", "server", "client"] {
        let certificate = X509::from_pem(&read(&format!("{name}.pem"))).unwrap();
        let key = PKey::private_key_from_pem(&read(&format!("{name}.key"))).unwrap();
        assert!(certificate.verify(&authority.public_key().unwrap()).unwrap());
        assert!(certificate.public_key().unwrap().public_eq(&key));
        assert_eq!(mode(&place.path(&format!("new/dir/{name}.key"))), 0o600);
    }
    let server = X509::from_pem(&read("server.pem")).unwrap();
    let names = server.subject_alt_names().unwrap();
    let dns: Vec<_> = names.iter().filter_map(|name| name.dnsname()).collect();
    let ip: Vec<_> = names.iter().filter_map(|name| name.ipaddress()).collect();
    assert_eq!(dns, ["localhost", "gw.example"]);
    assert_eq!(
        ip,
        [
            &[127, 0, 0, 1][..],
            &std::net::Ipv6Addr::LOCALHOST.octets()[..],
            &[192, 0, 2, 1][..]
        ]
    );

    let before = read("server.pem");
    place
        .run(&["certs", "dev", "--dir", "new/dir"])
        .failed(73, &["--force"]);
    assert_eq!(read("server.pem"), before);
    place
        .run(&["certs", "dev", "--dir", "new/dir", "--force"])
        .succeeded();
    assert_ne!(read("server.pem"), before);
    place
        .run(&["certs", "dev", "--dir", "x", "--host", "a b"])
        .failed(65, &["`a b`"]);
    place
        .run(&["certs", "dev", "--dir", "x", "--days", "0"])
        .failed(64, &["--days"]);
}

#[test]
fn the_lab_configuration_works_as_its_head_says() {
    let place = Place::new();
    fs::create_dir(place.path("config")).unwrap();
    let lab = include_str!("../config/lab.toml");
    place.write("config/lab.toml", lab);
    let commands: Vec<Vec<&str>> = lab
        .lines()
        .filter_map(|line| line.strip_prefix("#   portcullis "))
        .map(|line| line.split(' ').collect())
        .collect();
    let [certs, psk, run] = &commands[..] else {
        panic!("three commands")
    };
    place.run(certs).succeeded();
    place.run(psk).succeeded();
    assert_eq!(run, &["run", "--config", "config/lab.toml"]);
    place
        .run(&["check-config", "--config", "config/lab.toml"])
        .succeeded();
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]).succeeded();
        assert!(
            script.contains("check-config") && script.contains("psk"),
            "{shell}"
        );
    }
    assert!(place.run(&["man"]).succeeded().contains("check\\-config"));
    place.run(&["man", "--dir", "man1"]).succeeded();
    for page in [
        "portcullis",
        "portcullis-check-config",
        "portcullis-psk-add",
        "portcullis-certs-dev",
    ] {
        assert!(place.path("man1").join(format!("{page}.1")).exists(), "{page}");
    }
}
