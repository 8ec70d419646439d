//! MySQL and MariaDB.

use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable as _;
use mysql_async::{ClientIdentity, Conn, Error, Opts, OptsBuilder, Params, Row, SslOpts, Value};
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::X509;

use super::super::client;
use super::super::settings::{SqlSettings, TlsSettings};
use super::super::template::{Template, Values, Variable};
use super::super::users::FileError;
use super::pool::Server;
use super::record::Field;
use super::{Failure, Found, Record, host_and_port, password};

pub(super) struct Mysql {
    opts: Opts,
    query: String,
    parameters: Vec<Variable>,
}

impl Mysql {
    pub(super) fn open(settings: &SqlSettings) -> Result<Self, FileError> {
        let place = &settings.place;
        let (host, port) = host_and_port(&place.server, 3306)?;
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let opts = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(given(&place.username))
            .pass(password(place)?.map(|password| password.to_string()))
            .db_name(given(&settings.database))
            .ssl_opts(place.tls.as_ref().map(tls).transpose()?)
            // It would be asked over a socket of the file system otherwise, wherever the server says it has one.
            .prefer_socket(false);
        let template =
            Template::new(&settings.query).map_err(|error| FileError::whole("query".as_ref(), error))?;
        let (query, parameters) = template.bound(|_| "?".to_owned());
        Ok(Self {
            opts: opts.into(),
            query,
            parameters,
        })
    }
}

fn tls(settings: &TlsSettings) -> Result<SslOpts, FileError> {
    let mut tls = SslOpts::default();
    if let Some(file) = &settings.ca_file {
        tls = tls
            .with_root_certs(vec![file.clone().into()])
            .with_disable_built_in_roots(true);
    }
    if let (Some(cert_file), Some(key_file)) = (&settings.cert_file, &settings.key_file) {
        let wrong = |_| {
            FileError::whole(
                key_file,
                "no key and certificate that fit can be read from this and cert_file",
            )
        };
        let read = |file| std::fs::read(file).map_err(|error| FileError::whole(file, error));
        let own = X509::from_pem(&read(cert_file)?).map_err(wrong)?;
        let key = PKey::private_key_from_pem(&read(key_file)?).map_err(wrong)?;
        let archive = Pkcs12::builder()
            .cert(&own)
            .pkey(&key)
            .build2("")
            .map_err(wrong)?;
        let archive = archive.to_der().map_err(wrong)?;
        tls = tls.with_client_identity(Some(ClientIdentity::new(archive.into())));
    }
    Ok(tls)
}

impl Server for Mysql {
    type Connection = Conn;

    async fn connect(&self) -> Result<Conn, Failure> {
        let made = Conn::new(self.opts.clone()).await;
        made.map_err(|error| Failure::Broken(told(&error)))
    }

    async fn ask(&self, connection: &mut Conn, values: &Values<'_>) -> Result<Found, Failure> {
        let mut bound = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            bound.push(Value::from(
                values.get(*parameter).map_err(|_| Failure::Unaskable)?,
            ));
        }
        let parameters = if bound.is_empty() {
            Params::Empty
        } else {
            Params::Positional(bound)
        };
        let asked = connection
            .exec_first::<Row, _, _>(self.query.as_str(), parameters)
            .await;
        let Some(row) = asked.map_err(failed)? else {
            return Ok(Found::Nobody);
        };
        let columns = row.columns();
        let mut record = Record::default();
        for (column, value) in columns.iter().zip(row.unwrap_raw()) {
            let name = column.name_str();
            let field = match value {
                None | Some(Value::NULL) => continue,
                Some(Value::Bytes(bytes)) => Field::Bytes(bytes),
                Some(Value::Int(number)) => Field::Typed(number.into()),
                Some(Value::UInt(number)) => Field::Typed(number.into()),
                Some(Value::Float(number)) => Field::Typed(number.into()),
                Some(Value::Double(number)) => Field::Typed(number.into()),
                Some(Value::Date(..) | Value::Time(..)) => {
                    let kind = if column.column_type() == ColumnType::MYSQL_TYPE_TIME {
                        "time"
                    } else {
                        "date"
                    };
                    return Err(Failure::Refused(format!(
                        "the column {name} is a {kind}: take UNIX_TIMESTAMP() of it"
                    )));
                }
            };
            record.put(&name, field);
        }
        Ok(Found::Somebody(record))
    }
}

fn failed(error: Error) -> Failure {
    let is_of_one = |state: &str| ["21", "22", "45"].iter().any(|class| state.starts_with(class));
    match &error {
        // Cardinality, data and what a function of the site raises depend on the values that were asked with.
        Error::Server(said) if is_of_one(&said.state) => Failure::OfOne(told(&error)),
        // The server is being stopped.
        Error::Server(said) if said.code != 1053 => Failure::Refused(told(&error)),
        _ => Failure::Broken(told(&error)),
    }
}

/// Without what a server quotes, other than where the query itself is wrong: it may be a value that was asked about.
fn told(error: &Error) -> String {
    match error {
        Error::Server(said) if said.state.starts_with("42") => {
            format!("it is refused: {} (error {})", said.message, said.code)
        }
        Error::Server(said) => format!("error {} (SQLSTATE {})", said.code, said.state),
        other => client::chain(other),
    }
}
