//! What an authentication server or a token says of a client, in EMQX's words.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::policy::authentication::{DenyReason, Verdict};
use portcullis_proto::policy::extra_acl::ExtraAcl;

use super::json;

/// The verdict of an HTTP answer.
///
/// # Errors
/// When the answer is none of those that mean something; it holds nothing of the answer's values.
pub(super) fn verdict(status: u16, body: &[u8], now: SystemTime) -> Result<Verdict, String> {
    match status {
        200 => {}
        204 => return Ok(Verdict::allow()),
        400..=499 => return Ok(Verdict::Deny(DenyReason::Refused)),
        status => return Err(format!("it answered with status {status}")),
    }
    let answer = json::object(body).ok_or("it answered 200 without a JSON object whose names differ")?;
    match answer.get("result").and_then(Value::as_str) {
        Some("allow") => {}
        // No other backend is asked after this one, so not knowing the client is refusing it.
        Some("deny" | "ignore") => return Ok(Verdict::Deny(DenyReason::Refused)),
        _ => return Err("it answered 200 without \"result\": \"allow\", \"deny\" or \"ignore\"".to_owned()),
    }
    let expires_in = match answer.get("expire_at") {
        None | Some(Value::Null) => None,
        Some(at) => match left(at, now).ok_or("its expire_at is no number of seconds")? {
            Duration::ZERO => return Ok(Verdict::Deny(DenyReason::Expired)),
            left => Some(left),
        },
    };
    granted(&answer, "acl", "client_attrs", expires_in)
}

/// Let in, with what `source` says beside.
///
/// # Errors
/// When the ACL or the attributes in it are not understood: letting the client in without them could allow too much.
pub(super) fn granted(
    source: &Map<String, Value>,
    acl: &str,
    attributes: &str,
    expires_in: Option<Duration>,
) -> Result<Verdict, String> {
    let acl = match source.get(acl) {
        None | Some(Value::Null) => None,
        Some(acl) => Some(Arc::new(ExtraAcl::from_json(acl)?)),
    };
    Ok(Verdict::Allow {
        expires_in,
        superuser: source.get("is_superuser").is_some_and(is_true),
        acl,
        attributes: match source.get(attributes) {
            None | Some(Value::Null) => Attributes::default(),
            Some(Value::Object(object)) => Attributes::from_json(object)?,
            Some(_) => return Err(format!("{attributes} is no object")),
        },
    })
}

/// How long it is from `now` to `at`, a number of seconds since 1970 that may have a fraction; zero when it is past.
pub(super) fn left(at: &Value, now: SystemTime) -> Option<Duration> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = match at.as_u64() {
        Some(seconds) => Duration::from_secs(seconds),
        None => Duration::try_from_secs_f64(at.as_f64()?.max(0.0)).ok()?,
    };
    Some(at.saturating_sub(now))
}

fn is_true(value: &Value) -> bool {
    matches!(value, Value::Bool(true))
        || value.as_u64() == Some(1)
        || matches!(value.as_str(), Some("true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn judge(status: u16, body: &str) -> Result<Verdict, String> {
        verdict(status, body.as_bytes(), at(1000))
    }

    #[test]
    fn only_204_and_an_explicit_allow_let_in() {
        assert_eq!(judge(204, ""), Ok(Verdict::allow()));
        assert_eq!(judge(200, r#"{"result": "allow"}"#), Ok(Verdict::allow()));
        let refused = Ok(Verdict::Deny(DenyReason::Refused));
        assert_eq!(judge(200, r#"{"result": "deny", "is_superuser": true}"#), refused);
        assert_eq!(judge(200, r#"{"result": "ignore"}"#), refused);
        assert_eq!(judge(401, r#"{"result": "allow"}"#), refused);
        assert_eq!(judge(404, ""), refused);
        for body in [
            "",
            "allow",
            "[]",
            "{}",
            r#"{"result": true}"#,
            r#"{"result": "ALLOW"}"#,
            r#"{"result": "deny", "result": "allow"}"#,
            r#"{"result": "allow", "acl": [{"permission": "deny", "action": "all", "topic": "x", "topic": "t"}]}"#,
        ] {
            assert!(judge(200, body).is_err(), "{body}");
        }
        for status in [201, 202, 301, 302, 500, 503] {
            assert!(judge(status, r#"{"result": "allow"}"#).is_err(), "{status}");
        }
    }

    #[test]
    fn what_is_known_beside_the_result_is_carried_and_the_rest_passed_over() {
        let body = r#"{"result": "allow", "is_superuser": true, "expire_at": 1060, "client_attrs": {"site": "x", "n": 1},
            "acl": [{"permission": "allow", "action": "all", "topic": "t"}]}"#;
        let Ok(Verdict::Allow {
            expires_in,
            superuser,
            acl,
            attributes,
        }) = judge(200, body)
        else {
            panic!("not allowed");
        };
        assert_eq!((expires_in, superuser), (Some(Duration::from_secs(60)), true));
        assert!(acl.is_some());
        assert_eq!(attributes.iter().collect::<Vec<_>>(), [("n", "1"), ("site", "x")]);
    }

    #[test]
    fn a_credential_that_is_over_does_not_let_in() {
        for at in ["1000", "999", "0", "-5", "999.9"] {
            let body = format!(r#"{{"result": "allow", "expire_at": {at}}}"#);
            assert_eq!(judge(200, &body), Ok(Verdict::Deny(DenyReason::Expired)), "{at}");
        }
        assert!(judge(200, r#"{"result": "allow", "expire_at": "soon"}"#).is_err());
        assert!(judge(200, r#"{"result": "allow", "expire_at": 1e300}"#).is_err());
    }

    #[test]
    fn an_acl_or_attributes_that_are_not_understood_do_not_let_in_without_them() {
        assert!(judge(200, r#"{"result": "allow", "client_attrs": ["x"]}"#).is_err());
        assert!(judge(200, r#"{"result": "allow", "client_attrs": {"x": {}}}"#).is_err());
        assert!(judge(200, r#"{"result": "allow", "acl": "all"}"#).is_err());
    }
}
