//! Datagrams from node to node: what arrived at one node and is for a session of another, and the answers that leave by the first.
//!
//! They travel beside the channel of TLS, because who waits for an earlier one serves nobody meanwhile: one that finds no room is lost, as
//! any datagram may be, and counted.
//!
//! ```text
//! version 1 | boot of the sender 16 | counter 8 | AES-256-GCM ( kind 1 | ... ) | tag 16
//! ```
//! The key is made of `group.key` and of what both processes drew at their start, and the counter never repeats within the sender's. So a
//! datagram opens at one process, once: what is recorded does nothing there again, and nothing anywhere else.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use portcullis_net::RecvBatch;
use portcullis_net::options::report_drops;
use portcullis_proto::gateway::nodes::NodeMessage;
use portcullis_proto::labels;
use portcullis_proto::state::{ReadBytes, WriteBytes};
use portcullis_proto::types::PeerAddr;
use portcullis_proto::types::peer::{PROCESS, Via};
use tokio::io::Interest;
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

use super::key::{BYTES, GroupKey};
use super::member::Member;
use super::metrics::{GroupMetrics, Received};
use super::replay::Window;
use super::{Group, View};

const VERSION: u8 = 1;
const BOOT: usize = 16;
const COUNTER: usize = 8;
const HEADER: usize = 1 + BOOT + COUNTER;
const TAG: usize = 16;

/// Longest payload of a UDP datagram over IPv4.
const LONGEST: usize = 65_507;

const RECORD: u8 = 1;
const ANSWER: u8 = 2;

/// Addresses of this node that peers write to; more are not told apart.
const LOCALS: usize = 4096;

/// How long nothing is taken in after the socket failed.
const PAUSE: Duration = Duration::from_millis(10);

/// What a process draws at its start.
type Boot = [u8; BOOT];

labels! {
    /// What became of a datagram for another node.
    pub enum Sent {
        /// It is on its way.
        Ok = "ok",
        /// No node with that id lives, as far as is known here.
        UnknownNode = "unknown_node",
        /// The process that the peer was reached by is gone: the way back is known again with what the peer sends next.
        Gone = "gone",
        /// The socket had no room for it.
        QueueFull = "queue_full",
        /// It is too long for a datagram between nodes.
        TooLong = "too_long",
        /// The socket would not take it.
        Failed = "failed",
    }
}

/// Another node that lives.
struct Other {
    id: u16,
    address: SocketAddr,
    boot: Boot,
    seals: Zeroizing<[u8; BYTES]>,
    opens: Zeroizing<[u8; BYTES]>,
}

/// The datagrams of this node to the others and back. Sending never waits.
pub struct Links {
    socket: UdpSocket,
    key: Arc<GroupKey>,
    boot: Boot,
    counter: AtomicU64,
    others: RwLock<HashMap<u16, Arc<Other>>>,
    /// Addresses of this node, by the numbers that other nodes have for them.
    locals: RwLock<Vec<IpAddr>>,
    /// Whether answers leave by the node that has the session.
    direct: bool,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// Takes in what other nodes send until it is dropped.
#[derive(Debug)]
pub struct Listening(#[expect(dead_code, reason = "its drop is what ends it")] oneshot::Sender<()>);

impl Links {
    /// The datagrams of a node of `group` over `socket`; `direct` has the answers to what others send here leave from here.
    ///
    /// # Errors
    /// The socket cannot be used, or what the process drew is no such thing: without it nonces would repeat.
    pub fn new(group: &Group, socket: UdpSocket, direct: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        report_drops(socket.as_fd())?;
        Ok(Self {
            socket,
            key: Arc::clone(group.key()),
            boot: boot_of(group.boot()).ok_or(io::ErrorKind::InvalidData)?,
            counter: AtomicU64::new(0),
            others: RwLock::default(),
            locals: RwLock::default(),
            direct,
        })
    }

    /// Sends a record that arrived here to the node whose session it is of.
    pub fn forward(&self, node: u16, listener: u64, from: PeerAddr, record: &[u8]) -> Sent {
        let mut text = WriteBytes::default();
        text.u8(RECORD)
            .u64(listener)
            .u16(self.number_of(from.local()))
            .raw(&from.to_bytes())
            .raw(record);
        self.send(node, None, &text)
    }

    /// Sends what a session here says to a peer whose records reach another node.
    pub fn answer(&self, via: Via, to: PeerAddr, datagram: &[u8]) -> Sent {
        let mut text = WriteBytes::default();
        text.u8(ANSWER)
            .u32(via.listener)
            .u16(via.local)
            .raw(&to.to_bytes())
            .raw(datagram);
        self.send(via.node, Some(via.process), &text)
    }

    /// Sends to a node, where a process is named to that one only.
    fn send(&self, node: u16, process: Option<[u8; PROCESS]>, text: &WriteBytes) -> Sent {
        let other = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let Some(other) = other.get(&node).cloned() else {
            return Sent::UnknownNode;
        };
        if process.is_some_and(|process| !other.boot.starts_with(&process)) {
            return Sent::Gone;
        }
        if HEADER + text.as_slice().len() + TAG > LONGEST {
            return Sent::TooLong;
        }
        let Some(datagram) = self.seal(&other, text.as_slice()) else {
            return Sent::Failed;
        };
        match self.socket.send_to(&datagram, other.address) {
            Ok(_) => Sent::Ok,
            Err(error) if is_full(&error) => Sent::QueueFull,
            Err(_) => Sent::Failed,
        }
    }

    fn seal(&self, other: &Other, text: &[u8]) -> Option<Vec<u8>> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let header = [&[VERSION][..], &self.boot, &counter].concat();
        let mut tag = [0; TAG];
        let (cipher, nonce) = (Cipher::aes_256_gcm(), nonce(counter));
        let sealed = encrypt_aead(cipher, &*other.seals, Some(&nonce), &header, text, &mut tag).ok()?;
        Some([&header[..], &sealed, &tag].concat())
    }

    /// The number of one of our addresses; 0 where the kernel chooses.
    fn number_of(&self, local: Option<IpAddr>) -> u16 {
        let Some(local) = local else { return 0 };
        let find = |locals: &[IpAddr]| locals.iter().position(|known| *known == local);
        let known = find(&self.locals.read().unwrap_or_else(PoisonError::into_inner));
        let at = known.or_else(|| {
            let mut locals = self.locals.write().unwrap_or_else(PoisonError::into_inner);
            find(&locals).or_else(|| {
                (locals.len() < LOCALS).then(|| {
                    locals.push(local);
                    locals.len() - 1
                })
            })
        });
        at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or_default()
    }

    fn local(&self, number: u16) -> Option<IpAddr> {
        let locals = self.locals.read().unwrap_or_else(PoisonError::into_inner);
        locals.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Knows these nodes, and no others, from now on.
    fn set_members(&self, members: &[Member]) {
        let known = self.others.read().unwrap_or_else(PoisonError::into_inner).clone();
        // Keys are made before those who send have to wait.
        let others = members.iter().filter_map(|member| {
            let boot = boot_of(&member.boot).filter(|boot| *boot != self.boot)?;
            let same = |other: &&Arc<Other>| other.boot == boot && other.address == member.address;
            let other = known.get(&member.id).filter(same).cloned();
            Some((
                member.id,
                other.unwrap_or_else(|| Arc::new(self.other(member, boot))),
            ))
        });
        let others = others.collect();
        *self.others.write().unwrap_or_else(PoisonError::into_inner) = others;
    }

    fn other(&self, member: &Member, boot: Boot) -> Other {
        let key = |from: &Boot, to: &Boot| self.key.proof("datagrams", &[from, to]);
        Other {
            id: member.id,
            address: member.address,
            boot,
            seals: key(&self.boot, &boot),
            opens: key(&boot, &self.boot),
        }
    }

    fn from(&self, boot: Boot) -> Option<Arc<Other>> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.values().find(|other| other.boot == boot).cloned()
    }

    /// Takes in what others send, on a thread of its own, and tells `lives` the id of this node and those of the others whenever they change.
    /// `take` says whether there was room for what it got.
    ///
    /// # Errors
    /// The thread, or its runtime, cannot be had.
    pub fn listen(
        self: &Arc<Self>,
        group: &Group,
        lives: impl Fn(Option<u16>, &[Member]) + Send + 'static,
        take: impl Fn(NodeMessage) -> bool + Send + 'static,
    ) -> io::Result<Listening> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let socket = self.socket.try_clone()?;
        let (links, view, metrics) = (Arc::clone(self), group.watch(), Arc::clone(group.metrics()));
        let (ends, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("nodes".to_owned())
            .spawn(move || {
                let taken = runtime.block_on(links.run(socket, view, end, &metrics, lives, take));
                if let Err(error) = taken {
                    tracing::error!(%error, "nothing is taken in of other nodes any more");
                }
            })?;
        Ok(Listening(ends))
    }

    async fn run(
        &self,
        socket: UdpSocket,
        mut view: watch::Receiver<View>,
        mut end: oneshot::Receiver<()>,
        metrics: &GroupMetrics,
        lives: impl Fn(Option<u16>, &[Member]),
        take: impl Fn(NodeMessage) -> bool,
    ) -> io::Result<()> {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let (mut batch, mut lost) = (RecvBatch::new(), 0);
        // Of every process that was ever heard, for the life of this one: one whose lease was late for a moment is the same as before,
        // and what it sent before then was taken. Half a kilobyte for each start of a node.
        let mut windows = HashMap::new();
        view.mark_changed();
        loop {
            tokio::select! {
                biased;
                _ = &mut end => return Ok(()),
                changed = view.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = view.borrow_and_update().clone();
                    self.set_members(&now.members);
                    lives(now.node, &now.members);
                }
                ready = socket.readable() => {
                    ready?;
                    let read = || batch.receive(socket.as_fd());
                    let count = match socket.try_io(Interest::READABLE, read) {
                        Ok(count) => count,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(_) => {
                            metrics.datagrams.inc(Received::Failed);
                            // One that stays would take a processor.
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                    };
                    for index in 0..count {
                        let Some(datagram) = batch.datagram(index) else {
                            continue;
                        };
                        if let Some(drops) = datagram.drops {
                            let more: u32 = drops.wrapping_sub(lost);
                            metrics.datagrams.add(Received::SocketFull, more.into());
                            lost = drops;
                        }
                        let said = self.open(datagram.bytes, &mut windows);
                        metrics.datagrams.inc(match said {
                            Ok((what, said)) => if take(said) { what } else { Received::QueueFull },
                            Err(why) => why,
                        });
                    }
                }
            }
        }
    }

    fn open(
        &self,
        datagram: &[u8],
        windows: &mut HashMap<Boot, Window>,
    ) -> Result<(Received, NodeMessage), Received> {
        let (header, sealed) = datagram.split_at_checked(HEADER).ok_or(Received::Malformed)?;
        let mut fields = ReadBytes(header);
        if fields.u8() != Some(VERSION) {
            return Err(Received::Malformed);
        }
        let (boot, counter) = (fields.array::<BOOT>(), fields.array::<COUNTER>());
        let (boot, counter) = boot.zip(counter).ok_or(Received::Malformed)?;
        let (text, tag) = sealed.split_last_chunk::<TAG>().ok_or(Received::Malformed)?;
        let other = self.from(boot).ok_or(Received::UnknownNode)?;
        let window = windows.entry(boot).or_default();
        let number = u64::from_be_bytes(counter);
        if !window.admits(number) {
            return Err(Received::Replay);
        }
        let (cipher, nonce) = (Cipher::aes_256_gcm(), nonce(counter));
        let opened = decrypt_aead(cipher, &*other.opens, Some(&nonce), header, text, tag);
        let opened = opened.map(Zeroizing::new).map_err(|_| Received::NotAuthentic)?;
        window.mark(number);
        self.read(&other, &opened).ok_or(Received::Malformed)
    }

    fn read(&self, sender: &Other, text: &[u8]) -> Option<(Received, NodeMessage)> {
        let mut bytes = ReadBytes(text);
        match bytes.u8()? {
            RECORD => {
                let (listener, local) = (bytes.u64()?, bytes.u16()?);
                let from = PeerAddr::from_bytes(&bytes.array()?)?;
                let via = Via {
                    node: sender.id,
                    process: *sender.boot.first_chunk()?,
                    local,
                    listener: listener as u32,
                };
                let from = if self.direct { from } else { from.reached_by(via) };
                let bytes = bytes.0.into();
                let said = NodeMessage::Record {
                    listener,
                    from,
                    bytes,
                };
                Some((Received::Record, said))
            }
            ANSWER => {
                let (listener, local) = (bytes.u32()?, bytes.u16()?);
                let to = PeerAddr::from_bytes(&bytes.array()?)?;
                let to = to.writing_to(self.local(local));
                let bytes = bytes.0.into();
                Some((Received::Answer, NodeMessage::Answer { listener, to, bytes }))
            }
            _ => None,
        }
    }
}

fn nonce(counter: [u8; COUNTER]) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = counter;
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

fn boot_of(text: &str) -> Option<Boot> {
    let mut boot = [0; BOOT];
    hex::decode_to_slice(text, &mut boot).ok()?;
    Some(boot)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory
    ) || error.raw_os_error() == Some(NO_BUFFERS)
}

/// ENOBUFS of Linux.
const NO_BUFFERS: i32 = 105;

#[cfg(test)]
mod tests;
