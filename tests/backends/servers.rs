//! Servers of other people as processes of a test, on free loopback ports, ended with it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::support::certs::Certified;
use super::support::pki::Pki;
use super::support::ports::{self, Port};
use super::support::wait_until;

/// A server and its files.
pub struct Running {
    pub port: Port,
    directory: tempfile::TempDir,
    start: Vec<String>,
    child: Option<Child>,
}

/// The user that a server runs as which refuses to be root's, where the test is root's.
const NOBODY: &str = "nobody";

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// `program`, as nobody where this is root, ended with the thread that started it.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL");
    if is_root() {
        command.args(["--reuid", NOBODY, "--regid", "nogroup", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// Runs a command to its end, with `input`; panics when it fails.
pub fn run(command: &mut Command, input: &str) -> String {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// Whether a command ends well.
pub fn works(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Gives a path to who runs the server.
fn give(path: &Path) {
    if is_root() {
        run(Command::new("chown").arg("-R").arg(NOBODY).arg(path), "");
    }
}

impl Running {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("portcullis-server-")
            .tempdir()
            .unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        give(directory.path());
        Self {
            port: ports::reserve(),
            directory,
            start: Vec::new(),
            child: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file that only who runs the server may read.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        give(&path);
        path.display().to_string()
    }

    /// The certificate of `pki` for loopback, its key, and the CA: their paths.
    pub fn install(&self, pki: &Pki) -> [String; 3] {
        let pem = |name: &str, pem: &Certified| self.write(name, pem.cert_pem());
        [
            pem("server.pem", &pki.server),
            self.write("server.key", pki.server.key_pem()),
            pem("ca.pem", &pki.ca),
        ]
    }

    /// What starts it.
    pub fn started_by(&mut self, words: &[&str]) {
        self.start = words.iter().map(|&word| word.to_owned()).collect();
    }

    pub fn start(&mut self, is_up: impl FnMut() -> bool) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = command(&self.start[0]);
        command.args(&self.start[1..]).current_dir(self.directory.path());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{:?}: {error}", self.start)),
        );
        wait_until(&format!("{:?} is up", self.start), is_up);
    }

    /// Ends it, at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
