//! What the nodes of a group share: changed by a command on one of them for all, or for that one alone.

use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use crate::admin::api::{GroupView, ImportReport, NodeView, ReloadReport, Status};
use crate::config::atomic::{self, DirectoryLock};
use crate::config::shared;

use super::args::GroupCommand;
use super::exit::{Failure, UNAVAILABLE};
use super::remote::args::Remote;
use super::remote::http::Api;
use super::remote::table::{age, printable, table};
use super::{output, target};

/// A change of a file that all nodes of a group share. Without a group it is nothing.
pub(super) struct Sharing(Option<Shared>);

/// A file, and what it held; nothing where there was none.
type Before = (PathBuf, Option<Zeroizing<Vec<u8>>>);

enum Shared {
    /// It is for this node alone.
    ThisNode,
    /// The running gateway gives it to all, and what was there comes back where it cannot.
    All { api: Box<Api>, before: Vec<Before> },
}

impl Sharing {
    /// Before something is changed: looks whether the gateway of this configuration is a node of a group, and runs. A file that is named on the
    /// command line is nobody's.
    pub(super) fn begin(config: Option<&Path>, names_file: bool, is_local: bool) -> Result<Self, Failure> {
        let (Some(file), false) = (config.or(target::installed()), names_file) else {
            return Ok(Self(None));
        };
        let config = target::read_config(file)?;
        if config.group.is_none() {
            return Ok(Self(None));
        }
        if is_local {
            return Ok(Self(Some(Shared::ThisNode)));
        }
        let reached = Api::of_config(&config).and_then(|api| {
            let _status: Status = api.get("status")?;
            Ok(api)
        });
        let api = reached.map_err(|failure| {
            let message = format!(
                "this gateway is one of a group, and what it shares is changed through it while it runs; with --local it is changed \
                 for this one alone; nothing was changed: {}",
                failure.message
            );
            Failure::new(UNAVAILABLE, message)
        })?;
        let content = |path: &PathBuf| std::fs::read(path).ok().map(Zeroizing::new);
        let paths = shared::files(&config).into_iter().map(|file| file.path);
        let before = paths.map(|path| (path.clone(), content(&path))).collect();
        Ok(Self(Some(Shared::All {
            api: Box::new(api),
            before,
        })))
    }

    /// After it was changed: gives it to all nodes, or puts back what was there.
    pub(super) fn end(self) -> Result<(), Failure> {
        match self.0 {
            None => {}
            Some(Shared::ThisNode) => output::note("On this node alone, after `portcullis reload --local`."),
            Some(Shared::All { api, before }) => {
                let given: Result<ImportReport, Failure> = api.post("group/import", &json!({}));
                if let Err(failure) = given {
                    if failure.is_unknown {
                        let message = format!("{}; it stays in the file here", failure.message);
                        return Err(Failure::new(failure.code, message));
                    }
                    put_back(&before)?;
                    return Err(failure);
                }
                output::note("All nodes of the group have it.");
            }
        }
        Ok(())
    }
}

/// Puts back what was there before.
fn put_back(before: &[Before]) -> Result<(), Failure> {
    for (path, before) in before {
        let now = std::fs::read(path).ok();
        if now.as_deref() == before.as_ref().map(|before| before.as_slice()) {
            continue;
        }
        let mode = atomic::mode_of(path, atomic::SECRET);
        let put = match before {
            Some(before) => DirectoryLock::of(path).and_then(|lock| atomic::write(&lock, path, before, mode)),
            None => std::fs::remove_file(path),
        };
        put.map_err(|error| Failure::write(path, &error))?;
    }
    Ok(())
}

/// How all nodes are; fails where one does not answer.
fn status(remote: &Remote) -> Result<(), Failure> {
    let view: GroupView = Api::find(remote)?.get("group")?;
    if remote.json {
        output::json(&json!(view))?;
    } else {
        let headings = [
            "NODE", "ID", "ADDRESS", "UP", "DTLS", "UDP", "OBS", "CONFIG", "STATE",
        ];
        let rows: Vec<Vec<String>> = view.nodes.iter().map(row).collect();
        output::print(&table(&headings, &[1, 4, 5, 6, 7], &rows))?;
    }
    let silent: Vec<&str> = view
        .nodes
        .iter()
        .filter(|node| node.status.is_none())
        .map(|node| node.name.as_str())
        .collect();
    match silent.is_empty() {
        true => Ok(()),
        false => {
            let message = format!("does not answer: {}", printable(&silent.join(", ")));
            Err(Failure::new(UNAVAILABLE, message))
        }
    }
}

fn row(node: &NodeView) -> Vec<String> {
    let mut row = vec![printable(&node.name), node.id.to_string(), node.address.clone()];
    let Some(status) = &node.status else {
        let why = node.fault.as_deref().unwrap_or_default();
        row.extend(["-"; 5].map(str::to_owned));
        row.push(printable(why));
        return row;
    };
    let config = status.group.as_ref().map(|group| group.applied_version);
    let state = match (status.ready, &status.not_ready) {
        (true, _) => "serving".to_owned(),
        (false, why) => printable(why.as_deref().unwrap_or("not serving")),
    };
    row.extend([
        age(status.uptime_seconds),
        status.sessions.dtls.to_string(),
        status.sessions.udp.to_string(),
        status.subscriptions.to_string(),
        config.unwrap_or_default().to_string(),
        state,
    ]);
    row
}

/// Runs `group status`, `group import` or `group restore`.
pub(super) fn run(command: &GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::Status { remote } => status(remote),
        GroupCommand::Import { remote } => {
            let report: ImportReport = Api::find(remote)?.post("group/import", &json!({}))?;
            if remote.json {
                return output::json(&json!(report));
            }
            output::print(&match report.parts.as_slice() {
                [] => "Nothing was changed by hand here.\n".to_owned(),
                parts => format!("All nodes of the group have it now: {}\n", parts.join(", ")),
            })
        }
        GroupCommand::Restore { remote } => {
            let report: ReloadReport = Api::find(remote)?.post("group/restore", &json!({}))?;
            if remote.json {
                return output::json(&json!(report));
            }
            output::print("This node has what all nodes of its group share.\n")
        }
    }
}
