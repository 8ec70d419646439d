//! Redis and Valkey: one server, one that sentinels name, or a cluster.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;

use openssl::ssl::SslConnector;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, ServerErrorKind,
    Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_openssl::SslStream;
use zeroize::Zeroizing;

use super::super::client;
use super::super::settings::{RedisKind, RedisSettings};
use super::super::template::{Template, Values, plain};
use super::super::users::FileError;
use super::pool::Server;
use super::record::Field;
use super::{Failure, Found, Record, host_and_port, password};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// Nodes of a cluster that a question may be sent on to, one after the other.
const REDIRECTIONS: usize = 5;
/// Nodes that one connection is connected to.
const NODES: usize = 64;

type Node = (String, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Values of the fields that were named.
    Named,
    /// Fields and values by turns.
    All,
}

pub(super) struct Redis {
    kind: RedisKind,
    servers: Vec<Node>,
    username: String,
    password: Option<Zeroizing<String>>,
    database: u32,
    tls: Option<SslConnector>,
    shape: Shape,
    command: String,
    key: Template,
    fields: Vec<String>,
}

/// A connection, of a cluster to each node that was asked.
#[derive(Default)]
pub(super) struct Connection {
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

impl Redis {
    pub(super) fn open(settings: &RedisSettings) -> Result<Self, FileError> {
        let place = &settings.place;
        let usual = match settings.kind {
            RedisKind::Sentinel(_) => SENTINEL_PORT,
            RedisKind::Single | RedisKind::Cluster => PORT,
        };
        let servers = place.server.split(',').map(|server| host_and_port(server, usual));
        let (shape, command, key, fields) =
            command(&settings.cmd).map_err(|error| FileError::whole("cmd".as_ref(), error))?;
        Ok(Self {
            kind: settings.kind.clone(),
            servers: servers.collect::<Result<_, _>>()?,
            username: place.username.clone(),
            password: password(place)?,
            database: settings.database,
            tls: match &place.tls {
                Some(tls) => Some(client::connector(tls)?.build()),
                None => None,
            },
            shape,
            command,
            key,
            fields,
        })
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
        let io = |error: std::io::Error| Failure::Broken(error.to_string());
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        match &self.tls {
            None => spoken(&info, stream).await,
            Some(connector) => {
                let broken = |error: &dyn std::error::Error| Failure::Broken(client::chain(error));
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
        let mut last = Failure::Broken("no sentinel is named".to_owned());
        for sentinel in &self.servers {
            let asked = async {
                let mut spoken = self.speak(sentinel, true).await?;
                let mut asking = redis::cmd("SENTINEL");
                asking.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
                let answer: Option<(String, u16)> = asking
                    .query_async(&mut spoken.connection)
                    .await
                    .map_err(|error| failed(&error))?;
                answer.ok_or_else(|| Failure::Broken("the sentinel knows no master of that name".to_owned()))
            };
            match asked.await {
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
        let gone = || Failure::Broken("the node is gone".to_owned());
        connection.nodes.get_mut(node).ok_or_else(gone)
    }

    /// The answer of whichever node has the key.
    async fn answer(&self, connection: &mut Connection, asking: &Cmd) -> Result<Value, Failure> {
        let home = || Failure::Broken("no server is named".to_owned());
        let mut at = connection.home.clone().ok_or_else(home)?;
        let mut is_asking = false;
        for _ in 0..REDIRECTIONS {
            let spoken = self.node(connection, &at).await?;
            if std::mem::take(&mut is_asking) {
                let asked: Result<(), _> = redis::cmd("ASKING").query_async(&mut spoken.connection).await;
                asked.map_err(|error| failed(&error))?;
            }
            let answer: Result<Value, RedisError> = asking.query_async(&mut spoken.connection).await;
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (RedisKind::Cluster, Some((node, _))) = (&self.kind, error.redirect_node()) else {
                return Err(failed(&error));
            };
            is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            let elsewhere = host_and_port(node, PORT);
            at = elsewhere.map_err(|_| Failure::Refused("it names no node that has the key".to_owned()))?;
        }
        Err(Failure::Refused(
            "its nodes send the question round in a circle".to_owned(),
        ))
    }
}

impl Server for Redis {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, Failure> {
        let candidates = match &self.kind {
            RedisKind::Sentinel(name) => vec![self.master(name).await?],
            RedisKind::Single | RedisKind::Cluster => self.servers.clone(),
        };
        let mut connection = Connection::default();
        let mut last = Failure::Broken("no server is named".to_owned());
        for node in candidates {
            match self.node(&mut connection, &node).await {
                Ok(_) => {
                    connection.home = Some(node);
                    return Ok(connection);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn ask(&self, connection: &mut Connection, values: &Values<'_>) -> Result<Found, Failure> {
        let key = self.key.render(values, plain).map_err(|_| Failure::Unaskable)?;
        let mut asking = redis::cmd(&self.command);
        asking.arg(key.as_str());
        if self.shape == Shape::Named {
            asking.arg(&self.fields);
        }
        let found = match self.answer(connection, &asking).await? {
            Value::Array(values) => values,
            Value::Nil => return Ok(Found::Nobody),
            // HGET
            single => vec![single],
        };
        let mut record = Record::default();
        let mut some = false;
        let mut put = |name: &str, value: Value| {
            let field = match value {
                Value::BulkString(bytes) => Field::Bytes(bytes),
                Value::SimpleString(text) => Field::Bytes(text.into_bytes()),
                Value::Int(number) => Field::Typed(number.into()),
                _ => return,
            };
            some = true;
            record.put(name, field);
        };
        match self.shape {
            Shape::Named => self
                .fields
                .iter()
                .zip(found)
                .for_each(|(name, value)| put(name, value)),
            Shape::All => {
                let mut pairs = found.into_iter();
                while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
                    if let Value::BulkString(name) = name {
                        put(&String::from_utf8_lossy(&name), value);
                    }
                }
            }
        }
        Ok(if some {
            Found::Somebody(record)
        } else {
            Found::Nobody
        })
    }
}

async fn spoken<S>(info: &RedisConnectionInfo, stream: S) -> Result<Spoken, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // How long an answer may take is the caller's to say.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(info, stream, config);
    let (connection, driver) = made
        .await
        .map_err(|error| Failure::Broken(failed(&error).told()))?;
    Ok(Spoken {
        connection,
        driver: tokio::spawn(driver),
    })
}

/// Without what the server says in words: it quotes what it was asked.
fn failed(error: &RedisError) -> Failure {
    let said = match error.code() {
        Some(code) => format!("it answered {code}"),
        None => client::chain(error),
    };
    match error.kind() {
        // It is not the server that answers for the data now: another connection may reach one that does.
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::ReadOnly,
        ) => Failure::Broken(said),
        ErrorKind::Server(_) => Failure::Refused(said),
        _ => Failure::Broken(said),
    }
}

/// Splits `HMGET KEY FIELD...`, `HGET KEY FIELD` or `HGETALL KEY`.
fn command(text: &str) -> Result<(Shape, String, Template, Vec<String>), String> {
    let form = || {
        "this is not HMGET KEY FIELD..., HGET KEY FIELD or HGETALL KEY, such as HMGET user:${username} password_hash salt is_superuser"
            .to_owned()
    };
    let mut words = text.split_ascii_whitespace();
    let command = words.next().unwrap_or_default().to_ascii_uppercase();
    let key = Template::new(words.next().ok_or_else(form)?)?;
    let fields: Vec<String> = words.map(str::to_owned).collect();
    if fields.iter().any(|field| field.contains("${")) {
        return Err("a placeholder stands in the key, not in the name of a field".to_owned());
    }
    let shape = match (command.as_str(), fields.len()) {
        ("HMGET", 1..) | ("HGET", 1) => Shape::Named,
        ("HGETALL", 0) => Shape::All,
        _ => return Err(form()),
    };
    Ok((shape, command, key, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_could_do_something_else_are_refused() {
        let (shape, name, _, fields) = command("hmget u:${username} password_hash salt").unwrap();
        assert_eq!((shape, name.as_str(), fields.len()), (Shape::Named, "HMGET", 2));
        assert!(command("HGETALL u:${username}").is_ok() && command("HGET k f").is_ok());
        for bad in [
            "",
            "HMGET",
            "HMGET k",
            "HGETALL k f",
            "GET k",
            "EVAL x 0",
            "DEL k",
            "HMGET k ${username}",
            "HMGET ${user} f",
        ] {
            assert!(command(bad).is_err(), "{bad}");
        }
    }
}
