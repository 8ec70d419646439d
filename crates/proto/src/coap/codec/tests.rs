//! The codec by itself, and against coap-lite, which reads and writes the same format in a way of its own.

use coap_lite::{CoapOption, MessageClass, MessageType as WireType, Packet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn verdict(datagram: &[u8]) -> (DropReason, bool) {
    let malformed = Message::parse(datagram).unwrap_err();
    (malformed.reason, malformed.reset.is_some())
}

#[test]
fn a_confirmable_message_that_is_none_is_reset_and_others_are_silent() {
    assert_eq!(verdict(&[]), (DropReason::EmptyDatagram, false));
    assert_eq!(verdict(&[0x40, 1, 0]), (DropReason::Malformed, false));
    assert_eq!(verdict(&[0x00, 1, 0, 1]), (DropReason::Version, false));
    assert_eq!(verdict(&[0x80, 1, 0, 1]), (DropReason::Version, false));
    for tkl in 9..=15 {
        let mut datagram = vec![0x40 | tkl, 1, 0, 1];
        datagram.extend([0; 15]);
        assert_eq!(verdict(&datagram), (DropReason::Malformed, true));
        datagram[0] |= 0x10;
        assert_eq!(verdict(&datagram), (DropReason::Malformed, false));
    }
    assert_eq!(
        verdict(&[0x42, 1, 0, 1, 9]),
        (DropReason::Malformed, true),
        "token"
    );
    assert_eq!(
        verdict(&[0x40, 1, 0, 1, 0xb5, b'p']),
        (DropReason::Malformed, true),
        "option"
    );
    assert_eq!(
        verdict(&[0x40, 1, 0, 1, 0xf0, 0]),
        (DropReason::Malformed, true),
        "delta 15"
    );
    assert_eq!(
        verdict(&[0x40, 1, 0, 1, 0x1f, 0]),
        (DropReason::Malformed, true),
        "length 15"
    );
    for class in [1, 3, 6, 7] {
        assert_eq!(
            verdict(&[0x40, class << 5 | 1, 0, 1]),
            (DropReason::ReservedCode, true)
        );
        assert_eq!(
            verdict(&[0x50, class << 5 | 1, 0, 1]),
            (DropReason::ReservedCode, false)
        );
        assert_eq!(
            verdict(&[0x60, class << 5 | 1, 0, 1]),
            (DropReason::ReservedCode, false)
        );
    }
}

#[test]
fn empty_messages_carry_nothing() {
    assert_eq!(verdict(&[0x41, 0, 0, 1, 9]), (DropReason::Malformed, true));
    assert_eq!(verdict(&[0x40, 0, 0, 1, 0xff, 9]), (DropReason::Malformed, true));
    assert_eq!(verdict(&[0x50, 0, 0, 1]), (DropReason::Malformed, false));
    assert_eq!(verdict(&[0x70, 0x45, 0, 1]), (DropReason::Malformed, false));
    assert_eq!(verdict(&[0x60, 0x01, 0, 1]), (DropReason::Malformed, false));
    assert!(Message::parse(&[0x40, 0, 0, 1]).is_ok());
}

#[test]
fn a_marker_without_payload_is_an_error_but_an_option_may_end_in_its_byte() {
    assert_eq!(verdict(&[0x40, 1, 0, 1, 0xff]), (DropReason::Malformed, true));
    assert_eq!(
        verdict(&[0x40, 1, 0, 1, 0xb1, 0xff, 0xff]),
        (DropReason::Malformed, true)
    );
    assert!(Message::parse(&[0x40, 1, 0, 1, 0xb1, 0xff]).is_ok());
    assert!(Message::parse(&[0x41, 1, 0, 1, 0xff]).is_ok(), "a token");
}

#[test]
fn numbers_take_as_few_bytes_as_they_need() {
    let written = |value| {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, MessageType::Con, Code::GET, 1, Token::default());
        writer.uint(60, value);
        out.split_off(HEADER)
    };
    assert!(written(None).is_empty());
    assert_eq!(written(Some(0)), [0xd0, 47]);
    assert_eq!(written(Some(255)), [0xd1, 47, 255]);
    assert_eq!(written(Some(256)), [0xd2, 47, 1, 0]);
    assert_eq!(written(Some(0x0100_0000)), [0xd4, 47, 1, 0, 0, 0]);
}

#[test]
fn option_numbers_do_not_wrap() {
    let mut datagram = vec![0x40, 1, 0, 1];
    datagram.extend([0xe0, 0x80, 0x00, 0xe0, 0x80, 0x00]);
    assert!(Message::parse(&datagram).is_err());
    assert!(Message::parse(&datagram[..7]).is_ok());
}

/// What coap-lite makes of a datagram: it takes no offence at what the message means, and reads a marker at the end as no payload.
fn oracle(datagram: &[u8]) -> Option<Packet> {
    let packet = Packet::from_bytes(datagram).ok()?;
    let lone_marker = packet.payload.is_empty()
        && datagram.last() == Some(&MARKER)
        && packet
            .to_bytes_unlimited()
            .is_ok_and(|encoded| encoded.len() != datagram.len());
    (!lone_marker).then_some(packet)
}

fn options_of(packet: &Packet) -> Vec<(u16, Vec<u8>)> {
    let options = packet.options();
    options
        .flat_map(|(number, values)| values.iter().map(|value| (*number, value.clone())))
        .collect()
}

fn random_packet(rng: &mut StdRng) -> Packet {
    let mut packet = Packet::new();
    packet.header.set_type(match rng.random_range(0..3) {
        0 => WireType::Confirmable,
        1 => WireType::NonConfirmable,
        _ => WireType::Acknowledgement,
    });
    packet.header.code = MessageClass::from(rng.random_range(0x40..0xb0));
    packet.header.message_id = rng.random();
    let mut bytes = |longest: usize| -> Vec<u8> {
        let len = rng.random_range(0..=longest);
        (0..len).map(|_| rng.random()).collect()
    };
    packet.set_token(bytes(8));
    packet.payload = bytes(40);
    for _ in 0..4 {
        let (short, long) = (bytes(14), bytes(700));
        let number = u16::from_be_bytes([bytes(1).first().copied().unwrap_or(0) & 3, 7]);
        packet.add_option(CoapOption::from(number), if number < 256 { short } else { long });
    }
    packet
}

#[test]
fn what_coap_lite_writes_is_read_and_written_again_byte_for_byte() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..5_000 {
        let packet = random_packet(&mut rng);
        let datagram = packet.to_bytes_unlimited().unwrap();
        let Ok(message) = Message::parse(&datagram) else {
            assert!(
                matches!(packet.header.code, MessageClass::Reserved(_)),
                "{datagram:02x?}"
            );
            continue;
        };
        let options: Vec<_> = message.options().map(|(n, value)| (n, value.to_vec())).collect();
        assert_eq!(options, options_of(&packet));
        assert_eq!(
            (message.token.as_bytes(), message.payload),
            (packet.get_token(), &packet.payload[..])
        );
        let mut again = vec![9; 3];
        let mut writer = Writer::new(&mut again, message.kind, message.code, message.mid, message.token);
        for (number, value) in message.options() {
            writer.option(number, value);
        }
        writer.payload(message.payload);
        assert_eq!(again.split_off(3), datagram);
    }
}

#[test]
fn whatever_arrives_is_read_as_coap_lite_reads_it_or_by_neither() {
    let mut rng = StdRng::seed_from_u64(4);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4_000 {
        let mut datagram = random_packet(&mut rng).to_bytes_unlimited().unwrap();
        datagram.truncate(rng.random_range(0..datagram.len() + 20));
        for _ in 0..rng.random_range(0..4) {
            if let Some(at) = (!datagram.is_empty()).then(|| rng.random_range(0..datagram.len())) {
                datagram[at] = rng.random();
            }
        }
        let packet = oracle(&datagram);
        match Message::parse(&datagram) {
            Ok(message) => {
                good += 1;
                let packet = packet.unwrap();
                let options: Vec<_> = message.options().map(|(n, value)| (n, value.to_vec())).collect();
                assert_eq!(options, options_of(&packet), "{datagram:02x?}");
                assert_eq!(message.token.as_bytes(), packet.get_token());
                assert_eq!(
                    (message.mid, message.payload),
                    (packet.header.message_id, &packet.payload[..])
                );
            }
            Err(Malformed {
                reason: DropReason::Malformed,
                ..
            }) => {
                bad += 1;
                let meaningless = packet.is_some_and(|packet| {
                    let code = Code(u8::from(packet.header.code));
                    let kind = type_of(datagram[0]);
                    code != Code::EMPTY
                        && match kind {
                            MessageType::Con | MessageType::Non => true,
                            MessageType::Ack => code.is_response(),
                            MessageType::Rst => false,
                        }
                });
                assert!(!meaningless, "{datagram:02x?}");
            }
            Err(_) => {}
        }
    }
    assert!(good > 400 && bad > 400, "{good} {bad}");
}
