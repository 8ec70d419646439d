//! `config show`.

use serde_json::{Value, json};

use crate::admin::api::{Effective, EffectiveKey};
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::ConfigCommand;
use super::http::Api;
use super::table::printable;

pub(in crate::cli) fn run(command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Show { changed, remote } = command;
    let mut effective: Effective = Api::find(remote)?.get("config/effective")?;
    effective.keys.retain(|key| !changed || key.source != "default");
    if remote.json {
        return output::json(&json!(effective));
    }
    let mut section = String::new();
    let mut text = String::new();
    for key in &effective.keys {
        let (table, name) = key.key.rsplit_once('.').unwrap_or(("", &key.key));
        if table != section {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}[{}]\n", printable(table)));
            table.clone_into(&mut section);
        }
        text.push_str(&format!("{}\n", line(name, key, effective.file.as_deref())));
    }
    output::print(&text)
}

fn line(name: &str, key: &EffectiveKey, file: Option<&str>) -> String {
    let value = match &key.value {
        Value::Null => "(unset)".to_owned(),
        value => printable(&value.to_string()),
    };
    let origin = match (file, key.line) {
        (Some(file), Some(line)) => format!("{}:{line}", printable(file)),
        _ => printable(&key.source),
    };
    let waits = if key.restart_required {
        ", takes effect after a restart"
    } else {
        ""
    };
    format!("{:42}# {origin}{waits}", format!("{} = {value}", printable(name)))
}
