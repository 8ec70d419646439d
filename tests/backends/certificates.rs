//! Devices that are known by what stands in their certificates.

use openssl::nid::Nid;

use super::page;
use super::support::certs::Recipe;
use super::support::dtls::Options;
use super::support::pki::Pki;
use super::support::{Client, Gateway, Request, code, ports};

#[test]
fn a_certificate_says_below_which_topics_its_device_stays() {
    let pki = Pki::new();
    let (sealed, open) = (ports::reserve(), ports::reserve());
    let there = format!("127.0.0.1:{}", sealed.number);
    let device = |subject: &[(Nid, &str)]| {
        let recipe = Recipe {
            subject,
            ..Recipe::client("lamp-1")
        };
        recipe.make(Some(&pki.ca))
    };
    let (o, ou) = (Nid::ORGANIZATIONNAME, Nid::ORGANIZATIONALUNITNAME);
    let lamp = device(&[(o, "acme"), (ou, "north")]);
    let seen = format!(
        "bind = \"127.0.0.1:{}\"\nmountpoint = \"\"\nauthentication = false",
        open.number
    );
    let acl = page::block("text certificates-acl") + "topic read acme/#\n";
    let config = page::config("certificates", "127.0.0.1:5684", &there)
        .file("acl", acl)
        .file("server.pem", pki.server.cert_pem())
        .file("server.key", pki.server.key_pem())
        .file("ca.pem", pki.ca.cert_pem())
        .file("lamp-1.pem", lamp.cert_pem())
        .file("lamp-1.key", lamp.key_pem())
        .set("listeners.udp.open", &seen);
    let gateway = Gateway::start(config);
    let mut watcher = Client::udp(([127, 0, 0, 1], open.number).into());
    let own = watcher.observe("ps/acme/north/up/lamp-1/#");
    let line = page::block("text certificates-try").replace("127.0.0.1:5684", &there);
    page::says_nothing_in(gateway.directory(), &line);
    assert_eq!(watcher.notification(&own.token).text(), "21.5");
    let there = there.parse().unwrap();
    for (subject, topic, wanted) in [
        (
            &[(o, "acme"), (ou, "north")][..],
            "up/lamp-2/t",
            code::UNAUTHORIZED,
        ),
        (&[(o, "acme")], "up/lamp-1/t", code::UNAUTHORIZED),
        (&[(o, "acme"), (ou, "a/b")], "up/lamp-1/t", code::BAD_REQUEST),
        (&[(o, "acme"), (ou, "+")], "up/lamp-1/t", code::BAD_REQUEST),
        (&[(o, "$portcullis"), (ou, "x")], "up/lamp-1/t", code::BAD_REQUEST),
    ] {
        let shown = Options::certificate(Some(&device(subject)), &pki.ca.certificate);
        let mut client = Client::dtls(there, &shown);
        let answer = client.request(&Request::put(&format!("ps/{topic}")).payload("x"));
        assert_eq!(answer.code, wanted, "{subject:?} {topic}: {}", answer.text());
    }
}
