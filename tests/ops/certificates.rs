//! The profiles in `certs/`: the `openssl` command, `certs dev` and the tests make the same of them, and the gateway serves
//! with every type of key.

use std::path::Path;
use std::process::Command;

use openssl::pkey::PKey;
use openssl::x509::X509;

use crate::repository;
use crate::support::certs::{Certified, KEYS, Recipe, authority};
use crate::support::{Client, Config, Gateway, dtls};

fn openssl(directory: &Path, arguments: &str) -> String {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .env_remove("SAN")
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes an authority, a server and a client in `directory` with the profiles and the command alone.
fn issue(directory: &Path, kind: &str) {
    for profile in ["ca.cnf", "server.cnf", "client.cnf"] {
        std::fs::copy(repository("certs").join(profile), directory.join(profile)).unwrap();
    }
    std::fs::create_dir(directory.join("issued")).unwrap();
    std::fs::write(directory.join("index.txt"), "").unwrap();
    let (algorithm, option) = (KEYS.value(kind, "algorithm"), KEYS.value(kind, "pkeyopt"));
    for name in ["ca", "server", "client"] {
        openssl(
            directory,
            &format!("genpkey -algorithm {algorithm} -pkeyopt {option} -out {name}.key"),
        );
    }
    openssl(directory, "req -x509 -config ca.cnf -key ca.key -out ca.pem");
    for name in ["server", "client"] {
        openssl(
            directory,
            &format!("req -new -config {name}.cnf -key {name}.key -out {name}.csr"),
        );
        openssl(
            directory,
            &format!(
                "ca -batch -notext -config ca.cnf -extfile {name}.cnf -extensions extensions -in {name}.csr -out {name}.pem"
            ),
        );
    }
}

/// Who a certificate names, what it allows, and the hash that signs it.
fn contents(certificate: &[u8]) -> String {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("it.pem"), certificate).unwrap();
    let said = openssl(
        place.path(),
        "x509 -in it.pem -noout -subject -issuer -ext basicConstraints,keyUsage,extendedKeyUsage,subjectAltName",
    );
    let algorithm = X509::from_pem(certificate)
        .unwrap()
        .signature_algorithm()
        .object()
        .nid();
    format!("{said}{}", algorithm.long_name().unwrap())
}

fn read(directory: &Path, name: &str) -> Certified {
    let file = |extension| std::fs::read(directory.join(name).with_extension(extension)).unwrap();
    Certified {
        certificate: X509::from_pem(&file("pem")).unwrap(),
        key: PKey::private_key_from_pem(&file("key")).unwrap(),
    }
}

#[test]
fn the_openssl_command_certs_dev_and_the_tests_make_the_same_certificates() {
    let (by_command, by_gateway) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    issue(by_command.path(), "p256");
    let made = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["certs", "dev", "--client", "device-1", "--dir"])
        .arg(by_gateway.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let ca = authority("Portcullis development CA");
    let by_tests = [
        Recipe::server("localhost").make(Some(&ca)),
        Recipe::client("device-1").make(Some(&ca)),
    ];
    let [server, client] = &by_tests;
    for (name, by_tests) in [("ca", &ca), ("server", server), ("client", client)] {
        let wanted = contents(&read(by_command.path(), name).cert_pem());
        assert_eq!(contents(&read(by_gateway.path(), name).cert_pem()), wanted);
        assert_eq!(contents(&by_tests.cert_pem()), wanted);
        assert!(name == "ca" || wanted.contains("CA:FALSE"), "{wanted}");
    }
}

#[test]
fn the_gateway_serves_with_every_type_of_key_of_the_profiles() {
    let kinds = KEYS.sections();
    assert!(kinds.len() >= 4, "{kinds:?}");
    for kind in kinds {
        let place = tempfile::tempdir().unwrap();
        issue(place.path(), kind);
        let [ca, server, client] = ["ca", "server", "client"].map(|name| read(place.path(), name));
        let config = Config::new()
            .file("server.pem", server.cert_pem())
            .file("server.key", server.key_pem())
            .file("ca.pem", ca.cert_pem())
            .dtls("cert_file = \"server.pem\"\nkey_file = \"server.key\"\nca_file = \"ca.pem\"\nverify = \"required\"");
        let gateway = Gateway::start(config);
        let options = dtls::Options::certificate(Some(&client), &ca.certificate)
            .ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256");
        let mut device = Client::dtls(gateway.dtls_addr(), &options);
        device.publish("ps/t?retain=true", kind);
        assert_eq!(device.read("ps/t"), kind.as_bytes());
    }
}

#[test]
fn a_name_that_nobody_gave_is_not_made_up() {
    let place = tempfile::tempdir().unwrap();
    issue(place.path(), "p256");
    let refused = Command::new("openssl")
        .args(["ca", "-batch", "-config", "ca.cnf", "-extfile", "client.cnf"])
        .args([
            "-extensions",
            "extensions_san",
            "-in",
            "client.csr",
            "-out",
            "named.pem",
        ])
        .env_remove("SAN")
        .current_dir(place.path())
        .output()
        .unwrap();
    assert!(!refused.status.success());
}
