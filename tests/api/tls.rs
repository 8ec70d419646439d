//! HTTPS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use openssl::ssl::{SslConnector, SslMethod, SslStream};

use crate::PLAIN;
use crate::http::{Answer, ask_over};
use crate::site::Served;
use crate::support::pki;

fn connect(served: &Served, ca: &str) -> Result<SslStream<TcpStream>, String> {
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_ca_file(served.path(ca)).unwrap();
    let stream = TcpStream::connect(served.address).unwrap();
    connector
        .build()
        .connect("127.0.0.1", stream)
        .map_err(|error| error.to_string())
}

fn get(served: &Served, path: &str, ca: &str) -> Result<Answer, String> {
    let stream = connect(served, ca)?;
    Ok(ask_over(stream, "127.0.0.1", "GET", path, &[], b""))
}

fn post(served: &Served, path: &str, ca: &str) -> Answer {
    ask_over(connect(served, ca).unwrap(), "127.0.0.1", "POST", path, &[], b"")
}

#[test]
fn with_a_certificate_it_is_https_and_a_reload_changes_the_certificate() {
    let (first, second) = (pki::Pki::new(), pki::Pki::new());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let config =
        format!("{PLAIN}[admin]\nbind = \"127.0.0.1:0\"\ncert_file = \"c.pem\"\nkey_file = \"c.key\"\n");
    let served = Served::with_files(
        &config,
        &[
            ("c.pem", &text(first.server.cert_pem())),
            ("c.key", &text(first.server.key_pem())),
            ("ca1.pem", &text(first.ca.cert_pem())),
            ("ca2.pem", &text(second.ca.cert_pem())),
        ],
    );
    get(&served, "/api/v1/status", "ca1.pem").unwrap().expect(200);
    get(&served, "/api/v1/status", "ca2.pem").unwrap_err();
    let mut plain = TcpStream::connect(served.address).unwrap();
    drop(plain.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "nothing goes in the clear");

    std::fs::write(served.path("c.pem"), second.server.cert_pem()).unwrap();
    std::fs::write(served.path("c.key"), second.server.key_pem()).unwrap();
    get(&served, "/api/v1/status", "ca1.pem").unwrap().expect(200);
    post(&served, "/api/v1/reload", "ca1.pem").expect(200);
    get(&served, "/api/v1/status", "ca2.pem").unwrap().expect(200);
    get(&served, "/api/v1/status", "ca1.pem").unwrap_err();
}
