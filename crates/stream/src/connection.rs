//! One connection: its handshake, what it brings, and what goes out by it.

use std::any::Any;
use std::ffi::c_ulong;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use openssl::error::ErrorStack;
use openssl::ssl;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_openssl::SslStream;

use portcullis_dtls::TlsClient;
use portcullis_proto::session::{CloseReason, HandshakeResult, StreamEvent};
use portcullis_proto::types::{ListenerId, PeerAddr};

use crate::frame;
use crate::gate::{Gate, Place};
use crate::metrics::Refusal;
use crate::signal;
use crate::websocket::{Partial, WebStream};

/// While more than this waits to be read by a peer, nothing more is read of it: who asks has to take the answers.
const UNREAD: usize = 64 << 10;
/// Room for what comes: of one that says nothing, and of one that is in the middle of a message.
const QUIET: usize = 1 << 10;
const BUSY: usize = 16 << 10;
/// What is written at once.
const WRITE: usize = 16 << 10;
/// How long a connection that has ended may take to send its last messages, and how long its peer to end it too.
const LAST_WORDS: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_secs(1);

/// What a worker hears of a connection.
#[derive(Debug)]
pub struct FromStream {
    /// On which listener.
    pub listener: ListenerId,
    /// Of which peer.
    pub from: PeerAddr,
    /// What.
    pub told: Told,
}

/// What there is to hear.
#[derive(Debug)]
pub enum Told {
    /// It is open, and this is the way to its peer.
    Opened(StreamHandle, StreamEvent),
    /// A message came, in the form of a datagram.
    Message(BytesMut),
    /// Something else happened.
    Event(StreamEvent),
}

/// The way to the peer of a connection. When it is dropped the connection ends, once what was sent has left.
#[derive(Debug)]
pub struct StreamHandle {
    to: mpsc::UnboundedSender<Box<[u8]>>,
    unread: Arc<AtomicUsize>,
    _open: oneshot::Sender<()>,
}

impl StreamHandle {
    /// Sends bytes, after all that was sent before. How many wait is for the sender to bound.
    pub fn send(&self, bytes: &[u8]) {
        self.unread.fetch_add(bytes.len(), Ordering::Relaxed);
        // One that has ended says so itself.
        let _sent = self.to.send(bytes.into());
    }
}

/// What a connection is made with.
pub(crate) struct Connection {
    pub(crate) listener: ListenerId,
    pub(crate) from: PeerAddr,
    pub(crate) gate: Arc<Gate>,
    pub(crate) place: Place,
    pub(crate) worker: mpsc::Sender<FromStream>,
}

impl Connection {
    /// Tells the worker; false when it has ended.
    async fn tell(&self, told: Told) -> bool {
        let (listener, from) = (self.listener, self.from);
        self.worker
            .send(FromStream { listener, from, told })
            .await
            .is_ok()
    }
}

/// Serves one connection to its end.
pub(crate) async fn run(mut connection: Connection, stream: TcpStream) {
    let Some((stream, suite, client)) = handshake(&connection, stream).await else {
        return;
    };
    connection.place.opened();
    let (to, outgoing) = mpsc::unbounded_channel();
    let (open, closed) = oneshot::channel();
    let unread = Arc::<AtomicUsize>::default();
    let handle = StreamHandle {
        to,
        unread: Arc::clone(&unread),
        _open: open,
    };
    let opened = StreamEvent::Opened {
        identity: client.as_ref().and_then(|client| client.identity().cloned()),
        suite,
        credential: client.map(|client| Box::new(client) as Box<dyn Any + Send>),
    };
    if !connection.tell(Told::Opened(handle, opened)).await {
        return;
    }
    let partial = match &stream {
        Stream::Web(stream) => Some(stream.partial()),
        Stream::Plain(_) => None,
    };
    let (mut read_half, mut write_half) = tokio::io::split(stream);
    let drained = Notify::new();
    let mut unfinished = Unfinished {
        gate: &connection.gate,
        bytes: 0,
        partial,
    };
    let reason = tokio::select! {
        reason = read(&connection, &mut read_half, &mut unfinished, (&unread, &drained)) => reason,
        reason = write(&connection, &mut write_half, outgoing, (&unread, &drained)) => reason,
        () = async { drop(closed.await); sleep(LAST_WORDS).await } => CloseReason::StreamEnded,
    };
    if unread.load(Ordering::Relaxed) == 0 {
        say_why(reason, &mut write_half).await;
    }
    linger(read_half, write_half).await;
    // Before the socket closes, and its address may come again.
    connection.tell(Told::Event(StreamEvent::Ended(reason))).await;
}

/// The stream, through TLS and as a WebSocket where the listener speaks those, and who is there.
async fn handshake(
    connection: &Connection,
    stream: TcpStream,
) -> Option<(Stream, &'static str, Option<TlsClient>)> {
    let (plain, client) = secure(connection, stream).await?;
    let (gate, suite) = (&connection.gate, plain.suite());
    let Some(origins) = gate.settings().web else {
        return Some((Stream::Plain(plain), suite, client));
    };
    let web = WebStream::accept(plain, gate, &origins).await;
    if web.is_none() {
        gate.metrics.refused.inc(Refusal::Upgrade);
    }
    Some((Stream::Web(Box::new(web?)), suite, client))
}

/// The stream, through TLS where the listener speaks it, and who is there. One that fails is told of.
async fn secure(connection: &Connection, stream: TcpStream) -> Option<(Plain, Option<TlsClient>)> {
    let gate = &connection.gate;
    let Some(tls) = gate.tls(connection.from.source()) else {
        return Some((Plain::Tcp(stream), None));
    };
    let began = gate.now();
    let (context, ssl) = tls.ok()?;
    let mut stream = SslStream::new(ssl, stream).ok()?;
    let accepted = timeout(gate.settings().handshake_timeout, Pin::new(&mut stream).accept()).await;
    let (result, identity) = match &accepted {
        Ok(Ok(())) => match gate.client(&context, stream.ssl()) {
            Some(client) => {
                gate.metrics.handshakes.inc(HandshakeResult::Ok);
                return Some((Plain::Tls(Box::new(stream)), Some(client)));
            }
            None => (HandshakeResult::BadCertificate, None),
        },
        Ok(Err(error)) => context.tls_failure(stream.ssl(), error.ssl_error()),
        Err(_) => (HandshakeResult::Timeout, None),
    };
    gate.metrics.handshakes.inc(result);
    let after = gate.now().saturating_duration_since(began);
    let failed = StreamEvent::Failed {
        identity,
        result,
        after,
    };
    connection.tell(Told::Event(failed)).await;
    None
}

/// Bytes of a message that is not whole, counted with those of all connections.
struct Unfinished<'a> {
    gate: &'a Gate,
    bytes: usize,
    /// Of a WebSocket, which counts its own: only its whole messages are seen here.
    partial: Option<Arc<Partial>>,
}

impl Unfinished<'_> {
    /// Bytes that the length of a message may take which counts for no part of it: a WebSocket's messages have none.
    fn length(&self) -> usize {
        self.partial.as_ref().map_or(0, |_| frame::MAX_LENGTH)
    }

    fn set(&mut self, bytes: usize) {
        let all = &self.gate.unfinished;
        all.fetch_add(bytes, Ordering::Relaxed);
        all.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Reads messages and hands them on, until the stream ends or can be read no more.
async fn read(
    connection: &Connection,
    stream: &mut ReadHalf<Stream>,
    unfinished: &mut Unfinished<'_>,
    (unread, drained): (&AtomicUsize, &Notify),
) -> CloseReason {
    let mut bytes = BytesMut::new();
    let mut began: Option<Instant> = None;
    loop {
        let settings = connection.gate.settings();
        loop {
            while unread.load(Ordering::Relaxed) > UNREAD {
                drained.notified().await;
            }
            match frame::take(&mut bytes, settings.max_message + unfinished.length()) {
                Ok(Some(message)) => {
                    began = None;
                    if !connection.tell(Told::Message(message)).await {
                        return CloseReason::Shutdown;
                    }
                }
                Ok(None) => break,
                Err(_) => return CloseReason::MalformedStream,
            }
        }
        unfinished.set(bytes.len());
        let came = if bytes.is_empty() {
            if bytes.capacity() > BUSY {
                bytes = BytesMut::new();
            }
            bytes.reserve(QUIET);
            match &unfinished.partial {
                None => stream.read_buf(&mut bytes).await,
                Some(partial) => {
                    match read_whole(stream, &mut bytes, partial, settings.message_timeout).await {
                        Some(came) => came,
                        None => return CloseReason::UnfinishedMessage,
                    }
                }
            }
        } else {
            if bytes.len() > QUIET && !connection.gate.holds() {
                return CloseReason::Evicted;
            }
            let until = *began.get_or_insert_with(Instant::now) + settings.message_timeout;
            bytes.reserve(BUSY);
            match timeout_at(until, stream.read_buf(&mut bytes)).await {
                Ok(came) => came,
                Err(_) => return CloseReason::UnfinishedMessage,
            }
        };
        match came {
            Ok(1..) => {}
            Ok(0) => return CloseReason::StreamEnded,
            Err(error) => return ended(&error),
        }
    }
}

/// Reads from a WebSocket; nothing when a message that began is not whole in time.
async fn read_whole(
    stream: &mut ReadHalf<Stream>,
    bytes: &mut BytesMut,
    partial: &Partial,
    within: Duration,
) -> Option<io::Result<usize>> {
    let mut waits_for = None;
    loop {
        if let Ok(came) = timeout(within, stream.read_buf(bytes)).await {
            return Some(came);
        }
        let before = std::mem::replace(&mut waits_for, partial.message());
        if before.is_some() && before == waits_for {
            return None;
        }
    }
}

/// Writes what is sent, as far as the peer takes it.
async fn write(
    connection: &Connection,
    stream: &mut WriteHalf<Stream>,
    mut outgoing: mpsc::UnboundedReceiver<Box<[u8]>>,
    (unread, drained): (&AtomicUsize, &Notify),
) -> CloseReason {
    let mut batch = BytesMut::new();
    while let Some(first) = outgoing.recv().await {
        batch.extend_from_slice(&first);
        while batch.len() < WRITE
            && let Ok(next) = outgoing.try_recv()
        {
            batch.extend_from_slice(&next);
        }
        let within = connection.gate.settings().message_timeout;
        while !batch.is_empty() {
            let written = match timeout(within, stream.write(&batch)).await {
                Ok(Ok(written @ 1..)) => written,
                Ok(Ok(0)) => return CloseReason::StreamEnded,
                Ok(Err(error)) => return ended(&error),
                Err(_) => return CloseReason::SlowReader,
            };
            batch.advance(written);
            unread.fetch_sub(written, Ordering::Relaxed);
            drained.notify_one();
            if !connection.tell(Told::Event(StreamEvent::Written(written))).await {
                return CloseReason::Shutdown;
            }
        }
    }
    CloseReason::StreamEnded
}

/// What marks an error of the system in OpenSSL's queue, with its number in the rest (`ERR_SYSTEM_FLAG` of `openssl/err.h`).
const ERR_SYSTEM_FLAG: u32 = 1 << 31;

/// Why the kernel gave a connection up. From OpenSSL 3.2 on, an error of the system stands in OpenSSL's queue.
fn ended(error: &io::Error) -> CloseReason {
    const TIMED_OUT: u32 = ERR_SYSTEM_FLAG | libc::ETIMEDOUT.unsigned_abs();
    let tls = error.get_ref().and_then(|why| why.downcast_ref::<ssl::Error>());
    let mut queue = tls
        .and_then(ssl::Error::ssl_error)
        .into_iter()
        .flat_map(ErrorStack::errors);
    match error.kind() {
        io::ErrorKind::TimedOut => CloseReason::SlowReader,
        io::ErrorKind::InvalidData => CloseReason::MalformedStream,
        io::ErrorKind::QuotaExceeded => CloseReason::Evicted,
        _ if queue.any(|it| it.code() == c_ulong::from(TIMED_OUT)) => CloseReason::SlowReader,
        _ => CloseReason::StreamEnded,
    }
}

/// Tells a peer why its connection ends, where it was not the gateway that ended it.
async fn say_why(reason: CloseReason, stream: &mut WriteHalf<Stream>) {
    let why = match reason {
        CloseReason::MalformedStream => "no message, or too long",
        CloseReason::UnfinishedMessage => "a message was not finished in time",
        CloseReason::Evicted => "no room",
        _ => return,
    };
    let mut last = Vec::new();
    frame::write(&signal::abort(None, why), &mut last);
    // One that is gone need not hear it.
    let _told = timeout(LINGER, stream.write_all(&last)).await;
}

/// Ends a connection so that its last words arrive: with bytes unread it would end with a reset that overtakes them.
async fn linger(read_half: ReadHalf<Stream>, write_half: WriteHalf<Stream>) {
    let mut stream = read_half.unsplit(write_half);
    let mut scrap = [0; 1024];
    let _ended = timeout(LINGER, async {
        if stream.shutdown().await.is_ok() {
            while matches!(stream.read(&mut scrap).await, Ok(1..)) {}
        }
    })
    .await;
}

/// The bytes of a connection.
enum Stream {
    Plain(Plain),
    Web(Box<WebStream<Plain>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Web(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Web(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Web(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Web(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The bytes beneath.
enum Plain {
    Tcp(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Plain {
    fn suite(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "none",
            Self::Tls(stream) => {
                let cipher = stream.ssl().current_cipher();
                cipher
                    .and_then(|cipher| cipher.standard_name())
                    .unwrap_or("unknown")
            }
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
