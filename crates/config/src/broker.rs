//! `[broker]`: the embedded broker, or the way to another.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use portcullis_proto::types::TopicName;
use portcullis_proto::types::topic::is_below;

use super::check::{at_most, between, hours, placeholders, secs};
use super::mqtt_requests::MqttRequests;
use super::paths::PathBase;
use super::section::section;
use super::value::{Complaint, Size, Value, expected, words};

/// The broker behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerUrl {
    /// The one in this process.
    Embedded,
    /// An MQTT broker over TCP.
    Mqtt {
        /// Whether the connection is TLS.
        tls: bool,
        /// Host name or address, without brackets.
        host: String,
        /// TCP port; 1883, or 8883 with TLS, where the URL has none.
        port: u16,
    },
}

impl BrokerUrl {
    /// Reads `embedded:`, `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if matches!(text, "embedded:" | "embedded") {
            return Ok(Self::Embedded);
        }
        let (tls, rest) = match (text.strip_prefix("mqtt://"), text.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => {
                return Err(
                    "expected \"embedded:\", \"mqtt://host:port\" or \"mqtts://host:port\"".to_owned(),
                );
            }
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(
                "a URL here may not hold credentials: use username, and name a file with the password in password_file".to_owned(),
            );
        }
        let (host, port) = split_port(authority)?;
        let port = port.map_or(Ok(if tls { 8883 } else { 1883 }), |port| {
            port.parse::<u16>()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| "expected a port from 1 to 65535".to_owned())
        })?;
        let host_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(host_fits) {
            return Err("expected a host name or address after //".to_owned());
        }
        Ok(Self::Mqtt {
            tls,
            host: host.to_owned(),
            port,
        })
    }
}

/// Host and port of `host`, `host:port`, `[v6]` and `[v6]:port`.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("an IPv6 address needs its closing `]`")?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| "expected an IPv6 address between the brackets".to_owned())?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("expected a port after `]`".to_owned()),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("an IPv6 address needs brackets: mqtt://[::1]:1883".to_owned())
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded:"),
            Self::Mqtt { tls, host, port } => {
                let scheme = if *tls { "mqtts" } else { "mqtt" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}

impl Value for BrokerUrl {
    const KIND: &'static str = "URL";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let text = value
            .as_str()
            .ok_or_else(|| expected("a URL in quotes such as \"mqtt://127.0.0.1:1883\"", value))?;
        Self::parse(text).map_err(|message| vec![message.into()])
    }
}

/// The version of MQTT that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

impl Value for Protocol {
    const KIND: &'static str = "5 or 4";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        match value.as_integer().map(toml::de::DeInteger::as_str) {
            Some("5") => Ok(Self::V5),
            Some("4") => Ok(Self::V4),
            _ => Err(expected("5 (MQTT 5) or 4 (MQTT 3.1.1)", value)),
        }
    }
}

/// What to do with a publish that the spool has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse it: 5.03 with Max-Age.
    Refuse,
    /// Drop the oldest messages of the spool, and count them.
    DropOldest,
}

words!(WhenFull {
    "refuse" => WhenFull::Refuse,
    "drop_oldest" => WhenFull::DropOldest,
});

section! {
    /// The broker behind the gateway.
    pub struct Broker {
        /// `embedded:`, `mqtt://host:port` or `mqtts://host:port`.
        url: BrokerUrl = "embedded:";
        /// 5 is MQTT 5, 4 is MQTT 3.1.1.
        protocol: Protocol = 5;
        /// The gateway's client id there; may hold ${node}.
        client_id: String = "${node}", client_id;
        /// The gateway's user name there; "" sends none.
        username: String = "", |text: &String| at_most(text, 65_535);
        /// File with its password.
        password_file: Option<PathBuf> = "";
        /// Trust anchors of an `mqtts` broker, PEM; "" are those of the system.
        ca_file: Option<PathBuf> = "";
        /// The gateway's certificate for an `mqtts` broker, PEM.
        cert_file: Option<PathBuf> = "";
        /// Its private key, PEM.
        key_file: Option<PathBuf> = "";
        /// How many connections carry the traffic, 1 to 64; topics are spread over them.
        connections: u32 = 1, between(1, 64);
        /// MQTT keep-alive, "5s" to "18h".
        keep_alive: Duration = "30s", between(secs(5), secs(18 * 3600));
        /// How long the broker keeps its session with the gateway over a lost connection or a restart, "0s" to "30d": what observers should
        /// get meanwhile waits there. By MQTT 3.1.1, which cannot say it, for as long as the broker likes, unless it is "0s".
        session_expiry: Duration = "5m", between(secs(0), hours(30 * 24));
        /// What the topics begin with on which the gateway tells of itself and its clients, such as "gateways/portcullis" for brokers that take
        /// no `$`. Clients never publish there, and read there only where a rule says so.
        events_prefix: String = "$portcullis", events_prefix;
        /// Which requests to devices may come over MQTT, to `{events_prefix}/{node}/clients/{id}/request`: methods and a path, as in
        /// ["get sensors/#", "put,post lamps/+/state"]. None is off.
        mqtt_requests: MqttRequests = [];
        section /// Store and forward while the broker is away.
        spool: Spool;
    }
}

section! {
    /// Store and forward while the broker is away.
    pub struct Spool {
        /// Most bytes on disk; 0 is off.
        max_bytes: Size = "256MiB", spool_size;
        /// What to do with a publish that it has no room for.
        when_full: WhenFull = "refuse";
    }
}

#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
fn client_id(text: &String) -> Result<(), String> {
    placeholders(text, &["node"])?;
    at_most(text, 1024)
}

#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
fn events_prefix(text: &String) -> Result<(), String> {
    at_most(text, 128)?;
    let name = TopicName::new(text).map_err(|error| format!("this is no topic: {error}"))?;
    if name.as_str().split('/').any(str::is_empty) || is_below(text, "$SYS") {
        return Err("must be levels of a topic with something in each, and not of $SYS".to_owned());
    }
    Ok(())
}

fn spool_size(size: &Size) -> Result<(), String> {
    if size.0 == 0 {
        Ok(())
    } else {
        between(Size(64 << 10), Size(1 << 40))(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_brokers() {
        for (text, shown) in [
            ("embedded:", "embedded:"),
            ("mqtt://127.0.0.1", "mqtt://127.0.0.1:1883"),
            ("mqtts://broker.example.net/", "mqtts://broker.example.net:8883"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
        ] {
            assert_eq!(BrokerUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "",
            "tcp://x:1",
            "mqtt://",
            "mqtt://x:0",
            "mqtt://x:65536",
            "mqtt://::1:1883",
            "mqtt://[::1",
            "mqtt://[::1]1883",
            "mqtt://me:pw@x",
            "mqtt://x/path",
            "mqtt://:1883",
            "mqtt://x:",
            "mqtt://x:y",
            "mqtt://x y",
            "mqtt://[x]",
        ] {
            assert!(BrokerUrl::parse(text).is_err(), "{text}");
        }
    }
}
