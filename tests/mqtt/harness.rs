//! A mosquitto, a worker, and a plain MQTT client on the other side.

use std::collections::{HashMap, VecDeque};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use portcullis::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest, FilterId, Ticket};
use portcullis::broker::{
    BrokerAddress, BrokerKind, BrokerRuntime, BrokerSettings, BrokerSnapshot, Clock, MqttSettings, Protocol,
    WorkerLink, start,
};
use portcullis::types::message::{Message, Qos};
use portcullis::types::{TopicFilter, TopicName};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;

/// Longer than anything takes on a machine that is busy with other things; only a failure waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V4];

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub struct Mosquitto {
    pub port: u16,
    pub directory: tempfile::TempDir,
    config: String,
    child: Option<Child>,
}

impl Mosquitto {
    pub fn start() -> Self {
        Self::with("allow_anonymous true")
    }

    /// `DIR` in `extra` is replaced by a directory of its own, which `prepare` may fill.
    pub fn prepared(extra: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let port = free_port();
        let extra = extra.replace("DIR", directory.path().to_str().unwrap());
        let config = format!(
            "user root\nlistener {port} 127.0.0.1\nsys_interval 1\nmax_queued_messages 100000\n{extra}\n"
        );
        let mut mosquitto = Self {
            port,
            directory,
            config,
            child: None,
        };
        mosquitto.up();
        mosquitto
    }

    pub fn with(extra: &str) -> Self {
        Self::prepared(extra, |_| {})
    }

    pub fn up(&mut self) {
        let config = self.directory.path().join("mosquitto.conf");
        std::fs::write(&config, &self.config).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-v")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed");
        self.child = Some(child);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// An orderly end, at which mosquitto saves what it holds.
    pub fn terminate(&mut self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn mqtt(port: u16, protocol: Protocol) -> MqttSettings {
    let address = BrokerAddress {
        tls: false,
        host: "127.0.0.1".into(),
        port,
    };
    let mut settings = MqttSettings::new(address, "gateway");
    settings.protocol = protocol;
    settings.keep_alive = Duration::from_secs(5);
    settings.spool_bytes = 8 << 20;
    settings
}

pub fn settings(mqtt: MqttSettings, state_dir: Option<&Path>) -> BrokerSettings {
    BrokerSettings {
        node: "node".into(),
        state_dir: state_dir.map(Into::into),
        clock: Clock {
            now: Instant::now,
            wall: SystemTime::now,
        },
        kind: BrokerKind::Mqtt(Box::new(mqtt)),
    }
}

/// The broker under test.
pub struct Gateway {
    pub runtime: BrokerRuntime,
    pub workers: Vec<Worker>,
}

impl Gateway {
    pub fn start(mqtt: MqttSettings, state_dir: Option<&Path>, workers: usize) -> Self {
        Self::of(start(settings(mqtt, state_dir), workers).unwrap())
    }

    pub fn of((runtime, links): (BrokerRuntime, Vec<WorkerLink>)) -> Self {
        Self {
            runtime,
            workers: links.into_iter().map(Worker::new).collect(),
        }
    }

    pub async fn connected(mqtt: MqttSettings, state_dir: Option<&Path>, workers: usize) -> Self {
        let gateway = Self::start(mqtt, state_dir, workers);
        gateway.until_connected(true).await;
        gateway
    }

    pub async fn until_connected(&self, connected: bool) {
        self.until(|snapshot| snapshot.connected == connected).await;
    }

    pub async fn until(&self, condition: impl Fn(&BrokerSnapshot) -> bool) {
        let begun = Instant::now();
        while !condition(&self.snapshot()) {
            assert!(
                begun.elapsed() < PATIENCE * 2,
                "{} {:?}",
                self.runtime.status(),
                self.snapshot()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn snapshot(&self) -> BrokerSnapshot {
        self.runtime.metrics().snapshot()
    }

    /// Accepted + recovered = acknowledged + spooled + dropped, once at rest.
    pub async fn assert_conserved(&self) -> BrokerSnapshot {
        self.until(conserved).await;
        self.snapshot()
    }
}

pub fn conserved(snapshot: &BrokerSnapshot) -> bool {
    snapshot.accepted + snapshot.recovered
        == snapshot.acknowledged + snapshot.spool_messages + snapshot.dropped_total()
}

/// A worker's side: what it asked, what it was told.
pub struct Worker {
    link: WorkerLink,
    ticket: u64,
    pub results: HashMap<u64, Result<(), BrokerError>>,
    subscribed: HashMap<u64, Result<Vec<Arc<Message>>, BrokerError>>,
    retained: HashMap<u64, Result<Option<Arc<Message>>, BrokerError>>,
    pub messages: VecDeque<(Vec<u64>, Arc<Message>)>,
    pub lost: Vec<(u64, BrokerError)>,
}

impl Worker {
    fn new(link: WorkerLink) -> Self {
        Self {
            link,
            ticket: 0,
            results: HashMap::new(),
            subscribed: HashMap::new(),
            retained: HashMap::new(),
            messages: VecDeque::new(),
            lost: Vec::new(),
        }
    }

    fn take(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Published { ticket, result } => {
                assert!(self.results.insert(ticket.0, result).is_none(), "answered twice");
            }
            BrokerEvent::Subscribed { ticket, result } => {
                assert!(
                    self.subscribed.insert(ticket.0, result).is_none(),
                    "answered twice"
                );
            }
            BrokerEvent::Retained { ticket, result } => {
                assert!(self.retained.insert(ticket.0, result).is_none(), "answered twice");
            }
            BrokerEvent::Message {
                filters,
                message,
                receipt,
            } => {
                if let Some(receipt) = receipt {
                    receipt.taken();
                }
                self.messages
                    .push_back((filters.iter().map(|id| id.0).collect(), message));
            }
            BrokerEvent::SubscriptionLost { filter_id, error } => self.lost.push((filter_id.0, error)),
        }
    }

    pub fn drain(&mut self) {
        while let Some(event) = self.link.try_recv() {
            self.take(event);
        }
    }

    async fn event(&mut self) {
        let event = tokio::time::timeout(PATIENCE, self.link.recv()).await;
        let event = event.expect("an event in time").expect("a broker that lives");
        self.take(event);
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    fn ask(&mut self, request: BrokerRequest) {
        self.link.ask(request).expect("room for a request");
        assert!(self.link.flush().is_empty());
    }

    pub fn send(&mut self, message: Message) -> u64 {
        let ticket = self.next_ticket();
        let request = BrokerRequest::Publish {
            ticket: Ticket(ticket),
            message: Arc::new(message),
        };
        self.ask(request);
        ticket
    }

    pub async fn result(&mut self, ticket: u64) -> Result<(), BrokerError> {
        loop {
            if let Some(result) = self.results.remove(&ticket) {
                return result;
            }
            self.event().await;
        }
    }

    pub async fn publish(&mut self, message: Message) -> Result<(), BrokerError> {
        let ticket = self.send(message);
        self.result(ticket).await
    }

    pub fn send_subscribe(&mut self, id: u64, filter: &str, retained: bool) -> u64 {
        self.send_subscribe_at(id, filter, retained, Qos::AtLeastOnce)
    }

    fn send_subscribe_at(&mut self, id: u64, filter: &str, retained: bool, qos: Qos) -> u64 {
        let ticket = self.next_ticket();
        let request = BrokerRequest::Subscribe {
            ticket: Ticket(ticket),
            filter_id: FilterId(id),
            filter: TopicFilter::new(filter).unwrap(),
            qos,
            retained,
        };
        self.ask(request);
        ticket
    }

    pub async fn subscribed(&mut self, ticket: u64) -> Result<Vec<String>, BrokerError> {
        loop {
            if let Some(result) = self.subscribed.remove(&ticket) {
                return result.map(|found| found.iter().map(|m| described(m)).collect());
            }
            self.event().await;
        }
    }

    pub async fn subscribe(
        &mut self,
        id: u64,
        filter: &str,
        retained: bool,
    ) -> Result<Vec<String>, BrokerError> {
        let ticket = self.send_subscribe(id, filter, retained);
        self.subscribed(ticket).await
    }

    /// Subscribes at a QoS of its own, without the retained messages.
    pub async fn subscribe_at(
        &mut self,
        id: u64,
        filter: &str,
        qos: Qos,
    ) -> Result<Vec<String>, BrokerError> {
        let ticket = self.send_subscribe_at(id, filter, false, qos);
        self.subscribed(ticket).await
    }

    pub fn unsubscribe(&mut self, id: u64) {
        let request = BrokerRequest::Unsubscribe {
            filter_id: FilterId(id),
        };
        self.ask(request);
    }

    pub async fn read(&mut self, topic: &str) -> Result<Option<String>, BrokerError> {
        let ticket = self.next_ticket();
        let topic = TopicName::new(topic).unwrap();
        let request = BrokerRequest::ReadRetained {
            ticket: Ticket(ticket),
            topic,
        };
        self.ask(request);
        loop {
            if let Some(result) = self.retained.remove(&ticket) {
                return result.map(|message| message.map(|message| text(&message)));
            }
            self.event().await;
        }
    }

    /// The next message, with the filters it came for.
    pub async fn message(&mut self) -> (Vec<u64>, Arc<Message>) {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            self.event().await;
        }
    }

    /// Nothing comes for a moment.
    pub async fn assert_silence(&mut self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.drain();
        assert!(self.messages.is_empty(), "{:?}", self.messages);
    }
}

pub fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

pub fn described(message: &Message) -> String {
    format!("{}={}", message.topic, text(message))
}

pub fn message(topic: &str, payload: &str, qos: u8) -> Message {
    Message::new(
        TopicName::new(topic).unwrap(),
        Bytes::copy_from_slice(payload.as_bytes()),
        Qos::from_number(qos).unwrap(),
    )
}

pub fn retained(topic: &str, payload: &str) -> Message {
    Message {
        retain: true,
        ..message(topic, payload, 1)
    }
}

/// A plain MQTT 5 client: rumqttc as others use it.
pub struct Peer {
    client: AsyncClient,
    received: mpsc::UnboundedReceiver<Publish>,
    acks: mpsc::UnboundedReceiver<Packet>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    pub async fn connect(port: u16) -> Self {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self::named(port, &format!("peer-{}-{number}", std::process::id()), true).await
    }

    /// A peer that takes so many messages at QoS 1 and 2 without acknowledging one.
    pub async fn with_window(port: u16, window: u16) -> Self {
        let mut options = MqttOptions::new("peer-with-window", "127.0.0.1", port);
        options.set_receive_maximum(Some(window));
        Self::of(options).await
    }

    pub async fn named(port: u16, id: &str, clean: bool) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options
            .set_clean_start(clean)
            .set_session_expiry_interval(Some(if clean { 0 } else { 1000 }));
        Self::of(options).await
    }

    async fn of(mut options: MqttOptions) -> Self {
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut events) = AsyncClient::new(options, 100);
        let (sender, received) = mpsc::unbounded_channel();
        let (ack_sender, acks) = mpsc::unbounded_channel();
        let mut connected = false;
        let begun = Instant::now();
        while !connected {
            assert!(begun.elapsed() < PATIENCE, "cannot connect");
            connected = matches!(events.poll().await, Ok(Event::Incoming(Packet::ConnAck(_))));
        }
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => drop(sender.send(publish)),
                    Ok(Event::Incoming(packet)) => drop(ack_sender.send(packet)),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Self {
            client,
            received,
            acks,
            task,
        }
    }

    /// Ends the connection, and with it a clean session.
    pub async fn stop(self) {
        self.client.disconnect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.task.abort();
    }

    async fn ack(&mut self) -> Packet {
        tokio::time::timeout(PATIENCE, self.acks.recv())
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut filter = Filter::new(filter, level(qos));
        filter.preserve_retain = true;
        self.client.subscribe_many([filter]).await.unwrap();
        while !matches!(self.ack().await, Packet::SubAck(_)) {}
    }

    pub async fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        self.publish_with(topic, payload, retain, PublishProperties::default())
            .await;
    }

    pub async fn publish_with(
        &mut self,
        topic: &str,
        payload: &str,
        retain: bool,
        properties: PublishProperties,
    ) {
        let payload = payload.to_owned();
        self.client
            .publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties)
            .await
            .unwrap();
        while !matches!(self.ack().await, Packet::PubAck(_)) {}
    }

    pub async fn next(&mut self) -> Publish {
        tokio::time::timeout(PATIENCE, self.received.recv())
            .await
            .expect("a message in time")
            .unwrap()
    }

    pub async fn next_within(&mut self, time: Duration) -> Option<Publish> {
        tokio::time::timeout(time, self.received.recv())
            .await
            .ok()
            .flatten()
    }
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

pub fn payload(publish: &Publish) -> String {
    String::from_utf8(publish.payload.to_vec()).unwrap()
}
