//! Whom an operator keeps out: client ids, identities, addresses and networks, each until a time or for good.
//!
//! The list is replaced as a whole when it changes. Nothing is asked of an empty one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use crate::labels;
use crate::types::access::network;
use crate::types::{ClientId, Identity};

labels! {
    /// What somebody was kept out by: `bans_enforced_total{kind}`.
    pub enum BanKind {
        /// The client id.
        ClientId = "clientid",
        /// The identity that a handshake proved.
        Identity = "identity",
        /// The address, or the network that it is of.
        Address = "address",
    }
}

/// Longest identity that can be banned, in bytes: as long as a PSK identity (RFC 4279, 5.3), each byte as two digits.
const MAX_IDENTITY: usize = 2 * 65_535;

/// Who is kept out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Banned {
    /// A client id, from wherever and however it comes.
    Client(ClientId),
    /// The name that a handshake proves: a PSK identity, a name of a certificate, a raw key's.
    Identity(Box<str>),
    /// An address or network.
    Network(IpNet),
}

impl Banned {
    /// Reads what somebody is to be kept out by.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(kind: BanKind, text: &str) -> Result<Self, String> {
        match kind {
            BanKind::ClientId => ClientId::new(text).map(Self::Client).ok_or_else(|| {
                "a client id is 1 to 128 bytes of UTF-8 without control characters".to_owned()
            }),
            BanKind::Identity if text.is_empty() || text.len() > MAX_IDENTITY => {
                Err("an identity is as `clients` shows it, and not empty".to_owned())
            }
            BanKind::Identity => Ok(Self::Identity(text.into())),
            BanKind::Address => network(text).map(Self::Network).ok_or_else(|| {
                "expected an address or a network such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48".to_owned()
            }),
        }
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> BanKind {
        match self {
            Self::Client(_) => BanKind::ClientId,
            Self::Identity(_) => BanKind::Identity,
            Self::Network(_) => BanKind::Address,
        }
    }

    /// Its text: a network of one address as that address.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Client(client) => client.to_string(),
            Self::Identity(name) => name.to_string(),
            Self::Network(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Self::Network(net) => net.to_string(),
        }
    }
}

/// When a ban ends; `None` never.
type End = Option<Instant>;

/// The bans in force.
#[derive(Debug, Default)]
pub struct Bans {
    clients: HashMap<Box<str>, End>,
    identities: HashMap<Box<str>, End>,
    networks: HashMap<IpNet, End>,
    /// The lengths of prefixes that [`Self::networks`] has, so that a source is looked up once for each.
    lengths: Vec<(bool, u8)>,
}

impl Bans {
    /// The list of these.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = (Banned, End)>) -> Self {
        let mut bans = Self::default();
        for (banned, end) in all {
            match banned {
                Banned::Client(client) => bans.clients.insert(client.as_str().into(), end),
                Banned::Identity(name) => bans.identities.insert(name, end),
                Banned::Network(net) => {
                    let length = (net.addr().is_ipv4(), net.prefix_len());
                    if !bans.lengths.contains(&length) {
                        bans.lengths.push(length);
                    }
                    bans.networks.insert(net, end)
                }
            };
        }
        bans
    }

    /// Whether nobody is banned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.identities.is_empty() && self.networks.is_empty()
    }

    /// Whether a source is kept out.
    #[must_use]
    pub(crate) fn has_address(&self, now: Instant, address: IpAddr) -> bool {
        if self.lengths.is_empty() {
            return false;
        }
        let address = address.to_canonical();
        self.lengths.iter().any(|(is_ipv4, length)| {
            *is_ipv4 == address.is_ipv4()
                && IpNet::new(address, *length).is_ok_and(|net| lasts(now, self.networks.get(&net.trunc())))
        })
    }

    /// Whether a client is kept out by its id, or by who it proved to be.
    #[must_use]
    pub fn kind_of(
        &self,
        now: Instant,
        client: Option<&ClientId>,
        identity: Option<&Identity>,
    ) -> Option<BanKind> {
        if client.is_some_and(|client| lasts(now, self.clients.get(client.as_str()))) {
            return Some(BanKind::ClientId);
        }
        identity
            .is_some_and(|identity| lasts(now, self.identities.get(&*identity.name)))
            .then_some(BanKind::Identity)
    }
}

fn lasts(now: Instant, end: Option<&End>) -> bool {
    end.is_some_and(|end| end.is_none_or(|end| now < end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock_for_tests as clock;
    use crate::types::identity::Proof;

    fn bans(all: &[(BanKind, &str, End)]) -> Bans {
        Bans::new(
            all.iter()
                .map(|(kind, text, end)| (Banned::parse(*kind, text).unwrap(), *end)),
        )
    }

    #[test]
    fn a_source_is_found_in_every_network_that_it_is_of() {
        let now = clock();
        let bans = bans(&[
            (BanKind::Address, "192.0.2.0/24", None),
            (BanKind::Address, "198.51.100.7", None),
            (BanKind::Address, "2001:db8:1::/48", None),
            (BanKind::Address, "::ffff:203.0.113.0/120", None),
        ]);
        for (address, banned) in [
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.9", true),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
            ("203.0.113.200", true),
            ("2001:db8:1:ffff::1", true),
            ("2001:db8:2::1", false),
        ] {
            assert_eq!(
                bans.has_address(now, address.parse().unwrap()),
                banned,
                "{address}"
            );
        }
        let all = Banned::parse(BanKind::Address, "0.0.0.0/0").unwrap();
        let everyone = Bans::new([(all, None)]);
        assert!(everyone.has_address(now, "203.0.113.1".parse().unwrap()));
        assert!(!everyone.has_address(now, "2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn a_ban_ends_when_it_says() {
        let now = clock();
        let end = now + Duration::from_secs(9);
        let bans = bans(&[
            (BanKind::ClientId, "c", Some(end)),
            (BanKind::Identity, "i", Some(end)),
            (BanKind::Address, "192.0.2.7", Some(end)),
        ]);
        let client = ClientId::new("c").unwrap();
        let identity = Identity::new(Arc::from("i"), Proof::Psk);
        for (at, lasts) in [(now, true), (end - Duration::from_millis(1), true), (end, false)] {
            assert_eq!(bans.kind_of(at, Some(&client), None).is_some(), lasts);
            assert_eq!(bans.kind_of(at, None, Some(&identity)).is_some(), lasts);
            assert_eq!(bans.has_address(at, "192.0.2.7".parse().unwrap()), lasts);
        }
        let other = ClientId::new("i").unwrap();
        assert_eq!(
            bans.kind_of(now, Some(&other), None),
            None,
            "a client id is no identity"
        );
    }

    #[test]
    fn what_is_to_be_banned_is_read_strictly_and_shown_as_it_is_asked_for() {
        for (kind, bad) in [
            (BanKind::ClientId, ""),
            (BanKind::ClientId, "a\0"),
            (BanKind::Identity, ""),
            (BanKind::Address, "192.0.2"),
            (BanKind::Address, "192.0.2.0/33"),
            (BanKind::Address, "all"),
            (BanKind::Address, "::ffff:192.0.2.0/90"),
        ] {
            assert!(Banned::parse(kind, bad).is_err(), "{bad}");
        }
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:DB8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(Banned::parse(BanKind::Address, text).unwrap().text(), shown);
        }
    }
}
