//! The embedded broker as a worker sees it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use crate::testing::{clock, message};
use crate::{BrokerKind, BrokerRuntime, BrokerSettings, RetainedLimits, WorkerLink, link, start};
use portcullis_proto::bridge::contract::{
    BrokerError, BrokerEvent, BrokerRequest, FilterId, MAX_RETAINED, Ticket,
};
use portcullis_proto::types::message::{Message, Qos};
use portcullis_proto::types::{TopicFilter, TopicName};

fn settings(state_dir: Option<&Path>, limits: RetainedLimits) -> BrokerSettings {
    BrokerSettings {
        node: "test".into(),
        state_dir: state_dir.map(Into::into),
        clock: clock(),
        kind: BrokerKind::Embedded(limits),
    }
}

fn broker(workers: usize) -> (BrokerRuntime, Vec<WorkerLink>) {
    start(settings(None, RetainedLimits::default()), workers).unwrap()
}

fn retained(topic: &str, payload: &str) -> Message {
    Message {
        retain: true,
        ..message(topic, payload)
    }
}

async fn next(link: &mut WorkerLink) -> BrokerEvent {
    tokio::time::timeout(Duration::from_secs(10), link.recv())
        .await
        .expect("an event within ten seconds")
        .expect("a broker that lives")
}

async fn publish(link: &mut WorkerLink, ticket: u64, message: Message) -> Result<(), BrokerError> {
    link.ask(BrokerRequest::Publish {
        ticket: Ticket(ticket),
        message: Arc::new(message),
    })
    .unwrap();
    loop {
        if let BrokerEvent::Published {
            ticket: answered,
            result,
        } = next(link).await
        {
            assert_eq!(answered, Ticket(ticket));
            return result;
        }
    }
}

async fn subscribe(link: &mut WorkerLink, id: u64, filter: &str) -> Result<Vec<String>, BrokerError> {
    link.ask(BrokerRequest::Subscribe {
        ticket: Ticket(1000 + id),
        filter_id: FilterId(id),
        filter: TopicFilter::new(filter).unwrap(),
        qos: Qos::AtLeastOnce,
        retained: true,
    })
    .unwrap();
    match next(link).await {
        BrokerEvent::Subscribed { ticket, result } => {
            assert_eq!(ticket, Ticket(1000 + id));
            result.map(|found| found.iter().map(|m| format!("{}={}", m.topic, text(m))).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

async fn read(link: &mut WorkerLink, topic: &str) -> Option<String> {
    link.ask(BrokerRequest::ReadRetained {
        ticket: Ticket(9),
        topic: TopicName::new(topic).unwrap(),
    })
    .unwrap();
    match next(link).await {
        BrokerEvent::Retained { result, .. } => result.unwrap().map(|message| text(&message)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn overlapping_filters_of_one_worker_bring_one_event_with_each_filter_once() {
    let (_runtime, mut links) = broker(3);
    let (mut c, mut b, mut a) = (links.pop().unwrap(), links.pop().unwrap(), links.pop().unwrap());
    for (id, filter) in [(1, "t/#"), (2, "t/+"), (3, "t/x"), (4, "other")] {
        subscribe(&mut a, id, filter).await.unwrap();
    }
    subscribe(&mut b, 1, "+/x").await.unwrap();
    publish(&mut c, 1, message("t/x", "hello")).await.unwrap();
    let BrokerEvent::Message {
        mut filters, message, ..
    } = next(&mut a).await
    else {
        panic!()
    };
    filters.sort();
    assert_eq!(*filters, [FilterId(1), FilterId(2), FilterId(3)]);
    assert_eq!(text(&message), "hello");
    let BrokerEvent::Message { filters, .. } = next(&mut b).await else {
        panic!()
    };
    assert_eq!(*filters, [FilterId(1)]);
    a.ask(BrokerRequest::Unsubscribe {
        filter_id: FilterId(2),
    })
    .unwrap();
    assert_eq!(read(&mut a, "t/x").await, None);
    publish(&mut c, 2, crate::testing::message("t/x", "again"))
        .await
        .unwrap();
    let BrokerEvent::Message { filters, .. } = next(&mut a).await else {
        panic!()
    };
    assert_eq!(filters.len(), 2);
    assert!(a.try_recv().is_none());
}

#[tokio::test]
async fn retained_messages_reach_each_new_observer_and_an_empty_payload_clears() {
    let (_runtime, mut links) = broker(2);
    let (mut b, mut a) = (links.pop().unwrap(), links.pop().unwrap());
    publish(&mut a, 1, retained("t/b", "2")).await.unwrap();
    publish(&mut a, 2, retained("t/a", "1")).await.unwrap();
    assert_eq!(subscribe(&mut b, 1, "t/#").await.unwrap(), ["t/a=1", "t/b=2"]);
    assert_eq!(subscribe(&mut b, 1, "t/#").await.unwrap(), ["t/a=1", "t/b=2"]);
    assert!(b.try_recv().is_none(), "the first observer gets nothing twice");
    assert_eq!(read(&mut a, "t/a").await.as_deref(), Some("1"));
    publish(&mut a, 3, retained("t/a", "")).await.unwrap();
    assert_eq!(read(&mut a, "t/a").await, None);
    let BrokerEvent::Message { message, .. } = next(&mut b).await else {
        panic!()
    };
    assert!(
        message.payload.is_empty() && message.retain,
        "the clearing is delivered"
    );
}

#[tokio::test]
async fn a_full_retained_store_refuses_the_publish_as_a_whole() {
    let limits = RetainedLimits {
        max_messages: 1,
        max_bytes: 1 << 20,
    };
    let (runtime, mut links) = start(settings(None, limits), 1).unwrap();
    let mut a = links.pop().unwrap();
    subscribe(&mut a, 1, "#").await.unwrap();
    publish(&mut a, 1, retained("a", "1")).await.unwrap();
    assert_eq!(
        publish(&mut a, 2, retained("b", "1")).await,
        Err(BrokerError::Quota)
    );
    assert!(a.try_recv().is_none(), "nobody saw the refused one");
    publish(&mut a, 3, retained("a", "")).await.unwrap();
    publish(&mut a, 4, retained("b", "1")).await.unwrap();
    assert_eq!(runtime.metrics().snapshot().retained_rejected, 1);
}

#[tokio::test]
async fn shared_filters_are_refused() {
    let (_runtime, mut links) = broker(1);
    let mut a = links.pop().unwrap();
    assert_eq!(
        subscribe(&mut a, 2, "$share/g/a").await,
        Err(BrokerError::Refused)
    );
}

fn ask(link: &mut WorkerLink, id: u64, filter: &str) {
    link.ask(BrokerRequest::Subscribe {
        ticket: Ticket(id),
        filter_id: FilterId(id),
        filter: TopicFilter::new(filter).unwrap(),
        qos: Qos::AtLeastOnce,
        retained: true,
    })
    .unwrap();
}

#[tokio::test]
async fn a_search_through_a_large_store_lets_others_pass_and_misses_nothing() {
    let (_runtime, mut links) = broker(1);
    let mut a = links.pop().unwrap();
    for n in 0..9_000 {
        publish(&mut a, n, retained(&format!("t/{n:05}"), "x"))
            .await
            .unwrap();
    }
    // Ten filters that look through everything, twice each; a publish behind them does not wait for that.
    for id in 0..20 {
        ask(&mut a, id, &format!("+/{}/#", id % 10));
    }
    for id in 20..30 {
        ask(&mut a, id, &format!("+/{:05}", (id - 20) * 800));
    }
    a.ask(BrokerRequest::Publish {
        ticket: Ticket(100),
        message: Arc::new(retained("t/00000", "new")),
    })
    .unwrap();
    let mut before = None;
    let mut answered = 0;
    while answered < 30 || before.is_none() {
        match next(&mut a).await {
            BrokerEvent::Published {
                ticket: Ticket(100), ..
            } => before = Some(answered),
            BrokerEvent::Subscribed { ticket, result } => {
                answered += 1;
                let found = result.unwrap();
                match ticket.0 {
                    0..20 => assert_eq!(found.len(), 0),
                    20 => assert_eq!((found.len(), text(&found[0])), (1, "new".into())),
                    _ => assert_eq!(found.len(), 1),
                }
            }
            BrokerEvent::Message { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(before.unwrap() < 10, "{before:?} searches were done first");
}

#[tokio::test]
async fn an_answer_brings_no_more_retained_messages_than_it_may_and_counts_that() {
    let (runtime, mut links) = broker(1);
    let mut a = links.pop().unwrap();
    for n in 0..MAX_RETAINED as u64 + 10 {
        publish(&mut a, n, retained(&format!("t/{n:05}"), "x"))
            .await
            .unwrap();
    }
    assert_eq!(subscribe(&mut a, 1, "t/#").await.unwrap().len(), MAX_RETAINED);
    assert_eq!(runtime.metrics().snapshot().retained_cut, 1);
}

static WALL_AHEAD: AtomicU64 = AtomicU64::new(0);

fn skewed() -> SystemTime {
    (clock().wall)() + Duration::from_secs(WALL_AHEAD.load(Ordering::SeqCst))
}

#[tokio::test]
async fn retained_messages_survive_a_restart_and_their_time_goes_on_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(Some(directory.path()), RetainedLimits::default());
    settings.clock.wall = skewed;
    let (runtime, mut links) = start(settings.clone(), 1).unwrap();
    let mut a = links.pop().unwrap();
    let now = (clock().now)();
    for (topic, seconds) in [("short", Some(60)), ("long", Some(6000)), ("ever", None)] {
        let mut message = retained(topic, topic);
        message.expires_at = seconds.map(|s| now + Duration::from_secs(s));
        message.content_type = Some("text/plain".into());
        publish(&mut a, 1, message).await.unwrap();
    }
    publish(
        &mut a,
        1,
        Message {
            qos: Qos::AtMostOnce,
            ..retained("cleared", "x")
        },
    )
    .await
    .unwrap();
    publish(
        &mut a,
        1,
        Message {
            qos: Qos::AtMostOnce,
            ..retained("cleared", "")
        },
    )
    .await
    .unwrap();
    runtime.shutdown().await;
    WALL_AHEAD.store(600, Ordering::SeqCst);
    let (runtime, mut links) = start(settings, 1).unwrap();
    let mut a = links.pop().unwrap();
    assert_eq!(
        subscribe(&mut a, 1, "#").await.unwrap(),
        ["ever=ever", "long=long"]
    );
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_slow_worker_loses_messages_and_no_answer() {
    let (runtime, mut links) = broker(2);
    let (mut slow, mut fast) = (links.pop().unwrap(), links.pop().unwrap());
    subscribe(&mut slow, 1, "t").await.unwrap();
    let total = link::MAX_QUEUED_MESSAGES as u64 + 100;
    for ticket in 0..total {
        publish(&mut fast, ticket, message("t", "x")).await.unwrap();
    }
    let ask = |ticket| BrokerRequest::ReadRetained {
        ticket,
        topic: TopicName::new("t").unwrap(),
    };
    slow.ask(ask(Ticket(77))).unwrap();
    let mut messages = 0;
    loop {
        match next(&mut slow).await {
            BrokerEvent::Message { .. } => messages += 1,
            BrokerEvent::Retained { ticket, .. } => {
                assert_eq!(ticket, Ticket(77));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages, link::MAX_QUEUED_MESSAGES);
    assert_eq!(runtime.metrics().snapshot().undelivered, 100);
}

#[tokio::test]
async fn shutdown_answers_what_was_queued() {
    let directory = tempfile::tempdir().unwrap();
    let (runtime, mut links) = start(settings(Some(directory.path()), RetainedLimits::default()), 1).unwrap();
    let mut a = links.pop().unwrap();
    for ticket in 0..500 {
        let message = Arc::new(retained(&format!("t/{ticket}"), "x"));
        a.ask(BrokerRequest::Publish {
            ticket: Ticket(ticket),
            message,
        })
        .unwrap();
    }
    runtime.shutdown().await;
    let mut answered = 0;
    while let Some(BrokerEvent::Published { result, .. }) = a.try_recv() {
        result.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 500);
    assert!(
        a.ask(BrokerRequest::ReadRetained {
            ticket: Ticket(1),
            topic: TopicName::new("t").unwrap()
        })
        .is_err()
    );
}

fn request(ticket: u64, message: Message) -> BrokerRequest {
    BrokerRequest::Publish {
        ticket: Ticket(ticket),
        message: Arc::new(message),
    }
}

#[tokio::test]
async fn a_publish_is_answered_and_reaches_observers_of_its_worker_before_anything_else_runs() {
    let (_runtime, mut links) = broker(2);
    let (mut other, mut a) = (links.pop().unwrap(), links.pop().unwrap());
    subscribe(&mut a, 1, "t").await.unwrap();
    subscribe(&mut other, 1, "t").await.unwrap();
    a.ask(request(7, message("t", "x"))).unwrap();
    assert!(matches!(a.next_at_hand(), Some(BrokerEvent::Message { .. })));
    let answer = a.next_at_hand();
    assert!(
        matches!(
            answer,
            Some(BrokerEvent::Published {
                ticket: Ticket(7),
                result: Ok(())
            })
        ),
        "{answer:?}"
    );
    assert!(other.try_recv().is_none(), "it leaves with the flush");
    assert!(a.flush().is_empty());
    assert!(matches!(other.try_recv(), Some(BrokerEvent::Message { .. })));
}

#[tokio::test]
async fn a_publish_does_not_overtake_what_it_may_follow_up_on() {
    let (_runtime, mut links) = broker(2);
    let (mut other, mut a) = (links.pop().unwrap(), links.pop().unwrap());
    subscribe(&mut a, 1, "t").await.unwrap();
    publish(&mut other, 1, message("t", "first")).await.unwrap();
    a.ask(request(2, message("t", "second"))).unwrap();
    let at_hand = a.next_at_hand();
    assert!(
        matches!(at_hand, Some(BrokerEvent::Published { .. })),
        "{at_hand:?}"
    );
    a.ask(request(3, message("t", "third"))).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = a.try_recv() {
        if let BrokerEvent::Message { message, .. } = event {
            seen.push(text(&message));
        }
    }
    assert_eq!(seen, ["first", "second", "third"]);
}

/// Publishes, and takes in what comes, on a thread of its own; gives what it saw.
fn hammer(mut link: WorkerLink, name: usize, retain: bool, over: Arc<Barrier>) -> (WorkerLink, Vec<String>) {
    let mut seen = Vec::new();
    let mut look = |link: &mut WorkerLink| {
        while let Some(event) = link.try_recv() {
            if let BrokerEvent::Message { message, .. } = event {
                seen.push(text(&message));
            }
        }
    };
    for number in 0..3_000 {
        let payload = format!("{name}/{number}");
        let message = Message {
            retain,
            ..message("t", &payload)
        };
        link.ask(request(number, message)).unwrap();
        if number % 7 == 0 {
            look(&mut link);
        }
    }
    look(&mut link);
    over.wait();
    look(&mut link);
    (link, seen)
}

#[tokio::test]
async fn each_observer_sees_each_publisher_in_order_and_the_retained_message_last() {
    for retain in [false, true] {
        let (_runtime, mut links) = broker(3);
        for link in &mut links {
            subscribe(link, 1, "t").await.unwrap();
        }
        let over = Arc::new(Barrier::new(links.len()));
        let threads: Vec<_> = links
            .into_iter()
            .enumerate()
            .map(|(name, link)| {
                let over = Arc::clone(&over);
                std::thread::spawn(move || hammer(link, name, retain, over))
            })
            .collect();
        for thread in threads {
            let (mut link, seen) = thread.join().unwrap();
            let mut next = [0; 3];
            for text in &seen {
                let (name, number) = text.split_once('/').unwrap();
                let next = &mut next[name.parse::<usize>().unwrap()];
                assert_eq!(number.parse(), Ok(*next), "{name}");
                *next += 1;
            }
            assert_eq!(next, [3_000; 3]);
            if retain {
                assert_eq!(read(&mut link, "t").await.as_ref(), seen.last());
            }
        }
    }
}

#[tokio::test]
async fn an_observer_that_comes_amid_retained_publishes_misses_none_and_sees_them_in_order() {
    let (_runtime, mut links) = broker(2);
    let (mut observer, mut publisher) = (links.pop().unwrap(), links.pop().unwrap());
    let publishing = std::thread::spawn(move || {
        for number in 0..4_000_u64 {
            publisher
                .ask(request(number, retained("t", &number.to_string())))
                .unwrap();
            while publisher.try_recv().is_some() {}
        }
        publisher
    });
    let number = |message: &Message| text(message).parse::<u64>().unwrap();
    let mut id = 0;
    while !publishing.is_finished() {
        id += 1;
        ask(&mut observer, id, "t");
        let mut last = None;
        for _ in 0..20 {
            match next_or_end(&mut observer).await {
                Some(BrokerEvent::Subscribed { result, .. }) => {
                    last = result.unwrap().first().map(|message| number(message));
                }
                Some(BrokerEvent::Message { filters, message, .. }) if filters.contains(&FilterId(id)) => {
                    assert_eq!(number(&message), last.map_or(0, |last| last + 1));
                    last = Some(number(&message));
                }
                Some(_) => {}
                None => break,
            }
        }
        observer
            .ask(BrokerRequest::Unsubscribe {
                filter_id: FilterId(id),
            })
            .unwrap();
    }
    publishing.join().unwrap();
}

async fn next_or_end(link: &mut WorkerLink) -> Option<BrokerEvent> {
    tokio::time::timeout(Duration::from_millis(100), link.recv())
        .await
        .ok()
        .flatten()
}
