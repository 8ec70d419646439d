//! Where the connections of one listener come in: how many there may be, how their TLS handshakes go, and to which worker each goes.
//!
//! All of it runs on the thread of the streams. A connection is no place's but this one's until it is open.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use openssl::ssl::{Ssl, SslRef};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use portcullis_dtls::{ContextCell, DtlsContext, DtlsShared, TlsClient};
use portcullis_proto::types::source_rates::{Allowance, SourceRates};
use portcullis_proto::types::{ListenerId, PeerAddr};

use crate::connection::{self, Connection, FromStream};
use crate::metrics::{GateMetrics, Refusal};

/// How long to wait when the process has no descriptor left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);
/// When a silent peer is asked by TCP whether it is there, and how often and how many times it is asked again.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(120), Duration::from_secs(20), 4);
/// What the kernel keeps of a connection each way: what its peer does not read beyond that waits here, where it is counted.
const KERNEL: usize = 128 << 10;
/// How many sources' handshakes are counted at the same time.
const SOURCES: usize = 4096;
/// Bytes of messages that have not come whole, of all connections of a listener together.
const UNFINISHED: usize = 64 << 20;

/// What holds for the connections of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateSettings {
    /// Whether its connections are WebSockets, and the pages of browsers that may open them by where they are from.
    pub web: Option<Arc<[Box<str>]>>,
    /// Connections, those included whose handshake is under way.
    pub max_connections: usize,
    /// Those of one source; 0 is no limit.
    pub max_per_source: usize,
    /// TLS handshakes in flight.
    pub max_half_open: usize,
    /// TLS handshakes that begin in a second, or connections where there is no TLS; 0 is no limit.
    pub max_per_second: u32,
    /// Those of one source while half of `max_half_open` is taken; 0 is no limit.
    pub per_second_of_source: u32,
    /// A TLS handshake that takes longer fails.
    pub handshake_timeout: Duration,
    /// A message that began has to be whole, and what is written has to be taken, within this time.
    pub message_timeout: Duration,
    /// Most bytes of a message that is taken.
    pub max_message: usize,
}

/// The gate of one listener, shared by all workers.
#[derive(Debug)]
pub struct Gate {
    /// What TLS handshakes are made with; none where there is no TLS.
    contexts: Option<Arc<ContextCell>>,
    shared: Arc<DtlsShared>,
    settings: RwLock<GateSettings>,
    clock: fn() -> Instant,
    /// What it counts.
    pub metrics: GateMetrics,
    rate: SourceRates,
    sources_rate: SourceRates,
    connections: AtomicUsize,
    half_open: AtomicUsize,
    pub(crate) unfinished: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, usize>>,
}

/// The place of a connection; given back when it is dropped.
pub(crate) struct Place {
    gate: Arc<Gate>,
    source: IpAddr,
    half_open: bool,
}

impl Gate {
    /// A gate without connections; `contexts` are what its TLS handshakes are made with, and none where there is no TLS.
    #[must_use]
    pub fn new(
        contexts: Option<Arc<ContextCell>>,
        shared: Arc<DtlsShared>,
        settings: GateSettings,
        clock: fn() -> Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            contexts,
            shared,
            settings: RwLock::new(settings),
            clock,
            metrics: GateMetrics::default(),
            rate: SourceRates::new(clock(), 1, [0; 2]),
            sources_rate: SourceRates::new(clock(), SOURCES, [rand::random(), rand::random()]),
            connections: AtomicUsize::new(0),
            half_open: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            sources: Mutex::default(),
        })
    }

    /// What holds from now on.
    pub fn set(&self, settings: GateSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// What holds now.
    #[must_use]
    pub fn settings(&self) -> GateSettings {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The keys and certificates in force; none where there is no TLS.
    #[must_use]
    pub fn context(&self) -> Option<Arc<DtlsContext>> {
        Some(self.contexts.as_ref()?.current())
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Whether a connection may hold so many bytes of a message that is not whole.
    pub(crate) fn holds(&self) -> bool {
        self.unfinished.load(Ordering::Relaxed) <= UNFINISHED
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection.
    fn admit(self: &Arc<Self>, source: IpAddr) -> Result<Place, Refusal> {
        let settings = self.settings();
        let tls = self.contexts.is_some();
        let half_open = self.half_open.load(Ordering::Relaxed);
        if self.connections.load(Ordering::Relaxed) >= settings.max_connections {
            return Err(Refusal::Connections);
        }
        if tls && half_open >= settings.max_half_open {
            return Err(Refusal::HalfOpen);
        }
        let of_source = Allowance::per_second(settings.per_second_of_source, 2);
        let is_busy = tls && half_open >= settings.max_half_open / 2;
        if is_busy && self.sources_rate.take(self.now(), source, of_source).is_err() {
            return Err(Refusal::SourceRate);
        }
        let mut sources = self.sources();
        let of_source = sources.entry(source).or_default();
        if settings.max_per_source > 0 && *of_source >= settings.max_per_source {
            return Err(Refusal::Source);
        }
        let rate = Allowance::per_second(settings.max_per_second, 1);
        if self.rate.take(self.now(), (), rate).is_err() {
            if *of_source == 0 {
                sources.remove(&source);
            }
            return Err(Refusal::Rate);
        }
        *of_source += 1;
        self.connections.fetch_add(1, Ordering::Relaxed);
        if tls {
            self.half_open.fetch_add(1, Ordering::Relaxed);
            self.metrics
                .half_open
                .set(self.half_open.load(Ordering::Relaxed) as u64);
        }
        Ok(Place {
            gate: Arc::clone(self),
            source,
            half_open: tls,
        })
    }

    /// Accepts connections until it is aborted, and gives each to one of the workers, in turn.
    pub fn open(
        self: &Arc<Self>,
        listener: ListenerId,
        socket: TcpListener,
        workers: Vec<mpsc::Sender<FromStream>>,
    ) -> JoinHandle<()> {
        let gate = Arc::clone(self);
        let is_wildcard = socket.local_addr().is_ok_and(|local| local.ip().is_unspecified());
        tokio::spawn(async move {
            for worker in workers.iter().cycle() {
                let (stream, from) = gate.accept(&socket).await;
                let local = is_wildcard.then(|| stream.local_addr().ok()).flatten();
                let Some(from) = PeerAddr::new(from).map(|from| from.writing_to(local.map(|it| it.ip())))
                else {
                    continue;
                };
                match gate.admit(from.source()) {
                    Err(refusal) => gate.metrics.refused.inc(refusal),
                    Ok(place) => {
                        gate.metrics.accepted.inc();
                        let connection = Connection {
                            listener,
                            from,
                            gate: Arc::clone(&gate),
                            place,
                            worker: worker.clone(),
                        };
                        tokio::spawn(connection::run(connection, stream));
                    }
                }
            }
        })
    }

    async fn accept(&self, socket: &TcpListener) -> (TcpStream, SocketAddr) {
        loop {
            match socket.accept().await {
                Ok((stream, from)) => {
                    set_options(&stream, self.settings().message_timeout);
                    return (stream, from);
                }
                // Of the connection, which has gone; or there is no room for it, and it waits in the kernel.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENFILE | libc::EMFILE | libc::ENOBUFS | libc::ENOMEM)
                    ) =>
                {
                    self.metrics.refused.inc(Refusal::Descriptors);
                    tokio::time::sleep(NO_DESCRIPTORS).await;
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Who is at the other end of a handshake that is done; nothing when nobody is let in by it.
    pub(crate) fn client(&self, context: &DtlsContext, ssl: &SslRef) -> Option<TlsClient> {
        context.tls_client(ssl, &self.shared)
    }

    /// A fresh server side of a TLS handshake; none where there is no TLS.
    pub(crate) fn tls(
        &self,
        source: IpAddr,
    ) -> Option<Result<(Arc<DtlsContext>, Ssl), openssl::error::ErrorStack>> {
        let context = self.context()?;
        let is_web = self.settings().web.is_some();
        let ssl = context.tls_server(&self.shared, source, is_web);
        Some(ssl.map(|ssl| (context, ssl)))
    }
}

/// What is asked of the kernel for a connection. A socket that takes none of it serves all the same.
fn set_options(stream: &TcpStream, timeout: Duration) {
    let (idle, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(interval)
        .with_retries(retries);
    let socket = SockRef::from(stream);
    let set = [
        socket.set_recv_buffer_size(KERNEL),
        socket.set_send_buffer_size(KERNEL),
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout(Some(timeout)),
    ];
    if let Some(error) = set.into_iter().find_map(Result::err) {
        tracing::debug!(%error, "a connection has not the options that it should");
    }
}

impl Place {
    /// The handshake is over.
    pub(crate) fn opened(&mut self) {
        if std::mem::take(&mut self.half_open) {
            let before = self.gate.half_open.fetch_sub(1, Ordering::Relaxed);
            self.gate.metrics.half_open.set(before.saturating_sub(1) as u64);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.opened();
        self.gate.connections.fetch_sub(1, Ordering::Relaxed);
        let mut sources = self.gate.sources();
        if let Some(count) = sources.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}
