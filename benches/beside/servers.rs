//! The servers that are measured, each on the first core.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::KEY;
use crate::support::{Config, Gateway};

/// A running server.
pub struct Server {
    pub name: &'static str,
    pub to: SocketAddr,
    child: Held,
}

enum Held {
    Child(Child),
    Gateway(Box<Gateway>),
}

impl Server {
    pub fn pid(&self) -> u32 {
        match &self.child {
            Held::Child(child) => child.id(),
            Held::Gateway(gateway) => gateway.pid(),
        }
    }

    /// A bare server of this binary.
    pub fn anchor(name: &'static str, kind: &str, ciphers: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--anchor", kind, ciphers])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let server = Self {
            name,
            to: (Ipv4Addr::LOCALHOST, port.trim().parse().unwrap()).into(),
            child: Held::Child(child),
        };
        pin(server.pid(), 0);
        server
    }

    /// The gateway with one worker, and `config` on top.
    pub fn gateway(name: &'static str, dtls: bool, config: Config) -> Self {
        let config = config
            .file("psk.txt", format!("bench:{}\n", hex::encode(KEY)))
            .or("node", "workers", "1")
            .or("log", "level", "\"warn\"")
            .or("limits", "memory", "\"1GiB\"")
            .dtls("max_half_open = 4096");
        let gateway = Gateway::start(config);
        let to = if dtls {
            gateway.dtls_addr()
        } else {
            gateway.udp_addr()
        };
        pin(gateway.pid(), 0);
        Self {
            name,
            to,
            child: Held::Gateway(Box::new(gateway)),
        }
    }

    /// libcoap's example server, where it is installed.
    pub fn libcoap(dtls: bool) -> Option<Self> {
        let port = free_port();
        let mut command = Command::new("coap-server-openssl");
        command.args(["-A", "127.0.0.1", "-p", &port.to_string(), "-v", "0"]);
        if dtls {
            command.args(["-k", std::str::from_utf8(KEY).unwrap(), "-h", "bench"]);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let server = Self {
            name: "libcoap",
            to: (Ipv4Addr::LOCALHOST, port + u16::from(dtls)).into(),
            child: Held::Child(child),
        };
        pin(server.pid(), 0);
        serves((Ipv4Addr::LOCALHOST, port).into()).then_some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Held::Child(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn free_port() -> u16 {
    loop {
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        if port < u16::MAX && UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return port;
        }
    }
}

/// Whether it answers a ping in time.
fn serves(to: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket.connect(to).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        drop(socket.send(&[0x40, 0, 0, 1]));
        if socket.recv(&mut [0; 64]).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Puts all threads of a process on one core.
pub fn pin(pid: u32, core: usize) {
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()])
        .output();
    assert!(output.expect("taskset").status.success());
}
