//! The interface as a server: the certificate in force, and nothing in the clear over a network.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use tracing::error;

use crate::server::{Bounds, Doors, Security, Server};
use portcullis_config::Config;

use super::handle::Site;
use super::router;

/// Starts the management interface on bound sockets.
///
/// # Errors
/// The thread, its runtime, or a socket cannot be had.
pub fn start(doors: impl Into<Doors>, site: Arc<dyn Site>) -> io::Result<Server> {
    let doors = doors.into();
    let address = doors.net.as_ref().map(TcpListener::local_addr).transpose()?;
    let is_loopback = address.is_none_or(|address| address.ip().to_canonical().is_loopback());
    let mut tls = Tls::new(site.config());
    let (router, recording) = router(Arc::clone(&site));
    let security = move || match tls.of(&site.config()) {
        // Tokens do not cross a network in the clear, whatever the configuration says by now.
        Security::Plain if !is_loopback => Security::Closed,
        security => security,
    };
    Server::start_beside("admin", doors, router, Bounds::default(), security, recording)
}

/// The certificate in force; read again when the configuration was.
struct Tls {
    current: (Arc<Config>, Security),
}

impl Tls {
    fn new(config: Arc<Config>) -> Self {
        let security = read(&config).unwrap_or(Security::Closed);
        Self {
            current: (config, security),
        }
    }

    /// What was broken since the configuration was read keeps the old.
    fn of(&mut self, config: &Arc<Config>) -> Security {
        if !Arc::ptr_eq(&self.current.0, config) {
            let security = read(config).unwrap_or_else(|| self.current.1.clone());
            self.current = (config.clone(), security);
        }
        self.current.1.clone()
    }
}

fn read(config: &Config) -> Option<Security> {
    let (Some(cert), Some(key)) = (&config.admin.cert_file, &config.admin.key_file) else {
        return Some(Security::Plain);
    };
    acceptor(cert, key)
        .map(|acceptor| Security::Tls(Arc::new(acceptor)))
        .map_err(|problem| error!(%problem, "admin.cert_file and admin.key_file cannot be used"))
        .ok()
}

fn acceptor(
    cert: &std::path::Path,
    key: &std::path::Path,
) -> Result<SslAcceptor, openssl::error::ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_certificate_chain_file(cert)?;
    builder.set_private_key_file(key, SslFiletype::PEM)?;
    builder.check_private_key()?;
    Ok(builder.build())
}
