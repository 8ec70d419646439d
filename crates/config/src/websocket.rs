//! `websocket` of a listener for streams: whether its connections are WebSockets, and which pages of browsers may open them.

use std::sync::Arc;

use toml::de::DeValue;

use super::paths::PathBase;
use super::value::{Complaint, Value, expected, items};

/// Most origins.
const MAX_ORIGINS: usize = 256;

/// Whether the connections of a listener are WebSockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSocket(Option<Arc<[Box<str>]>>);

impl WebSocket {
    /// The origins of the pages that may open one; `None` where there are no WebSockets.
    #[must_use]
    pub fn origins(&self) -> Option<Arc<[Box<str>]>> {
        self.0.clone()
    }
}

/// An origin as browsers write it (RFC 6454, 6.2): a scheme and a host in lower case, and a port where that is not the scheme's.
fn origin(text: &str) -> Result<Box<str>, String> {
    let wrong =
        || "expected an origin as browsers write it, such as \"https://console.example.net\"".to_owned();
    let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    let is_scheme = !scheme.is_empty()
        && scheme
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
    if is_scheme && !host.is_empty() && host.chars().all(fits) {
        Ok(text.into())
    } else {
        Err(wrong())
    }
}

impl Value for WebSocket {
    const KIND: &'static str = "boolean or list of origins";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "true, false, or a list of origins such as [\"https://console.example.net\"]";
        if let Some(is_on) = value.as_bool() {
            return Ok(Self(is_on.then(Arc::default)));
        }
        let array = value.as_array().ok_or_else(|| expected(what, value))?;
        if array.len() > MAX_ORIGINS {
            return Err(vec![
                format!("at most {MAX_ORIGINS} origins, found {}", array.len()).into(),
            ]);
        }
        let origins = items(array, |item| {
            let text = item
                .as_str()
                .ok_or_else(|| expected("an origin in quotes", item))?;
            origin(text).map_err(|message| vec![message.into()])
        })?;
        Ok(Self(Some(origins.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_says() {
        for text in [
            "https://console.example.net",
            "http://localhost:8080",
            "http://[::1]:80",
        ] {
            assert!(origin(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "*",
            "null",
            "console.example.net",
            "https://",
            "https://A.example",
            "https://a.example/",
            "https://a/b",
            "://a",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
