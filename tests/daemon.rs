//! The process around an echo core, with this test in the place of the service manager.
//!
//! [`child`] is the process: each test starts this very binary again with the plan in the environment.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use portcullis::admin::api::handle::Reloaded;
use portcullis::broker::{BrokerKind, BrokerRuntime, BrokerSettings, Clock, RetainedLimits, WorkerLink};
use portcullis::config::Problems;
use portcullis::daemon::assembly::{Assembly, ExitReason, Renewed, StartError, WorkerParts};
use portcullis::daemon::clock;
use portcullis::daemon::echo::Echo;
use portcullis::daemon::management::Controls;
use portcullis::daemon::process_settings::{ListenerAddress, LogFormat, ProcessSettings};
use portcullis::daemon::worker::core::Core;
use portcullis::gateway::contract::{ControlRequest, Cursor, Input, Output};
use portcullis::net::{GroupSpec, open_groups};
use portcullis::types::metrics::Exposes;
use portcullis::types::{Transmits, Transport, WorkerId};

const PLAN: &str = "PORTCULLIS_TEST_PLAN";
/// Far more than anything takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Echoes, but dies of `die` and hangs at `hang`.
#[derive(Default)]
struct Mortal(Echo);

impl Core for Mortal {
    fn handle(&mut self, now: Instant, input: Input<'_>) {
        if let Input::Datagram { bytes, .. } = &input {
            assert!(**bytes != *b"die", "as asked");
            if **bytes == *b"hang" {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
        self.0.handle(now, input);
    }
    fn transmits(&self) -> &Transmits {
        self.0.transmits()
    }
    fn transmits_sent(&mut self) {
        self.0.transmits_sent();
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.0.poll_output()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.0.handle_timeout(now);
    }
}

#[derive(Default)]
struct EchoAssembly {
    broker: Option<BrokerRuntime>,
    links: Vec<WorkerLink>,
    reloads: u32,
}

impl Assembly for EchoAssembly {
    type Core = Mortal;

    fn worker(&mut self, _worker: WorkerId) -> Result<WorkerParts<Mortal>, StartError> {
        if self.broker.is_none() {
            let settings = BrokerSettings {
                node: "test".into(),
                state_dir: None,
                clock: Clock {
                    now: clock::now,
                    wall: clock::wall,
                },
                kind: BrokerKind::Embedded(RetainedLimits::default()),
            };
            let (broker, links) = portcullis::broker::start(settings, 8).unwrap();
            (self.broker, self.links) = (Some(broker), links);
        }
        Ok(WorkerParts {
            core: Box::new(Mortal::default),
            broker: self.links.pop().unwrap(),
            auth: None,
            links: None,
            seeks: None,
        })
    }
    fn exposes(&mut self) -> Vec<Box<dyn Exposes>> {
        Vec::new()
    }
    fn readiness(&self) -> Box<dyn Fn() -> Result<(), String> + Send + Sync> {
        Box::new(|| Ok(()))
    }
    fn status(&self) -> String {
        format!("{} reloads", self.reloads)
    }
    fn serving(&mut self, _controls: Controls) -> Result<(), StartError> {
        Ok(())
    }
    fn reload(&mut self) -> Result<Renewed, Problems> {
        self.reloads += 1;
        if self.reloads == 2 {
            Err(Problems::unreadable("psk.txt".as_ref(), "line 3: no colon"))
        } else {
            Ok(Renewed {
                listeners: Vec::new(),
                request: ControlRequest::Page {
                    from: Cursor::Peers(0),
                    places: 0,
                },
                report: Reloaded::default(),
            })
        }
    }
    fn tell_time(&self) {}

    fn store_fullness(&self) -> f64 {
        0.0
    }
    async fn finish(&mut self, _patience: Duration) {}
}

/// The process under test; as a test of its own it has nothing to do.
#[test]
fn child() -> ExitCode {
    let Ok(text) = std::env::var(PLAN) else {
        return ExitCode::SUCCESS;
    };
    let mut words = text.split(' ');
    let workers: u8 = words.next().unwrap().parse().unwrap();
    let listener = |bind: &str| ListenerAddress {
        name: "default".to_owned(),
        transport: Transport::Udp,
        bind: bind.parse().unwrap(),
        buffers: Default::default(),
    };
    let settings = ProcessSettings {
        listeners: words.map(listener).collect(),
        workers: NonZero::new(workers).unwrap(),
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        log_filter: "info".to_owned(),
        log_format: LogFormat::Json,
        grace: Duration::from_secs(2),
        goodbye: true,
    };
    // The harness would swallow the code.
    let code = portcullis::daemon::run::run(&settings, |_| Ok(EchoAssembly::default()));
    let all = [
        ExitReason::Unavailable,
        ExitReason::Software,
        ExitReason::System,
        ExitReason::Config,
    ];
    let code = all
        .into_iter()
        .find(|it| ExitCode::from(*it as u8) == code)
        .map_or(0, |it| it as i32);
    std::process::exit(code);
}

/// Held while a process is made: until it runs its own program it has this one's sockets too, and their ports are taken.
fn forking() -> MutexGuard<'static, ()> {
    static FORKING: Mutex<()> = Mutex::new(());
    FORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service manager's side of a running child.
struct Manager {
    child: Child,
    socket: UnixDatagram,
    logs: mpsc::Receiver<serde_json::Value>,
    seen: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn start(settings: &str, env: &[(&str, &str)], sockets: Vec<OwnedFd>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // LISTEN_FDS wants descriptors from 3 on and the process's own number: only a shell can give both.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$; exec \"$0\" --exact child --nocapture",
        ]);
        command.arg(std::env::current_exe().unwrap());
        let mut sockets = sockets.into_iter();
        let mut stdio = || sockets.next().map_or_else(Stdio::null, Stdio::from);
        command.stdin(stdio()).stdout(stdio()).stderr(Stdio::piped());
        command
            .env(PLAN, settings)
            .env("NOTIFY_SOCKET", &path)
            .env_remove("WATCHDOG_PID");
        let mut child = {
            let _alone = forking();
            command.envs(env.iter().copied()).spawn().unwrap()
        };
        let stderr = child.stderr.take().unwrap();
        let (sender, logs) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    let _gone = sender.send(line);
                }
            }
        });
        Self {
            child,
            socket,
            logs,
            seen: Vec::new(),
            _dir: dir,
        }
    }

    fn told(&mut self) -> String {
        let mut buffer = [0; 4096];
        let length = retried(|| self.socket.recv(&mut buffer)).unwrap_or_else(|error| {
            let logs: Vec<_> = self.logs.try_iter().collect();
            panic!("after {:?} it says nothing more ({error}): {logs:?}", self.seen)
        });
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        self.seen.push(text.clone());
        text
    }

    /// Reads until something that starts with `wanted` comes.
    fn wait_for(&mut self, wanted: &str) -> String {
        loop {
            let text = self.told();
            if text.starts_with(wanted) {
                return text;
            }
        }
    }

    /// The address in the first log line with this message.
    fn logged_addr(&self, message: &str) -> SocketAddr {
        loop {
            let line = self.logs.recv_timeout(PATIENCE).unwrap();
            if line["message"] == message {
                return line["addr"].as_str().unwrap().parse().unwrap();
            }
        }
    }

    fn signal(&self, name: &str) {
        let mut command = Command::new("kill");
        command.args([name, &self.child.id().to_string()]);
        let mut kill = {
            let _alone = forking();
            command.spawn().unwrap()
        };
        assert!(kill.wait().unwrap().success());
    }

    /// Waits for the end, and goes on reading: what nobody reads would hold the process up.
    fn exit_code(&mut self) -> Option<i32> {
        self.socket.set_nonblocking(true).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            while self.socket.recv(&mut [0; 4096]).is_ok() {}
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What `read` gives. A machine that is halted for a moment interrupts a read that has a time-out (signal(7)).
fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn echo(peer: &UdpSocket, to: SocketAddr, text: &[u8]) {
    peer.send_to(text, to).unwrap();
    let mut buffer = [0; 64];
    let length = retried(|| peer.recv(&mut buffer)).unwrap();
    assert_eq!(&buffer[..length], text);
}

fn http_status(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn it_says_ready_when_it_serves_and_goodbye_when_it_is_stopped() {
    for signal in ["-TERM", "-INT"] {
        let mut manager = Manager::start("2 127.0.0.1:0", &[], Vec::new());
        let monitoring = manager.logged_addr("metrics and health");
        let addr = manager.logged_addr("listening");
        assert!(
            manager
                .wait_for("READY=1")
                .contains("STATUS=serving 1 listeners with 2 workers")
        );
        assert_eq!(
            manager.seen[..2],
            [
                "FDSTORE=1\nFDNAME=udp.default.0\n",
                "FDSTORE=1\nFDNAME=udp.default.1\n"
            ]
        );
        let peer = client();
        echo(&peer, addr, b"hello");
        assert_eq!(http_status(monitoring, "/readyz"), "200");
        manager.signal(signal);
        manager.wait_for("STOPPING=1");
        let mut buffer = [0; 8];
        let length = retried(|| peer.recv(&mut buffer)).unwrap();
        assert_eq!(&buffer[..length], b"bye");
        assert_eq!(manager.exit_code(), Some(0));
    }
}

#[test]
fn a_reload_is_announced_and_ended_and_a_broken_one_ends_nothing() {
    let mut manager = Manager::start("1 127.0.0.1:0", &[], Vec::new());
    let addr = manager.logged_addr("listening");
    manager.wait_for("READY=1");
    for reload in 1..=2 {
        manager.signal("-HUP");
        assert!(manager.wait_for("RELOADING=1").contains("MONOTONIC_USEC="));
        assert!(manager.wait_for("READY=1").contains(&format!("{reload} reloads")));
        echo(&client(), addr, b"still there");
    }
    // READY may overtake the line, which comes through a pipe and a thread.
    loop {
        let line = manager.logs.recv_timeout(PATIENCE).unwrap();
        if line["message"]
            .as_str()
            .is_some_and(|text| text.contains("line 3: no colon"))
        {
            break;
        }
    }
}

#[test]
fn the_watchdog_is_fed_until_a_worker_hangs() {
    let mut manager = Manager::start("2 127.0.0.1:0", &[("WATCHDOG_USEC", "3300000")], Vec::new());
    let monitoring = manager.logged_addr("metrics and health");
    let addr = manager.logged_addr("listening");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    assert_eq!(http_status(monitoring, "/healthz"), "200");
    client().send_to(b"hang", addr).unwrap();
    // The look that comes next may have seen the last turn; those after it may not.
    manager.wait_for("STATUS=");
    manager.wait_for("STATUS=");
    let before = manager.seen.len();
    manager.wait_for("STATUS=");
    manager.wait_for("STATUS=");
    assert!(
        !manager.seen[before..]
            .iter()
            .any(|it| it.starts_with("WATCHDOG=1")),
        "{:?}",
        manager.seen
    );
    assert_eq!(http_status(monitoring, "/healthz"), "503");
    // The other worker cannot end the process alone: it gives up on the one that hangs.
    manager.signal("-TERM");
    assert_eq!(manager.exit_code(), Some(70));
}

#[test]
fn a_worker_that_dies_ends_the_process() {
    let mut manager = Manager::start("2 127.0.0.1:0", &[], Vec::new());
    let addr = manager.logged_addr("listening");
    manager.wait_for("READY=1");
    client().send_to(b"die", addr).unwrap();
    manager.wait_for("STOPPING=1");
    assert_eq!(manager.exit_code(), Some(70));
}

#[test]
fn a_port_in_use_ends_the_start_with_a_clear_line() {
    let owner = client();
    let addr = owner.local_addr().unwrap();
    let mut manager = Manager::start(&format!("2 {addr}"), &[], Vec::new());
    assert_eq!(manager.exit_code(), Some(69));
    let logged: Vec<_> = manager
        .logs
        .iter()
        .map(|line| line["message"].to_string())
        .collect();
    let wanted = format!("listeners.udp.default.bind: cannot listen on {addr}: the port is in use");
    assert!(logged.iter().any(|line| line.contains(&wanted)), "{logged:?}");
}

/// Two sockets as an earlier run left them with the service manager.
fn kept() -> (Vec<UdpSocket>, SocketAddr) {
    let spec = GroupSpec {
        transport: Transport::Udp,
        name: "default".to_owned(),
        bind: "127.0.0.1:0".parse().unwrap(),
        workers: 2,
        buffers: Default::default(),
    };
    let group = open_groups(&[spec]).unwrap().remove(0);
    let addr = group[0].local_addr().unwrap();
    (group, addr)
}

fn copies(group: &[UdpSocket]) -> Vec<OwnedFd> {
    group
        .iter()
        .map(|socket| socket.try_clone().unwrap().into())
        .collect()
}

const KEPT: [(&str, &str); 2] = [
    ("LISTEN_FDS", "2"),
    ("LISTEN_FDNAMES", "udp.default.0:udp.default.1"),
];

#[test]
fn datagrams_that_came_while_nobody_ran_are_answered_over_kept_sockets() {
    let (group, addr) = kept();
    let peers: Vec<_> = (0..20).map(|_| client()).collect();
    for peer in &peers {
        peer.send_to(b"early", addr).unwrap();
    }
    let mut manager = Manager::start(&format!("2 {addr}"), &KEPT, copies(&group));
    manager.wait_for("READY=1");
    for peer in &peers {
        let mut buffer = [0; 8];
        let length = retried(|| peer.recv(&mut buffer)).unwrap();
        assert_eq!(&buffer[..length], b"early");
    }
}

#[test]
fn kept_sockets_that_do_not_fit_are_given_back_before_the_port_is_bound_anew() {
    let (group, addr) = kept();
    let mut manager = Manager::start(&format!("3 {addr}"), &KEPT, copies(&group));
    manager.wait_for("FDSTOREREMOVE=1\nFDNAME=udp.default.0");
    assert!(
        manager
            .told()
            .starts_with("FDSTOREREMOVE=1\nFDNAME=udp.default.1")
    );
    // As the service manager does: close, then go on reading. The end of the barrier's descriptor goes with it.
    let alone = forking();
    drop(group);
    // A child of another test may be closing its copies still: it runs its own program a little before that.
    let freed = (0..30_000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        UdpSocket::bind(addr).is_ok()
    });
    assert!(freed, "{addr} stays taken");
    assert!(manager.told().starts_with("BARRIER=1"));
    manager.wait_for("READY=1");
    drop(alone);
    echo(&client(), addr, b"anew");
}
