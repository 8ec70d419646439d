//! Stateless cookies (RFC 6347, 4.2.1): nothing is kept for a peer that has not shown that it receives at its address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hmac::Hmac;
use zeroize::Zeroizing;

use portcullis_proto::types::PeerAddr;
use portcullis_proto::types::mac::{Sha256, hmac, mac};

use super::hello::ClientHello;
use super::record::{DTLS_1_0, HANDSHAKE};
use super::shared::DtlsShared;

/// Bytes of a cookie.
pub(super) const COOKIE_LEN: usize = 16;
/// How long one secret is used; the one before it is still accepted.
const ROTATION: Duration = Duration::from_secs(120);
const HELLO_VERIFY_REQUEST: u8 = 3;

/// What cookies are made from.
pub(super) struct CookieSecrets {
    master: Zeroizing<[u8; 32]>,
    base: Instant,
    /// What the time of day was at `base`, in milliseconds since 1970, where other processes have the same master.
    common: Option<AtomicU64>,
}

impl CookieSecrets {
    /// Secrets from random bytes. `base` is any instant; rotation counts from it.
    pub(super) fn new(master: Zeroizing<[u8; 32]>, base: Instant) -> Self {
        let common = None;
        Self { master, base, common }
    }

    /// Secrets that other processes have too: rotation counts from 1970, as soon as the time of day is known.
    pub(super) fn common(master: Zeroizing<[u8; 32]>, base: Instant) -> Self {
        let common = Some(AtomicU64::new(0));
        Self { master, base, common }
    }

    /// The time of day, since 1970, at `now`: it may have been set since it was told last.
    pub(super) fn set_wall(&self, now: Instant, wall: Duration) {
        if let Some(common) = &self.common {
            let at_base = wall.saturating_sub(now.saturating_duration_since(self.base));
            let millis = u64::try_from(at_base.as_millis()).unwrap_or(u64::MAX);
            common.store(millis, Ordering::Relaxed);
        }
    }

    fn generation(&self, now: Instant) -> u64 {
        let before = self.common.as_ref().map(|common| common.load(Ordering::Relaxed));
        let since = now.saturating_duration_since(self.base);
        let since = since.saturating_add(Duration::from_millis(before.unwrap_or_default()));
        since.as_secs() / ROTATION.as_secs()
    }

    /// The generation that one whose clock is ahead may be in already.
    fn ahead(&self, generation: u64) -> Option<Hmac<Sha256>> {
        self.common.as_ref().map(|_| self.key(generation.wrapping_add(1)))
    }

    fn key(&self, generation: u64) -> Hmac<Sha256> {
        let secret: [u8; 32] = mac(
            &hmac::<Sha256, _>(&self.master),
            &[b"cookie", &generation.to_be_bytes()],
        )
        .into();
        hmac(&Zeroizing::new(secret))
    }
}

impl std::fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieSecrets(..)")
    }
}

/// Makes and checks cookies with the secret of the time and the one before.
pub(super) struct Cookies {
    shared: Arc<DtlsShared>,
    generation: u64,
    current: Hmac<Sha256>,
    previous: Hmac<Sha256>,
    /// What another node's clock may be at already.
    next: Option<Hmac<Sha256>>,
}

impl Cookies {
    pub(super) fn new(shared: Arc<DtlsShared>) -> Self {
        let (current, previous) = (shared.cookies.key(0), shared.cookies.key(u64::MAX));
        let next = shared.cookies.ahead(0);
        Self {
            shared,
            generation: 0,
            current,
            previous,
            next,
        }
    }

    fn refresh(&mut self, now: Instant) {
        let generation = self.shared.cookies.generation(now);
        if generation != self.generation {
            self.generation = generation;
            self.current = self.shared.cookies.key(generation);
            self.previous = self.shared.cookies.key(generation.wrapping_sub(1));
            self.next = self.shared.cookies.ahead(generation);
        }
    }

    /// Whether the hello carries a cookie of ours for this address.
    pub(super) fn verify(&mut self, now: Instant, from: PeerAddr, hello: &ClientHello<'_>) -> bool {
        self.refresh(now);
        hello.cookie.len() == COOKIE_LEN
            && [&self.current, &self.previous]
                .into_iter()
                .chain(&self.next)
                .any(|key| openssl::memcmp::eq(&cookie(key, from, hello), hello.cookie))
    }

    /// Appends the HelloVerifyRequest that answers `hello`: 44 bytes, less than any hello. It has the number of the hello among
    /// the messages too, or a client that was asked before would take it for that request once more.
    pub(super) fn write_request(
        &mut self,
        now: Instant,
        from: PeerAddr,
        hello: &ClientHello<'_>,
        out: &mut Vec<u8>,
    ) {
        self.refresh(now);
        let cookie = cookie(&self.current, from, hello);
        let body_len = 3 + COOKIE_LEN as u8;
        let [high, low] = hello.message_sequence.to_be_bytes();
        out.push(HANDSHAKE);
        out.extend_from_slice(&DTLS_1_0);
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&hello.record_sequence);
        out.extend_from_slice(&[0, 12 + body_len]);
        out.extend_from_slice(&[
            HELLO_VERIFY_REQUEST,
            0,
            0,
            body_len,
            high,
            low,
            0,
            0,
            0,
            0,
            0,
            body_len,
        ]);
        out.extend_from_slice(&DTLS_1_0);
        out.push(COOKIE_LEN as u8);
        out.extend_from_slice(&cookie);
    }
}

/// Address, random and session id are bound; suites and extensions are not, since a hello near the MTU may be cut
/// elsewhere once it carries a cookie.
fn cookie(key: &Hmac<Sha256>, from: PeerAddr, hello: &ClientHello<'_>) -> [u8; COOKIE_LEN] {
    let port = from.socket_addr().port().to_be_bytes();
    let id_len = [u8::try_from(hello.session_id.len()).unwrap_or(u8::MAX)];
    let (v4, v6);
    let ip: &[u8] = match from.ip() {
        IpAddr::V4(ip) => {
            v4 = ip.octets();
            &v4
        }
        IpAddr::V6(ip) => {
            v6 = ip.octets();
            &v6
        }
    };
    let ip_len = [ip.len() as u8];
    let mac = mac(
        key,
        &[&ip_len, ip, &port, hello.random, &id_len, hello.session_id],
    );
    let mut cookie = [0; COOKIE_LEN];
    cookie.copy_from_slice(mac.split_at(COOKIE_LEN).0);
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_base::start;

    const RANDOM: [u8; 32] = [3; 32];

    fn hello<'a>(random: &'a [u8; 32], cookie: &'a [u8]) -> ClientHello<'a> {
        ClientHello {
            record_sequence: [0, 0, 0, 0, 0, 9],
            message_sequence: 0,
            random,
            session_id: &[],
            cookie,
            suites: &[],
            extensions: &[],
        }
    }

    fn peer(text: &str) -> PeerAddr {
        PeerAddr::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_hello_verify_request_is_of_version_1_0_and_echoes_the_hello() {
        let base = start();
        let mut cookies = Cookies::new(DtlsShared::new([2; 32], base));
        for (record_sequence, message_sequence) in [([0; 6], 0), ([0, 0, 0, 0, 1, 44], 1), ([0xff; 6], 2)] {
            let hello = ClientHello {
                record_sequence,
                message_sequence,
                ..hello(&RANDOM, &[])
            };
            let mut out = Vec::new();
            cookies.write_request(base, peer("[2001:db8::1]:9"), &hello, &mut out);
            assert_eq!(out[..3], [HANDSHAKE, 0xfe, 0xff]);
            assert_eq!(out[3..5], [0, 0], "epoch");
            assert_eq!(out[5..11], record_sequence);
            assert_eq!(out[13], HELLO_VERIFY_REQUEST);
            assert_eq!(out[17..19], message_sequence.to_be_bytes());
            assert_eq!(out[25..28], [0xfe, 0xff, COOKIE_LEN as u8]);
        }
    }

    fn node(secret: u8, now: Instant, wall: u64) -> Cookies {
        let shared = DtlsShared::of_group([secret; 32], [9; 32], start());
        shared.set_wall(now, Duration::from_secs(wall));
        Cookies::new(shared)
    }

    /// Whether `to` takes at `now` what `from` gives out then.
    fn takes(now: Instant, from: &mut Cookies, to: &mut Cookies) -> bool {
        let (peer, mut out) = (peer("192.0.2.1:1000"), Vec::new());
        from.write_request(now, peer, &hello(&RANDOM, &[]), &mut out);
        to.verify(now, peer, &hello(&RANDOM, &out[28..]))
    }

    #[test]
    fn nodes_of_a_group_take_each_others_cookies_though_their_clocks_differ_and_strangers_do_not() {
        let now = start() + Duration::from_secs(77);
        for differ in [0, 1, 60, 119, 500] {
            for wall in (1_700_000_000..1_700_000_120).step_by(7) {
                let (mut behind, mut ahead) = (node(1, now, wall), node(1, now, wall + differ));
                let taken = differ < 120;
                assert_eq!(takes(now, &mut behind, &mut ahead), taken, "{differ} {wall}");
                assert_eq!(takes(now, &mut ahead, &mut behind), taken, "{differ} {wall}");
            }
        }
        let mut node_here = node(1, now, 1_700_000_000);
        assert!(!takes(now, &mut node_here, &mut node(2, now, 1_700_000_000)));
        let mut alone = Cookies::new(DtlsShared::new([1; 32], start()));
        assert!(!takes(now, &mut node_here, &mut alone) && !takes(now, &mut alone, &mut node_here));
    }

    #[test]
    fn a_clock_that_is_set_takes_the_cookies_of_its_node_along() {
        let (now, wall) = (start() + Duration::from_secs(9), 1_700_000_000);
        let (mut right, mut wrong) = (node(1, now, wall), node(1, now, wall - 86_400));
        assert!(!takes(now, &mut right, &mut wrong));
        // NTP sets it while the process runs.
        let later = now + Duration::from_secs(50);
        wrong.shared.set_wall(later, Duration::from_secs(wall + 50));
        assert!(takes(later, &mut right, &mut wrong) && takes(later, &mut wrong, &mut right));
    }

    #[test]
    fn a_cookie_of_a_group_ends_with_the_time_after_its_own() {
        let now = start() + Duration::from_secs(9);
        let (mut a, mut b) = (node(1, now, 1_700_000_000), node(1, now, 1_700_000_000));
        let (peer, mut out) = (peer("192.0.2.1:1000"), Vec::new());
        a.write_request(now, peer, &hello(&RANDOM, &[]), &mut out);
        let mut holds = |after| {
            b.verify(
                now + Duration::from_secs(after),
                peer,
                &hello(&RANDOM, &out[28..]),
            )
        };
        assert!(holds(0) && holds(119) && !holds(240));
    }

    #[test]
    fn a_cookie_holds_for_its_address_and_random_and_for_two_rotations() {
        let base = start();
        let secrets = DtlsShared::new([1; 32], base);
        let (mut a, mut b) = (Cookies::new(secrets.clone()), Cookies::new(secrets));
        let from = peer("192.0.2.1:1000");
        let now = base + Duration::from_secs(1_000);
        let mut out = Vec::new();
        a.write_request(now, from, &hello(&RANDOM, &[]), &mut out);
        assert_eq!(out.len(), 44);
        assert_eq!(out[5..11], [0, 0, 0, 0, 0, 9]);
        let cookie = out[28..].to_vec();
        assert!(b.verify(now, from, &hello(&RANDOM, &cookie)));
        assert!(b.verify(now + ROTATION, from, &hello(&RANDOM, &cookie)));
        assert!(!b.verify(now + 2 * ROTATION, from, &hello(&RANDOM, &cookie)));
        assert!(!b.verify(now, peer("192.0.2.1:1001"), &hello(&RANDOM, &cookie)));
        assert!(!b.verify(now, peer("192.0.2.2:1000"), &hello(&RANDOM, &cookie)));
        assert!(!b.verify(now, from, &hello(&[4; 32], &cookie)));
        assert!(!b.verify(now, from, &hello(&RANDOM, &cookie[..15])));
        assert!(!b.verify(now, from, &hello(&RANDOM, &[])));
    }
}
