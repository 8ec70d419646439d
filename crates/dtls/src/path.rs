//! Where a session's peer may be sent something, and how much: an address that a record came from, and what shows that the peer
//! receives there.

use std::time::{Duration, Instant};

use portcullis_proto::types::PeerAddr;

/// Bytes that may go to an unconfirmed address whatever came from it (RFC 9175, 2.4, item 3).
const SMALL: usize = 136;
/// An answer to a challenge is waited for so long. RFC 9853, 5.4 says 1 s where the round trip is not known; devices on slow
/// networks need more, and nothing is lost meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that goes on sending from there is challenged again after this long: challenge or response may be lost.
const AGAIN: Duration = Duration::from_secs(1);

const PATH_CHALLENGE: u8 = 0;
const PATH_RESPONSE: u8 = 1;
const PATH_DROP: u8 = 2;

/// A message of a return routability check (RFC 9853, 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Do you receive here?
    Challenge([u8; 8]),
    /// I do.
    Response([u8; 8]),
    /// I was here and am not any more. Nothing follows from it in the basic procedure.
    Drop,
}

impl Check {
    /// Reads a record's content.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let (kind, cookie) = content.split_first()?;
        let cookie = *<&[u8; 8]>::try_from(cookie).ok()?;
        match *kind {
            PATH_CHALLENGE => Some(Self::Challenge(cookie)),
            PATH_RESPONSE => Some(Self::Response(cookie)),
            PATH_DROP => Some(Self::Drop),
            _ => None,
        }
    }

    pub(super) fn response(cookie: [u8; 8]) -> [u8; 9] {
        Self::write(PATH_RESPONSE, cookie)
    }

    fn write(kind: u8, cookie: [u8; 8]) -> [u8; 9] {
        let mut content = [kind; 9];
        let [_, place @ ..] = &mut content;
        *place = cookie;
        content
    }
}

/// What may be sent to an address where nothing shows that the peer receives: its records are its own, and someone on the path
/// may have sent them on from there (RFC 9146, 6).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Budget {
    received: usize,
    sent: usize,
}

impl Budget {
    /// A record of `len` bytes came from there.
    pub(super) fn heard(&mut self, len: usize) {
        self.received = self.received.saturating_add(len);
    }

    /// Takes `len` bytes off what may be sent there; false when that is more than is left.
    pub(super) fn spend(&mut self, len: usize) -> bool {
        let sent = self.sent.saturating_add(len);
        let within = sent <= self.received.saturating_mul(3).max(SMALL);
        if within {
            self.sent = sent;
        }
        within
    }
}

/// An address that newer records of a session came from, which stays where it was until the peer has answered there.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) address: PeerAddr,
    pub(super) budget: Budget,
    /// The last two challenges, the newest first, and when they were sent.
    challenges: [Option<([u8; 8], Instant)>; 2],
}

impl Candidate {
    pub(super) fn new(address: PeerAddr) -> Self {
        Self {
            address,
            budget: Budget::default(),
            challenges: [None; 2],
        }
    }

    /// The challenge to send now, if one is due.
    pub(super) fn challenge(&mut self, now: Instant, cookie: [u8; 8]) -> Option<[u8; 9]> {
        let [newest, before] = &mut self.challenges;
        if newest.is_some_and(|(_, then)| now < then + AGAIN) {
            return None;
        }
        *before = newest.replace((cookie, now));
        Some(Check::write(PATH_CHALLENGE, cookie))
    }

    /// Whether a response with this cookie from there shows that the peer receives there.
    pub(super) fn is_answered(&self, now: Instant, from: PeerAddr, cookie: [u8; 8]) -> bool {
        let mut challenges = self.challenges.iter().flatten();
        from == self.address && challenges.any(|(sent, then)| *sent == cookie && now < *then + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_base::start;

    #[test]
    fn checks_are_nine_bytes() {
        let cookie = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(
            Check::read(&Check::response(cookie)),
            Some(Check::Response(cookie))
        );
        assert_eq!(
            Check::read(&[0, 1, 2, 3, 4, 5, 6, 7, 8]),
            Some(Check::Challenge(cookie))
        );
        assert_eq!(Check::read(&[2, 1, 2, 3, 4, 5, 6, 7, 8]), Some(Check::Drop));
        for bad in [&[][..], &[1; 8], &[1; 10], &[3; 9]] {
            assert_eq!(Check::read(bad), None);
        }
    }

    #[test]
    fn the_last_two_challenges_are_good_for_as_long_as_is_waited() {
        let at = |port| PeerAddr::new(std::net::SocketAddr::from(([192, 0, 2, 7], port))).unwrap();
        let (mut candidate, now) = (Candidate::new(at(9)), start());
        assert!(!candidate.is_answered(now, at(9), [0; 8]));
        assert!(candidate.challenge(now, [1; 8]).is_some());
        assert!(candidate.challenge(now, [2; 8]).is_none(), "too soon");
        let later = now + AGAIN;
        assert!(candidate.challenge(later, [3; 8]).is_some());
        for (from, cookie, good) in [(9, 1, true), (9, 3, true), (9, 2, false), (8, 3, false)] {
            assert_eq!(candidate.is_answered(later, at(from), [cookie; 8]), good);
        }
        assert!(candidate.challenge(later + AGAIN, [4; 8]).is_some());
        assert!(!candidate.is_answered(later + AGAIN, at(9), [1; 8]));
        assert!(!candidate.is_answered(later + AGAIN + PATIENCE, at(9), [4; 8]));
    }
}
