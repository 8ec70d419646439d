//! PostgreSQL.

use std::error::Error;
use std::net::IpAddr;

use bytes::BytesMut;
use postgres_openssl::MakeTlsConnector;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Statement};

use super::super::client;
use super::super::settings::SqlSettings;
use super::super::template::{Template, Values, Variable};
use super::super::users::FileError;
use super::pool::Server;
use super::record::Field;
use super::{Failure, Found, Record, host_and_port, json, password};

/// Seconds from 1970 to 2000, from which PostgreSQL counts its microseconds.
const EPOCH: i64 = 946_684_800;

pub(super) struct Postgresql {
    config: Config,
    tls: MakeTlsConnector,
    query: String,
    parameters: Vec<Variable>,
}

pub(super) struct Connection {
    client: Client,
    query: Statement,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Postgresql {
    pub(super) fn open(settings: &SqlSettings) -> Result<Self, FileError> {
        let place = &settings.place;
        let (host, port) = host_and_port(&place.server, 5432)?;
        let mut config = Config::new();
        config.host(&host).port(port).application_name("portcullis");
        if !settings.database.is_empty() {
            config.dbname(&settings.database);
        }
        if !place.username.is_empty() {
            config.user(&place.username);
        }
        if let Some(password) = password(place)? {
            config.password(&*password);
        }
        config.ssl_mode(match place.tls {
            Some(_) => SslMode::Require,
            None => SslMode::Disable,
        });
        let mut tls =
            MakeTlsConnector::new(client::connector(&place.tls.clone().unwrap_or_default())?.build());
        tls.set_callback(|tls, host| {
            tls.set_use_server_name_indication(host.parse::<IpAddr>().is_err());
            Ok(())
        });
        let template =
            Template::new(&settings.query).map_err(|error| FileError::whole("query".as_ref(), error))?;
        let (query, parameters) = template.bound(|number| format!("${number}"));
        Ok(Self {
            config,
            tls,
            query,
            parameters,
        })
    }
}

impl Server for Postgresql {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, Failure> {
        let (client, driver) = self.config.connect(self.tls.clone()).await.map_err(broken)?;
        let driver = tokio::spawn(async move { drop(driver.await) });
        let query = client.prepare(&self.query).await;
        let query = query.inspect_err(|_| driver.abort()).map_err(failed)?;
        Ok(Connection {
            client,
            query,
            driver,
        })
    }

    async fn ask(&self, connection: &mut Connection, values: &Values<'_>) -> Result<Found, Failure> {
        let mut bound = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            bound.push(Text(values.get(*parameter).map_err(|_| Failure::Unaskable)?));
        }
        let parameters: Vec<_> = bound.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        let row = match connection.client.query(&connection.query, &parameters).await {
            Ok(rows) => rows.into_iter().next(),
            // Class 22, data exception: a text that is no number where the column is one, or that no text of it can be.
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("22")) => {
                return Err(Failure::Unaskable);
            }
            Err(error) => return Err(failed(error)),
        };
        let Some(row) = row else {
            return Ok(Found::Nobody);
        };
        let mut record = Record::default();
        for (at, column) in row.columns().iter().enumerate() {
            let cell: Option<Cell> = row.try_get(at).map_err(|_| {
                let (name, kind) = (column.name(), column.type_());
                Failure::Refused(format!(
                    "the column {name} has the type {kind}: cast it to text or bigint"
                ))
            })?;
            if let Some(Cell(field)) = cell {
                record.put(column.name(), field);
            }
        }
        Ok(Found::Somebody(record))
    }
}

fn broken(error: tokio_postgres::Error) -> Failure {
    Failure::Broken(told(&error))
}

fn failed(error: tokio_postgres::Error) -> Failure {
    match error.as_db_error().and_then(|said| said.code().code().get(..2)) {
        // Cardinality, and what a function of the site raises, depend on the values that were asked with.
        Some("21" | "P0") => Failure::OfOne(told(&error)),
        // The server is being stopped.
        Some("57") | None => broken(error),
        Some(_) => Failure::Refused(told(&error)),
    }
}

/// Without what a server quotes: it may be a value that was asked about.
fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) if said.code().code().starts_with("42") => {
            format!(
                "the query is wrong: {} (SQLSTATE {})",
                said.message(),
                said.code().code()
            )
        }
        Some(said) => format!("SQLSTATE {}", said.code().code()),
        None => client::chain(error),
    }
}

/// A parameter as text, of whatever type the server takes it for.
#[derive(Debug)]
struct Text<'v>(Option<&'v str>);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(match self.0 {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A value of an answer.
struct Cell(Field);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let typed = |value: Value| Ok(Self(Field::Typed(value)));
        match *kind {
            Type::BOOL => typed(bool::from_sql(kind, raw)?.into()),
            Type::INT2 => typed(i16::from_sql(kind, raw)?.into()),
            Type::INT4 => typed(i32::from_sql(kind, raw)?.into()),
            Type::INT8 => typed(i64::from_sql(kind, raw)?.into()),
            Type::FLOAT4 => typed(f32::from_sql(kind, raw)?.into()),
            Type::FLOAT8 => typed(f64::from_sql(kind, raw)?.into()),
            Type::TIMESTAMP | Type::TIMESTAMPTZ => {
                let micros = i64::from_be_bytes(raw.try_into()?);
                typed(micros.div_euclid(1_000_000).saturating_add(EPOCH).into())
            }
            Type::JSON => typed(json::value(raw).ok_or("a name stands twice")?),
            // Its version stands before it.
            Type::JSONB => typed(json::value(raw.get(1..).unwrap_or_default()).ok_or("no JSON")?),
            Type::BYTEA => Ok(Self(Field::Bytes(raw.into()))),
            _ => typed(<&str>::from_sql(kind, raw)?.into()),
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(
            *kind,
            Type::BOOL
                | Type::INT2
                | Type::INT4
                | Type::INT8
                | Type::FLOAT4
                | Type::FLOAT8
                | Type::TIMESTAMP
                | Type::TIMESTAMPTZ
                | Type::JSON
                | Type::JSONB
                | Type::BYTEA
        ) || <&str as FromSql>::accepts(kind)
    }
}
