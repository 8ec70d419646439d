//! The page an edge author reads: what goes into a gateway and what comes out.
//!
//! ```text
//! gateway.handle(now, input)            any number of times
//! gateway.transmits()                   datagrams to send; then gateway.transmits_sent()
//! gateway.poll_output()                 until it returns none
//! gateway.poll_timeout()                when to call gateway.handle_timeout(now)
//! ```
//! The state is whole only once outputs are drained.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bridge::contract::{BrokerEvent, BrokerRequest};
use crate::coap::contract::{OutgoingRequest, PeerId, RequestError, Response, Token};
use crate::policy::attributes::Attributes;
use crate::policy::authentication::{AuthRequest, Verdict};
use crate::policy::bans::Bans;
use crate::policy::connections::{ConnectionKey, Presence};
use crate::policy::failures::Class;
use crate::session::{KeyAnswer, SecureSource, SessionInfo, StreamEvent};
use crate::types::message::Qos;
use crate::types::{ClientId, Identity, ListenerId, PeerAddr, TopicFilter, Transport, WorkerId};

use super::events::ClientEvent;
use super::nodes::{Seek, Taken};
use super::settings::Settings;
use super::trace::TraceRecord;
use super::traffic::Traffic;
use super::workers::WorkerMessage;

/// What happens to a gateway.
pub enum Input<'a> {
    /// A datagram arrived. DTLS records are opened in place.
    Datagram {
        /// On which listener.
        listener: ListenerId,
        /// From where.
        from: SocketAddr,
        /// To which address of ours, where the socket has several.
        local: Option<IpAddr>,
        /// Its bytes, all of them.
        bytes: &'a mut [u8],
    },
    /// Something happened to a stream. What comes in it comes as [`Input::Datagram`]s, and what is to be sent in it is among the
    /// datagrams to send; one without bytes ends it.
    Stream {
        /// On which listener.
        listener: ListenerId,
        /// Of which peer.
        from: PeerAddr,
        /// What happened.
        event: StreamEvent,
    },
    /// The broker answered or has a message.
    Broker(BrokerEvent),
    /// An authentication backend's word on an [`Output::Authenticate`].
    Authenticated {
        /// [`AuthRequest::ticket`] of the request that it is about.
        ticket: u64,
        /// What the backend says.
        verdict: Verdict,
    },
    /// What is known of the keys of an [`Output::FindKeys`].
    KeysFound {
        /// The listener that asked.
        listener: ListenerId,
        /// The ticket of the question.
        ticket: u64,
        /// What is known.
        answer: KeyAnswer,
    },
    /// Another worker says something.
    Worker(WorkerMessage),
    /// An [`Output::Worker`] that [`WorkerMessage::may_be_refused`] found its channel full.
    Refused(WorkerMessage),
    /// Someone at the console or the API wants something.
    Control {
        /// Comes back in the answer.
        ticket: u64,
        /// What is wanted.
        request: ControlRequest,
    },
}

/// What a gateway wants done.
#[derive(Debug)]
pub enum Output {
    /// Ask the broker. When its channel is full, hand the matching failure back as an input.
    Broker(BrokerRequest),
    /// Ask who this is. When no backend can take it, hand [`Verdict::Unavailable`] back.
    Authenticate {
        /// The credentials.
        request: AuthRequest,
        /// How sure it is where they come from.
        class: Class,
    },
    /// Ask for the keys of a PSK identity.
    FindKeys {
        /// On which listener it was named.
        listener: ListenerId,
        /// Comes back with the answer.
        ticket: u64,
        /// Who named it.
        from: PeerAddr,
        /// The identity as it is written.
        identity: Arc<str>,
    },
    /// Tell another worker, in order. When its channel is full, hand what [`WorkerMessage::may_be_refused`] back as
    /// [`Input::Refused`], and keep the rest until there is room.
    Worker {
        /// Which; never itself.
        to: WorkerId,
        /// What it is told.
        message: WorkerMessage,
    },
    /// Tell another node of the group. What does not go is lost, as any datagram may be.
    Forward {
        /// The id of the node.
        node: u16,
        /// What names the listener in every node.
        listener: u64,
        /// Who sent the record.
        from: PeerAddr,
        /// The record.
        record: Box<[u8]>,
    },
    /// Look where all nodes see it for the session of a record. What cannot be asked for now is dropped: its sender repeats it.
    Seek(Seek),
    /// Tell operators.
    Event(Box<ClientEvent>),
    /// An answer to [`Input::Control`].
    Control {
        /// The ticket of the question.
        ticket: u64,
        /// What came of it.
        answer: ControlAnswer,
    },
}

/// What an operator asks of a worker.
#[derive(Debug, Clone)]
pub enum ControlRequest {
    /// New settings for what comes next; established sessions stay.
    Reconfigure {
        /// The settings. What is in force of keys and certificates, each listener's [`SecureSource`] knows.
        settings: Arc<Settings>,
    },
    /// Answer what still waits with 5.03: the process ends.
    Drain {
        /// Whether every DTLS session hears so (close_notify), or only those that the next process will not find.
        goodbye: bool,
    },
    /// Makes a listener known that the settings have and that was not there at the start. It serves at once.
    AddListener {
        /// The next id; [`ControlRequest::Reconfigure`] brought its settings.
        listener: ListenerId,
        /// What it needs to speak DTLS; `None` for plain UDP.
        dtls: Option<Arc<dyn SecureSource>>,
    },
    /// Lets a listener serve or not. One that does not takes nothing in, and what is connected through it ends.
    SetListener {
        /// The listener that it is about.
        listener: ListenerId,
        /// Whether it serves.
        enabled: bool,
    },
    /// How full memory and spool are: 0.0 empty, 1.0 full.
    Pressure {
        /// Resident memory of the process.
        memory: f64,
        /// The spool.
        spool: f64,
    },
    /// List some clients.
    Page {
        /// Where to begin.
        from: Cursor,
        /// How many places to look at; bounds the time that it takes, not the length of the answer.
        places: usize,
    },
    /// Show one client with its observations.
    Show {
        /// Its client id.
        client: ClientId,
    },
    /// Show what is known of a peer that no client id leads to, with its observations.
    ShowPeer {
        /// The peer.
        peer: PeerId,
    },
    /// Who is kept out from now on; what they have ends.
    Bans {
        /// All bans.
        bans: Arc<Bans>,
    },
    /// What was exchanged with a peer of this worker.
    Traffic {
        /// The peer.
        peer: PeerId,
    },
    /// End a client's connection and DTLS session.
    Kick {
        /// Its client id.
        client: ClientId,
    },
    /// End what a peer that no client id leads to has: its DTLS session and its observations.
    KickPeer {
        /// The peer.
        peer: PeerId,
    },
    /// Observe a topic on behalf of a client.
    Subscribe {
        /// Its client id.
        client: ClientId,
        /// The filter at the broker, mountpoint included.
        filter: TopicFilter,
        /// The QoS to notify with.
        qos: Qos,
        /// The token that notifications carry, which the device must know.
        token: Token,
    },
    /// End an observation of a client.
    Unsubscribe {
        /// Its client id.
        client: ClientId,
        /// The filter as [`ObservationInfo`] shows it, mountpoint included.
        filter: TopicFilter,
    },
    /// Begin to trace a device.
    Trace {
        /// What the trace is known by; chosen by whoever asks, and not in use.
        id: u64,
        /// A client id, a user name, a DTLS identity, or an address with or without port.
        target: Arc<str>,
        /// How many bytes of each payload to show; at most [`super::trace::MAX_PREVIEW`].
        preview: usize,
    },
    /// Take what a trace gathered. One that is not asked for 10 seconds ends.
    TakeTrace {
        /// The id that it was begun with.
        id: u64,
    },
    /// End a trace.
    EndTrace {
        /// The id that it was begun with.
        id: u64,
    },
    /// Go on with what a node left that is gone.
    TakeOver(Arc<Taken>),
    /// Let go of the sessions and connections with these marks, without a word: another node has them.
    LetGo(Arc<HashSet<u64>>),
    /// Send a request to a device.
    Request {
        /// Its client id.
        client: ClientId,
        /// What is asked of the device.
        request: OutgoingRequest,
        /// How long it may wait for the device to be heard of, where that cannot be reached; zero not at all.
        wait: Duration,
    },
}

/// A place in the list of a worker's clients: connections first, then peers without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// After this connection; `None` at the beginning.
    Connections(Option<ConnectionKey>),
    /// From this place in the table of peers.
    Peers(usize),
}

/// A client as operators see it.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// The client id, named or proved.
    pub client: Option<ClientId>,
    /// The user name it came in as.
    pub username: Option<Arc<str>>,
    /// The listener it came to.
    pub listener: ListenerId,
    /// Where it is; `None` while its DTLS session is gone.
    pub address: Option<PeerAddr>,
    /// Who its handshake proved it to be.
    pub identity: Option<Identity>,
    /// What else is known of it.
    pub attributes: Attributes,
    /// How it speaks to us.
    pub transport: Transport,
    /// Its DTLS session.
    pub session: Option<SessionInfo>,
    /// Whether it has a connection (connection mode).
    pub connected: bool,
    /// Whether it can be reached.
    pub presence: Presence,
    /// How long it may be silent, as it said itself.
    pub lifetime: Option<Duration>,
    /// When it was first seen.
    pub since: Instant,
    /// When it was last heard of.
    pub seen_at: Instant,
    /// How many observations it has.
    pub observations: usize,
    /// How often something was sent again because it was not acknowledged, since it is at this address or on this session.
    pub retransmissions: u64,
    /// The peer that it speaks from.
    pub peer: Option<PeerId>,
    /// What was exchanged with that, where it is one of this worker's.
    pub traffic: Option<Traffic>,
}

/// An observation as operators see it.
#[derive(Debug, Clone)]
pub struct ObservationInfo {
    /// The filter, mountpoint included.
    pub filter: TopicFilter,
    /// The QoS that it was asked with.
    pub qos: Qos,
    /// The CoAP token that its notifications carry.
    pub token: Token,
    /// The last Observe number sent.
    pub sequence: u32,
    /// When the client last showed that it wants it.
    pub confirmed_at: Instant,
    /// Whether the client's own messages stay away.
    pub no_local: bool,
}

/// What a worker answers.
#[derive(Debug, Clone)]
pub enum ControlAnswer {
    /// Done.
    Done,
    /// No such client, or no such observation, on this worker.
    NotFound,
    /// It cannot be done now: the client is away, or has its fill of observations.
    Unavailable,
    /// Some clients, and where to go on; `None` at the end.
    Page {
        /// The clients.
        clients: Vec<ClientInfo>,
        /// Where to go on.
        next: Option<Cursor>,
    },
    /// One client.
    Client(Box<ClientInfo>, Vec<ObservationInfo>),
    /// What was exchanged with a peer.
    Traffic(Box<Traffic>),
    /// What a trace gathered.
    Traced {
        /// Oldest first.
        records: Vec<TraceRecord>,
        /// How many more there were that it had no room for; they came last.
        lost: u64,
    },
    /// The device was not heard of for as long as the request could wait.
    Expired,
    /// What a device answered.
    Answered(Result<Response, RequestError>),
}
