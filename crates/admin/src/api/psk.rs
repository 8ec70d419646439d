//! `psk`: the pre-shared keys of devices.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use zeroize::Zeroizing;

use portcullis_config::named_lines::{self, NamedLines};
use portcullis_config::{Config, Listener, psk_file, trial};
use portcullis_dtls::{PskStore, split_secret};
use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::types::Transport;

use super::clients::named;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Path, secret_or_none};
use super::files::{self, Edit, Kind};
use super::handle::ListenerState;
use super::{Api, rfc3339, wrong_lines};

/// A device's PSK identity.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct PskIdentity {
    /// The PSK identity, as the device sends it (RFC 4279).
    pub identity: String,
    /// The DTLS listeners that know it.
    pub listeners: Vec<String>,
    /// Its keys, file by file, the newest first: two in one file while it is given another.
    pub keys: Vec<KeyUse>,
    /// What else is known of who has the newest of them: `${attr.NAME}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What is told of a key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct KeyUse {
    /// When a handshake with it last ended well since the gateway was started; `null` if none did.
    #[schema(format = DateTime)]
    pub last_used: Option<String>,
}

/// A key for a device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPsk {
    /// The identity as printable text, or `hex:` and two digits for each byte.
    #[schema(min_length = 1)]
    identity: String,
    /// The key in hexadecimal digits, 1 to 64 bytes. Without it one is made and returned, this once.
    #[serde(default, deserialize_with = "secret_or_none")]
    key: Option<String>,
    /// The DTLS listener, by name, when several have files of keys.
    #[serde(default)]
    listener: Option<String>,
    /// Whether the identity may have a key already, which is then replaced.
    #[serde(default)]
    replace: bool,
    /// Whether it is given beside the one that the identity has: both count, until the older is removed.
    #[serde(default)]
    another: bool,
    /// What else is known of who has the key: `${attr.NAME}`. Without it what was known of the identity stays.
    #[serde(default)]
    attributes: Option<BTreeMap<String, String>>,
}

/// What else is known of a device than its keys.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAttributes {
    /// Names and values, at most 32, in place of those that there are: `${attr.NAME}`.
    attributes: BTreeMap<String, String>,
}

fn checked(attributes: &BTreeMap<String, String>) -> Result<Attributes, ApiError> {
    let pairs = attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Attributes::new(pairs).map_err(|why| ApiError::bad_request(format!("attributes: {why}")))
}

/// A key that was stored.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct StoredPsk {
    /// The PSK identity, as the device sends it (RFC 4279).
    pub identity: String,
    /// The key, when it was made here. It is never shown again.
    #[serde(flatten)]
    pub made: Option<MadeKey>,
    /// The DTLS listeners that know it now.
    pub listeners: Vec<String>,
}

/// A key that was made for a device, and how to try it.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct MadeKey {
    /// The key in hexadecimal digits.
    pub key: String,
    /// The same key as text: each character is a byte of it.
    pub key_text: String,
    /// Lines for a shell of the gateway's machine, to observe a topic and to publish to it; none where the ACL has no topic for
    /// both, or no command line carries the identity.
    pub try_lines: Vec<String>,
}

/// The query of requests that may be meant for one listener's keys.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListenerQuery {
    /// Only the keys of this DTLS listener.
    listener: Option<String>,
}

/// The query of a request that removes keys.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemovalQuery {
    /// Only the keys of this DTLS listener.
    listener: Option<String>,
    /// Whether only the older of two keys is removed.
    #[serde(default)]
    older: bool,
}

/// A file of keys and the listeners that use it.
struct KeyFile {
    path: PathBuf,
    listeners: Vec<String>,
}

fn key_files(config: &Config, listener: Option<&str>) -> Result<Vec<KeyFile>, ApiError> {
    let mut files: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for own in &config.listeners {
        if let Some(path) = own.dtls.as_ref().and_then(|dtls| dtls.handshake.psk_file.clone()) {
            let names = files.entry(path).or_default();
            // One for DTLS and one for TLS may have the same name.
            if !names.contains(&own.name) {
                names.push(own.name.clone());
            }
        }
    }
    // Listeners may share a file: what is meant for one of them concerns all.
    files.retain(|_, names| listener.is_none_or(|name| names.iter().any(|own| own == name)));
    if files.is_empty() {
        return Err(match listener {
            Some(name) => ApiError::not_found(format!("no DTLS listener {name:?} has a psk_file")),
            None => ApiError::conflict("no_psk_file", "no DTLS listener has a psk_file"),
        });
    }
    Ok(files
        .into_iter()
        .map(|(path, listeners)| KeyFile { path, listeners })
        .collect())
}

/// List the PSK identities
///
/// Keys are never returned.
#[utoipa::path(
    get,
    path = "/api/v1/psk",
    tag = "credentials",
    params(ListenerQuery),
    responses((status = 200, body = [PskIdentity]), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<ListenerQuery>,
) -> Result<Json<Vec<PskIdentity>>, ApiError> {
    let files = key_files(&api.site.config(), query.listener.as_deref())?;
    let states = api.site.listeners();
    let identities = files::blocking(move || {
        let mut all: BTreeMap<String, PskIdentity> = BTreeMap::new();
        for file in files {
            let content = files::read(&file.path, Kind::Secret)?.unwrap_or_default();
            let lines = parse(&content)?;
            let in_force = in_force(&states, &file);
            for (name, keys) in lines.all() {
                let entry = all.entry(name.to_owned()).or_insert_with(|| PskIdentity {
                    identity: name.to_owned(),
                    listeners: Vec::new(),
                    keys: Vec::new(),
                    attributes: BTreeMap::new(),
                });
                entry.listeners.extend(file.listeners.iter().cloned());
                entry.attributes.extend(named(&psk_file::attributes(&keys)));
                entry
                    .keys
                    .extend(keys.iter().rev().map(|hex| used(&in_force, name, hex)));
            }
        }
        Ok::<_, ApiError>(all)
    })
    .await??;
    Ok(Json(identities.into_values().collect()))
}

/// The keys that the listeners of a file have.
fn in_force(states: &[ListenerState], file: &KeyFile) -> Vec<Arc<PskStore>> {
    let own = states
        .iter()
        .filter(|state| !state.removed && file.listeners.contains(&state.name));
    let keys = own.filter_map(|state| state.context.as_ref()?.current().psks().cloned());
    keys.collect()
}

/// When the key of a line was used.
fn used(in_force: &[Arc<PskStore>], identity: &str, hex: &str) -> KeyUse {
    let bytes = Zeroizing::new(hex::decode(split_secret(hex).0).unwrap_or_default());
    let of = |store: &Arc<PskStore>| {
        let keys = store.named(identity)?.keys();
        keys.iter().find(|key| key.as_bytes() == *bytes)?.last_used()
    };
    let last = in_force.iter().filter_map(of).max();
    let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    KeyUse {
        last_used: last.and_then(time).map(rfc3339),
    }
}

/// Give a device a key
#[utoipa::path(
    post,
    path = "/api/v1/psk",
    tag = "credentials",
    request_body = NewPsk,
    responses(
        (status = 201, body = StoredPsk),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "The identity has a key, or the file cannot be changed")
    )
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Body(wanted): Body<NewPsk>,
) -> Result<Response, ApiError> {
    let NewPsk {
        identity,
        key,
        listener,
        replace,
        another,
        attributes,
    } = wanted;
    let given = key.map(Zeroizing::new);
    let attributes = attributes.as_ref().map(checked).transpose()?;
    if replace && another {
        return Err(ApiError::bad_request("replace and another exclude each other"));
    }
    let wrong = |what: &str, why: String| ApiError::bad_request(format!("{what}: {why}"));
    named_lines::check_name(&identity, &psk_file::FORM).map_err(|why| wrong("identity", why))?;
    let identity = (psk_file::FORM.canonical)(&identity).map_err(|why| wrong("identity", why))?;
    if let Some(key) = &given {
        psk_file::check_key(key).map_err(|why| wrong("key", why))?;
    }
    let mut files = key_files(&api.site.config(), listener.as_deref())?;
    let (Some(file), true) = (files.pop(), files.is_empty()) else {
        return Err(ApiError::bad_request(
            "the DTLS listeners have different files of keys: say which with `listener`",
        ));
    };
    let (key, text) = match &given {
        Some(key) => (Zeroizing::new(key.to_ascii_lowercase()), None),
        None => {
            let text = psk_file::generate()
                .map_err(|error| ApiError::internal(format!("no randomness: {error}")))?;
            (Zeroizing::new(hex::encode(text.as_bytes())), Some(text))
        }
    };
    let (name, secret) = (identity.clone(), key.clone());
    files::change(&api, file.path, Kind::Secret, move |old| {
        let lines = parse(old)?;
        let exists = |why| ApiError::conflict("exists", why);
        let content = if another {
            psk_file::with_another(&lines, &name, &secret, attributes.as_ref()).map_err(exists)?
        } else if lines.contains(&name) && !replace {
            return Err(exists(format!(
                "identity {name:?} has a key already; with `replace` it gets a new one, with `another` a second one"
            )));
        } else {
            psk_file::with(&lines, &name, &secret, attributes.as_ref())
        };
        Ok(Edit {
            content: Zeroizing::new(content.as_bytes().to_vec()),
            outcome: (),
        })
    })
    .await?;
    let stored = StoredPsk {
        identity: identity.clone(),
        made: text.map(|text| MadeKey {
            key: key.to_string(),
            try_lines: try_lines(&api, &file.listeners, &identity, &text),
            key_text: text.to_string(),
        }),
        listeners: file.listeners,
    };
    Ok((StatusCode::CREATED, Json(stored)).into_response())
}

/// The lines to try a key with, on the first of `names` that serves.
fn try_lines(api: &Api, names: &[String], identity: &str, key: &str) -> Vec<String> {
    let config = api.site.config();
    let states = api.site.listeners();
    let serving = states
        .iter()
        .find(|state| state.transport == Transport::Dtls && state.enabled && names.contains(&state.name));
    let listener = serving.and_then(|state| {
        let listener = config
            .listeners
            .iter()
            .find(|one| one.dtls.is_some() && one.name == state.name)?;
        Some(Listener {
            bind: state.bind,
            ..listener.clone()
        })
    });
    let Some(listener) = listener else {
        return Vec::new();
    };
    trial::of_key(&config, &listener, identity, key).map_or_else(|_| Vec::new(), Into::into)
}

/// Remove a device's keys, or the older of two
///
/// Sessions that were established with what is removed end.
#[utoipa::path(
    delete,
    path = "/api/v1/psk/{identity}",
    tag = "credentials",
    params(("identity" = String, Path, description = "The PSK identity"), RemovalQuery),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(identity): Path<String>,
    Params(query): Params<RemovalQuery>,
) -> Result<StatusCode, ApiError> {
    let older = query.older;
    change_each(&api, query.listener.as_deref(), &identity, move |lines, name| {
        if older && lines.secrets(name).len() < 2 {
            return Err(ApiError::conflict(
                "one_key",
                format!("identity {name:?} has one key only"),
            ));
        }
        Ok(if older {
            lines.without_older(name)
        } else {
            lines.without(name)
        })
    })
    .await
}

/// Say what is known of a device
///
/// It counts from the device's next handshake on.
#[utoipa::path(
    put,
    path = "/api/v1/psk/{identity}",
    tag = "credentials",
    params(("identity" = String, Path, description = "The PSK identity"), ListenerQuery),
    request_body = NewAttributes,
    responses(
        (status = 204),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)
    )
)]
pub(super) async fn describe(
    State(api): State<Arc<Api>>,
    Path(identity): Path<String>,
    Params(query): Params<ListenerQuery>,
    Body(wanted): Body<NewAttributes>,
) -> Result<StatusCode, ApiError> {
    let attributes = checked(&wanted.attributes)?;
    change_each(&api, query.listener.as_deref(), &identity, move |lines, name| {
        Ok(psk_file::described(lines, name, &attributes))
    })
    .await
}

/// Changes the lines of an identity in each file that has it; 404 where none has.
async fn change_each(
    api: &Api,
    listener: Option<&str>,
    identity: &str,
    change: impl Fn(&NamedLines, &str) -> Result<Zeroizing<String>, ApiError> + Clone + Send + 'static,
) -> Result<StatusCode, ApiError> {
    let mut changed = false;
    for file in key_files(&api.site.config(), listener)? {
        let (name, change) = (identity.to_owned(), change.clone());
        let outcome = files::change(api, file.path, Kind::Secret, move |old| {
            let lines = parse(old)?;
            if !lines.contains(&name) {
                return Err(no_identity(&name));
            }
            Ok(Edit {
                content: Zeroizing::new(change(&lines, &name)?.as_bytes().to_vec()),
                outcome: (),
            })
        })
        .await;
        match outcome {
            Ok(_) => changed = true,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    if changed {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_identity(identity))
    }
}

fn no_identity(identity: &str) -> ApiError {
    ApiError::not_found(format!("there is no identity {identity:?}"))
}

fn parse(content: &[u8]) -> Result<NamedLines, ApiError> {
    psk_file::parse(content).map_err(|errors| wrong_lines("the file of keys", &errors))
}
