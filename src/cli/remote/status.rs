//! `status` and `drain`.

use serde_json::json;

use crate::admin::api::{DrainReport, GroupStatus, Restored, Spool, Status};
use crate::cli::exit::{Failure, UNAVAILABLE};
use crate::cli::output;

use super::args::{DrainArgs, StatusArgs};
use super::http::Api;
use super::table::{age, printable};

/// Prints how the gateway is; fails when it does not serve.
pub(in crate::cli) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let status: Status = Api::find(&args.remote)?.get("status")?;
    if args.remote.json {
        output::json(&json!(status))?;
    } else {
        output::print(&words(&status))?;
    }
    match &status.not_ready {
        Some(why) if !status.ready => Err(Failure::new(UNAVAILABLE, format!("not serving: {why}"))),
        _ => Ok(()),
    }
}

/// Has the gateway say goodbye to every device and end.
pub(in crate::cli) fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let report: DrainReport = Api::find(&args.remote)?.post("drain", &json!({}))?;
    if args.remote.json {
        return output::json(&json!(report));
    }
    output::print(&format!(
        "{} DTLS sessions hear goodbye, and the gateway ends.\n",
        report.sessions
    ))
}

/// A number of things, one or several.
fn counted(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// An amount of memory or disk in its unit.
pub(in crate::cli) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if amount < 1024 {
        return counted(amount, "byte");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut shown = amount as f64 / 1024.0;
    let mut unit = 0;
    while shown >= 1023.95 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).unwrap_or(&"");
    let text = format!("{shown:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

fn spooled(spool: &Spool) -> String {
    match (spool.failed, spool.capacity_bytes) {
        (true, _) => "failed: it accepts nothing more".to_owned(),
        (false, 0) => "off".to_owned(),
        (false, capacity) => format!(
            "{}, {} of {}, {} lost",
            counted(spool.messages, "message"),
            bytes(spool.bytes),
            bytes(capacity),
            spool.dropped
        ),
    }
}

/// What went on over the start, and what did not.
fn restored(restored: &Restored) -> String {
    let all = [
        ("DTLS sessions", &restored.sessions),
        ("observations", &restored.observations),
        ("notifications", &restored.notifications),
    ];
    let of = |wanted: bool| {
        let each = all
            .iter()
            .flat_map(|(what, results)| results.iter().map(move |it| (what, it)));
        let words = each.filter(|(_, (result, _))| (*result == "ok") == wanted);
        let words = words.map(|(what, (result, count))| match wanted {
            true => format!("{count} {what}"),
            false => format!("{count} {what} ({})", printable(result)),
        });
        words.collect::<Vec<_>>().join(", ")
    };
    let (goes_on, does_not) = (of(true), of(false));
    match (goes_on.is_empty(), does_not.is_empty()) {
        (true, true) => "nothing was there".to_owned(),
        (_, true) => goes_on,
        (true, false) => format!("not: {does_not}"),
        (false, false) => format!("{goes_on}; not: {does_not}"),
    }
}

/// Which node this is of its group, who else lives, and what is wrong.
fn grouped(group: &GroupStatus) -> String {
    let this = match group.node_id {
        Some(id) => format!("node {id}"),
        None => "no lease".to_owned(),
    };
    let nodes = group
        .nodes
        .iter()
        .map(|node| format!("{} ({}, {})", printable(&node.name), node.id, node.address));
    let nodes = match group.connected {
        true => format!(
            "of {}: {}",
            group.nodes.len(),
            nodes.collect::<Vec<_>>().join(", ")
        ),
        false => "the engine does not answer".to_owned(),
    };
    let fault = group
        .fault
        .as_deref()
        .map(|fault| format!("; {}", printable(fault)));
    format!("{this} {nodes}{}", fault.unwrap_or_default())
}

fn words(status: &Status) -> String {
    let serving = if status.ready {
        "serving".to_owned()
    } else {
        format!(
            "not serving: {}",
            status.not_ready.as_deref().unwrap_or("unknown")
        )
    };
    let sessions = &status.sessions;
    let streams = format!("{} TLS, {} TCP", sessions.tls, sessions.tcp);
    let broker = &status.broker;
    let fault = broker
        .fault
        .as_ref()
        .map(|fault| format!("; {}", printable(fault)))
        .unwrap_or_default();
    let mode = if status.connection_required {
        "connection mode"
    } else {
        "connectionless mode"
    };
    let facts = [
        ("node", status.node.clone()),
        ("state", serving),
        ("version", format!("{} with {}", status.version, status.openssl)),
        ("up", age(status.uptime_seconds)),
        (
            "workers",
            format!(
                "{}, {} serve",
                status.workers,
                counted(u64::try_from(status.listeners).unwrap_or_default(), "listener")
            ),
        ),
        (
            "sessions",
            format!(
                "{} DTLS ({} with CID, {} half-open), {} UDP, {streams}",
                sessions.dtls, sessions.dtls_cid, sessions.dtls_half_open, sessions.udp
            ),
        ),
        ("connections", format!("{} ({mode})", status.connections)),
        ("observations", status.subscriptions.to_string()),
        ("restored", restored(&status.restored)),
        ("broker", format!("{}{fault}", printable(&broker.state))),
        (
            "messages",
            format!("{} to the broker, {} from it", broker.sent, broker.received),
        ),
        ("spool", spooled(&broker.spool)),
        (
            "configuration",
            status
                .config_file
                .clone()
                .unwrap_or_else(|| "quick start".to_owned()),
        ),
    ];
    let logins = status.login_servers.iter().map(|server| {
        let whose = server.listener.as_deref().map(|name| format!(" of {name}"));
        let fault = server
            .fault
            .as_deref()
            .map_or_else(|| "answers".to_owned(), printable);
        (
            "logins",
            format!("{}{}: {fault}", server.backend, whose.unwrap_or_default()),
        )
    });
    let group = status.group.iter().map(|group| ("group", grouped(group)));
    facts
        .into_iter()
        .chain(logins)
        .chain(group)
        .map(|(name, value)| format!("{name:14}{value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_their_units_and_one_is_one() {
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(8 << 20), "8 MiB");
        assert_eq!(bytes((1 << 30) - 1), "1 GiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(
            (counted(1, "message"), counted(0, "message")),
            ("1 message".to_owned(), "0 messages".to_owned())
        );
    }
}
