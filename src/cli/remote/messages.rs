//! `pub` and `sub`.

use std::io::Read as _;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use serde_json::json;

use crate::admin::api::MessageView;
use crate::cli::exit::{DATA_ERROR, Failure, IO_ERROR};
use crate::cli::output;

use super::args::{PubArgs, SubArgs};
use super::http::{Api, encode};
use super::table::printable;

/// Longest payload that is read from standard input.
const MAX_PAYLOAD: u64 = 64 << 20;

pub(in crate::cli) fn publish(args: &PubArgs) -> Result<(), Failure> {
    let payload = match &args.payload {
        Some(text) => text.clone().into_bytes(),
        None => from_stdin()?,
    };
    let message = json!({
        "topic": args.topic,
        "payload_base64": Base64::encode_string(&payload),
        "qos": args.qos,
        "retain": args.retain,
        "content_type": args.content_type,
        "expiry": args.expiry,
    });
    Api::find(&args.remote)?.order("publish", &message)?;
    if args.remote.json {
        return output::json(&json!({ "published": args.topic }));
    }
    Ok(())
}

fn from_stdin() -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_PAYLOAD + 1);
    input
        .read_to_end(&mut payload)
        .map_err(|error| Failure::new(IO_ERROR, format!("cannot read standard input: {error}")))?;
    if u64::try_from(payload.len()).unwrap_or(u64::MAX) > MAX_PAYLOAD {
        return Err(Failure::new(
            DATA_ERROR,
            "standard input is too long for a message",
        ));
    }
    Ok(payload)
}

pub(in crate::cli) fn listen(args: &SubArgs) -> Result<(), Failure> {
    let api = Api::find(&args.remote)?;
    let path = format!("messages?qos={}&topic={}", args.qos, encode(&args.filter));
    let begun = || {
        if !args.remote.json {
            output::note(&format!("Listening to {}.", printable(&args.filter)));
        }
    };
    let mut left = args.count.unwrap_or(u64::MAX);
    let time = args.seconds.map(Duration::from_secs);
    api.follow(&path, None, time, begun, |line| {
        let Some(data) = line.strip_prefix("data: ") else {
            return output::stream("");
        };
        left -= 1;
        let is_read = if args.remote.json {
            output::stream(&format!("{}\n", output::harmless(data)))?
        } else {
            let message = serde_json::from_str::<MessageView>(data);
            let text = message.map_or_else(|_| printable(data), |message| words(&message));
            output::stream(&format!("{text}\n"))?
        };
        Ok(is_read && left > 0)
    })
}

/// A message as one line: topic, then payload.
fn words(message: &MessageView) -> String {
    let retained = if message.retain { " (retained)" } else { "" };
    let payload = message.payload.as_deref().map_or_else(
        || {
            let bytes = Base64::decode_vec(&message.payload_base64).unwrap_or_default();
            format!("0x{}", hex::encode(bytes))
        },
        printable,
    );
    format!("{}{retained} {payload}", printable(&message.topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        let message = |value| words(&serde_json::from_value(value).unwrap());
        assert_eq!(
            message(
                json!({"topic": "a/b", "payload": "x\n\u{1b}[2J", "payload_base64": "", "qos": 0, "retain": true})
            ),
            "a/b (retained) x\\n\\u{1b}[2J"
        );
        assert_eq!(
            message(json!({"topic": "a", "payload_base64": "AP8=", "qos": 1, "retain": false})),
            "a 0x00ff"
        );
    }
}
