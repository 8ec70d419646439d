//! A configuration for one test: the defaults that suit loopback, and what the test says.

use std::path::Path;

/// TOML lines by table. Every test starts from [`Config::new`]: one UDP and one DTLS listener with the PSK file of
/// [`super::psk_of`], the embedded broker, metrics on.
#[derive(Clone, Debug, Default)]
pub struct Config {
    tables: Vec<(String, Vec<String>)>,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Config {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `lines` to `[table]`.
    pub fn set(mut self, table: &str, lines: &str) -> Self {
        let lines = lines.lines().map(str::to_owned);
        match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, have)) => have.extend(lines),
            None => self.tables.push((table.to_owned(), lines.collect())),
        }
        self
    }

    pub fn coap(self, lines: &str) -> Self {
        self.set("coap", lines)
    }

    /// Connection mode.
    pub fn connection_mode(self) -> Self {
        self.coap("connection_required = true")
    }

    /// Short retransmission timers: an unanswered CON is given up after at most `timeout_ms * 1.5 * (2^(n + 1) - 1)`.
    pub fn transmission(self, timeout_ms: u64, max_retransmit: u32) -> Self {
        self.set(
            "coap.transmission",
            &format!("ack_timeout = \"{timeout_ms}ms\"\nmax_retransmit = {max_retransmit}"),
        )
    }

    pub fn udp(self, lines: &str) -> Self {
        self.set("listeners.udp.default", lines)
    }

    pub fn dtls(self, lines: &str) -> Self {
        self.set("listeners.dtls.default", lines)
    }

    /// A listener over TCP, on the port of the one over UDP.
    pub fn tcp(self, lines: &str) -> Self {
        self.set("listeners.tcp.default", lines)
    }

    /// A listener over TLS, on the port of the one over DTLS, with the same keys.
    pub fn tls(self, lines: &str) -> Self {
        self.set("listeners.tls.default", lines)
    }

    fn has_table(&self, table: &str) -> bool {
        self.tables.iter().any(|(name, _)| name == table)
    }

    /// A file beside the configuration, readable by its owner only.
    pub fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.files.push((name.to_owned(), content.as_ref().to_vec()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives a key that was set another value.
    pub fn replace(mut self, table: &str, key: &str, value: &str) -> Self {
        for (_, lines) in self.tables.iter_mut().filter(|(name, _)| name == table) {
            lines.retain(|line| line.split('=').next().is_none_or(|name| name.trim() != key));
        }
        self.set(table, &format!("{key} = {value}"))
    }

    /// Whether the test itself gave `key` in `table`.
    fn has(&self, table: &str, key: &str) -> bool {
        let wanted = |line: &String| line.split('=').next().is_some_and(|name| name.trim() == key);
        self.tables
            .iter()
            .any(|(name, lines)| name == table && lines.iter().any(wanted))
    }

    /// Adds a line unless the test set that key itself.
    pub fn or(self, table: &str, key: &str, value: &str) -> Self {
        if self.has(table, key) {
            self
        } else {
            self.set(table, &format!("{key} = {value}"))
        }
    }

    /// The file's text for these ports and directory.
    pub(crate) fn text(&self, udp: u16, dtls: u16, metrics: u16, state: &Path) -> String {
        let mut config = self.clone();
        for (table, port) in [("listeners.tcp.default", udp), ("listeners.tls.default", dtls)] {
            if self.has_table(table) {
                config = config.or(table, "bind", &format!("\"127.0.0.1:{port}\""));
            }
        }
        if self.has_table("listeners.tls.default") && !self.has("listeners.tls.default", "cert_file") {
            config = config.or("listeners.tls.default", "psk_file", "\"psk.txt\"");
        }
        let config = config
            .or("node", "state_dir", &format!("{:?}", state.display().to_string()))
            .or("node", "workers", "2")
            .or("listeners.udp.default", "bind", &format!("\"127.0.0.1:{udp}\""))
            .or("listeners.dtls.default", "bind", &format!("\"127.0.0.1:{dtls}\""))
            .or("listeners.dtls.default", "psk_file", "\"psk.txt\"")
            .or("metrics", "bind", &format!("\"127.0.0.1:{metrics}\""))
            .or("admin", "bind", "\"\"")
            .or("limits", "handshakes_per_second", "0")
            .or("log", "level", "\"debug\"");
        let mut text = String::new();
        for (table, lines) in &config.tables {
            text.push_str(&format!("[{table}]\n{}\n\n", lines.join("\n")));
        }
        text
    }
}
