//! Redis and Valkey: one server, one that sentinels name, or a cluster.

use portcullis_redis::{Cmd, Connection, Kind, PORT, SENTINEL_PORT, Servers, Step, Value, cmd};

use super::super::client;
use super::super::settings::{RedisKind, RedisSettings};
use super::super::template::{Template, Values, plain};
use super::super::users::FileError;
use super::pool::Server;
use super::record::Field;
use super::{Failure, Found, Record, host_and_port, password};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Values of the fields that were named.
    Named,
    /// Fields and values by turns.
    All,
}

pub(super) struct Redis {
    servers: Servers,
    shape: Shape,
    command: String,
    key: Template,
    fields: Vec<String>,
}

impl Redis {
    pub(super) fn open(settings: &RedisSettings) -> Result<Self, FileError> {
        let place = &settings.place;
        let (kind, usual) = match &settings.kind {
            RedisKind::Single => (Kind::Single, PORT),
            RedisKind::Sentinel(name) => (Kind::Sentinel(name.clone()), SENTINEL_PORT),
            RedisKind::Cluster => (Kind::Cluster, PORT),
        };
        let nodes = place.server.split(',').map(|server| host_and_port(server, usual));
        let (shape, command, key, fields) =
            command(&settings.cmd).map_err(|error| FileError::whole("cmd".as_ref(), error))?;
        Ok(Self {
            servers: Servers {
                kind,
                nodes: nodes.collect::<Result<_, _>>()?,
                username: place.username.clone(),
                password: password(place)?,
                database: settings.database,
                tls: match &place.tls {
                    Some(tls) => Some(client::connector(tls)?.build()),
                    None => None,
                },
            },
            shape,
            command,
            key,
            fields,
        })
    }
}

fn failed(failure: portcullis_redis::Failure) -> Failure {
    match failure.step {
        // Under the key of this one is something else.
        Step::Answer if failure.said.ends_with(" WRONGTYPE") => Failure::OfOne(failure.said),
        Step::Answer => Failure::Refused(failure.said),
        Step::Reach | Step::Tls | Step::Login | Step::Serve => Failure::Broken(failure.said),
    }
}

impl Server for Redis {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, Failure> {
        self.servers.connect().await.map_err(failed)
    }

    async fn ask(&self, connection: &mut Connection, values: &Values<'_>) -> Result<Found, Failure> {
        let key = self.key.render(values, plain).map_err(|_| Failure::Unaskable)?;
        let mut asking: Cmd = cmd(&self.command);
        asking.arg(key.as_str());
        if self.shape == Shape::Named {
            asking.arg(&self.fields);
        }
        let answer = self.servers.ask(connection, &asking).await.map_err(failed)?;
        let found = match answer {
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
