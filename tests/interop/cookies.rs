//! Clients whose address changes between the hello and the hello with the cookie, as behind a NAT that forgets, so that they are
//! asked for a cookie twice in one handshake.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::Config;
use crate::table::{GNUTLS_LIBCOAP, MBEDTLS, OPENSSL_LIBCOAP, exchange_by_psk};
use crate::tool::gateway;

/// Carries datagrams of one client, from another port after the first one.
struct Relay {
    front: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Relay {
    fn start(server: SocketAddr) -> Self {
        let client_side = UdpSocket::bind("127.0.0.1:0").unwrap();
        let front = client_side.local_addr().unwrap();
        client_side
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        let server_side = [(); 2].map(|()| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(server).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
            socket
        });
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        std::thread::spawn(move || {
            let (mut buf, mut client, mut carried) = ([0; 4096], None, 0);
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = client_side.recv_from(&mut buf) {
                    client = Some(from);
                    server_side[carried.min(1)].send(&buf[..len]).unwrap();
                    carried += 1;
                }
                let current = &server_side[carried.saturating_sub(1).min(1)];
                if let (Ok(len), Some(client)) = (current.recv(&mut buf), client) {
                    client_side.send_to(&buf[..len], client).unwrap();
                }
            }
        });
        Self { front, stopped }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_port_that_changes_before_the_cookie_does_not_end_a_handshake() {
    let gateway = gateway(Config::new());
    for client in [OPENSSL_LIBCOAP, GNUTLS_LIBCOAP, MBEDTLS] {
        let relay = Relay::start(gateway.dtls_addr());
        let result = exchange_by_psk(client, &gateway, relay.front.port());
        assert!(result.is_ok(), "{client}: {result:?}");
    }
    assert!(gateway.metric("dtls_cookie_failures_total", &[]) >= 3.0);
}
