//! Bytes of a stream: no input panics, nothing is reserved for what is only announced, what is taken comes back as it was, and signalling
//! messages are read or refused.

use bytes::BytesMut;
use portcullis::stream::{frame, signal};

const MOST: usize = 4096;

pub(crate) fn run(data: &[u8]) {
    let mut bytes = BytesMut::from(data);
    let mut again = Vec::new();
    while let Ok(Some(mut message)) = frame::take(&mut bytes, MOST) {
        assert!(message.len() <= MOST + 4);
        frame::write(&message, &mut again);
        let mut rest = BytesMut::from(&again[..]);
        let mut last = None;
        while let Ok(Some(taken)) = frame::take(&mut rest, usize::MAX) {
            last = Some(taken);
        }
        assert_eq!(last.as_ref(), Some(&message), "it comes back as it was");
        again.clear();
        if message.get(1).is_some_and(|code| signal::is_signal(*code)) {
            let _read = signal::read(&mut message);
        }
    }
    assert!(bytes.len() <= data.len());
}
