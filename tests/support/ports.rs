//! Free loopback ports that two gateways of tests running side by side never share.
//!
//! The gateway binds with SO_REUSEPORT, so a port that two of them were given would silently be shared. A lock file for
//! each port rules that out, and the range lies below the kernel's ephemeral one, so that no client's socket gets there first.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _lock: File,
}

/// Reserves a port that is free for UDP and TCP on both loopback addresses.
pub fn reserve() -> Port {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let directory = std::env::temp_dir().join("portcullis-test-ports");
    std::fs::create_dir_all(&directory).unwrap();
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let number = FIRST + u16::try_from(start.wrapping_add(step) % u32::from(COUNT)).unwrap();
        let lock = File::create(directory.join(number.to_string())).unwrap();
        if lock.try_lock().is_ok() && is_free(number) {
            return Port { number, _lock: lock };
        }
    }
    panic!("no free port");
}

fn is_free(port: u16) -> bool {
    UdpSocket::bind(("127.0.0.1", port)).is_ok()
        && UdpSocket::bind(("::1", port)).is_ok()
        && TcpListener::bind(("127.0.0.1", port)).is_ok()
}
