//! Who a peer proved to be, and the client id that the MQTT side knows it by.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::text::unsendable;
use crate::policy::attributes::Attributes;

/// How a DTLS peer proved its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// By a pre-shared key; the name is the PSK identity.
    Psk,
    /// By a client certificate; the name is what `cert_identity` selects.
    Certificate,
    /// By a raw public key (RFC 7250); the name is what `rpk_file` calls it.
    RawKey,
}

impl Proof {
    /// The word for logs and the API.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Psk => "psk",
            Self::Certificate => "certificate",
            Self::RawKey => "raw_key",
        }
    }
}

/// The identity that a DTLS handshake proved. Two identities are the same when name and proof are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// PSK identity, or the name taken from the certificate.
    pub name: Arc<str>,
    /// How it was proved.
    pub proof: Proof,
    /// What is known of who has its key or its certificate.
    pub attributes: Attributes,
}

impl Identity {
    /// One of whom nothing else is known.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, proof: Proof) -> Self {
        Self {
            name: name.into(),
            proof,
            attributes: Attributes::default(),
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.proof == other.proof && self.name == other.name
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.proof.hash(state);
    }
}

/// A client id: 1 to 128 bytes of UTF-8 that MQTT carries.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Longest client id in bytes.
    pub const MAX_LEN: usize = 128;

    /// The client id, or nothing when it is empty, longer than [`Self::MAX_LEN`] or holds what is [`unsendable`].
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::fits(text).then(|| Self(text.into()))
    }

    /// As [`Self::new`], without a copy of the text.
    #[must_use]
    pub fn shared(text: &Arc<str>) -> Option<Self> {
        Self::fits(text).then(|| Self(Arc::clone(text)))
    }

    fn fits(text: &str) -> bool {
        !text.is_empty() && text.len() <= Self::MAX_LEN && unsendable(text).is_none()
    }

    /// The text of it, shared.
    #[must_use]
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_same_whatever_else_is_known_of_it() {
        let known = Identity {
            attributes: Attributes::new([("site", "x")]).unwrap(),
            ..Identity::new("a", Proof::Psk)
        };
        assert_eq!(known, Identity::new("a", Proof::Psk));
        assert_ne!(known, Identity::new("a", Proof::RawKey));
        let all = std::collections::HashSet::from([known]);
        assert!(all.contains(&Identity::new("a", Proof::Psk)));
    }

    #[test]
    fn client_ids_are_1_to_128_bytes_that_mqtt_carries() {
        assert!(ClientId::new("").is_none());
        assert!(ClientId::new(&"x".repeat(128)).is_some());
        assert!(ClientId::new(&"x".repeat(129)).is_none());
        for bad in ["a\0b", "a\u{1}", "a\tb", "\u{9d}", "a\u{fdef}", "\u{3ffff}"] {
            assert!(ClientId::new(bad).is_none() && ClientId::shared(&bad.into()).is_none());
        }
    }
}
