//! The built gateway as a process of its own, with a configuration and directory of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::{Client, PATIENCE};
use super::config::Config;
use super::{dtls, http, ports};

/// The transport of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Udp,
    Dtls,
}

/// The PSK identities that every test gateway knows.
pub const PSK_IDENTITIES: [&str; 4] = ["dev1", "dev2", "dev3", "dev4"];

/// The key of an identity; printable, as Debian's `coap-client -k` wants it.
pub fn psk_of(identity: &str) -> String {
    format!("key-of-{identity}-1234")
}

/// A running gateway. It must have ended by itself soon after SIGTERM when it is dropped.
pub struct Gateway {
    child: Option<Child>,
    directory: tempfile::TempDir,
    udp: ports::Port,
    dtls: ports::Port,
    metrics: ports::Port,
    environment: Vec<(String, String)>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub fn start(config: Config) -> Self {
        let mut gateway = Self::prepare(&config);
        gateway.launch();
        gateway
    }

    /// Writes the files, but does not start it.
    pub fn prepare(config: &Config) -> Self {
        let directory = tempfile::Builder::new().prefix("portcullis-").tempdir().unwrap();
        let gateway = Self {
            child: None,
            directory,
            udp: ports::reserve(),
            dtls: ports::reserve(),
            metrics: ports::reserve(),
            environment: config.environment.clone(),
            log: Arc::default(),
        };
        let psk: String = PSK_IDENTITIES
            .iter()
            .map(|identity| format!("{identity}:{}\n", hex(psk_of(identity).as_bytes())))
            .collect();
        gateway.write("psk.txt", psk.as_bytes());
        for (name, content) in &config.files {
            gateway.write(name, content);
        }
        gateway.configure(config);
        gateway
    }

    /// Writes another configuration for the next start, with the same ports.
    pub fn configure(&self, config: &Config) {
        let text = config.text(
            self.udp.number,
            self.dtls.number,
            self.metrics.number,
            &self.directory.path().join("state"),
        );
        self.write("portcullis.toml", text.as_bytes());
    }

    /// Writes a file beside the configuration, for its owner only.
    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.directory.path().join(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
    }

    /// Changes the mode of a file beside the configuration.
    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `portcullis run --config`, as a command that is not started yet.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .arg(subcommand)
            .arg("--config")
            .arg(self.path("portcullis.toml"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it (again) and waits until it is ready.
    pub fn launch(&mut self) {
        self.launch_by(&mut self.command("run"));
    }

    /// The same by a command of the test's own.
    pub fn launch_by(&mut self, command: &mut Command) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                log.lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        self.child = Some(child);
        let end = Instant::now() + PATIENCE;
        while !self.is_ready() {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                std::thread::sleep(Duration::from_millis(50));
                self.child = None;
                panic!("the gateway ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < end, "the gateway is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_ready(&self) -> bool {
        http::get(self.metrics_addr(), "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    pub fn udp_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.udp.number).into()
    }

    pub fn dtls_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.dtls.number).into()
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.metrics.number).into()
    }

    pub fn addr(&self, kind: Kind) -> SocketAddr {
        match kind {
            Kind::Udp => self.udp_addr(),
            Kind::Dtls => self.dtls_addr(),
        }
    }

    /// A client on a fresh port; over DTLS its identity is `dev1`.
    pub fn client(&self, kind: Kind) -> Client {
        self.client_as(kind, "dev1")
    }

    /// A client on a fresh port with this PSK identity, which plain UDP has no use for.
    pub fn client_as(&self, kind: Kind, identity: &str) -> Client {
        match kind {
            Kind::Udp => Client::udp(self.udp_addr()),
            Kind::Dtls => Client::dtls(self.dtls_addr(), &psk_options(identity)),
        }
    }

    /// A plain and a DTLS peer are served: publish, observe, read. This is how every hostile test ends.
    #[track_caller]
    pub fn assert_serves(&self) {
        for kind in [Kind::Udp, Kind::Dtls] {
            let mut peer = self.client_as(kind, "dev4");
            let topic = format!("ps/good/{kind:?}/{}", peer.local_addr().port());
            let observation = peer.observe(&topic);
            peer.publish(&format!("{topic}?retain=true"), "served");
            assert_eq!(peer.notification(&observation.token).text(), "served");
            assert_eq!(peer.read(&topic), b"served");
        }
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until the log has this: it comes through a pipe and a thread, later than what a client sees.
    pub fn says(&self, what: &str) {
        let begun = Instant::now();
        while !self.log().contains(what) {
            assert!(
                begun.elapsed() < PATIENCE,
                "the log does not say {what:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        let (status, body) = http::get(self.metrics_addr(), "/metrics").unwrap();
        assert_eq!(status, 200);
        body
    }

    /// The sum of the samples of `portcullis_{name}` whose labels contain all of `labels` (each `key="value"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let name = format!("portcullis_{name}");
        let metrics = self.metrics();
        let samples = metrics
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (series, have) = series.split_once('{').unwrap_or((series, ""));
                (series == name && labels.iter().all(|label| have.contains(label)))
                    .then(|| value.parse::<f64>().unwrap())
            });
        samples.sum()
    }

    /// Waits until [`Gateway::metric`] has this value: workers publish what they count a moment later.
    #[track_caller]
    pub fn metric_becomes(&self, name: &str, labels: &[&str], wanted: f64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let have = self.metric(name, labels);
            if have == wanted {
                return;
            }
            assert!(Instant::now() < end, "{name} {labels:?} is {have}, not {wanted}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("/bin/sh")
            .args(["-c", &format!("kill -{signal} {}", self.pid())])
            .status();
        assert!(status.unwrap().success());
    }

    /// SIGTERM; how it ended. Panics when it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until it has ended; how it did. Panics when it does not.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > end {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("did not end in time:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, at once.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The directory in memory that it keeps state in.
    pub fn memory_directory(&self) -> PathBuf {
        let state_dir = fs::canonicalize(self.path("state")).unwrap();
        let ours = |path: &PathBuf| {
            fs::read_to_string(path.join("state_dir"))
                .is_ok_and(|owner| owner.ends_with(state_dir.to_str().unwrap()))
        };
        let mut directories = fs::read_dir("/dev/shm")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        directories.find(ours).unwrap()
    }

    /// Kills it, and takes away what a machine that is switched off forgets.
    pub fn lose_power(&mut self) {
        let memory = self.memory_directory();
        self.kill();
        fs::remove_dir_all(memory).unwrap();
    }

    /// SIGHUP.
    pub fn reload(&self) {
        self.signal("HUP");
    }

    /// SIGHUP, and waits until it is done: whether what is on disk is in force.
    pub fn reloaded(&self) -> bool {
        let refusals = || self.log().matches("the old stays in force").count();
        let (before, refused_before) = (self.metric("config_reloads_total", &[]), refusals());
        self.reload();
        self.metric_becomes("config_reloads_total", &[], before + 1.0);
        let reloaded = self.metric("config_last_reload_successful", &[]) == 1.0;
        // The log comes through a pipe and a thread, and may come later than the metric.
        if !reloaded {
            super::wait_until("the log says why", || refusals() > refused_before);
        }
        reloaded
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            let mut child = self.child.take().unwrap();
            let ended = child.try_wait().ok().flatten();
            let counted = http::get(self.metrics_addr(), "/metrics").map_or(String::new(), |(_, body)| body);
            let _ = child.kill();
            let _ = child.wait();
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the gateway's last lines (ended before: {ended:?}) ---\n{last}");
            let counted = counted
                .lines()
                .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
            counted.for_each(|line| eprintln!("{line}"));
            return;
        }
        let ended = self.child.as_mut().unwrap().try_wait().unwrap();
        assert!(
            ended.is_none(),
            "the gateway ended by itself, {ended:?}:\n{}",
            self.log()
        );
        let status = self.stop();
        assert!(
            status.success(),
            "the gateway ended with {status}:\n{}",
            self.log()
        );
        let log = self.log();
        assert!(!log.contains("panicked at"), "a panic in the gateway:\n{log}");
    }
}

/// The DTLS options of a PSK identity that the gateway knows.
pub fn psk_options(identity: &str) -> dtls::Options {
    dtls::Options::psk(identity, psk_of(identity).as_bytes())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
