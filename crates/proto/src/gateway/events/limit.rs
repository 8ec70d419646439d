//! How much one source may cause to be told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::types::{ListenerId, PeerAddr};

/// How long a share lasts.
const WINDOW: Duration = Duration::from_secs(10);

/// How many failures of one source are told in that time, and how much else: behind one address may be a fleet.
const FAILURES: u32 = 10;
const OTHERS: u32 = 1000;

/// Sources that are counted apart, per worker. Those beyond share one count.
const SOURCES: usize = 1024;

/// Where something happened.
type Place = (ListenerId, Option<PeerAddr>);

struct Share {
    since: Instant,
    failures: u32,
    others: u32,
    left_out: u64,
    last: Place,
}

/// The shares of the sources of one worker. `None` stands for who is nowhere, and for those that there is no place for.
#[derive(Default)]
pub(super) struct Limit {
    shares: HashMap<Option<IpAddr>, Share>,
}

impl Limit {
    /// Whether something more of this source is told; counts it where it is not.
    pub(super) fn admits(&mut self, now: Instant, is_failure: bool, place: Place) -> bool {
        let source = place.1.map(PeerAddr::source);
        let known = self.shares.contains_key(&source) || self.shares.len() < SOURCES;
        let share = self
            .shares
            .entry(source.filter(|_| known))
            .or_insert_with(|| Share {
                since: now,
                failures: 0,
                others: 0,
                left_out: 0,
                last: place,
            });
        let (told, most) = if is_failure {
            (&mut share.failures, FAILURES)
        } else {
            (&mut share.others, OTHERS)
        };
        if *told < most {
            *told += 1;
            return true;
        }
        share.left_out += 1;
        share.last = place;
        false
    }

    /// Ends the shares whose time is over: where the last thing that was left out of each happened, and how much was.
    pub(super) fn over(&mut self, now: Instant) -> impl Iterator<Item = (Place, u64)> {
        self.shares
            .extract_if(move |_, share| now.saturating_duration_since(share.since) >= WINDOW)
            .filter(|(_, share)| share.left_out > 0)
            .map(|(_, share)| (share.last, share.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::clock_for_tests as clock;

    fn at(host: u32) -> Place {
        let address = SocketAddr::new(IpAddr::V4(host.into()), 5683);
        (ListenerId(0), PeerAddr::new(address))
    }

    #[test]
    fn one_source_has_its_share_and_what_is_left_out_is_counted_once() {
        let (mut limit, start) = (Limit::default(), clock());
        let told = (0..50).filter(|_| limit.admits(start, true, at(7))).count();
        assert_eq!(told, FAILURES as usize);
        assert!(limit.admits(start, false, at(7)) && limit.admits(start, true, at(8)));
        assert_eq!(limit.over(start).count(), 0);
        let later = start + WINDOW;
        assert_eq!(
            limit.over(later).collect::<Vec<_>>(),
            [(at(7), 50 - u64::from(FAILURES))]
        );
        assert!(limit.shares.is_empty() && limit.admits(later, true, at(7)));
    }

    #[test]
    fn sources_without_number_share_what_is_left() {
        let (mut limit, start) = (Limit::default(), clock());
        let told = (0..100_000)
            .filter(|host| limit.admits(start, true, at(*host)))
            .count();
        assert_eq!(told, SOURCES + FAILURES as usize);
        assert!(limit.shares.len() <= SOURCES + 1);
        let left_out: u64 = limit.over(start + WINDOW).map(|(_, count)| count).sum();
        assert_eq!(left_out, 100_000 - told as u64);
    }
}
