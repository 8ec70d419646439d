//! `clients list`, `show`, `kick`, `watch`.

use serde_json::json;

use crate::admin::api::{Client, ClientDetail, ClientPage, ClientTraffic};
use crate::admin::events::Event;
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::{ClientsCommand, Remote, Which};
use super::http::{Api, encode};
use super::table::{age, printable, table};

/// Clients that are asked for at once: as many as may be, since each page takes the gateway a walk from the first client on.
const PAGE: usize = 10_000;

pub(in crate::cli) fn run(command: &ClientsCommand) -> Result<(), Failure> {
    match command {
        ClientsCommand::List { which, limit, remote } => list(which, *limit, remote),
        ClientsCommand::Show { client, remote } => show(client, remote),
        ClientsCommand::Kick { client, remote } => kick(client, remote),
        ClientsCommand::Watch {
            client,
            listener,
            kind,
            last,
            remote,
        } => {
            let mut path = format!("events?last={last}");
            for (name, value) in [("client", client), ("listener", listener), ("kind", kind)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", encode(value)));
                }
            }
            watch(&path, remote)
        }
    }
}

fn list(which: &Which, limit: Option<usize>, remote: &Remote) -> Result<(), Failure> {
    let clients = fetch(&Api::find(remote)?, which, limit)?;
    if remote.json {
        return output::json(&json!(clients));
    }
    let mut rows: Vec<Vec<String>> = clients.iter().map(row).collect();
    let mut headings = vec![
        "CLIENT", "IDENTITY", "LISTENER", "ADDRESS", "CIPHER", "CID", "AGE", "IDLE", "OBS", "RETR",
    ];
    // Of a group the node comes last, so that the others stand where they do without.
    if clients.iter().any(|client| client.node.is_some()) {
        headings.push("NODE");
        for (row, client) in rows.iter_mut().zip(&clients) {
            row.push(client.node.as_deref().map_or_else(|| "-".to_owned(), printable));
        }
    }
    output::print(&table(&headings, &[6, 7, 8, 9], &rows))
}

/// All that fit, page by page; or the first so many.
fn fetch(api: &Api, which: &Which, limit: Option<usize>) -> Result<Vec<Client>, Failure> {
    let mut filter = String::new();
    for (name, value) in [
        ("like_clientid", &which.like),
        ("username", &which.username),
        ("listener", &which.listener),
        ("transport", &which.transport),
    ] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    let wanted = limit.unwrap_or(usize::MAX);
    let size = wanted.clamp(1, PAGE);
    let mut clients = Vec::new();
    for page in 1.. {
        let answer: ClientPage = api.get(&format!("clients?page={page}&limit={size}{filter}"))?;
        clients.extend(answer.data);
        for node in &answer.unreachable {
            output::note(&format!("portcullis: clients are missing: {}", printable(node)));
        }
        if !answer.meta.hasnext || clients.len() >= wanted {
            break;
        }
    }
    clients.truncate(wanted);
    Ok(clients)
}

fn row(client: &Client) -> Vec<String> {
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), printable);
    let identity = client.identity.as_ref();
    let dtls = client.dtls.as_ref();
    vec![
        or_dash(client.clientid.as_deref()),
        or_dash(identity.map(|identity| identity.name.as_str())),
        format!("{}:{}", client.transport, client.listener),
        client.address.clone().unwrap_or_else(|| "away".to_owned()),
        or_dash(dtls.map(|dtls| dtls.cipher.trim_start_matches("TLS_"))),
        or_dash(dtls.map(|dtls| if dtls.cid { "yes" } else { "no" })),
        age(client.age_seconds),
        age(client.idle_seconds),
        client.subscriptions.to_string(),
        client.retransmissions.to_string(),
    ]
}

fn show(client: &str, remote: &Remote) -> Result<(), Failure> {
    let detail: ClientDetail = Api::find(remote)?.get(&format!("clients/{}", encode(client)))?;
    if remote.json {
        return output::json(&json!(detail));
    }
    let own = &detail.client;
    let mut facts = vec![
        ("client", printable(client)),
        ("listener", format!("{}:{}", own.transport, own.listener)),
        (
            "address",
            own.address.clone().unwrap_or_else(|| "away".to_owned()),
        ),
        (
            "mode",
            if own.connection {
                "connection"
            } else {
                "connectionless"
            }
            .to_owned(),
        ),
    ];
    if let Some(node) = &own.node {
        facts.push(("node", printable(node)));
    }
    if let Some(name) = &own.username {
        facts.push(("user name", printable(name)));
    }
    if let Some(identity) = &own.identity {
        facts.push((
            "identity",
            format!("{} ({})", printable(&identity.name), identity.proof),
        ));
    }
    if !own.attributes.is_empty() {
        let each = own.attributes.iter();
        let each: Vec<_> = each
            .map(|(name, value)| format!("{name}={}", printable(value)))
            .collect();
        facts.push(("attributes", each.join(" ")));
    }
    if let Some(dtls) = &own.dtls {
        facts.push(("cipher", dtls.cipher.clone()));
        facts.push((
            "connection ID",
            if dtls.cid { "yes (RFC 9146)" } else { "no" }.to_owned(),
        ));
        let resumed = if dtls.resumed { ", resumed" } else { "" };
        facts.push(("handshake", format!("{} ago{resumed}", age(dtls.age_seconds))));
    }
    let lifetime = own.lifetime_seconds.map(age);
    let promise = lifetime.map_or_else(String::new, |lifetime| format!(", sleeps up to {lifetime}"));
    facts.push(("state", format!("{}{promise}", own.state)));
    facts.push(("first seen", format!("{} ago", age(own.age_seconds))));
    facts.push(("heard of", format!("{} ago", age(own.idle_seconds))));
    facts.push(("sent again", format!("{} times", own.retransmissions)));
    facts.extend(own.traffic.iter().flat_map(traffic_facts));
    let mut text: String = facts
        .iter()
        .map(|(name, value)| format!("{name:14}{value}\n"))
        .collect();
    if !detail.observations.is_empty() {
        let rows: Vec<Vec<String>> = detail
            .observations
            .iter()
            .map(|one| {
                vec![
                    printable(&one.topic),
                    one.qos.to_string(),
                    one.token.clone(),
                    one.sequence.to_string(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["TOPIC", "QOS", "TOKEN", "SEQUENCE"], &[1, 3], &rows));
    }
    output::print(&text)
}

fn traffic_facts(traffic: &ClientTraffic) -> Vec<(&'static str, String)> {
    let amount = |messages, bytes| format!("{messages} messages, {bytes} bytes");
    let (received, sent) = (traffic.publishes_received, traffic.publishes_sent);
    let mut facts = vec![
        (
            "received",
            amount(traffic.messages_received, traffic.bytes_received),
        ),
        ("sent", amount(traffic.messages_sent, traffic.bytes_sent)),
        ("publishes", format!("{received} in, {sent} out")),
    ];
    let topic = traffic.last_topic.as_deref();
    facts.extend(topic.map(|topic| ("last topic", printable(topic))));
    facts
}

fn kick(client: &str, remote: &Remote) -> Result<(), Failure> {
    Api::find(remote)?.delete(&format!("clients/{}", encode(client)))?;
    if remote.json {
        return output::json(&json!({ "kicked": client }));
    }
    output::print(&format!("{} was kicked.\n", printable(client)))
}

fn watch(path: &str, remote: &Remote) -> Result<(), Failure> {
    let api = Api::find(remote)?;
    let begun = || {
        if !remote.json {
            output::note(&format!(
                "Watching {} until Ctrl-C. Times are UTC.",
                api.address()
            ));
        }
    };
    api.follow(path, None, None, begun, |line| {
        let Some(data) = line.strip_prefix("data: ") else {
            return output::stream("");
        };
        if remote.json {
            return output::stream(&format!("{}\n", output::harmless(data)));
        }
        match serde_json::from_str::<Event>(data) {
            Ok(event) => output::stream(&format!("{}\n", words(&event))),
            // A newer gateway may tell more than this command knows.
            Err(_) => output::stream(&format!("{}\n", printable(data))),
        }
    })
}

/// An event as one line: when, what, who, where, why.
fn words(event: &Event) -> String {
    let mut text = format!("{}  {:16}", event.time, event.kind.replace('_', " "));
    if let (true, Some(detail)) = (event.listener.is_empty(), &event.detail) {
        // Of the group, not of a client.
        let address = event.address.as_ref().map(|address| format!("  {address}"));
        return format!("{text}  {}{}", printable(detail), address.unwrap_or_default());
    }
    let who = event.clientid.as_ref().or(event.identity.as_ref());
    text.push_str(&format!(
        "  {}",
        who.map_or_else(|| "-".to_owned(), |who| printable(who))
    ));
    text.push_str(&format!("  {}:{}", event.transport, event.listener));
    text.push_str(&format!("  {}", event.address.as_deref().unwrap_or("away")));
    for (name, value) in [
        ("user", &event.username),
        ("identity", &event.identity),
        ("from", &event.from),
        ("reason", &event.reason),
    ] {
        if let Some(value) = value.as_ref().filter(|value| Some(*value) != who) {
            text.push_str(&format!("  {name} {}", printable(value)));
        }
    }
    if let (Some(action), Some(topic), Some(detail)) = (&event.action, &event.topic, &event.detail) {
        text.push_str(&format!("  {action} {} {detail}", printable(topic)));
    }
    if let Some(count) = event.count {
        text.push_str(&format!("  {count} more of this source"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_who_where_and_why() {
        let event = serde_json::from_value::<Event>(json!({
            "id": 7, "time": "2026-11-29T03:12:00.000Z", "kind": "denied", "clientid": "m\u{1b}[2J", "username": "ann",
            "listener": "default", "transport": "dtls", "address": "192.0.2.7:40000", "identity": "m-1", "reason": "rule",
            "action": "publish", "topic": "a/b", "line": 3, "detail": "denied by line 3 of the ACL file"
        }));
        assert_eq!(
            words(&event.unwrap()),
            "2026-11-29T03:12:00.000Z  denied            m\\u{1b}[2J  dtls:default  192.0.2.7:40000  user ann  identity m-1  \
             reason rule  publish a/b denied by line 3 of the ACL file"
        );
    }
}
