//! The sections that are a handful of plain keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_proto::gateway::settings::{DefaultQos, NotifyType, TopicsMode};
use portcullis_proto::types::TopicLimits;
use portcullis_proto::types::message::Qos;

use super::check::{between, block_size, hours, memory, millis, mountpoint, name, secs};
use super::section::section;
use super::value::{Size, words};

section! {
    /// The node itself.
    pub struct Node {
        /// The node's name; it appears in MQTT client ids, metrics and logs. Gateways at one broker need different ones.
        name: String = "portcullis", name;
        /// Where retained messages, the spool and ticket keys are kept.
        state_dir: PathBuf = "/var/lib/portcullis";
        /// Threads that serve, 0 to 255; 0 is one per core.
        workers: u8 = 0;
    }
}

section! {
    /// How CoAP clients are served.
    pub struct Coap {
        /// Whether requests need a connection made through `mqtt/connection`.
        connection_required: bool = false;
        /// A connection without a valid request for 1.5 times this long ends; "0s" never.
        heartbeat: Duration = "30s", between(secs(0), hours(24 * 365));
        /// How notifications are sent: NON, CON, or by the QoS of the subscription or the message.
        notify_type: NotifyType = "qos";
        /// QoS of a publish that names none; `coap`: NON is 0, CON is 1.
        publish_qos: DefaultQos = "coap";
        /// QoS of a subscription that names none; `coap`: NON is 0, CON is 1.
        subscribe_qos: DefaultQos = "coap";
        /// Prefix of every topic; may hold ${clientid}, ${username}, ${identity}, ${listener} and ${attr.NAME}.
        mountpoint: String = "", |text: &String| mountpoint(text);
        /// A silent observer is sent a confirmable notification at least this often (RFC 7641, 4.5).
        observe_check: Duration = "24h", between(secs(1), hours(24));
        /// Which topics there are (draft-ietf-core-coap-pubsub): `implicit`, all that are published to or observed, those created in the
        /// collection with their properties; `created`, only these; `both`, as `implicit`, and the first publish to a topic creates it.
        topics: TopicsMode = "implicit";
        /// Content-Format of topic properties, `application/core-pubsub+cbor`; 606 is what the draft asks for.
        pubsub_content_format: u16 = 606;
        section /// Devices that sleep.
        sleep: Sleep;
        section /// Block-wise transfer (RFC 7959).
        blockwise: Blockwise;
        section /// Retransmission (RFC 7252, 4.8).
        transmission: Transmission;
    }
}

section! {
    /// Devices that sleep.
    pub struct Sleep {
        /// The longest time that a device may be silent because it names it as its lifetime (`?lifetime=` of `mqtt/connection`); a longer
        /// one is cut to this, "1s" to "365d". Its connection ends after 1.5 times its lifetime without a sign of life.
        max_lifetime: Duration = "7d", between(secs(1), hours(24 * 365));
        /// Notifications and requests that wait for one client that is asleep or away, 1 to 100000. When there are more, the oldest
        /// notification goes of the observation with most of them.
        queue_messages: u32 = 256, between(1, 100_000);
        /// Bytes of them, "1KiB" to "64MiB".
        queue_bytes: Size = "256KiB", between(Size(1 << 10), Size(64 << 20));
        /// How long one of them waits; "0s" for as long as the connection lasts.
        queue_age: Duration = "24h", between(secs(0), hours(24 * 365));
        /// What of a topic waits: `all` its messages, or the `newest`.
        keep: KeepQueued = "all";
    }
}

section! {
    /// Block-wise transfer (RFC 7959).
    pub struct Blockwise {
        /// Largest block in both directions, in bytes: a power of two from 16 to 1024.
        max_block_size: u32 = 1024, block_size;
        /// Largest body in both directions, "16B" to "64MiB".
        max_body_size: Size = "1MiB", between(Size(16), Size(64 << 20));
    }
}

section! {
    /// Retransmission of confirmable messages (RFC 7252, 4.8).
    pub struct Transmission {
        /// ACK_TIMEOUT, "10ms" to "1m".
        ack_timeout: Duration = "2s", between(millis(10), secs(60));
        /// MAX_RETRANSMIT, 0 to 10.
        max_retransmit: u32 = 4, between(0, 10);
    }
}

section! {
    /// Metrics and health over HTTP.
    pub struct Metrics {
        /// Where `/metrics`, `/healthz` and `/readyz` are served; "" is off.
        bind: Option<SocketAddr> = "127.0.0.1:9683";
    }
}

section! {
    /// The HTTP API and the dashboard.
    pub struct Admin {
        /// Where they are served; "" is off.
        bind: Option<SocketAddr> = "127.0.0.1:8683";
        /// File with bearer tokens, as `portcullis token add` writes it: name, role, SHA-256 and perhaps an end; `admin:TOKEN`,
        /// `readonly:TOKEN` and bare tokens are taken and hashed in place. Without it `admin.token`, which the first start makes,
        /// and `tokens` in `state_dir`.
        token_file: Option<PathBuf> = "";
        /// Unix socket for the command line, mode 0660 and of the group `portcullis` where there is one: who may write to it may
        /// administer. "" is `admin.sock` in `$RUNTIME_DIRECTORY`, else in `state_dir`.
        socket: Option<PathBuf> = "";
        /// Certificate chain in PEM for HTTPS, the server's own first; required unless bound to loopback.
        cert_file: Option<PathBuf> = "";
        /// Private key of the certificate, PEM.
        key_file: Option<PathBuf> = "";
        /// Whether `/api/v5/gateways/coap` answers tools that were written for EMQX, in its JSON; they show a token as the secret of an API
        /// key, of any name.
        emqx_aliases: bool = false;
    }
}

section! {
    /// Limits per source address (IPv6: per /64) unless said otherwise; 0 is no limit.
    pub struct Limits {
        /// DTLS handshakes per second of one source while half of `max_half_open` or of the processor is taken; free places go first, so
        /// that a fleet behind one address gets back in. Twice as many at once.
        handshakes_per_second: u32 = 20;
        /// Requests per second of one client.
        requests_per_second: u32 = 0;
        /// Datagrams per second over plain UDP of a source that has not proved its address; more are dropped unread.
        unproven_datagrams_per_second: u32 = 0;
        /// Failed logins and wrong tokens per minute, whichever port they come from.
        failed_logins_per_minute: u32 = 30;
        /// Bytes that all that peers make the gateway keep may take together. Peers that have not proved their address may have
        /// a quarter of it, those known by no credential half. 0 is a quarter of what the machine or the cgroup has.
        memory: Size = "0B", |size: &Size| memory(*size);
        /// Levels of a topic or filter, mountpoint included, 0 to 200; 0 is 200. Deeper ones are refused, and messages of the
        /// broker on such topics are for nobody.
        topic_levels: u32 = 32, between(0, 200);
        /// Bytes of a topic or filter, mountpoint included, 0 to 65535; 0 is 65535. Longer ones as deeper ones.
        topic_bytes: u32 = 1024, between(0, 65_535);
        /// How to answer a UDP peer that has not proved its address: in small blocks, or with an Echo challenge (RFC 9175).
        unproven: Unproven = "small";
        section /// What one identity may have, over all listeners: a DTLS identity, or the user name or client id of a checked login.
        per_identity: PerIdentity;
    }
}

section! {
    /// What one identity may have, over all listeners: a DTLS identity, or the user name or client id of a checked login.
    pub struct PerIdentity {
        /// DTLS sessions; the most idle one gives way to the next. A key that a group shares stands for many devices.
        sessions: u32 = 1000, between(1, 10_000_000);
        /// Observations.
        observations: u32 = 4096, between(1, 10_000_000);
        /// Bytes that all that it makes the gateway keep may take, at least "1MiB".
        memory: Size = "64MiB", between(Size(1 << 20), Size(1 << 40));
    }
}

impl Limits {
    /// What topics and filters may be at most.
    #[must_use]
    pub fn topics(&self) -> TopicLimits {
        let number = |value| usize::try_from(value).unwrap_or(usize::MAX);
        TopicLimits::new(number(self.topic_levels), number(self.topic_bytes))
    }
}

section! {
    /// What of sessions, connections and observations the next process goes on from.
    pub struct State {
        /// Where it is kept: in memory, which lasts over restart and crash of the process; on disk too, sealed, which lasts over power loss,
        /// reboot, and a start long after a stop; in memory and, sealed, where the other nodes of the `[group]` see it, which lasts over the death of this node;
        /// or nowhere.
        keep: Keep = "memory";
        /// Whether a stop ends every DTLS session with close_notify although they are kept.
        goodbye: bool = false;
        /// 64 hexadecimal digits, the key that seals what is written to disk; unset: state.key in the state directory, made at the first start.
        key_file: Option<PathBuf> = "";
    }
}

/// Where state is kept for the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// In memory that outlives the process.
    Memory,
    /// On disk, sealed.
    Disk,
    /// In memory, and sealed where the other nodes of the group see it.
    Group,
    /// Nowhere.
    None,
}

words!(Keep {
    "memory" => Keep::Memory,
    "disk" => Keep::Disk,
    "group" => Keep::Group,
    "none" => Keep::None,
});

section! {
    /// What is logged to standard error.
    pub struct Log {
        /// The least severe events that are logged.
        level: LogLevel = "info";
        /// Lines for people, or one JSON object per line.
        format: LogFormat = "text";
    }
}

/// What of a topic waits for a client that is asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepQueued {
    /// All messages.
    All,
    /// The newest message.
    Newest,
}

words!(KeepQueued {
    "all" => KeepQueued::All,
    "newest" => KeepQueued::Newest,
});

words!(NotifyType {
    "non" => NotifyType::Non,
    "con" => NotifyType::Con,
    "qos" => NotifyType::Qos,
});

words!(TopicsMode {
    "implicit" => TopicsMode::Implicit,
    "created" => TopicsMode::Created,
    "both" => TopicsMode::Both,
});

words!(DefaultQos {
    "qos0" => DefaultQos::Fixed(Qos::AtMostOnce),
    "qos1" => DefaultQos::Fixed(Qos::AtLeastOnce),
    "qos2" => DefaultQos::Fixed(Qos::ExactlyOnce),
    "coap" => DefaultQos::Coap,
});

/// How a UDP peer that has not proved its address is answered (interface 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// A longer answer goes out in small blocks until the address is proved.
    Small,
    /// With an Echo challenge (RFC 9175).
    Echo,
}

words!(Unproven {
    "small" => Unproven::Small,
    "echo" => Unproven::Echo,
});

/// The least severe events that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of tracing")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The word of the configuration, which tracing's filters take too.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

words!(LogLevel {
    "error" => LogLevel::Error,
    "warn" => LogLevel::Warn,
    "info" => LogLevel::Info,
    "debug" => LogLevel::Debug,
    "trace" => LogLevel::Trace,
});

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object per line.
    Json,
}

words!(LogFormat {
    "text" => LogFormat::Text,
    "json" => LogFormat::Json,
});
