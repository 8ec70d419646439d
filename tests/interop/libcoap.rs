//! libcoap's client, built on OpenSSL and on GnuTLS, plain and over DTLS.

use std::process::Command;
use std::time::Duration;

use crate::support::{Config, Gateway, ms, ports, psk_of, wait_until};
use crate::tool::{Done, Running, gateway, run, start};

/// One way to call the client: which build, and with what proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    program: &'static str,
    proof: Proof,
    /// Over TCP or TLS.
    stream: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Plain,
    Psk,
    ServerCertificate,
    ClientCertificate,
}

const PROGRAMS: [&str; 2] = ["coap-client-openssl", "coap-client-gnutls"];

impl Way {
    /// The command with `arguments`, then the URI of `path`.
    fn command(self, gateway: &Gateway, arguments: &[&str], path: &str) -> Command {
        self.command_as("dev1", gateway, arguments, path)
    }

    fn command_as(self, identity: &str, gateway: &Gateway, arguments: &[&str], path: &str) -> Command {
        let mut command = Command::new(self.program);
        command
            .current_dir(gateway.directory())
            .args(["-B", "10", "-w"])
            .args(arguments);
        match self.proof {
            Proof::Plain => {}
            Proof::Psk => drop(command.args(["-u", identity, "-k", &psk_of(identity)])),
            Proof::ServerCertificate => drop(command.args(["-C", "ca.pem"])),
            Proof::ClientCertificate => {
                command.args(["-c", "client.pem", "-j", "client.key", "-C", "ca.pem"]);
            }
        }
        let tcp = if self.stream { "+tcp" } else { "" };
        let base = match self.proof {
            Proof::Plain => format!("coap{tcp}://127.0.0.1:{}", gateway.udp_addr().port()),
            _ => format!("coaps{tcp}://127.0.0.1:{}", gateway.dtls_addr().port()),
        };
        command.arg(format!("{base}/{path}"));
        command
    }

    #[track_caller]
    fn run(self, gateway: &Gateway, arguments: &[&str], path: &str) -> Done {
        let done = run(self.command(gateway, arguments, path));
        assert_eq!(done.code, Some(0), "{self:?} {arguments:?} {path}: {done:?}");
        done
    }

    /// A publish; panics unless it worked.
    #[track_caller]
    fn put(self, gateway: &Gateway, path: &str, payload: &str) {
        let done = self.run(gateway, &["-m", "put", "-e", payload], path);
        assert_eq!((done.text().trim(), done.stderr.trim()), ("", ""), "{self:?}");
    }

    #[track_caller]
    fn get(self, gateway: &Gateway, path: &str) -> String {
        self.run(gateway, &["-m", "get"], path).text().trim().to_owned()
    }

    /// An observer for so many seconds, once it is known to the gateway.
    fn observe(self, gateway: &Gateway, seconds: u32, arguments: &[&str], path: &str) -> Running {
        let before = gateway.metric("subscriptions", &[]);
        let seconds = seconds.to_string();
        let arguments = [&["-m", "get", "-s", &seconds], arguments].concat();
        let running = start(self.command(gateway, &arguments, path), b"");
        wait_until("it observes", || gateway.metric("subscriptions", &[]) > before);
        running
    }
}

macro_rules! each_way {
    ($($test:ident),+ $(,)?) => {
        each_way!(@ openssl_plain, 0, Plain, false, $($test),+);
        each_way!(@ openssl_psk, 0, Psk, false, $($test),+);
        each_way!(@ openssl_certificate, 0, ServerCertificate, false, $($test),+);
        each_way!(@ openssl_client_certificate, 0, ClientCertificate, false, $($test),+);
        each_way!(@ gnutls_plain, 1, Plain, false, $($test),+);
        each_way!(@ gnutls_psk, 1, Psk, false, $($test),+);
        each_way!(@ gnutls_certificate, 1, ServerCertificate, false, $($test),+);
        each_way!(@ gnutls_client_certificate, 1, ClientCertificate, false, $($test),+);
        each_way!(@ openssl_tcp, 0, Plain, true, $($test),+);
        each_way!(@ openssl_tls_psk, 0, Psk, true, $($test),+);
        each_way!(@ openssl_tls_client_certificate, 0, ClientCertificate, true, $($test),+);
        each_way!(@ gnutls_tcp, 1, Plain, true, $($test),+);
        each_way!(@ gnutls_tls_psk, 1, Psk, true, $($test),+);
        each_way!(@ gnutls_tls_client_certificate, 1, ClientCertificate, true, $($test),+);
    };
    (@ $way:ident, $program:literal, $proof:ident, $stream:literal, $($test:ident),+) => {
        mod $way {
            use super::{Proof, PROGRAMS, Way};
            $(#[test] fn $test() {
                super::$test(Way { program: PROGRAMS[$program], proof: Proof::$proof, stream: $stream });
            })+
        }
    };
}

each_way!(
    publish_read_and_clear,
    an_error_is_shown,
    a_request_that_is_meant_now,
    observe_and_stop,
    blocks_both_ways,
    a_long_notification_arrives_whole,
    connection_mode_over_separate_runs,
);

fn publish_read_and_clear(way: Way) {
    let gateway = gateway(Config::new());
    way.put(&gateway, "ps/coap/test?retain=true", "hello");
    assert_eq!(way.get(&gateway, "ps/coap/test"), "hello");
    way.run(
        &gateway,
        &["-m", "post", "-e", "posted"],
        "mqtt/coap/test?retain=true&qos=2",
    );
    assert_eq!(way.get(&gateway, "ps/coap/test"), "posted");
    way.run(&gateway, &["-N", "-m", "post", "-e", "non"], "ps/coap/test?r=1");
    wait_until("the NON publish is there", || {
        way.get(&gateway, "ps/coap/test") == "non"
    });
    let core = way.get(&gateway, ".well-known/core");
    assert!(core.contains("rt=\"core.ps\""), "{core}");
    way.run(&gateway, &["-m", "delete"], "ps/coap/test");
    assert!(
        way.run(&gateway, &["-m", "get"], "ps/coap/test")
            .stderr
            .contains("4.04")
    );
    gateway.assert_serves();
}

fn an_error_is_shown(way: Way) {
    let gateway = gateway(Config::new());
    let done = way.run(&gateway, &["-m", "put", "-e", "x"], "ps/a?qos=abc");
    assert!(
        done.stderr.contains("4.00") && done.stderr.contains("qos"),
        "{done:?}"
    );
}

fn a_request_that_is_meant_now(way: Way) {
    let gateway = gateway(Config::new());
    // The client repeats it with the Echo value by itself.
    way.put(&gateway, "ps/valve?fresh=1&retain=1", "open");
    assert_eq!(way.get(&gateway, "ps/valve"), "open");
    gateway.metric_becomes("stale_requests_total", &[], 1.0);
}

fn observe_and_stop(way: Way) {
    let gateway = gateway(Config::new());
    way.put(&gateway, "ps/o/kept?retain=1", "kept");
    for non in [&[][..], &["-N"]] {
        let observer = way.observe(&gateway, 3, non, "ps/o/kept");
        for payload in ["one", "two", "three"] {
            way.put(&gateway, "ps/o/kept", payload);
        }
        let done = observer.wait(Duration::from_secs(10));
        let got = done.text();
        assert_eq!(
            got.split_whitespace().collect::<Vec<_>>(),
            ["kept", "one", "two", "three"],
            "{done:?}"
        );
        // It unsubscribes on its way out.
        wait_until("it is gone", || gateway.metric("subscriptions", &[]) == 0.0);
    }
}

#[test]
fn observers_go_on_over_a_power_loss_and_do_not_shake_hands() {
    for (program, suite) in PROGRAMS
        .into_iter()
        .flat_map(|program| ["PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256"].map(|suite| (program, suite)))
    {
        // OpenSSL takes CCM_8 for weak since 3.2, and its clients offer it no more.
        if program == "coap-client-openssl"
            && suite.ends_with("CCM8")
            && openssl::version::number() >= 0x3020_0000
        {
            continue;
        }
        let way = Way {
            program,
            proof: Proof::Psk,
            stream: false,
        };
        let config = Config::new().set("state", "keep = \"disk\"");
        let mut gateway = gateway(config.dtls(&format!("ciphers = \"{suite}\"")));
        let observer = way.observe(&gateway, 15, &[], "ps/o/over");
        // The session and what it observes.
        gateway.metric_becomes("state_disk_records", &[], 2.0);
        gateway.lose_power();
        gateway.launch();
        for payload in ["one", "two"] {
            way.put(&gateway, "ps/o/over", payload);
        }
        let done = observer.wait(Duration::from_secs(30));
        let got = done.text();
        assert_eq!(
            got.split_whitespace().collect::<Vec<_>>(),
            ["one", "two"],
            "{done:?}"
        );
        let publishers = 2.0;
        assert_eq!(
            gateway.metric("dtls_handshakes_total", &[]),
            publishers,
            "{way:?} {suite}"
        );
        let labels = ["how=\"disk\"", "result=\"ok\""];
        gateway.metric_becomes("sessions_restored_total", &labels, 1.0);
    }
}

fn blocks_both_ways(way: Way) {
    let gateway = gateway(Config::new());
    let body: String = (0..700).map(|i| format!("{i:05}, ")).collect();
    gateway.write("body", body.as_bytes());
    for size in ["16", "64", "1024"] {
        let path = format!("ps/b/{size}?retain=1");
        let done = way.run(&gateway, &["-b", size, "-m", "put", "-f", "body"], &path);
        assert_eq!(done.stderr, "", "{done:?}");
        let got = way.run(&gateway, &["-b", size, "-m", "get"], &path).text();
        assert_eq!(got.trim_end_matches('\n'), body, "-b {size}");
        let got = way.run(&gateway, &["-m", "get"], &path).text();
        assert_eq!(got.trim_end_matches('\n'), body, "-b {size}, read without");
    }
    // Without -b the client splits by itself what does not fit a datagram.
    let done = way.run(&gateway, &["-m", "put", "-f", "body"], "ps/b/free?retain=1");
    assert_eq!(done.stderr, "", "{done:?}");
    assert_eq!(
        way.run(&gateway, &["-m", "get"], "ps/b/free")
            .text()
            .trim_end_matches('\n'),
        body
    );
}

fn a_long_notification_arrives_whole(way: Way) {
    let gateway = gateway(Config::new());
    let body: String = (0..500).map(|i| format!("{i:05}, ")).collect();
    gateway.write("body", body.as_bytes());
    let observer = way.observe(&gateway, 3, &[], "ps/long");
    way.run(&gateway, &["-m", "put", "-f", "body"], "ps/long");
    let done = observer.wait(Duration::from_secs(10));
    assert_eq!(done.text().trim(), body.trim(), "{}", done.stderr);
}

fn connection_mode_over_separate_runs(way: Way) {
    let gateway = gateway(Config::new().connection_mode());
    let token = way
        .run(
            &gateway,
            &["-m", "post", "-e", ""],
            "mqtt/connection?clientid=123&username=admin&password=public",
        )
        .text()
        .trim()
        .to_owned();
    assert!(token.len() >= 22, "{token}");
    let pair = format!("clientid=123&token={token}");
    way.run(
        &gateway,
        &["-m", "put", "-e", ""],
        &format!("mqtt/connection?{pair}"),
    );
    way.put(&gateway, &format!("ps/coap/test?{pair}&retain=true"), "hello");
    assert_eq!(way.get(&gateway, &format!("ps/coap/test?{pair}")), "hello");
    let done = way.run(
        &gateway,
        &["-m", "put", "-e", "x"],
        &format!("ps/coap/test&{pair}"),
    );
    assert!(
        done.stderr.contains("4.00") && done.stderr.contains('?'),
        "{done:?}"
    );
    let done = way.run(&gateway, &["-m", "delete"], &format!("mqtt/connection?{pair}"));
    assert_eq!(done.stderr, "", "{done:?}");
    let done = way.run(
        &gateway,
        &["-m", "put", "-e", ""],
        &format!("mqtt/connection?{pair}"),
    );
    assert!(done.stderr.contains("4.01"), "{done:?}");
}

#[test]
fn a_wrong_key_is_refused_and_the_right_one_served() {
    let gateway = gateway(Config::new().dtls("handshake_timeout = \"2s\""));
    for program in PROGRAMS {
        let way = Way {
            program,
            proof: Proof::Psk,
            stream: false,
        };
        let url = format!("coaps://127.0.0.1:{}/ps/a", gateway.dtls_addr().port());
        let mut wrong = Command::new(program);
        wrong.args([
            "-B",
            "2",
            "-u",
            "dev1",
            "-k",
            "not-the-right-key",
            "-m",
            "put",
            "-e",
            "x",
            &format!("{url}?retain=1"),
        ]);
        start(wrong, b"").wait(Duration::from_secs(4));
        assert!(
            way.run(&gateway, &["-m", "get"], "ps/a").stderr.contains("4.04"),
            "nothing came through"
        );
        way.put(&gateway, "ps/a?retain=1", program);
        assert_eq!(way.get(&gateway, "ps/a"), program);
        way.run(&gateway, &["-m", "delete"], "ps/a");
    }
}

#[test]
fn a_lossy_client_gets_through() {
    let gateway = gateway(Config::new());
    for program in PROGRAMS {
        for proof in [Proof::Plain, Proof::Psk] {
            let way = Way {
                program,
                proof,
                stream: false,
            };
            // Its second and fourth datagram are lost.
            let done = way.run(&gateway, &["-l", "2,4", "-m", "put", "-e", "x"], "ps/l?retain=1");
            assert_eq!(done.stderr.trim(), "", "{way:?}");
            assert_eq!(way.get(&gateway, "ps/l"), "x");
        }
    }
}

#[test]
fn observers_of_both_builds_and_transports_see_the_same() {
    let gateway = gateway(Config::new());
    let ways: Vec<Way> = PROGRAMS
        .iter()
        .flat_map(|program| {
            let kinds = [
                (Proof::Plain, false),
                (Proof::Psk, false),
                (Proof::Plain, true),
                (Proof::Psk, true),
            ];
            kinds.map(|(proof, stream)| Way {
                program,
                proof,
                stream,
            })
        })
        .collect();
    let observers: Vec<Running> = ways
        .iter()
        .map(|way| way.observe(&gateway, 5, &[], "ps/all"))
        .collect();
    for way in &ways {
        way.put(&gateway, "ps/all", &format!("{}-{:?}", way.program, way.proof));
    }
    for (way, observer) in ways.iter().zip(observers) {
        let done = observer.wait(Duration::from_secs(15));
        assert_eq!(
            done.text().split_whitespace().count(),
            ways.len(),
            "{way:?}: {done:?}"
        );
    }
    std::thread::sleep(ms(1));
}

#[test]
fn both_builds_are_served_over_ipv6() {
    let port = ports::reserve();
    let keys = "psk_file = \"psk.txt\"\ncert_file = \"server.pem\"\nkey_file = \"server.key\"\n\
                ca_file = \"ca.pem\"\nverify = \"optional\"";
    let config = Config::new().set(
        "listeners.dtls.six",
        &format!("bind = \"[::1]:{}\"\n{keys}", port.number),
    );
    let gateway = gateway(config);
    let base = format!("coaps://[::1]:{}", port.number);
    let key = psk_of("dev2");
    let proofs: [&[&str]; 3] = [
        &["-u", "dev2", "-k", &key],
        &["-C", "ca.pem"],
        &["-c", "client.pem", "-j", "client.key", "-C", "ca.pem"],
    ];
    for program in PROGRAMS {
        for proof in proofs {
            let call = |arguments: &[&str]| {
                let mut command = Command::new(program);
                command
                    .current_dir(gateway.directory())
                    .args(["-B", "10", "-w"])
                    .args(proof)
                    .args(arguments)
                    .arg(format!("{base}/ps/six?retain=1"));
                let done = run(command);
                assert_eq!(
                    (done.code, done.stderr.trim()),
                    (Some(0), ""),
                    "{program} {proof:?}: {done:?}"
                );
                done.text().trim().to_owned()
            };
            let payload = format!("{program} {}", proof.len());
            call(&["-m", "put", "-e", &payload]);
            assert_eq!(call(&["-m", "get"]), payload);
        }
    }
    let handshakes = gateway.metric("dtls_handshakes_total", &["listener=\"six\"", "result=\"ok\""]);
    assert!(handshakes >= 12.0, "{}", gateway.metrics());
}
