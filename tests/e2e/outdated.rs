//! A server certificate that ran out: what does not depend on it is served, and it replaces no better one.

use openssl::asn1::Asn1Time;

use crate::support::certs::{Certified, Recipe};
use crate::support::gateway::{hex, psk_options};
use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, dtls, ms, psk_of, wait_until};

/// The server's certificate as it was in 1980.
fn expired(pki: &Pki) -> Certified {
    Recipe {
        from: Asn1Time::from_unix(0).unwrap(),
        to: Asn1Time::from_unix(315_532_800).unwrap(),
        ..Recipe::server("localhost")
    }
    .make(Some(&pki.ca))
}

fn install(gateway: &Gateway, pair: &Certified) {
    gateway.write("server.pem", &pair.cert_pem());
    gateway.write("server.key", &pair.key_pem());
}

fn connects_by_certificate(gateway: &Gateway, pki: &Pki) -> bool {
    let options = dtls::Options::certificate(None, &pki.ca.certificate).patience(ms(1500));
    dtls::connect(gateway.dtls_addr(), &options).is_ok()
}

fn reloads(gateway: &Gateway) -> usize {
    gateway
        .log()
        .lines()
        .filter(|line| line.ends_with(" reloaded"))
        .count()
}

#[test]
fn a_start_with_an_expired_certificate_says_so_and_serves_who_does_not_need_it() {
    let pki = Pki::new();
    let old = expired(&pki);
    let mut gateway = Gateway::prepare(&pki.install(Config::new()));
    install(&gateway, &old);
    let check = gateway.command("check-config").output().unwrap();
    assert_eq!(check.status.code(), Some(78), "{check:?}");
    gateway.launch();
    wait_until("the log says so", || {
        let said = gateway.log();
        said.contains("server.pem") && said.contains("expired on Jan  1 00:00:00 1980 GMT")
    });
    gateway.assert_serves();
    assert!(!connects_by_certificate(&gateway, &pki));
    assert_eq!(
        gateway.metric(
            "certificate_not_after_seconds",
            &["use=\"listeners.dtls.default.cert_file\""]
        ),
        315_532_800.0
    );
    // It keeps nothing else from being renewed: an identity that must go goes.
    gateway.write(
        "psk.txt",
        format!("dev2:{}\n", hex(psk_of("dev2").as_bytes())).as_bytes(),
    );
    gateway.reload();
    wait_until("it has reloaded", || reloads(&gateway) == 1);
    let gone = psk_options("dev1").patience(ms(1500));
    assert!(dtls::connect(gateway.dtls_addr(), &gone).is_err());
    Client::dtls(gateway.dtls_addr(), &psk_options("dev2")).publish("ps/a", "x");
    // And a good one comes into force.
    install(&gateway, &pki.server);
    gateway.reload();
    wait_until("it has reloaded", || reloads(&gateway) == 2);
    assert!(connects_by_certificate(&gateway, &pki));
}

#[test]
fn a_reload_does_not_replace_a_valid_certificate_by_an_expired_one() {
    let pki = Pki::new();
    let gateway = Gateway::start(pki.install(Config::new()));
    assert!(connects_by_certificate(&gateway, &pki));
    install(&gateway, &expired(&pki));
    gateway.reload();
    wait_until("the reload is refused", || {
        gateway.log().contains("the old stays in force")
    });
    let said = gateway.log();
    assert!(
        said.contains("server.pem: the certificate is out of time"),
        "{said}"
    );
    assert!(connects_by_certificate(&gateway, &pki));
    gateway.client(Kind::Dtls).publish("ps/a", "x");
}
