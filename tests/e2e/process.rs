//! The process: command line, configuration errors, start, stop.

use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Instant;

use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, ms};

fn run(gateway: &Gateway, subcommand: &str) -> Output {
    gateway.command(subcommand).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn version_names_the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("portcullis ") && said.contains(env!("CARGO_PKG_VERSION")),
        "{said}"
    );
}

#[test]
fn check_config_accepts_what_run_accepts() {
    let gateway = Gateway::prepare(&Config::new());
    let output = run(&gateway, "check-config");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn check_config_shows_every_error_with_its_place() {
    let config = Config::new()
        .coap("heartbeat = \"soon\"\nnotify_typ = \"con\"\npublish_qos = \"qos7\"")
        .set("coap.blockwise", "max_block_size = 1000");
    let gateway = Gateway::prepare(&config);
    let text = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    let output = run(&gateway, "check-config");
    assert_eq!(output.status.code(), Some(78));
    let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("portcullis.toml"), "{said}");
    for wrong in ["heartbeat", "notify_typ", "publish_qos", "max_block_size"] {
        let line = 1 + text
            .lines()
            .position(|line| line.starts_with(&format!("{wrong} ")))
            .unwrap();
        let place = format!("line {line}, column ");
        assert!(
            said.contains(&place) && said.contains(wrong),
            "{wrong} of line {line}: {said}"
        );
    }
    assert!(
        said.contains("notify_type"),
        "and says what would be right: {said}"
    );
    let output = run(&gateway, "run");
    assert_eq!(
        output.status.code(),
        Some(78),
        "run says the same: {}",
        stderr(&output)
    );
}

#[test]
fn a_config_file_that_is_not_there_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "--config", "/nonexistent/portcullis.toml"])
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("/nonexistent/portcullis.toml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let gateway = Gateway::prepare(&Config::new());
    let _holder = UdpSocket::bind(gateway.udp_addr()).unwrap();
    let output = run(&gateway, "run");
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(
        said.contains(&gateway.udp_addr().to_string()) && said.contains("in use"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_second_gateway_on_the_same_ports_is_refused() {
    let gateway = Gateway::start(Config::new());
    let second = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    gateway.write("second.toml", second.replace("/state\"", "/second\"").as_bytes());
    let run_as = |config: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "--config"])
            .arg(gateway.path(config))
            .output()
            .unwrap();
        assert!(
            !output.status.success(),
            "two gateways would share each other's datagrams"
        );
        stderr(&output)
    };
    let said = run_as("second.toml");
    assert!(said.contains("in use"), "{said}");
    let said = run_as("portcullis.toml");
    assert!(
        said.contains("in use") || said.contains("another process"),
        "{said}"
    );
    gateway.assert_serves();
}

#[test]
fn a_start_that_fails_after_the_first_threads_says_why_and_does_not_panic() {
    let refused = |gateway: &Gateway, code: i32, wanted: &str| {
        let output = run(gateway, "run");
        let said = stderr(&output);
        assert!(said.contains(wanted) && !said.contains("panicked"), "{said}");
        assert_eq!(output.status.code(), Some(code), "{said}");
    };
    let gateway = Gateway::prepare(&Config::new());
    let _holder = std::net::TcpListener::bind(gateway.metrics_addr()).unwrap();
    let who = format!(
        "metrics.bind: cannot listen on {}: the port is in use; stop the other process (ss -tlpn",
        gateway.metrics_addr()
    );
    refused(&gateway, 69, &who);

    for broker in ["embedded:", "mqtt://127.0.0.1:1"] {
        let config = Config::new().set("broker", &format!("url = \"{broker}\""));
        let first = Gateway::start(config.clone());
        let state = format!("state_dir = {:?}", first.path("state").display().to_string());
        let second = Gateway::prepare(&config.set("node", &state));
        refused(&second, 69, "another process has it open");
        assert!(first.is_ready());
    }
}

#[test]
fn a_port_that_is_taken_at_a_reload_is_shown_where_it_stands() {
    let gateway = Gateway::start(Config::new());
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let bind = format!("bind = \"{}\"", holder.local_addr().unwrap());
    gateway.configure(&Config::new().set("listeners.udp.more", &bind));
    let text = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    let line = 1 + text.lines().position(|line| line == bind).unwrap();
    assert!(!gateway.reloaded());
    gateway.says(&format!("error at line {line}, column 8"));
    gateway.says("the port is in use");
    gateway.assert_serves();
}

#[test]
fn one_that_cannot_be_managed_does_not_say_that_it_is_ready() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = format!("bind = \"{}\"", holder.local_addr().unwrap());
    let gateway = Gateway::prepare(&Config::new().set("admin", &admin));
    let path = gateway.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let output = gateway.command("run").env("NOTIFY_SOCKET", &path).output();
    assert_eq!(output.unwrap().status.code(), Some(69));
    let mut buffer = [0; 4096];
    let mut heard = 0;
    while let Ok(length) = manager.recv(&mut buffer) {
        let told = String::from_utf8_lossy(&buffer[..length]);
        assert!(!told.contains("READY=1"), "{told}");
        heard += 1;
    }
    assert!(heard > 0, "nothing was told at all");
}

#[test]
fn the_log_level_changes_with_a_reload() {
    let level = |level: &str| Config::new().set("log", &format!("level = \"{level}\""));
    let mut gateway = Gateway::start(level("info"));
    assert!(!gateway.log().contains("DEBUG"));
    gateway.configure(&level("debug"));
    assert!(gateway.reloaded());
    gateway.stop();
    assert!(gateway.log().contains("DEBUG"), "{}", gateway.log());
}

#[test]
fn lines_for_the_journal_begin_with_their_priority_and_others_do_not() {
    use std::os::unix::fs::MetadataExt as _;
    for (format, begin) in [("text", "<3>ERROR daemon"), ("json", "<3>{\"")] {
        let config = Config::new().set("log", &format!("format = \"{format}\""));
        let gateway = Gateway::prepare(&config);
        let _holder = UdpSocket::bind(gateway.udp_addr()).unwrap();
        let logged = |stream: &str| {
            let path = gateway.path("log");
            let file = std::fs::File::create(&path).unwrap();
            let stat = file.metadata().unwrap();
            let stream = stream.replace("same", &format!("{}:{}", stat.dev(), stat.ino()));
            let mut command = gateway.command("run");
            command.env("JOURNAL_STREAM", stream).stderr(file);
            assert_eq!(command.status().unwrap().code(), Some(69));
            std::fs::read_to_string(path).unwrap()
        };
        let log = logged("same");
        let good = |line: &str| line.starts_with('<') && line.get(2..3) == Some(">");
        assert!(log.lines().all(good) && log.contains(begin), "{log}");
        let log = logged("8:1");
        assert!(!log.contains("<3>") && log.contains("T"), "{log}");
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let pki = Pki::new();
    for file in ["psk.txt", "server.key"] {
        let gateway = Gateway::prepare(&pki.install(Config::new()));
        gateway.chmod(file, 0o644);
        let output = run(&gateway, "run");
        assert!(!output.status.success(), "{file}");
        let said = stderr(&output);
        assert!(said.contains(file), "{said}");
        assert!(
            said.contains("0600") || said.contains("chmod") || said.contains("others"),
            "{said}"
        );
    }
}

#[test]
fn a_certificate_that_does_not_fit_its_key_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let gateway = Gateway::prepare(&pki.install(Config::new()));
    gateway.write("server.key", &other.server.key_pem());
    let output = run(&gateway, "run");
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(
        said.contains("server.key") || said.contains("server.pem"),
        "{said}"
    );
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

#[test]
fn a_broken_psk_file_is_refused_with_its_line_and_without_its_key() {
    let gateway = Gateway::prepare(&Config::new());
    gateway.write(
        "psk.txt",
        b"good:00112233445566778899aabbccddeeff\nbad:5ecre7key\n",
    );
    let output = run(&gateway, "run");
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains("psk.txt") && said.contains('2'), "{said}");
    assert!(
        !said.contains("5ecre7key") && !said.contains("00112233"),
        "{said}"
    );
}

#[test]
fn it_starts_and_stops_without_waiting_for_a_timer() {
    let begin = Instant::now();
    let mut gateway = Gateway::start(Config::new());
    let started = begin.elapsed();
    gateway.assert_serves();
    let begin = Instant::now();
    assert!(gateway.stop().success());
    let stopped = begin.elapsed();
    assert!(
        started < ms(10_000) && stopped < ms(10_000),
        "started in {started:?}, stopped in {stopped:?}"
    );
}

#[test]
fn clients_come_back_after_a_restart() {
    let mut gateway = Gateway::start(Config::new());
    let mut plain = gateway.client(Kind::Udp);
    plain.publish("ps/a", "x");
    assert!(gateway.stop().success());
    gateway.launch();
    plain.publish("ps/a", "y");
    let observation = plain.observe("ps/a");
    plain.publish("ps/a", "z");
    assert_eq!(plain.notification(&observation.token).text(), "z");
}

#[test]
fn psk_add_list_and_remove_change_the_file() {
    let gateway = Gateway::prepare(&Config::new());
    let psk = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("psk")
            .args(arguments)
            .arg("--config")
            .arg(gateway.path("portcullis.toml"))
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output),
        )
    };
    let (good, added) = psk(&["add", "sensor-1"]);
    assert!(good, "{added}");
    assert!(
        added.contains("coap-client") && added.contains("sensor-1"),
        "{added}"
    );
    let file = std::fs::read_to_string(gateway.path("psk.txt")).unwrap();
    assert_eq!(file.lines().count(), 5);
    let key = file
        .lines()
        .find_map(|line| line.strip_prefix("sensor-1:"))
        .unwrap();
    assert!(key.len() >= 32, "at least 128 bits");
    let (good, listed) = psk(&["list"]);
    assert!(
        good && listed.contains("sensor-1") && listed.contains("dev1"),
        "{listed}"
    );
    assert!(!listed.contains(key), "keys are not listed");
    let (good, said) = psk(&["add", "sensor-1"]);
    assert!(!good, "an identity that is there is not overwritten: {said}");
    let (good, said) = psk(&["remove", "sensor-1"]);
    assert!(good, "{said}");
    let (_, listed) = psk(&["list"]);
    assert!(!listed.contains("sensor-1"), "{listed}");
    let (good, _) = psk(&["remove", "sensor-1"]);
    assert!(!good, "it is not there any more");
}

#[test]
fn a_key_added_on_the_command_line_opens_the_door() {
    let gateway = Gateway::prepare(&Config::new());
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["psk", "add", "sensor-1", "--config"])
        .arg(gateway.path("portcullis.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let file = std::fs::read_to_string(gateway.path("psk.txt")).unwrap();
    let key = file
        .lines()
        .find_map(|line| line.strip_prefix("sensor-1:"))
        .unwrap()
        .to_owned();
    let key: Vec<u8> = (0..key.len() / 2)
        .map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let mut gateway = gateway;
    gateway.launch();
    let options = crate::support::dtls::Options::psk("sensor-1", &key);
    Client::dtls(gateway.dtls_addr(), &options).publish("ps/a", "x");
}
