//! How much of a worker its handshakes take: estimated by what their suites cost, since nothing here reads a clock.

use std::time::{Duration, Instant};

use super::suite::KeyExchange;

/// The part of a worker that handshakes may take before it counts as busy, in per cent.
const SHARE: u32 = 50;
/// How much may be taken at once.
const BURST: Duration = Duration::from_millis(500);

/// What handshakes took lately.
#[derive(Default)]
pub(super) struct Effort {
    taken: Duration,
    until: Option<Instant>,
}

impl Effort {
    /// One more handshake begins. `verifies`: the client is asked for a certificate.
    pub(super) fn add(&mut self, now: Instant, exchange: KeyExchange, verifies: bool) {
        self.taken = self.lately(now) + cost(exchange, verifies);
        self.until = Some(now);
    }

    /// Whether the next handshake should wait for its turn.
    pub(super) fn is_high(&self, now: Instant) -> bool {
        self.lately(now) >= BURST
    }

    fn lately(&self, now: Instant) -> Duration {
        let past = self
            .until
            .map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        self.taken.saturating_sub(past * SHARE / 100)
    }
}

/// What one handshake takes, cookie included, on OpenSSL 3.0 and a core of 2023.
const fn cost(exchange: KeyExchange, verifies: bool) -> Duration {
    let micros = match exchange {
        KeyExchange::Psk => return Duration::from_micros(50),
        KeyExchange::EcdhePsk => return Duration::from_micros(200),
        KeyExchange::EcdheEcdsa => 250,
        KeyExchange::EcdheRsa => 1500,
    };
    Duration::from_micros(if verifies { micros + 500 } else { micros })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_base::start;

    #[test]
    fn a_worker_is_busy_with_certificates_long_before_it_is_with_keys() {
        for (exchange, verifies, at_once, a_second) in [
            (KeyExchange::Psk, true, 10_000, 10_000),
            (KeyExchange::EcdheEcdsa, false, 2000, 2000),
            (KeyExchange::EcdheRsa, true, 250, 250),
        ] {
            let (mut effort, now) = (Effort::default(), start());
            let mut begun = 0;
            while !effort.is_high(now) {
                effort.add(now, exchange, verifies);
                begun += 1;
            }
            assert_eq!(begun, at_once, "{exchange:?}");
            let later = now + Duration::from_secs(1);
            while !effort.is_high(later) {
                effort.add(later, exchange, verifies);
                begun += 1;
            }
            assert_eq!(begun, at_once + a_second, "{exchange:?}");
        }
    }
}
