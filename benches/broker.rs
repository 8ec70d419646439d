//! Publishes per second through the embedded broker: `cargo bench --bench broker`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench prints what it measured, reads the clock, and stops at the first failure"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use portcullis::bridge::contract::{BrokerEvent, BrokerRequest, FilterId, Ticket};
use portcullis::broker::{BrokerKind, BrokerSettings, Clock, RetainedLimits, WorkerLink, start};
use portcullis::types::message::{Message, Qos};
use portcullis::types::{TopicFilter, TopicName};

const WINDOW: u64 = 1024;

fn message(topic: &str, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::from_static(&[b'x'; 128]),
        qos: Qos::AtLeastOnce,
        retain,
        content_type: None,
        expires_at: None,
        origin: None,
    })
}

async fn answer(link: &mut WorkerLink) -> bool {
    matches!(
        link.events.recv().await.unwrap(),
        BrokerEvent::Published { result: Ok(()), .. }
    )
}

async fn subscribe(link: &mut WorkerLink, id: u64, filter: &str) {
    link.requests
        .try_send(BrokerRequest::Subscribe {
            ticket: Ticket(id),
            filter_id: FilterId(id),
            filter: TopicFilter::new(filter).unwrap(),
            qos: Qos::AtLeastOnce,
            retained: true,
        })
        .unwrap();
    link.events.recv().await.unwrap();
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
        while observer.events.recv().await.is_some() {
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
            publisher.requests.try_send(request).unwrap();
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
    drop(runtime);
    std::thread::sleep(Duration::from_millis(10));
}
