//! What it costs when a request reaches another worker than its connection's: publishes with clientid and token over real
//! sockets, worker loops and the embedded broker, from an address of the connection's worker and from one of another worker,
//! turn by turn, so that only the difference means something.
//!
//! `cargo bench --bench forwarding`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and cannot go on when something fails"
)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use portcullis::broker::{BrokerKind, BrokerSettings, Clock, RetainedLimits};
use portcullis::coap::CoapMetrics;
use portcullis::coap::contract::CoapSettings;
use portcullis::daemon::assembly::WorkerParts;
use portcullis::daemon::clock;
use portcullis::daemon::workers::Workers;
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::settings::{DefaultQos, ListenerSettings, NotifyType, Settings, TopicsMode};
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::net::{GroupSpec, open_groups};
use portcullis::policy::authorization::Authorizer;
use portcullis::types::limits::Caps;
use portcullis::types::{AccessRules, ListenerId, Transport, WorkerId};

const ROUNDS: usize = 9;
const PUBLISHES: usize = 20_000;

fn settings(workers: u8) -> Settings {
    Settings {
        node: "bench".into(),
        workers,
        connection_required: true,
        heartbeat: None,
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
        failed_logins_per_minute: 0,
        tells_requests: false,
        listeners: vec![ListenerSettings {
            name: "bench".into(),
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

fn thread_number() -> String {
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn cpu_nanos(threads: &[String]) -> f64 {
    let of = |thread: &String| {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    threads.iter().map(of).sum()
}

/// A gateway in this process.
struct Site {
    workers: Workers,
    threads: Vec<String>,
    addr: SocketAddr,
    _broker: portcullis::broker::BrokerRuntime,
}

impl Site {
    fn start(workers: u8) -> Self {
        let spec = GroupSpec {
            transport: Transport::Udp,
            name: "bench".to_owned(),
            bind: "127.0.0.1:0".parse().unwrap(),
            workers: usize::from(workers),
            buffers: Default::default(),
        };
        let groups = open_groups(&[spec]).unwrap();
        let addr = groups[0][0].local_addr().unwrap();
        let broker = BrokerSettings {
            node: "bench".into(),
            state_dir: None,
            clock: Clock {
                now: clock::now,
                wall: clock::wall,
            },
            kind: BrokerKind::Embedded(RetainedLimits::default()),
        };
        let (broker, links) = portcullis::broker::start(broker, usize::from(workers)).unwrap();
        let settings = Arc::new(settings(workers));
        let shared = Arc::new(Shared::new(clock::now(), &settings, [7; 32]));
        let (number, numbers) = channel();
        let parts = (0..workers).zip(links).map(|(worker, broker)| {
            let number = number.clone();
            let parts = Parts {
                worker: WorkerId(worker),
                settings: settings.clone(),
                shared: shared.clone(),
                dtls: vec![None],
                coap_metrics: Arc::new(CoapMetrics::new(1)),
                metrics: Arc::new(GatewayMetrics::new(1)),
                seed: [worker; 32],
                store: None,
            };
            WorkerParts {
                core: Box::new(move || {
                    number.send(thread_number()).unwrap();
                    Gateway::new(clock::now(), parts)
                }),
                broker,
                auth: None,
                links: None,
                seeks: None,
            }
        });
        let workers_running = Workers::start(parts.collect(), groups).unwrap();
        let threads = numbers.iter().take(usize::from(workers)).collect();
        Self {
            workers: workers_running,
            threads,
            addr,
            _broker: broker,
        }
    }

    /// How many datagrams each worker has received.
    fn received(&self) -> Vec<u64> {
        let net = self.workers.net().iter();
        net.map(|net| net.listener(ListenerId(0)).unwrap().received.get())
            .collect()
    }

    /// A client, and the worker that its datagrams come to.
    fn client(&self) -> (Device, usize) {
        let before = self.received();
        let mut device = Device::new(self.addr);
        device.exchange(RequestType::Get, ".well-known/core", &[]);
        let after = self.received();
        let worker = before
            .iter()
            .zip(&after)
            .position(|(before, after)| after > before);
        (device, worker.unwrap())
    }
}

struct Device {
    socket: UdpSocket,
    mid: u16,
}

impl Device {
    fn new(addr: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { socket, mid: 0 }
    }

    fn send(&mut self, method: RequestType, path: &str, query: &[String], payload: &[u8]) {
        let mut packet = Packet::new();
        packet.header.set_type(MessageType::Confirmable);
        packet.header.code = MessageClass::Request(method);
        packet.header.message_id = self.mid;
        self.mid = self.mid.wrapping_add(1);
        for segment in path.split('/') {
            packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        for option in query {
            packet.add_option(CoapOption::UriQuery, option.as_bytes().to_vec());
        }
        packet.payload = payload.to_vec();
        self.socket.send(&packet.to_bytes().unwrap()).unwrap();
    }

    fn receive(&self) -> Packet {
        let mut buffer = [0; 1280];
        let length = self.socket.recv(&mut buffer).unwrap();
        Packet::from_bytes(&buffer[..length]).unwrap()
    }

    fn exchange(&mut self, method: RequestType, path: &str, query: &[String]) -> Packet {
        self.send(method, path, query, b"");
        self.receive()
    }

    /// Publishes with so many requests in flight.
    fn publish(&mut self, query: &[String], burst: usize) {
        for _ in 0..PUBLISHES / burst {
            for _ in 0..burst {
                self.send(RequestType::Post, "ps/bench/topic", query, &[b'x'; 32]);
            }
            for _ in 0..burst {
                let answer = self.receive();
                assert_eq!(answer.header.get_code(), "2.04");
            }
        }
    }
}

/// Time and server CPU of one publish, in microseconds.
#[derive(Clone, Copy)]
struct Figure {
    took: f64,
    cpu: f64,
}

fn measure(site: &Site, device: &mut Device, query: &[String], burst: usize) -> Figure {
    let (begun, cpu) = (clock::now(), cpu_nanos(&site.threads));
    device.publish(query, burst);
    let per_publish = 1000.0 * PUBLISHES as f64;
    Figure {
        took: begun.elapsed().as_nanos() as f64 / per_publish,
        cpu: (cpu_nanos(&site.threads) - cpu) / per_publish,
    }
}

fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    println!("workers  in flight  from the same worker      from another worker");
    println!("                    us each  us of CPU        us each  us of CPU");
    for workers in [2, 8] {
        let site = Site::start(workers);
        let (mut owner, home) = site.client();
        let (mut guest, _) = std::iter::repeat_with(|| site.client())
            .find(|(_, worker)| *worker != home)
            .unwrap();
        let token = owner.exchange(RequestType::Post, "mqtt/connection", &["c=bench".to_owned()]);
        let token = String::from_utf8(token.payload).unwrap();
        let query = ["c=bench".to_owned(), format!("t={token}"), "q=0".to_owned()];
        for burst in [1, 16] {
            let mut figures: [Vec<Figure>; 2] = Default::default();
            for round in 0..=ROUNDS {
                let pair = [
                    measure(&site, &mut owner, &query, burst),
                    measure(&site, &mut guest, &query, burst),
                ];
                // The first round warms up.
                if round > 0 {
                    figures[0].push(pair[0]);
                    figures[1].push(pair[1]);
                }
            }
            let [same, other] = figures;
            println!(
                "{workers:>7}  {burst:>9}  {:>7.1}  {:>9.1}        {:>7.1}  {:>9.1}",
                median(&same, |figure| figure.took),
                median(&same, |figure| figure.cpu),
                median(&other, |figure| figure.took),
                median(&other, |figure| figure.cpu),
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        assert!(runtime.block_on(site.workers.stop(Duration::ZERO, true)));
    }
}
