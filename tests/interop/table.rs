//! DTLS stacks by suite and credentials, one CoAP exchange each; the result is the table of `docs/interop.md`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::gateway::hex;
use crate::support::{Config, Gateway, Request, code, psk_of};
use crate::tool::{gateway, home, run, start};

/// How a client proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Psk,
    Server,
    Mutual,
}

impl Proof {
    const fn shown(self) -> &'static str {
        match self {
            Self::Psk => "PSK",
            Self::Server => "server certificate",
            Self::Mutual => "certificates both ways",
        }
    }
}

/// One line of the table.
struct Row {
    client: &'static str,
    proof: Proof,
    /// As the client names it; empty where the client chooses.
    suite: &'static str,
    exchange: Exchange,
}

/// Without a suite each offers its own list, certificates first.
#[test]
fn a_device_with_a_key_is_known_by_it_whatever_else_its_stack_offers() {
    for verify in ["none", "optional", "required"] {
        let lines = format!("identity = \"clientid\"\nverify = \"{verify}\"");
        let gateway = gateway(Config::new().connection_mode().dtls(&lines));
        for (client, exchange) in [
            (OPENSSL, s_client as Exchange),
            (MBEDTLS, mbedtls),
            (WOLFSSL, wolfssl),
        ] {
            // Without an identity the publish would get 4.00.
            let result = exchange(&gateway, gateway.dtls_addr().port(), Proof::Psk, "");
            assert!(result.is_ok(), "{client}, {verify}: {result:?}");
        }
    }
}

pub const OPENSSL_LIBCOAP: &str = "coap-client-openssl (OpenSSL)";
pub const GNUTLS_LIBCOAP: &str = "coap-client-gnutls (GnuTLS)";
const OPENSSL: &str = "openssl s_client (OpenSSL)";
const GNUTLS: &str = "gnutls-cli (GnuTLS)";
pub const MBEDTLS: &str = "Mbed TLS";
const WOLFSSL: &str = "wolfSSL";

type Exchange = fn(&Gateway, u16, Proof, &str) -> Result<(), String>;

const TRIALS: &[(&str, Exchange, Proof, &[&str])] = &[
    (OPENSSL_LIBCOAP, libcoap::<true>, Proof::Psk, &[""]),
    (OPENSSL_LIBCOAP, libcoap::<true>, Proof::Server, &[""]),
    (OPENSSL_LIBCOAP, libcoap::<true>, Proof::Mutual, &[""]),
    (GNUTLS_LIBCOAP, libcoap::<false>, Proof::Psk, &[""]),
    (GNUTLS_LIBCOAP, libcoap::<false>, Proof::Server, &[""]),
    (GNUTLS_LIBCOAP, libcoap::<false>, Proof::Mutual, &[""]),
    (
        "aiocoap (tinydtls)",
        aiocoap,
        Proof::Psk,
        &["TLS_PSK_WITH_AES_128_CCM_8"],
    ),
    (
        OPENSSL,
        s_client,
        Proof::Psk,
        &[
            "PSK-AES128-CCM8",
            "PSK-AES128-CCM",
            "PSK-AES128-GCM-SHA256",
            "PSK-CHACHA20-POLY1305",
            "ECDHE-PSK-CHACHA20-POLY1305",
            "PSK-AES256-CCM8",
            "PSK-AES256-CCM",
            "PSK-AES256-GCM-SHA384",
            "PSK-AES128-CBC-SHA256",
            "ECDHE-PSK-AES128-CBC-SHA256",
        ],
    ),
    (
        OPENSSL,
        s_client,
        Proof::Server,
        &[
            "ECDHE-ECDSA-AES128-SHA256",
            "ECDHE-ECDSA-AES256-CCM8",
            "ECDHE-ECDSA-AES256-CCM",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-CCM8",
            "ECDHE-ECDSA-AES128-CCM",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ],
    ),
    (OPENSSL, s_client, Proof::Mutual, &["ECDHE-ECDSA-AES128-CCM8"]),
    // Debian's gnutls-cli itself dies in ECDHE-PSK.
    (
        GNUTLS,
        gnutls_cli,
        Proof::Psk,
        &[
            "+PSK:+AES-128-CCM-8",
            "+PSK:+AES-128-CCM",
            "+PSK:+AES-128-GCM",
            "+PSK:+CHACHA20-POLY1305",
            "+PSK:+AES-256-CCM-8",
            "+PSK:+AES-256-CCM",
            "+PSK:+AES-256-GCM",
            "+PSK:+AES-128-CBC:+SHA256",
        ],
    ),
    (
        GNUTLS,
        gnutls_cli,
        Proof::Server,
        &[
            "+ECDHE-ECDSA:+AES-128-CCM-8",
            "+ECDHE-ECDSA:+AES-128-CCM",
            "+ECDHE-ECDSA:+AES-128-GCM",
            "+ECDHE-ECDSA:+AES-256-CCM-8",
            "+ECDHE-ECDSA:+AES-256-GCM",
            "+ECDHE-ECDSA:+AES-128-CBC:+SHA256",
        ],
    ),
    (
        GNUTLS,
        gnutls_cli,
        Proof::Mutual,
        &["+ECDHE-ECDSA:+AES-128-CCM-8"],
    ),
    (
        MBEDTLS,
        mbedtls,
        Proof::Psk,
        &[
            "TLS-PSK-WITH-AES-128-CCM-8",
            "TLS-PSK-WITH-AES-128-GCM-SHA256",
            "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256",
            "TLS-PSK-WITH-AES-256-CCM-8",
            "TLS-PSK-WITH-AES-256-GCM-SHA384",
            "TLS-PSK-WITH-AES-128-CBC-SHA256",
            "TLS-ECDHE-PSK-WITH-AES-128-CBC-SHA256",
        ],
    ),
    (
        MBEDTLS,
        mbedtls,
        Proof::Server,
        &[
            "TLS-ECDHE-ECDSA-WITH-AES-128-CCM-8",
            "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
            "TLS-ECDHE-ECDSA-WITH-AES-256-CCM",
            "TLS-ECDHE-ECDSA-WITH-AES-128-CBC-SHA256",
        ],
    ),
    (
        MBEDTLS,
        mbedtls,
        Proof::Mutual,
        &["TLS-ECDHE-ECDSA-WITH-AES-128-CCM-8"],
    ),
    // Debian's library itself refuses the names of its PSK suites with AES.
    (
        WOLFSSL,
        wolfssl,
        Proof::Psk,
        &[
            "PSK-CHACHA20-POLY1305",
            "ECDHE-PSK-CHACHA20-POLY1305",
            "ECDHE-PSK-AES128-CBC-SHA256",
        ],
    ),
    (
        WOLFSSL,
        wolfssl,
        Proof::Server,
        &[
            "ECDHE-ECDSA-AES128-CCM-8",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-SHA256",
        ],
    ),
    (WOLFSSL, wolfssl, Proof::Mutual, &["ECDHE-ECDSA-AES128-CCM-8"]),
    (
        "node-dtls-client",
        node,
        Proof::Psk,
        &["TLS_PSK_WITH_AES_128_CCM_8", "TLS_PSK_WITH_AES_128_GCM_SHA256"],
    ),
];

fn rows() -> Vec<Row> {
    let rows_of = |(client, exchange, proof, suites): &(&'static str, Exchange, Proof, &[&'static str])| {
        let row = |suite: &&'static str| Row {
            client,
            proof: *proof,
            suite,
            exchange: *exchange,
        };
        suites.iter().map(row).collect::<Vec<Row>>()
    };
    TRIALS.iter().flat_map(rows_of).collect()
}

/// One exchange of a client by its own choice of suites, with a key, through what forwards `port` to the gateway.
pub fn exchange_by_psk(client: &str, gateway: &Gateway, port: u16) -> Result<(), String> {
    let (_, exchange, ..) = TRIALS.iter().find(|(name, ..)| *name == client).unwrap();
    exchange(gateway, port, Proof::Psk, "")
}

/// A publish as bytes that a line-oriented tool can carry: no NUL, and a line break at its end only.
fn request() -> Vec<u8> {
    let request = Request::put("ps/t").payload("x\n");
    let message = crate::support::Message {
        typ: request.typ,
        code: request.code,
        id: 0x7d34,
        token: b"abcd".to_vec(),
        options: request.options,
        payload: request.payload,
    };
    message.encode()
}

/// Whether the answer to [`request`] stands in what a tool printed.
fn answered(printed: &[u8]) -> bool {
    let head = [0x64, code::CHANGED, 0x7d, 0x34, b'a', b'b', b'c', b'd'];
    printed.windows(head.len()).any(|window| window == head)
}

/// Runs a tool that carries bytes both ways, until the answer is there.
pub fn carry(command: Command) -> Result<(), String> {
    let done = start(command, &request()).until(Duration::from_secs(15), answered);
    if answered(&done.stdout) {
        return Ok(());
    }
    Err(format!("no answer: {}{}", done.text(), done.stderr))
}

fn s_client(gateway: &Gateway, port: u16, proof: Proof, suite: &str) -> Result<(), String> {
    let mut command = Command::new("openssl");
    command
        .current_dir(gateway.directory())
        .args([
            "s_client",
            "-dtls1_2",
            "-quiet",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .args(if suite.is_empty() {
            vec![]
        } else {
            vec!["-cipher".into(), format!("{suite}:@SECLEVEL=0")]
        });
    if proof == Proof::Psk {
        command.args(["-psk", &hex(psk_of("dev1").as_bytes()), "-psk_identity", "dev1"]);
    } else {
        command.args(["-CAfile", "ca.pem", "-verify_return_error"]);
    }
    if proof == Proof::Mutual {
        command.args(["-cert", "client.pem", "-key", "client.key"]);
    }
    carry(command)
}

fn gnutls_cli(gateway: &Gateway, port: u16, proof: Proof, suite: &str) -> Result<(), String> {
    let (exchange, cipher) = suite.split_once(':').unwrap();
    let priority = format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:{exchange}:-CIPHER-ALL:{cipher}");
    let mut command = Command::new("gnutls-cli");
    command.current_dir(gateway.directory()).args([
        "--udp",
        "-p",
        &port.to_string(),
        "--priority",
        &priority,
    ]);
    if proof == Proof::Psk {
        command.args([
            "--pskusername",
            "dev1",
            "--pskkey",
            &hex(psk_of("dev1").as_bytes()),
        ]);
    } else {
        command.args(["--x509cafile", "ca.pem"]);
    }
    if proof == Proof::Mutual {
        command.args(["--x509certfile", "client.pem", "--x509keyfile", "client.key"]);
    }
    command.arg("127.0.0.1");
    carry(command)
}

/// How the small clients of this folder are told to prove themselves.
fn proof_arguments(proof: Proof) -> Vec<String> {
    match proof {
        Proof::Psk => vec!["psk".into(), "dev1".into(), psk_of("dev1")],
        Proof::Server => vec!["server".into(), "ca.pem".into()],
        Proof::Mutual => ["mutual", "ca.pem", "client.pem", "client.key"]
            .map(String::from)
            .to_vec(),
    }
}

fn mbedtls(gateway: &Gateway, port: u16, proof: Proof, suite: &str) -> Result<(), String> {
    let mut command = Command::new(home().join("mbedtls_client"));
    command
        .current_dir(gateway.directory())
        .args(["127.0.0.1", &port.to_string(), suite])
        .args(proof_arguments(proof));
    carry(command)
}

fn wolfssl(gateway: &Gateway, port: u16, proof: Proof, suite: &str) -> Result<(), String> {
    let mut command = Command::new(home().join("wolfssl_client"));
    command
        .current_dir(gateway.directory())
        .args(["127.0.0.1", &port.to_string(), suite])
        .args(proof_arguments(proof));
    carry(command)
}

fn node(_: &Gateway, port: u16, _: Proof, suite: &str) -> Result<(), String> {
    let mut command = Command::new("node");
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/interop/node_client.js"
        ))
        .arg(home().join("node"))
        .args(["127.0.0.1", &port.to_string(), suite, "dev1", &psk_of("dev1")]);
    carry(command)
}

fn libcoap<const OPENSSL: bool>(gateway: &Gateway, port: u16, proof: Proof, _: &str) -> Result<(), String> {
    let mut command = Command::new(if OPENSSL {
        "coap-client-openssl"
    } else {
        "coap-client-gnutls"
    });
    command
        .current_dir(gateway.directory())
        .args(["-B", "10", "-m", "put", "-e", "x"]);
    match proof {
        Proof::Psk => drop(command.args(["-u", "dev1", "-k", &psk_of("dev1")])),
        Proof::Server => drop(command.args(["-C", "ca.pem"])),
        Proof::Mutual => drop(command.args(["-C", "ca.pem", "-c", "client.pem", "-j", "client.key"])),
    }
    command.arg(format!("coaps://127.0.0.1:{}/ps/t", port));
    let done = run(command);
    let quiet = done.stdout.is_empty() && done.stderr.is_empty();
    if done.code == Some(0) && quiet {
        Ok(())
    } else {
        Err(format!("{done:?}"))
    }
}

fn aiocoap(_: &Gateway, port: u16, _: Proof, _: &str) -> Result<(), String> {
    let mut command = Command::new(home().join("venv/bin/python"));
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/interop/aiocoap_client.py"
        ))
        .arg(format!("coaps://127.0.0.1:{}", port))
        .args(["dev1", &psk_of("dev1")]);
    let done = start(command, b"").wait(Duration::from_secs(60));
    if done.text().ends_with("all good\n") {
        Ok(())
    } else {
        Err(format!("{done:?}"))
    }
}

/// Runs the rows, a few at a time; what went wrong with each.
fn results(gateway: &Gateway, rows: &[Row]) -> Vec<Result<(), String>> {
    let results: Vec<Mutex<Result<(), String>>> = rows.iter().map(|_| Mutex::new(Ok(()))).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = rows.get(at) else { return };
                    *results[at].lock().unwrap() =
                        (row.exchange)(gateway, gateway.dtls_addr().port(), row.proof, row.suite);
                }
            });
        }
    });
    results
        .into_iter()
        .map(|result| result.into_inner().unwrap())
        .collect()
}

fn table(rows: &[Row], results: &[Result<(), String>]) -> String {
    let mut table = String::from("| client | credentials | suite | result |\n|---|---|---|---|\n");
    for (row, result) in rows.iter().zip(results) {
        let suite = match row.suite {
            "" => "its own choice".to_owned(),
            suite => format!("`{suite}`"),
        };
        let result = if result.is_ok() { "ok" } else { "FAILED" };
        writeln!(
            table,
            "| {} | {} | {suite} | {result} |",
            row.client,
            row.proof.shown()
        )
        .unwrap();
    }
    table
}

#[test]
fn every_dtls_stack_is_served_and_the_table_says_so() {
    let gateway = gateway(Config::new().dtls("legacy_cbc = true"));
    let rows = rows();
    let results = results(&gateway, &rows);
    let table = table(&rows, &results);
    for (row, result) in rows.iter().zip(&results) {
        if let Err(e) = result {
            eprintln!("{} {:?} {}: {e}", row.client, row.proof, row.suite);
        }
    }
    assert!(results.iter().all(Result::is_ok), "{table}");
    gateway.assert_serves();

    write_page("table", &table);
}

/// Compares what stands between two marks of `docs/interop.md` with what a run showed, or writes it.
pub fn write_page(mark: &str, table: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/interop.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (start, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
    let (before, rest) = text.split_once(&start).unwrap();
    let (have, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, format!("{before}{start}{table}{end}{after}")).unwrap();
        return;
    }
    assert!(
        have == table,
        "docs/interop.md is not what this run shows; UPDATE_DOCS=1 writes it:\n{table}"
    );
}
