//! A worker over real sockets and channels, with a core that each test can see through.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use super::*;

use crate::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest, FilterId, Ticket};
use crate::broker::Played;
use crate::coap::contract::{Code, Notification, ObservationId, PeerId, ResourceKey, Token};
use crate::daemon::echo::Echo;
use crate::gateway::contract::Output;
use crate::gateway::workers::ToPeer;
use crate::net::{GroupSpec, open_groups};
use crate::policy::connections::ConnectionKey;
use crate::types::message::Qos;
use crate::types::{Message, PeerAddr, TopicFilter, TopicName, Transmits, Transport};

const SECOND: Duration = Duration::from_secs(1);

/// What a test holds of a worker that runs on its own thread.
struct Running {
    addrs: Vec<SocketAddr>,
    commands: mpsc::Sender<Command>,
    broker: Option<Played>,
    metrics: Arc<WorkerMetrics>,
    net: Arc<NetMetrics>,
    thread: std::thread::JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    fn start<C: Core>(binds: &[&str], channel: usize, core: impl FnOnce() -> C + Send + 'static) -> Self {
        let spec = |bind: &&str| GroupSpec {
            transport: Transport::Udp,
            name: (*bind).to_owned(),
            bind: bind.parse().unwrap(),
            workers: 1,
            buffers: Default::default(),
        };
        let specs: Vec<_> = binds.iter().map(spec).collect();
        let sockets: Vec<_> = open_groups(&specs).unwrap().into_iter().flatten().collect();
        let addrs = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        let (commands, commands_in) = mpsc::channel(8);
        let (link, broker) = Played::new(channel);
        let (verdicts_to, verdicts) = mpsc::unbounded_channel();
        let (inbox, inbox_in) = mpsc::channel(8);
        let ports = Ports {
            started: Arc::new(Barrier::new(1)),
            commands: commands_in,
            inbox: inbox_in,
            workers: vec![inbox],
            broker: link,
            auth: None,
            links: None,
            seeks: None,
            verdicts,
            verdicts_to,
            events: mpsc::channel(8).0,
            streams: mpsc::channel(1).1,
            of_nodes: mpsc::channel(1).1,
        };
        let metrics = Arc::new(WorkerMetrics::default());
        let net = Arc::new(NetMetrics::new(binds.len()));
        let (worker_metrics, worker_net) = (metrics.clone(), net.clone());
        let sockets = sockets.into_iter().map(Some).collect();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let worker = Worker::new(WorkerId(0), core(), ports, sockets, &worker_net, worker_metrics);
                worker.unwrap().run().await
            })
        });
        Self {
            addrs,
            commands,
            broker: Some(broker),
            metrics,
            net,
            thread,
        }
    }

    fn stop(self, grace: Duration) -> Result<(), WorkerError> {
        self.commands
            .blocking_send(Command::Stop { grace, goodbye: true })
            .unwrap();
        self.thread.join().unwrap()
    }

    fn tell(&self, event: BrokerEvent) {
        self.broker.as_ref().unwrap().answer(event);
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(30 * SECOND)).unwrap();
    socket2::SockRef::from(&socket)
        .set_recv_buffer_size(4 << 20)
        .unwrap();
    socket
}

fn read(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

#[test]
fn every_listener_answers_and_a_burst_comes_back_whole() {
    let worker = Running::start(&["127.0.0.1:0", "[::]:0", "127.0.0.2:0"], 8, Echo::default);
    let peer = client();
    for addr in worker.addrs.clone() {
        let to = SocketAddr::new(
            if addr.is_ipv6() {
                "127.0.0.1".parse().unwrap()
            } else {
                addr.ip()
            },
            addr.port(),
        );
        for number in 0..1000_u32 {
            peer.send_to(&number.to_be_bytes(), to).unwrap();
        }
        for number in 0..1000_u32 {
            assert_eq!(read(&peer), number.to_be_bytes());
        }
    }
    let listener = worker.net.listener(ListenerId(1)).unwrap();
    assert_eq!((listener.received.get(), listener.sent.get()), (1000, 1000));
    worker.stop(SECOND).unwrap();
}

#[test]
fn the_largest_datagram_goes_through_a_worker() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Echo::default);
    let peer = client();
    let bytes: Vec<u8> = (0..65_507).map(|n| (n % 253) as u8).collect();
    peer.send_to(&bytes, worker.addrs[0]).unwrap();
    assert_eq!(read(&peer), bytes);
    worker.stop(SECOND).unwrap();
}

#[test]
fn an_idle_worker_still_turns_for_the_watchdog_and_does_not_spin() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Echo::default);
    std::thread::sleep(Duration::from_millis(200));
    let before = worker.metrics.turns.get();
    std::thread::sleep(Duration::from_millis(1700));
    let turns = worker.metrics.turns.get() - before;
    assert!((2..=6).contains(&turns), "{turns} turns in 1.7 s");
    worker.stop(SECOND).unwrap();
}

#[test]
fn goodbye_is_sent_when_a_worker_stops() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Echo::default);
    let peer = client();
    peer.send_to(b"x", worker.addrs[0]).unwrap();
    assert_eq!(read(&peer), b"x");
    worker.stop(SECOND).unwrap();
    assert_eq!(read(&peer), b"bye");
}

#[test]
fn an_operator_gets_an_answer() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Echo::default);
    let (reply, answer) = oneshot::channel();
    let request = ControlRequest::Drain { goodbye: true };
    worker
        .commands
        .blocking_send(Command::Control { request, reply })
        .unwrap();
    assert!(matches!(answer.blocking_recv(), Ok(ControlAnswer::Done)));
    worker.stop(SECOND).unwrap();
}

#[test]
fn a_worker_ends_when_the_operator_is_gone() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Echo::default);
    drop(worker.commands);
    worker.thread.join().unwrap().unwrap();
}

#[test]
fn a_worker_fails_when_the_broker_is_gone() {
    let mut worker = Running::start(&["127.0.0.1:0"], 8, Echo::default);
    worker.broker = None;
    assert!(matches!(worker.thread.join().unwrap(), Err(WorkerError::Broker)));
}

/// Asks the broker for each datagram by its first byte, and answers the peer with what the broker said.
#[derive(Default)]
struct Asking {
    transmits: Transmits,
    outputs: VecDeque<Output>,
    waiting: HashMap<u64, (ListenerId, PeerAddr)>,
    due: Option<Instant>,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Asking {
    fn ask(&mut self, listener: ListenerId, peer: PeerAddr, bytes: &[u8]) {
        let number = self.waiting.len() as u64;
        let ticket = Ticket(number);
        let topic = || TopicName::new("t").unwrap();
        let request = match bytes {
            b"publish" => BrokerRequest::Publish {
                ticket,
                message: Arc::new(message()),
            },
            b"subscribe" => BrokerRequest::Subscribe {
                ticket,
                filter_id: FilterId(number),
                filter: TopicFilter::new("t").unwrap(),
                qos: Qos::AtMostOnce,
                retained: false,
            },
            b"read" => BrokerRequest::ReadRetained {
                ticket,
                topic: topic(),
            },
            _ => BrokerRequest::Unsubscribe {
                filter_id: FilterId(number),
            },
        };
        self.waiting.insert(number, (listener, peer));
        self.outputs.push_back(Output::Broker(request));
    }

    fn answer(&mut self, ticket: Ticket, text: &str) {
        if let Some((listener, peer)) = self.waiting.get(&ticket.0) {
            self.transmits.push(*listener, *peer, text.as_bytes());
        }
    }
}

impl Core for Asking {
    fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram {
                local: None,
                listener,
                from,
                bytes,
            } => {
                self.log.lock().unwrap().push("datagram");
                if bytes == b"timer" {
                    self.due = Some(now + Duration::from_millis(30));
                }
                self.ask(listener, PeerAddr::new(from).unwrap(), bytes);
            }
            Input::Broker(BrokerEvent::Published { ticket, result }) => {
                self.answer(ticket, &format!("{result:?}"))
            }
            Input::Broker(BrokerEvent::Subscribed { ticket, result }) => {
                self.answer(ticket, &format!("{:?}", result.err()));
            }
            Input::Broker(BrokerEvent::Retained { ticket, result }) => {
                self.answer(ticket, &format!("{:?}", result.err()));
            }
            Input::Control { .. } => self.log.lock().unwrap().push("drain"),
            _ => {}
        }
    }
    fn transmits(&self) -> &Transmits {
        &self.transmits
    }
    fn transmits_sent(&mut self) {
        self.transmits.clear();
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
    fn handle_timeout(&mut self, now: Instant) {
        assert!(self.due.take().is_some_and(|due| due <= now));
        self.answer(Ticket(self.waiting.len() as u64 - 1), "due");
    }
}

fn message() -> Message {
    Message::new(
        TopicName::new("t").unwrap(),
        bytes::Bytes::from_static(b"x"),
        Qos::AtMostOnce,
    )
}

#[test]
fn a_request_that_the_broker_cannot_take_is_answered_at_once() {
    let worker = Running::start(&["127.0.0.1:0"], 0, Asking::default);
    let peer = client();
    for (request, answer) in [
        ("publish", "Err(Unavailable)"),
        ("subscribe", "Some(Unavailable)"),
        ("read", "Some(Unavailable)"),
    ] {
        peer.send_to(request.as_bytes(), worker.addrs[0]).unwrap();
        assert_eq!(read(&peer), answer.as_bytes());
    }
    assert_eq!(worker.metrics.channel_full.get(), 3);
    worker.stop(SECOND).unwrap();
}

#[test]
fn an_unsubscription_is_never_lost() {
    let mut worker = Running::start(&["127.0.0.1:0"], 0, Asking::default);
    let peer = client();
    for _ in 0..5 {
        peer.send_to(b"unsubscribe", worker.addrs[0]).unwrap();
    }
    for number in 0..5 {
        let request = worker.broker.as_mut().unwrap().next_request().unwrap();
        assert!(matches!(request, BrokerRequest::Unsubscribe { filter_id } if filter_id.0 == number));
    }
    worker.stop(SECOND).unwrap();
}

#[test]
fn an_answer_in_flight_is_given_before_a_worker_ends() {
    let mut worker = Running::start(&["127.0.0.1:0"], 8, Asking::default);
    let peer = client();
    peer.send_to(b"publish", worker.addrs[0]).unwrap();
    let Some(BrokerRequest::Publish { ticket, .. }) = worker.broker.as_mut().unwrap().next_request() else {
        panic!("no publish");
    };
    worker
        .commands
        .blocking_send(Command::Stop {
            grace: 10 * SECOND,
            goodbye: true,
        })
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!worker.thread.is_finished());
    // A worker that finishes takes nothing new.
    peer.send_to(b"publish", worker.addrs[0]).unwrap();
    worker.tell(BrokerEvent::Published {
        ticket,
        result: Err(BrokerError::Quota),
    });
    assert_eq!(read(&peer), b"Err(Quota)");
    worker.thread.join().unwrap().unwrap();
    assert!(worker.broker.as_mut().unwrap().next_request().is_none());
}

#[test]
fn a_broker_that_does_not_answer_does_not_keep_a_worker_from_ending() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let mut worker = Running::start(&["127.0.0.1:0"], 8, move || Asking {
        log: seen,
        ..Asking::default()
    });
    client().send_to(b"publish", worker.addrs[0]).unwrap();
    assert!(worker.broker.as_mut().unwrap().next_request().is_some());
    worker.stop(Duration::from_millis(200)).unwrap();
    assert_eq!(*log.lock().unwrap(), ["datagram", "drain"]);
}

#[test]
fn a_timer_of_the_core_fires_once_and_not_early() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Asking::default);
    let peer = client();
    let start = clock::now();
    peer.send_to(b"timer", worker.addrs[0]).unwrap();
    assert_eq!(read(&peer), b"due");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(30), "{took:?}");
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(peer.recv(&mut [0; 8]).is_err());
    worker.stop(SECOND).unwrap();
}

/// Tells itself a thousand things at each datagram, and answers with how many it heard in their order.
#[derive(Default)]
struct Chatty {
    transmits: Transmits,
    outputs: VecDeque<Output>,
    asked: Option<(ListenerId, PeerAddr)>,
    heard: u64,
}

impl Core for Chatty {
    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { listener, from, .. } => {
                self.asked = PeerAddr::new(from).map(|peer| (listener, peer));
                self.outputs.extend((0..1000).map(|n| Output::Worker {
                    to: WorkerId(0),
                    message: WorkerMessage::Evict(ConnectionKey(n)),
                }));
            }
            Input::Worker(WorkerMessage::Evict(key)) => {
                self.heard += u64::from(key.0 == self.heard);
                if let (999, Some((listener, peer))) = (key.0, self.asked) {
                    let heard = self.heard.to_string();
                    self.transmits.push(listener, peer, heard.as_bytes());
                }
            }
            _ => {}
        }
    }
    fn transmits(&self) -> &Transmits {
        &self.transmits
    }
    fn transmits_sent(&mut self) {
        self.transmits.clear();
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn handle_timeout(&mut self, _now: Instant) {}
}

#[test]
fn what_another_workers_inbox_has_no_room_for_is_told_later_and_in_order() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Chatty::default);
    let peer = client();
    peer.send_to(b"go", worker.addrs[0]).unwrap();
    assert_eq!(read(&peer), b"1000");
    assert!(worker.metrics.channel_full.get() > 0);
    worker.stop(SECOND).unwrap();
}

/// Sends itself 70,000 notifications at each datagram, and answers with how many came back or arrived.
#[derive(Default)]
struct Generous {
    transmits: Transmits,
    outputs: VecDeque<Output>,
    asked: Option<(ListenerId, PeerAddr)>,
    arrived: usize,
    refused: usize,
}

impl Core for Generous {
    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { listener, from, .. } => {
                self.asked = PeerAddr::new(from).map(|peer| (listener, peer));
                self.outputs.extend((0..70_000).map(|n| Output::Worker {
                    to: WorkerId(0),
                    message: WorkerMessage::ToPeer(
                        PeerId(n),
                        ToPeer::Notify(ObservationId(n), notification()),
                    ),
                }));
            }
            Input::Worker(_) => self.arrived += 1,
            Input::Refused(_) => self.refused += 1,
            _ => {}
        }
        if let (70_000, Some((listener, peer))) = (self.arrived + self.refused, self.asked) {
            let counts = format!("{} {}", self.arrived, self.refused);
            self.transmits.push(listener, peer, counts.as_bytes());
        }
    }
    fn transmits(&self) -> &Transmits {
        &self.transmits
    }
    fn transmits_sent(&mut self) {
        self.transmits.clear();
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn handle_timeout(&mut self, _now: Instant) {}
}

fn notification() -> Notification {
    Notification {
        token: Token::default(),
        resource: ResourceKey(Arc::from(&b""[..])),
        block_szx: None,
        confirmable: false,
        observe: 1,
        code: Code::CONTENT,
        payload: "x".into(),
        content_format: None,
        max_age: None,
        expires_at: None,
        kept: None,
        returns: false,
        topic: None,
    }
}

#[test]
fn too_many_notifications_that_another_workers_inbox_has_no_room_for_are_given_back() {
    let worker = Running::start(&["127.0.0.1:0"], 8, Generous::default);
    let peer = client();
    peer.send_to(b"go", worker.addrs[0]).unwrap();
    assert_eq!(read(&peer), b"65544 4456");
    worker.stop(SECOND).unwrap();
}
