//! When something that is made now ends: at a time, after a time, or never.

use std::time::SystemTime;

use portcullis_config::quantity::parse_duration;

use super::error::ApiError;

/// The end that the members `until` (RFC 3339) and `for` (a duration) give, of which one may be there; `None` never.
pub(super) fn end(
    until: Option<&str>,
    lasts: Option<&str>,
    now: SystemTime,
) -> Result<Option<SystemTime>, ApiError> {
    let end = match (until, lasts) {
        (None, None) => return Ok(None),
        (Some(until), None) => humantime::parse_rfc3339(until)
            .map_err(|_| ApiError::bad_request("until: expected a time such as 2027-01-31T00:00:00Z"))?,
        (None, Some(lasts)) => {
            let lasts = parse_duration(lasts).map_err(|why| ApiError::bad_request(format!("for: {why}")))?;
            now.checked_add(lasts)
                .ok_or_else(|| ApiError::bad_request("for: this is too long a time"))?
        }
        (Some(_), Some(_)) => return Err(ApiError::bad_request("until and for exclude each other")),
    };
    if end <= now {
        return Err(ApiError::bad_request("it would be over already"));
    }
    Ok(Some(end))
}

/// A time as it is shown and taken: RFC 3339, in UTC.
pub(super) fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
