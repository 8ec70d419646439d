//! Any bytes against the CoAP codec, with coap-lite as oracle: both read the same message or neither does, and what was read is
//! written again byte for byte.

use coap_lite::Packet;
use portcullis::coap::codec::{Malformed, Message, Writer};
use portcullis::coap::contract::Code;
use portcullis::types::reason::DropReason;

/// What coap-lite makes of a datagram. It reads a payload marker at the end as no payload, where RFC 7252, 3 has an error.
fn oracle(datagram: &[u8]) -> Option<Packet> {
    let packet = Packet::from_bytes(datagram).ok()?;
    let lone_marker = packet.payload.is_empty()
        && datagram.last() == Some(&0xff)
        && packet
            .to_bytes_unlimited()
            .is_ok_and(|encoded| encoded.len() != datagram.len());
    (!lone_marker).then_some(packet)
}

/// Whether a message of this type and code says anything (RFC 7252, 4.2 and 4.3), which coap-lite does not ask.
fn is_meaningful(first: u8, code: Code) -> bool {
    match first >> 4 & 3 {
        0 | 1 => code.is_request() || code.is_response(),
        2 => code.is_response(),
        _ => false,
    }
}

pub(crate) fn run(datagram: &[u8]) {
    let packet = oracle(datagram);
    match Message::parse(datagram) {
        Ok(message) => {
            let packet = packet.expect("coap-lite reads it too");
            let ours: Vec<_> = message
                .options()
                .map(|(number, value)| (number, value.to_vec()))
                .collect();
            let theirs: Vec<_> = packet
                .options()
                .flat_map(|(number, values)| values.iter().map(|value| (*number, value.clone())))
                .collect();
            assert_eq!(ours, theirs);
            assert_eq!(message.mid, packet.header.message_id);
            assert_eq!(message.code.0, u8::from(packet.header.code));
            assert_eq!(message.token.as_bytes(), packet.get_token());
            assert_eq!(message.payload, packet.payload);
            let mut again = Vec::new();
            let mut writer = Writer::new(&mut again, message.kind, message.code, message.mid, message.token);
            for (number, value) in message.options() {
                writer.option(number, value);
            }
            writer.payload(message.payload);
            assert_eq!(
                Message::parse(&again).map(|it| it.options().count()),
                Ok(ours.len())
            );
            assert_eq!(Some(again), packet.to_bytes_unlimited().ok());
        }
        Err(Malformed {
            reason: DropReason::Malformed,
            ..
        }) => {
            if let (Some(packet), [first, ..]) = (packet, datagram) {
                assert!(!is_meaningful(*first, Code(packet.header.code.into())));
            }
        }
        Err(_) => {}
    }
}
