//! Logs, on stderr.

use std::env;
use std::fmt;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
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
            .event_format(Priority(Line { time: false }))
            .boxed(),
        LogFormat::Text => layer
            .with_ansi(stderr().is_terminal())
            .event_format(Line { time: true })
            .boxed(),
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

/// A line for people: time, level, the part of the gateway that speaks, and what it says.
struct Line {
    time: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.time {
            SystemTime.format_time(&mut writer)?;
            writer.write_char(' ')?;
        }
        let level = *event.metadata().level();
        if writer.has_ansi_escapes() {
            write!(writer, "\x1b[{}m{level:>5}\x1b[0m ", colour(level))?;
        } else {
            write!(writer, "{level:>5} ")?;
        }
        write!(writer, "{}: ", part(event.metadata().target()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The part of the gateway that a line is from, without the way to it in the code: `audit` of `portcullis::audit`, `broker` of
/// `portcullis_broker::mqtt::lane`.
fn part(target: &str) -> &str {
    let own = target.strip_prefix("portcullis");
    let rest = own.map_or(target, |rest| rest.trim_start_matches(['_', ':']));
    rest.split("::")
        .next()
        .filter(|part| !part.is_empty())
        .unwrap_or("portcullis")
}

const fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 34,
    }
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
    fn a_line_names_the_part_that_speaks_and_no_path_of_the_code() {
        for (target, wanted) in [
            ("portcullis::audit", "audit"),
            ("portcullis_broker::mqtt::lane", "broker"),
            ("portcullis::daemon::run", "daemon"),
            ("portcullis", "portcullis"),
            ("rumqttc::state", "rumqttc"),
        ] {
            assert_eq!(part(target), wanted);
        }
    }

    #[test]
    fn a_filter_that_does_not_parse_names_its_key() {
        let error = start("portcullis=loud", LogFormat::Text).unwrap_err();
        assert!(error.starts_with("log.level: "), "{error}");
    }
}
