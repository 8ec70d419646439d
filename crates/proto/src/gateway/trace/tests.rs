//! One worker's gateway with a trace on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::coap::CoapMetrics;
use crate::gateway::contract::{ControlAnswer, ControlRequest, Input, Output};
use crate::gateway::metrics::GatewayMetrics;
use crate::gateway::tests::settings;
use crate::gateway::{Gateway, Parts, Shared};
use crate::types::{ListenerId, WorkerId};

use super::*;

struct Traced1 {
    gateway: Gateway,
    now: Instant,
}

impl Traced1 {
    fn new() -> Self {
        let now = crate::clock_for_tests();
        let mut settings = settings(1);
        settings.connection_required = false;
        let parts = Parts {
            worker: WorkerId(0),
            shared: Arc::new(Shared::new(now, &settings, [2; 32])),
            settings: Arc::new(settings),
            dtls: vec![None],
            coap_metrics: Arc::new(CoapMetrics::new(1)),
            metrics: Arc::new(GatewayMetrics::new(1)),
            seed: [0; 32],
            store: None,
        };
        Self {
            gateway: Gateway::new(now, parts),
            now,
        }
    }

    fn ask(&mut self, request: ControlRequest) -> ControlAnswer {
        self.gateway
            .handle(self.now, Input::Control { ticket: 1, request });
        std::iter::from_fn(|| self.gateway.poll_output())
            .find_map(|output| match output {
                Output::Control { answer, .. } => Some(answer),
                _ => None,
            })
            .unwrap()
    }

    fn trace(&mut self, id: u64, target: &str) -> ControlAnswer {
        self.ask(ControlRequest::Trace {
            id,
            target: target.into(),
            preview: 8,
        })
    }

    fn take(&mut self, id: u64) -> (Vec<TraceRecord>, u64) {
        match self.ask(ControlRequest::TakeTrace { id }) {
            ControlAnswer::Traced { records, lost } => (records, lost),
            other => panic!("{other:?}"),
        }
    }

    /// A GET without a known resource, which is answered at once with 4.04.
    fn get(&mut self, port: u16, mid: u16, query: &str) {
        let [high, low] = mid.to_be_bytes();
        let mut bytes = vec![0x42, 1, high, low, high, low, 0xb1, b'x'];
        if !query.is_empty() {
            bytes.push(0x40 | u8::try_from(query.len()).unwrap());
            bytes.extend(query.as_bytes());
        }
        let input = Input::Datagram {
            local: None,
            listener: ListenerId(0),
            from: ([127, 0, 0, 1], port).into(),
            bytes: &mut bytes,
        };
        self.gateway.handle(self.now, input);
        self.gateway.transmits_sent();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.gateway.handle_timeout(self.now);
    }
}

/// The message ids, those of what was sent negative.
fn mids(records: &[TraceRecord]) -> Vec<i32> {
    records
        .iter()
        .map(|record| match &record.what {
            Traced::Received { message, .. } => i32::from(message.mid),
            Traced::Sent { message, .. } => -i32::from(message.mid),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn at_a_shared_address_the_answers_to_others_are_left_out() {
    let mut traced = Traced1::new();
    traced.trace(1, "a");
    traced.get(5000, 1, "c=b");
    traced.get(5000, 2, "c=a");
    traced.get(5000, 3, "c=b");
    traced.get(5000, 4, "");
    traced.get(5001, 5, "c=b");
    assert_eq!(mids(&traced.take(1).0), [2, -2, 4, -4]);
    assert!(traced.take(1).0.is_empty());
}

#[test]
fn an_address_is_a_target_with_or_without_its_port() {
    let mut traced = Traced1::new();
    traced.trace(1, "127.0.0.1:5000");
    traced.trace(2, "127.0.0.1");
    traced.get(5000, 1, "c=a");
    traced.get(5001, 2, "c=b");
    assert_eq!(mids(&traced.take(1).0), [1, -1]);
    assert_eq!(mids(&traced.take(2).0), [1, -1, 2, -2]);
}

#[test]
fn a_trace_that_is_asked_too_seldom_loses_what_came_last_and_counts_it() {
    let mut traced = Traced1::new();
    traced.trace(1, "127.0.0.1");
    for mid in 1..=600 {
        traced.get(5000, mid, "");
    }
    let (records, lost) = traced.take(1);
    assert_eq!((records.len(), lost), (MAX_RECORDS, 1200 - MAX_RECORDS as u64));
    assert_eq!(mids(&records[..2]), [1, -1]);
    traced.get(5000, 700, "");
    let (records, lost) = traced.take(1);
    assert_eq!((mids(&records), lost), (vec![700, -700], 0));
}

#[test]
fn a_trace_that_nobody_asks_for_ends_by_itself() {
    let mut traced = Traced1::new();
    traced.trace(1, "a");
    traced.trace(2, "a");
    for _ in 0..5 {
        traced.pass(Duration::from_secs(5));
        traced.take(1);
    }
    assert!(matches!(
        traced.ask(ControlRequest::TakeTrace { id: 2 }),
        ControlAnswer::NotFound
    ));
    traced.pass(Duration::from_secs(30));
    assert!(traced.gateway.traces.is_empty());
    assert!(matches!(
        traced.ask(ControlRequest::EndTrace { id: 1 }),
        ControlAnswer::NotFound
    ));
}

#[test]
fn there_are_so_many_traces_and_no_more() {
    let mut traced = Traced1::new();
    for id in 0..MAX_TRACES as u64 {
        assert!(matches!(traced.trace(id, "a"), ControlAnswer::Done));
    }
    assert!(matches!(traced.trace(99, "a"), ControlAnswer::Unavailable));
    assert!(matches!(
        traced.ask(ControlRequest::EndTrace { id: 3 }),
        ControlAnswer::Done
    ));
    assert!(matches!(traced.trace(99, "a"), ControlAnswer::Done));
}

#[test]
fn a_duplicate_is_told_with_its_reason() {
    let mut traced = Traced1::new();
    traced.trace(1, "a");
    traced.get(5000, 1, "c=a");
    traced.get(5000, 1, "c=a");
    let (records, _) = traced.take(1);
    let reasons: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.what {
            Traced::Received { dropped, .. } => Some(*dropped),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [None, Some(DropReason::Duplicate)]);
}
