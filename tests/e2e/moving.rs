//! Sessions with a Connection ID (RFC 9146) over IPv6: whatever port they come from, their worker has them.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::dtls_client::{ClientConfig, DtlsClient};
use crate::support::client::{PATIENCE, Transport, any_loopback, receive_within};
use crate::support::{Client, Config, Gateway, psk_of};

/// A session that sends each request from a port of its own.
pub(crate) struct Roaming {
    session: DtlsClient,
    socket: UdpSocket,
    server: SocketAddr,
    received: Vec<Vec<u8>>,
}

impl Roaming {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let config = ClientConfig {
            cid: Some(vec![6, 6]),
            ..ClientConfig::psk("PSK-AES128-CCM8", "dev1", psk_of("dev1").as_bytes())
        };
        let mut roaming = Self {
            session: DtlsClient::new(&config),
            socket: UdpSocket::bind(any_loopback(server)).unwrap(),
            server,
            received: Vec::new(),
        };
        let end = Instant::now() + PATIENCE;
        while !roaming.session.is_connected() {
            assert!(Instant::now() < end, "{:?}", roaming.session.failure());
            roaming.session.connect();
            roaming.carry(Duration::from_millis(50));
        }
        roaming
    }

    /// Sends what waits, and takes what comes.
    fn carry(&mut self, timeout: Duration) {
        for datagram in self.session.take() {
            self.socket.send_to(&datagram, self.server).unwrap();
        }
        let mut buffer = [0; 2048];
        if let Ok(length) = receive_within(&self.socket, &mut buffer, timeout) {
            self.session.handle(&buffer[..length]);
            self.received.extend(self.session.received());
        }
    }
}

impl Transport for Roaming {
    fn send(&mut self, bytes: &[u8]) {
        let is_confirmable = bytes[0] & 0x30 == 0;
        if is_confirmable {
            self.socket = UdpSocket::bind(any_loopback(self.server)).unwrap();
        }
        self.session.send(bytes);
        for datagram in self.session.take() {
            self.socket.send_to(&datagram, self.server).unwrap();
        }
    }

    fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        if self.received.is_empty() {
            self.carry(timeout);
        }
        (!self.received.is_empty()).then(|| self.received.remove(0))
    }

    fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

#[test]
fn sessions_over_ipv6_keep_their_worker_and_observations_from_any_port() {
    let port = crate::support::ports::reserve();
    let config = Config::new().set("node", "workers = 4").set(
        "listeners.dtls.six",
        &format!("bind = \"[::1]:{}\"\npsk_file = \"psk.txt\"", port.number),
    );
    let gateway = Gateway::start(config);
    let server = format!("[::1]:{}", port.number).parse().unwrap();
    for device in 0..4 {
        let mut client = Client::over(Box::new(Roaming::connect(server)));
        let topic = format!("ps/six/{}", device);
        let observation = client.observe(&topic);
        for n in 0..10 {
            client.publish(&topic, format!("{n}"));
            assert_eq!(client.notification(&observation.token).text(), n.to_string());
        }
    }
    gateway.metric_becomes(
        "dtls_handshakes_total",
        &["listener=\"six\"", "result=\"ok\""],
        4.0,
    );
    gateway.metric_becomes("dtls_cid_sessions", &[], 4.0);
}
