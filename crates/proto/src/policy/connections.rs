//! Connections and their tokens (interface 2.3).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::extra_acl::ExtraAcl;
use crate::coap::contract::PeerId;
use crate::state::Record;
use crate::types::standing::Standing;
use crate::types::{ClientId, Identity, ListenerId, WorkerId};

/// A connection; unique in the process, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey(pub u64);

impl ConnectionKey {
    /// The worker that has the connection, as long as it lasts.
    #[must_use]
    pub const fn worker(self) -> WorkerId {
        WorkerId::of(self.0)
    }
}

/// What create returns, in characters that a query takes as they are: 2 say which worker has the connection, 22 hold 128
/// random bits.
#[derive(Clone)]
pub struct ConnectionToken(Zeroizing<[u8; Self::LEN]>);

impl ConnectionToken {
    /// Length of the text in bytes.
    pub const LEN: usize = 24;
    const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// A new token of a connection of `worker`, from 128 bits of `rng`, which must be a cryptographic one.
    pub fn generate(worker: WorkerId, rng: &mut impl RngCore) -> Self {
        let mut bits = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        let secret = std::iter::repeat_with(|| {
            let index = (bits & 63) as u8;
            bits >>= 6;
            index
        });
        let mut text = Zeroizing::new([0; Self::LEN]);
        for (byte, index) in text
            .iter_mut()
            .zip([worker.0 >> 6, worker.0 & 63].into_iter().chain(secret))
        {
            *byte = Self::ALPHABET.get(usize::from(index)).copied().unwrap_or(b'A');
        }
        Self(text)
    }

    /// Which of `workers` to ask about a presented token. Any token of the right form names one of them; another form is
    /// nobody's.
    #[must_use]
    pub fn worker(presented: &[u8], workers: u8) -> Option<WorkerId> {
        let [high, low, ..] = *presented else { return None };
        let index = |letter| Self::ALPHABET.iter().position(|known| *known == letter);
        let named = (index(high)? << 6 | index(low)?) % usize::from(workers.max(1));
        (presented.len() == Self::LEN)
            .then(|| u8::try_from(named).ok().map(WorkerId))
            .flatten()
    }

    /// The token that an earlier process generated.
    #[must_use]
    pub fn restore(text: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(text.try_into().ok()?)))
    }

    /// The text of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Whether `presented` is this token; takes the same time wherever they differ.
    #[must_use]
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.as_bytes().ct_eq(presented).into()
    }
}

impl fmt::Debug for ConnectionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionToken(..)")
    }
}

/// Who may use a connection besides knowing its token: whoever speaks the way its creator did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Created in the clear, over UDP or TCP.
    Udp,
    /// Created over DTLS or TLS by this identity (`None`: a session without one).
    Dtls(Option<Identity>),
}

impl Owner {
    /// The identity that its handshake proved.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Udp => None,
            Self::Dtls(identity) => identity.as_ref(),
        }
    }
}

/// What an authentication granted beside entry.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Whether the ACL does not concern this client.
    pub superuser: bool,
    /// Rules that came with the credential.
    pub acl: Option<Arc<ExtraAcl>>,
    /// What the backend knows of the client beside.
    pub attributes: Attributes,
    /// When the credential expires; `None` never.
    pub until: Option<Instant>,
}

impl Grant {
    /// What is known of an identity without a login.
    #[must_use]
    pub fn of_identity(identity: Option<&Identity>) -> Self {
        Self {
            attributes: identity
                .map(|identity| identity.attributes.clone())
                .unwrap_or_default(),
            ..Self::default()
        }
    }
}

crate::labels! {
    /// Whether a client can be reached: `connection_states{state}`.
    pub enum Presence {
        /// It was heard of, and what was sent to it since is not given up.
        Online = "online",
        /// Its DTLS session is gone, or it did not acknowledge what was sent to it; its time is not over, and what is for it waits.
        Asleep = "asleep",
        /// It was silent for longer than its heartbeat or the lifetime that it named. After one and a half times that its connection ends.
        Lost = "lost",
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// What it is known by, as long as it lasts.
    pub key: ConnectionKey,
    /// The client whose connection it is; it has no other.
    pub client: ClientId,
    /// The secret that later requests present.
    pub token: ConnectionToken,
    /// Who may use it.
    pub owner: Owner,
    /// The user name that it was authenticated with.
    pub username: Option<Arc<str>>,
    /// Where the client is now, at this worker or another; `None` while its DTLS session is gone.
    pub peer: Option<PeerId>,
    /// The listener that it was last seen on.
    pub listener: ListenerId,
    /// How long its client may be silent, as the client itself said, in place of the heartbeat.
    pub lifetime: Option<Duration>,
    /// Whether its client can be reached, as far as that is known.
    pub presence: Presence,
    /// Whether what is for its client waits although that has an address: it did not acknowledge what was sent to it, and was not heard
    /// of since.
    pub is_held: bool,
    /// Whether somebody waits to be told when its client is heard of.
    pub is_listened_for: bool,
    /// When the last valid request came, or its client is known to have lived otherwise.
    pub seen_at: Instant,
    /// When it was created.
    pub created_at: Instant,
    /// What was known of who made it.
    pub standing: Standing,
    /// What its authentication granted.
    pub grant: Grant,
    /// Earlier places of the client that have yet to give back what they did not deliver; until then what is for it waits.
    pub returning: usize,
    /// Where the next process finds it.
    pub kept: Option<Record>,
}

impl Connection {
    /// How long its client may be silent before it counts as lost; `None` for ever.
    #[must_use]
    pub fn patience(&self, heartbeat: Option<Duration>) -> Option<Duration> {
        self.lifetime.or(heartbeat)
    }

    /// When its client counts as lost if nothing valid comes.
    #[must_use]
    pub(crate) fn lost_at(&self, heartbeat: Option<Duration>) -> Option<Instant> {
        Some(self.seen_at + self.patience(heartbeat)?)
    }

    /// When it ends if nothing valid comes: 1.5 heartbeats, or lifetimes, after the last request, or with its credential.
    #[must_use]
    pub fn deadline(&self, heartbeat: Option<Duration>) -> Option<Instant> {
        let patience = self.patience(heartbeat);
        let silence = patience.map(|patience| self.seen_at + patience + patience / 2);
        match (silence, self.grant.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The connections of a worker.
#[derive(Default)]
pub struct Connections {
    /// Ordered, so that a long list can be shown in parts.
    by_key: BTreeMap<ConnectionKey, Connection>,
    by_client: HashMap<ClientId, ConnectionKey>,
}

impl Connections {
    /// Adds one; the client's older one must have been removed.
    pub fn insert(&mut self, connection: Connection) {
        self.by_client.insert(connection.client.clone(), connection.key);
        self.by_key.insert(connection.key, connection);
    }

    /// Takes one out.
    pub fn remove(&mut self, key: ConnectionKey) -> Option<Connection> {
        let connection = self.by_key.remove(&key)?;
        if self.by_client.get(&connection.client) == Some(&key) {
            self.by_client.remove(&connection.client);
        }
        Some(connection)
    }

    /// One by its key.
    #[must_use]
    pub fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        self.by_key.get(&key)
    }

    /// One by its key, to change.
    pub fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.by_key.get_mut(&key)
    }

    /// One by its client id.
    #[must_use]
    pub(crate) fn of_client(&self, client: &ClientId) -> Option<&Connection> {
        self.by_key.get(self.by_client.get(client)?)
    }

    /// The connections after `after`, in the order of their keys.
    pub fn after(&self, after: Option<ConnectionKey>) -> impl Iterator<Item = &Connection> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_key
            .range((from, Bound::Unbounded))
            .map(|(_, connection)| connection)
    }

    /// Every connection, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.by_key.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn tokens_are_printable_and_carry_128_bits_beside_their_worker() {
        let mut rng = StdRng::seed_from_u64(1);
        let tokens: std::collections::HashSet<Vec<u8>> = (0..1000)
            .map(|_| {
                ConnectionToken::generate(WorkerId(77), &mut rng)
                    .as_bytes()
                    .to_vec()
            })
            .collect();
        assert_eq!(tokens.len(), 1000);
        for token in &tokens {
            assert!(
                token
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            );
            assert_eq!(token[..2], *b"BN");
        }
        // 22 letters of 6 bits hold 132: the last one carries what is left of 128.
        let last: std::collections::HashSet<u8> = tokens.iter().map(|token| token[23]).collect();
        assert_eq!(last.len(), 4);
    }

    #[test]
    fn a_token_names_a_worker_that_there_is_or_nobody() {
        let mut rng = StdRng::seed_from_u64(3);
        for worker in 0..=255 {
            let token = ConnectionToken::generate(WorkerId(worker), &mut rng);
            assert_eq!(
                ConnectionToken::worker(token.as_bytes(), 255),
                Some(WorkerId(worker % 255))
            );
            assert_eq!(ConnectionToken::worker(token.as_bytes(), 1), Some(WorkerId(0)));
        }
        for workers in 0..=255 {
            let named = ConnectionToken::worker(b"__AAAAAAAAAAAAAAAAAAAAAA", workers).unwrap();
            assert!(named.0 < workers.max(1));
        }
        for malformed in [
            &b""[..],
            b"A",
            b"AA",
            b"AAAAAAAAAAAAAAAAAAAAAAA",
            b"AAAAAAAAAAAAAAAAAAAAAAAAA",
            b"A AAAAAAAAAAAAAAAAAAAAAA",
            b"\xffAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(ConnectionToken::worker(malformed, 4), None, "{malformed:?}");
        }
    }

    #[test]
    fn a_token_matches_itself_only_and_never_shows() {
        let token = ConnectionToken::generate(WorkerId(0), &mut StdRng::seed_from_u64(2));
        assert!(token.matches(token.as_bytes()));
        assert!(!token.matches(&token.as_bytes()[..23]));
        let mut other = token.as_bytes().to_vec();
        other[0] ^= 1;
        assert!(!token.matches(&other));
        assert!(!format!("{token:?}").contains(std::str::from_utf8(token.as_bytes()).unwrap()));
    }
}
