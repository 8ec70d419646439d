//! Durations and sizes as people write them.

use std::fmt::Write as _;
use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads `30s`, `5m`, `24h`, `1h30m`, `500ms`.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as \"30s\", \"5m\" or \"1h30m\"".to_owned();
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or_else(wrong)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        if unit.trim().is_empty() {
            return Err(
                "the unit is missing: write \"30s\" for 30 seconds; ms, s, m, h and d are known".to_owned(),
            );
        }
        let factor = factor_of(&DURATION_UNITS, unit.trim()).ok_or_else(wrong)?;
        total = number
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| "this is too long a time".to_owned())?;
        rest = next.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// Reads `4MiB`, `256KiB`, `1GB`, `512`.
///
/// # Errors
/// What would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as \"512KiB\" or \"4MiB\"".to_owned();
    let (number, unit) = leading_number(text.trim()).ok_or_else(wrong)?;
    let factor = factor_of(&SIZE_UNITS, unit.trim()).ok_or_else(wrong)?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "this is too large".to_owned())
}

/// Writes a duration the way [`parse_duration`] reads it; what is below a millisecond is dropped.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS.iter().rev() {
        // "24h" is what the sample says; a day is only written when asked for.
        if *unit == "d" || millis < *factor {
            continue;
        }
        if write!(text, "{}{unit}", millis / factor).is_err() {
            break;
        }
        millis %= factor;
    }
    text
}

/// Writes a size the way [`parse_size`] reads it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS.iter().rev().take(3) {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

fn factor_of(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("500ms", 500),
            ("0s", 0),
            ("7d", 604_800_000),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5h",
            "30 sec",
            "30S",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("30").unwrap_err().contains("\"30s\""));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4MiB", 4 << 20),
            ("1GB", 1_000_000_000),
            ("0", 0),
            ("12 kB", 12_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for text in ["", "MiB", "4mib", "-1", "4 MiB 2", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
