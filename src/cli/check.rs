//! `check-config`.

use serde_json::json;

use crate::config::{self, Problems, Severity};

use super::args::CheckArgs;
use super::exit::Failure;
use super::output;

/// Checks a configuration. What merely ran out is refused here too, so that it is noticed before it matters.
pub(super) fn check_config(args: &CheckArgs) -> Result<(), Failure> {
    let problems = match config::load(&args.config) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    if args.json {
        output::json(&as_json(&problems))?;
    }
    if problems.only_notes() {
        if !problems.0.is_empty() {
            output::note(&problems.to_string());
        }
        if !args.json {
            output::print(&format!("{}: ok\n", args.config.display()))?;
        }
        return Ok(());
    }
    Err(problems.into())
}

fn as_json(problems: &Problems) -> serde_json::Value {
    problems
        .iter()
        .map(|problem| {
            json!({
                "file": problem.file,
                "line": problem.place.as_ref().map(|place| place.line),
                "column": problem.place.as_ref().map(|place| place.column),
                "key": problem.key,
                "severity": match problem.severity {
                    Severity::Error => "error",
                    Severity::Outdated => "outdated",
                    Severity::Note => "note",
                },
                "message": problem.message,
            })
        })
        .collect()
}
