//! An echo over DTLS beside one over plain UDP, through the same worker loop and sockets, and handshakes through it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;
use portcullis::broker::{BrokerKind, BrokerSettings, Clock, RetainedLimits};
use portcullis::daemon::assembly::WorkerParts;
use portcullis::daemon::clock;
use portcullis::daemon::echo::Echo;
use portcullis::daemon::worker::core::Core;
use portcullis::daemon::workers::Workers;
use portcullis::dtls::DtlsListener;
use portcullis::dtls::aead::{Aead, Seal, SessionKeys};
use portcullis::dtls::contract::DtlsEvent;
use portcullis::dtls::record::{APPLICATION_DATA, Header};
use portcullis::gateway::contract::{ControlAnswer, Input, Output};
use portcullis::net::{GroupSpec, open_groups};
use portcullis::types::{PeerAddr, Transmits, Transport};

use crate::KEY;
use crate::clock::median;
use crate::dtls_client::{ClientConfig, DtlsClient};
use crate::table::{listener, psk_material};

/// As long as a small CoAP request.
const PLAIN: [u8; 34] = [7; 34];
const PEERS: usize = 64;
const ROUNDS: usize = 9;
const PER_ROUND: usize = 640;
const HANDSHAKES: usize = 400;

/// Answers every record with the same plaintext.
struct DtlsEcho {
    listener: DtlsListener,
    transmits: Transmits,
    buffer: Vec<u8>,
    answer: Option<u64>,
}

impl Core for DtlsEcho {
    fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { from, bytes, .. } => {
                let Some(from) = PeerAddr::new(from) else { return };
                self.buffer.clear();
                self.buffer.extend_from_slice(bytes);
                self.listener
                    .handle_datagram(now, from, &mut self.buffer, &mut self.transmits);
                while let Some(event) = self.listener.poll_event() {
                    if let DtlsEvent::Plaintext { session, range } = event {
                        self.listener
                            .send(session, &self.buffer[range], &mut self.transmits)
                            .unwrap();
                    }
                }
            }
            Input::Control { ticket, .. } => self.answer = Some(ticket),
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
        self.answer.take().map(|ticket| Output::Control {
            ticket,
            answer: ControlAnswer::Done,
        })
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.listener.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.listener.handle_timeout(now, &mut self.transmits);
    }
}

/// One worker on a socket of its own.
struct Server {
    workers: Workers,
    to: SocketAddr,
    thread: String,
    /// Holds what the worker's link ends in.
    _broker: Box<dyn std::any::Any>,
}

impl Server {
    fn start<C: Core + 'static>(make: impl FnOnce() -> C + Send + 'static) -> Self {
        let spec = GroupSpec {
            transport: Transport::Udp,
            name: "bench".to_owned(),
            bind: "127.0.0.1:0".parse().unwrap(),
            workers: 1,
            buffers: Default::default(),
        };
        let groups = open_groups(&[spec]).unwrap();
        let to = groups[0][0].local_addr().unwrap();
        let (number, thread) = sync_channel(1);
        let settings = BrokerSettings {
            node: "bench".into(),
            state_dir: None,
            clock: Clock {
                now: clock::now,
                wall: clock::wall,
            },
            kind: BrokerKind::Embedded(RetainedLimits::default()),
        };
        let (runtime, mut links) = portcullis::broker::start(settings, 1).unwrap();
        let parts = WorkerParts {
            core: Box::new(move || {
                let path = std::fs::read_link("/proc/thread-self").unwrap();
                number
                    .send(path.file_name().unwrap().to_string_lossy().into_owned())
                    .unwrap();
                make()
            }),
            broker: links.remove(0),
            auth: None,
            links: None,
            seeks: None,
        };
        Self {
            workers: Workers::start(vec![parts], groups).unwrap(),
            to,
            thread: thread.recv().unwrap(),
            _broker: Box::new(runtime),
        }
    }

    fn dtls() -> Self {
        Self::start(|| DtlsEcho {
            listener: listener(&psk_material()),
            transmits: Transmits::default(),
            buffer: Vec::new(),
            answer: None,
        })
    }

    /// CPU time of the worker so far, in microseconds.
    fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.thread)).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
    }

    fn stop(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        assert!(runtime.block_on(self.workers.stop(Duration::ZERO, true)));
    }

    /// CPU time of the worker for each echo, one of every peer in flight.
    fn round(&self, peers: &mut [Box<dyn Peer>]) -> f64 {
        let before = self.cpu();
        let mut buffer = [0; 2048];
        for _ in 0..PER_ROUND {
            for peer in peers.iter_mut() {
                peer.ask();
            }
            for peer in peers.iter_mut() {
                peer.hear(&mut buffer);
            }
        }
        (self.cpu() - before) / (PER_ROUND * peers.len()) as f64
    }
}

trait Peer {
    fn ask(&mut self);
    fn hear(&mut self, buffer: &mut [u8]);
}

fn socket(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

struct UdpPeer(UdpSocket);

impl Peer for UdpPeer {
    fn ask(&mut self) {
        self.0.send(&PLAIN).unwrap();
    }

    fn hear(&mut self, buffer: &mut [u8]) {
        let len = self.0.recv(buffer).unwrap();
        assert_eq!(buffer[..len], PLAIN);
    }
}

struct DtlsPeer {
    socket: UdpSocket,
    keys: SessionKeys,
    aead: Aead,
    sequence: u64,
    record: Vec<u8>,
}

/// Handshakes at the same time, one over each socket.
fn connect(
    to: SocketAddr,
    count: usize,
    config: &ClientConfig,
    context: &SslContext,
) -> Vec<(UdpSocket, DtlsClient)> {
    let mut peers: Vec<_> = (0..count)
        .map(|_| (socket(to), DtlsClient::within(context, config)))
        .collect();
    let mut buffer = [0; 2048];
    for (_, client) in &mut peers {
        client.connect();
    }
    while peers.iter().any(|(_, client)| !client.is_connected()) {
        for (socket, client) in &mut peers {
            for datagram in client.take() {
                socket.send(&datagram).unwrap();
            }
        }
        for (socket, client) in peers.iter_mut().filter(|(_, client)| !client.is_connected()) {
            let len = socket.recv(&mut buffer).unwrap();
            client.handle(&buffer[..len]);
            assert!(client.failure().is_none(), "{:?}", client.failure());
        }
    }
    peers
}

impl DtlsPeer {
    fn new(to: SocketAddr, suite: &str) -> Self {
        let config = ClientConfig::psk(suite, "u1", KEY);
        let (socket, client) = connect(to, 1, &config, &config.context()).remove(0);
        Self {
            socket,
            keys: client.keys(),
            aead: Aead::default(),
            sequence: 100,
            record: Vec::new(),
        }
    }
}

impl Peer for DtlsPeer {
    fn ask(&mut self) {
        self.sequence += 1;
        self.record.clear();
        let what = Seal {
            kind: APPLICATION_DATA,
            sequence: self.sequence,
            explicit: self.sequence,
            cid: &[],
            plaintext: &PLAIN,
        };
        self.aead
            .seal(&self.keys.client, &what, &mut self.record)
            .unwrap();
        self.socket.send(&self.record).unwrap();
    }

    fn hear(&mut self, buffer: &mut [u8]) {
        let len = self.socket.recv(buffer).unwrap();
        let record = &mut buffer[..len];
        let header = Header::parse(record, 0).unwrap();
        let opened = self.aead.open(&self.keys.server, &header, record).unwrap();
        assert_eq!(record[opened.plaintext], PLAIN);
    }
}

/// Echoes of 34 bytes: plain, and over DTLS by suite.
pub fn echoes() {
    let plain = Server::start(Echo::default);
    let mut plain_peers: Vec<Box<dyn Peer>> = (0..PEERS)
        .map(|_| Box::new(UdpPeer(socket(plain.to))) as Box<dyn Peer>)
        .collect();
    let suites = [
        "PSK-AES128-GCM-SHA256",
        "PSK-AES128-CCM8",
        "PSK-CHACHA20-POLY1305",
    ];
    let secure = Server::dtls();
    let mut by_suite: Vec<Vec<Box<dyn Peer>>> = suites
        .iter()
        .map(|suite| {
            (0..PEERS)
                .map(|_| Box::new(DtlsPeer::new(secure.to, suite)) as Box<dyn Peer>)
                .collect()
        })
        .collect();
    let (mut plain_times, mut times) = (Vec::new(), vec![Vec::new(); suites.len()]);
    plain.round(&mut plain_peers);
    for _ in 0..ROUNDS {
        plain_times.push(plain.round(&mut plain_peers));
        for (peers, times) in by_suite.iter_mut().zip(&mut times) {
            times.push(secure.round(peers));
        }
    }
    let plain_time = median(plain_times.clone());
    println!("echo of 34 B, plain UDP          {plain_time:.2} us of the worker");
    for (suite, times) in suites.iter().zip(times) {
        let ratios = plain_times
            .iter()
            .zip(&times)
            .map(|(plain, dtls)| plain / dtls)
            .collect();
        println!(
            "echo of 34 B, {suite:<22} {:.2} us: {:.2} of the rate of plain UDP (at least 0.80)",
            median(times),
            median(ratios)
        );
    }
    plain.stop();
    secure.stop();
}

/// PSK handshakes with all that the shell costs: sockets, system calls, the loop.
pub fn handshakes_over_sockets() {
    let server = Server::dtls();
    let config = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    let context = config.context();
    for at_once in [1, 16] {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let before = server.cpu();
            for _ in 0..HANDSHAKES / at_once {
                drop(connect(server.to, at_once, &config, &context));
            }
            best = best.min((server.cpu() - before) / HANDSHAKES as f64);
        }
        println!(
            "handshake PSK over sockets, {at_once:>2} at once {best:.1} us of the worker, cookie included (at most 60)"
        );
    }
    server.stop();
}
