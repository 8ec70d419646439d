//! How many lines of the log the events of one source may make: who listens is told them all, the log is for years.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// How long a share lasts.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one source in that time.
const LINES: u32 = 20;
/// Sources that are counted apart. Those beyond share one count.
const SOURCES: usize = 1024;

struct Share {
    since: SystemTime,
    lines: u32,
    left_out: u64,
}

/// The shares of the sources. `None` stands for who is nowhere, and for those that there is no place for.
#[derive(Default)]
pub(crate) struct Lines(HashMap<Option<IpAddr>, Share>);

impl Lines {
    /// Whether there is a line for something more of this source; counts it where there is none.
    pub(crate) fn admits(&mut self, at: SystemTime, source: Option<IpAddr>) -> bool {
        let known = self.0.contains_key(&source) || self.0.len() < SOURCES;
        let share = self.0.entry(source.filter(|_| known)).or_insert(Share {
            since: at,
            lines: 0,
            left_out: 0,
        });
        let admitted = share.lines < LINES;
        share.lines += u32::from(admitted);
        share.left_out += u64::from(!admitted);
        admitted
    }

    /// Ends the shares whose time is over: the sources of which lines were left out, and how many.
    pub(crate) fn over(&mut self, at: SystemTime) -> Vec<(Option<IpAddr>, u64)> {
        // A clock that was set back ends them too.
        let is_over = |share: &Share| {
            at.duration_since(share.since)
                .map_or(true, |passed| passed >= WINDOW)
        };
        self.0
            .extract_if(|_, share| is_over(share))
            .filter(|(_, share)| share.left_out > 0)
            .map(|(source, share)| (source, share.left_out))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_lines_and_what_is_left_out_is_counted() {
        let (mut lines, at) = (Lines::default(), SystemTime::UNIX_EPOCH);
        let source = |host: u32| Some(IpAddr::V4(host.into()));
        assert_eq!((0..500).filter(|_| lines.admits(at, source(1))).count(), 20);
        assert!(lines.admits(at, source(2)) && lines.over(at).is_empty());
        assert_eq!(lines.over(at + WINDOW), [(source(1), 480)]);
        assert!(lines.admits(at, source(1)));
        for host in 0..100_000 {
            lines.admits(at, source(host));
        }
        assert!(lines.0.len() <= SOURCES + 1);
    }
}
