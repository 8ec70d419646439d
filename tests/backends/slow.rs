//! A way to a server on which answers take as long as a test wants.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How slow the servers are that must slow nobody.
pub const DELAY: Duration = Duration::from_millis(300);

/// What the server says comes through [`DELAY`] later, and not at all while the way is closed.
pub struct SlowWay {
    address: SocketAddr,
    closed: Arc<(Mutex<bool>, Condvar)>,
}

impl SlowWay {
    /// A way to `server` that is open.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            closed: Arc::default(),
        };
        let closed = Arc::clone(&way.closed);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else {
                    continue;
                };
                let (asks, hears) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || relay(asks, hears, || ()));
                let closed = Arc::clone(&closed);
                std::thread::spawn(move || {
                    relay(far, near, || {
                        let (is_closed, opened) = &*closed;
                        drop(opened.wait_while(is_closed.lock().unwrap(), |is_closed| *is_closed));
                        std::thread::sleep(DELAY);
                    });
                });
            }
        });
        way
    }

    /// Where it begins.
    pub fn at(&self) -> String {
        self.address.to_string()
    }

    /// Lets no answer through from now on.
    pub fn close(&self) {
        *self.closed.0.lock().unwrap() = true;
    }

    /// Lets answers through from now on.
    pub fn open(&self) {
        *self.closed.0.lock().unwrap() = false;
        self.closed.1.notify_all();
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, wait: impl Fn()) {
    let mut piece = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        wait();
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
