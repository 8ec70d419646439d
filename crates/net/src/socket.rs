//! One socket in a worker: read a batch, write a batch.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use portcullis_proto::types::{ListenerId, PeerAddr};

use super::datagram::{Datagram, Outgoing};
use super::errno::{AfterReceive, AfterSend, SendError, after_receive, after_send, blames_source};
use super::metrics::{ListenerNet, NetMetrics};
use super::mmsg::{self, Prepared, RecvBatch, SLOTS, SendBatch};

/// How long a worker waits for room in a send buffer before it drops: longer than a queue takes to drain, shorter than
/// anyone notices at the other listeners.
const SEND_WAIT: Duration = Duration::from_millis(5);

/// A datagram is offered this often when the kernel only reports the error of another one.
const SEND_TRIES: u32 = 4;

/// A socket of one listener in one worker.
#[derive(Debug)]
pub struct Socket {
    // Only for reading: with interest in writing, each datagram that leaves would wake the worker.
    fd: AsyncFd<UdpSocket>,
    listener: ListenerId,
    ipv6: bool,
    drops: u32,
    clogged: bool,
    retry: bool,
    metrics: Arc<NetMetrics>,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// How many datagrams are in the batch.
    pub count: usize,
    /// Whether there may be more right now.
    pub more: bool,
}

impl Socket {
    /// Registers a bound, non-blocking socket with the runtime of this thread.
    ///
    /// # Errors
    /// The runtime or the kernel refuses it.
    pub fn new(listener: ListenerId, socket: UdpSocket, metrics: Arc<NetMetrics>) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let granted = socket2::SockRef::from(&socket).recv_buffer_size()?;
        if let Some(counters) = metrics.listener(listener) {
            counters.receive_buffer.set(granted as u64);
        }
        Ok(Self {
            fd: mmsg::watch(socket, Interest::READABLE)?,
            listener,
            ipv6: local.is_ipv6(),
            drops: 0,
            clogged: false,
            retry: false,
            metrics,
        })
    }

    /// The listener that it belongs to.
    #[must_use]
    pub fn listener(&self) -> ListenerId {
        self.listener
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// The errno of getsockname.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.fd.get_ref().local_addr()
    }

    #[cfg(test)]
    pub(super) fn as_udp(&self) -> &UdpSocket {
        self.fd.get_ref()
    }

    /// Ready when [`Socket::receive`] may find something.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fd
            .poll_read_ready(cx)
            .map_ok(|mut guard| guard.retain_ready())
    }

    /// Reads one batch without waiting.
    ///
    /// # Errors
    /// Only errors after which the socket is useless ([`AfterReceive::End`]).
    pub fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<Received> {
        let (mut count, mut failed) = (0, None);
        let mut read = |socket: &UdpSocket| match batch.receive(socket.as_fd()) {
            Ok(n) => {
                count = n;
                // Fewer than there are slots means that the queue was emptied: the next datagram makes a new event.
                if n < SLOTS {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                }
            }
            Err(error) => {
                let after = after_receive(&error);
                failed = (after != AfterReceive::Empty).then_some((after, error));
                if after == AfterReceive::Again {
                    Ok(())
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            }
        };
        let more = if std::mem::take(&mut self.retry) {
            read(self.fd.get_ref())
        } else {
            self.fd.try_io(Interest::READABLE, read)
        };
        if let Some((after, error)) = failed {
            if let Some(counters) = self.counters() {
                counters.receive_errors.inc();
            }
            match after {
                AfterReceive::End => return Err(error),
                after => self.retry = after == AfterReceive::Later,
            }
        }
        Ok(Received {
            count,
            more: more.is_ok(),
        })
    }

    /// Whether the last read failed in a way that no event tells the end of: read again after a while.
    #[must_use]
    pub fn wants_retry(&self) -> bool {
        self.retry
    }

    /// Counts a datagram. Whether it is whole.
    pub fn admit(&mut self, datagram: &Datagram<'_>) -> bool {
        let Some(counters) = self.metrics.listener(self.listener) else {
            return !datagram.truncated;
        };
        counters.received.inc();
        counters.received_bytes.add(datagram.bytes.len() as u64);
        if let Some(drops) = datagram.drops {
            counters
                .socket_drops
                .add(u64::from(drops.wrapping_sub(self.drops)));
            self.drops = drops;
        }
        if datagram.truncated {
            counters.truncated.inc();
        }
        !datagram.truncated
    }

    fn counters(&self) -> Option<&ListenerNet> {
        self.metrics.listener(self.listener)
    }

    /// Sends datagrams to peers, in order, each from the address that its peer wrote to. Each is taken by the kernel or counted as a send error.
    ///
    /// # Errors
    /// Only errors after which the socket is useless ([`AfterSend::End`]).
    pub async fn send<'a>(
        &mut self,
        batch: &mut SendBatch,
        mut datagrams: impl Iterator<Item = (PeerAddr, &'a [u8])>,
    ) -> io::Result<()> {
        loop {
            let outgoing = datagrams.by_ref().map(|(to, bytes)| Outgoing {
                to: to.socket_addr(),
                source: to.local(),
                bytes,
            });
            let mut prepared = batch.prepare(self.ipv6, outgoing);
            let full = prepared.len() == SLOTS;
            self.send_prepared(&mut prepared).await?;
            if !full {
                return Ok(());
            }
        }
    }

    async fn send_prepared(&mut self, prepared: &mut Prepared<'_>) -> io::Result<()> {
        let mut tries = 0;
        while !prepared.is_empty() {
            let error = match prepared.send(self.fd.get_ref().as_fd()) {
                Ok((sent, bytes)) => {
                    tries = 0;
                    self.clogged = false;
                    if let Some(counters) = self.counters() {
                        counters.sent.add(sent as u64);
                        counters.sent_bytes.add(bytes as u64);
                    }
                    continue;
                }
                Err(error) => error,
            };
            tries += 1;
            // The host may have lost the address that the answer was to leave from.
            if tries < SEND_TRIES && blames_source(&error) && prepared.drop_source() {
                continue;
            }
            match after_send(&error) {
                AfterSend::Again if tries < SEND_TRIES => {}
                AfterSend::Wait if tries < SEND_TRIES && self.has_room().await => {}
                AfterSend::Wait => self.give_up(prepared, SendError::WouldBlock),
                AfterSend::Again => self.give_up(prepared, SendError::Other),
                AfterSend::Skip(reason) => {
                    tries = 0;
                    self.give_up(prepared, reason);
                }
                AfterSend::End => return Err(error),
            }
        }
        Ok(())
    }

    fn give_up(&self, prepared: &mut Prepared<'_>, reason: SendError) {
        prepared.skip();
        if let Some(counters) = self.counters() {
            counters.send_errors.inc(reason);
        }
    }

    /// Waits for room in the send buffer. A socket that had none is not waited for again until it took something, so
    /// that one dead interface does not slow the other listeners.
    async fn has_room(&mut self) -> bool {
        if self.clogged {
            return false;
        }
        let writable = self
            .fd
            .get_ref()
            .try_clone()
            .and_then(|socket| mmsg::watch(socket, Interest::WRITABLE));
        self.clogged = match &writable {
            Ok(socket) => !matches!(timeout(SEND_WAIT, socket.writable()).await, Ok(Ok(_))),
            Err(_) => true,
        };
        !self.clogged
    }
}

/// What a worker needs for sending, beside its sockets.
#[derive(Default)]
pub struct Outbox {
    batch: SendBatch,
}

impl Outbox {
    /// Sends what waits, each through the socket of its listener, by id; neighbours of one listener go in one call. What has no
    /// socket any more is dropped.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub async fn flush(
        &mut self,
        sockets: &mut [Option<Socket>],
        waiting: impl Iterator<Item = (ListenerId, PeerAddr, &[u8])>,
    ) -> io::Result<()> {
        let mut waiting = waiting.peekable();
        while let Some((listener, _, _)) = waiting.peek() {
            let listener = *listener;
            let Some(socket) = sockets.get_mut(usize::from(listener.0)).and_then(Option::as_mut) else {
                waiting.next();
                continue;
            };
            let run = std::iter::from_fn(|| waiting.next_if(|(id, _, _)| *id == listener));
            socket
                .send(&mut self.batch, run.map(|(_, to, bytes)| (to, bytes)))
                .await?;
        }
        Ok(())
    }
}
