//! CoAP Content-Format to MQTT 5 content type and back.

use std::sync::Arc;

use bytes::Bytes;

use crate::coap;
use crate::types::Message;

/// A payload with its Content-Format.
#[derive(Debug, Clone)]
pub struct Representation {
    /// The payload.
    pub payload: Bytes,
    /// Its Content-Format, where it has one.
    pub format: Option<u16>,
}

impl Representation {
    /// Its ETag (RFC 7252, 5.10.6).
    #[must_use]
    pub fn etag(&self) -> [u8; 8] {
        coap::etag_of(&self.payload, self.format)
    }
}

/// `text/plain;charset=utf-8`.
pub(super) const TEXT: u16 = 0;

/// `application/json`.
pub(super) const JSON: u16 = 50;

/// `application/cbor`.
pub const CBOR: u16 = 60;
/// `application/cwt` (RFC 8392, 9.3).
pub(super) const CWT: u16 = 61;

/// `application/senml+json`.
pub(super) const SENML_JSON: u16 = 110;

/// `application/sensml+json`.
pub(super) const SENSML_JSON: u16 = 111;

/// `application/senml+cbor`.
pub(super) const SENML_CBOR: u16 = 112;

/// `application/sensml+cbor`.
pub(super) const SENSML_CBOR: u16 = 113;

/// Content-Formats with their media types (IANA "CoAP Content-Formats"); the first of a number is what is sent.
const FORMATS: &[(u16, &str)] = &[
    (TEXT, "text/plain;charset=utf-8"),
    (TEXT, "text/plain"),
    (16, "application/cose;cose-type=\"cose-encrypt0\""),
    (40, "application/link-format"),
    (41, "application/xml"),
    (42, "application/octet-stream"),
    (47, "application/exi"),
    (JSON, "application/json"),
    (51, "application/json-patch+json"),
    (52, "application/merge-patch+json"),
    (CBOR, "application/cbor"),
    (61, "application/cwt"),
    (62, "application/multipart-core"),
    (63, "application/cbor-seq"),
    (101, "application/cose-key"),
    (SENML_JSON, "application/senml+json"),
    (SENSML_JSON, "application/sensml+json"),
    (SENML_CBOR, "application/senml+cbor"),
    (SENSML_CBOR, "application/sensml+cbor"),
    (114, "application/senml-exi"),
    (310, "application/senml+xml"),
    (10000, "application/vnd.ocf+cbor"),
    (11542, "application/vnd.oma.lwm2m+tlv"),
    (11543, "application/vnd.oma.lwm2m+json"),
    (11544, "application/vnd.oma.lwm2m+cbor"),
    (20000, "text/css"),
    (30000, "image/svg+xml"),
];

/// What a number without a known media type travels as, so that it comes back as the same number.
const UNREGISTERED: &str = "application/x.coap-content-format;n=";

/// The content type that carries a Content-Format.
#[must_use]
pub fn content_type(format: u16) -> Arc<str> {
    FORMATS.iter().find(|(number, _)| *number == format).map_or_else(
        || format!("{UNREGISTERED}{format}").into(),
        |(_, media_type)| (*media_type).into(),
    )
}

/// The Content-Format of a content type, if it has one. Case and blanks do not matter.
#[must_use]
pub fn content_format(content_type: &str) -> Option<u16> {
    let plain: String = content_type
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_ascii_lowercase();
    if let Some(number) = plain.strip_prefix(UNREGISTERED) {
        return number.parse().ok();
    }
    let known = |wanted: &str| FORMATS.iter().find(|(_, media_type)| *media_type == wanted);
    // JSON has no other character set, and many say it.
    let bare = || known(plain.strip_suffix(";charset=utf-8")?);
    known(&plain).or_else(bare).map(|(number, _)| *number)
}

/// Whether a payload of this format meets an Accept option. Formats are compared as numbers, whether they have a name here or not; what has
/// no format may be any that has one.
#[must_use]
pub fn accepts(accept: Option<u16>, format: Option<u16>) -> bool {
    match (accept, format) {
        (None, _) => true,
        (Some(accept), Some(format)) => accept == format,
        (Some(accept), None) => FORMATS.iter().any(|(number, _)| *number == accept),
    }
}

/// The ETag of a message's payload.
#[must_use]
pub fn etag_of(message: &Message) -> [u8; 8] {
    coap::etag_of(&message.payload, format_of(message))
}

/// The Content-Format of a message, if it has one.
#[must_use]
pub fn format_of(message: &Message) -> Option<u16> {
    message.content_type.as_deref().and_then(content_format)
}

/// The one CBOR item that fills a payload.
pub(super) fn whole_cbor(mut payload: &[u8]) -> Option<ciborium::Value> {
    let value = ciborium::from_reader(&mut payload).ok()?;
    payload.is_empty().then_some(value)
}

/// Whether a payload can be of a Content-Format, as far as that is JSON, CBOR or text.
#[must_use]
pub fn is_valid(format: u16, payload: &[u8]) -> bool {
    match format {
        TEXT => std::str::from_utf8(payload).is_ok(),
        JSON | SENML_JSON | SENSML_JSON => serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok(),
        CBOR | SENML_CBOR | SENSML_CBOR => whole_cbor(payload).is_some(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_content_format_comes_back_as_itself() {
        for format in [0, 40, 42, 50, 60, 110, 112, 11542, 64999] {
            assert_eq!(content_format(&content_type(format)), Some(format));
        }
    }

    #[test]
    fn content_types_are_read_as_people_write_them() {
        assert_eq!(content_format("Application/JSON"), Some(50));
        assert_eq!(content_format("text/plain; charset=UTF-8"), Some(0));
        assert_eq!(content_format("application/json; charset=utf-8"), Some(50));
        assert_eq!(content_format("image/webp"), None);
    }
}
