//! The engine that nodes share: Redis or Valkey, asked within a time, connected to again when it is asked next.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod};
use portcullis_redis::{Cmd, Connection, Failure, Kind, Node, Servers, Step, Value};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What begins the names of all keys. The tag in braces puts them on one node of a cluster, so that a script may touch several.
pub(crate) const PREFIX: &str = "portcullis:{group}:";

/// Where the engine is and who asks it.
#[derive(Clone)]
pub struct EngineSettings {
    /// How servers stand together.
    pub kind: Kind,
    /// Where they are, their sentinels, or some nodes of their cluster.
    pub nodes: Vec<Node>,
    /// The account; "" is the default one.
    pub username: String,
    /// Its password.
    pub password: Option<Zeroizing<String>>,
    /// The number of the database.
    pub database: u32,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Trust anchors, PEM; those of the system where none is named.
    pub ca_file: Option<PathBuf>,
}

/// Why something does not work, and which key of the configuration is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The dotted key.
    pub key: String,
    /// What is wrong, for people.
    pub message: String,
}

impl Fault {
    /// What is wrong with a key.
    pub fn new(key: &str, message: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            message: message.into(),
        }
    }

    fn of(failure: Failure) -> Self {
        let key = match failure.step {
            Step::Reach | Step::Serve => "group.url",
            Step::Tls => "group.ca_file",
            Step::Login => "group.password_file",
            Step::Answer if failure.said.contains("NOPERM") || failure.said.contains("NOAUTH") => {
                "group.password_file"
            }
            Step::Answer => "group.url",
        };
        Self::new(key, failure.said)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for Fault {}

/// A script that the engine runs whole or not at all.
pub(crate) struct Script {
    text: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self {
            text,
            sha: OnceLock::new(),
        }
    }

    /// By what the engine knows it once it had it.
    fn sha(&self) -> &str {
        self.sha.get_or_init(|| {
            let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), self.text.as_bytes());
            digest.map(hex::encode).unwrap_or_default()
        })
    }

    fn asking(&self, by: &str, keys: &[String], words: &[&[u8]]) -> Cmd {
        let mut asking = portcullis_redis::cmd(by);
        asking
            .arg(if by == "EVAL" { self.text } else { self.sha() })
            .arg(keys.len())
            .arg(keys);
        for word in words {
            asking.arg(*word);
        }
        asking
    }
}

/// The engine, and the connection to it while there is one.
pub(crate) struct Engine {
    settings: EngineSettings,
    open: Option<(Servers, Connection)>,
    /// How long connecting may take, and an answer.
    patience: (Duration, Duration),
    /// How many connections there were: another one may lead to another server.
    connections: u64,
}

impl Engine {
    pub(crate) fn new(settings: EngineSettings) -> Self {
        Self {
            settings,
            open: None,
            patience: (PATIENCE, PATIENCE),
            connections: 0,
        }
    }

    /// The same, with less patience for connecting and for an answer.
    pub(crate) fn within(mut self, connecting: Duration, answering: Duration) -> Self {
        self.patience = (connecting.min(PATIENCE), answering.min(PATIENCE));
        self
    }

    fn servers(&self) -> Result<Servers, Fault> {
        let settings = &self.settings;
        let tls = settings.tls.then(|| connector(settings)).transpose();
        let wrong = |error: openssl::error::ErrorStack| Fault::new("group.ca_file", error.to_string());
        Ok(Servers {
            kind: settings.kind.clone(),
            nodes: settings.nodes.clone(),
            username: settings.username.clone(),
            password: settings.password.clone(),
            database: settings.database,
            tls: tls.map_err(wrong)?,
        })
    }

    /// Which connection it is, counted.
    pub(crate) const fn connection(&self) -> u64 {
        self.connections
    }

    /// What a script answers.
    pub(crate) async fn run(
        &mut self,
        script: &Script,
        keys: &[String],
        words: &[&[u8]],
    ) -> Result<Value, Fault> {
        match self.ask(&script.asking("EVALSHA", keys, words)).await {
            Err(fault) if fault.message.contains("NOSCRIPT") => {
                self.ask(&script.asking("EVAL", keys, words)).await
            }
            answer => answer,
        }
    }

    /// The same, by this connection or not at all.
    pub(crate) async fn run_on(
        &mut self,
        connection: Option<u64>,
        script: &Script,
        keys: &[String],
        words: &[&[u8]],
    ) -> Result<Value, Fault> {
        if connection != Some(self.connections) || self.open.is_none() {
            return Err(Fault::new("group.url", "the connection to it was lost"));
        }
        match self.ask(&script.asking("EVALSHA", keys, words)).await {
            Err(fault) if fault.message.contains("NOSCRIPT") && self.open.is_some() => {
                self.ask(&script.asking("EVAL", keys, words)).await
            }
            answer => answer,
        }
    }

    /// The answer to a question. A connection that broke is made again for the next one.
    pub(crate) async fn ask(&mut self, asking: &Cmd) -> Result<Value, Fault> {
        let late = |_| Fault::new("group.url", "it did not answer in time");
        let (connecting, answering) = self.patience;
        let (servers, mut connection) = match self.open.take() {
            Some(open) => open,
            None => {
                let servers = self.servers()?;
                let made = tokio::time::timeout(connecting, servers.connect()).await;
                let connection = made.map_err(late)?.map_err(Fault::of)?;
                self.connections += 1;
                (servers, connection)
            }
        };
        let asked = tokio::time::timeout(answering, servers.ask(&mut connection, asking)).await;
        let answer = asked.map_err(late)?;
        // One that broke, or owes an answer still, is not used again.
        if answer.as_ref().err().is_none_or(|failure| !failure.is_broken()) {
            self.open = Some((servers, connection));
        }
        answer.map_err(Fault::of)
    }
}

fn connector(settings: &EngineSettings) -> Result<SslConnector, openssl::error::ErrorStack> {
    let mut tls = SslConnector::builder(SslMethod::tls_client())?;
    if let Some(file) = &settings.ca_file {
        tls.set_ca_file(file)?;
    }
    Ok(tls.build())
}

/// The bytes of an answer; nothing where it is none.
pub(crate) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Okay => Some(b"OK".to_vec()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

/// The number of an answer; 0 where it is none.
pub(crate) fn number(value: Value) -> u64 {
    let text = bytes(value).and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The parts of an answer.
pub(crate) fn parts(value: Value) -> Vec<Value> {
    match value {
        Value::Array(parts) => parts,
        Value::Set(parts) => parts,
        _ => Vec::new(),
    }
}
