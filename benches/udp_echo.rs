//! What the shell costs: an echo through sockets and worker loop beside a bare loop of `recv_from` and `send_to`, in one
//! run on one machine, so that only the ratio means something.
//!
//! `cargo bench --bench udp_echo`; one client keeps a burst of datagrams of 64 bytes in flight.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and cannot go on when something fails"
)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use portcullis::broker::{BrokerKind, BrokerSettings, Clock, RetainedLimits};
use portcullis::daemon::assembly::WorkerParts;
use portcullis::daemon::clock;
use portcullis::daemon::echo::Echo;
use portcullis::daemon::workers::Workers;
use portcullis::net::{GroupSpec, open_groups};
use portcullis::types::Transport;

const DATAGRAM: [u8; 64] = [7; 64];
const ROUNDS: usize = 7;

/// One measurement.
#[derive(Clone, Copy)]
struct Figure {
    per_second: f64,
    server_nanos: f64,
}

fn thread_number() -> String {
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn cpu_nanos(thread: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn measure(to: SocketAddr, thread: &str, burst: usize, total: usize) -> Figure {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(to).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 128];
    let mut rounds = |count: usize| {
        for _ in 0..count / burst {
            for _ in 0..burst {
                client.send(&DATAGRAM).unwrap();
            }
            for _ in 0..burst {
                assert_eq!(client.recv(&mut buffer).unwrap(), DATAGRAM.len());
            }
        }
    };
    rounds(2_000);
    let (start, cpu) = (clock::now(), cpu_nanos(thread));
    rounds(total);
    let (took, cpu) = (start.elapsed(), cpu_nanos(thread) - cpu);
    Figure {
        per_second: total as f64 / took.as_secs_f64(),
        server_nanos: cpu / total as f64,
    }
}

fn bare(burst: usize, total: usize) -> Figure {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let (number, thread) = sync_channel(1);
    let server = std::thread::spawn(move || {
        number.send(thread_number()).unwrap();
        let mut buffer = vec![0; 65_536];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], from).unwrap();
            }
        }
    });
    let figure = measure(addr, &thread.recv().unwrap(), burst, total);
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
    figure
}

fn through_worker(bind: &str, burst: usize, total: usize) -> Figure {
    let spec = GroupSpec {
        transport: Transport::Udp,
        name: "bench".to_owned(),
        bind: bind.parse().unwrap(),
        workers: 1,
        buffers: Default::default(),
    };
    let groups = open_groups(&[spec]).unwrap();
    let addr = SocketAddr::new(
        "127.0.0.1".parse().unwrap(),
        groups[0][0].local_addr().unwrap().port(),
    );
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
    let (_runtime, mut links) = portcullis::broker::start(settings, 1).unwrap();
    let parts = WorkerParts {
        core: Box::new(move || {
            number.send(thread_number()).unwrap();
            Echo::default()
        }),
        broker: links.remove(0),
        auth: None,
        links: None,
        seeks: None,
    };
    let workers = Workers::start(vec![parts], groups).unwrap();
    let figure = measure(addr, &thread.recv().unwrap(), burst, total);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert!(runtime.block_on(workers.stop(Duration::ZERO, true)));
    figure
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.server_nanos.total_cmp(&b.server_nanos));
    figures[figures.len() / 2]
}

fn main() {
    println!("burst  server               datagrams/s  server CPU per datagram  ratio to bare");
    for (burst, total) in [(1, 20_000), (8, 102_400), (64, 102_400)] {
        let mut all: [Vec<Figure>; 3] = Default::default();
        for _ in 0..ROUNDS {
            all[0].push(bare(burst, total));
            all[1].push(through_worker("127.0.0.1:0", burst, total));
            all[2].push(through_worker("[::]:0", burst, total));
        }
        let figures = all.map(median);
        for (name, figure) in ["bare loop", "worker, 127.0.0.1", "worker, [::]"]
            .iter()
            .zip(figures)
        {
            println!(
                "{burst:>5}  {name:<18}  {:>12.0}  {:>20.0} ns  {:>13.2}",
                figure.per_second,
                figure.server_nanos,
                figure.server_nanos / figures[0].server_nanos
            );
        }
    }
}
