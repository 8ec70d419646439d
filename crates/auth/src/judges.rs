//! The backends in force, and what is read from files to make them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use portcullis_proto::policy::acl::Acl;
use portcullis_proto::types::ListenerId;
use portcullis_proto::types::reason::Label as _;

use super::database::Database;
use super::file::FileBackend;
use super::http::HttpBackend;
use super::jwt::JwtBackend;
use super::keys::{KeySource, LookupResult};
use super::metrics::Backend;
use super::settings::{AuthSettings, BackendSettings, WallClock};
use super::users::{self, FileError, Taken};

#[derive(Debug)]
pub(super) enum Judge {
    Identity,
    File(Arc<FileBackend>),
    Http(Box<HttpBackend>),
    Jwt(JwtBackend),
    Database(Box<Database>),
}

impl Judge {
    pub(super) fn label(&self) -> Backend {
        match self {
            Self::Identity => Backend::Identity,
            Self::File(_) => Backend::File,
            Self::Http(_) => Backend::Http,
            Self::Jwt(_) => Backend::Jwt,
            Self::Database(database) => database.backend(),
        }
    }

    /// How long a verdict stays while the backend cannot be asked.
    pub(super) fn grace(&self) -> Option<Duration> {
        match self {
            Self::Database(database) => Some(database.grace()),
            Self::Http(http) => Some(http.grace()),
            Self::Identity | Self::File(_) | Self::Jwt(_) => None,
        }
    }
}

/// A server that is asked about logins, or for keys.
#[derive(Debug, Clone)]
pub struct LoginServer {
    /// The listener that has it for itself; `None` is that of `[authentication]`.
    pub listener: Option<Arc<str>>,
    /// Whether it is asked for pre-shared keys and not about logins.
    pub knows_keys: bool,
    /// What kind it is.
    pub backend: Backend,
    /// Why it cannot be asked, and for how long that has been so.
    pub fault: Option<(String, Duration)>,
}

/// The backends in force, replaced as a whole.
#[derive(Debug)]
pub(super) struct Judges {
    default: Arc<Judge>,
    per_listener: BTreeMap<ListenerId, Arc<Judge>>,
    key_sources: BTreeMap<ListenerId, Arc<KeySource>>,
    listeners: Vec<Arc<str>>,
    pub(super) clock: WallClock,
}

impl Judges {
    pub(super) fn open(settings: &AuthSettings, decoy_key: [u8; 32]) -> Result<Self, Vec<FileError>> {
        let mut errors = Vec::new();
        let mut open =
            |backend: &BackendSettings| match judge(backend, decoy_key, settings.caps.hash_memory_kib) {
                Ok(judge) => Some(Arc::new(judge)),
                Err(more) => {
                    errors.extend(more);
                    None
                }
            };
        let default = open(&settings.backend);
        let per_listener = settings
            .per_listener
            .iter()
            .filter_map(|(id, backend)| Some((*id, open(backend)?)))
            .collect();
        let mut key_sources = BTreeMap::new();
        for (id, source) in &settings.key_sources {
            let name = settings
                .listeners
                .get(usize::from(id.0))
                .cloned()
                .unwrap_or_default();
            match KeySource::open(name, source) {
                Ok(source) => drop(key_sources.insert(*id, Arc::new(source))),
                Err(more) => errors.extend(more),
            }
        }
        match default {
            Some(default) if errors.is_empty() => Ok(Self {
                default,
                per_listener,
                key_sources,
                listeners: settings.listeners.clone(),
                clock: settings.clock,
            }),
            _ => Err(errors),
        }
    }

    pub(super) fn of(&self, listener: ListenerId) -> &Arc<Judge> {
        self.per_listener.get(&listener).unwrap_or(&self.default)
    }

    pub(super) fn keys_of(&self, listener: ListenerId) -> Option<&Arc<KeySource>> {
        self.key_sources.get(&listener)
    }

    pub(super) fn lookups(&self) -> Vec<(Arc<str>, Backend, LookupResult, u64)> {
        let of = |source: &KeySource, result| {
            let count = source.count(result);
            (Arc::clone(source.name()), source.backend(), result, count)
        };
        let each = |source: &Arc<KeySource>| {
            let source = Arc::clone(source);
            LookupResult::ALL.iter().map(move |result| of(&source, *result))
        };
        self.key_sources.values().flat_map(each).collect()
    }

    pub(super) fn servers(&self) -> Vec<LoginServer> {
        let own = self.per_listener.iter().map(|(id, judge)| (Some(*id), judge));
        std::iter::once((None, &self.default))
            .chain(own)
            .filter_map(|(listener, judge)| match &**judge {
                Judge::Database(database) => Some(LoginServer {
                    listener: listener.map(|id| self.name(id).into()),
                    knows_keys: false,
                    backend: database.backend(),
                    fault: database.health().fault(),
                }),
                Judge::Identity | Judge::File(_) | Judge::Http(_) | Judge::Jwt(_) => None,
            })
            .chain(self.key_sources.values().filter_map(|source| {
                Some(LoginServer {
                    listener: Some(Arc::clone(source.name())),
                    knows_keys: true,
                    backend: source.backend(),
                    fault: source.health()?.fault(),
                })
            }))
            .collect()
    }

    pub(super) fn name(&self, listener: ListenerId) -> &str {
        self.listeners
            .get(usize::from(listener.0))
            .map_or("", |name| name)
    }
}

fn judge(settings: &BackendSettings, decoy_key: [u8; 32], max_kib: u32) -> Result<Judge, Vec<FileError>> {
    Ok(match settings {
        BackendSettings::Identity => Judge::Identity,
        BackendSettings::File(file) => {
            let taken = Taken {
                max_kib,
                legacy_hashes: file.legacy_hashes,
            };
            Judge::File(Arc::new(FileBackend::open(&file.path, decoy_key, taken)?))
        }
        BackendSettings::Http(http) => Judge::Http(Box::new(HttpBackend::open(http)?)),
        BackendSettings::Database(database) => {
            let opened = Database::open(database).map_err(|error| vec![error])?;
            Judge::Database(Box::new(opened))
        }
        BackendSettings::Jwt(jwt) => Judge::Jwt(JwtBackend::open(jwt)?),
    })
}

/// Largest ACL file in bytes.
const MAX_ACL: u64 = 16 << 20;

/// The text of an ACL file, at most 16 MiB of it.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8; then with the line.
pub fn read_acl(path: &Path) -> Result<Zeroizing<String>, FileError> {
    users::read_text(path, MAX_ACL)
}

/// Reads an ACL file.
///
/// # Errors
/// When it cannot be read, or every line that is wrong; then the rules that are in force should stay so.
pub fn load_acl(path: &Path) -> Result<Acl, Vec<FileError>> {
    let text = read_acl(path).map_err(|error| vec![error])?;
    Acl::parse(&text).map_err(|errors| users::at(path, errors))
}
