//! Subscriptions: one upstream for each filter, retained messages to whom they belong, lost sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::bridge::contract::BrokerError;
use portcullis::broker::Protocol;
use portcullis::types::TopicLimits;

use crate::harness::*;
use crate::proxy::Proxy;
use crate::script::Script;

#[tokio::test(flavor = "multi_thread")]
async fn the_retained_message_reaches_each_new_observer_and_nobody_twice() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 2).await;
        gateway.workers[0].publish(retained("t/a", "1")).await.unwrap();
        gateway.workers[0].publish(retained("t/b", "2")).await.unwrap();
        let both = Ok(vec!["t/a=1".to_string(), "t/b=2".to_string()]);
        assert_eq!(gateway.workers[0].subscribe(1, "t/#", true).await, both);
        // The same filter, of the same worker and of another, and an overlapping one.
        assert_eq!(gateway.workers[0].subscribe(1, "t/#", true).await, both);
        assert_eq!(gateway.workers[1].subscribe(7, "t/#", true).await, both);
        assert_eq!(
            gateway.workers[1].subscribe(8, "t/a", true).await,
            Ok(vec!["t/a=1".into()])
        );
        assert_eq!(gateway.workers[1].subscribe(9, "t/b", false).await, Ok(vec![]));
        assert_eq!(gateway.workers[1].subscribe(10, "t/none", true).await, Ok(vec![]));
        for worker in &mut gateway.workers {
            worker.assert_silence().await;
        }
        assert_eq!(gateway.snapshot().subscriptions, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_observers_at_once_all_get_the_retained_messages() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 2).await;
        for number in 0..300 {
            gateway.workers[0].send(retained(&format!("t/{number:03}"), &number.to_string()));
        }
        gateway.until(|snapshot| snapshot.acknowledged == 300).await;
        let mut tickets = Vec::new();
        for id in 0..20 {
            tickets.push((
                0,
                gateway.workers[0].send_subscribe(
                    id % 5,
                    &format!("t/{}", "+#".chars().nth(id as usize % 2).unwrap()),
                    true,
                ),
            ));
            tickets.push((1, gateway.workers[1].send_subscribe(id, "t/#", true)));
        }
        for (worker, ticket) in tickets {
            let found = gateway.workers[worker].subscribed(ticket).await.unwrap();
            assert_eq!(found.len(), 300);
            assert!(found.is_sorted());
        }
        for worker in &mut gateway.workers {
            worker.assert_silence().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_sends_retained_messages_by_and_by_over_a_long_way_leaves_none_out() {
    for protocol in BOTH {
        // mosquitto sends 20, and more as these are acknowledged.
        let mosquitto = Mosquitto::start();
        let proxy = Proxy::start(mosquitto.port).await;
        let mut gateway = Gateway::connected(mqtt(proxy.port, protocol), None, 1).await;
        for number in 0..100 {
            gateway.workers[0].send(retained(&format!("t/{number:03}"), &number.to_string()));
        }
        gateway.until(|snapshot| snapshot.acknowledged == 100).await;
        proxy.delay();
        let found = gateway.workers[0].subscribe(1, "t/+", true).await.unwrap();
        assert_eq!(found.len(), 100, "{protocol:?}");
        gateway.workers[0].assert_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_filters_deliver_once_for_each_filter() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 2).await;
        for (id, filter) in [(1, "t/#"), (2, "t/+"), (3, "t/x"), (4, "#"), (5, "other")] {
            gateway.workers[0].subscribe(id, filter, true).await.unwrap();
        }
        gateway.workers[1].subscribe(1, "t/x", true).await.unwrap();
        for number in 0..10 {
            peer.publish("t/x", &number.to_string(), false).await;
        }
        let mut seen = Vec::new();
        while seen.len() < 40 {
            let (filters, message) = gateway.workers[0].message().await;
            seen.extend(filters.into_iter().map(|filter| (filter, text(&message))));
        }
        seen.sort();
        let wanted: Vec<(u64, String)> = (1..=4)
            .flat_map(|filter| (0..10).map(move |number| (filter, number.to_string())))
            .collect();
        assert_eq!(seen, wanted);
        for number in 0..10 {
            let (filters, message) = gateway.workers[1].message().await;
            assert_eq!((filters, text(&message)), (vec![1], number.to_string()));
        }
        for worker in &mut gateway.workers {
            worker.assert_silence().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_departure_unsubscribes_and_no_earlier_one() {
    let mosquitto = Mosquitto::start();
    let mut peer = Peer::connect(mosquitto.port).await;
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 2).await;
    gateway.workers[0].subscribe(1, "t/x", true).await.unwrap();
    gateway.workers[1].subscribe(1, "t/x", true).await.unwrap();
    gateway.workers[0].unsubscribe(1);
    // Answered behind the unsubscribe: until that is done a message may still come.
    gateway.workers[0]
        .publish(message("other", "x", 1))
        .await
        .unwrap();
    peer.publish("t/x", "still", false).await;
    assert_eq!(text(&gateway.workers[1].message().await.1), "still");
    gateway.workers[0].assert_silence().await;
    assert!(!unsubscribed(&mosquitto.log(), "t/x"));
    gateway.workers[1].unsubscribe(1);
    gateway.until(|snapshot| snapshot.subscriptions == 0).await;
    until_unsubscribed(&mosquitto, "t/x").await;
    peer.publish("t/x", "gone", false).await;
    gateway.workers[1].assert_silence().await;
    assert_eq!(gateway.workers[1].subscribe(2, "t/x", true).await, Ok(vec![]));
}

async fn until_logged(mosquitto: &Mosquitto, condition: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    while !condition(&mosquitto.log()) {
        assert!(begun.elapsed() < PATIENCE, "not in the log: {}", mosquitto.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_unsubscribed(mosquitto: &Mosquitto, filter: &str) {
    until_logged(mosquitto, |log| unsubscribed(log, filter)).await;
}

fn unsubscribed(log: &str, filter: &str) -> bool {
    let mut lines = log.lines();
    while let Some(line) = lines.next() {
        if line.contains("Received UNSUBSCRIBE from gateway")
            && lines.next().is_some_and(|next| next.ends_with(filter))
        {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_leaves_no_subscription_behind() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.publish("t/x", "21.5", true).await;
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 1).await;
        let worker = &mut gateway.workers[0];
        assert_eq!(worker.read("t/x").await, Ok(Some("21.5".into())));
        assert_eq!(worker.read("t/y").await, Ok(None));
        gateway.until(|snapshot| snapshot.subscriptions == 0).await;
        until_unsubscribed(&mosquitto, "t/x").await;
        let worker = &mut gateway.workers[0];
        // Beside an observer of the same topic: it hears nothing of it and keeps its subscription.
        worker.subscribe(1, "t/x", true).await.unwrap();
        assert_eq!(worker.read("t/x").await, Ok(Some("21.5".into())));
        worker.assert_silence().await;
        peer.publish("t/x", "22", true).await;
        assert_eq!(text(&worker.message().await.1), "22");
        assert_eq!(worker.read("t/x").await, Ok(Some("22".into())));
        gateway.until(|snapshot| snapshot.subscriptions == 1).await;
        until_unsubscribed(&mosquitto, "t/y").await;
        peer.publish("t/x", "23", false).await;
        assert_eq!(
            text(&gateway.workers[0].message().await.1),
            "23",
            "the observer's subscription stands"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_made_again_after_a_lost_session() {
    for protocol in BOTH {
        let mut mosquitto = Mosquitto::start();
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 1).await;
        for id in 0..50 {
            gateway.workers[0]
                .subscribe(id, &format!("t/{id}"), true)
                .await
                .unwrap();
        }
        gateway.workers[0].unsubscribe(0);
        for round in 0..2 {
            mosquitto.kill();
            gateway.until_connected(false).await;
            mosquitto.up();
            gateway.until_connected(true).await;
            until_logged(&mosquitto, |log| {
                log.matches("Sending SUBACK to gateway").count() >= 49
            })
            .await;
            let mut peer = Peer::connect(mosquitto.port).await;
            for id in 0..50 {
                peer.publish(&format!("t/{id}"), &round.to_string(), id % 2 == 0)
                    .await;
            }
            for id in 1..50 {
                let (filters, message) = gateway.workers[0].message().await;
                assert_eq!((filters, text(&message)), (vec![id], round.to_string()));
            }
        }
        gateway.workers[0].assert_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_session_observers_learn_what_changed_and_nothing_twice() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let proxy = Proxy::start(mosquitto.port).await;
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.publish("t/same", "1", true).await;
        peer.publish("t/changed", "1", true).await;
        peer.publish("t/exact", "1", true).await;
        let mut gateway = Gateway::connected(mqtt(proxy.port, protocol), None, 1).await;
        gateway.workers[0].subscribe(1, "t/+", true).await.unwrap();
        gateway.workers[0].subscribe(2, "t/exact", false).await.unwrap();
        peer.publish("t/live", "1", true).await;
        assert_eq!(gateway.workers[0].message().await.0, [1]);
        proxy.down();
        gateway.until_connected(false).await;
        // Another client takes the session over and ends it.
        Peer::named(mosquitto.port, "gateway", true).await.stop().await;
        peer.publish("t/changed", "2", true).await;
        peer.publish("t/new", "1", true).await;
        peer.publish("t/exact", "2", true).await;
        proxy.up();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let (filters, message) = gateway.workers[0].message().await;
            seen.extend(filters.into_iter().map(|filter| (filter, described(&message))));
        }
        seen.sort();
        let wanted = [
            (1, "t/changed=2"),
            (1, "t/exact=2"),
            (1, "t/new=1"),
            (2, "t/exact=2"),
        ];
        assert_eq!(seen, wanted.map(|(filter, text)| (filter, text.to_string())));
        gateway.workers[0].assert_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_only_the_line_is_cut_is_delivered_afterwards() {
    let mosquitto = Mosquitto::start();
    let proxy = Proxy::start(mosquitto.port).await;
    let mut peer = Peer::connect(mosquitto.port).await;
    let mut gateway = Gateway::connected(mqtt(proxy.port, Protocol::V5), None, 1).await;
    gateway.workers[0].subscribe(1, "t/#", true).await.unwrap();
    gateway.workers[0].subscribe(2, "gone", true).await.unwrap();
    proxy.down();
    gateway.until_connected(false).await;
    gateway.workers[0].unsubscribe(2);
    for number in 0..20 {
        peer.publish("t/x", &number.to_string(), false).await;
        peer.publish("gone", &number.to_string(), false).await;
    }
    proxy.up();
    for number in 0..20 {
        let (filters, message) = gateway.workers[0].message().await;
        assert_eq!((filters, text(&message)), (vec![1], number.to_string()));
    }
    gateway.workers[0].assert_silence().await;
    until_unsubscribed(&mosquitto, "gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_changes_workers_while_the_broker_is_away_keeps_its_subscription() {
    for protocol in BOTH {
        let mut mosquitto = Mosquitto::start();
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 2).await;
        gateway.workers[0].subscribe(1, "t/x", true).await.unwrap();
        mosquitto.kill();
        gateway.until_connected(false).await;
        assert_eq!(gateway.workers[1].subscribe(2, "t/x", false).await, Ok(vec![]));
        gateway.workers[0].unsubscribe(1);
        mosquitto.up();
        gateway.until_connected(true).await;
        let begun = Instant::now();
        // The first ones may come before the subscription is made again.
        while gateway.workers[1].messages.is_empty() && begun.elapsed() < PATIENCE {
            gateway.workers[0]
                .publish(message("t/x", "there", 1))
                .await
                .unwrap();
            gateway.workers[1].drain();
        }
        let (filters, received) = gateway.workers[1].message().await;
        assert_eq!((filters, text(&received)), (vec![2], "there".to_owned()));
        assert!(gateway.workers[0].messages.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_while_the_broker_is_away_is_answered_at_once() {
    let mut mosquitto = Mosquitto::start();
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    gateway.workers[0].subscribe(1, "t/x", true).await.unwrap();
    mosquitto.kill();
    gateway.until_connected(false).await;
    let worker = &mut gateway.workers[0];
    assert_eq!(
        worker.subscribe(2, "t/y", true).await,
        Err(BrokerError::Unavailable)
    );
    assert_eq!(worker.read("t/x").await, Err(BrokerError::Unavailable));
    worker.unsubscribe(1);
    gateway.until(|snapshot| snapshot.subscriptions == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_broker_reach_the_observer() {
    let codes = [
        (0x87, BrokerError::NotAuthorized),
        (0x97, BrokerError::Quota),
        (0x8F, BrokerError::Refused),
        (0xA2, BrokerError::Refused),
        (0x80, BrokerError::Unavailable),
    ];
    for (code, error) in codes {
        let script = Script::start(move |topic| if topic.starts_with("no") { code } else { 0 }).await;
        let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V5), None, 1).await;
        let worker = &mut gateway.workers[0];
        assert_eq!(worker.subscribe(1, "no/#", true).await, Err(error), "{code:x}");
        assert_eq!(worker.subscribe(2, "no/x", false).await, Err(error), "{code:x}");
        assert_eq!(worker.subscribe(3, "yes/#", true).await, Ok(vec![]));
        assert_eq!(gateway.snapshot().subscriptions, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_refused_when_it_is_made_again_is_reported_lost() {
    let script = Script::start(|_| 0).await;
    let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V5), None, 1).await;
    gateway.workers[0].subscribe(1, "a", false).await.unwrap();
    gateway.workers[0].subscribe(2, "b", false).await.unwrap();
    script.decide(|topic| if topic == "a" { 0x87 } else { 0 });
    script.cut();
    gateway
        .until(|snapshot| snapshot.subscriptions == 1 && snapshot.connected)
        .await;
    gateway.workers[0].drain();
    assert_eq!(gateway.workers[0].lost, [(1, BrokerError::NotAuthorized)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_keep_a_subscription_that_a_shaken_cluster_does_not_take_again_at_once() {
    for protocol in BOTH {
        let script = Script::start(|_| 0).await;
        let mut gateway = Gateway::connected(mqtt(script.port, protocol), None, 1).await;
        gateway.workers[0].subscribe(1, "a", false).await.unwrap();
        gateway.workers[0].subscribe(2, "b", false).await.unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        script.decide(move |topic| {
            // Twice not, and then as if nothing had been.
            let refused = topic == "a" && counted.fetch_add(1, Ordering::SeqCst) < 2;
            if refused { 0x80 } else { 0 }
        });
        script.cut();
        let begun = Instant::now();
        while asked.load(Ordering::SeqCst) < 3 {
            assert!(begun.elapsed() < PATIENCE * 2, "asked {asked:?} times");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let worker = &mut gateway.workers[0];
        worker.subscribe(3, "c", false).await.unwrap();
        worker.drain();
        assert_eq!(worker.lost, [], "{protocol:?}");
        assert_eq!(gateway.snapshot().subscriptions, 3);
        // It stands: a further observer needs no word of the broker.
        script.decide(|topic| if topic == "a" { 0x80 } else { 0 });
        gateway.workers[0].subscribe(4, "a", false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_while_a_subscription_waits_to_be_made_again_is_answered() {
    let script = Script::start(|_| 0).await;
    let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V4), None, 1).await;
    gateway.workers[0].subscribe(1, "a", false).await.unwrap();
    script.decide(|topic| if topic == "a" { 0x80 } else { 0 });
    script.cut();
    // It connects again at once: the time between may be too short to be seen.
    let again = ("ok", 2);
    gateway
        .until(|snapshot| snapshot.connected && snapshot.connects.contains(&again))
        .await;
    let worker = &mut gateway.workers[0];
    assert_eq!(
        worker.subscribe(2, "a", false).await,
        Err(BrokerError::NotAuthorized)
    );
    worker.unsubscribe(1);
    gateway.until(|snapshot| snapshot.subscriptions == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_on_a_topic_over_the_limits_is_for_nobody_and_counted() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 1).await;
        gateway.runtime.limit_topics(TopicLimits::new(6, 90));
        gateway.workers[0].subscribe(1, "#", true).await.unwrap();
        let deep = |levels: usize| vec!["d"; levels].join("/");
        for topic in [deep(7), "d".repeat(91), deep(6), "d".repeat(90)] {
            peer.publish(&topic, "x", false).await;
        }
        for wanted in [deep(6), "d".repeat(90)] {
            let (_, message) = gateway.workers[0].message().await;
            assert_eq!(message.topic.as_str(), wanted, "{protocol:?}");
        }
        assert_eq!(gateway.snapshot().unfit_topics, 2);
        gateway.runtime.limit_topics(TopicLimits::new(0, 0));
        peer.publish(&deep(200), "x", false).await;
        let (_, message) = gateway.workers[0].message().await;
        assert_eq!(message.topic.as_str(), deep(200));
    }
}
