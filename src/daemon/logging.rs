//! Logs, on stderr.

use std::env;
use std::fmt;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

use super::process_settings::LogFormat;

/// How the filter in force is replaced.
type Change = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Starts logging. Later calls in one process change nothing.
///
/// # Errors
/// The filter does not parse; the message says where.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log.level: {error}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    let journal = is_journal();
    let lines = match format {
        LogFormat::Json if journal => layer
            .fmt_fields(format::JsonFields::new())
            .event_format(Priority(format::format().json().flatten_event(true)))
            .boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        // The journal has the time of each line already.
        LogFormat::Text if journal => layer
            .with_ansi(false)
            .event_format(Priority(format::format().without_time().with_ansi(false)))
            .boxed(),
        LogFormat::Text => layer.with_ansi(stderr().is_terminal()).boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    // Otherwise someone in this process logs already, for example a test.
    if started.is_ok() {
        let change: Change = Box::new(move |filter| handle.reload(filter).is_ok());
        drop(CHANGE.set(change));
    }
    Ok(())
}

/// Logs what passes `filter` from now on. Whether it does.
pub(super) fn change(filter: &str) -> bool {
    let change = CHANGE.get().zip(EnvFilter::try_new(filter).ok());
    change.is_some_and(|(change, filter)| change(filter))
}

/// Whether stderr is the very stream that the journal gave, and not one that a program between put in its place.
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Begins each line with its priority as the journal reads it (sd-daemon(3)), so that `journalctl -p warning` shows what it
/// should.
struct Priority<F>(F);

impl<S, N, F> FormatEvent<S, N> for Priority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.lines()
            .try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
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
