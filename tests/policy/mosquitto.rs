//! A mosquitto of one's own, and as much of an MQTT 5 client as it takes to ask it what it allows.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running mosquitto with one ACL file; ends when dropped.
pub(crate) struct Mosquitto {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Mosquitto {
    /// Starts one; `None` when it does not take the ACL file.
    pub(crate) fn start(acl: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("acl"), acl).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nallow_zero_length_clientid true\nacl_file {}\n{}",
            path("acl").display(),
            "log_type none\nuser root\n"
        );
        std::fs::write(path("conf"), config).unwrap();
        let mut child = spawn(&path("conf"));
        let start = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(Self {
                    child,
                    port,
                    _dir: dir,
                });
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "mosquitto does not listen"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Connects.
    pub(crate) fn client(&self, id: &str, user: Option<&str>) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client { stream, next: 1 };
        let mut body = text("MQTT");
        body.extend([5, if user.is_some() { 0x82 } else { 0x02 }, 0, 0, 0]);
        body.extend(text(id));
        body.extend(user.map(text).unwrap_or_default());
        client.send(0x10, &body);
        let (kind, body) = client.receive();
        assert_eq!((kind & 0xf0, body[1]), (0x20, 0), "{id} {user:?}");
        client
    }
}

fn spawn(config: &Path) -> Child {
    Command::new("mosquitto")
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed")
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A connection to it.
pub(crate) struct Client {
    stream: TcpStream,
    next: u16,
}

impl Client {
    /// Publishes with QoS 1. Whether mosquitto said it may.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) -> bool {
        let id = self.id();
        let mut body = text(topic);
        body.extend(id);
        body.push(0);
        body.extend(payload.as_bytes());
        self.send(0x32, &body);
        let (kind, body) = self.receive();
        assert_eq!((kind, &body[..2]), (0x40, &id[..]), "{topic}");
        match body.get(2) {
            None | Some(0 | 0x10) => true,
            Some(0x87) => false,
            Some(other) => panic!("PUBACK {other:#x} for {topic}"),
        }
    }

    /// Subscribes with QoS 0. Whether mosquitto said it may.
    pub(crate) fn subscribe(&mut self, filter: &str) -> bool {
        let id = self.id();
        let mut body = id.to_vec();
        body.push(0);
        body.extend(text(filter));
        body.push(0);
        self.send(0x82, &body);
        let (kind, body) = self.receive();
        assert_eq!(kind, 0x90);
        *body.last().unwrap() == 0
    }

    /// The payloads of all messages that were sent to this client before it asked.
    pub(crate) fn delivered(&mut self) -> Vec<String> {
        self.send(0xc0, &[]);
        let mut payloads = Vec::new();
        loop {
            match self.receive() {
                (0xd0, _) => return payloads,
                (0x30, body) => {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    assert_eq!(body[2 + topic], 0, "no properties were sent");
                    payloads.push(String::from_utf8(body[3 + topic..].to_vec()).unwrap());
                }
                (kind, _) => panic!("unexpected packet {kind:#x}"),
            }
        }
    }

    fn id(&mut self) -> [u8; 2] {
        self.next += 1;
        self.next.to_be_bytes()
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let mut packet = vec![kind];
        let mut rest = body.len();
        loop {
            let byte = u8::try_from(rest % 128).unwrap();
            rest /= 128;
            packet.push(if rest > 0 { byte | 0x80 } else { byte });
            if rest == 0 {
                break;
            }
        }
        packet.extend(body);
        self.stream.write_all(&packet).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut byte = || {
            let mut one = [0];
            self.stream.read_exact(&mut one).unwrap();
            one[0]
        };
        let kind = byte();
        let (mut length, mut shift) = (0, 0);
        loop {
            let next = byte();
            length |= usize::from(next & 0x7f) << shift;
            shift += 7;
            if next & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (kind, body)
    }
}
