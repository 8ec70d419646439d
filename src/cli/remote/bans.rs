//! `ban add`, `ban remove`, `ban list`.

use clap::ValueEnum as _;
use serde_json::{Map, Value, json};

use crate::admin::api::BanView;
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::{BanCommand, BanKindWord, Remote};
use super::http::{Api, encode};
use super::table::{printable, table};

pub(in crate::cli) fn run(command: &BanCommand) -> Result<(), Failure> {
    match command {
        BanCommand::Add {
            kind,
            value,
            lasts,
            until,
            reason,
            local,
            remote,
        } => {
            let mut ban = Map::new();
            ban.insert(word(*kind), json!(value));
            ban.insert("reason".to_owned(), json!(reason));
            for (name, value) in [("for", lasts), ("until", until)] {
                if let Some(value) = value {
                    ban.insert(name.to_owned(), json!(value));
                }
            }
            add(&Value::Object(ban), *local, remote)
        }
        BanCommand::Remove {
            kind,
            value,
            local,
            remote,
        } => remove(&word(*kind), value, *local, remote),
        BanCommand::List { remote } => list(remote),
    }
}

fn word(kind: BanKindWord) -> String {
    kind.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn add(ban: &Value, local: bool, remote: &Remote) -> Result<(), Failure> {
    let made: BanView = Api::find(remote)?.for_one(local).post("bans", ban)?;
    if remote.json {
        return output::json(&json!(made));
    }
    let end = match &made.until {
        Some(until) => format!("until {until}"),
        None => "for good".to_owned(),
    };
    output::print(&format!(
        "{} {} is kept out {end}.\n",
        made.kind,
        printable(&made.value)
    ))
}

fn remove(kind: &str, value: &str, local: bool, remote: &Remote) -> Result<(), Failure> {
    Api::find(remote)?
        .for_one(local)
        .delete(&format!("bans/{kind}/{}", encode(value)))?;
    if remote.json {
        return output::json(&json!({ "removed": { "kind": kind, "value": value } }));
    }
    output::print(&format!("{kind} {} may come in again.\n", printable(value)))
}

fn list(remote: &Remote) -> Result<(), Failure> {
    let all: Vec<BanView> = Api::find(remote)?.get("bans")?;
    if remote.json {
        return output::json(&json!(all));
    }
    let row = |ban: BanView| {
        let until = ban.until.unwrap_or_else(|| "for good".to_owned());
        vec![
            ban.kind,
            printable(&ban.value),
            until,
            ban.since,
            printable(&ban.reason),
        ]
    };
    let rows: Vec<Vec<String>> = all.into_iter().map(row).collect();
    output::print(&table(&["KIND", "WHO", "UNTIL", "SINCE", "REASON"], &[], &rows))
}
