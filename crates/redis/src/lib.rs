//! Speaking to Redis or Valkey: one server, one that sentinels name, or a cluster. How long an answer may take is the caller's to say.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use openssl::ssl::SslConnector;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, ServerErrorKind,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_openssl::SslStream;
use zeroize::Zeroizing;

pub use redis::{Cmd, Value, cmd};

/// Where a server is: host name or address, and port.
pub type Node = (String, u16);

/// The port of servers where none is said.
pub const PORT: u16 = 6379;

/// The port of sentinels where none is said.
pub const SENTINEL_PORT: u16 = 26_379;

/// Nodes of a cluster that a question may be sent on to, one after the other.
const REDIRECTIONS: usize = 5;

/// Nodes that one connection is connected to.
const NODES: usize = 64;

/// How long one of several may take until the next is tried.
const TRY: Duration = Duration::from_millis(700);

/// How servers stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One server; of several that are named the first that can be reached.
    Single,
    /// The master that sentinels know by this name.
    Sentinel(String),
    /// A cluster, of which some nodes are named.
    Cluster,
}

/// At which step there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// No server could be reached, or the connection broke.
    Reach,
    /// TLS could not be agreed on.
    Tls,
    /// The server did not let the account in.
    Login,
    /// It does not answer for the data now: another connection may reach one that does.
    Serve,
    /// It said that it will not or cannot answer this question.
    Answer,
}

/// Why there is no answer, without what the server says in words: it quotes what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// At which step.
    pub step: Step,
    /// For people.
    pub said: String,
}

impl Failure {
    fn new(step: Step, said: impl Into<String>) -> Self {
        Self {
            step,
            said: said.into(),
        }
    }

    /// Whether the connection is of no use any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.step != Step::Answer
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl Error for Failure {}

/// The servers, and who asks them.
pub struct Servers {
    /// How they stand together.
    pub kind: Kind,
    /// Where they, their sentinels, or some nodes of their cluster are.
    pub nodes: Vec<Node>,
    /// The account; "" is the default one.
    pub username: String,
    /// Its password.
    pub password: Option<Zeroizing<String>>,
    /// The number of the database; a cluster has 0 only.
    pub database: u32,
    /// TLS; `None` speaks in clear.
    pub tls: Option<SslConnector>,
}

/// A connection, of a cluster to each node that was asked.
#[derive(Default)]
pub struct Connection {
    home: Option<Node>,
    nodes: HashMap<Node, Spoken>,
}

struct Spoken {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Drop for Spoken {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Servers {
    /// Connects to the first server, or the master, that can be reached.
    ///
    /// # Errors
    /// Why the last one that was tried cannot be spoken to.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let candidates = match &self.kind {
            Kind::Sentinel(name) => vec![self.master(name).await?],
            Kind::Single | Kind::Cluster => self.nodes.clone(),
        };
        let mut connection = Connection::default();
        let mut last = Failure::new(Step::Reach, "no server is named");
        let lefts = (0..candidates.len()).rev();
        for (node, left) in candidates.into_iter().zip(lefts) {
            match tried(self.node(&mut connection, &node), left).await.map(drop) {
                Ok(()) => {
                    connection.home = Some(node);
                    return Ok(connection);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// The answer of whichever node has the key.
    ///
    /// # Errors
    /// There is none.
    pub async fn ask(&self, connection: &mut Connection, asking: &Cmd) -> Result<Value, Failure> {
        let home = || Failure::new(Step::Reach, "no server is named");
        let mut at = connection.home.clone().ok_or_else(home)?;
        let mut is_asking = false;
        for _ in 0..REDIRECTIONS {
            let spoken = self.node(connection, &at).await?;
            if std::mem::take(&mut is_asking) {
                let asked: Result<(), _> = cmd("ASKING").query_async(&mut spoken.connection).await;
                asked.map_err(|error| failed(&error))?;
            }
            let answer: Result<Value, RedisError> = asking.query_async(&mut spoken.connection).await;
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (Kind::Cluster, Some((node, _))) = (&self.kind, error.redirect_node()) else {
                return Err(failed(&error));
            };
            is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            at =
                place(node).ok_or_else(|| Failure::new(Step::Answer, "it names no node that has the key"))?;
        }
        let round = "its nodes send the question round in a circle";
        Err(Failure::new(Step::Answer, round))
    }

    /// Speaks to a server; to a sentinel as nobody, for its accounts are others.
    async fn speak(&self, (host, port): &Node, sentinel: bool) -> Result<Spoken, Failure> {
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        if !sentinel {
            info = info.set_db(i64::from(self.database));
            if !self.username.is_empty() {
                info = info.set_username(&self.username);
            }
            if let Some(password) = &self.password {
                info = info.set_password(&**password);
            }
        }
        let io = |error: std::io::Error| Failure::new(Step::Reach, error.to_string());
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        match &self.tls {
            None => spoken(&info, stream).await,
            Some(connector) => {
                let broken = |error: &dyn Error| Failure::new(Step::Tls, chain(error));
                let mut tls = connector.configure().map_err(|error| broken(&error))?;
                tls.set_use_server_name_indication(host.parse::<IpAddr>().is_err());
                let ssl = tls.into_ssl(host).map_err(|error| broken(&error))?;
                let mut stream = SslStream::new(ssl, stream).map_err(|error| broken(&error))?;
                Pin::new(&mut stream)
                    .connect()
                    .await
                    .map_err(|error| broken(&error))?;
                spoken(&info, stream).await
            }
        }
    }

    /// Where the master is that the sentinels know by `name`.
    async fn master(&self, name: &str) -> Result<Node, Failure> {
        let mut last = Failure::new(Step::Reach, "no sentinel is named");
        for (sentinel, left) in self.nodes.iter().zip((0..self.nodes.len()).rev()) {
            let asked = async {
                let mut spoken = self.speak(sentinel, true).await?;
                let mut asking = cmd("SENTINEL");
                asking.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
                let answer: Option<(String, u16)> = asking
                    .query_async(&mut spoken.connection)
                    .await
                    .map_err(|error| failed(&error))?;
                let unknown = || Failure::new(Step::Reach, "the sentinel knows no master of that name");
                answer.ok_or_else(unknown)
            };
            match tried(asked, left).await {
                Ok(master) => return Ok(master),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn node<'c>(&self, connection: &'c mut Connection, node: &Node) -> Result<&'c mut Spoken, Failure> {
        if !connection.nodes.contains_key(node) {
            if connection.nodes.len() >= NODES {
                connection.nodes.clear();
            }
            let spoken = self.speak(node, false).await?;
            connection.nodes.insert(node.clone(), spoken);
        }
        let gone = || Failure::new(Step::Reach, "the node is gone");
        connection.nodes.get_mut(node).ok_or_else(gone)
    }
}

/// An attempt behind which `left` others stand: one that says nothing, as a machine that is gone does, must not have all their time.
async fn tried<T>(attempt: impl Future<Output = Result<T, Failure>>, left: usize) -> Result<T, Failure> {
    if left == 0 {
        return attempt.await;
    }
    let late = |_| Err(Failure::new(Step::Reach, "it did not answer in time"));
    tokio::time::timeout(TRY, attempt).await.unwrap_or_else(late)
}

async fn spoken<S>(info: &RedisConnectionInfo, stream: S) -> Result<Spoken, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // How long an answer may take is the caller's to say.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(info, stream, config);
    let (connection, driver) = made.await.map_err(|error| match failed(&error) {
        // Nothing but who asks was told yet.
        failure if failure.step == Step::Answer || error.kind() == ErrorKind::AuthenticationFailed => {
            Failure::new(Step::Login, failure.said)
        }
        failure => failure,
    })?;
    Ok(Spoken {
        connection,
        driver: tokio::spawn(driver),
    })
}

fn failed(error: &RedisError) -> Failure {
    let said = match error.code() {
        Some(code) => format!("it answered {code}"),
        None => chain(error),
    };
    let step = match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::ReadOnly,
        ) => Step::Serve,
        // A code that the client library has no name for, as WRONGTYPE.
        ErrorKind::Server(_) | ErrorKind::Extension => Step::Answer,
        _ => Step::Reach,
    };
    Failure::new(step, said)
}

/// Host and port as a node of a cluster names another.
fn place(text: &str) -> Option<Node> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

/// An error and what it comes from.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_cluster_are_named_in_any_family() {
        assert_eq!(place("10.0.0.1:7000"), Some(("10.0.0.1".to_owned(), 7000)));
        assert_eq!(place("[::1]:7000"), Some(("::1".to_owned(), 7000)));
        assert_eq!(place("::1:7000"), Some(("::1".to_owned(), 7000)));
        assert_eq!(place("here"), None);
    }
}
