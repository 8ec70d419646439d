//! What a group costs on the path of a packet that is for a session here: requests over DTLS with a Connection ID, real sockets and
//! worker loops, to a gateway that is alone and to a node of a group, turn by turn, so that only the ratio means something. CPU time of
//! the worker; the engine is not there, since no packet asks it anything.
//!
//! `cargo bench --bench group_path`, or `-- ROUNDS EXCHANGES` for fewer of them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a benchmark prints, reads the clock, and cannot go on when something fails"
)]

#[path = "dtls/clock.rs"]
mod clock;
#[path = "../tests/support/dtls_client.rs"]
mod dtls_client;
#[path = "dtls/table.rs"]
mod table;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use portcullis::broker::{BrokerKind, BrokerRuntime, BrokerSettings, Clock, RetainedLimits};
use portcullis::coap::CoapMetrics;
use portcullis::config::{PathBase, parse, to_gateway_settings};
use portcullis::daemon::assembly::WorkerParts;
use portcullis::daemon::workers::Workers;
use portcullis::dtls::{ContextCell, DtlsContext, DtlsMetrics, DtlsShared, DtlsSource};
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::group::{self, EngineSettings, Group, GroupKey, GroupMetrics, Links, Listening};
use portcullis::net::{GroupSpec, open_groups};
use portcullis::redis::Kind;
use portcullis::state::Tenure;
use portcullis::types::{Transport, WorkerId};

use clock::median;
use dtls_client::{ClientConfig, DtlsClient};

const KEY: &[u8] = b"sesame-sesame-16";
const ROUNDS: usize = 21;
const EXCHANGES: usize = 20_000;
/// Requests in flight.
const BURST: usize = 16;
/// Ids of this node and of the others.
const NODES: (u16, [u16; 2]) = (7, [8, 9]);

const CONFIG: &str = r#"
[node]
name = "bench"
workers = 1
[listeners.dtls.secure]
bind = "127.0.0.1:5684"
psk_file = "psk.txt"
[authentication]
backend = "none"
[limits]
memory = "1GiB"
"#;

/// A gateway in this process, with one worker.
struct Site {
    workers: Workers,
    /// The worker, by the number that the kernel has for its thread.
    thread: String,
    device: Device,
    _broker: BrokerRuntime,
    _group: Option<(Group, Listening)>,
}

fn thread_number() -> String {
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A node of a group whose engine is away.
fn join(directory: &Path) -> Group {
    let settings = group::Settings {
        engine: EngineSettings {
            kind: Kind::Single,
            nodes: vec![("127.0.0.1".to_owned(), 1)],
            username: String::new(),
            password: None,
            database: 0,
            tls: false,
            ca_file: None,
        },
        key: Arc::new(GroupKey::parse("6".repeat(64).as_bytes()).unwrap()),
        name: "bench".to_owned(),
        address: "127.0.0.1:9".parse().unwrap(),
        node: NODES.0,
        lease: Duration::from_secs(3_600),
        state_dir: directory.to_owned(),
        clock: Instant::now,
        wall: || SystemTime::now().duration_since(UNIX_EPOCH).unwrap(),
        tenure: Arc::new(Tenure::new(Instant::now())),
    };
    Group::start(settings, Arc::<GroupMetrics>::default()).unwrap()
}

/// What the worker is made of.
fn parts(shared: &Arc<DtlsShared>) -> Parts {
    let base = PathBase {
        directory: "/nowhere".into(),
        credentials: None,
    };
    let config =
        parse(CONFIG, Path::new("bench.toml"), &base).unwrap_or_else(|problems| panic!("{problems}"));
    let settings = Arc::new(to_gateway_settings(&config, 4 << 30));
    let source = DtlsSource {
        contexts: ContextCell::new(Arc::new(DtlsContext::new(&table::psk_material()).unwrap())),
        shared: Arc::clone(shared),
        metrics: Arc::new(DtlsMetrics::default()),
        kept: None,
    };
    Parts {
        worker: WorkerId(0),
        shared: Arc::new(Shared::new(Instant::now(), &settings, [2; 32])),
        settings,
        dtls: vec![Some(Arc::new(source))],
        coap_metrics: Arc::new(CoapMetrics::new(1)),
        metrics: Arc::new(GatewayMetrics::new(1)),
        seed: [1; 32],
        store: None,
    }
}

impl Site {
    fn start(group: Option<Group>) -> Self {
        let spec = GroupSpec {
            transport: Transport::Dtls,
            name: "secure".to_owned(),
            bind: "127.0.0.1:0".parse().unwrap(),
            workers: 1,
            buffers: Default::default(),
        };
        let sockets = open_groups(&[spec]).unwrap();
        let addr = sockets[0][0].local_addr().unwrap();
        let broker = BrokerSettings {
            node: "bench".into(),
            state_dir: None,
            clock: Clock {
                now: Instant::now,
                wall: SystemTime::now,
            },
            kind: BrokerKind::Embedded(RetainedLimits::default()),
        };
        let (broker, mut to_broker) = portcullis::broker::start(broker, 1).unwrap();
        let now = Instant::now();
        let shared = match &group {
            None => DtlsShared::new([9; 32], now),
            Some(group) => DtlsShared::of_group(*group.key().derive("cookies"), [9; 32], now),
        };
        let links = group.as_ref().map(|group| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            Arc::new(Links::new(group, socket, false).unwrap())
        });
        let parts = parts(&shared);
        let (number, numbers) = channel();
        let parts = WorkerParts {
            core: Box::new(move || {
                number.send(thread_number()).unwrap();
                Gateway::new(Instant::now(), parts)
            }),
            broker: to_broker.remove(0),
            auth: None,
            links: links.clone(),
            seeks: None,
        };
        let workers = Workers::start(vec![parts], sockets).unwrap();
        let group = group.zip(links).map(|(group, links)| {
            let inbox = workers.of_nodes().remove(0);
            let listening = links
                .listen(&group, |_, _| {}, move |message| inbox.try_send(message).is_ok())
                .unwrap();
            shared.nodes().set(Some(NODES.0), NODES.1);
            (group, listening)
        });
        let device = Device::new(addr);
        let named = device.dtls.server_cid().unwrap()[1..3] == NODES.0.to_be_bytes();
        assert_eq!(
            named,
            group.is_some(),
            "Connection IDs of a group, and of it alone, name the node"
        );
        Self {
            workers,
            thread: numbers.recv().unwrap(),
            device,
            _broker: broker,
            _group: group,
        }
    }

    /// CPU time of the worker, in microseconds.
    fn micros(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.thread)).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1_000.0
    }

    /// Microseconds of an exchange.
    fn round(&mut self, exchanges: usize) -> f64 {
        let before = self.micros();
        for _ in 0..exchanges / BURST {
            self.device.exchange();
        }
        (self.micros() - before) / (exchanges / BURST * BURST) as f64
    }
}

struct Device {
    socket: UdpSocket,
    dtls: DtlsClient,
    mid: u16,
}

impl Device {
    fn new(addr: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let config = ClientConfig {
            cid: Some(Vec::new()),
            ..ClientConfig::psk("PSK-AES128-CCM8", "u1", KEY)
        };
        let dtls = DtlsClient::new(&config);
        let mut device = Self { socket, dtls, mid: 0 };
        while !device.dtls.is_connected() {
            device.dtls.connect();
            device.flush();
            device.receive();
        }
        device.flush();
        device
    }

    fn flush(&mut self) {
        for datagram in self.dtls.take() {
            self.socket.send(&datagram).unwrap();
        }
    }

    /// Whether something came.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let received = self.socket.recv(&mut buffer);
        if let Ok(length) = received {
            self.dtls.handle(&buffer[..length]);
        }
        received.is_ok()
    }

    /// Publishes as many times as are in flight, and has all answers.
    fn exchange(&mut self) {
        for _ in 0..BURST {
            let mut packet = Packet::new();
            packet.header.set_type(MessageType::Confirmable);
            packet.header.code = MessageClass::Request(RequestType::Post);
            packet.header.message_id = self.mid;
            self.mid = self.mid.wrapping_add(1);
            for segment in ["ps", "site", "temperature"] {
                packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
            }
            packet.payload = vec![b'x'; 32];
            self.dtls.send(&packet.to_bytes().unwrap());
        }
        self.flush();
        let mut answers = 0;
        while answers < BURST {
            assert!(self.receive(), "an answer is missing");
            for answer in self.dtls.received() {
                let code = Packet::from_bytes(&answer).unwrap().header.get_code();
                assert_eq!(code, "2.04");
                answers += 1;
            }
        }
    }
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(ROUNDS).max(1);
    let exchanges = numbers.get(1).copied().unwrap_or(EXCHANGES).max(BURST);
    let directory = tempfile::tempdir().unwrap();
    let mut alone = Site::start(None);
    let mut node = Site::start(Some(join(directory.path())));
    let mut figures: [Vec<f64>; 2] = Default::default();
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        // By turns which of them is first, so that neither has the warmer caches.
        let [first, second] = match round % 2 {
            0 => [alone.round(exchanges), node.round(exchanges)],
            _ => {
                let second = node.round(exchanges);
                [alone.round(exchanges), second]
            }
        };
        // The first round warms up.
        if round > 0 {
            ratios.push(second / first);
            figures[0].push(first);
            figures[1].push(second);
        }
    }
    let [of_alone, of_node] = figures;
    println!(
        "{rounds} rounds of {exchanges} exchanges, {BURST} in flight; microseconds of the worker for each"
    );
    println!("alone         {:8.3}", median(of_alone));
    println!("in a group    {:8.3}", median(of_node));
    println!("ratio         {:8.4}", median(ratios));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for site in [alone, node] {
        assert!(runtime.block_on(site.workers.stop(Duration::ZERO, true)));
    }
}
