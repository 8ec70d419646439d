//! `bench`: a run of devices against a gateway, and what it took.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::coap::contract::Code;
use crate::config::secrets::read_secret;
use crate::config::{Config, psk_file};
use crate::types::Transport;

use super::args::BenchArgs;
use super::exit::{CONFIG, DATA_ERROR, Failure, NO_USER, SOFTWARE, UNAVAILABLE, USAGE};
use super::output;
use super::remote::http::configured;

mod client;
mod histogram;
mod link;

use client::{Device, Plan, Start, Tally, Times};
use histogram::Histogram;

/// Threads that devices run on, at most.
const THREADS: usize = 4;

/// Where a run goes.
struct Target {
    to: SocketAddr,
    /// The identity and its key, for DTLS.
    psk: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// Runs devices and prints what came of it; fails when nothing was answered.
pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let target = target(args)?;
    let context = target
        .psk
        .map(|(identity, key)| link::context(identity, key))
        .transpose()?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(THREADS))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(SOFTWARE, format!("no runtime: {error}")))?;
    let queries = queries(args)?;
    let (tally, took) = runtime.block_on(async {
        let plan = Plan {
            to: target.to,
            context,
            path: args.topic.split('/').map(str::to_owned).collect(),
            queries,
            connects: args.connect,
            confirmable: !args.non,
            payload: args.payload,
            interval: args
                .rate
                .map(|rate| Duration::from_secs_f64(f64::from(args.clients) / f64::from(rate))),
            patience: Duration::from_secs(args.timeout),
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
        };
        all(Arc::new(plan), args).await
    });
    let outcome = Outcome { tally, took };
    if args.json {
        output::json(&outcome.json(args))?;
    } else {
        output::print(&outcome.words(args))?;
    }
    if outcome.answered() > 0 {
        return Ok(());
    }
    let why = outcome
        .tally
        .why
        .unwrap_or_else(|| "no answer to any request".to_owned());
    Err(Failure::new(UNAVAILABLE, format!("{}: {why}", target.to)))
}

/// Runs all devices, observers first, and puts together what they counted.
async fn all(plan: Arc<Plan>, args: &BenchArgs) -> (Tally, Duration) {
    let (ready, mut readies) = mpsc::channel::<()>(1);
    let (times, _) = watch::channel(Times::None);
    let start = || Start {
        ready: ready.clone(),
        times: times.subscribe(),
    };
    let clients = usize::from(args.clients);
    let mut running = JoinSet::new();
    for number in 0..usize::from(args.observers) {
        let device = Device::new(
            Arc::clone(&plan),
            number % clients,
            format!("bench-observer-{number}"),
        );
        running.spawn(device.observe(start()));
    }
    for number in 0..clients {
        let device = Device::new(Arc::clone(&plan), number, format!("bench-{number}"));
        running.spawn(device.publish(start()));
    }
    drop(ready);
    // Over once each has dropped its end: it is there, or never will be.
    while readies.recv().await.is_some() {}
    let begin = Instant::now();
    times.send_replace(Some((begin, begin + args.duration)));
    let mut whole = Tally::default();
    loop {
        tokio::select! {
            joined = running.join_next() => match joined {
                Some(Ok(tally)) => whole.merge(tally),
                Some(Err(_)) => {}
                None => break,
            },
            _ = tokio::signal::ctrl_c() => plan.stop.store(true, Ordering::Relaxed),
        }
    }
    let is_cut = plan.stop.load(Ordering::Relaxed);
    (
        whole,
        if is_cut {
            begin.elapsed().min(args.duration)
        } else {
            args.duration
        },
    )
}

/// What is said of each request beside its path.
fn queries(args: &BenchArgs) -> Result<Vec<Zeroizing<String>>, Failure> {
    let mut all = Vec::new();
    if let Some(name) = &args.username {
        all.push(Zeroizing::new(format!("u={name}")));
    }
    if let Some(file) = &args.password_file {
        let content = read_secret(file)?;
        let text = std::str::from_utf8(&content)
            .map_err(|_| Failure::new(DATA_ERROR, format!("{} holds no text", file.display())))?;
        let password = text.lines().next().unwrap_or_default();
        all.push(Zeroizing::new(format!("p={password}")));
    }
    if let Some(qos) = args.qos {
        all.push(Zeroizing::new(format!("q={qos}")));
    }
    Ok(all)
}

fn target(args: &BenchArgs) -> Result<Target, Failure> {
    let Some(url) = &args.url else {
        return of_config(args, &configured(args.config.as_deref())?);
    };
    let wrong = || {
        Failure::new(
            USAGE,
            format!("`{url}` is no address: coap://HOST:PORT or coaps://HOST:PORT"),
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let port = match scheme {
        "coap" => 5683,
        "coaps" => 5684,
        _ => return Err(wrong()),
    };
    let host = rest.trim_end_matches('/');
    let at = host.parse().ok().map_or_else(
        || {
            let whole = match host.rsplit_once(':') {
                Some((_, digits)) if digits.parse::<u16>().is_ok() => host.to_owned(),
                _ => format!("{host}:{port}"),
            };
            let found = whole.to_socket_addrs().ok().and_then(|mut all| all.next());
            found.ok_or_else(|| Failure::new(UNAVAILABLE, format!("{host} has no address")))
        },
        Ok,
    )?;
    let psk = if scheme == "coaps" {
        let file = args.key_file.clone();
        let file = match (file, configured(args.config.as_deref())) {
            (Some(file), _) => file,
            (None, Ok(config)) => keys_of(&config)?,
            (None, Err(_)) => return Err(Failure::new(USAGE, "name the file of keys with --key-file")),
        };
        Some(key(&file, args.identity.as_deref())?)
    } else {
        None
    };
    Ok(Target { to: at, psk })
}

/// The first listener of the kind that is wanted.
fn of_config(args: &BenchArgs, config: &Config) -> Result<Target, Failure> {
    let kind = if args.dtls {
        Transport::Dtls
    } else {
        Transport::Udp
    };
    let listener = config.listeners.iter().find(|listener| {
        listener.transport() == kind && args.listener.as_ref().is_none_or(|name| *name == listener.name)
    });
    let listener = listener.ok_or_else(|| {
        Failure::new(
            CONFIG,
            format!(
                "the configuration has no such listener of {}",
                if args.dtls { "DTLS" } else { "UDP" }
            ),
        )
    })?;
    let mut to = listener.bind;
    if to.ip().is_unspecified() {
        to.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let psk = match &listener.dtls {
        None => None,
        Some(dtls) => {
            let file = args.key_file.clone().or_else(|| dtls.handshake.psk_file.clone());
            let file =
                file.ok_or_else(|| Failure::new(CONFIG, format!("{} has no psk_file", listener.key())))?;
            Some(key(&file, args.identity.as_deref())?)
        }
    };
    Ok(Target { to, psk })
}

fn keys_of(config: &Config) -> Result<std::path::PathBuf, Failure> {
    let mut files = config
        .listeners
        .iter()
        .filter_map(|listener| listener.dtls.as_ref()?.handshake.psk_file.clone());
    files
        .next()
        .ok_or_else(|| Failure::new(USAGE, "name the file of keys with --key-file"))
}

/// The key of an identity, of the first where none is named.
fn key(file: &Path, identity: Option<&str>) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Failure> {
    let lines =
        psk_file::parse(&read_secret(file)?).map_err(|errors| super::psk::wrong_lines(file, &errors))?;
    let name = identity.or_else(|| lines.names().next());
    let found = name.and_then(|name| Some((name, lines.secret(name)?)));
    let Some((name, hex)) = found else {
        let what = identity.map_or_else(|| "no key".to_owned(), |name| format!("no identity `{name}`"));
        return Err(Failure::new(
            NO_USER,
            format!("{} has {what}; `portcullis psk add` makes one", file.display()),
        ));
    };
    let bytes = crate::dtls::identity_bytes(name).map_err(|why| Failure::new(DATA_ERROR, why))?;
    let mut key = Zeroizing::new(vec![0; hex.len() / 2]);
    hex::decode_to_slice(hex.as_str(), &mut key).map_err(|_| {
        Failure::new(
            DATA_ERROR,
            format!("{}: a key is not hexadecimal", file.display()),
        )
    })?;
    Ok((bytes, key))
}

/// What a run came to.
struct Outcome {
    tally: Tally,
    took: Duration,
}

impl Outcome {
    fn answered(&self) -> u64 {
        self.tally.answers.values().sum()
    }

    /// Notifications that publishes which were taken should have led to.
    fn expected(&self) -> u64 {
        let taken = |follows: &usize| {
            let of = self.tally.taken.iter().find(|(index, _)| index == follows);
            of.map_or(0, |(_, taken)| *taken)
        };
        self.tally.follows.iter().map(taken).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&self) -> f64 {
        self.answered() as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn json(&self, args: &BenchArgs) -> serde_json::Value {
        let answers: serde_json::Map<_, _> = self
            .tally
            .answers
            .iter()
            .map(|(code, count)| (Code(*code).to_string(), json!(count)))
            .collect();
        json!({
            "clients": args.clients,
            "seconds": self.took.as_secs_f64(),
            "requests": self.answered() + self.tally.lost,
            "answered": self.answered(),
            "lost": self.tally.lost,
            "requests_per_second": self.rate(),
            "answers": answers,
            "latency": times(&self.tally.latency),
            "opened": times(&self.tally.opened),
            "failed": self.tally.failed,
            "why": self.tally.why,
            "observers": args.observers,
            "notifications": {
                "expected": self.expected(),
                "received": self.tally.notified.count(),
                "lost": self.expected().saturating_sub(self.tally.notified.count()),
                "latency": times(&self.tally.notified),
            },
        })
    }

    fn words(&self, args: &BenchArgs) -> String {
        let mut text = format!(
            "{} requests in {:.1} s: {:.0} requests/s, {} lost\n",
            self.answered() + self.tally.lost,
            self.took.as_secs_f64(),
            self.rate(),
            self.tally.lost
        );
        let mut line = |name: &str, words: String| text.push_str(&format!("{name:15}{words}\n"));
        line("latency", shown(&self.tally.latency));
        let answers = self.tally.answers.iter();
        let answers = answers.map(|(code, count)| format!("{}: {count}", Code(*code)));
        line("answers", answers.collect::<Vec<_>>().join(", "));
        if args.dtls || args.connect || self.tally.opened.count() > 0 || self.tally.failed > 0 {
            let opened = &self.tally.opened;
            line(
                "begun",
                format!(
                    "{}, {} failed; {}",
                    opened.count(),
                    self.tally.failed,
                    shown(opened)
                ),
            );
        }
        if args.observers > 0 {
            let (received, expected) = (self.tally.notified.count(), self.expected());
            let lost = expected.saturating_sub(received);
            let latency = shown(&self.tally.notified);
            line(
                "notifications",
                format!("{received} of {expected}, {lost} lost; {latency}"),
            );
        }
        text
    }
}

const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

fn times(histogram: &Histogram) -> serde_json::Value {
    let micros = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    let mut all = serde_json::Map::new();
    for (name, share) in SHARES {
        all.insert(format!("{name}_us"), json!(histogram.quantile(share).map(micros)));
    }
    all.insert("max_us".to_owned(), json!(micros(histogram.most())));
    all.insert("count".to_owned(), json!(histogram.count()));
    all.into()
}

fn shown(histogram: &Histogram) -> String {
    if histogram.count() == 0 {
        return "-".to_owned();
    }
    let quantile = |(name, share): (&str, f64)| {
        let time = histogram.quantile(share).unwrap_or_default();
        format!("{name} {}", short(time))
    };
    let mut parts: Vec<String> = SHARES.into_iter().map(quantile).collect();
    parts.push(format!("max {}", short(histogram.most())));
    parts.join("  ")
}

/// A time in three digits or four.
fn short(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        _ if micros < 10.0 => format!("{micros:.1} us"),
        _ if micros < 1e3 => format!("{micros:.0} us"),
        _ if micros < 1e4 => format!("{:.2} ms", micros / 1e3),
        _ if micros < 1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (nanos, wanted) in [
            (3_400, "3.4 us"),
            (81_000, "81 us"),
            (1_234_000, "1.23 ms"),
            (45_600_000, "46 ms"),
            (2_500_000_000, "2.50 s"),
        ] {
            assert_eq!(short(Duration::from_nanos(nanos)), wanted);
        }
    }

    #[test]
    fn what_was_taken_and_not_told_is_lost() {
        let tally = Tally {
            taken: vec![(0, 5), (1, 7)],
            follows: vec![1, 1, 2],
            ..Tally::default()
        };
        let outcome = Outcome {
            tally,
            took: Duration::from_secs(1),
        };
        assert_eq!(outcome.expected(), 14);
    }
}
