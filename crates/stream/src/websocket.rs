//! CoAP over WebSockets (RFC 8323, 4): the same messages, each in a binary message of its own and without a length of its own. To what
//! reads and writes it, it is the same stream of bytes.

use std::io;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use futures_util::{FutureExt as _, Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::frame;
use crate::gate::Gate;
use crate::web_frames::WebFrames;

/// Where it is found (RFC 8323, 8.3), and what it is called there (RFC 8323, 4.1).
const PATH: &str = "/.well-known/coap";
const PROTOCOL: &str = "coap";
/// What is read, and written, at once.
const READ: usize = 4 << 10;
const WRITE: usize = 16 << 10;
/// What a message that is longer leaves behind, in buffers that have grown with it, is given back.
const LONG: usize = 8 << 10;
/// Bytes of a message that is not whole which every connection may hold.
const QUIET: usize = 1 << 10;

/// Bytes that came and are no whole message yet, counted with those of all connections.
#[derive(Debug)]
pub(crate) struct Partial {
    gate: Arc<Gate>,
    bytes: AtomicUsize,
    /// Which message is under way, counted from 1; 0 is none.
    message: AtomicU64,
}

impl Partial {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Which message is under way, if one is.
    pub(crate) fn message(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.message.load(Ordering::Relaxed))
    }

    fn set(&self, bytes: usize) {
        let all = &self.gate.unfinished;
        all.fetch_add(bytes, Ordering::Relaxed);
        all.fetch_sub(self.bytes.swap(bytes, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn follow(&self, frames: &WebFrames) {
        self.set(frames.held());
        let message = if frames.is_under_way() {
            frames.rests() + 1
        } else {
            0
        };
        self.message.store(message, Ordering::Relaxed);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A stream whose bytes are counted until they are a message.
struct Metered<S> {
    /// None when another one has it.
    inner: Option<S>,
    partial: Arc<Partial>,
    /// None until it is a WebSocket.
    frames: Option<WebFrames>,
}

impl<S: Unpin> Metered<S> {
    fn inner(&mut self) -> io::Result<Pin<&mut S>> {
        let inner = self.inner.as_mut().map(Pin::new);
        inner.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.partial.bytes() > QUIET && !this.partial.gate.holds() {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let before = buf.filled().len();
        ready!(this.inner()?.poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        let partial = &this.partial;
        match &mut this.frames {
            None => partial.set(partial.bytes() + came.len()),
            Some(frames) => {
                let most = partial.gate.settings().max_message;
                let followed = frames.follow(came, most);
                partial.follow(frames);
                followed.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().inner()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner()?.poll_shutdown(cx)
    }
}

/// How long messages may be is for [`WebFrames`] to see, which knows of settings that change.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(WRITE)
        .max_message_size(None)
        .max_frame_size(None)
}

/// A WebSocket as a stream of CoAP messages.
pub(crate) struct WebStream<S> {
    socket: WebSocketStream<Metered<S>>,
    partial: Arc<Partial>,
    /// What came and was not read yet, as it would stand in a stream.
    came: BytesMut,
    /// Bytes of the write under way that the socket has, and that have not left.
    taken: usize,
    /// Messages, and frames about the connection, that the socket gave out since it began, or began anew.
    given: u64,
    owes_pong: bool,
    /// Whether there was a long message since the buffers were small.
    has_grown: bool,
    is_closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebStream<S> {
    /// Waits for the request that makes a stream a WebSocket, and agrees; nothing where it does not come or is another one.
    #[expect(clippy::result_large_err, reason = "the callback has this type")]
    pub(crate) async fn accept(stream: S, gate: &Arc<Gate>, origins: &[Box<str>]) -> Option<Self> {
        let partial = Arc::new(Partial {
            gate: Arc::clone(gate),
            bytes: AtomicUsize::new(0),
            message: AtomicU64::new(0),
        });
        let stream = Metered {
            inner: Some(stream),
            partial: Arc::clone(&partial),
            frames: None,
        };
        let agree = |request: &Request, response| agree(request, response, origins);
        let accepted = accept_hdr_async_with_config(stream, agree, Some(config()));
        let within = gate.settings().handshake_timeout;
        let mut socket = timeout(within, accepted).await.ok()?.ok()?;
        partial.set(0);
        socket.get_mut().frames = Some(WebFrames::default());
        Some(Self {
            socket,
            partial,
            came: BytesMut::new(),
            taken: 0,
            given: 0,
            owes_pong: false,
            has_grown: false,
            is_closing: false,
        })
    }

    /// What came of a message that is not whole.
    pub(crate) fn partial(&self) -> Arc<Partial> {
        Arc::clone(&self.partial)
    }

    /// Takes in what the socket was sent.
    fn take(&mut self, message: Message) -> io::Result<()> {
        self.given += 1;
        match message {
            Message::Binary(bytes) => {
                self.has_grown |= bytes.len() > LONG;
                frame::from_web(&bytes, &mut self.came)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
            }
            Message::Ping(_) => {
                self.owes_pong = true;
                Ok(())
            }
            Message::Pong(_) => Ok(()),
            Message::Text(_) | Message::Frame(_) => Err(io::ErrorKind::InvalidData.into()),
            Message::Close(_) => {
                self.is_closing = true;
                Ok(())
            }
        }
    }

    /// Begins anew with small buffers, where there was a long message and nothing is in them: they never shrink.
    fn shrink(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.came.is_empty() && self.has_grown {
            self.came = BytesMut::new();
        }
        let frames = self.socket.get_ref().frames.as_ref();
        let is_read = frames.is_some_and(|it| !it.is_under_way() && it.whole() == self.given);
        if !self.has_grown || self.is_closing || !is_read || self.taken > 0 {
            return Ok(());
        }
        if Pin::new(&mut self.socket)
            .poll_flush(cx)
            .map_err(broken)?
            .is_pending()
        {
            return Ok(());
        }
        let stream = Metered {
            inner: self.socket.get_mut().inner.take(),
            partial: Arc::clone(&self.partial),
            frames: Some(WebFrames::default()),
        };
        let anew = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config()));
        // There is nothing that it would wait for.
        self.socket = anew.now_or_never().ok_or(io::ErrorKind::NotConnected)?;
        (self.given, self.has_grown) = (0, false);
        Ok(())
    }
}

/// Agrees to a request that asks for CoAP where it is found.
#[expect(clippy::result_large_err, reason = "the callback has this type")]
fn agree(request: &Request, mut response: Response, origins: &[Box<str>]) -> Result<Response, ErrorResponse> {
    let headers = request.headers();
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    // A page of a browser says where it is from, and comes from anywhere.
    let mut pages = headers.get_all(ORIGIN).iter();
    let refused = if request.uri().path() != PATH {
        Some((StatusCode::NOT_FOUND, "CoAP is at /.well-known/coap"))
    } else if !offered.any(|name| name.trim() == PROTOCOL) {
        Some((StatusCode::BAD_REQUEST, "the subprotocol is coap"))
    } else if !pages.all(|page| origins.iter().any(|known| known.as_bytes() == page.as_bytes())) {
        Some((StatusCode::FORBIDDEN, "pages from there are not let in"))
    } else {
        None
    };
    if let Some((status, why)) = refused {
        let mut refusal = ErrorResponse::new(Some(why.to_owned()));
        *refusal.status_mut() = status;
        return Err(refusal);
    }
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            io::ErrorKind::ConnectionAborted.into()
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.came.is_empty() {
            // Who asks for pongs has to take them: while one has not left, nothing more is read.
            if this.owes_pong {
                ready!(Pin::new(&mut this.socket).poll_flush(cx)).map_err(broken)?;
                this.owes_pong = false;
            }
            this.shrink(cx)?;
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(message)) => this.take(message)?,
                Some(Err(error)) => match broken(error) {
                    error if error.kind() == io::ErrorKind::ConnectionAborted => return Poll::Ready(Ok(())),
                    error => return Poll::Ready(Err(error)),
                },
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = this.came.len().min(buf.remaining());
        buf.put_slice(this.came.get(..len).unwrap_or_default());
        this.came.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebStream<S> {
    /// Takes whole messages, as they stand in a stream.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.taken == 0 {
            while this.taken < WRITE
                && let Some((len, message)) = bytes.get(this.taken..).and_then(frame::to_web)
            {
                match Pin::new(&mut this.socket).poll_ready(cx).map_err(broken)? {
                    Poll::Ready(()) => {}
                    Poll::Pending if this.taken == 0 => return Poll::Pending,
                    Poll::Pending => break,
                }
                Pin::new(&mut this.socket)
                    .start_send(Message::binary(message))
                    .map_err(broken)?;
                this.taken += len;
            }
        }
        ready!(Pin::new(&mut this.socket).poll_flush(cx)).map_err(broken)?;
        this.has_grown |= this.taken > LONG;
        let taken = std::mem::take(&mut this.taken);
        this.shrink(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket)
            .poll_flush(cx)
            .map_err(broken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.is_closing = true;
        Pin::new(&mut this.socket).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
mod tests;
