//! Text as MQTT takes it (MQTT 5, 1.5.4).

/// The first code point of `text` that MQTT says not to send: a control character (U+0000 to U+001F, U+007F to U+009F) or
/// a non-character (U+FDD0 to U+FDEF, and the last two of every plane). Brokers may end the connection that brings one, and
/// with it everybody's.
#[must_use]
pub fn unsendable(text: &str) -> Option<char> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~');
    if text.bytes().all(plain) {
        return None;
    }
    text.chars().find(|c| c.is_control() || is_noncharacter(*c))
}

fn is_noncharacter(c: char) -> bool {
    let point = u32::from(c);
    matches!(point, 0xFDD0..=0xFDEF) || point & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_noncharacters_of_every_plane_are_unsendable() {
        let planes = (0..=0x10).flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF]);
        let all: std::collections::BTreeSet<u32> = (0..=0x1F)
            .chain(0x7F..=0x9F)
            .chain(0xFDD0..=0xFDEF)
            .chain(planes)
            .collect();
        for point in 0..=0x0010_FFFF {
            let Some(c) = char::from_u32(point) else { continue };
            let wanted = all.contains(&point).then_some(c);
            assert_eq!(unsendable(&format!("a{c}ä")), wanted, "U+{point:04X}");
        }
    }
}
