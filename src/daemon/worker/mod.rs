//! A worker: one thread, one core, a socket per listener.
//!
//! One turn of the loop, in this order and with these budgets, so that what finishes work goes before what brings more:
//!
//! 1. commands of the operator, 16;
//! 2. timers that are due, all;
//! 3. messages of other workers and verdicts on logins, 256 each;
//! 4. events of the broker, 256;
//! 5. what happens in streams, 256;
//! 6. datagrams of other nodes, 256;
//! 7. datagrams, 4 batches of 64 per listener. What does not fit waits in the socket, where the kernel drops the excess.
//!
//! What the core wants done is done after each step, and what it wants sent leaves in one call per listener.

pub mod core;
mod outputs;
mod stop;
mod streams;
mod wait;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Barrier, mpsc, oneshot};

use crate::auth::{AuthAnswer, AuthHandle};
use crate::broker::WorkerLink;
use crate::gateway::contract::{ControlAnswer, ControlRequest, Input};
use crate::gateway::events::ClientEvent;
use crate::gateway::nodes::{NodeMessage, Seek};
use crate::gateway::workers::WorkerMessage;
use crate::group::Links;
use crate::net::{NetMetrics, Outbox, RecvBatch, Socket};
use crate::session::KeyAnswer;
use crate::stream::{FromStream, StreamHandle};
use crate::types::{ListenerId, PeerAddr, WorkerId};

use super::clock;
use super::metrics::WorkerMetrics;
use super::worker::core::Core;

use stop::Stage;
use wait::{Deadline, Ready};

/// Batches that one listener may bring in one turn.
const BATCHES: usize = 4;

/// Datagrams that may wait to be sent before they are.
const TRANSMITS: usize = 256;

/// What an operator asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Have the core tell or change something.
    Control {
        /// What it is to tell or change.
        request: ControlRequest,
        /// Gets the answer; dropped unused when the worker ends before.
        reply: oneshot::Sender<ControlAnswer>,
    },
    /// Read a listener's socket from now on, in the place of the one that it had.
    Open {
        /// The listener whose socket it is.
        listener: ListenerId,
        /// Bound, and without blocking.
        socket: UdpSocket,
        /// Hears when it is done; dropped unused when the socket cannot be used.
        reply: oneshot::Sender<()>,
    },
    /// Close a listener's socket.
    Close {
        /// The listener whose socket it is.
        listener: ListenerId,
        /// Hears when it is done.
        reply: oneshot::Sender<()>,
    },
    /// Give the answers in flight, say goodbye to the peers, and end.
    Stop {
        /// How long to wait for answers of the broker.
        grace: Duration,
        /// Whether every DTLS session hears of it, or only those that the next process will not find.
        goodbye: bool,
    },
}

/// How long a worker waits for the others at the start.
const START: Duration = Duration::from_secs(5);

/// What those say who know clients.
#[derive(Debug)]
pub enum Word {
    /// About a login.
    Verdict(AuthAnswer),
    /// About the keys of a PSK identity.
    Keys {
        /// The listener that asked.
        listener: ListenerId,
        /// The ticket of the question.
        ticket: u64,
        /// What is known.
        answer: KeyAnswer,
    },
}

/// Something that happened to a client, with the time of day.
pub type Told = (SystemTime, Box<ClientEvent>);

/// The channels of a worker.
#[derive(Debug)]
pub struct Ports {
    /// Where the workers wait for each other at the start.
    pub started: Arc<Barrier>,
    /// From the operator. The worker ends when it is closed.
    pub commands: mpsc::Receiver<Command>,
    /// From other workers: requests for connections that live here, and answers.
    pub inbox: mpsc::Receiver<WorkerMessage>,
    /// To every worker, by [`WorkerId`].
    pub workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// To and from the broker. The worker fails when the broker is gone.
    pub broker: WorkerLink,
    /// To the authentication backends; without them no login can be decided.
    pub auth: Option<AuthHandle>,
    /// From the authentication backends, whose caps bound it.
    pub verdicts: mpsc::UnboundedReceiver<Word>,
    /// Its other end, for those who bring verdicts.
    pub verdicts_to: mpsc::UnboundedSender<Word>,
    /// To those who tell what happens to clients.
    pub events: mpsc::Sender<Told>,
    /// From the connections of listeners for streams that belong to this worker.
    pub streams: mpsc::Receiver<FromStream>,
    /// From the other nodes of the group.
    pub of_nodes: mpsc::Receiver<NodeMessage>,
    /// To them.
    pub links: Option<Arc<Links>>,
    /// Where sessions are looked for that nobody has.
    pub seeks: Option<mpsc::Sender<Seek>>,
}

/// Why a worker ended although nobody asked it to.
#[derive(Debug)]
pub enum WorkerError {
    /// A socket, or the runtime, is useless.
    Io(io::Error),
    /// The broker is gone.
    Broker,
}

impl std::fmt::Display for WorkerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "a socket cannot be used any more: {error}"),
            Self::Broker => f.write_str("the broker ended"),
        }
    }
}

impl std::error::Error for WorkerError {}

impl From<io::Error> for WorkerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A worker: its core, one socket of every listener, and what it exchanges with the rest of the process.
pub struct Worker<C> {
    id: WorkerId,
    core: C,
    ports: Ports,
    /// In the order of [`ListenerId`]; none where the listener does not serve, or is for streams.
    sockets: Vec<Option<Socket>>,
    /// The ways to the peers of streams.
    streams: HashMap<(ListenerId, PeerAddr), StreamHandle>,
    net: Arc<NetMetrics>,
    batch: RecvBatch,
    outbox: Outbox,
    metrics: Arc<WorkerMetrics>,
    ready: Ready,
    deadline: Deadline,
    stage: Stage,
    /// Who waits for which answer.
    tickets: HashMap<u64, oneshot::Sender<ControlAnswer>>,
    next_ticket: u64,
    /// Requests to the broker and logins that are not answered yet.
    unanswered: u64,
    /// Requests that other workers have not answered yet.
    asked: u64,
    /// By worker: messages that its inbox had no room for.
    unsent: Vec<VecDeque<WorkerMessage>>,
}

impl<C: Core> Worker<C> {
    /// A worker over the sockets of its listeners, in the order of their ids, without one for those for streams. Has to be made within the runtime of its
    /// thread.
    ///
    /// # Errors
    /// The runtime or the kernel refuses a socket.
    pub fn new(
        id: WorkerId,
        core: C,
        ports: Ports,
        sockets: Vec<Option<UdpSocket>>,
        net: &Arc<NetMetrics>,
        metrics: Arc<WorkerMetrics>,
    ) -> io::Result<Self> {
        let sockets = (0..).map(ListenerId).zip(sockets).map(|(listener, socket)| {
            socket
                .map(|socket| Socket::new(listener, socket, net.clone()))
                .transpose()
        });
        Ok(Self {
            id,
            core,
            ports,
            sockets: sockets.collect::<io::Result<_>>()?,
            streams: HashMap::new(),
            net: net.clone(),
            batch: RecvBatch::new(),
            outbox: Outbox::default(),
            metrics,
            ready: Ready::default(),
            deadline: Deadline::new(clock::now()),
            stage: Stage::Serving,
            tickets: HashMap::new(),
            next_ticket: 0,
            unanswered: 0,
            asked: 0,
            unsent: Vec::new(),
        })
    }

    /// Serves until a [`Command::Stop`] was carried out or the operator is gone.
    ///
    /// # Errors
    /// It cannot go on.
    pub async fn run(mut self) -> Result<(), WorkerError> {
        self.settle().await?;
        // What a device publishes by one worker is for observers at others, which may be there from before a restart: none reads
        // before all have said what they observe. One that fails meanwhile ends the process.
        let _all = tokio::time::timeout(START, self.ports.started.wait()).await;
        while self.stage != Stage::Ended {
            self.wait().await?;
            self.metrics.turns.inc();
            let now = clock::now();
            self.run_commands(now);
            self.run_timers(now);
            self.run_inbox(now);
            self.run_verdicts(now);
            self.run_events(now).await?;
            self.run_streams(now);
            self.settle().await?;
            self.run_nodes(now).await?;
            let more = self.run_sockets().await?;
            self.advance_stop().await?;
            if more {
                // Lets the runtime look at timers and at the sockets that were not ready.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn run_commands(&mut self, now: Instant) {
        for command in std::mem::take(&mut self.ready.commands) {
            match command {
                Command::Control { request, reply } => {
                    let ticket = self.next_ticket;
                    self.next_ticket += 1;
                    self.tickets.insert(ticket, reply);
                    self.core.handle(now, Input::Control { ticket, request });
                }
                Command::Open {
                    listener,
                    socket,
                    reply,
                } => match self.open(listener, socket) {
                    Ok(()) => {
                        // Whoever asked may have gone.
                        let _told = reply.send(());
                    }
                    Err(error) => tracing::error!(worker = self.id.0, %error, "a socket cannot be used"),
                },
                Command::Close { listener, reply } => {
                    if let Some(place) = self.sockets.get_mut(usize::from(listener.0)) {
                        *place = None;
                    }
                    // Whoever asked may have gone.
                    let _told = reply.send(());
                }
                Command::Stop { grace, goodbye } => self.begin_stop(now, grace, goodbye),
            }
        }
        if self.ready.operator_gone {
            self.begin_stop(now, Duration::ZERO, false);
        }
    }

    fn open(&mut self, listener: ListenerId, socket: UdpSocket) -> io::Result<()> {
        let socket = Socket::new(listener, socket, self.net.clone())?;
        let index = usize::from(listener.0);
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        if let Some(place) = self.sockets.get_mut(index) {
            *place = Some(socket);
        }
        Ok(())
    }

    fn run_timers(&mut self, now: Instant) {
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
        }
    }

    fn run_inbox(&mut self, now: Instant) {
        for message in self.ready.inbox.drain(..) {
            self.asked = self.asked.saturating_sub(u64::from(message.answers()));
            self.core.handle(now, Input::Worker(message));
        }
    }

    async fn run_nodes(&mut self, now: Instant) -> Result<(), WorkerError> {
        if self.ready.of_nodes.is_empty() {
            return Ok(());
        }
        let mut messages = std::mem::take(&mut self.ready.of_nodes);
        for message in messages.drain(..) {
            self.core
                .handle(now, Input::Worker(WorkerMessage::OfNode(message)));
            if self.core.transmits().len() >= TRANSMITS {
                self.settle().await?;
            }
        }
        self.ready.of_nodes = messages;
        self.settle().await
    }

    fn run_verdicts(&mut self, now: Instant) {
        for word in self.ready.verdicts.drain(..) {
            let input = match word {
                Word::Verdict(AuthAnswer { ticket, verdict }) => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    Input::Authenticated { ticket, verdict }
                }
                Word::Keys {
                    listener,
                    ticket,
                    answer,
                } => Input::KeysFound {
                    listener,
                    ticket,
                    answer,
                },
            };
            self.core.handle(now, input);
        }
    }

    async fn run_events(&mut self, now: Instant) -> Result<(), WorkerError> {
        let mut events = std::mem::take(&mut self.ready.events);
        for event in events.drain(..) {
            self.note_answer(&event);
            self.core.handle(now, Input::Broker(event));
            // Requests to the broker wait until all that it said before is taken in.
            if self.core.transmits().len() >= TRANSMITS {
                self.transmit().await?;
            }
        }
        self.ready.events = events;
        if self.ready.broker_gone && self.stage == Stage::Serving {
            return Err(WorkerError::Broker);
        }
        Ok(())
    }

    /// Whether a socket may have more right now.
    async fn run_sockets(&mut self) -> Result<bool, WorkerError> {
        let mut any = false;
        let mut sockets = std::mem::take(&mut self.ready.sockets);
        for index in sockets.drain(..) {
            let mut more = true;
            for _ in 0..BATCHES {
                more = self.run_batch(index)?;
                self.settle().await?;
                if !more {
                    break;
                }
            }
            any |= more;
        }
        self.ready.sockets = sockets;
        Ok(any)
    }

    fn run_batch(&mut self, index: usize) -> Result<bool, WorkerError> {
        let Some(socket) = self.sockets.get_mut(index).and_then(Option::as_mut) else {
            return Ok(false);
        };
        let received = socket.receive(&mut self.batch)?;
        let now = clock::now();
        let listener = socket.listener();
        for slot in 0..received.count {
            let Some(datagram) = self.batch.datagram(slot) else {
                continue;
            };
            if socket.admit(&datagram) {
                let (from, local, bytes) = (datagram.from, datagram.local, datagram.bytes);
                self.core.handle(
                    now,
                    Input::Datagram {
                        listener,
                        from,
                        local,
                        bytes,
                    },
                );
            }
        }
        Ok(received.more)
    }
}

#[cfg(test)]
mod tests;
