//! The endpoints over real connections, and the text through promtool.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::expose::ExposeWorkers;
use crate::expose::process::ExposeProcess;
use crate::health::Readiness;
use crate::server::{Bounds, Security, Server};
use portcullis_net::NetMetrics;
use portcullis_net::errno::SendError;
use portcullis_proto::types::metrics::{
    Descriptor, Exposes, HANDSHAKE_SECONDS, Histogram, LabelPair, REQUEST_SECONDS, Samples,
};
use portcullis_proto::types::{ListenerId, Transport};

struct Histograms(Histogram, Histogram);

impl Exposes for Histograms {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let request = Descriptor::histogram("request_seconds", "Time to the answer.");
        out.histogram(request, &[], &self.0);
        let handshake = Descriptor::histogram("dtls_handshake_seconds", "Time of a handshake.");
        out.histogram(handshake, &[("listener", "a")], &self.1);
    }
}

fn monitoring(health: Arc<Health>, broker: Arc<AtomicBool>) -> Arc<Monitoring> {
    let workers: Vec<_> = (0..2).map(|_| Arc::new(NetMetrics::new(2))).collect();
    for worker in &workers {
        let listener = worker.listener(ListenerId(1)).unwrap();
        listener.received.add(5);
        listener.send_errors.inc(SendError::MessageSize);
    }
    let histograms = Histograms(Histogram::new(REQUEST_SECONDS), Histogram::new(HANDSHAKE_SECONDS));
    histograms.0.observe(Duration::from_millis(3));
    Arc::new(Monitoring {
        exposes: vec![
            Box::new(ExposeWorkers {
                listeners: vec![
                    ("default".to_owned(), Transport::Udp),
                    ("default".to_owned(), Transport::Dtls),
                ]
                .into(),
                workers,
            }),
            Box::new(ExposeProcess {
                started: std::time::SystemTime::UNIX_EPOCH,
            }),
            Box::new(histograms),
        ],
        health,
        ready: Box::new(move || {
            if broker.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("no broker".to_owned())
            }
        }),
        process: Process::default(),
    })
}

#[test]
fn promtool_finds_nothing_to_say() {
    let text = monitoring(Arc::default(), Arc::default()).render().unwrap();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian: prometheus) is needed");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}\n{text}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn workers_are_summed_and_silent_labels_are_there() {
    let text = monitoring(Arc::default(), Arc::default()).render().unwrap();
    for line in [
        "portcullis_udp_datagrams_received_total{listener=\"default\",transport=\"dtls\"} 10",
        "portcullis_udp_datagrams_received_total{listener=\"default\",transport=\"udp\"} 0",
        "portcullis_udp_send_errors_total{listener=\"default\",transport=\"udp\",error=\"no_buffers\"} 0",
        "portcullis_datagrams_dropped_total{listener=\"default\",transport=\"dtls\",reason=\"send_failed\"} 2",
        "portcullis_request_seconds_count 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    for name in [
        "portcullis_build_info{",
        "portcullis_start_time_seconds ",
        "process_resident_memory_bytes ",
    ] {
        assert!(
            text.lines().any(|it| it.starts_with(name)),
            "{name} is not in\n{text}"
        );
    }
}

struct Running {
    addr: SocketAddr,
    health: Arc<Health>,
    broker: Arc<AtomicBool>,
    _server: Server,
}

fn start(bounds: Bounds) -> Running {
    let (health, broker) = (Arc::<Health>::default(), Arc::<AtomicBool>::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let router = monitoring(health.clone(), broker.clone()).router();
    Running {
        addr,
        health,
        broker,
        _server: Server::start("monitoring", listener, router, bounds, || Security::Plain).unwrap(),
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Status line and head, and body.
fn ask(addr: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = connect(addr);
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn methods_and_paths_get_the_status_that_http_asks_for() {
    let server = start(Bounds::default());
    let (head, body) = ask(server.addr, "GET", "/metrics");
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("portcullis_build_info"));
    let (head, body) = ask(server.addr, "HEAD", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    let (head, _) = ask(server.addr, "GET", "/nothing");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let (head, _) = ask(server.addr, "POST", "/metrics");
    assert!(
        head.starts_with("HTTP/1.1 405") && head.contains("allow: GET,HEAD"),
        "{head}"
    );
}

#[test]
fn health_follows_the_process_and_readiness_also_the_broker() {
    let server = start(Bounds::default());
    let status = |path| {
        ask(server.addr, "GET", path)
            .0
            .split(' ')
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!([status("/healthz"), status("/readyz")], ["200", "503"]);
    server.health.set_readiness(Readiness::Ready);
    assert_eq!(ask(server.addr, "GET", "/readyz").1, "no broker\n");
    server.broker.store(true, Ordering::Relaxed);
    assert_eq!([status("/healthz"), status("/readyz")], ["200", "200"]);
    server.health.set_stuck(&[0]);
    assert_eq!([status("/healthz"), status("/readyz")], ["503", "503"]);
}

#[test]
fn clients_that_say_nothing_do_not_lock_out_others() {
    let server = start(Bounds {
        connections: 4,
        head: Duration::from_secs(30),
        life: Duration::from_secs(60),
    });
    let silent: Vec<_> = (0..12).map(|_| connect(server.addr)).collect();
    // Long before their time is over.
    assert!(ask(server.addr, "GET", "/healthz").0.starts_with("HTTP/1.1 200"));
    drop(silent);
}

#[test]
fn a_slow_trickle_of_header_bytes_is_cut_off() {
    let server = start(Bounds {
        connections: 4,
        head: Duration::from_millis(300),
        life: Duration::from_secs(60),
    });
    let mut stream = connect(server.addr);
    #[expect(clippy::disallowed_methods, reason = "tests need one instant to start from")]
    let start = std::time::Instant::now();
    while stream.write_all(b"G").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = start(Bounds::default());
    let mut stream = connect(server.addr);
    let head = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n", "a".repeat(64 * 1024));
    // The server may close before all of it is written.
    drop(stream.write_all(head.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(ask(server.addr, "GET", "/healthz").0.starts_with("HTTP/1.1 200"));
}
