//! Transmission parameters and the times derived from them (RFC 7252, 4.8).

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::contract::CoapSettings;

/// MAX_LATENCY (RFC 7252, 4.8.2).
const MAX_LATENCY: Duration = Duration::from_secs(100);

/// PROBING of the answer: a confirmable request that waits longer than this gets an empty ACK and a separate response
/// (RFC 7252, 5.2.2). Half of the default ACK_TIMEOUT, so that the ACK is there before the client sends again.
const SEPARATE_AFTER: Duration = Duration::from_secs(1);

/// The derived times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameters {
    ack_timeout: Duration,
    pub(crate) max_retransmit: u32,
    pub(crate) exchange_lifetime: Duration,
    pub(crate) non_lifetime: Duration,
    pub(crate) separate_after: Duration,
    /// Size exponent of the largest block: the block has `16 << szx` bytes.
    pub(crate) max_szx: u8,
    pub(crate) max_body_size: usize,
}

impl Parameters {
    pub(crate) fn new(settings: &CoapSettings) -> Self {
        let ack_timeout = settings.ack_timeout.max(Duration::from_millis(1));
        // More doublings than this would outlive the process.
        let max_retransmit = settings.max_retransmit.min(16);
        let span = ack_timeout
            .saturating_mul((1 << max_retransmit) - 1)
            .saturating_mul(3)
            / 2;
        Self {
            ack_timeout,
            max_retransmit,
            exchange_lifetime: span + 2 * MAX_LATENCY + ack_timeout,
            non_lifetime: span + MAX_LATENCY,
            separate_after: SEPARATE_AFTER.min(ack_timeout / 2),
            max_szx: szx_of(settings.max_block_size),
            max_body_size: settings.max_body_size,
        }
    }

    /// The first time-out of a confirmable message: ACK_TIMEOUT times 1 to ACK_RANDOM_FACTOR, which is 1.5.
    pub(crate) fn first_timeout(&self, rng: &mut StdRng) -> Duration {
        self.ack_timeout.mul_f64(rng.random_range(1.0..=1.5))
    }
}

/// The largest size exponent whose block is no longer than `size`; at least 0.
fn szx_of(size: usize) -> u8 {
    (0..=6).rev().find(|szx| 16 << szx <= size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_give_the_lifetimes_of_rfc_7252() {
        let parameters = Parameters::new(&CoapSettings::default());
        assert_eq!(parameters.exchange_lifetime, Duration::from_secs(247));
        assert_eq!(parameters.non_lifetime, Duration::from_secs(145));
        assert_eq!(parameters.separate_after, Duration::from_secs(1));
        assert_eq!(parameters.max_szx, 6);
    }

    #[test]
    fn absurd_settings_do_not_overflow() {
        let parameters = Parameters::new(&CoapSettings {
            ack_timeout: Duration::from_secs(1 << 40),
            max_retransmit: u32::MAX,
            max_block_size: 0,
            ..CoapSettings::default()
        });
        assert_eq!(parameters.max_szx, 0);
        assert!(parameters.exchange_lifetime > Duration::from_secs(1 << 40));
    }
}
