//! What a value of the right type must also be.

use std::time::Duration;

use portcullis_proto::policy::attributes::attribute_of;

use super::quantity::{show_duration, show_size};
use super::value::Size;

/// A value that can be shown as it is written in the file.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        format!("\"{}\"", show_duration(*self))
    }
}

impl Shown for Size {
    fn shown(&self) -> String {
        format!("\"{}\"", show_size(self.0))
    }
}

impl Shown for u8 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// From `min` to `max`, both included.
pub(super) fn between<T: PartialOrd + Shown>(min: T, max: T) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if *value >= min && *value <= max {
            Ok(())
        } else {
            Err(format!(
                "must be from {} to {}; found {}",
                min.shown(),
                max.shown(),
                value.shown()
            ))
        }
    }
}

/// Whole seconds, for ranges.
pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A duration in hours, for the ends of a range.
pub(super) const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// A duration in milliseconds, for the ends of a range.
pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The memory for all that peers make the gateway keep: less is not enough to serve anyone.
pub(super) fn memory(size: Size) -> Result<(), String> {
    const LEAST: Size = Size(4 << 20);
    if size == Size(0) || size >= LEAST {
        Ok(())
    } else {
        Err(format!(
            "must be 0, or at least {}; found {}",
            LEAST.shown(),
            size.shown()
        ))
    }
}

/// A block size of RFC 7959, 2.2.
pub(super) fn block_size(value: &u32) -> Result<(), String> {
    if value.is_power_of_two() && (16..=1024).contains(value) {
        Ok(())
    } else {
        Err(format!(
            "must be 16, 32, 64, 128, 256, 512 or 1024 (RFC 7959, 2.2); found {value}"
        ))
    }
}

/// A name that stands in MQTT topics, client ids and metric labels.
#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
pub(super) fn name(value: &String) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=64).contains(&value.len()) && value.chars().all(fits) {
        Ok(())
    } else {
        Err(
            "must be 1 to 64 letters, digits, `-`, `_` or `.`: it stands in topics, client ids and metrics"
                .to_owned(),
        )
    }
}

/// A text with `${...}` placeholders, all of them in `known`.
pub(super) fn placeholders(text: &str, known: &[&str]) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("${") {
        let Some((placeholder, next)) = after.split_once('}') else {
            return Err("`${` without `}`".to_owned());
        };
        let is_attribute = known.contains(&ATTRIBUTE) && attribute_of(placeholder).is_some();
        if !known.contains(&placeholder) && !is_attribute {
            let all: Vec<String> = known.iter().map(|name| format!("${{{name}}}")).collect();
            let hint = super::suggest::did_you_mean(placeholder, known)
                .map(|near| format!("; did you mean ${{{near}}}?"))
                .unwrap_or_default();
            return Err(format!(
                "unknown placeholder ${{{placeholder}}}{hint} (known: {})",
                all.join(", ")
            ));
        }
        rest = next;
    }
    Ok(())
}

/// What a mountpoint may name.
const MOUNTPOINT: [&str; 5] = ["clientid", "username", "identity", "listener", ATTRIBUTE];

/// Stands for every client attribute among the placeholders that are known.
const ATTRIBUTE: &str = "attr.NAME";

/// A prefix of topics.
pub(super) fn mountpoint(text: &str) -> Result<(), String> {
    placeholders(text, &MOUNTPOINT)?;
    if text.contains(['+', '#']) {
        return Err("a mountpoint may not hold the wildcards + and #".to_owned());
    }
    if text.starts_with('$') && !text.starts_with("${") {
        return Err("a mountpoint may not begin with $: such topics belong to the broker".to_owned());
    }
    at_most(text, 1024)
}

/// A listener's own mountpoint.
pub(super) fn own_mountpoint(text: &Option<String>) -> Result<(), String> {
    text.as_deref().map_or(Ok(()), mountpoint)
}

/// A listener's own heartbeat.
pub(super) fn own_heartbeat(heartbeat: &Option<Duration>) -> Result<(), String> {
    heartbeat
        .as_ref()
        .map_or(Ok(()), between(secs(0), hours(24 * 365)))
}

/// At most `max` bytes.
pub(super) fn at_most(text: &str, max: usize) -> Result<(), String> {
    if text.len() <= max {
        Ok(())
    } else {
        Err(format!("must be at most {max} bytes; found {}", text.len()))
    }
}

/// An `http://` or `https://` URL, or nothing. Credentials do not belong in it.
#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
pub(super) fn web_url(text: &String) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .ok_or("must begin with http:// or https://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a URL here may not hold credentials: the configuration holds no secrets, only the paths of files that do".to_owned());
    }
    if authority.is_empty() || authority.starts_with(':') || text.contains(char::is_whitespace) {
        return Err("expected a host such as auth.example.net:8080 after //".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_known_or_refused_with_a_hint() {
        assert_eq!(mountpoint("fleet/${clientid}/${listener}/"), Ok(()));
        let wrong = mountpoint("a/${client_id}").unwrap_err();
        assert!(wrong.contains("did you mean ${clientid}?"), "{wrong}");
        assert!(mountpoint("a/${clientid").is_err());
        assert_eq!(mountpoint("t/${attr.tenant}/${client_attrs.site-2}/"), Ok(()));
        assert!(mountpoint("t/${attr.}/").is_err() && mountpoint("t/${attr.a b}/").is_err());
        assert!(mountpoint("a/+/").is_err());
        assert!(mountpoint("$SYS/").is_err());
        assert!(mountpoint(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn web_urls_hold_no_credentials() {
        for good in [
            "",
            "http://127.0.0.1:8080/auth",
            "https://auth.example.net",
            "https://a/x@y",
        ] {
            assert_eq!(web_url(&good.to_owned()), Ok(()), "{good}");
        }
        for bad in [
            "ftp://x",
            "auth",
            "http://",
            "http://:80",
            "http://me:pw@host/",
            "http://a b/",
        ] {
            assert!(web_url(&bad.to_owned()).is_err(), "{bad}");
        }
    }
}
