//! A session that goes on from a record that was copied a while ago: which numbers its peer has used since is not known, so whatever
//! opens may be a replay of what was acted on before. It is gated until the peer has shown that it lives, by answering a ping of now.
//!
//! The ping is the one of CoAP (RFC 7252, 4.3), an empty confirmable message that every endpoint rejects with a reset, and the one thing
//! in a record that this layer looks into. A reset opens the gate when it names the random message id of the ping and its record is not
//! below the floor that was stored: an old one would have to be of those received since, and have the same id.

use std::time::{Duration, Instant};

use portcullis_proto::types::PeerAddr;

/// Pings before the peer is given up.
const PINGS: u8 = 4;
/// From the first ping to the second; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// A peer is not pinged more often at one place, however much it sends.
const PAUSE: Duration = Duration::from_millis(500);

/// First byte of an empty message, in which no token stands: version 1, and the type.
const CONFIRMABLE: u8 = 0x40;
const ACKNOWLEDGEMENT: u8 = 0x60;
const RESET: u8 = 0x70;

/// What is to be done when a ping was not answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The next is due.
    Ping,
    /// Nothing: it is waited for longer.
    Wait,
    /// The peer goes on speaking and does not answer: nothing will open the gate.
    GiveUp,
}

/// The gate of a session.
#[derive(Debug)]
pub(super) struct Gate {
    mid: u16,
    /// Pings that were sent and then waited for.
    pings: u8,
    /// Until when the last one is waited for; `None` while nothing is under way.
    until: Option<Instant>,
    /// Whether the peer was heard since the last ping of a row, and between that and the one before. One record that somebody recorded
    /// shows nobody who is awake; who is woke up long enough ago to have answered.
    heard: [bool; 2],
    /// When and where the last one went.
    last: Option<(Instant, PeerAddr)>,
    /// The last empty acknowledgement that came before the answer.
    acknowledgement: Option<[u8; 4]>,
}

impl Gate {
    /// A closed one. `mid` is random.
    pub(super) const fn new(mid: u16) -> Self {
        Self {
            mid,
            pings: 0,
            until: None,
            heard: [false; 2],
            last: None,
            acknowledgement: None,
        }
    }

    /// The ping.
    pub(super) const fn ping(&self) -> [u8; 4] {
        let [high, low] = self.mid.to_be_bytes();
        [CONFIRMABLE, 0, high, low]
    }

    /// Whether a plaintext is the answer to it.
    pub(super) fn is_answer(&self, plaintext: &[u8]) -> bool {
        let [high, low] = self.mid.to_be_bytes();
        plaintext == [RESET, 0, high, low]
    }

    /// Holds a plaintext that is an empty acknowledgement: some clients send it before their answer, and never again.
    pub(super) fn hold(&mut self, plaintext: &[u8]) {
        if let [ACKNOWLEDGEMENT, 0, high, low] = *plaintext {
            self.acknowledgement = Some([ACKNOWLEDGEMENT, 0, high, low]);
        }
    }

    /// The acknowledgement that is held.
    pub(super) const fn held(&self) -> Option<[u8; 4]> {
        self.acknowledgement
    }

    /// The peer was heard at `from`. Whether it is to be pinged there now.
    pub(super) fn heard(&mut self, now: Instant, from: PeerAddr) -> bool {
        let [since, _] = &mut self.heard;
        *since = true;
        let is_due = !matches!(self.last, Some((at, there)) if there == from && now < at + PAUSE);
        if is_due {
            self.last = Some((now, from));
        }
        is_due
    }

    /// Something is sent to the peer. Whether a ping goes before it.
    pub(super) const fn is_quiet(&self) -> bool {
        self.until.is_none()
    }

    /// A ping was sent while none was under way, at an instant that is not known: what is to be done is asked for at once.
    pub(super) const fn sent_before(&mut self, ask_at: Instant) {
        (self.pings, self.until) = (0, Some(ask_at));
    }

    /// A ping was sent. When it is to be asked for what is to be done, if that was not said already.
    pub(super) fn sent(&mut self, now: Instant) -> Option<Instant> {
        self.is_quiet().then(|| self.wait(now))
    }

    fn wait(&mut self, now: Instant) -> Instant {
        let until = now + FIRST_PAUSE * (1 << self.pings);
        (self.pings, self.until) = (self.pings + 1, Some(until));
        until
    }

    /// What is to be done at an instant that was named before, and when to ask again; nothing where another one counts now.
    pub(super) fn unanswered(
        &mut self,
        named: Instant,
        now: Instant,
    ) -> Option<(Unanswered, Option<Instant>)> {
        if self.until != Some(named) {
            return None;
        }
        if self.pings < PINGS {
            let next = if self.pings == 0 {
                Unanswered::Wait
            } else {
                let [since, _] = self.heard;
                self.heard = [false, since];
                Unanswered::Ping
            };
            return Some((next, Some(self.wait(now))));
        }
        if self.heard == [true; 2] {
            return Some((Unanswered::GiveUp, None));
        }
        // A device that sleeps hears nothing. Its own next record says when to ping it.
        (self.pings, self.until) = (0, None);
        Some((Unanswered::Wait, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_base::start;

    fn address(port: u16) -> PeerAddr {
        PeerAddr::new(([192, 0, 2, 1], port).into()).unwrap()
    }

    /// Seconds from the first ping at which something is to be done, and what, while the peer is heard at some of these seconds.
    fn course(gate: &mut Gate, begin: Instant, first: Instant, heard: &[u64]) -> Vec<(u64, Unanswered)> {
        let (mut done, mut at, mut heard) = (Vec::new(), Some(first), heard.iter().peekable());
        while let Some(named) = at {
            let second = (named - begin).as_secs();
            while let Some(then) = heard.next_if(|then| **then < second) {
                gate.heard(begin + Duration::from_secs(*then), address(1));
            }
            let (what, next) = gate.unanswered(named, named).unwrap();
            done.push((second, what));
            at = next;
        }
        done
    }

    #[test]
    fn a_peer_that_goes_on_speaking_and_does_not_answer_is_given_up_after_four_pings() {
        let (now, mut gate) = (start(), Gate::new(7));
        assert!(gate.heard(now, address(1)));
        let first = gate.sent(now).unwrap();
        let expected = [
            (2, Unanswered::Ping),
            (6, Unanswered::Ping),
            (14, Unanswered::Ping),
            (30, Unanswered::GiveUp),
        ];
        // As it repeats a confirmable request.
        assert_eq!(course(&mut gate, now, first, &[3, 8, 18]), expected);
    }

    #[test]
    fn records_that_were_recorded_and_a_peer_that_just_woke_up_have_nobody_given_up() {
        for heard in [&[][..], &[1], &[3, 5], &[7], &[13], &[15], &[29]] {
            let (now, mut gate) = (start(), Gate::new(7));
            assert!(gate.heard(now, address(1)));
            let first = gate.sent(now).unwrap();
            let course = course(&mut gate, now, first, heard);
            assert_eq!(course.last(), Some(&(30, Unanswered::Wait)), "{heard:?}");
            // The next record begins anew.
            let later = now + Duration::from_secs(60);
            assert!(gate.heard(later, address(1)) && gate.sent(later).is_some());
        }
    }

    #[test]
    fn one_that_was_not_heard_is_waited_for() {
        let (now, mut gate) = (start(), Gate::new(7));
        gate.sent_before(now);
        let course = course(&mut gate, now, now, &[]);
        let pings = course.iter().filter(|(_, what)| *what == Unanswered::Ping);
        assert_eq!((course[0], pings.count()), ((0, Unanswered::Wait), 3));
        assert_eq!(*course.last().unwrap(), (30, Unanswered::Wait));
        assert!(gate.is_quiet());
    }

    #[test]
    fn it_is_pinged_where_it_speaks_and_not_for_each_record() {
        let (now, mut gate) = (start(), Gate::new(7));
        assert!(gate.heard(now, address(1)) && !gate.heard(now, address(1)));
        assert!(gate.heard(now, address(2)));
        assert!(gate.heard(now + PAUSE, address(2)));
        assert!(gate.sent(now).is_some() && gate.sent(now + PAUSE).is_none());
    }

    #[test]
    fn only_a_reset_with_its_message_id_answers_it() {
        let gate = Gate::new(0x0102);
        assert_eq!(gate.ping(), [0x40, 0, 1, 2]);
        assert!(gate.is_answer(&[0x70, 0, 1, 2]));
        for other in [
            &[0x70, 0, 1, 3][..],
            &[0x60, 0, 1, 2],
            &[0x40, 0, 1, 2],
            &[0x70, 0, 1, 2, 0xff],
            &[],
        ] {
            assert!(!gate.is_answer(other), "{other:?}");
        }
    }
}
