//! A DTLS session with a Connection ID (RFC 9146) that sends each request from a port of its own, and to wherever it is led.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::dtls_client::{ClientConfig, DtlsClient};
use crate::support::client::{PATIENCE, Transport, any_loopback};
use crate::support::psk_of;

/// What stands between the device and the gateways: where its datagrams are led now, and what passed.
#[derive(Clone)]
pub struct Balancer(Arc<Mutex<Passed>>);

struct Passed {
    to: SocketAddr,
    of_device: Vec<Vec<u8>>,
    from: Option<SocketAddr>,
}

impl Balancer {
    pub fn to(server: SocketAddr) -> Self {
        Self(Arc::new(Mutex::new(Passed {
            to: server,
            of_device: Vec::new(),
            from: None,
        })))
    }

    /// Leads the device elsewhere from now on.
    pub fn lead(&self, server: SocketAddr) {
        self.0.lock().unwrap().to = server;
    }

    /// What the device sent.
    pub fn of_device(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().of_device.clone()
    }

    /// Where the last datagram to the device came from.
    pub fn answered_from(&self) -> Option<SocketAddr> {
        self.0.lock().unwrap().from
    }

    fn pass(&self, socket: &UdpSocket, datagram: &[u8]) {
        let mut passed = self.0.lock().unwrap();
        passed.of_device.push(datagram.to_vec());
        socket.send_to(datagram, passed.to).unwrap();
    }
}

/// A session that sends each request from a port of its own.
pub struct Roaming {
    session: DtlsClient,
    socket: UdpSocket,
    balancer: Balancer,
    changes_ports: bool,
    received: Vec<Vec<u8>>,
}

impl Roaming {
    pub fn connect(server: SocketAddr) -> Self {
        Self::through(&Balancer::to(server), true)
    }

    /// The same behind a balancer; it keeps its port unless it `changes_ports`.
    pub fn through(balancer: &Balancer, changes_ports: bool) -> Self {
        let config = ClientConfig {
            cid: Some(vec![6, 6]),
            ..ClientConfig::psk("PSK-AES128-CCM8", "dev1", psk_of("dev1").as_bytes())
        };
        let server = balancer.0.lock().unwrap().to;
        let mut roaming = Self {
            session: DtlsClient::new(&config),
            socket: UdpSocket::bind(any_loopback(server)).unwrap(),
            balancer: balancer.clone(),
            changes_ports,
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

    /// The Connection ID that the gateway gave.
    pub fn server_cid(&self) -> Vec<u8> {
        self.session.server_cid().unwrap()
    }

    fn send_waiting(&mut self) {
        for datagram in self.session.take() {
            self.balancer.pass(&self.socket, &datagram);
        }
    }

    /// Sends what waits, and takes what comes.
    fn carry(&mut self, timeout: Duration) {
        self.send_waiting();
        let mut buffer = [0; 2048];
        let timeout = timeout.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(timeout)).unwrap();
        if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            self.balancer.0.lock().unwrap().from = Some(from);
            self.session.handle(&buffer[..length]);
            self.received.extend(self.session.received());
        }
    }
}

impl Transport for Roaming {
    fn send(&mut self, bytes: &[u8]) {
        let is_confirmable = bytes[0] & 0x30 == 0;
        if is_confirmable && self.changes_ports {
            self.socket = UdpSocket::bind(self.socket.local_addr().map(any_loopback).unwrap()).unwrap();
        }
        self.session.send(bytes);
        self.send_waiting();
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
