//! Running other programs, none for longer than it may.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::pki::Pki;
use crate::support::{Config, Gateway, ms};

/// What a program did.
#[derive(Debug)]
pub struct Done {
    /// `None` when it had to be stopped.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Done {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// What a program has said so far, and the thread that listens to it.
struct Stream {
    said: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Stream {
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let said = Arc::new(Mutex::new(vec![]));
        let all = Arc::clone(&said);
        let listener = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                all.lock().unwrap().extend(&buf[..n]);
            }
        });
        Self { said, listener }
    }

    fn end(self) -> Vec<u8> {
        self.listener.join().unwrap();
        Arc::into_inner(self.said).unwrap().into_inner().unwrap()
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    output: Stream,
    errors: Stream,
}

/// Starts a program with `input` on its standard input, which stays open until the program ends.
pub fn start(mut command: Command, input: &[u8]) -> Running {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{name} is missing ({e}); `make packages-test` installs what the tests need")
        });
    child.stdin.as_mut().unwrap().write_all(input).unwrap();
    let output = Stream::of(child.stdout.take().unwrap());
    let errors = Stream::of(child.stderr.take().unwrap());
    Running {
        child,
        output,
        errors,
    }
}

impl Running {
    /// Waits until it ends, or stops it after `patience`.
    pub fn wait(self, patience: Duration) -> Done {
        self.until(patience, |_| false)
    }

    /// The same, but stops it as soon as what it said satisfies `enough`.
    pub fn until(mut self, patience: Duration, enough: impl Fn(&[u8]) -> bool) -> Done {
        let end = Instant::now() + patience;
        let mut status = self.child.try_wait().unwrap();
        while status.is_none() && Instant::now() < end && !enough(&self.output.said.lock().unwrap()) {
            std::thread::sleep(ms(5));
            status = self.child.try_wait().unwrap();
        }
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        Done {
            code: status.and_then(|status| status.code()),
            stdout: self.output.end(),
            stderr: String::from_utf8_lossy(&self.errors.end()).into_owned(),
        }
    }
}

/// Runs a program to its end; 20 s at most.
pub fn run(command: Command) -> Done {
    start(command, b"").wait(Duration::from_secs(20))
}

/// Where what no package has was built (`tests/interop/clients.sh`), building it if need be.
pub fn home() -> PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = Command::new(root.join("tests/interop/clients.sh"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&script.stderr);
    assert!(script.status.success(), "tests/interop/clients.sh: {said}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("interop")
}

/// A gateway with keys and certificates; `client.pem` and `client.key` lie beside `ca.pem`.
pub fn gateway(config: Config) -> Gateway {
    let pki = Pki::new();
    let config = pki
        .install(config)
        .or("listeners.dtls.default", "verify", "\"optional\"")
        .tcp("")
        .tls("psk_file = \"psk.txt\"\ncert_file = \"server.pem\"\nkey_file = \"server.key\"\nca_file = \"ca.pem\"\nverify = \"optional\"")
        .file("client.pem", pki.client.cert_pem())
        .file("client.key", pki.client.key_pem());
    Gateway::start(config)
}
