//! A hundred thousand sessions: what a scrape costs, and how long an operator's question holds up a worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::admin::expose::ExposeWorkers;
use portcullis::admin::expose::process::Process;
use portcullis::admin::monitoring::Monitoring;
use portcullis::bridge::contract::{BrokerEvent, BrokerRequest};
use portcullis::coap::CoapMetrics;
use portcullis::config::{PathBase, parse, to_gateway_settings};
use portcullis::gateway::contract::{ControlAnswer, ControlRequest, Cursor, Input, Output};
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::types::{ClientId, ListenerId, Transport, WorkerId};

use crate::PLAIN;
use crate::support::Request;
use crate::support::coap::{Message, typ};

const SESSIONS: usize = 100_000;

struct Crowd {
    gateway: Gateway,
    monitoring: Monitoring,
}

impl Crowd {
    fn new() -> Self {
        let config = parse(PLAIN, "t.toml".as_ref(), &PathBase::of_file("t.toml".as_ref())).unwrap();
        let mut settings = to_gateway_settings(&config, 4 << 30);
        settings.workers = 1;
        settings.caps.memory = 1 << 30;
        let (metrics, coap) = (Arc::new(GatewayMetrics::new(1)), Arc::new(CoapMetrics::new(1)));
        let names = vec![("default".to_owned(), Transport::Udp)];
        let monitoring = Monitoring {
            exposes: vec![
                Box::new(ExposeWorkers {
                    listeners: names.clone().into(),
                    workers: vec![metrics.clone()],
                }),
                Box::new(ExposeWorkers {
                    listeners: names.into(),
                    workers: vec![coap.clone()],
                }),
            ],
            health: Arc::default(),
            ready: Box::new(|| Ok(())),
            process: Process::default(),
        };
        let shared = Shared::new(Instant::now(), &settings, [2; 32]);
        let parts = Parts {
            worker: WorkerId(0),
            settings: Arc::new(settings),
            shared: Arc::new(shared),
            dtls: vec![None],
            coap_metrics: coap,
            metrics,
            seed: [1; 32],
            store: None,
        };
        Self {
            gateway: Gateway::new(Instant::now(), parts),
            monitoring,
        }
    }

    /// Device `n` publishes once, so that it is known by its client id.
    fn meet(&mut self, n: usize) {
        let request = Request::post(&format!("ps/t?clientid=device-{n}"));
        let message = Message {
            typ: typ::NON,
            code: request.code,
            id: 1,
            token: vec![1],
            options: request.options,
            payload: b"1".to_vec(),
        };
        let octet = |shift: usize| u8::try_from(n >> shift & 0xff).unwrap();
        let from = ([10, octet(16), octet(8), octet(0)], 5683).into();
        let mut bytes = message.encode();
        let input = Input::Datagram {
            local: None,
            listener: ListenerId(0),
            from,
            bytes: &mut bytes,
        };
        self.gateway.handle(Instant::now(), input);
        while let Some(output) = self.gateway.poll_output() {
            if let Output::Broker(BrokerRequest::Publish { ticket, .. }) = output {
                let result = Ok(());
                self.gateway.handle(
                    Instant::now(),
                    Input::Broker(BrokerEvent::Published { ticket, result }),
                );
            }
        }
        self.gateway.transmits_sent();
    }

    fn ask(&mut self, request: ControlRequest) -> (ControlAnswer, Duration) {
        let begun = Instant::now();
        self.gateway.handle(begun, Input::Control { ticket: 1, request });
        let took = begun.elapsed();
        let answer = std::iter::from_fn(|| self.gateway.poll_output()).find_map(|output| match output {
            Output::Control { answer, .. } => Some(answer),
            _ => None,
        });
        (answer.unwrap(), took)
    }

    /// A scrape while the worker does nothing, not even listen. Its lines without their values, and the time it took.
    fn scrape(&self) -> (Vec<String>, Duration) {
        let begun = Instant::now();
        let text = self.monitoring.render().unwrap();
        let took = begun.elapsed();
        let name = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
        let lines = text.lines().filter(|line| line.starts_with("portcullis_"));
        (lines.map(name).collect(), took)
    }
}

#[test]
fn a_hundred_thousand_sessions_make_neither_a_scrape_longer_nor_a_question_slower() {
    let mut crowd = Crowd::new();
    crowd.meet(0);
    crowd.meet(0);
    let (lines_of_one, _) = crowd.scrape();
    (1..SESSIONS).for_each(|n| crowd.meet(n));
    let (lines, scrape) = crowd.scrape();
    let more: Vec<_> = lines.iter().filter(|line| !lines_of_one.contains(line)).collect();
    assert!(
        more.is_empty(),
        "a scrape has a line for something that grows: {more:?}"
    );
    let text = crowd.monitoring.render().unwrap();
    assert!(
        text.contains("portcullis_sessions{listener=\"default\",transport=\"udp\"} 100000\n"),
        "{text}"
    );

    // The list goes through all of them in steps that are short each, however far on in it they are.
    let (mut cursor, mut seen, mut longest) = (Some(Cursor::Connections(None)), 0, Duration::ZERO);
    let mut steps = 0;
    while let Some(from) = cursor {
        let (answer, took) = crowd.ask(ControlRequest::Page { from, places: 256 });
        let ControlAnswer::Page { clients, next } = answer else {
            panic!("{answer:?}");
        };
        assert!(clients.len() <= 256);
        (seen, cursor, longest, steps) = (seen + clients.len(), next, longest.max(took), steps + 1);
    }
    assert_eq!(seen, SESSIONS);

    // One by its id is looked up, not looked for: the last of them as fast as the first.
    let mut looked_up = Duration::ZERO;
    for n in [0, SESSIONS / 2, SESSIONS - 1] {
        let client = ClientId::new(&format!("device-{n}")).unwrap();
        let (answer, took) = crowd.ask(ControlRequest::Show { client });
        assert!(matches!(answer, ControlAnswer::Client(..)), "{n}: {answer:?}");
        looked_up = looked_up.max(took);
    }
    let client = ClientId::new("device-99999").unwrap();
    assert!(matches!(
        crowd.ask(ControlRequest::Kick { client }).0,
        ControlAnswer::Done
    ));
    eprintln!(
        "{SESSIONS} sessions: a scrape {scrape:?}, {steps} steps of the list with {longest:?} for the longest, \
         one client by its id {looked_up:?}"
    );
    // In a debug build on a busy machine; a walk over all of them would take far longer than one step of 256.
    // Far more than they take on a machine that is busy, far less than what grows with the square.
    assert!(scrape < Duration::from_secs(10), "{scrape:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    assert!(looked_up < Duration::from_secs(1), "{looked_up:?}");
}
