//! `trace`: what a device sends and gets, until stopped.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::json;

use crate::admin::api::{TraceEvent, TraceMessage};
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::TraceArgs;
use super::http::Api;
use super::table::printable;

/// Without `--for` a trace goes on for a day.
const LONGEST: u64 = 86_400;

pub(in crate::cli) fn run(args: &TraceArgs) -> Result<(), Failure> {
    let api = Api::find(&args.remote)?;
    let seconds = args.seconds.unwrap_or(LONGEST);
    let wanted = json!({
        "target": args.target,
        "payload": if args.no_payload { 0 } else { args.payload },
        "seconds": seconds,
    });
    let json = args.remote.json;
    let colour = !json && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let begun = || {
        if !json {
            let until = match args.seconds {
                Some(seconds) => format!("for {seconds} s"),
                None => "until Ctrl-C".to_owned(),
            };
            let target = printable(&args.target);
            output::note(&format!(
                "Tracing {target} at {} {until}. Times are UTC.",
                api.address()
            ));
        }
    };
    let time = args.seconds.map(Duration::from_secs);
    api.follow("trace", Some(&wanted), time, begun, |line| {
        if json {
            return output::stream(&format!("{}\n", output::harmless(line)));
        }
        match serde_json::from_str::<TraceEvent>(line) {
            Ok(event) => output::stream(&format!("{}\n", show(&event, colour))),
            // A newer gateway may tell more than this command knows.
            Err(_) => output::stream(&format!("{}\n", printable(line))),
        }
    })
}

/// How an event is set off: an SGR parameter.
#[derive(Clone, Copy)]
enum Colour {
    Received,
    Sent,
    Good,
    Bad,
    Plain,
}

impl Colour {
    const fn code(self) -> Option<u8> {
        match self {
            Self::Received => Some(36),
            Self::Sent => Some(35),
            Self::Good => Some(32),
            Self::Bad => Some(31),
            Self::Plain => None,
        }
    }
}

fn show(event: &TraceEvent, colour: bool) -> String {
    // Of `2026-11-22T12:34:56.789Z` the time of day.
    let time = event.time.get(11..23).unwrap_or(&event.time);
    let (text, how) = words(event);
    let who = event.clientid.as_ref().or(event.identity.as_ref());
    let who = who.map(|who| format!(" {}", printable(who))).unwrap_or_default();
    let place = if event.address.is_empty() {
        String::new()
    } else {
        format!(" {}:{} {}{who}", event.transport, event.listener, event.address)
    };
    match how.code().filter(|_| colour) {
        Some(code) => format!("{time}{place}  \x1b[{code}m{text}\x1b[0m"),
        None => format!("{time}{place}  {text}"),
    }
}

fn words(event: &TraceEvent) -> (String, Colour) {
    let reason = event.reason.as_deref().unwrap_or("?");
    match event.event.as_str() {
        "received" => match (&event.message, &event.reason) {
            (Some(message), Some(reason)) => {
                (format!("--> {}  DROPPED: {reason}", line(message)), Colour::Bad)
            }
            (Some(message), None) => (format!("--> {}", line(message)), Colour::Received),
            (None, _) => ("-->".to_owned(), Colour::Received),
        },
        "sent" => match (&event.message, &event.reason) {
            (Some(message), Some(reason)) => (
                format!("<-- {}  {}", line(message), reason.replace('_', " ")),
                Colour::Bad,
            ),
            (Some(message), None) => (format!("<-- {}", line(message)), Colour::Sent),
            (None, _) => ("<--".to_owned(), Colour::Sent),
        },
        "datagram" => {
            let bytes = event.bytes.unwrap_or_default();
            (format!("--> {bytes} bytes  DROPPED: {reason}"), Colour::Bad)
        }
        "hello" => ("--- handshake begins".to_owned(), Colour::Plain),
        "established" => (established(event), Colour::Good),
        "handshake_failed" => {
            let seconds = event.seconds.unwrap_or_default();
            (
                format!("--- handshake FAILED: {reason} after {seconds:.3} s"),
                Colour::Bad,
            )
        }
        "alert_sent" => (format!("<-- alert {reason}"), Colour::Plain),
        "alert_received" => (format!("--> alert {reason}"), Colour::Plain),
        "record_dropped" => (format!("--> DTLS record  DROPPED: {reason}"), Colour::Bad),
        "moved" => ("--- moved to this address".to_owned(), Colour::Plain),
        "closed" => (format!("--- session ended: {reason}"), Colour::Plain),
        "acl" => acl(event),
        "broker_asked" => (
            format!("==> MQTT {} {}", action(event), carried(event)),
            Colour::Sent,
        ),
        "broker_answered" => answered(event),
        "broker_message" => (format!("<== MQTT message {}", carried(event)), Colour::Received),
        "lost" => {
            let count = event.count.unwrap_or_default();
            (
                format!("... {count} events are missing: it went too fast"),
                Colour::Bad,
            )
        }
        other => (format!("--- {}", printable(other)), Colour::Plain),
    }
}

fn action(event: &TraceEvent) -> &str {
    event.action.as_deref().unwrap_or("?")
}

fn topic(event: &TraceEvent) -> String {
    printable(event.topic.as_deref().unwrap_or("?"))
}

fn acl(event: &TraceEvent) -> (String, Colour) {
    let rule = event.rule.as_deref().unwrap_or("?");
    let colour = if event.allowed == Some(true) {
        Colour::Plain
    } else {
        Colour::Bad
    };
    (
        format!("--- ACL: {} {} {}", action(event), topic(event), printable(rule)),
        colour,
    )
}

/// Topic, QoS, retain flag and length on the MQTT side.
fn carried(event: &TraceEvent) -> String {
    let retain = if event.retain == Some(true) { " retain" } else { "" };
    let bytes = match event.bytes {
        None | Some(0) => String::new(),
        Some(bytes) => format!(", {bytes} bytes"),
    };
    format!(
        "{} qos={}{retain}{bytes}",
        topic(event),
        event.qos.unwrap_or_default()
    )
}

fn answered(event: &TraceEvent) -> (String, Colour) {
    let millis = event.seconds.unwrap_or_default() * 1e3;
    let (action, topic) = (action(event), topic(event));
    match event.reason.as_deref() {
        Some("ok") => (
            format!("<== MQTT {action} {topic} ok after {millis:.3} ms"),
            Colour::Good,
        ),
        why => {
            let why = printable(why.unwrap_or("?"));
            (
                format!("<== MQTT {action} {topic} REFUSED: {why} after {millis:.3} ms"),
                Colour::Bad,
            )
        }
    }
}

fn established(event: &TraceEvent) -> String {
    let Some(session) = &event.session else {
        return "--- handshake ok".to_owned();
    };
    let resumed = if session.resumed { ", resumed" } else { "" };
    let cid = if session.cid { ", Connection ID" } else { "" };
    format!("--- handshake ok: {}{resumed}{cid}", session.cipher)
}

fn line(message: &TraceMessage) -> String {
    let mut text = message.kind.to_uppercase();
    if message.code != "Empty" {
        text.push_str(&format!(" {}", message.code));
    }
    text.push_str(&format!(" mid={}", message.mid));
    if !message.token.is_empty() {
        text.push_str(&format!(" token={}", message.token));
    }
    if !message.path.is_empty() || !message.query.is_empty() {
        text.push_str(&format!(" {}", printable(&message.path)));
        for (index, parameter) in message.query.iter().enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            text.push_str(&format!("{mark}{}", printable(parameter)));
        }
    }
    for option in &message.options {
        text.push_str(&format!(" {}={}", option.name, printable(&option.value)));
    }
    if message.payload_length > 0 {
        text.push_str(&format!(", {} bytes", message.payload_length));
    }
    text.push_str(&payload(message));
    text
}

fn payload(message: &TraceMessage) -> String {
    if message.payload_secret {
        return " ***".to_owned();
    }
    let more = |shown: usize| if shown < message.payload_length { "..." } else { "" };
    match (&message.payload, &message.payload_hex) {
        (Some(text), _) => format!(" \"{}\"{}", printable(text), more(text.len())),
        (None, Some(digits)) => format!(" 0x{}{}", printable(digits), more(digits.len() / 2)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: serde_json::Value) -> TraceEvent {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_message_is_one_line_and_cannot_move_the_cursor() {
        let event = event(json!({
            "time": "2026-11-22T12:34:56.789Z", "event": "received", "listener": "default", "transport": "udp",
            "address": "127.0.0.1:5000", "clientid": "a\u{1b}[2J",
            "message": {"type": "con", "code": "POST", "mid": 7, "token": "aabb", "path": "/ps/t", "query": ["c=a", "token=***"],
                        "options": [{"name": "Content-Format", "value": "text/plain"}],
                        "payload_length": 9, "payload": "hi\nthere"}
        }));
        assert_eq!(
            show(&event, false),
            "12:34:56.789 udp:default 127.0.0.1:5000 a\\u{1b}[2J  --> CON POST mid=7 token=aabb /ps/t?c=a&token=*** \
             Content-Format=text/plain, 9 bytes \"hi\\nthere\"..."
        );
        assert!(show(&event, true).contains("\x1b[36m-->"));
    }

    #[test]
    fn the_mqtt_side_and_the_deciding_line_are_said() {
        let told = |json| show(&event(json), false);
        let acl = json!({"time": "", "event": "acl", "action": "publish", "topic": "a/b", "allowed": false,
                         "rule": "denied by line 3 of the ACL file"});
        assert!(told(acl).ends_with("--- ACL: publish a/b denied by line 3 of the ACL file"));
        let asked = json!({"time": "", "event": "broker_asked", "action": "publish", "topic": "m/a", "qos": 1, "retain": true, "bytes": 4});
        assert!(told(asked).ends_with("==> MQTT publish m/a qos=1 retain, 4 bytes"));
        let answer = |reason| {
            told(
                json!({"time": "", "event": "broker_answered", "action": "publish", "topic": "m/a", "reason": reason, "seconds": 0.0015}),
            )
        };
        assert!(answer("ok").ends_with("<== MQTT publish m/a ok after 1.500 ms"));
        assert!(answer("quota").ends_with("<== MQTT publish m/a REFUSED: quota after 1.500 ms"));
        let message = json!({"time": "", "event": "broker_message", "topic": "x", "qos": 0, "retain": false, "bytes": 1});
        assert!(told(message).ends_with("<== MQTT message x qos=0, 1 bytes"));
    }

    #[test]
    fn what_went_wrong_is_said() {
        let failed =
            event(json!({"time": "", "event": "handshake_failed", "reason": "wrong_key", "seconds": 3.0}));
        assert!(show(&failed, false).contains("handshake FAILED: wrong_key after 3.000 s"));
        let datagram = event(json!({"time": "", "event": "datagram", "reason": "version", "bytes": 5}));
        assert!(show(&datagram, false).contains("5 bytes  DROPPED: version"));
        let lost = event(json!({"time": "", "event": "lost", "count": 3}));
        assert!(show(&lost, false).contains("3 events are missing"));
    }
}
