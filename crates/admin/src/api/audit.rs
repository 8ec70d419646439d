//! One line in the log for each change that was asked for, whatever came of it.

use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};
use tracing::info;

use super::access::Caller;
use super::extract::is_media_type;
use crate::server::Peer;

/// Names of one request that the log shows.
const NAMES: usize = 16;

/// Characters of what a request was about that the log shows: who may ask may not fill the log.
const MAX_SUBJECT: usize = 512;

/// Members of a body whose values say what is to be changed. No secret has such a name.
const NAMING: [&str; 9] = [
    "identity", "name", "user_id", "clientid", "address", "kind", "value", "topic", "target",
];

/// A change that is asked for: what the log says of it once it is known how it ended.
#[derive(Debug, Clone)]
pub(super) struct Change {
    role: &'static str,
    token: String,
    peer: Peer,
    method: Method,
    path: String,
    subject: String,
}

impl Change {
    /// By a caller who is known; nothing where the request only reads.
    pub(super) fn by(caller: &Caller, method: &Method, path: &str) -> Option<Self> {
        changes(method).then(|| Self {
            role: caller.role.label(),
            token: caller.token.to_string(),
            peer: caller.peer,
            method: method.clone(),
            path: path.to_owned(),
            subject: String::new(),
        })
    }

    /// By nobody who is known.
    pub(super) fn by_nobody(peer: Peer, method: &Method, path: &str) -> Option<Self> {
        changes(method).then(|| Self {
            role: "nobody",
            token: String::new(),
            peer,
            method: method.clone(),
            path: path.to_owned(),
            subject: String::new(),
        })
    }

    /// Notes what the body says that it is about.
    pub(super) fn about(&mut self, headers: &HeaderMap, body: &[u8]) {
        self.subject = subject(headers, body);
    }

    /// Logs how it ended.
    pub(super) fn ended(&self, response: &Response) {
        let status: StatusCode = response.status();
        // Path and subject are what the client sent, so they are quoted.
        info!(
            target: "portcullis::audit",
            role = self.role,
            token = self.token,
            peer = %self.peer,
            method = %self.method,
            path = ?self.path,
            subject = ?self.subject,
            status = status.as_u16(),
            "change"
        );
    }
}

/// Whether a request of this method changes something.
pub(super) fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What a body is about: who or what it names, else the keys that it gives. Never the value of a key.
fn subject(headers: &HeaderMap, body: &[u8]) -> String {
    if is_media_type(headers, "application/toml") {
        return "the whole file".to_owned();
    }
    let Ok(members) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return String::new();
    };
    let named: Vec<&str> = NAMING
        .iter()
        .filter_map(|name| members.get(*name)?.as_str())
        .collect();
    let said = if named.is_empty() {
        let mut keys = Vec::new();
        name_keys(&members, "", &mut keys);
        let rest = keys.len().saturating_sub(NAMES);
        keys.truncate(NAMES);
        if rest > 0 {
            keys.push(format!("{rest} more"));
        }
        keys.join(", ")
    } else {
        named.join(" ")
    };
    said.chars().take(MAX_SUBJECT).collect()
}

fn name_keys(members: &Map<String, Value>, of: &str, keys: &mut Vec<String>) {
    for (key, value) in members {
        let dotted = if of.is_empty() {
            key.clone()
        } else {
            format!("{of}.{key}")
        };
        match value {
            Value::Object(inner) if !inner.is_empty() => name_keys(inner, &dotted, keys),
            _ => keys.push(dotted),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn said(body: &Value) -> String {
        subject(&HeaderMap::new(), body.to_string().as_bytes())
    }

    #[test]
    fn a_change_is_called_by_what_it_names_and_never_shows_a_value() {
        let patch = json!({"coap": {"heartbeat": "10s", "blockwise": {"max_block_size": null}}, "node": {"name": "x"}});
        assert_eq!(
            said(&patch),
            "coap.blockwise.max_block_size, coap.heartbeat, node.name"
        );
        assert_eq!(said(&json!({"identity": "pump-4", "key": "c0ffee"})), "pump-4");
        assert_eq!(
            said(&json!({"kind": "udp", "name": "b", "settings": {}})),
            "b udp"
        );
        let many: Map<String, Value> = (0..20).map(|n| (format!("k{n:02}"), json!("secret"))).collect();
        let many = said(&Value::Object(many));
        assert!(
            many.starts_with("k00, k01") && many.ends_with("k15, 4 more"),
            "{many}"
        );
        assert_eq!(said(&json!({"name": "n".repeat(2000)})).len(), MAX_SUBJECT);
        assert_eq!(subject(&HeaderMap::new(), b"{\"identity\": \"cut"), "");
        let mut toml = HeaderMap::new();
        toml.insert("content-type", HeaderValue::from_static("application/toml"));
        assert_eq!(subject(&toml, b"[node]\nname = \"x\""), "the whole file");
    }
}
