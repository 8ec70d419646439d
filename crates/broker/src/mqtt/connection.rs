//! A session on a socket: TCP, or TLS by OpenSSL. Made anew for each attempt; nothing of an old one is used again.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use openssl::ssl::SslConnector;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::faults;
use super::session::{Ending, Happening, Session};
use crate::metrics::ConnectResult;
use crate::settings::BrokerAddress;

/// How long an attempt may take, to the answer to CONNECT.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Room for what is read at once, in bytes.
const READ: usize = 64 << 10;

enum Transport {
    Tcp(TcpStream),
    Tls(SslStream<TcpStream>),
}

type Opening = Pin<Box<dyn Future<Output = Result<Transport, String>> + Send>>;

enum Stage {
    Opening(Opening),
    Open(Transport),
    Over,
}

/// A connection, from the attempt to its end.
pub(super) struct Connection {
    pub(super) session: Session,
    stage: Stage,
    now: fn() -> Instant,
    begun: Instant,
    connected: bool,
}

impl Connection {
    /// Begins an attempt.
    pub(super) fn open(
        address: &BrokerAddress,
        tls: Option<SslConnector>,
        session: Session,
        now: fn() -> Instant,
    ) -> Self {
        Self {
            session,
            stage: Stage::Opening(Box::pin(open(address.host.clone(), address.port, tls))),
            now,
            begun: now(),
            connected: false,
        }
    }

    /// What happens next; for ever pending once it is over. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<Happening> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Writes what can be written without waiting, all of it at once.
    pub(super) async fn flush(&mut self) {
        poll_fn(|cx| {
            // An error shows again at the next read.
            drop(self.poll_write(cx));
            Poll::Ready(())
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Happening>> {
        let mut happenings = Vec::new();
        let ending = match self.work(cx, &mut happenings) {
            Poll::Ready(Err(ending)) => Some(ending),
            Poll::Ready(Ok(())) => None,
            Poll::Pending if happenings.is_empty() => return Poll::Pending,
            Poll::Pending => None,
        };
        happenings.extend(ending.map(Happening::Ended));
        if matches!(happenings.last(), Some(Happening::Ended(_))) {
            self.stage = Stage::Over;
        }
        Poll::Ready(happenings)
    }

    /// Opens, writes, reads; ready when something was read.
    fn work(&mut self, cx: &mut Context<'_>, happenings: &mut Vec<Happening>) -> Poll<Result<(), Ending>> {
        if let Stage::Opening(opening) = &mut self.stage {
            match ready!(opening.as_mut().poll(cx)) {
                Ok(transport) => self.stage = Stage::Open(transport),
                Err(text) => return Poll::Ready(Err(Ending::ours(text))),
            }
        }
        while happenings.is_empty() {
            if let Err(error) = self.poll_write(cx) {
                return Poll::Ready(Err(self.failed(&error)));
            }
            if !self.session.has_more() {
                let Stage::Open(transport) = &mut self.stage else {
                    return Poll::Pending;
                };
                if !self.session.reads() {
                    return Poll::Pending;
                }
                match ready!(transport.read(cx, &mut self.session.input)) {
                    Ok(0) => return Poll::Ready(Err(self.session.closed("closed by the broker"))),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(self.failed(&error))),
                }
            }
            self.session.receive((self.now)(), happenings);
            self.connected |= matches!(happenings.first(), Some(Happening::Connected(_)));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Stage::Open(transport) = &mut self.stage else {
            return Ok(());
        };
        while !self.session.output.is_empty() {
            match transport.write(cx, &self.session.output) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => self.session.output.advance(written),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Ending {
        let reset = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
        );
        if reset && self.connected {
            return self.session.closed(&error.to_string());
        }
        Ending::ours(error.to_string())
    }

    /// What the clock brings: pings, and the end of what takes too long.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Ending> {
        if !self.connected && now.saturating_duration_since(self.begun) >= CONNECT_PATIENCE {
            let silent = matches!(self.stage, Stage::Open(_));
            return Some(Ending {
                result: ConnectResult::Unreachable,
                ..Ending::ours(match silent {
                    true => "the broker does not answer",
                    false => "no connection in time",
                })
            });
        }
        self.session.tick(now)
    }
}

async fn open(host: String, port: u16, tls: Option<SslConnector>) -> Result<Transport, String> {
    let host = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| faults::connect(host, port, &error))?;
    stream.set_nodelay(true).map_err(|error| faults::plain(&error))?;
    let Some(connector) = tls else {
        return Ok(Transport::Tcp(stream));
    };
    let ssl = connector
        .configure()
        .and_then(|configuration| configuration.into_ssl(host))
        .map_err(|error| format!("TLS: {error}"))?;
    let mut stream = SslStream::new(ssl, stream).map_err(|error| format!("TLS: {error}"))?;
    let verified = Pin::new(&mut stream).connect().await;
    verified.map_err(|error| faults::tls(host, stream.ssl().verify_result(), &error))?;
    Ok(Transport::Tls(stream))
}

impl Transport {
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Reads what is there behind what `into` holds.
    fn read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        if into.capacity() - into.len() < READ / 4 {
            into.reserve(READ);
        }
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(into)).poll(cx),
            Self::Tls(stream) => pin!(stream.read_buf(into)).poll(cx),
        }
    }
}
