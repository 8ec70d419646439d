//! Positive verdicts remembered for a short while, so that a client whose every request carries its credentials does
//! not cost a password hash each time. It holds no password: entries are found by a keyed hash of the credentials.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use hmac::Mac as _;
use zeroize::Zeroizing;

use super::authentication::{AuthRequest, Verdict};
use crate::types::mac::{Sha256, hmac};

/// The keyed hash of a request's credentials.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CredentialHash([u8; 32]);

impl std::hash::Hash for CredentialHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Takes the bits of a keyed hash as they are.
#[derive(Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

struct Entry {
    verdict: Verdict,
    stored: Instant,
    expires: Option<Instant>,
}

/// The cache. One per owner, emptied when users or keys change.
pub struct VerdictCache {
    key: Zeroizing<[u8; 32]>,
    entries: HashMap<CredentialHash, Entry, BuildHasherDefault<Taken>>,
    order: VecDeque<(CredentialHash, Instant)>,
    capacity: usize,
    ttl: Duration,
    grace: Duration,
}

impl fmt::Debug for VerdictCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerdictCache({} of {})", self.entries.len(), self.capacity)
    }
}

impl VerdictCache {
    /// An empty cache of at most `capacity` verdicts, each good for `ttl`; a `ttl` of zero switches it off. `key` is
    /// random and of this process only.
    #[must_use]
    pub fn new(key: [u8; 32], capacity: usize, ttl: Duration) -> Self {
        Self {
            key: Zeroizing::new(key),
            entries: HashMap::default(),
            order: VecDeque::new(),
            capacity,
            ttl,
            grace: Duration::ZERO,
        }
    }

    /// The same, which keeps verdicts for `grace` longer, for [`Self::get_within`].
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.set_grace(grace);
        self
    }

    /// Keeps verdicts for `grace` longer than they are good.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Whether it may hold anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.capacity > 0 && !self.ttl.is_zero()
    }

    /// The hash by which `request` is found: of everything that a verdict may depend on, the port aside.
    #[must_use]
    pub fn hash(&self, request: &AuthRequest) -> CredentialHash {
        let mut mac = hmac::<Sha256, _>(&self.key);
        let mut field = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => {
                mac.update(&[1]);
                mac.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
                mac.update(bytes);
            }
            None => mac.update(&[0]),
        };
        field(request.username.as_ref().map(|name| name.as_bytes()));
        field(
            request
                .password
                .as_ref()
                .map(super::authentication::Password::expose),
        );
        field(request.clientid.as_ref().map(|id| id.as_str().as_bytes()));
        field(request.identity.as_ref().map(|identity| identity.name.as_bytes()));
        field(
            request
                .identity
                .as_ref()
                .map(|identity| identity.proof.label().as_bytes()),
        );
        field(Some(&[request.identity_role as u8]));
        field(Some(&request.listener.0.to_le_bytes()));
        field(Some(request.peer.ip().to_string().as_bytes()));
        CredentialHash(mac.finalize().into_bytes().into())
    }

    /// The verdict that is remembered for `hash`, what is left of the credential's time in it.
    #[must_use]
    pub fn get(&self, now: Instant, hash: &CredentialHash) -> Option<Verdict> {
        self.get_within(now, hash, Duration::ZERO)
    }

    /// As [`Self::get`], of a verdict too that was good until at most `grace` ago: for when nobody can be asked.
    #[must_use]
    pub fn get_within(&self, now: Instant, hash: &CredentialHash, grace: Duration) -> Option<Verdict> {
        let entry = self.entries.get(hash)?;
        if now.saturating_duration_since(entry.stored) >= self.ttl.saturating_add(grace)
            || entry.expires.is_some_and(|at| at <= now)
        {
            return None;
        }
        let mut verdict = entry.verdict.clone();
        if let Verdict::Allow { expires_in, .. } = &mut verdict {
            *expires_in = entry.expires.map(|at| at.saturating_duration_since(now));
        }
        Some(verdict)
    }

    /// Remembers `verdict`, if it lets the client in. The oldest goes when there is no room.
    pub fn put(&mut self, now: Instant, hash: CredentialHash, verdict: &Verdict) {
        let Verdict::Allow { expires_in, .. } = verdict else {
            return;
        };
        if !self.is_on() {
            return;
        }
        self.forget_old(now);
        let entry = Entry {
            verdict: verdict.clone(),
            stored: now,
            expires: expires_in.and_then(|time| now.checked_add(time)),
        };
        self.entries.insert(hash, entry);
        self.order.push_back((hash, now));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// How many verdicts it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget_old(&mut self, now: Instant) {
        let keep = self.ttl.saturating_add(self.grace);
        while let Some((hash, stored)) = self.order.front().copied() {
            if self.order.len() < self.capacity && now.saturating_duration_since(stored) < keep {
                return;
            }
            self.order.pop_front();
            // A later verdict for the same credentials stays: its own place in the order is still to come.
            if self
                .entries
                .get(&hash)
                .is_some_and(|entry| entry.stored == stored)
            {
                self.entries.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::super::authentication::{DenyReason, IdentityRole, Password};
    use super::*;
    use crate::types::{ClientId, ListenerId, PeerAddr};

    fn request(user: &str, password: &str) -> AuthRequest {
        AuthRequest {
            ticket: 1,
            clientid: ClientId::new("c"),
            username: Some(user.into()),
            password: Some(Password::new(password.as_bytes())),
            identity: None,
            identity_role: IdentityRole::None,
            peer: PeerAddr::new("127.0.0.1:1".parse().unwrap()).unwrap(),
            listener: ListenerId(0),
        }
    }

    fn cache(capacity: usize) -> VerdictCache {
        VerdictCache::new([7; 32], capacity, Duration::from_secs(30))
    }

    #[test]
    fn only_the_same_credentials_hit_and_only_for_a_while() {
        let (mut cache, now) = (cache(10), Instant::now());
        let hash = cache.hash(&request("ann", "pw"));
        cache.put(now, hash, &Verdict::allow());
        assert_eq!(
            cache.get(now, &cache.hash(&request("ann", "pw"))),
            Some(Verdict::allow())
        );
        for other in [request("ann", "px"), request("annp", "w"), request("", "annpw")] {
            assert_eq!(cache.get(now, &cache.hash(&other)), None);
        }
        let other = AuthRequest {
            clientid: ClientId::new("d"),
            ..request("ann", "pw")
        };
        assert_eq!(cache.get(now, &cache.hash(&other)), None);
        assert_eq!(cache.get(now + Duration::from_secs(30), &hash), None);
    }

    #[test]
    fn a_verdict_is_kept_for_its_grace_and_shown_to_who_asks_for_it() {
        let (mut cache, now) = (cache(10).with_grace(Duration::from_secs(60)), Instant::now());
        let hash = cache.hash(&request("ann", "pw"));
        cache.put(now, hash, &Verdict::allow());
        let later = now + Duration::from_secs(80);
        cache.put(later, cache.hash(&request("bob", "pw")), &Verdict::allow());
        assert_eq!(cache.get(later, &hash), None);
        assert_eq!(cache.get_within(later, &hash, Duration::from_secs(40)), None);
        assert!(cache.get_within(later, &hash, Duration::from_secs(60)).is_some());
        assert_eq!(
            cache.get_within(now + Duration::from_secs(90), &hash, Duration::from_secs(60)),
            None
        );
    }

    #[test]
    fn refusals_are_not_remembered() {
        let (mut cache, now) = (cache(10), Instant::now());
        let hash = cache.hash(&request("ann", "pw"));
        cache.put(now, hash, &Verdict::Deny(DenyReason::BadCredentials));
        cache.put(now, hash, &Verdict::Unavailable);
        assert!(cache.is_empty());
    }

    #[test]
    fn a_credentials_own_end_ends_its_verdict() {
        let (mut cache, now) = (cache(10), Instant::now());
        let hash = cache.hash(&request("ann", "pw"));
        let verdict = |seconds| Verdict::Allow {
            expires_in: Some(Duration::from_secs(seconds)),
            superuser: false,
            acl: None,
            attributes: crate::policy::attributes::Attributes::default(),
        };
        cache.put(now, hash, &verdict(10));
        assert_eq!(cache.get(now + Duration::from_secs(4), &hash), Some(verdict(6)));
        assert_eq!(cache.get(now + Duration::from_secs(10), &hash), None);
    }

    #[test]
    fn it_stays_within_its_capacity_and_the_oldest_goes() {
        let (mut cache, now) = (cache(8), Instant::now());
        for n in 0..1000 {
            let hash = cache.hash(&request(&format!("u{}", n % 100), "pw"));
            cache.put(now, hash, &Verdict::allow());
            assert!(cache.len() <= 8 && cache.order.len() <= 8);
        }
        assert!(cache.get(now, &cache.hash(&request("u99", "pw"))).is_some());
        assert!(cache.get(now, &cache.hash(&request("u0", "pw"))).is_none());
    }

    #[test]
    fn nothing_of_a_password_is_printed_or_stored() {
        let mut cache = cache(8);
        let hash = cache.hash(&request("ann", "hunter2"));
        cache.put(Instant::now(), hash, &Verdict::allow());
        assert_eq!(format!("{cache:?}"), "VerdictCache(1 of 8)");
    }
}
