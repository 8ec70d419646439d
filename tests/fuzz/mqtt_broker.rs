//! Whatever a broker sends, in whatever pieces: no panic, and nothing under way that was not sent.

use portcullis_broker::{Protocol, feed_mqtt};

/// The first byte says which protocol, and how long the pieces are in which the rest comes.
pub(crate) fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let version = if first & 1 == 0 {
        Protocol::V5
    } else {
        Protocol::V4
    };
    let pieces: Vec<&[u8]> = rest.chunks(1 + usize::from(first >> 1)).collect();
    feed_mqtt(std::time::Instant::now(), version, &pieces);
}
