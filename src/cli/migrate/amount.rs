//! Durations and sizes as EMQX has them.

use std::time::Duration;

/// `30s`, `1h30m`, `1w`, or a number of milliseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim().to_ascii_lowercase();
    if let Ok(millis) = text.parse() {
        return Some(Duration::from_millis(millis));
    }
    let mut rest = text.as_str();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match rest.get(..end)?.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return None,
        };
        total = number
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))?;
        rest = rest.get(end..)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// `4MB`, whose M is 1024 times 1024, or a number of bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "b" => 1,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_mean_what_they_mean_there() {
        let millis = |text| duration(text).map(|time| time.as_millis());
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("1500"), Some(1_500));
        assert_eq!(millis("2W"), Some(1_209_600_000));
        for bad in ["", "s", "30x", "-1s", "infinity", "99999999999999999999s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(size("4MB"), Some(4 << 20));
        assert_eq!(size("512"), Some(512));
        for bad in ["", "MB", "1TB", "99999999999999GB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
