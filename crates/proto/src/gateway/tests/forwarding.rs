//! Connections used from one worker after the other while messages are published: whatever overtakes what, observers get each
//! message once, in order, and each request is answered.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::gateway::workers::WorkerMessage;

const WORKERS: usize = 3;
/// Where something may wait: what each worker asks the broker, what it answers, what each worker tells each.
const PLACES: usize = 2 * WORKERS + WORKERS * WORKERS;

/// Workers whose messages to each other and to the broker are on their way until a die says that they arrive.
struct Network {
    site: Site,
    requests: Vec<VecDeque<BrokerRequest>>,
    events: Vec<VecDeque<BrokerEvent>>,
    /// By sender and receiver.
    told: Vec<VecDeque<WorkerMessage>>,
    /// What each of the two observations was sent.
    seen: [Vec<u32>; 2],
    answers: Vec<(u16, MessageClass)>,
}

impl Network {
    fn new() -> Self {
        Self {
            site: Site::new(WORKERS as u8),
            requests: (0..WORKERS).map(|_| VecDeque::new()).collect(),
            events: (0..WORKERS).map(|_| VecDeque::new()).collect(),
            told: (0..WORKERS * WORKERS).map(|_| VecDeque::new()).collect(),
            seen: [Vec::new(), Vec::new()],
            answers: Vec::new(),
        }
    }

    fn input(&mut self, worker: usize, input: Input<'_>) {
        let gateway = &mut self.site.workers[worker];
        gateway.handle(self.site.now, input);
        for (_, _, bytes) in gateway.transmits().iter() {
            let packet = Packet::from_bytes(bytes).unwrap();
            if packet.header.get_type() == MessageType::NonConfirmable {
                let observation = usize::from(packet.get_token() == b"all");
                let number = std::str::from_utf8(&packet.payload).unwrap().parse().unwrap();
                self.seen[observation].push(number);
            } else {
                self.answers.push((packet.header.message_id, packet.header.code));
            }
        }
        gateway.transmits_sent();
        while let Some(output) = gateway.poll_output() {
            match output {
                Output::Worker { to, message } => {
                    assert_ne!(usize::from(to.0), worker);
                    self.told[worker * WORKERS + usize::from(to.0)].push_back(message);
                }
                Output::Broker(request) => self.requests[worker].push_back(request),
                Output::Control { .. } | Output::Event(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn control(&mut self, worker: usize, request: ControlRequest) {
        self.input(worker, Input::Control { ticket: 1, request });
    }

    fn ask(&mut self, worker: usize, request: &Packet) {
        let mut bytes = request.to_bytes().unwrap();
        let from = ([127, 0, 0, 1], 1000 + u16::try_from(worker).unwrap()).into();
        let bytes = &mut bytes[..];
        self.input(
            worker,
            Input::Datagram {
                local: None,
                listener: ListenerId(0),
                from,
                bytes,
            },
        );
    }

    /// Spares the client of a worker the acknowledgements that an address has to prove itself with.
    fn prove_address(&mut self, worker: usize) {
        let ping = self.site.request(RequestType::Get, ".well-known/core", &[]);
        self.ask(worker, &ping);
        let from = ([127, 0, 0, 1], 1000 + u16::try_from(worker).unwrap()).into();
        let address = crate::types::PeerAddr::new(from).unwrap();
        let gateway = &mut self.site.workers[worker];
        let peer = gateway.peers.at_address(ListenerId(0), address).unwrap();
        let peer = gateway.peers.get_mut(peer).unwrap();
        gateway.coap.set_proven(&mut peer.coap);
    }

    fn broker(&mut self, worker: usize, request: BrokerRequest) {
        match request {
            BrokerRequest::Subscribe {
                ticket,
                filter_id,
                filter,
                ..
            } => {
                let subscriptions = &mut self.site.subscriptions;
                if !subscriptions.iter().any(|(_, id, _)| *id == filter_id) {
                    subscriptions.push((worker, filter_id, filter));
                }
                let result = Ok(Vec::new());
                self.events[worker].push_back(BrokerEvent::Subscribed { ticket, result });
            }
            BrokerRequest::Unsubscribe { filter_id } => {
                self.site.subscriptions.retain(|(_, id, _)| *id != filter_id);
            }
            BrokerRequest::Restore { .. } | BrokerRequest::Abandon { .. } | BrokerRequest::Restored => {}
            BrokerRequest::Publish { ticket, .. } | BrokerRequest::PublishIf { ticket, .. } => {
                let result = Ok(());
                self.events[worker].push_back(BrokerEvent::Published { ticket, result });
            }
            BrokerRequest::ReadRetained { ticket, .. } => {
                let result = Ok(None);
                self.events[worker].push_back(BrokerEvent::Retained { ticket, result });
            }
        }
    }

    fn publish(&mut self, number: u32) {
        let mut message = Arc::unwrap_or_clone(Site::message("t", b""));
        message.payload = number.to_string().into();
        let message = Arc::new(message);
        for worker in 0..WORKERS {
            let subscriptions = self.site.subscriptions.iter();
            let filters: Box<[FilterId]> = subscriptions
                .filter(|(subscriber, _, filter)| *subscriber == worker && filter.matches(&message.topic))
                .map(|(_, id, _)| *id)
                .collect();
            if !filters.is_empty() {
                let message = Arc::clone(&message);
                self.events[worker].push_back(BrokerEvent::Message {
                    filters,
                    message,
                    receipt: None,
                });
            }
        }
    }

    /// Lets one thing arrive, if there is any at this place.
    fn arrive(&mut self, place: usize) -> bool {
        let worker = place % WORKERS;
        match place / WORKERS {
            0 => self.requests[worker]
                .pop_front()
                .map(|request| self.broker(worker, request)),
            1 => self.events[worker]
                .pop_front()
                .map(|event| self.input(worker, Input::Broker(event))),
            from => self.told[(from - 2) * WORKERS + worker]
                .pop_front()
                .map(|message| self.input(worker, Input::Worker(message))),
        }
        .is_some()
    }

    fn settle(&mut self) {
        while (0..PLACES).any(|place| self.arrive(place)) {}
    }

    /// A client that connected at worker 0 and observes `t` twice.
    fn observing() -> (Self, String) {
        let mut network = Self::new();
        for worker in 0..WORKERS {
            network.prove_address(worker);
        }
        // Its answer is not looked at: the token is read at the source.
        let create = network
            .site
            .request(RequestType::Post, "mqtt/connection", &["clientid=meter"]);
        network.ask(0, &create);
        network.settle();
        let client = crate::types::ClientId::new("meter").unwrap();
        let connection = network.site.workers[0].connections.of_client(&client).unwrap();
        let token = String::from_utf8(connection.token.as_bytes().to_vec()).unwrap();
        for (topic, coap_token) in [("ps/t", &b"one"[..]), ("ps/#", b"all")] {
            let mut observe = network
                .site
                .credentialed(RequestType::Get, topic, "meter", &token);
            observe.set_observe_value(0);
            observe.set_token(coap_token.to_vec());
            network.ask(0, &observe);
            network.settle();
        }
        network.answers.clear();
        (network, token)
    }
}

#[test]
fn a_message_published_while_its_observer_changes_workers_comes_once_and_in_its_place() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut network, token) = Network::observing();
        let (mut published, mut asked) = (0, Vec::new());
        while published < 60 {
            match random.random_range(0..20) {
                0 => {
                    let (method, path) = [
                        (RequestType::Put, "mqtt/connection"),
                        (RequestType::Post, "ps/other"),
                        (RequestType::Get, "ps/other"),
                    ][random.random_range(0..3)];
                    let request = network.site.credentialed(method, path, "meter", &token);
                    network.ask(random.random_range(0..WORKERS), &request);
                    asked.push(request.header.message_id);
                }
                1..=3 => {
                    network.publish(published);
                    published += 1;
                }
                _ => {
                    network.arrive(random.random_range(0..PLACES));
                }
            }
        }
        network.settle();
        let all: Vec<u32> = (0..published).collect();
        assert_eq!(network.seen, [all.clone(), all], "seed {seed}");
        let wanted = [ResponseType::Changed, ResponseType::NotFound].map(MessageClass::Response);
        let mut answered = Vec::new();
        for (mid, code) in &network.answers {
            assert!(wanted.contains(code), "seed {seed}: {code:?}");
            answered.push(*mid);
        }
        answered.sort_unstable();
        assert_eq!(answered, asked, "seed {seed}: each request is answered once");
        let workers = &network.site.workers;
        let here: Vec<_> = workers.iter().map(|worker| worker.observations.len()).collect();
        assert_eq!(
            here,
            [2, 0, 0],
            "seed {seed}: what a client observes stays where it is"
        );
        assert!(workers.iter().all(|worker| worker.forwarded.len() == 0));
        assert!(workers.iter().all(|worker| worker.connections.is_consistent()));
    }
}

#[test]
fn what_peers_that_come_and_go_were_not_sent_is_sent_to_the_next_in_order() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(1000 + seed);
        let (mut network, token) = Network::observing();
        let mut published = 0;
        while published < 60 {
            match random.random_range(0..24) {
                0 | 1 => {
                    let worker = random.random_range(0..WORKERS);
                    if network.site.workers[worker]
                        .peers
                        .page(0, usize::MAX)
                        .0
                        .next()
                        .is_none()
                    {
                        network.prove_address(worker);
                    }
                    let request =
                        network
                            .site
                            .credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
                    network.ask(worker, &request);
                }
                2 => {
                    // A listener that is stopped forgets its peers.
                    let worker = random.random_range(0..WORKERS);
                    for enabled in [false, true] {
                        let listener = ListenerId(0);
                        let request = ControlRequest::SetListener { listener, enabled };
                        network.control(worker, request);
                    }
                }
                3..=5 => {
                    network.publish(published);
                    published += 1;
                }
                _ => {
                    network.arrive(random.random_range(0..PLACES));
                }
            }
        }
        network.settle();
        network.prove_address(1);
        let heartbeat = network
            .site
            .credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
        network.ask(1, &heartbeat);
        network.settle();
        let all: Vec<u32> = (0..published).collect();
        assert_eq!(network.seen, [all.clone(), all], "seed {seed}");
        let mut workers = network.site.workers.iter();
        assert!(workers.all(|worker| worker.connections.is_consistent()));
    }
}
