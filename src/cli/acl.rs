//! `acl check`: what the access rules say, and which line says it.

use std::process::ExitCode;

use serde_json::json;

use crate::auth;
use crate::policy::acl;
use crate::policy::authorization::{Action, NoMatch};
use crate::policy::pattern::Subject;

use super::args::{AclCommand, AclFile};
use super::exit::{DATA_ERROR, Failure, NO_INPUT, USAGE};
use super::{output, target};

/// Says what the rules say: exit status 0 allowed, 1 denied.
pub(super) fn run(command: &AclCommand) -> Result<ExitCode, Failure> {
    let AclCommand::Check {
        user,
        action,
        topic,
        client,
        identity,
        json,
        file,
    } = command;
    let action = Action::from_word(action).ok_or_else(|| {
        Failure::new(
            USAGE,
            format!("`{action}` is no action: publish (write), subscribe, receive (read), or create"),
        )
    })?;
    let (path, no_match) = rules(file)?;
    let text = auth::read_acl(&path).map_err(|error| {
        let code = if error.place.is_some() {
            DATA_ERROR
        } else {
            NO_INPUT
        };
        Failure::new(code, error.to_string())
    })?;
    let subject = Subject {
        user: Some(user.as_str()).filter(|user| *user != "-"),
        client: client.as_deref(),
        identity: identity.as_deref(),
        attributes: None,
    };
    let explained = acl::explain(&text, no_match, &subject, action, topic).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|error| format!("{}, {error}", path.display()))
            .collect();
        Failure::new(DATA_ERROR, lines.join("\n"))
    })?;
    if *json {
        output::json(&json!({
            "allowed": explained.decision.allowed,
            "line": explained.decision.line,
            "text": explained.text,
        }))?;
    } else {
        output::print(&format!("{explained}\n"))?;
    }
    Ok(if explained.decision.allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn rules(file: &AclFile) -> Result<(std::path::PathBuf, NoMatch), Failure> {
    match &file.acl_file {
        Some(path) => Ok((path.clone(), NoMatch::Deny)),
        None => target::acl_file(file.config.as_deref()),
    }
}
