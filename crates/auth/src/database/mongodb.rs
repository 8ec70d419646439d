//! MongoDB.

use std::time::Duration;

use mongodb::bson::{Bson, Document};
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, Credential, ServerAddress, Tls, TlsOptions};
use mongodb::{Client, Collection};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::super::settings::MongoSettings;
use super::super::template::{Template, Values};
use super::super::users::FileError;
use super::record::Field;
use super::{Failure, Find, Finding, Found, Record, host_and_port, password};

pub(super) struct Mongodb {
    options: ClientOptions,
    database: String,
    collection: String,
    filter: Vec<(String, Template)>,
    /// Made by the first question: it starts tasks of its own, which know the set and pool the connections.
    client: OnceCell<Client>,
}

impl Mongodb {
    pub(super) fn open(settings: &MongoSettings, timeout: Duration) -> Result<Self, FileError> {
        let place = &settings.place;
        let mut hosts = Vec::new();
        for server in place.server.split(',') {
            let (host, port) = host_and_port(server, 27017)?;
            let port = Some(port);
            hosts.push(ServerAddress::Tcp { host, port });
        }
        let mut options = ClientOptions::builder()
            .app_name("portcullis".to_owned())
            .direct_connection(settings.replica_set.is_none() && hosts.len() == 1)
            .hosts(hosts)
            .max_pool_size(u32::try_from(place.pool_size).unwrap_or(u32::MAX))
            .server_selection_timeout(timeout)
            .connect_timeout(timeout)
            .build();
        options.repl_set_name.clone_from(&settings.replica_set);
        let mut credential = Credential::default();
        credential.username = Some(place.username.clone()).filter(|name| !name.is_empty());
        credential.password = password(place)?.map(|password| password.to_string());
        credential.source = Some(settings.auth_source.clone()).filter(|source| !source.is_empty());
        options.credential = credential.username.is_some().then_some(credential);
        if let Some(settings) = &place.tls {
            let mut tls = TlsOptions::default();
            tls.ca_file_path.clone_from(&settings.ca_file);
            if settings.cert_file != settings.key_file {
                let file = settings.cert_file.as_deref().unwrap_or_else(|| "tls".as_ref());
                let message =
                    "the driver takes certificate and key from one file: name it in cert_file and key_file";
                return Err(FileError::whole(file, message));
            }
            tls.cert_key_file_path.clone_from(&settings.cert_file);
            options.tls = Some(Tls::Enabled(tls));
        }
        let mut filter = Vec::with_capacity(settings.filter.len());
        for (name, text) in &settings.filter {
            let template = Template::new(text).map_err(|error| FileError::whole("filter".as_ref(), error))?;
            filter.push((name.clone(), template));
        }
        Ok(Self {
            options,
            database: settings.database.clone(),
            collection: settings.collection.clone(),
            filter,
            client: OnceCell::new(),
        })
    }

    async fn ask(&self, values: &Values<'_>) -> Result<Found, Failure> {
        let mut filter = Document::new();
        for (name, template) in &self.filter {
            let value = template.render_or_none(values).map_err(|_| Failure::Unaskable)?;
            // A text, whatever is in it: never an operator.
            let value = value.map_or(Bson::Null, |text| Bson::String(text.as_str().to_owned()));
            filter.insert(name, value);
        }
        let made = self
            .client
            .get_or_try_init(|| async { Client::with_options(self.options.clone()) });
        let client = made.await.map_err(|error| failed(&error))?;
        let collection: Collection<Document> = client.database(&self.database).collection(&self.collection);
        let Some(document) = collection
            .find_one(filter)
            .await
            .map_err(|error| failed(&error))?
        else {
            return Ok(Found::Nobody);
        };
        let mut record = Record::default();
        for (name, value) in document {
            match value {
                Bson::Binary(binary) => record.put(&name, Field::Bytes(binary.bytes)),
                Bson::DateTime(at) => {
                    record.put(&name, Field::Typed(at.timestamp_millis().div_euclid(1000).into()));
                }
                // What has no likeness in JSON, as `_id` often has none, is not about the client.
                other => record.put(&name, Field::Typed(json(other).unwrap_or(Value::Null))),
            }
        }
        Ok(Found::Somebody(record))
    }
}

impl Find for Mongodb {
    fn find<'a>(&'a self, values: &'a Values<'a>) -> Finding<'a> {
        Box::pin(self.ask(values))
    }
}

fn json(value: Bson) -> Option<Value> {
    Some(match value {
        Bson::Null => Value::Null,
        Bson::String(text) => text.into(),
        Bson::Boolean(truth) => truth.into(),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) => number.into(),
        Bson::Array(list) => list.into_iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        Bson::Document(document) => {
            let members = document
                .into_iter()
                .map(|(name, value)| Some((name, json(value)?)));
            Value::Object(members.collect::<Option<Map<_, _>>>()?)
        }
        _ => return None,
    })
}

/// Without what the server says in words: it quotes what it was asked.
fn failed(error: &mongodb::error::Error) -> Failure {
    Failure::Broken(match &*error.kind {
        ErrorKind::Authentication { .. } => "its account is not taken".to_owned(),
        ErrorKind::Command(said) => format!("error {} ({})", said.code, said.code_name),
        ErrorKind::ServerSelection { message, .. } => message.clone(),
        ErrorKind::Io(error) => error.to_string(),
        _ => "it gave no answer that is understood".to_owned(),
    })
}
