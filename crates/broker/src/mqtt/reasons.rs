//! What the reason codes of MQTT 5 (2.4) mean for who asked. Any code of 0x80 and above is a refusal, known or not.

use portcullis_proto::bridge::contract::BrokerError;

/// A refused publish or subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the worker is told.
    pub(super) error: BrokerError,
    /// Whether the broker may take it later: its quota is exceeded, or it is not up to it now.
    pub(super) later: bool,
}

/// A word on a publish.
pub(super) const fn publish(reason: u8) -> Result<(), Refusal> {
    let (error, later) = match reason {
        ..0x80 => return Ok(()),
        0x87 => (BrokerError::NotAuthorized, false),
        0x95 => (BrokerError::TooLarge, false),
        0x97 => (BrokerError::Quota, true),
        // Unspecified, specific to the broker, packet identifier in use: nothing that the publish is to blame for.
        0x80 | 0x83 | 0x91 => (BrokerError::Unavailable, false),
        _ => (BrokerError::Refused, false),
    };
    Err(Refusal { error, later })
}

/// A word on a subscribe by MQTT 5.
pub(super) const fn subscribe(reason: u8) -> Result<(), Refusal> {
    let (error, later) = match reason {
        ..0x80 => return Ok(()),
        0x87 => (BrokerError::NotAuthorized, false),
        0x97 => (BrokerError::Quota, true),
        0x80 | 0x83 | 0x91 => (BrokerError::Unavailable, true),
        _ => (BrokerError::Refused, false),
    };
    Err(Refusal { error, later })
}

/// A word on a subscribe by MQTT 3.1.1, which has one code for all refusals. Most brokers use it for what a client may not
/// read; a cluster without a leader says it too.
pub(super) const fn subscribe_v4(reason: u8) -> Result<(), Refusal> {
    match reason {
        ..0x80 => Ok(()),
        _ => Err(Refusal {
            error: BrokerError::NotAuthorized,
            later: true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_0x80_and_above_is_a_refusal_whether_known_or_not() {
        for reason in 0..=u8::MAX {
            for word in [publish(reason), subscribe(reason), subscribe_v4(reason)] {
                assert_eq!(word.is_err(), reason >= 0x80, "0x{reason:02X}");
            }
        }
        assert_eq!(
            publish(0x95).map_err(|refusal| refusal.error),
            Err(BrokerError::TooLarge)
        );
        assert_eq!(
            publish(0xF3).map_err(|refusal| refusal.error),
            Err(BrokerError::Refused)
        );
    }
}
