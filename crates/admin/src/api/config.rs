//! `config`: the configuration file, read and written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use openssl::sha::sha256;
use serde_json::{Map, Value as JsonValue, json};
use toml_edit::{DocumentMut, Item};
use zeroize::Zeroizing;

use portcullis_config::{self as config, Problems, edit};
use portcullis_proto::types::Transport;

use super::Api;
use super::error::{ApiError, ErrorBody};
use super::extract::is_media_type;
use super::files::{self, Edit, Kind};
use super::status::{ReloadReport, summary};

const TOML: &str = "application/toml";

fn file(api: &Api) -> Result<PathBuf, ApiError> {
    api.site.config().source.clone().ok_or_else(|| {
        ApiError::not_found("the gateway runs without a configuration file: start it with --config FILE")
    })
}

/// Show the configuration file
///
/// As JSON, or with `Accept: application/toml` as it stands, comments included. It holds no secrets, only paths. What it does
/// not say has its default.
#[utoipa::path(
    get,
    path = "/api/v1/config",
    tag = "configuration",
    responses(
        (status = 200, description = "The file; `ETag` for a later `If-Match`", content(
            (JsonValue = "application/json"),
            (String = "application/toml")
        )),
        (status = 404, body = ErrorBody, description = "The gateway runs without a file")
    )
)]
pub(super) async fn get(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let path = file(&api)?;
    let text = files::blocking(move || read(&path)).await??;
    let tag = (header::ETAG, etag(text.as_bytes()));
    let wants_toml = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(TOML));
    if wants_toml {
        return Ok(([tag, (header::CONTENT_TYPE, TOML.to_owned())], text).into_response());
    }
    let values: JsonValue = toml::from_str(&text).map_err(|_| {
        ApiError::conflict(
            "broken_file",
            "the file is no TOML now; Accept: application/toml shows it",
        )
    })?;
    Ok(([tag], Json(values)).into_response())
}

/// Change the configuration file
///
/// With `Content-Type: application/toml` the body becomes the file. With `application/json` it is a merge patch (RFC 7396):
/// keys that it gives are set, `null` removes one, all others and the file's comments stay. It is checked as by `check-config`
/// before anything is written; what can change at run time changes at once. `If-Match` guards against changes by others.
#[utoipa::path(
    put,
    path = "/api/v1/config",
    tag = "configuration",
    request_body(content((JsonValue = "application/json"), (String = "application/toml"))),
    responses(
        (status = 200, body = ReloadReport),
        (status = 400, body = ErrorBody, description = "It is wrong; `problems` says where"),
        (status = 404, body = ErrorBody, description = "The gateway runs without a file"),
        (status = 409, body = ErrorBody, description = "The file was changed by someone else, or cannot be written")
    )
)]
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let path = file(&api)?;
    let change = Change::of(&headers, &body)?;
    let expected = headers
        .get(header::IF_MATCH)
        .map(|tag| tag.to_str().unwrap_or_default().to_owned());
    let report = apply(&api, path, expected, move |old| change.apply(old)).await?;
    Ok(Json(report).into_response())
}

/// Replaces the file by what `edit` makes of it, if that is right, and puts it in force.
async fn apply(
    api: &Api,
    path: PathBuf,
    expected: Option<String>,
    edit: impl FnOnce(&[u8]) -> Result<String, ApiError> + Send + 'static,
) -> Result<ReloadReport, ApiError> {
    let target = path.clone();
    let (warnings, reloaded) = files::change(api, path, Kind::Public, move |old| {
        if expected.is_some_and(|tag| tag != "*" && tag != etag(old)) {
            return Err(ApiError::conflict(
                "changed_meanwhile",
                "the file was changed by someone else: read it again",
            ));
        }
        let text = edit(old)?;
        let loaded = config::load_from(&text, &target).map_err(|problems| invalid(&problems))?;
        Ok(Edit {
            content: Zeroizing::new(text.into_bytes()),
            outcome: loaded.warnings,
        })
    })
    .await?;
    let mut report = ReloadReport::of(&reloaded);
    if report.warnings.is_empty() {
        report.warnings = super::error::ProblemView::all(&warnings);
    }
    Ok(report)
}

/// Changes one listener of the file: `change` gets what the file has under its table, and says what it shall have; nothing
/// removes it. The listeners that a file without `[listeners]` has by default are written into it, or they would be gone.
pub(super) async fn change_listener(
    api: &Api,
    transport: Transport,
    name: String,
    change: impl FnOnce(Option<&Item>) -> Result<Option<Map<String, JsonValue>>, ApiError> + Send + 'static,
) -> Result<ReloadReport, ApiError> {
    let edit = move |old: &[u8]| with_listener(old, transport, &name, change);
    apply(api, file(api)?, None, edit).await
}

fn with_listener(
    old: &[u8],
    transport: Transport,
    name: &str,
    change: impl FnOnce(Option<&Item>) -> Result<Option<Map<String, JsonValue>>, ApiError>,
) -> Result<String, ApiError> {
    let mut document = parse(old)?;
    if document.get("listeners").is_none() {
        let defaults = json!({"listeners": {"udp": {"default": {}}, "dtls": {"default": {}}}});
        patch(&mut document, defaults)?;
    }
    let kind = transport.label();
    let table = document.get("listeners").and_then(|all| all.get(kind)?.get(name));
    let wanted = match change(table)? {
        Some(settings) => JsonValue::Object(settings),
        None => JsonValue::Null,
    };
    patch(&mut document, json!({ "listeners": { kind: { name: wanted } } }))?;
    Ok(document.to_string())
}

fn parse(text: &[u8]) -> Result<DocumentMut, ApiError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ApiError::conflict("broken_file", "the file is no TOML now: mend it, or put it whole"))
}

fn patch(document: &mut DocumentMut, patch: JsonValue) -> Result<(), ApiError> {
    let JsonValue::Object(patch) = patch else {
        return Ok(());
    };
    edit::patch(document, &patch).map_err(ApiError::bad_request)
}

enum Change {
    Text(String),
    Patch(Map<String, JsonValue>),
}

impl Change {
    fn of(headers: &HeaderMap, body: &Bytes) -> Result<Self, ApiError> {
        if is_media_type(headers, TOML) {
            String::from_utf8(body.to_vec())
                .map(Self::Text)
                .map_err(|_| ApiError::bad_request("the body is no UTF-8 text"))
        } else if is_media_type(headers, "application/json") {
            serde_json::from_slice(body)
                .map(Self::Patch)
                .map_err(|error| ApiError::bad_request(format!("the body: {error}")))
        } else {
            Err(ApiError::bad_request(
                "the body must be application/toml or application/json",
            ))
        }
    }

    fn apply(self, old: &[u8]) -> Result<String, ApiError> {
        let wanted = match self {
            Self::Text(text) => return Ok(text),
            Self::Patch(wanted) => wanted,
        };
        let mut document = parse(old)?;
        patch(&mut document, JsonValue::Object(wanted))?;
        Ok(document.to_string())
    }
}

fn read(path: &Path) -> Result<String, ApiError> {
    let content = files::read(path, Kind::Public)?
        .ok_or_else(|| ApiError::not_found(format!("{} is not there any more", path.display())))?;
    String::from_utf8(content.to_vec())
        .map_err(|_| ApiError::conflict("broken_file", "the file is no UTF-8 text"))
}

fn invalid(problems: &Problems) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_config", summary(problems)).with(problems)
}

fn etag(content: &[u8]) -> String {
    let hash = sha256(content);
    format!("\"{}\"", hex::encode(hash.get(..16).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(old: &str, patch: JsonValue) -> String {
        let JsonValue::Object(patch) = patch else {
            panic!("an object")
        };
        Change::Patch(patch)
            .apply(old.as_bytes())
            .map_err(|error| format!("{error:?}"))
            .unwrap()
    }

    #[test]
    fn comments_stay_and_other_keys_too() {
        let old = "# top\n[node] # the node\nname = \"a\" # its name\nworkers = 2\n\n[listeners.udp]\nx = { bind = \"1\" } # x\n";
        let new = patched(
            old,
            json!({"node": {"name": "b", "workers": null}, "listeners": {"udp": {"x": {"bind": "2", "mountpoint": "m/"}}}}),
        );
        assert_eq!(
            new,
            "# top\n[node] # the node\nname = \"b\" # its name\n\n[listeners.udp]\nx = { bind = \"2\" , mountpoint = \"m/\" } # x\n"
        );
    }

    #[test]
    fn a_new_listener_becomes_a_table_with_a_header() {
        let new = patched(
            "",
            json!({"listeners": {"udp": {"b": {"bind": "[::]:1", "access_rules": ["deny all"]}}}}),
        );
        assert_eq!(
            new,
            "[listeners.udp.b]\naccess_rules = [\"deny all\"]\nbind = \"[::]:1\"\n"
        );
    }

    #[test]
    fn a_file_without_listeners_keeps_its_default_ones_when_one_is_added() {
        let bind = json!({"bind": "[::]:1"}).as_object().cloned();
        let new = with_listener(b"# mine\n", Transport::Udp, "b", |there| {
            assert!(there.is_none());
            Ok(bind)
        });
        let new = new.map_err(|error| format!("{error:?}")).unwrap();
        let config: JsonValue = toml::from_str(&new).unwrap();
        assert_eq!(
            config["listeners"],
            json!({"udp": {"default": {}, "b": {"bind": "[::]:1"}}, "dtls": {"default": {}}})
        );
        assert!(new.contains("# mine"), "{new}");
        let less = with_listener(b"", Transport::Dtls, "default", |there| {
            assert!(there.is_some());
            Ok(None)
        });
        let less = less.map_err(|error| format!("{error:?}")).unwrap();
        let config: JsonValue = toml::from_str(&less).unwrap();
        assert_eq!(config["listeners"]["udp"], json!({"default": {}}));
        assert!(config["listeners"]["dtls"].get("default").is_none(), "{less}");
    }

    #[test]
    fn a_broken_file_is_not_patched() {
        let change = Change::Patch(Map::new());
        assert!(change.apply(b"[node\n").is_err());
    }
}
