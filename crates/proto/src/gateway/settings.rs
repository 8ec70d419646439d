//! What one gateway is built from: checked values, nothing of files.

use std::sync::Arc;
use std::time::Duration;

use crate::bridge::translate::Translations;
use crate::coap::contract::CoapSettings;
use crate::policy::authentication::IdentityRole;
use crate::policy::authorization::Authorizer;
use crate::policy::identity_names::IdentityNames;
use crate::session::DtlsSettings;
use crate::types::limits::Caps;
use crate::types::message::Qos;
use crate::types::{AccessRules, ClientId, Identity, ListenerId, Transport};

/// The settings of one gateway, the same in every worker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name.
    pub node: Arc<str>,
    /// How many workers there are; each hands out its own index in Connection IDs.
    pub workers: u8,
    /// Whether `ps/` requests need a connection (interface 2.3) or not (2.4).
    pub connection_required: bool,
    /// A connection without a valid request for 1.5 times this long ends; `None` never.
    pub heartbeat: Option<Duration>,
    /// How notifications are sent.
    pub notify_type: NotifyType,
    /// QoS of a publish that names none.
    pub publish_qos: DefaultQos,
    /// QoS of a subscription that names none.
    pub subscribe_qos: DefaultQos,
    /// Prefix of every topic, with placeholders `${clientid}`, `${username}`, `${identity}`, `${listener}`.
    pub mountpoint: Arc<str>,
    /// A silent observer gets a confirmable notification at least this often.
    pub observe_check: Duration,
    /// Which topics there are.
    pub topics: TopicsMode,
    /// The Content-Format of topic properties.
    pub pubsub_content_format: u16,
    /// Which payloads are translated from one encoding to another.
    pub translations: Arc<Translations>,
    /// How clients that sleep are served.
    pub sleep: SleepSettings,
    /// Message layer and block-wise settings.
    pub coap: CoapSettings,
    /// Caps per worker.
    pub caps: Caps,
    /// What clients may do.
    pub authorizer: Authorizer,
    /// Requests per second of one client; 0 is no limit.
    pub requests_per_second: u32,
    /// Datagrams per second over plain UDP of one source that has not proved its address; 0 is no limit.
    pub unproven_datagrams_per_second: u32,
    /// Failed logins and wrong tokens per minute of one source; 0 is no limit.
    pub failed_logins_per_minute: u32,
    /// Whether each request and answer is told, for a log that wants them.
    pub tells_requests: bool,
    /// The listeners, in the order of their [`ListenerId`].
    pub listeners: Vec<ListenerSettings>,
}

impl Settings {
    /// The settings of one listener.
    #[must_use]
    pub fn listener(&self, listener: ListenerId) -> Option<&ListenerSettings> {
        self.listeners.get(usize::from(listener.0))
    }

    /// How the peers of a listener speak.
    pub(super) fn transport(&self, listener: ListenerId) -> Transport {
        self.listener(listener)
            .map_or(Transport::Udp, ListenerSettings::transport)
    }

    fn own<T: Copy>(&self, listener: ListenerId, own: impl Fn(&Overrides) -> Option<T>) -> Option<T> {
        self.listener(listener)
            .and_then(|listener| own(&listener.overrides))
    }

    /// Whether `ps/` requests to a listener need a connection.
    #[must_use]
    pub fn connection_required(&self, listener: ListenerId) -> bool {
        self.own(listener, |own| own.connection_required)
            .unwrap_or(self.connection_required)
    }

    /// The heartbeat of connections that are used from a listener; `None` where they do not expire.
    #[must_use]
    pub fn heartbeat(&self, listener: ListenerId) -> Option<Duration> {
        match self.own(listener, |own| own.heartbeat) {
            Some(heartbeat) => Some(heartbeat).filter(|heartbeat| !heartbeat.is_zero()),
            None => self.heartbeat,
        }
    }

    /// How those who observe from a listener are notified.
    #[must_use]
    pub fn notify_type(&self, listener: ListenerId) -> NotifyType {
        self.own(listener, |own| own.notify_type)
            .unwrap_or(self.notify_type)
    }

    /// Whether some connection lives for another time than by `other`.
    pub(super) fn heartbeats_differ(&self, other: &Self) -> bool {
        let own = |settings: &Self| {
            let listeners = settings.listeners.iter();
            listeners
                .map(|listener| listener.overrides.heartbeat)
                .collect::<Vec<_>>()
        };
        self.heartbeat != other.heartbeat || own(self) != own(other)
    }
}

/// How clients that sleep are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepSettings {
    /// The longest time that a client may name as its lifetime.
    pub max_lifetime: Duration,
    /// Notifications that wait for one client, and requests to it.
    pub queue_messages: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// How long one of them waits; `None` for as long as its connection lasts.
    pub queue_age: Option<Duration>,
    /// Whether of each topic only the newest waits.
    pub keep_newest: bool,
}

impl Default for SleepSettings {
    fn default() -> Self {
        Self {
            max_lifetime: Duration::from_secs(7 * 24 * 3600),
            queue_messages: 256,
            queue_bytes: 256 << 10,
            queue_age: Some(Duration::from_secs(24 * 3600)),
            keep_newest: false,
        }
    }
}

/// One listener.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Its name, which with the transport is its metric label.
    pub name: Arc<str>,
    /// What its sessions have, of DTLS or in streams; `None` is plain UDP.
    pub dtls: Option<DtlsListenerSettings>,
    /// Who may send to it at all.
    pub access: AccessRules,
    /// Whether requests must be authenticated.
    pub authentication: bool,
    /// Whether what stands for the user name is a token: a secret, which is the backend's to see and nobody's name.
    pub token_in_username: bool,
    /// Overrides [`Settings::mountpoint`].
    pub mountpoint: Option<Arc<str>>,
    /// What else it has of its own.
    pub overrides: Overrides,
    /// How old the Echo value of a request that changes something may be; `None` where it needs one only with `fresh=1`.
    pub fresh_requests: Option<Duration>,
    /// Most peers over plain UDP, per worker; 0 is no limit.
    pub max_peers: usize,
    /// A datagram that asks whether it serves.
    pub health: Option<Health>,
}

impl ListenerSettings {
    /// How its peers speak.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.dtls.as_ref().map(|dtls| dtls.transport.stream) {
            None => Transport::Udp,
            Some(None) => Transport::Dtls,
            Some(Some(stream)) if stream.tls => Transport::Tls,
            Some(Some(_)) => Transport::Tcp,
        }
    }
}

/// What one listener has in place of what holds for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Overrides [`Settings::connection_required`].
    pub connection_required: Option<bool>,
    /// Overrides [`Settings::heartbeat`]; zero is never.
    pub heartbeat: Option<Duration>,
    /// Overrides [`Settings::notify_type`].
    pub notify_type: Option<NotifyType>,
}

/// A datagram that asks whether a listener serves, and its answer, which is at most three times as long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// All bytes of the question.
    pub request: Arc<[u8]>,
    /// All bytes of the answer.
    pub reply: Arc<[u8]>,
}

/// What a DTLS listener has beside a UDP listener's settings.
#[derive(Debug, Clone)]
pub struct DtlsListenerSettings {
    /// Transport settings.
    pub transport: DtlsSettings,
    /// What the proved identity is used as.
    pub identity: IdentityRole,
    /// What devices are called by it.
    pub names: Arc<IdentityNames>,
    /// What becomes of a connection when its session ends.
    pub on_close: OnClose,
}

impl DtlsListenerSettings {
    /// The client id that a handshake proved; nothing where an identity is none here.
    #[must_use]
    pub(crate) fn proved_client(&self, identity: &Identity) -> Option<ClientId> {
        (self.identity == IdentityRole::ClientId)
            .then(|| self.names.client_of(identity))
            .flatten()
    }
}

/// How notifications are sent (interface 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyType {
    /// Always NON.
    Non,
    /// Always CON.
    Con,
    /// By the subscription's QoS where its request gave one, else by the message's.
    Qos,
}

/// Which topics there are (draft-ietf-core-coap-pubsub-21, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicsMode {
    /// Any that is published to or observed; those in the collection have their properties.
    Implicit,
    /// Those in the collection.
    Created,
    /// Any; the first publish to one that is not in the collection puts it there.
    Both,
}

/// The QoS where a request names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultQos {
    /// Always this one: 0, 1 or 2.
    Fixed(Qos),
    /// NON is 0, CON is 1.
    Coap,
}

impl DefaultQos {
    /// The QoS of a request that names none.
    #[must_use]
    pub const fn of(self, confirmable: bool) -> Qos {
        match self {
            Self::Fixed(qos) => qos,
            Self::Coap if confirmable => Qos::AtLeastOnce,
            Self::Coap => Qos::AtMostOnce,
        }
    }
}

/// What becomes of a connection when its DTLS session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnClose {
    /// It stays until its heartbeat runs out.
    Detach,
    /// It ends.
    End,
}
