//! The gateways, the network between them and the devices, and the clock.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use coap_lite::{MessageClass, Packet, ResponseType};
use portcullis::bridge::contract::BrokerEvent;
use portcullis::coap::CoapMetrics;
use portcullis::coap::contract::CoapSettings;
use portcullis::gateway::contract::{ControlAnswer, ControlRequest, Cursor, Input, Output};
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::settings::{DefaultQos, ListenerSettings, NotifyType, Settings, TopicsMode};
use portcullis::gateway::workers::WorkerMessage;
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::policy::authorization::Authorizer;
use portcullis::policy::ledger::Table;
use portcullis::state::{Cell, Clock, Memory, Store};
use portcullis::types::limits::Caps;
use portcullis::types::reason::{DropReason, Label as _};
use portcullis::types::standing::Standing;
use portcullis::types::{AccessRules, ClientId, ListenerId, WorkerId};

use crate::broker::Broker;
use crate::chance::Chance;
use crate::device::{Device, Purpose};
use crate::invariants::{Tally, Watch};

/// A run: the same each time.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    seed: u64,
    pub(crate) steps: usize,
    workers: u8,
    devices: usize,
    loss: bool,
    duplication: bool,
    reordering: bool,
    rebinding: bool,
    reboots: bool,
    garbage: bool,
    reloads: bool,
    broker_lies: bool,
    restarts: bool,
    /// Prints every datagram.
    is_verbose: bool,
}

impl Plan {
    /// What a failure may not need.
    pub(crate) const LESS: [fn(&mut Self); 11] = [
        |plan| plan.loss = false,
        |plan| plan.duplication = false,
        |plan| plan.reordering = false,
        |plan| plan.rebinding = false,
        |plan| plan.reboots = false,
        |plan| plan.garbage = false,
        |plan| plan.reloads = false,
        |plan| plan.broker_lies = false,
        |plan| plan.restarts = false,
        |plan| plan.workers = 1,
        |plan| plan.devices = 2,
    ];

    pub(crate) fn new(seed: u64, steps: usize) -> Self {
        let mut chance = Chance::new(!seed);
        let workers = 1 + chance.below(3) as u8;
        Self {
            seed,
            steps,
            workers,
            devices: 2 + chance.below(8),
            loss: chance.percent(70),
            duplication: chance.percent(70),
            reordering: chance.percent(70),
            rebinding: chance.percent(60),
            reboots: chance.percent(60),
            garbage: chance.percent(40),
            reloads: chance.percent(40),
            broker_lies: chance.percent(50),
            restarts: workers == 1 && chance.percent(60),
            is_verbose: false,
        }
    }

    pub(crate) fn verbose(mut self) -> Self {
        self.is_verbose = true;
        self
    }
}

enum Delivery {
    ToGateway(SocketAddr, Vec<u8>),
    ToDevice(SocketAddr, Vec<u8>),
    OfBroker(usize, BrokerEvent),
    OfWorker(WorkerId, WorkerMessage),
}

/// What outlives the process.
struct Memories {
    cells: Vec<&'static [Cell]>,
    begun: Instant,
    is_new: bool,
}

impl Memories {
    fn new(plan: &Plan, begun: Instant) -> Self {
        const CELLS: usize = 2_000;
        let cell = || -> Cell { std::array::from_fn(|_| AtomicU64::new(0)) };
        let memory = || -> &'static [Cell] { (0..CELLS).map(|_| cell()).collect::<Vec<_>>().leak() };
        let workers = if plan.restarts { plan.workers } else { 0 };
        Self {
            cells: (0..workers).map(|_| memory()).collect(),
            begun,
            is_new: true,
        }
    }

    /// The store of a worker; none where nothing is kept.
    fn store(&mut self, now: Instant, worker: usize) -> Option<Arc<Store>> {
        let cells = *self.cells.get(worker)?;
        let memory = Memory {
            cells,
            reserve: Box::new(|_| true),
        };
        let clock = Clock {
            now,
            up: now.duration_since(self.begun) + Duration::from_secs(1_000),
            ahead: Duration::ZERO,
        };
        let store = if std::mem::take(&mut self.is_new) {
            Store::create(memory, clock, [1, 2], worker as u8).unwrap()
        } else {
            Store::open(memory, clock, [1, 2]).unwrap()
        };
        Some(Arc::new(store))
    }
}

pub(crate) struct World {
    plan: Plan,
    chance: Chance,
    now: Instant,
    settings: Settings,
    memory: Memories,
    /// Datagrams that processes counted that are no more.
    counted: u64,
    gateways: Vec<Gateway>,
    metrics: Vec<Arc<GatewayMetrics>>,
    coap_metrics: Vec<Arc<CoapMetrics>>,
    devices: Vec<Device>,
    broker: Broker,
    watch: Watch,
    /// What is on its way, by when it arrives.
    underway: BTreeMap<(Instant, u64), Delivery>,
    sequence: u64,
    /// Messages between two workers keep their order.
    between_workers: HashMap<(usize, WorkerId), Instant>,
}

fn settings(plan: &Plan, chance: &mut Chance) -> Settings {
    Settings {
        node: "sim".into(),
        workers: plan.workers,
        connection_required: chance.percent(40),
        heartbeat: Some(Duration::from_secs(30)),
        notify_type: NotifyType::Qos,
        publish_qos: DefaultQos::Coap,
        subscribe_qos: DefaultQos::Coap,
        mountpoint: "".into(),
        observe_check: Duration::from_secs(600),
        topics: TopicsMode::Implicit,
        pubsub_content_format: 606,
        translations: Arc::default(),
        sleep: Default::default(),
        coap: CoapSettings::default(),
        caps: Caps::default(),
        authorizer: Authorizer::default(),
        requests_per_second: 0,
        unproven_datagrams_per_second: 0,
        failed_logins_per_minute: 30,
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

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut chance = Chance::new(plan.seed);
        let now = Instant::now();
        let settings = settings(plan, &mut chance);
        let connects = settings.connection_required;
        let devices = (0..plan.devices)
            .map(|at| Device::new(at, now, connects, &mut chance))
            .collect();
        let mut broker = Broker::default();
        broker.is_lying = plan.broker_lies;
        let mut world = Self {
            plan: plan.clone(),
            chance,
            now,
            memory: Memories::new(plan, now),
            counted: 0,
            settings,
            gateways: Vec::new(),
            metrics: Vec::new(),
            coap_metrics: Vec::new(),
            devices,
            broker,
            watch: Watch::default(),
            underway: BTreeMap::new(),
            sequence: 0,
            between_workers: HashMap::new(),
        };
        world.start();
        world
    }

    /// Starts the gateways, which go on from what is kept.
    fn start(&mut self) {
        let settings = Arc::new(self.settings.clone());
        let shared = Arc::new(Shared::new(self.now, &settings, [2; 32]));
        for worker in 0..self.plan.workers {
            let coap_metrics = Arc::new(CoapMetrics::new(1));
            let metrics = Arc::new(GatewayMetrics::new(1));
            let parts = Parts {
                worker: WorkerId(worker),
                settings: Arc::clone(&settings),
                shared: Arc::clone(&shared),
                dtls: vec![None],
                coap_metrics: Arc::clone(&coap_metrics),
                metrics: Arc::clone(&metrics),
                seed: std::array::from_fn(|_| self.chance.next() as u8),
                store: self.memory.store(self.now, usize::from(worker)),
            };
            self.coap_metrics.push(coap_metrics);
            self.metrics.push(metrics);
            self.gateways.push(Gateway::new(self.now, parts));
        }
        for worker in 0..self.gateways.len() {
            self.settle(worker);
        }
    }

    /// The process dies between two inputs, and another goes on.
    fn restart(&mut self) {
        let held = self.kept();
        let before = self.underway.len();
        self.underway
            .retain(|_, delivery| !matches!(delivery, Delivery::OfBroker(..) | Delivery::OfWorker(..)));
        let pending = before - self.underway.len();
        self.counted += self.count();
        self.coap_metrics.clear();
        self.metrics.clear();
        // Nothing of it runs any more, not even what it would do with what it drops.
        self.gateways.drain(..).for_each(std::mem::forget);
        self.broker.forget_subscriptions();
        self.watch.dies();
        self.watch.tally.restarts += 1;
        self.start();
        let goes_on = self.kept();
        assert!(
            goes_on.0 == held.0 && goes_on.1 + pending as u64 >= held.1,
            "connections and observations before {held:?}, {pending} pending, and after {goes_on:?}"
        );
    }

    /// Connections and observations.
    fn kept(&self) -> (u64, u64) {
        let sum =
            |what: fn(&GatewayMetrics) -> u64| self.metrics.iter().map(|metrics| what(metrics)).sum::<u64>();
        (
            sum(|metrics| metrics.connections.get()),
            sum(|metrics| metrics.subscriptions.get()),
        )
    }

    /// Runs the steps of trouble, then shows that everybody is served, then lets everybody fall silent.
    pub(crate) fn run(mut self) -> Tally {
        self.watch.is_verbose = self.plan.is_verbose;
        for _ in 0..self.plan.steps {
            self.step();
        }
        self.serves_everybody();
        self.forgets_everybody();
        for device in &self.devices {
            self.watch.tally.timed_out += device.timed_out;
        }
        self.watch.tally
    }

    fn step(&mut self) {
        if self.plan.garbage && self.chance.percent(3) {
            self.garbage();
        }
        if self.plan.reloads && self.chance.percent(1) {
            self.operate();
        }
        if self.plan.restarts && self.chance.percent(1) {
            self.restart();
        }
        let due = self
            .devices
            .iter()
            .enumerate()
            .map(|(at, device)| (device.next_due(), at))
            .min();
        let (due, at) = due.unwrap();
        self.advance(due);
        let device = &mut self.devices[at];
        if device.next_due() > self.now {
            return;
        }
        let sent = if device.is_waiting() {
            device.resend(self.now)
        } else {
            if self.plan.reboots && self.chance.percent(3) {
                device.reboot();
            }
            if self.plan.rebinding && self.chance.percent(5) {
                device.rebind();
                self.watch.tally.moved += 1;
            }
            Some(device.act(self.now, &mut self.chance))
        };
        if let Some(bytes) = sent {
            self.sent_by(at, bytes);
        }
    }

    /// Lets happen what happens until then, or until the next thing that a device is told.
    fn advance(&mut self, until: Instant) {
        loop {
            let timer = self
                .gateways
                .iter()
                .enumerate()
                .filter_map(|(at, gateway)| Some((gateway.poll_timeout()?, at)))
                .min();
            let arrival = self.underway.keys().next().map(|(at, _)| *at);
            match (timer, arrival) {
                (Some((due, worker)), arrival)
                    if due <= until && arrival.is_none_or(|arrival| due <= arrival) =>
                {
                    self.now = self.now.max(due);
                    self.gateways[worker].handle_timeout(self.now);
                    self.settle(worker);
                }
                (_, Some(arrival)) if arrival <= until => {
                    self.now = self.now.max(arrival);
                    let (_, delivery) = self.underway.pop_first().unwrap();
                    self.deliver(delivery);
                }
                _ => break,
            }
        }
        self.now = self.now.max(until);
    }

    fn later(&mut self, at: Instant, delivery: Delivery) {
        self.sequence += 1;
        self.underway.insert((at, self.sequence), delivery);
    }

    /// Over the network, which does with it what the plan says.
    fn carry(&mut self, delivery: impl Fn() -> Delivery) {
        if self.plan.loss && self.chance.percent(15) {
            self.watch.tally.lost += 1;
            return;
        }
        let copies = if self.plan.duplication && self.chance.percent(10) {
            2
        } else {
            1
        };
        self.watch.tally.duplicated += copies - 1;
        for _ in 0..copies {
            let most = if self.plan.reordering && self.chance.percent(20) {
                6_000
            } else {
                1
            };
            let at = self.now + Duration::from_millis(20) + self.chance.millis(0, most);
            self.later(at, delivery());
        }
    }

    fn sent_by(&mut self, at: usize, bytes: Vec<u8>) {
        let from = self.devices[at].address;
        let packet = Packet::from_bytes(&bytes).unwrap();
        if packet.get_observe_value() == Some(Ok(0)) {
            let filter = self.devices[at].observing[packet.get_token()].clone();
            self.watch.registers(from, packet.get_token(), &filter);
        }
        self.carry(|| Delivery::ToGateway(from, bytes.clone()));
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::ToGateway(from, mut bytes) => {
                self.watch.arrives(self.now, from, &bytes);
                let worker = usize::from(from.port() % u16::from(self.plan.workers));
                let input = Input::Datagram {
                    listener: ListenerId(0),
                    from,
                    local: None,
                    bytes: &mut bytes,
                };
                self.gateways[worker].handle(self.now, input);
                self.settle(worker);
            }
            Delivery::ToDevice(to, bytes) => self.received_by(to, &bytes),
            Delivery::OfBroker(worker, event) => {
                self.gateways[worker].handle(self.now, Input::Broker(event));
                self.settle(worker);
            }
            Delivery::OfWorker(to, message) => {
                let worker = usize::from(to.0);
                self.gateways[worker].handle(self.now, Input::Worker(message));
                self.settle(worker);
            }
        }
    }

    fn received_by(&mut self, to: SocketAddr, bytes: &[u8]) {
        // Behind a NAT only the newest address leads anywhere.
        let Some(at) = self
            .devices
            .iter()
            .position(|device| device.address == to && !device.is_deaf)
        else {
            return;
        };
        let packet = Packet::from_bytes(bytes).unwrap();
        let reaction = self.devices[at].receive(self.now, &packet);
        if let Some((purpose, code)) = reaction.done {
            self.watch.tally.answered += 1;
            if let (Purpose::Publish { payload }, MessageClass::Response(ResponseType::Changed)) =
                (purpose, code)
            {
                self.watch.accepted(&payload);
            }
        }
        if let Some(reply) = reaction.reply {
            self.sent_by(at, reply);
        }
    }

    /// Does what a gateway wants done.
    fn settle(&mut self, worker: usize) {
        while let Some(output) = self.gateways[worker].poll_output() {
            match output {
                Output::Broker(request) => {
                    let events = self.broker.ask(self.now, worker, request, &mut self.chance);
                    for (at, worker, event) in events {
                        self.later(at, Delivery::OfBroker(worker, event));
                    }
                    self.watch.broker(&self.broker);
                }
                Output::Worker { to, message } => {
                    let before = self
                        .between_workers
                        .get(&(worker, to))
                        .copied()
                        .unwrap_or(self.now);
                    let at = before.max(self.now + self.chance.millis(0, 5));
                    self.between_workers.insert((worker, to), at);
                    self.later(at, Delivery::OfWorker(to, message));
                }
                Output::Control { .. } | Output::Event(_) => {}
                Output::Forward { .. } | Output::Seek(_) => panic!("there is one node"),
                Output::Authenticate { .. } | Output::FindKeys { .. } => {
                    panic!("nobody is asked about clients")
                }
            }
        }
        let sent: Vec<_> = self.gateways[worker]
            .transmits()
            .iter()
            .map(|(_, to, bytes)| (to.socket_addr(), bytes.to_vec()))
            .collect();
        self.gateways[worker].transmits_sent();
        for (to, bytes) in sent {
            self.watch.leaves(self.now, to, &bytes, &self.broker);
            self.carry(|| Delivery::ToDevice(to, bytes.clone()));
        }
        let held: u64 = self.metrics.iter().map(|metrics| standing_bytes(metrics)).sum();
        assert!(
            held <= self.settings.caps.memory as u64 * u64::from(self.plan.workers),
            "{held} bytes are kept"
        );
    }

    /// From an address of its own, or under a device's.
    fn garbage(&mut self) {
        let at = self.chance.below(self.devices.len());
        let mut bytes: Vec<u8> = (0..self.chance.below(40))
            .map(|_| self.chance.next() as u8)
            .collect();
        let mut from = SocketAddr::from(([10, 9, 9, at as u8], 7));
        if self.chance.percent(50) {
            // What is no message of version 1 (RFC 7252, 3) says nothing about a device whose address is forged.
            from = self.devices[at].address;
            if let Some(first) = bytes.first_mut() {
                *first |= 0x80;
            }
        }
        self.carry(|| Delivery::ToGateway(from, bytes.clone()));
    }

    /// An operator reloads, or ends a client.
    fn operate(&mut self) {
        let request = if self.chance.percent(50) {
            self.settings.notify_type =
                [NotifyType::Non, NotifyType::Con, NotifyType::Qos][self.chance.below(3)];
            self.settings.heartbeat = Some(self.chance.millis(20_000, 60_000));
            self.settings.coap.max_block_size = 64 << self.chance.below(5);
            ControlRequest::Reconfigure {
                settings: Arc::new(self.settings.clone()),
            }
        } else {
            let at = self.chance.below(self.devices.len());
            let client = ClientId::new(&self.devices[at].name).unwrap();
            ControlRequest::Kick { client }
        };
        for worker in 0..self.gateways.len() {
            let request = request.clone();
            self.gateways[worker].handle(self.now, Input::Control { ticket: 1, request });
            self.settle(worker);
        }
    }

    /// Without trouble each device is answered.
    fn serves_everybody(&mut self) {
        self.plan = Plan {
            loss: false,
            duplication: false,
            reordering: false,
            ..self.plan.clone()
        };
        self.broker.is_lying = false;
        self.advance(self.now + Duration::from_secs(10));
        for at in 0..self.devices.len() {
            let before = self.broker.taken.len();
            // What it kept of its connection may be over; then it makes another.
            for _ in 0..4 {
                let bytes = self.devices[at].insist(self.now);
                self.sent_by(at, bytes);
                self.advance(self.now + Duration::from_secs(2));
                assert!(
                    !self.devices[at].is_waiting(),
                    "{} is not answered",
                    self.devices[at].name
                );
                if self.broker.taken.len() > before {
                    break;
                }
            }
            assert!(
                self.broker.taken.len() > before,
                "{} cannot publish",
                self.devices[at].name
            );
        }
    }

    /// Datagrams that came to something.
    fn count(&self) -> u64 {
        // What could be read is counted by type and code, whatever became of it afterwards.
        let read = [
            DropReason::Unmatched,
            DropReason::UnexpectedResponse,
            DropReason::CriticalOption,
            DropReason::Duplicate,
        ];
        let counted: u64 = self
            .coap_metrics
            .iter()
            .filter_map(|metrics| metrics.listener(ListenerId(0)))
            .map(|listener| {
                let dropped: u64 = listener.dropped.iter().map(|(_, count)| count).sum();
                let unread = dropped
                    - read
                        .iter()
                        .map(|reason| listener.dropped.get(*reason))
                        .sum::<u64>();
                listener.received.iter().map(|(_, _, count)| count).sum::<u64>() + unread
            })
            .sum();
        let before_coap = self
            .metrics
            .iter()
            .flat_map(|metrics| metrics.listeners[0].dropped.iter());
        counted + before_coap.map(|(_, count)| count).sum::<u64>()
    }

    /// Where those are who observe something.
    fn observers(&mut self) -> Vec<String> {
        let mut observers = Vec::new();
        for gateway in &mut self.gateways {
            for from in [Cursor::Connections(None), Cursor::Peers(0)] {
                let request = ControlRequest::Page { from, places: 10_000 };
                gateway.handle(self.now, Input::Control { ticket: 1, request });
                while let Some(output) = gateway.poll_output() {
                    if let Output::Control {
                        answer: ControlAnswer::Page { clients, .. },
                        ..
                    } = output
                    {
                        let observing = clients.iter().filter(|client| client.observations > 0);
                        observers.extend(observing.map(|client| format!("{client:?}")));
                    }
                }
            }
        }
        observers
    }

    /// Nothing is left of those who fall silent.
    fn forgets_everybody(&mut self) {
        for device in &mut self.devices {
            device.is_deaf = true;
        }
        self.advance(self.now + Duration::from_secs(3_000));
        let sum =
            |what: fn(&GatewayMetrics) -> u64| self.metrics.iter().map(|metrics| what(metrics)).sum::<u64>();
        assert_eq!(sum(|metrics| metrics.connections.get()), 0, "connections");
        let left = sum(|metrics| metrics.subscriptions.get());
        assert_eq!(left, 0, "observations of {:?}", self.observers());
        assert_eq!(sum(standing_bytes), 0, "bytes of those who are gone");
        assert!(!self.broker.has_subscriptions());
        assert_eq!(
            self.counted + self.count(),
            self.watch.tally.datagrams,
            "datagrams and what became of them"
        );
    }
}

fn standing_bytes(metrics: &GatewayMetrics) -> u64 {
    let of = |standing: &Standing| -> u64 {
        let tables = Table::ALL.iter();
        tables
            .map(|table| metrics.standing_bytes.of(*standing).get(*table))
            .sum()
    };
    Standing::ALL.iter().map(of).sum()
}
