//! `clients list`, `show`, `kick`, `watch`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::admin::api::{Client, ClientDetail, ClientPage};
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
            which,
            interval,
            remote,
        } => watch(which, Duration::from_secs(*interval), remote),
    }
}

fn list(which: &Which, limit: Option<usize>, remote: &Remote) -> Result<(), Failure> {
    let clients = fetch(&Api::find(remote)?, which, limit)?;
    if remote.json {
        return output::json(&json!(clients));
    }
    let rows: Vec<Vec<String>> = clients.iter().map(row).collect();
    let headings = [
        "CLIENT", "IDENTITY", "LISTENER", "ADDRESS", "CIPHER", "CID", "AGE", "IDLE", "OBS", "RETR",
    ];
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
    if let Some(name) = &own.username {
        facts.push(("user name", printable(name)));
    }
    if let Some(identity) = &own.identity {
        facts.push((
            "identity",
            format!("{} ({})", printable(&identity.name), identity.proof),
        ));
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
    facts.push(("first seen", format!("{} ago", age(own.age_seconds))));
    facts.push(("heard of", format!("{} ago", age(own.idle_seconds))));
    facts.push(("sent again", format!("{} times", own.retransmissions)));
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

fn kick(client: &str, remote: &Remote) -> Result<(), Failure> {
    Api::find(remote)?.delete(&format!("clients/{}", encode(client)))?;
    if remote.json {
        return output::json(&json!({ "kicked": client }));
    }
    output::print(&format!("{} was kicked.\n", printable(client)))
}

/// What tells a client apart from one look to the next, and what is told of it.
fn key(client: &Client) -> String {
    match &client.clientid {
        Some(id) => format!("c{id}"),
        None => format!("a{}", client.address.as_deref().unwrap_or_default()),
    }
}

fn watch(which: &Which, interval: Duration, remote: &Remote) -> Result<(), Failure> {
    let api = Api::find(remote)?;
    let look = || -> Result<BTreeMap<String, Client>, Failure> {
        let clients = fetch(&api, which, None)?;
        Ok(clients.into_iter().map(|client| (key(&client), client)).collect())
    };
    api.stop_when_told()?;
    let mut before = match look() {
        Err(_) if api.is_told_to_stop() => return Ok(()),
        seen => seen?,
    };
    if !remote.json {
        output::note(&format!("{} clients now; watching.", before.len()));
    }
    while api.wait(interval) {
        let after = match look() {
            Err(_) if api.is_told_to_stop() => return Ok(()),
            seen => seen?,
        };
        for (what, client) in changes(&before, &after) {
            if !tell(what, client, remote.json)? {
                return Ok(());
            }
        }
        before = after;
    }
    Ok(())
}

fn changes<'a>(
    before: &'a BTreeMap<String, Client>,
    after: &'a BTreeMap<String, Client>,
) -> Vec<(&'static str, &'a Client)> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
    let mut all: Vec<_> = gone.map(|(_, client)| ("gone", client)).collect();
    for (key, client) in after {
        match before.get(key) {
            None => all.push(("came", client)),
            Some(old) if old.created_at != client.created_at => all.push(("came", client)),
            Some(old) if old.address != client.address => all.push(("moved", client)),
            Some(_) => {}
        }
    }
    all
}

/// Whether anyone still reads it.
fn tell(what: &str, client: &Client, json: bool) -> Result<bool, Failure> {
    if json {
        let line = json!({ "event": what, "client": client }).to_string();
        return output::stream(&format!("{}\n", output::harmless(&line)));
    }
    let id = client
        .clientid
        .as_deref()
        .map_or_else(|| "-".to_owned(), printable);
    let address = client.address.as_deref().unwrap_or("away");
    let identity = client
        .identity
        .as_ref()
        .map(|identity| format!("  identity {}", printable(&identity.name)))
        .unwrap_or_default();
    output::stream(&format!(
        "{}  {what:5}  {id}  {}:{}  {address}{identity}\n",
        if what == "gone" {
            &client.seen_at
        } else {
            &client.created_at
        },
        client.transport,
        client.listener
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str, address: &str, created_at: &str) -> Client {
        Client {
            clientid: Some(id.to_owned()),
            username: None,
            listener: "default".to_owned(),
            transport: "udp".to_owned(),
            address: Some(address.to_owned()),
            connection: true,
            online: true,
            identity: None,
            dtls: None,
            created_at: created_at.to_owned(),
            age_seconds: 0,
            seen_at: created_at.to_owned(),
            idle_seconds: 0,
            subscriptions: 0,
            retransmissions: 0,
        }
    }

    #[test]
    fn coming_going_moving_and_coming_again_are_told_apart() {
        let map = |clients: Vec<Client>| -> BTreeMap<String, Client> {
            clients.into_iter().map(|client| (key(&client), client)).collect()
        };
        let before = map(vec![
            client("stays", "a", "1"),
            client("goes", "b", "1"),
            client("moves", "c", "1"),
            client("returns", "d", "1"),
        ]);
        let after = map(vec![
            client("stays", "a", "1"),
            client("comes", "e", "2"),
            client("moves", "f", "1"),
            client("returns", "d", "2"),
        ]);
        let told: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|(what, client)| (what, client.clientid.clone().unwrap()))
            .collect();
        let wanted = [
            ("gone", "goes"),
            ("came", "comes"),
            ("moved", "moves"),
            ("came", "returns"),
        ];
        assert_eq!(told, wanted.map(|(what, id)| (what, id.to_owned())));
    }
}
