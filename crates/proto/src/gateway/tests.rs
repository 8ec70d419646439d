//! Several workers' gateways side by side, with a virtual clock and a broker that keeps no state but what the test says.

mod following;
mod forwarding;
mod growth;
mod handshakes;
mod logins;
mod overload;
mod stopping;
mod topics;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType, ResponseType};

use super::contract::{ControlAnswer, ControlRequest, Input, Output};
use super::directory::ClientDirectory;
use super::events::{ClientEvent, EventKind};
use super::metrics::{ConnectionEvent, GatewayMetrics};
use super::settings::{DefaultQos, ListenerSettings, NotifyType, Settings, TopicsMode};
use super::{Gateway, Parts, Shared};
use crate::bridge::contract::{BrokerEvent, BrokerRequest, FilterId};
use crate::clock_for_tests as clock;
use crate::coap::CoapMetrics;
use crate::coap::contract::CoapSettings;
use crate::policy::acl::Acl;
use crate::policy::authentication::{AuthRequest, DenyReason, Verdict};
use crate::policy::authorization::{Authorizer, NoMatch};
use crate::session::SecureSource;
use crate::types::limits::Caps;
use crate::types::message::Qos;
use crate::types::{AccessRules, ListenerId, Message, TopicFilter, TopicName, WorkerId};

pub(super) fn settings(workers: u8) -> Settings {
    Settings {
        node: "test".into(),
        workers,
        connection_required: true,
        heartbeat: Some(Duration::from_secs(30)),
        notify_type: NotifyType::Qos,
        publish_qos: DefaultQos::Coap,
        subscribe_qos: DefaultQos::Coap,
        mountpoint: "".into(),
        observe_check: Duration::from_secs(86_400),
        topics: TopicsMode::Implicit,
        pubsub_content_format: 606,
        translations: Arc::default(),
        sleep: Default::default(),
        coap: CoapSettings::default(),
        caps: Caps::default(),
        authorizer: Authorizer::default(),
        requests_per_second: 0,
        unproven_datagrams_per_second: 0,
        failed_logins_per_minute: 3,
        tells_requests: false,
        listeners: vec![ListenerSettings {
            name: "default".into(),
            dtls: None,
            access: AccessRules::default(),
            authentication: false,
            token_in_username: false,
            mountpoint: None,
            overrides: Default::default(),
            fresh_requests: None,
            max_peers: 0,
            health: None,
        }],
    }
}

/// Workers that pass messages to each other at once; subscriptions by worker and filter.
struct Site {
    now: Instant,
    workers: Vec<Gateway>,
    shared: Arc<Shared>,
    metrics: Vec<Arc<GatewayMetrics>>,
    subscriptions: Vec<(usize, FilterId, TopicFilter)>,
    /// Those of the topic collection.
    collections: Vec<(usize, FilterId, TopicFilter)>,
    /// What is retained of the topic collection, and of the topics in it.
    retained: BTreeMap<TopicName, Arc<Message>>,
    /// What the broker has not said yet, while it takes its time with subscriptions.
    held: Option<Vec<(usize, BrokerEvent)>>,
    logins: Vec<(usize, AuthRequest)>,
    events: Vec<ClientEvent>,
    /// What operators were answered later.
    answers: Vec<ControlAnswer>,
    next_mid: u16,
}

impl Site {
    fn new(workers: u8) -> Self {
        Self::with(settings(workers))
    }

    fn with(settings: Settings) -> Self {
        let now = clock();
        let settings = Arc::new(settings);
        let metrics: Vec<_> = (0..settings.workers)
            .map(|_| Arc::new(GatewayMetrics::new(1)))
            .collect();
        let shared = Arc::new(Shared::new(now, &settings, [2; 32]));
        let workers = metrics
            .iter()
            .zip(0_u8..)
            .map(|(metrics, worker)| {
                let parts = Parts {
                    worker: WorkerId(worker),
                    settings: Arc::clone(&settings),
                    shared: Arc::clone(&shared),
                    dtls: vec![settings.listeners[0].dtls.as_ref().map(|_| {
                        let source: Arc<dyn SecureSource> = Arc::new(handshakes::FeignedSource);
                        source
                    })],
                    coap_metrics: Arc::new(CoapMetrics::new(1)),
                    metrics: Arc::clone(metrics),
                    seed: [worker; 32],
                    store: None,
                };
                Gateway::new(now, parts)
            })
            .collect();
        let mut site = Self {
            now,
            workers,
            metrics,
            shared,
            subscriptions: Vec::new(),
            collections: Vec::new(),
            retained: BTreeMap::new(),
            held: None,
            logins: Vec::new(),
            events: Vec::new(),
            answers: Vec::new(),
            next_mid: 1,
        };
        site.pass(Duration::ZERO);
        site
    }

    /// Lets time pass, stopping wherever something is due.
    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some((due, worker)) = self.next_due().filter(|(due, _)| *due <= until) {
            self.now = self.now.max(due);
            self.workers[worker].handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn next_due(&self) -> Option<(Instant, usize)> {
        let due = |(at, worker): (usize, &Gateway)| Some((worker.poll_timeout()?, at));
        self.workers.iter().enumerate().filter_map(due).min()
    }

    /// Sends a request from a port to a worker and returns the answer, and what else that port was sent.
    fn ask(&mut self, worker: usize, port: u16, request: &Packet) -> Vec<Packet> {
        let mut bytes = request.to_bytes().unwrap();
        let from = ([127, 0, 0, 1], port).into();
        let input = Input::Datagram {
            local: None,
            listener: ListenerId(0),
            from,
            bytes: &mut bytes,
        };
        self.workers[worker].handle(self.now, input);
        self.settle();
        self.sent(worker, port)
    }

    fn request(&mut self, method: RequestType, path: &str, query: &[&str]) -> Packet {
        let mut packet = Packet::new();
        packet.header.set_type(MessageType::Confirmable);
        packet.header.code = MessageClass::Request(method);
        packet.header.message_id = self.next_mid;
        self.next_mid += 1;
        packet.set_token(b"tok".to_vec());
        for segment in path.split('/') {
            packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        for option in query {
            packet.add_option(CoapOption::UriQuery, option.as_bytes().to_vec());
        }
        packet
    }

    fn create(&mut self, worker: usize, port: u16, client: &str) -> String {
        let request = self.request(
            RequestType::Post,
            "mqtt/connection",
            &[&format!("clientid={client}")],
        );
        let answers = self.ask(worker, port, &request);
        assert_eq!(code(&answers[0]), ResponseType::Created);
        String::from_utf8(answers[0].payload.clone()).unwrap()
    }

    fn credentialed(&mut self, method: RequestType, path: &str, client: &str, token: &str) -> Packet {
        self.request(
            method,
            path,
            &[&format!("clientid={client}"), &format!("token={token}")],
        )
    }

    /// Has a client of worker 0 acknowledge a notification.
    fn prove_address(&mut self, port: u16, client: &str, token: &str) {
        let mut observe = self.credentialed(RequestType::Get, "ps/prove", client, token);
        observe.set_observe_value(0);
        observe.add_option(CoapOption::UriQuery, b"qos=1".to_vec());
        self.ask(0, port, &observe);
        self.publish(&Self::message("prove", b"x"));
        let notification = self.sent(0, port).remove(0);
        assert_eq!(notification.header.get_type(), MessageType::Confirmable);
        self.ask(0, port, &acknowledgement(&notification));
    }

    fn sent(&mut self, worker: usize, port: u16) -> Vec<Packet> {
        let packets = self.workers[worker]
            .transmits()
            .iter()
            .filter(|(_, to, _)| to.socket_addr().port() == port)
            .map(|(_, _, bytes)| Packet::from_bytes(bytes).unwrap())
            .collect();
        self.workers[worker].transmits_sent();
        packets
    }

    fn settle(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for worker in 0..self.workers.len() {
                while let Some(output) = self.workers[worker].poll_output() {
                    busy = true;
                    self.output(worker, output);
                }
            }
        }
    }

    fn output(&mut self, worker: usize, output: Output) {
        match output {
            Output::Worker { to, message } => {
                self.workers[usize::from(to.0)].handle(self.now, Input::Worker(message));
            }
            Output::Broker(request) => self.broker(worker, request),
            Output::Authenticate { request, .. } => self.logins.push((worker, request)),
            Output::Event(event) => self.events.push(*event),
            Output::Control { ticket: 7, answer } => self.answers.push(answer),
            other => panic!("{other:?}"),
        }
    }

    /// What a worker answers to an operator.
    fn control(&mut self, worker: usize, request: ControlRequest) -> ControlAnswer {
        self.workers[worker].handle(self.now, Input::Control { ticket: 1, request });
        let outputs: Vec<_> = std::iter::from_fn(|| self.workers[worker].poll_output()).collect();
        let mut answered = None;
        for output in outputs {
            match output {
                Output::Control { ticket: 1, answer } => answered = Some(answer),
                output => self.output(worker, output),
            }
        }
        self.settle();
        answered.unwrap()
    }

    fn broker(&mut self, worker: usize, request: BrokerRequest) {
        let event = match request {
            BrokerRequest::Publish { ticket, message } | BrokerRequest::PublishIf { ticket, message, .. } => {
                if message.retain && message.payload.is_empty() {
                    self.retained.remove(&message.topic);
                } else if message.retain {
                    self.retained.insert(message.topic.clone(), Arc::clone(&message));
                }
                self.spread(&message);
                BrokerEvent::Published {
                    ticket,
                    result: Ok(()),
                }
            }
            BrokerRequest::Subscribe {
                ticket,
                filter_id,
                filter,
                ..
            } => {
                let of_collection = filter.as_str().starts_with("$portcullis/test/topics/");
                let found = self.retained.values().filter(|kept| filter.matches(&kept.topic));
                let found = found.cloned().collect();
                let event = BrokerEvent::Subscribed {
                    ticket,
                    result: Ok(found),
                };
                let list = match of_collection {
                    true => &mut self.collections,
                    false => &mut self.subscriptions,
                };
                if !list.iter().any(|(_, id, _)| *id == filter_id) {
                    list.push((worker, filter_id, filter));
                }
                if of_collection {
                    return self.workers[worker].handle(self.now, Input::Broker(event));
                }
                if let Some(held) = &mut self.held {
                    return held.push((worker, event));
                }
                event
            }
            BrokerRequest::Unsubscribe { filter_id } => {
                return self.subscriptions.retain(|(_, id, _)| *id != filter_id);
            }
            BrokerRequest::Restore { .. } | BrokerRequest::Abandon { .. } | BrokerRequest::Restored => {
                panic!("no worker here keeps anything")
            }
            BrokerRequest::ReadRetained { ticket, topic } => BrokerEvent::Retained {
                ticket,
                result: Ok(self.retained.get(&topic).cloned()),
            },
        };
        self.workers[worker].handle(self.now, Input::Broker(event));
    }

    fn publish(&mut self, message: &Arc<Message>) {
        self.spread(message);
        self.settle();
    }

    fn spread(&mut self, message: &Arc<Message>) {
        let everyone = self.subscriptions.iter().chain(&self.collections);
        for (worker, id, filter) in everyone.cloned().collect::<Vec<_>>() {
            if filter.matches(&message.topic) {
                let event = BrokerEvent::Message {
                    filters: [id].into(),
                    message: Arc::clone(message),
                    receipt: None,
                };
                self.workers[worker].handle(self.now, Input::Broker(event));
            }
        }
    }

    fn message(topic: &str, payload: &'static [u8]) -> Arc<Message> {
        Arc::new(Message::new(
            TopicName::new(topic).unwrap(),
            payload.into(),
            Qos::AtMostOnce,
        ))
    }

    /// A publish with credentials, without a connection.
    fn publish_as(&mut self, port: u16, password: &str) -> Vec<ResponseType> {
        let query = ["u=ann", &format!("p={password}")];
        let request = self.request(RequestType::Post, "ps/t", &query);
        self.ask(0, port, &request).iter().map(code).collect()
    }

    /// Answers the logins that wait: `right` is the password.
    fn judge(&mut self, port: u16) -> Vec<ResponseType> {
        for (worker, request) in std::mem::take(&mut self.logins) {
            let right = request
                .password
                .is_some_and(|password| password.expose() == b"right");
            let verdict = if right {
                Verdict::allow()
            } else {
                Verdict::Deny(DenyReason::BadCredentials)
            };
            let ticket = request.ticket;
            self.workers[worker].handle(self.now, Input::Authenticated { ticket, verdict });
            self.settle();
        }
        self.sent(0, port).iter().map(code).collect()
    }

    fn events(&self, event: ConnectionEvent) -> u64 {
        self.metrics
            .iter()
            .map(|metrics| metrics.connection_events.get(event))
            .sum()
    }
}

fn acknowledgement(packet: &Packet) -> Packet {
    let mut empty = Packet::new();
    empty.header.set_type(MessageType::Acknowledgement);
    empty.header.code = MessageClass::Empty;
    empty.header.message_id = packet.header.message_id;
    empty
}

fn code(packet: &Packet) -> ResponseType {
    match packet.header.code {
        MessageClass::Response(code) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn silence_for_one_and_a_half_heartbeats_ends_a_connection_and_rejected_requests_do_not_help() {
    let mut site = Site::new(1);
    let token = site.create(0, 1000, "meter");
    for seconds in [20, 20, 4] {
        site.pass(Duration::from_secs(seconds));
        let rejected = site.request(RequestType::Put, "mqtt/connection", &["clientid=meter"]);
        assert_eq!(code(&site.ask(0, 1000, &rejected)[0]), ResponseType::BadRequest);
    }
    assert_eq!(site.workers[0].connections.len(), 1);
    site.pass(Duration::from_secs(2));
    assert_eq!(site.events(ConnectionEvent::Expired), 1);
    let late = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    assert_eq!(code(&site.ask(0, 1000, &late)[0]), ResponseType::Unauthorized);
}

#[test]
fn an_observer_that_is_never_heard_of_is_checked_within_observe_check_and_no_later() {
    let mut settings = settings(1);
    settings.connection_required = false;
    settings.observe_check = Duration::from_secs(3600);
    let mut site = Site::with(settings);
    let mut observe = site.request(RequestType::Get, "ps/t", &[]);
    observe.set_observe_value(0);
    site.ask(0, 1000, &observe);
    site.publish(&Site::message("t", b"last"));
    assert_eq!(
        site.sent(0, 1000)[0].header.get_type(),
        MessageType::NonConfirmable
    );

    site.pass(Duration::from_secs(3599));
    assert!(site.sent(0, 1000).is_empty());
    site.pass(Duration::from_secs(2));
    let check = site.sent(0, 1000);
    assert_eq!(check[0].header.get_type(), MessageType::Confirmable);
    assert_eq!(check[0].payload, b"last");
    site.pass(Duration::from_secs(200));
    assert!(site.workers[0].observations.len() == 0);
    assert!(site.subscriptions.is_empty());
}

#[test]
fn an_observer_that_may_be_sent_nothing_more_is_given_up() {
    let mut settings = settings(1);
    settings.connection_required = false;
    settings.observe_check = Duration::from_secs(3600);
    let mut site = Site::with(settings);
    for topic in ["a", "b"] {
        let mut observe = site.request(RequestType::Get, &format!("ps/{topic}"), &[]);
        observe.set_observe_value(0);
        observe.set_token(topic.as_bytes().to_vec());
        site.ask(0, 1000, &observe);
    }
    // What the unproven address may get is spent on one of the two, whose question nobody answers.
    while !site.sent(0, 1000).is_empty() || site.workers[0].observations.len() == 2 {
        site.publish(&Site::message("a", b"0123456789012345678901234567890123456789"));
        site.pass(Duration::from_secs(30));
    }
    assert_eq!(site.workers[0].observations.len(), 1);
    site.pass(Duration::from_secs(2 * 3600 + 300));
    assert_eq!(site.workers[0].observations.len(), 0);
}

#[test]
fn news_late_in_observe_check_is_the_check() {
    let mut settings = settings(1);
    settings.connection_required = false;
    settings.observe_check = Duration::from_secs(3600);
    let mut site = Site::with(settings);
    let mut observe = site.request(RequestType::Get, "ps/t", &[]);
    observe.set_observe_value(0);
    site.ask(0, 1000, &observe);
    site.pass(Duration::from_secs(2399));
    site.publish(&Site::message("t", b"early"));
    site.pass(Duration::from_secs(2));
    site.publish(&Site::message("t", b"late"));
    let types: Vec<_> = site.sent(0, 1000).iter().map(|it| it.header.get_type()).collect();
    assert_eq!(types, [MessageType::NonConfirmable, MessageType::Confirmable]);
}

#[test]
fn peers_that_nobody_needs_are_forgotten_and_observers_are_not() {
    let mut settings = settings(1);
    settings.connection_required = false;
    let mut site = Site::with(settings);
    let mut observe = site.request(RequestType::Get, "ps/t", &[]);
    observe.set_observe_value(0);
    site.ask(0, 1, &observe);
    for port in 1000..1500 {
        let publish = site.request(RequestType::Post, "ps/x", &[]);
        site.ask(0, port, &publish);
    }
    assert_eq!(site.metrics[0].listeners[0].udp_peers.get(), 501);
    site.pass(Duration::from_secs(400));
    assert_eq!(site.metrics[0].listeners[0].udp_peers.get(), 1);
}

#[test]
fn who_comes_and_goes_is_published_to_whom_a_rule_names() {
    let mut settings = settings(2);
    let rules = Acl::parse("topic read $portcullis/#").unwrap();
    settings.authorizer = Authorizer::new(Some(Arc::new(rules)), NoMatch::Allow);
    let mut site = Site::with(settings);
    let token = site.create(0, 1000, "watcher");
    let mut observe = site.credentialed(
        RequestType::Get,
        "ps/$portcullis/test/clients/+/+",
        "watcher",
        &token,
    );
    observe.set_observe_value(0);
    site.ask(0, 1000, &observe);
    let other = site.create(1, 2000, "a/b");
    let close = site.credentialed(RequestType::Delete, "mqtt/connection", "a/b", &other);
    site.ask(1, 2000, &close);
    let told: Vec<String> = site
        .sent(0, 1000)
        .iter()
        .map(|packet| String::from_utf8(packet.payload.clone()).unwrap())
        .collect();
    // Confirmable, one at a time: the second waits for the acknowledgement of the first.
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains(r#""clientid":"a/b""#) && told[0].contains("127.0.0.1:2000"),
        "{}",
        told[0]
    );
}

#[test]
fn a_notification_leaves_from_the_address_that_was_observed() {
    let mut settings = settings(1);
    settings.connection_required = false;
    let mut site = Site::with(settings);
    let ask = |site: &mut Site, local: &str, request: &Packet| {
        let input = Input::Datagram {
            listener: ListenerId(0),
            from: ([192, 0, 2, 9], 1000).into(),
            local: local.parse().ok(),
            bytes: &mut request.to_bytes().unwrap(),
        };
        site.workers[0].handle(site.now, input);
        site.settle();
        let gateway = &mut site.workers[0];
        let sent: Vec<_> = gateway.transmits().iter().map(|(_, to, _)| to.local()).collect();
        gateway.transmits_sent();
        sent
    };
    let mut observe = site.request(RequestType::Get, "ps/t", &[]);
    observe.set_observe_value(0);
    let observed = "198.51.100.2";
    assert_eq!(ask(&mut site, observed, &observe), [observed.parse().ok()]);
    let other = "198.51.100.1";
    let publish = site.request(RequestType::Put, "ps/t", &[]);
    assert_eq!(
        ask(&mut site, other, &publish),
        [observed.parse().ok(), other.parse().ok()],
        "the notification and the answer"
    );
}
