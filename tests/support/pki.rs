//! The certificates that most tests need.

use super::certs::{Certified, Recipe, authority};

/// A CA, a server certificate for loopback, and a client certificate named `device-7`.
pub struct Pki {
    pub ca: Certified,
    pub server: Certified,
    pub client: Certified,
}

impl Pki {
    pub fn new() -> Self {
        let ca = authority("Test CA");
        let server = Recipe::server("localhost").make(Some(&ca));
        let client = Recipe {
            names: "DNS:device-7.example,URI:urn:dev:7",
            ..Recipe::client("device-7")
        }
        .make(Some(&ca));
        Self { ca, server, client }
    }

    /// The configuration with these files: `server.pem`, `server.key`, `ca.pem`.
    pub fn install(&self, config: super::Config) -> super::Config {
        config
            .file("server.pem", self.server.cert_pem())
            .file("server.key", self.server.key_pem())
            .file("ca.pem", self.ca.cert_pem())
            .dtls("cert_file = \"server.pem\"\nkey_file = \"server.key\"\nca_file = \"ca.pem\"")
    }
}
