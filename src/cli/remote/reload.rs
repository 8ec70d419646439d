//! `reload`.

use serde_json::json;

use crate::admin::api::{ProblemView, ReloadReport};
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::ReloadArgs;
use super::http::Api;
use super::table::printable;

/// Has the gateway reload, and says what came of it.
pub(in crate::cli) fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let report: ReloadReport = Api::find(&args.remote)?
        .for_one(args.local)
        .post("reload", &json!({}))?;
    if args.remote.json {
        return output::json(&json!(report));
    }
    let mut text = "Reloaded.\n".to_owned();
    for key in &report.restart_required {
        text.push_str(&format!("{} takes effect after a restart.\n", printable(key)));
    }
    for warning in &report.warnings {
        text.push_str(&format!("{}\n", problem(warning)));
    }
    output::print(&text)
}

/// A problem as one line: where it is, and what.
pub(super) fn problem(problem: &ProblemView) -> String {
    let place = match (problem.line, problem.column) {
        (Some(line), Some(column)) => format!(":{line}:{column}"),
        _ => String::new(),
    };
    let key = if problem.key.is_empty() {
        String::new()
    } else {
        format!("{}: ", printable(&problem.key))
    };
    format!(
        "{}{place}: {key}{}",
        printable(&problem.file),
        printable(&problem.message)
    )
}
