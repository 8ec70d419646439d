//! `top`: rates, latencies and what goes wrong, drawn again every few seconds.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::json;

use crate::admin::api::{Metrics, Status};
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::TopArgs;
use super::http::Api;
use super::table::age;

/// Alternate screen on, cursor off; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// To the upper left, and each line is cleared as it is written.
const HOME: &str = "\x1b[H";

pub(in crate::cli) fn run(args: &TopArgs) -> Result<(), Failure> {
    let api = Api::find(&args.remote)?;
    let interval = Duration::from_secs(args.interval);
    let mut before: Metrics = api.get("metrics")?;
    api.stop_when_told()?;
    let screen = std::io::stdout().is_terminal() && !args.once && !args.remote.json;
    if screen {
        output::print(ENTER)?;
    }
    let outcome = follow(&api, &mut before, interval, args, screen);
    if screen {
        output::print(LEAVE)?;
    }
    match outcome {
        Err(_) if api.is_told_to_stop() => Ok(()),
        outcome => outcome,
    }
}

fn follow(
    api: &Api,
    before: &mut Metrics,
    interval: Duration,
    args: &TopArgs,
    screen: bool,
) -> Result<(), Failure> {
    while api.wait(interval) {
        let status: Status = api.get("status")?;
        let after: Metrics = api.get("metrics")?;
        let view = View {
            status: &status,
            before,
            after: &after,
        };
        let is_read = if args.remote.json {
            output::stream(&format!("{}\n", view.json()))?
        } else if screen {
            let (width, height) = terminal_size::terminal_size().map_or((80, 24), |(width, height)| {
                (usize::from(width.0), usize::from(height.0))
            });
            output::stream(&fit(&view.text(), width, height))?
        } else {
            output::stream(&view.text())?
        };
        if !is_read || args.once || !screen && !args.remote.json {
            return Ok(());
        }
        *before = after;
    }
    Ok(())
}

/// As much of the text as the terminal shows, over what stood there.
fn fit(text: &str, width: usize, height: usize) -> String {
    let mut out = HOME.to_owned();
    for line in text.lines().take(height.saturating_sub(1)) {
        out.extend(line.chars().take(width));
        out.push_str("\x1b[K\r\n");
    }
    out.push_str("\x1b[J");
    out
}

struct View<'a> {
    status: &'a Status,
    before: &'a Metrics,
    after: &'a Metrics,
}

impl View<'_> {
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let time = (self.after.time - self.before.time).max(0.001);
        (self.after.sum(name, labels) - self.before.sum(name, labels)).max(0.0) / time
    }

    fn latency(&self, q: f64) -> Option<f64> {
        quantile(self.before, self.after, "portcullis_request_seconds_bucket", q)
    }

    /// The labels of a family with how much they grew per second, those that did, most first.
    fn grown(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let samples = self.after.samples.get(name).map_or(&[][..], Vec::as_slice);
        let mut labels: Vec<&String> = samples
            .iter()
            .filter_map(|sample| sample.labels.get(label))
            .collect();
        labels.sort();
        labels.dedup();
        let mut grown: Vec<(String, f64)> = labels
            .into_iter()
            .map(|value| (value.clone(), self.rate(name, &[(label, value)])))
            .filter(|(_, rate)| *rate > 0.0)
            .collect();
        grown.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        grown
    }

    fn text(&self) -> String {
        let status = self.status;
        let sessions = &status.sessions;
        let state = if status.ready { "serving" } else { "NOT SERVING" };
        let handshakes = self.rate("portcullis_dtls_handshakes_total", &[]);
        let good = self.rate("portcullis_dtls_handshakes_total", &[("result", "ok")]);
        let latency = |q| self.latency(q).map_or_else(|| "-".to_owned(), seconds);
        let broker = &status.broker;
        let pressure = self.after.sum("portcullis_overload_pressure_ratio", &[]) * 100.0;
        let mut text = format!(
            "portcullis {}  {}  {state}  up {}  {}\n\n",
            status.version,
            status.node,
            age(status.uptime_seconds),
            broker.state,
        );
        text.push_str(&format!(
            "sessions    {:>9} DTLS  {:>9} UDP   {:>7} CID   {:>6} half-open\n",
            sessions.dtls, sessions.udp, sessions.dtls_cid, sessions.dtls_half_open
        ));
        text.push_str(&format!(
            "clients     {:>9} connections       {:>9} observations\n",
            status.connections, status.subscriptions
        ));
        text.push_str(&format!(
            "requests    {:>9.1}/s    p50 {}   p95 {}   p99 {}\n",
            self.rate("portcullis_request_seconds_count", &[]),
            latency(0.5),
            latency(0.95),
            latency(0.99)
        ));
        text.push_str(&format!(
            "published   {:>9.1}/s    notified {:.1}/s   retransmitted {:.1}/s\n",
            self.rate("portcullis_publishes_total", &[("result", "accepted")]),
            self.rate("portcullis_notifications_total", &[("result", "acked")])
                + self.rate(
                    "portcullis_notifications_total",
                    &[("type", "non"), ("result", "sent")]
                ),
            self.rate("portcullis_coap_retransmissions_total", &[])
        ));
        text.push_str(&format!(
            "handshakes  {good:>9.1}/s    failed {:.1}/s   resumed {:.1}/s\n",
            (handshakes - good).max(0.0),
            self.rate("portcullis_dtls_resumed_total", &[])
        ));
        text.push_str(&format!(
            "broker      {:>9.1}/s to {:>9.1}/s from      spool {} messages, {} bytes\n",
            self.rate("portcullis_broker_messages_total", &[("direction", "sent")]),
            self.rate("portcullis_broker_messages_total", &[("direction", "received")]),
            broker.spool.messages,
            broker.spool.bytes
        ));
        text.push_str(&format!(
            "process     {:>8.1} % CPU    {:.1} MiB    pressure {pressure:.0} %\n",
            self.rate("process_cpu_seconds_total", &[]) * 100.0,
            self.after.sum("process_resident_memory_bytes", &[]) / f64::from(1 << 20)
        ));
        for (title, name, label) in LISTS {
            let grown = self.grown(name, label);
            if !grown.is_empty() {
                text.push_str(&format!("\n{title}\n"));
                for (value, rate) in grown.iter().take(8) {
                    text.push_str(&format!("  {rate:>9.1}/s  {}\n", value.replace('_', " ")));
                }
            }
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let list = |name: &str, label: &str| -> serde_json::Value {
            self.grown(name, label)
                .into_iter()
                .map(|(value, rate)| (value, json!(rate)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({
            "time": self.after.time,
            "status": self.status,
            "per_second": {
                "requests": self.rate("portcullis_request_seconds_count", &[]),
                "published": self.rate("portcullis_publishes_total", &[("result", "accepted")]),
                "retransmitted": self.rate("portcullis_coap_retransmissions_total", &[]),
                "handshakes": list("portcullis_dtls_handshakes_total", "result"),
                "dropped": list("portcullis_datagrams_dropped_total", "reason"),
                "dtls_records_dropped": list("portcullis_dtls_records_dropped_total", "reason"),
                "limits_rejected": list("portcullis_limits_rejected_total", "limit"),
            },
            "request_seconds": {
                "p50": self.latency(0.5),
                "p95": self.latency(0.95),
                "p99": self.latency(0.99),
            },
        })
    }
}

/// What is shown only while it happens.
const LISTS: [(&str, &str, &str); 4] = [
    (
        "handshakes by result",
        "portcullis_dtls_handshakes_total",
        "result",
    ),
    (
        "datagrams dropped",
        "portcullis_datagrams_dropped_total",
        "reason",
    ),
    (
        "DTLS records dropped",
        "portcullis_dtls_records_dropped_total",
        "reason",
    ),
    ("refused by a limit", "portcullis_limits_rejected_total", "limit"),
];

/// The quantile of what was observed between two looks, within its bucket by straight line.
fn quantile(before: &Metrics, after: &Metrics, name: &str, q: f64) -> Option<f64> {
    let mut steps: Vec<(f64, f64)> = after
        .samples
        .get(name)?
        .iter()
        .filter_map(|sample| sample.labels.get("le"))
        .filter_map(|le| {
            let grown = after.sum(name, &[("le", le)]) - before.sum(name, &[("le", le)]);
            let bound = if le == "+Inf" {
                f64::INFINITY
            } else {
                le.parse().ok()?
            };
            Some((bound, grown))
        })
        .collect();
    steps.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let total = steps.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in steps {
        if count >= q * total {
            return Some(if bound.is_finite() {
                lower + (bound - lower) * ((q * total - below) / (count - below).max(1e-9))
            } else {
                lower
            });
        }
        (lower, below) = (bound, count);
    }
    Some(lower)
}

fn seconds(value: f64) -> String {
    match value {
        value if value < 0.001 => format!("{:.0} µs", value * 1e6),
        value if value < 1.0 => format!("{:.1} ms", value * 1e3),
        value => format!("{value:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(counts: [u64; 3]) -> Metrics {
        let [a, b, c] = counts;
        Metrics::parse(
            &format!("x_bucket{{le=\"0.1\"}} {a}\nx_bucket{{le=\"0.2\"}} {b}\nx_bucket{{le=\"+Inf\"}} {c}\n"),
            0.0,
        )
    }

    #[test]
    fn quantiles_are_of_what_came_between_two_looks() {
        let (before, after) = (metrics([100, 100, 100]), metrics([100, 110, 110]));
        let median = quantile(&before, &after, "x_bucket", 0.5).unwrap();
        assert!((median - 0.15).abs() < 1e-9, "{median}");
        assert_eq!(quantile(&after, &after, "x_bucket", 0.5), None);
        let beyond = quantile(&before, &metrics([100, 100, 110]), "x_bucket", 0.5).unwrap();
        assert!(
            (beyond - 0.2).abs() < 1e-9,
            "above the last bound nothing is known"
        );
    }

    #[test]
    fn a_frame_is_no_larger_than_the_terminal() {
        let frame = fit("one line\ntwo\nthree\n", 3, 3);
        assert_eq!(frame, "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J");
    }
}
