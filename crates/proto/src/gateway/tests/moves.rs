//! Connections on the move while messages are published: whatever overtakes what, observers get each message once, in order.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::gateway::workers::WorkerMessage;

const WORKERS: usize = 3;
/// Where something may wait: what each worker asks the broker, what it answers, what other workers tell it.
const PLACES: usize = 3 * WORKERS;

/// Workers whose messages to each other and to the broker are on their way until a die says that they arrive.
struct Network {
    site: Site,
    requests: Vec<VecDeque<BrokerRequest>>,
    events: Vec<VecDeque<BrokerEvent>>,
    /// What each worker is told, in the order in which it was sent by whom it may be.
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
            told: (0..WORKERS).map(|_| VecDeque::new()).collect(),
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
                    self.told[usize::from(to.0)].push_back(message);
                }
                Output::Broker(request) => self.requests[worker].push_back(request),
                other => panic!("{other:?}"),
            }
        }
    }

    fn ask(&mut self, worker: usize, request: &Packet) {
        let mut bytes = request.to_bytes().unwrap();
        let from = ([127, 0, 0, 1], 1000 + u16::try_from(worker).unwrap()).into();
        let bytes = &mut bytes[..];
        self.input(
            worker,
            Input::Datagram {
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
            // The news of the client, which nobody observes.
            BrokerRequest::Publish { ticket, .. } => {
                let result = Ok(());
                self.events[worker].push_back(BrokerEvent::Published { ticket, result });
            }
            other @ BrokerRequest::ReadRetained { .. } => panic!("{other:?}"),
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
                self.events[worker].push_back(BrokerEvent::Message { filters, message });
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
            _ => self.told[worker]
                .pop_front()
                .map(|message| self.input(worker, Input::Worker(message))),
        }
        .is_some()
    }

    fn settle(&mut self) {
        while (0..PLACES).any(|place| self.arrive(place)) {}
    }
}

#[test]
fn a_message_published_while_a_connection_moves_comes_once_and_in_its_place() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut network = Network::new();
        let create = network
            .site
            .request(RequestType::Post, "mqtt/connection", &["clientid=meter"]);
        for worker in 0..WORKERS {
            network.prove_address(worker);
        }
        // Its answer is not looked at: the token is read at the source.
        network.ask(0, &create);
        network.settle();
        let client = crate::types::ClientId::new("meter").unwrap();
        let token = network.site.workers[0]
            .connections
            .of_client(&client)
            .unwrap()
            .token
            .clone();
        let token = String::from_utf8(token.as_bytes().to_vec()).unwrap();
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
        let (mut published, mut moves) = (0, 0);
        while published < 60 {
            match random.random_range(0..20) {
                0 => {
                    let heartbeat =
                        network
                            .site
                            .credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
                    network.ask(random.random_range(0..WORKERS), &heartbeat);
                    moves += 1;
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
        let changed = MessageClass::Response(ResponseType::Changed);
        let right = network.answers.iter().all(|(_, code)| *code == changed);
        assert!(
            right && network.answers.len() == moves,
            "seed {seed} {moves}: {:?}",
            network.answers
        );
        let left: usize = network
            .site
            .workers
            .iter()
            .map(|worker| worker.subscriptions.len())
            .sum();
        assert_eq!((left, network.site.subscriptions.len()), (2, 2), "seed {seed}");
        assert!(
            network
                .site
                .workers
                .iter()
                .all(|worker| worker.leaving.is_empty() && worker.resuming.is_empty())
        );
    }
}
