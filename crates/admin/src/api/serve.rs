//! Connections: TLS where it is configured, a cap, and time-outs, so that a slow or greedy client costs the process nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_openssl::SslStream;
use tracing::{debug, error};

use crate::places::Places;
use portcullis_config::Config;

use super::handle::Site;
use super::trace::LongLife;
use super::{Peer, router};

/// Connections at once. For one more the oldest makes room of which no request was let in.
const CONNECTIONS: usize = 64;

/// From the first byte of a connection, or the end of an answer, to the end of the next request's head.
const HEAD: Duration = Duration::from_secs(30);

/// A TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Life of a connection: longer than a device may take for an answer.
const LIFE: Duration = Duration::from_secs(600);

/// The running management interface, on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AdminServer {
    /// Serves on a bound socket.
    ///
    /// # Errors
    /// The thread, its runtime, or the socket cannot be had.
    pub fn start(listener: TcpListener, site: Arc<dyn Site>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Files are read and passwords are hashed there; a password takes 19 MiB while it lasts.
            .max_blocking_threads(4)
            .build()?;
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let acceptor = Acceptor {
            loopback: address.ip().to_canonical().is_loopback(),
            tls: Tls::new(site.config()),
            router: router(site.clone(), address),
            site,
        };
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                runtime.block_on(acceptor.run(listener, stopped));
                // Whoever waits for a disk is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Acceptor {
    loopback: bool,
    tls: Tls,
    router: Router,
    site: Arc<dyn Site>,
}

impl Acceptor {
    async fn run(mut self, listener: tokio::net::TcpListener, mut stopped: watch::Receiver<bool>) {
        let places = Places::new(CONNECTIONS);
        loop {
            let accepted = tokio::select! {
                _ = stopped.changed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = places.take(peer.ip()).await else {
                        continue;
                    };
                    let security = self.tls.of(&self.site.config());
                    // Tokens do not cross a network in the clear, whatever the configuration says by now.
                    if matches!(security, Security::Broken)
                        || matches!(security, Security::Plain) && !self.loopback
                    {
                        continue;
                    }
                    let life = LongLife::default();
                    let router = self
                        .router
                        .clone()
                        .layer(Extension(Peer(peer)))
                        .layer(Extension(place.seat()))
                        .layer(Extension(life.clone()));
                    tokio::spawn(async move {
                        let served = async {
                            match security {
                                Security::Tls(acceptor) => serve_tls(stream, &acceptor, router, &life).await,
                                Security::Plain | Security::Broken => serve(stream, router, &life).await,
                            }
                        };
                        tokio::select! {
                            () = served => {}
                            () = place.sent_away() => debug!("a connection made room"),
                        }
                    });
                }
                // Most are of one connection that is already gone; a lack of descriptors passes.
                Err(error) => {
                    debug!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// How connections are protected.
#[derive(Clone)]
enum Security {
    Plain,
    Tls(Arc<SslAcceptor>),
    /// TLS is configured, and its files are broken.
    Broken,
}

/// The certificate in force; read again when the configuration was.
struct Tls {
    current: (Arc<Config>, Security),
}

impl Tls {
    fn new(config: Arc<Config>) -> Self {
        let security = Security::of(&config).unwrap_or(Security::Broken);
        Self {
            current: (config, security),
        }
    }

    /// What was broken since the configuration was read keeps the old.
    fn of(&mut self, config: &Arc<Config>) -> Security {
        if !Arc::ptr_eq(&self.current.0, config) {
            let security = Security::of(config).unwrap_or_else(|| self.current.1.clone());
            self.current = (config.clone(), security);
        }
        self.current.1.clone()
    }
}

impl Security {
    fn of(config: &Config) -> Option<Self> {
        let (Some(cert), Some(key)) = (&config.admin.cert_file, &config.admin.key_file) else {
            return Some(Self::Plain);
        };
        match acceptor(cert, key) {
            Ok(acceptor) => Some(Self::Tls(Arc::new(acceptor))),
            Err(problem) => {
                error!(%problem, "admin.cert_file and admin.key_file cannot be used");
                None
            }
        }
    }
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

async fn serve_tls(stream: TcpStream, acceptor: &SslAcceptor, router: Router, life: &LongLife) {
    let handshake = async {
        let mut stream = SslStream::new(Ssl::new(acceptor.context()).ok()?, stream).ok()?;
        Pin::new(&mut stream).accept().await.ok()?;
        Some(stream)
    };
    match timeout(HANDSHAKE, handshake).await {
        Ok(Some(stream)) => serve(stream, router, life).await,
        Ok(None) => debug!("a TLS handshake failed"),
        Err(_) => debug!("a TLS handshake took too long"),
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, life: &LongLife) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    loop {
        match timeout(LIFE, connection.as_mut()).await {
            Err(_) if life.is_wanted() => {}
            Ok(Ok(())) | Err(_) => return,
            Ok(Err(error)) => return debug!(%error, "connection failed"),
        }
    }
}
