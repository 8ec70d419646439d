//! Publishes per second through the embedded broker, and what filters cost that are made to cost: `cargo bench --bench broker`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench prints what it measured, reads the clock, and stops at the first failure"
)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use portcullis::bridge::contract::{BrokerEvent, BrokerRequest, FilterId, Ticket};
use portcullis::broker::{
    BrokerKind, BrokerRuntime, BrokerSettings, Clock, RetainedLimits, WorkerLink, start,
};
use portcullis::types::message::{Message, Qos};
use portcullis::types::{TopicFilter, TopicName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WINDOW: u64 = 1024;

fn message(topic: &str, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        retain,
        ..Message::new(
            TopicName::new(topic).unwrap(),
            Bytes::from_static(&[b'x'; 128]),
            Qos::AtLeastOnce,
        )
    })
}

async fn answer(link: &mut WorkerLink) -> bool {
    matches!(
        link.recv().await.unwrap(),
        BrokerEvent::Published { result: Ok(()), .. }
    )
}

async fn subscribe(link: &mut WorkerLink, id: u64, filter: &str) {
    link.ask(BrokerRequest::Subscribe {
        ticket: Ticket(id),
        filter_id: FilterId(id),
        filter: TopicFilter::new(filter).unwrap(),
        qos: Qos::AtLeastOnce,
        retained: true,
    })
    .unwrap();
    link.recv().await.unwrap();
}

async fn run(name: &str, count: u64, filters: &[String], retain: bool, topics: u64) {
    let directory = tempfile::tempdir().unwrap();
    let settings = BrokerSettings {
        node: "bench".into(),
        state_dir: Some(directory.path().into()),
        clock: Clock {
            now: Instant::now,
            wall: SystemTime::now,
        },
        kind: BrokerKind::Embedded(RetainedLimits::default()),
    };
    let (runtime, mut links) = start(settings, 2).unwrap();
    let (mut observer, mut publisher) = (links.pop().unwrap(), links.pop().unwrap());
    for (id, filter) in filters.iter().enumerate() {
        subscribe(&mut observer, id as u64, filter).await;
    }
    let drained = tokio::spawn(async move {
        let mut messages = 0u64;
        while observer.recv().await.is_some() {
            messages += 1;
        }
        messages
    });
    let messages: Vec<_> = (0..topics)
        .map(|n| message(&format!("site/a/dev/{n}/temp"), retain))
        .collect();
    let begun = Instant::now();
    let (mut sent, mut answered, mut refused) = (0, 0, 0u64);
    while answered < count {
        while sent < count && sent - answered < WINDOW {
            let message = Arc::clone(&messages[(sent % topics) as usize]);
            let request = BrokerRequest::Publish {
                ticket: Ticket(sent),
                message,
            };
            publisher.ask(request).unwrap();
            sent += 1;
        }
        refused += u64::from(!answer(&mut publisher).await);
        answered += 1;
    }
    let took = begun.elapsed();
    drop(publisher);
    runtime.shutdown().await;
    let delivered = drained.await.unwrap();
    println!(
        "{name:44} {:>9.0} publishes/s  ({count} in {took:.2?}, delivered {delivered}, refused {refused})",
        count as f64 / took.as_secs_f64()
    );
}

/// From a publish to its answer, over and over: median and longest.
async fn latency(link: &mut WorkerLink, topic: &str) -> (Duration, Duration) {
    let message = message(topic, false);
    let mut took = Vec::new();
    for n in 0..500 {
        let begun = Instant::now();
        let request = BrokerRequest::Publish {
            ticket: Ticket(n),
            message: Arc::clone(&message),
        };
        link.ask(request).unwrap();
        while !answer(link).await {}
        took.push(begun.elapsed());
    }
    took.sort();
    (took[took.len() / 2], took[took.len() - 1])
}

fn embedded(retained: RetainedLimits) -> (BrokerRuntime, WorkerLink) {
    let settings = BrokerSettings {
        node: "bench".into(),
        state_dir: None,
        clock: Clock {
            now: Instant::now,
            wall: SystemTime::now,
        },
        kind: BrokerKind::Embedded(retained),
    };
    let (runtime, mut links) = start(settings, 1).unwrap();
    (runtime, links.pop().unwrap())
}

/// What a match costs in a table of `filters`, none of which matches a topic of `levels` levels.
async fn crowded(name: &str, levels: usize, filters: &HashSet<String>) {
    let (runtime, mut link) = embedded(RetainedLimits::default());
    let topic = vec!["a"; levels].join("/");
    let quiet = latency(&mut link, &topic).await;
    let begun = Instant::now();
    for (id, filter) in (0..).zip(filters) {
        subscribe(&mut link, id, filter).await;
    }
    let (subscribed, full) = (begun.elapsed(), latency(&mut link, &topic).await);
    let text: usize = filters.iter().map(|filter| filter.len() + 16).sum();
    let bytes = runtime.metrics().snapshot().filter_bytes as usize;
    println!(
        "{name:44} {:>7} filters: {:>4} + {:>3} bytes each, publish {:.1?} (longest {:.1?}), empty table {:.1?}, made in {subscribed:.2?}",
        filters.len(),
        (bytes - text) / filters.len(),
        text / filters.len(),
        full.0,
        full.1,
        quiet.0,
    );
    runtime.shutdown().await;
}

/// What a publish costs while filters are asked for that look through all retained messages.
async fn searched(count: u64) {
    let (runtime, mut link) = embedded(RetainedLimits::default());
    for n in 0..count {
        let request = BrokerRequest::Publish {
            ticket: Ticket(n),
            message: message(&format!("site/{}/dev/{n}/temp", n % 97), true),
        };
        link.ask(request).unwrap();
        answer(&mut link).await;
    }
    let quiet = latency(&mut link, "t").await;
    for n in 0..500 {
        let request = BrokerRequest::Subscribe {
            ticket: Ticket(n),
            filter_id: FilterId(n),
            filter: TopicFilter::new(&format!("+/+/+/+/x{n}")).unwrap(),
            qos: Qos::AtLeastOnce,
            retained: true,
        };
        link.ask(request).unwrap();
    }
    let busy = latency(&mut link, "t").await;
    println!(
        "{count} retained, 500 searches for nothing: publish {:.1?} (longest {:.1?}), without {:.1?}",
        busy.0, busy.1, quiet.0
    );
    runtime.shutdown().await;
}

/// `count` filters of `levels` levels, each but the last `+` or `a` at random.
fn of_one_word(count: usize, levels: usize, last: &[&str]) -> HashSet<String> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut filters = HashSet::new();
    while filters.len() < count {
        let levels: Vec<&str> = (1..levels)
            .map(|_| if rng.random() { "+" } else { "a" })
            .collect();
        let begin = levels.join("/");
        filters.extend(last.iter().map(|last| format!("{begin}/{last}")));
    }
    filters
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let scale = if std::env::args().any(|arg| arg == "--quick") {
        10
    } else {
        1
    };
    runtime.block_on(async {
        let exact: Vec<String> = (0..1000).map(|n| format!("site/a/dev/{n}/temp")).collect();
        let wild: Vec<String> = (0..1000).map(|n| format!("site/+/dev/{n}/#")).collect();
        run("no subscriber", 1_000_000 / scale, &[], false, 1000).await;
        run(
            "1,000 exact filters, one matches",
            1_000_000 / scale,
            &exact,
            false,
            1000,
        )
        .await;
        run(
            "1,000 wildcard filters, one matches",
            1_000_000 / scale,
            &wild,
            false,
            1000,
        )
        .await;
        run(
            "retained, durable, 1,000 topics",
            200_000 / scale,
            &[],
            true,
            1000,
        )
        .await;
    });
    runtime.block_on(async {
        let cap = 131_072 / usize::try_from(scale).unwrap();
        crowded(
            "+ or a at each of 31 levels, then b",
            32,
            &of_one_word(cap, 32, &["b"]),
        )
        .await;
        crowded(
            "the same, each with two ends",
            32,
            &of_one_word(cap, 32, &["b", "c"]),
        )
        .await;
        crowded("the same, with b/#", 32, &of_one_word(cap, 31, &["b/#"])).await;
        crowded(
            "+ or a at each of 16 levels, then b",
            17,
            &of_one_word(cap / 4, 17, &["b"]),
        )
        .await;
        let honest = (0..cap).map(|n| format!("site/{}/dev/{n}/+/#", n % 97)).collect();
        crowded("one shape", 8, &honest).await;
        searched(100_000 / scale).await;
    });
    drop(runtime);
    std::thread::sleep(Duration::from_millis(10));
}
