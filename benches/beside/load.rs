//! Requests from many sockets, a window of them in flight, and what they cost the server.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;

use crate::dtls_client::{ClientConfig, DtlsClient};

/// Requests in flight.
const WINDOW: usize = 64;

/// A request that gets no answer for this long is lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// CPU time of all threads of a process, in nanoseconds.
pub fn cpu_nanos(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let spent = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    spent.sum()
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).unwrap();
    kib.parse::<u64>().unwrap() * 1_024
}

/// What is asked: a CoAP message without its message id and token.
#[derive(Clone)]
pub struct Question {
    pub method: u8,
    pub options: Vec<u8>,
}

impl Question {
    /// A request to a path, with a query and a payload.
    pub fn new(method: u8, path: &str, query: Option<&str>, payload: &[u8]) -> Self {
        let mut options = Vec::new();
        let mut last = 0;
        let path = path.split('/').map(|segment| (11, segment));
        for (number, value) in path.chain(query.map(|query| (15, query))) {
            let delta: u8 = number - last;
            last = number;
            let length = u8::try_from(value.len()).unwrap();
            if length < 13 {
                options.push(delta << 4 | length);
            } else {
                options.extend([delta << 4 | 13, length - 13]);
            }
            options.extend(value.as_bytes());
        }
        if !payload.is_empty() {
            options.push(0xff);
            options.extend(payload);
        }
        Self { method, options }
    }

    /// A registration (RFC 7641) for a path, with a query.
    pub fn observe(path: &str, query: &str) -> Self {
        let mut it = Self::new(1, path, Some(query), b"");
        // Observe stands before the path.
        it.options[0] -= 6 << 4;
        it.options.insert(0, 6 << 4);
        it
    }

    /// An empty confirmable message.
    pub const fn ping() -> Self {
        Self {
            method: 0,
            options: Vec::new(),
        }
    }

    fn write(&self, out: &mut Vec<u8>, mid: u16) {
        out.clear();
        let token = mid.to_be_bytes();
        let length = if self.method == 0 { 0 } else { 2 };
        out.extend([0x40 | length, self.method, token[0], token[1]]);
        out.extend(&token[..usize::from(length)]);
        out.extend(&self.options);
    }

    /// Whether it is answered well: with a success, or a ping with RST.
    fn is_answered(&self, answer: &[u8], mid: u16) -> bool {
        let mid = mid.to_be_bytes();
        if answer.len() < 4 {
            return false;
        }
        match self.method {
            0 => answer[1] == 0 && answer[2..4] == mid,
            _ => answer[1] >> 5 == 2 && answer.get(4..6) == Some(&mid),
        }
    }
}

/// The acknowledgement of a confirmable message, which also proves where its receiver is.
fn acknowledgement(message: &[u8]) -> Option<[u8; 4]> {
    let is_confirmable = message.len() >= 4 && message[0] & 0x30 == 0;
    is_confirmable.then(|| [0x60, 0, message[2], message[3]])
}

/// What a run came to.
#[derive(Clone, Copy)]
pub struct Figure {
    /// CPU time of the server for each request, in microseconds.
    pub server_micros: f64,
    pub answered: u64,
    pub lost: u64,
}

/// A device: a socket, and a session on it where it has one.
struct Device {
    socket: UdpSocket,
    session: Option<DtlsClient>,
    mid: u16,
}

/// Many devices.
pub struct Fleet {
    devices: Vec<Device>,
    question: Question,
    message: Vec<u8>,
    buffer: Vec<u8>,
    next: usize,
}

/// A socket at an address that no other one had: to a server a device is where it sends from.
fn socket(to: SocketAddr) -> UdpSocket {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 0x7f10_0001;
    let own = Ipv4Addr::from_bits(FIRST + COUNT.fetch_add(1, Ordering::Relaxed));
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A handshake over a socket.
pub fn handshake(socket: &UdpSocket, context: &SslContext, config: &ClientConfig) -> DtlsClient {
    let mut client = DtlsClient::within(context, config);
    let mut buffer = [0; 2_048];
    client.connect();
    while !client.is_connected() {
        assert!(client.failure().is_none(), "{:?}", client.failure());
        for datagram in client.take() {
            socket.send(&datagram).unwrap();
        }
        match socket.recv(&mut buffer) {
            Ok(length) => client.handle(&buffer[..length]),
            Err(_) => {
                std::thread::sleep(Duration::from_secs(1));
                client.connect();
            }
        }
    }
    for datagram in client.take() {
        socket.send(&datagram).unwrap();
    }
    client
}

impl Fleet {
    /// Devices over UDP, or with sessions.
    pub fn new(to: SocketAddr, count: usize, config: Option<&ClientConfig>, question: Question) -> Self {
        let context = config.map(ClientConfig::context);
        let devices = (0..count).map(|number| {
            let socket = socket(to);
            let session = config
                .zip(context.as_ref())
                .map(|(config, context)| handshake(&socket, context, config));
            Device {
                socket,
                session,
                mid: u16::try_from(number % 60_000).unwrap(),
            }
        });
        Self {
            devices: devices.collect(),
            question,
            message: Vec::new(),
            buffer: vec![0; 4_096],
            next: 0,
        }
    }

    pub fn ask(&mut self, question: Question) {
        self.question = question;
    }

    /// Has the devices ask in turns, [`WINDOW`] at a time, for so long.
    pub fn run(&mut self, pid: u32, time: Duration) -> Figure {
        self.round();
        let (before, begun) = (cpu_nanos(pid), Instant::now());
        let (mut answered, mut lost) = (0, 0);
        while begun.elapsed() < time {
            let got = self.round();
            answered += got;
            lost += WINDOW.min(self.devices.len()) as u64 - got;
        }
        Figure {
            server_micros: (cpu_nanos(pid) - before) as f64 / 1e3 / answered.max(1) as f64,
            answered,
            lost,
        }
    }

    /// What a message to all devices costs, from what has it sent until it came to each, or nothing more comes.
    pub fn notified(&mut self, pid: u32, send: impl FnOnce()) -> Figure {
        let before = cpu_nanos(pid);
        send();
        let (mut answered, mut lost) = (0, 0);
        for device in &self.devices {
            match device.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    answered += 1;
                    if let Some(ack) = acknowledgement(&self.buffer[..length]) {
                        device.socket.send(&ack).unwrap();
                    }
                }
                Err(_) => lost += 1,
            }
        }
        Figure {
            server_micros: (cpu_nanos(pid) - before) as f64 / 1e3 / answered.max(1) as f64,
            answered,
            lost,
        }
    }

    /// Has each device ask once.
    pub fn all(&mut self) {
        self.next = 0;
        for _ in 0..self.devices.len().div_ceil(WINDOW) {
            self.round();
        }
    }

    /// One window; how many were answered.
    fn round(&mut self) -> u64 {
        let count = WINDOW.min(self.devices.len());
        if self.next + count > self.devices.len() {
            self.next = 0;
        }
        let window = &mut self.devices[self.next..self.next + count];
        self.next += count;
        for device in &mut *window {
            device.mid = device.mid.wrapping_add(1);
            self.question.write(&mut self.message, device.mid);
            match &mut device.session {
                None => drop(device.socket.send(&self.message)),
                Some(session) => {
                    session.send(&self.message);
                    for record in session.take() {
                        device.socket.send(&record).unwrap();
                    }
                }
            }
        }
        let mut answered = 0;
        for device in window {
            while let Ok(length) = device.socket.recv(&mut self.buffer) {
                let is_it = match &mut device.session {
                    None => {
                        if let Some(ack) = acknowledgement(&self.buffer[..length]) {
                            device.socket.send(&ack).unwrap();
                        }
                        self.question.is_answered(&self.buffer[..length], device.mid)
                    }
                    Some(session) => {
                        session.handle(&self.buffer[..length]);
                        let answers = session.received();
                        answers
                            .iter()
                            .any(|answer| self.question.is_answered(answer, device.mid))
                    }
                };
                if is_it {
                    answered += 1;
                    break;
                }
            }
        }
        answered
    }

    /// Asks at a rate whether or not answers come; the times to the answers, ascending, in microseconds.
    pub fn open_loop(&mut self, rate: f64, time: Duration) -> Vec<f64> {
        let begun = Instant::now();
        let mut waiting: VecDeque<(usize, u16, Instant)> = VecDeque::new();
        let (mut times, mut count) = (Vec::new(), 0_usize);
        for device in &self.devices {
            device.socket.set_nonblocking(true).unwrap();
        }
        while begun.elapsed() < time || !waiting.is_empty() {
            let due = begun + Duration::from_secs_f64(count as f64 / rate);
            if due < begun + time && due <= Instant::now() {
                let at = count % self.devices.len();
                count += 1;
                let device = &mut self.devices[at];
                device.mid = device.mid.wrapping_add(1);
                self.question.write(&mut self.message, device.mid);
                drop(device.socket.send(&self.message));
                // A request counts from when it was due, however late this loop is.
                waiting.push_back((at, device.mid, due));
            }
            let Some((at, mid, due)) = waiting.front().copied() else {
                continue;
            };
            let device = &self.devices[at];
            let is_answered = match device.socket.recv(&mut self.buffer) {
                Ok(length) => self.question.is_answered(&self.buffer[..length], mid),
                Err(_) => false,
            };
            if is_answered {
                times.push(due.elapsed().as_secs_f64() * 1e6);
            }
            if is_answered || due.elapsed() > PATIENCE {
                waiting.pop_front();
            }
        }
        for device in &self.devices {
            device.socket.set_nonblocking(false).unwrap();
        }
        times.sort_by(f64::total_cmp);
        times
    }
}
