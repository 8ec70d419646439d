//! What the broker is built from: checked values.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
pub use super::retained::RetainedLimits;
use portcullis_proto::types::message::Qos;
use portcullis_proto::types::topic::EVENTS_PREFIX;

/// Everything the broker needs to know.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// The node's name.
    pub node: Arc<str>,
    /// Where retained messages and the spool are kept; `None` keeps nothing beyond the process and has no spool.
    pub state_dir: Option<PathBuf>,
    /// Its clocks.
    pub clock: Clock,
    /// Which broker.
    pub kind: BrokerKind,
}

/// Which broker.
#[derive(Debug, Clone)]
pub enum BrokerKind {
    /// The one inside this process.
    Embedded(RetainedLimits),
    /// An MQTT broker elsewhere.
    Mqtt(Box<MqttSettings>),
}

/// The MQTT version spoken upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1, `broker.protocol = 4`.
    V4,
    /// MQTT 5, `broker.protocol = 5`.
    V5,
}

/// Where the upstream broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Host name or address; an IPv6 address in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// How to use an upstream broker.
#[derive(Debug, Clone)]
pub struct MqttSettings {
    /// Where it is.
    pub address: BrokerAddress,
    /// Which MQTT to speak.
    pub protocol: Protocol,
    /// The client id; connections after the first add `-1`, `-2` and so on.
    pub client_id: String,
    /// User name; empty for none.
    pub username: String,
    /// File whose first line is the password. Read at each connection.
    pub password_file: Option<PathBuf>,
    /// Trust anchors (PEM) in place of the system's. Read at each connection.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain (PEM) to present. Read at each connection.
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM). Read at each connection.
    pub key_file: Option<PathBuf>,
    /// Parallel connections, at least 1. Topics are spread over them, so order is kept for each topic.
    pub connections: usize,
    /// Ping interval, at least 5 seconds; a dead peer is noticed within twice this time.
    pub keep_alive: Duration,
    /// How long the broker keeps the session over a lost connection; whole seconds. By MQTT 3.1.1, which cannot say it, for as long
    /// as the broker likes, unless it is zero.
    pub session_expiry: Duration,
    /// How many workers keep what they are told for the next process, and say [`BrokerRequest::Restored`] once they told what an
    /// earlier one left, before which nothing is connected; 0 when none does.
    ///
    /// [`BrokerRequest::Restored`]: portcullis_proto::bridge::contract::BrokerRequest::Restored
    pub keepers: usize,
    /// How long the broker may owe an acknowledgement (of a publish at QoS 1 or 2, a subscribe, an unsubscribe) before the
    /// connection is given up, even though it answers pings. A request's time begins when the one before it is done.
    pub ack_patience: Duration,
    /// Messages of a higher QoS are sent with this one.
    pub max_qos: Qos,
    /// Whether to keep `{events_prefix}/{node}/status` up to date, with a will.
    pub publish_status: bool,
    /// What the gateway's own topics begin with.
    pub events_prefix: String,
    /// What the spool may take on disk in bytes, over all connections; 0 switches it off.
    pub spool_bytes: u64,
    /// Whether a full spool gives up its oldest messages for new ones. Else, and as long as some are on their way to the
    /// broker, new ones are refused.
    pub spool_drops_oldest: bool,
}

impl MqttSettings {
    /// The defaults for a broker at `address`.
    #[must_use]
    pub fn new(address: BrokerAddress, client_id: &str) -> Self {
        Self {
            address,
            protocol: Protocol::V5,
            client_id: client_id.into(),
            username: String::new(),
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            connections: 1,
            keep_alive: Duration::from_secs(10),
            session_expiry: Duration::from_secs(300),
            keepers: 0,
            ack_patience: Duration::from_secs(20),
            max_qos: Qos::ExactlyOnce,
            publish_status: true,
            events_prefix: EVENTS_PREFIX.into(),
            spool_bytes: 256 << 20,
            spool_drops_oldest: false,
        }
    }
}
