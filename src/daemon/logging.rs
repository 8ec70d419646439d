//! Logs, on stderr.

use std::env;
use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use super::plan::LogFormat;

/// Starts logging. Later calls in one process change nothing.
///
/// # Errors
/// The filter does not parse; the message says where.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log.level: {error}"))?;
    let builder = fmt().with_env_filter(filter).with_writer(stderr);
    // The journal has the time of each line already.
    let journal = env::var_os("JOURNAL_STREAM").is_some() && !stderr().is_terminal();
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text if journal => builder.without_time().with_ansi(false).try_init(),
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
    };
    // Someone in this process logs already, for example a test.
    drop(started);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_parse_names_its_key() {
        let error = start("portcullis=loud", LogFormat::Text).unwrap_err();
        assert!(error.starts_with("log.level: "), "{error}");
    }
}
