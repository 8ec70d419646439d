//! The engine: a real Redis on a free loopback port.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::servers::{Running, run};
use super::support::wait_until;

/// What `group.password_file` holds.
pub const PASSWORD: &str = "a password of the engine";

pub struct Redis {
    pub running: Running,
}

impl Redis {
    pub fn start() -> Self {
        Self::with("")
    }

    /// A server; `more` of its configuration.
    pub fn with(more: &str) -> Self {
        let mut running = Running::new();
        let port = running.port.number;
        let directory = running.shown("");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {directory}\nsave \"\"\nappendonly yes\nrequirepass \"{PASSWORD}\"\nmasterauth \"{PASSWORD}\"\n{more}\n"
        );
        let file = running.write("redis.conf", text);
        running.started_by(&["redis-server", &file]);
        let mut server = Self { running };
        server.up();
        server
    }

    pub fn up(&mut self) {
        let port = self.running.port.number;
        self.running
            .start(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        wait_until("it answers", || self.try_say("PING").contains("PONG"));
    }

    pub fn port(&self) -> u16 {
        self.running.port.number
    }

    fn cli(&self) -> Command {
        let mut cli = Command::new("redis-cli");
        cli.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port().to_string(),
            "--no-auth-warning",
            "-a",
            PASSWORD,
        ]);
        cli
    }

    fn try_say(&self, word: &str) -> String {
        let output = self.cli().arg(word).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What it answers to lines of commands.
    pub fn say(&self, text: &str) -> String {
        run(&mut self.cli(), text)
    }

    /// Has bytes stand under a name.
    pub fn put(&self, name: &str, content: &[u8]) {
        self.feed(&["SET", name], content);
    }

    /// A command that ends with bytes.
    pub fn feed(&self, words: &[&str], content: &[u8]) {
        let mut cli = self.cli();
        cli.arg("-x").args(words);
        let mut cli = cli.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        cli.stdin.take().unwrap().write_all(content).unwrap();
        assert!(cli.wait().unwrap().success());
    }

    /// The bytes that stand under a name.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let mut content = self.cli().args(["--raw", "GET", name]).output().unwrap().stdout;
        // The tool ends it with a line end.
        content.pop();
        content
    }

    /// Everything it holds, as it holds it.
    pub fn dump(&self) -> String {
        let keys = self.say("KEYS *\n");
        let mut all = String::new();
        for key in keys.lines() {
            let kind = self.say(&format!("TYPE {key}\n"));
            let read = match kind.trim() {
                "string" => "GET",
                "hash" => "HGETALL",
                "set" => "SMEMBERS",
                // It went meanwhile.
                "none" => continue,
                other => panic!("{key} is a {other}"),
            };
            all.push_str(&format!("{key}\n{}\n", self.say(&format!("{read} {key}\n"))));
        }
        all
    }
}
