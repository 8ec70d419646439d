//! `top`: rates, latencies and what goes wrong, drawn again every few seconds.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::json;

use crate::admin::api::{Client, ClientPage, Metrics, Status};
use crate::cli::exit::Failure;
use crate::cli::output;

use super::args::TopArgs;
use super::http::Api;
use super::table::{age, printable};

/// Alternate screen on, cursor off; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// To the upper left, and each line is cleared as it is written.
const HOME: &str = "\x1b[H";

pub(in crate::cli) fn run(args: &TopArgs) -> Result<(), Failure> {
    let api = Api::find(&args.remote)?;
    let interval = Duration::from_secs(args.interval);
    let mut before = Look::take(&api)?;
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
    before: &mut Look,
    interval: Duration,
    args: &TopArgs,
    screen: bool,
) -> Result<(), Failure> {
    while api.wait(interval) {
        let status: Status = api.get("status")?;
        let after = Look::take(api)?;
        let view = View {
            status: &status,
            before: &before.metrics,
            after: &after.metrics,
            busiest: after.busiest(before),
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

/// Clients that are looked at: each look takes the gateway a walk through all of them, and a page is as long as this.
const CLIENTS: usize = 10_000;

/// Clients that are shown.
const BUSIEST: usize = 8;

/// All numbers at one moment.
struct Look {
    metrics: Metrics,
    /// Messages of each client, both ways, by what it is called.
    messages: HashMap<String, u64>,
}

impl Look {
    fn take(api: &Api) -> Result<Self, Failure> {
        let metrics = api.get("metrics")?;
        let page: ClientPage = api.get(&format!("clients?limit={CLIENTS}"))?;
        let count = |client: Client| {
            let traffic = client.traffic?;
            let name = client.clientid.or(client.address)?;
            Some((name, traffic.messages_received + traffic.messages_sent))
        };
        Ok(Self {
            metrics,
            messages: page.data.into_iter().filter_map(count).collect(),
        })
    }

    /// The clients with the most messages per second since an earlier look, most first.
    fn busiest(&self, before: &Self) -> Vec<(String, f64)> {
        let time = (self.metrics.time - before.metrics.time).max(0.001);
        let mut all: Vec<(String, f64)> = self
            .messages
            .iter()
            .filter_map(|(name, now)| {
                // One that came meanwhile, or began anew at another address, began at nothing.
                let then = before.messages.get(name).filter(|then| *then <= now);
                let more = now - then.copied().unwrap_or_default();
                (more > 0).then(|| (name.clone(), more as f64 / time))
            })
            .collect();
        all.sort_by(|(a, more), (b, less)| less.total_cmp(more).then_with(|| a.cmp(b)));
        all.truncate(BUSIEST);
        all
    }
}

struct View<'a> {
    status: &'a Status,
    before: &'a Metrics,
    after: &'a Metrics,
    busiest: Vec<(String, f64)>,
}

impl View<'_> {
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let time = (self.after.time - self.before.time).max(0.001);
        (self.after.sum(name, labels) - self.before.sum(name, labels)).max(0.0) / time
    }

    fn latency(&self, q: f64) -> Option<Quantile> {
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
        let latency = |q| self.latency(q).map_or_else(|| "-".to_owned(), Quantile::words);
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
        if !self.busiest.is_empty() {
            text.push_str("\nbusiest clients, messages both ways\n");
            for (name, rate) in &self.busiest {
                text.push_str(&format!("  {rate:>9.1}/s  {}\n", printable(name)));
            }
        }
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
            "busiest_clients": self
                .busiest
                .iter()
                .map(|(name, rate)| json!({ "client": name, "messages_per_second": rate }))
                .collect::<Vec<_>>(),
            "request_seconds": {
                "p50": self.latency(0.5).map(Quantile::bound),
                "p95": self.latency(0.95).map(Quantile::bound),
                "p99": self.latency(0.99).map(Quantile::bound),
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

/// A quantile, as far as the buckets tell.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Quantile {
    /// Within a bucket, by straight line.
    About(f64),
    /// In the first bucket: of what is below its bound nothing is known.
    Below(f64),
}

impl Quantile {
    /// The value, or what it is below.
    const fn bound(self) -> f64 {
        match self {
            Self::About(value) | Self::Below(value) => value,
        }
    }

    fn words(self) -> String {
        match self {
            Self::About(value) => seconds(value),
            Self::Below(bound) => format!("< {}", seconds(bound)),
        }
    }
}

/// The quantile of what was observed between two looks.
fn quantile(before: &Metrics, after: &Metrics, name: &str, q: f64) -> Option<Quantile> {
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
    let mut lower: Option<(f64, f64)> = None;
    for (bound, count) in steps {
        if count >= q * total {
            return Some(match lower {
                None => Quantile::Below(bound),
                // Above the last bound nothing is known.
                Some((lower, _)) if bound.is_infinite() => Quantile::About(lower),
                Some((lower, below)) => {
                    let share = (q * total - below) / (count - below).max(1e-9);
                    Quantile::About(lower + (bound - lower) * share)
                }
            });
        }
        lower = Some((bound, count));
    }
    None
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
        assert!(
            matches!(median, Quantile::About(value) if (value - 0.15).abs() < 1e-9),
            "{median:?}"
        );
        assert_eq!(quantile(&after, &after, "x_bucket", 0.5), None);
        let beyond = quantile(&before, &metrics([100, 100, 110]), "x_bucket", 0.5);
        assert_eq!(
            beyond,
            Some(Quantile::About(0.2)),
            "above the last bound nothing is known"
        );
    }

    #[test]
    fn what_lies_in_the_first_bucket_is_not_told_apart() {
        let (before, after) = (metrics([100, 100, 100]), metrics([190, 200, 200]));
        let median = quantile(&before, &after, "x_bucket", 0.5).unwrap();
        assert_eq!(
            (median, median.words().as_str()),
            (Quantile::Below(0.1), "< 100.0 ms")
        );
    }

    #[test]
    fn the_busiest_are_those_who_sent_and_got_most_between_two_looks() {
        let look = |time: f64, counts: &[(&str, u64)]| Look {
            metrics: Metrics::parse("", time),
            messages: counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        };
        let before = look(0.0, &[("a", 1000), ("b", 10), ("gone", 5), ("anew", 90)]);
        let after = look(2.0, &[("a", 1000), ("b", 30), ("new", 4), ("anew", 6)]);
        let told = after.busiest(&before);
        let wanted = [("b", 10.0), ("anew", 3.0), ("new", 2.0)];
        assert_eq!(told, wanted.map(|(name, rate)| (name.to_owned(), rate)));
    }

    #[test]
    fn a_frame_is_no_larger_than_the_terminal() {
        let frame = fit("one line\ntwo\nthree\n", 3, 3);
        assert_eq!(frame, "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J");
    }
}
