//! Pre-shared keys: lines `identity:hexkey`, as in mosquitto's `psk_file`.

use super::named_lines::{LineError, NamedLines};

/// Longest key in bytes.
pub const MAX_KEY: usize = 64;

/// Reads the content of a file of pre-shared keys.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(content: &[u8]) -> Result<NamedLines, Vec<LineError>> {
    NamedLines::parse(content, check_key)
}

/// Whether `hex` is a key: 1 to [`MAX_KEY`] bytes in hexadecimal digits.
///
/// # Errors
/// What is wrong with it, without the key.
pub fn check_key(hex: &str) -> Result<(), String> {
    if hex.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if let Some(at) = hex.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(format!(
            "the key is not hexadecimal: its character {} is none of 0-9 and a-f",
            at + 1
        ));
    }
    if !hex.len().is_multiple_of(2) {
        return Err(format!(
            "the key has {} hexadecimal digits: two make a byte, so the number must be even",
            hex.len()
        ));
    }
    if hex.len() / 2 > MAX_KEY {
        return Err(format!(
            "the key has {} bytes, at most {MAX_KEY} are allowed",
            hex.len() / 2
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hexadecimal_bytes() {
        assert_eq!(check_key("00ffAB"), Ok(()));
        assert_eq!(check_key(&"ab".repeat(64)), Ok(()));
        for bad in ["", "abc", "0g", "0x00", &"ab".repeat(65)] {
            let message = check_key(bad).unwrap_err();
            assert!(bad.is_empty() || !message.contains(bad), "{message}");
        }
    }
}
