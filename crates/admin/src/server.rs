//! HTTP, with TLS where it is wanted, with time-outs and a cap on connections, so that a slow or greedy client costs the process
//! nothing.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use openssl::ssl::{Ssl, SslAcceptor};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_openssl::SslStream;
use tracing::debug;

use super::local::{LocalPeer, LocalSocket};
use super::places::{Places, Seat};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Bounds of one server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once. For one more the oldest that has no request under way makes room.
    pub connections: usize,
    /// From the first byte of a connection, or the end of an answer, to the end of the next request's head.
    pub head: Duration,
    /// Life of a connection, unless a request is under way when it is over.
    pub life: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(30),
            life: Duration::from_secs(600),
        }
    }
}

/// How a connection is protected.
#[derive(Clone)]
pub enum Security {
    /// By nothing: requests and tokens go in the clear.
    Plain,
    /// By TLS with this certificate.
    Tls(Arc<SslAcceptor>),
    /// By not being served.
    Closed,
}

/// Who is at the other end of a connection: an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// Whoever receives at this address.
    Net(SocketAddr),
    /// A process on this machine that the mode of the Unix socket let in.
    Local(LocalPeer),
    /// Another node of the group, which proved that it has its key.
    Node(SocketAddr),
}

impl Peer {
    /// What connections are counted by: an address, or over the Unix socket a user in its stead.
    fn source(self) -> IpAddr {
        match self {
            Self::Net(address) | Self::Node(address) => address.ip(),
            Self::Local(peer) => Ipv4Addr::from_bits(peer.uid).into(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) | Self::Node(address) => address.fmt(f),
            Self::Local(peer) => peer.fmt(f),
        }
    }
}

/// Where a server is reached.
#[derive(Default)]
pub struct Doors {
    /// Over the network, or on loopback.
    pub net: Option<TcpListener>,
    /// By processes on this machine.
    pub local: Option<LocalSocket>,
    /// By other nodes of the group, with what lets in those alone.
    pub nodes: Option<(TcpListener, Arc<SslAcceptor>)>,
}

impl From<TcpListener> for Doors {
    fn from(listener: TcpListener) -> Self {
        Self {
            net: Some(listener),
            ..Self::default()
        }
    }
}

/// What is accepted from.
enum Listening {
    Net(tokio::net::TcpListener),
    Nodes(tokio::net::TcpListener),
    Local(tokio::net::UnixListener),
}

/// A connection that was accepted.
enum Accepted {
    Net(TcpStream),
    Local(UnixStream),
}

impl Listening {
    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::Net(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Net(stream), Peer::Net(address)))
            }
            Self::Nodes(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Net(stream), Peer::Node(address)))
            }
            Self::Local(listener) => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let peer = LocalPeer {
                    uid: credentials.uid(),
                    gid: credentials.gid(),
                    pid: credentials.pid(),
                };
                Ok((Accepted::Local(stream), Peer::Local(peer)))
            }
        }
    }
}

/// A running server on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
    // Its name goes with this.
    _local: Option<LocalSocket>,
}

impl Server {
    /// Serves `router` on bound sockets. `security` is asked for every connection over the network.
    ///
    /// # Errors
    /// The thread, its runtime, or a socket cannot be had.
    pub fn start(
        name: &str,
        doors: impl Into<Doors>,
        router: Router,
        bounds: Bounds,
        security: impl FnMut() -> Security + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_beside(name, doors, router, bounds, security, std::future::pending())
    }

    /// The same, with work that goes on beside the serving and ends with it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_beside(
        name: &str,
        doors: impl Into<Doors>,
        router: Router,
        bounds: Bounds,
        security: impl FnMut() -> Security + Send + 'static,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let Doors { net, local, nodes } = doors.into();
        let address = net.as_ref().map(TcpListener::local_addr).transpose()?;
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Files are read and passwords are hashed there; a password takes 19 MiB while it lasts.
            .max_blocking_threads(4)
            .build()?;
        let (net, by_name, nodes) = {
            let _guard = runtime.enter();
            let net = net.map(|listener| {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener).map(Listening::Net)
            });
            let by_name = local.as_ref().map(|socket| {
                let listener = socket.listener.try_clone()?;
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(Listening::Local)
            });
            let nodes = nodes.map(|(listener, acceptor)| {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                Ok::<_, io::Error>((Listening::Nodes(listener), acceptor))
            });
            (net.transpose()?, by_name.transpose()?, nodes.transpose()?)
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                // Places of its own each: who fills those of the network shuts nobody out here, and the other way round.
                let over_net = accept(net, router.clone(), bounds, security, stopped.clone());
                let plain = || Security::Plain;
                let by_name = accept(by_name, router.clone(), bounds, plain, stopped.clone());
                let (nodes, acceptor) = nodes.unzip();
                let proved = move || acceptor.clone().map_or(Security::Closed, Security::Tls);
                let by_nodes = accept(nodes, router, bounds, proved, stopped);
                let serving = async { tokio::join!(over_net, by_name, by_nodes) };
                tokio::select! {
                    _ = serving => {}
                    () = work => {}
                }
            });
            // Whoever waits for a disk is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
            _local: local,
        })
    }

    /// The bound address, where it is reached over the network; the port in force where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(
    listening: Option<Listening>,
    router: Router,
    bounds: Bounds,
    mut security: impl FnMut() -> Security,
    mut stopped: watch::Receiver<bool>,
) {
    let Some(listening) = listening else {
        // The other door, or the work beside, goes on until then.
        _ = stopped.changed().await;
        return;
    };
    let places = Places::new(bounds.connections);
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = places.take(peer.source()).await else {
                    continue;
                };
                let seat = place.seat();
                let router = router
                    .clone()
                    .layer(Extension(peer))
                    .layer(Extension(seat.clone()));
                let security = security();
                tokio::spawn(async move {
                    let served = async {
                        match (stream, security) {
                            (_, Security::Closed) => {}
                            (Accepted::Local(stream), _) => serve(stream, router, bounds, &seat).await,
                            (Accepted::Net(stream), Security::Plain) => {
                                serve(stream, router, bounds, &seat).await;
                            }
                            (Accepted::Net(stream), Security::Tls(acceptor)) => {
                                match timeout(HANDSHAKE, secure(stream, &acceptor)).await {
                                    Ok(Some(stream)) => serve(stream, router, bounds, &seat).await,
                                    Ok(None) => debug!("a TLS handshake failed"),
                                    Err(_) => debug!("a TLS handshake took too long"),
                                }
                            }
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

/// A layer by which a request that is being answered is not cut off for a connection that says nothing.
pub(super) async fn seated(Extension(seat): Extension<Seat>, request: Request, next: Next) -> Response {
    let _busy = seat.keep();
    next.run(request).await
}

async fn secure(stream: TcpStream, acceptor: &SslAcceptor) -> Option<SslStream<TcpStream>> {
    let mut stream = SslStream::new(Ssl::new(acceptor.context()).ok()?, stream).ok()?;
    Pin::new(&mut stream).accept().await.ok()?;
    Some(stream)
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, bounds: Bounds, seat: &Seat) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    loop {
        match timeout(bounds.life, connection.as_mut()).await {
            Err(_) if seat.is_busy() => {}
            Ok(Ok(())) | Err(_) => return,
            Ok(Err(error)) => return debug!(%error, "connection failed"),
        }
    }
}
