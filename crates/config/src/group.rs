//! `[group]`: several gateways as one.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::check::{between, secs};
use super::document::Document;
use super::paths::PathBase;
use super::problem::Severity;
use super::section::section;
use super::value::{Complaint, Value, expected, words};

section! {
    /// Several gateways as one. Without this table a gateway is alone.
    pub struct Group {
        /// The engine that all nodes share, Redis or Valkey: `redis://host:port`, `rediss://` over TLS, `redis+sentinel://host,host/master` or
        /// `redis+cluster://host,host`; the latter two over TLS as `rediss+sentinel://` and `rediss+cluster://`. A user name may stand before an
        /// `@`, the number of a database behind a last `/`.
        url: EngineUrl = "redis://127.0.0.1:6379";
        /// File with the password of the engine.
        password_file: Option<PathBuf> = "";
        /// Trust anchors of an engine with TLS, PEM; "" are those of the system.
        ca_file: Option<PathBuf> = "";
        /// File with 64 hexadecimal digits, the same for all nodes: the key that seals what they share and proves one to another.
        key_file: PathBuf = "group.key";
        /// The id of this node, 1 to 65535; 0 is one that is free, and the same again after a restart.
        node: u16 = 0;
        /// Where the other nodes reach this one, over TCP and UDP.
        bind: SocketAddr = "127.0.0.1:7683";
        /// How long the others take it for alive without a word of it, "1s" to "1m".
        lease: Duration = "3s", between(secs(1), secs(60));
        /// By which node the answers to a record leave that reached another than its session's: by that one, or `direct`ly by the session's own,
        /// whose address devices have to take for that of the other.
        reply: Reply = "via";
    }
}

/// By which node answers leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// By that which the record reached.
    Via,
    /// By that which has the session.
    Direct,
}

words!(Reply {
    "via" => Reply::Via,
    "direct" => Reply::Direct,
});

/// How the servers of an engine stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineKind {
    /// One server.
    Single,
    /// The master that sentinels know by this name.
    Sentinel(String),
    /// A cluster.
    Cluster,
}

/// Where the engine of a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineUrl {
    /// How its servers stand together.
    pub kind: EngineKind,
    /// Whether they are spoken to over TLS.
    pub tls: bool,
    /// The account; "" is the default one.
    pub username: String,
    /// Host names or addresses, without brackets, and TCP ports.
    pub nodes: Vec<(String, u16)>,
    /// The number of the database.
    pub database: u32,
}

const FORM: &str = "expected \"redis://host:port\", \"rediss://host:port\", \"redis+sentinel://host:port,host:port/master\" or \
                    \"redis+cluster://host:port,host:port\"";

impl EngineUrl {
    /// Reads the URL of an engine.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        let (family, tls) = match scheme.split('+').next() {
            Some("redis") => ("redis", false),
            Some("rediss") => ("rediss", true),
            _ => return Err(FORM.to_owned()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (username, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        if username.contains(':') {
            return Err("a URL here may hold no password: name a file with it in password_file".to_owned());
        }
        let (kind, database, port) = match scheme.strip_prefix(family) {
            Some("") => (EngineKind::Single, path, 6379),
            Some("+cluster") if path.is_empty() => (EngineKind::Cluster, "", 6379),
            Some("+cluster") => {
                return Err("a cluster has no databases: nothing follows the hosts".to_owned());
            }
            Some("+sentinel") => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(
                        "sentinels are asked for a master: its name follows the hosts, such as /mymaster"
                            .to_owned(),
                    );
                }
                (EngineKind::Sentinel(master.to_owned()), database, 26_379)
            }
            _ => return Err(FORM.to_owned()),
        };
        let nodes: Result<Vec<_>, String> = hosts.split(',').map(|host| node(host, port)).collect();
        let nodes = nodes?;
        if kind == EngineKind::Single && nodes.len() > 1 {
            return Err(
                "one server has one host: several are of redis+sentinel:// or redis+cluster://".to_owned(),
            );
        }
        let number = || {
            database
                .parse()
                .map_err(|_| "expected the number of a database behind the last /".to_owned())
        };
        Ok(Self {
            database: if database.is_empty() { 0 } else { number()? },
            kind,
            tls,
            username: username.to_owned(),
            nodes,
        })
    }
}

/// Host and port of `host`, `host:port`, `[v6]` and `[v6]:port`.
fn node(text: &str, usual: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or("an IPv6 address needs its closing `]`")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "expected an IPv6 address between the brackets".to_owned())?;
            (
                host,
                after.strip_prefix(':').or((!after.is_empty()).then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address needs brackets".to_owned()),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(fits) {
        return Err(FORM.to_owned());
    }
    let port = port.map_or(Ok(usual), |port| {
        let port = port.parse::<u16>().ok().filter(|port| *port != 0);
        port.ok_or_else(|| "expected a port from 1 to 65535".to_owned())
    })?;
    Ok((host.to_owned(), port))
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes.iter().map(|(host, port)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        f.write_str(&nodes.collect::<Vec<_>>().join(","))
    }
}

impl Value for EngineUrl {
    const KIND: &'static str = "URL";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let text = value
            .as_str()
            .ok_or_else(|| expected("a URL in quotes such as \"redis://127.0.0.1:6379\"", value))?;
        Self::parse(text).map_err(|message| vec![message.into()])
    }
}

/// What does not fit together.
pub(super) fn rules(group: &Group, doc: &mut Document<'_>) {
    if group.bind.ip().is_unspecified() {
        let message =
            "other nodes are told to come to this address: name the one by which they reach this node";
        doc.complain(&["group.bind"], message);
    }
    if group.bind.port() == 0 {
        doc.complain(
            &["group.bind"],
            "other nodes are told to come to this port: name one",
        );
    }
    if group.ca_file.is_some() && !group.url.tls {
        let message = "ca_file is of no use without TLS: write rediss:// in url";
        doc.complain_as(Severity::Note, &["group.ca_file", "group.url"], message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_engines() {
        let parse = |text| EngineUrl::parse(text).unwrap();
        let one = parse("redis://127.0.0.1:6380");
        assert_eq!(
            (&one.kind, one.tls, one.to_string().as_str()),
            (&EngineKind::Single, false, "127.0.0.1:6380")
        );
        let other = parse("rediss://portcullis@redis.example.net/3");
        assert_eq!(
            (other.tls, other.username.as_str(), other.database),
            (true, "portcullis", 3)
        );
        assert_eq!(other.nodes, [("redis.example.net".to_owned(), 6379)]);
        let sentinels = parse("redis+sentinel://a:1,[::1]/devices/2");
        assert_eq!(sentinels.kind, EngineKind::Sentinel("devices".to_owned()));
        assert_eq!(
            (sentinels.to_string().as_str(), sentinels.database),
            ("a:1,[::1]:26379", 2)
        );
        let cluster = parse("rediss+cluster://a,b:7001");
        assert_eq!(
            (cluster.kind, cluster.tls, cluster.nodes.len()),
            (EngineKind::Cluster, true, 2)
        );
        for text in [
            "",
            "redis:",
            "redis:127.0.0.1",
            "redis://",
            "redis://a,b",
            "redis://a:0",
            "redis://a:x",
            "redis://a/x",
            "redis://u:p@a",
            "redis://::1",
            "redis://[::1]x",
            "redis+x://a",
            "redis+sentinel://a",
            "redis+cluster://a/1",
            "http://a",
        ] {
            assert!(EngineUrl::parse(text).is_err(), "{text}");
        }
        assert!(
            !EngineUrl::parse("redis://u:secret@a")
                .unwrap_err()
                .contains("secret")
        );
    }
}
