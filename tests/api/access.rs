//! Who may do what.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use portcullis::config::tokens::{Role, Token};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::PLAIN;
use crate::http::{TOKEN, ask, get, send};
use crate::site::Served;
use crate::support::wait_until;

const ADMIN: &str = "0123456789abcdef-admin";
const READER: &str = "0123456789abcdef-reader";

fn guarded() -> Served {
    let config = format!("{PLAIN}[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"tokens\"\n");
    let tokens = format!("readonly:{READER}\n{ADMIN}\n");
    Served::with_files(&config, &[("tokens", &tokens)])
}

fn with_token(served: &Served, method: &str, path: &str, token: &str) -> crate::http::Answer {
    let bearer = format!("Bearer {token}");
    ask(served.address, method, path, &[("Authorization", &bearer)], b"")
}

#[test]
fn without_the_token_nothing_is_told() {
    let served = guarded();
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/openapi.json"),
        ("POST", "/api/v1/reload"),
        ("GET", "/api/v1/nothing"),
    ] {
        let answer = ask(served.address, method, path, &[], b"");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        answer.error(401, "unauthorized");
        for wrong in [
            "",
            "x",
            &ADMIN[1..],
            &format!("{ADMIN}x"),
            &format!("admin:{ADMIN}"),
        ] {
            with_token(&served, method, path, wrong).error(401, "unauthorized");
        }
    }
    let basic = [("Authorization", "Basic MDEyMzQ1Njc4OWFiY2RlZi1hZG1pbg==")];
    ask(served.address, "GET", "/api/v1/status", &basic, b"").error(401, "unauthorized");
}

#[test]
fn a_reader_reads_and_changes_nothing() {
    let served = guarded();
    with_token(&served, "GET", "/api/v1/status", READER).expect(200);
    with_token(&served, "GET", "/api/v1/config", READER).expect(200);
    for (method, path) in [
        ("POST", "/api/v1/reload"),
        ("PUT", "/api/v1/config"),
        ("DELETE", "/api/v1/clients/x"),
        ("POST", "/api/v1/clients/x/request"),
        ("PUT", "/api/v1/listeners/udp/default/enable/false"),
    ] {
        with_token(&served, method, path, READER).error(403, "forbidden");
    }
    assert_eq!(
        with_token(&served, "GET", "/api/v1/listeners", READER).json()[0]["enabled"],
        true
    );
    with_token(&served, "POST", "/api/v1/reload", ADMIN).expect(200);
}

#[test]
fn new_tokens_hold_after_a_reload_and_old_ones_do_not() {
    let served = guarded();
    std::fs::write(served.path("tokens"), "fedcba9876543210-admin\n").unwrap();
    with_token(&served, "GET", "/api/v1/status", ADMIN).expect(200);
    with_token(&served, "POST", "/api/v1/reload", ADMIN).expect(200);
    with_token(&served, "GET", "/api/v1/status", ADMIN).error(401, "unauthorized");
    with_token(&served, "GET", "/api/v1/status", "fedcba9876543210-admin").expect(200);
}

#[test]
fn a_broken_file_of_tokens_keeps_the_old_ones() {
    let served = guarded();
    std::fs::write(served.path("tokens"), "short\n").unwrap();
    let error = with_token(&served, "POST", "/api/v1/reload", ADMIN).error(409, "reload_failed");
    assert!(
        error["message"].as_str().unwrap().contains("at least 16"),
        "{error}"
    );
    with_token(&served, "GET", "/api/v1/status", ADMIN).expect(200);
}

#[test]
fn a_token_makes_any_host_name_good() {
    let served = guarded();
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("Authorization", bearer.as_str()), ("Host", "gateway.example")];
    ask(served.address, "GET", "/api/v1/status", &headers, b"").expect(200);
}

#[test]
fn on_loopback_too_a_token_is_needed() {
    let served = Served::start(PLAIN);
    get(served.address, "/api/v1/status").expect(200);
    let mut plain = TcpStream::connect(served.address).unwrap();
    plain
        .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    get(served.address, "/").expect(200);
}

#[test]
fn the_socket_lets_in_whom_its_mode_lets_in() {
    let served = guarded();
    let path = served.path("admin.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let over = |method: &str, target: &str| {
        let stream = UnixStream::connect(&path).unwrap();
        crate::http::ask_over(stream, "localhost", method, target, &[], b"")
    };
    over("GET", "/api/v1/status").expect(200);
    over("POST", "/api/v1/reload").expect(200);
}

#[test]
fn a_named_token_counts_until_its_end() {
    let soon = SystemTime::now() + Duration::from_secs(3);
    let lines = [
        Token::new("ci", Role::ReadOnly, READER, None).line(),
        Token::new("guest", Role::Admin, ADMIN, Some(soon)).line(),
    ];
    let config = format!("{PLAIN}[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"tokens\"\n");
    let served = Served::with_files(&config, &[("tokens", &lines.join("\n"))]);
    with_token(&served, "GET", "/api/v1/status", READER).expect(200);
    wait_until("the end of the token", || {
        with_token(&served, "GET", "/api/v1/status", ADMIN).status == 401
    });
    with_token(&served, "GET", "/api/v1/status", READER).expect(200);
}

#[test]
fn what_a_form_of_another_site_could_send_is_no_request() {
    let served = Served::start(PLAIN);
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let headers = [("Content-Type", kind)];
        ask(
            served.address,
            "POST",
            "/api/v1/users",
            &headers,
            b"{\"name\":\"a\",\"password\":\"b\"}",
        )
        .error(400, "bad_request");
    }
}

#[test]
fn answers_carry_the_headers_that_browsers_heed() {
    let served = Served::start(PLAIN);
    for path in ["/", "/app.js", "/style.css", "/api/v1/status", "/nothing"] {
        let answer = get(served.address, path);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    assert_eq!(
        get(served.address, "/api/v1/status").header("cache-control"),
        Some("no-store")
    );
}

#[test]
fn the_page_holds_no_inline_code_and_nothing_from_elsewhere() {
    let served = Served::start(PLAIN);
    let page = get(served.address, "/").expect(200).body;
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains(" style="));
    for script in page.split("<script").skip(1) {
        let (tag, rest) = script.split_once('>').unwrap();
        assert!(
            tag.contains("src=\"/") && rest.starts_with("</script>"),
            "{script}"
        );
    }
    // What stands between quotes is the value of an attribute.
    for (at, value) in page.split('"').enumerate().filter(|(at, _)| at % 2 == 1) {
        let name = page.split('"').nth(at - 1).unwrap();
        let name = name.trim_end_matches('=').rsplit([' ', '<']).next().unwrap();
        assert!(!name.starts_with("on") && name != "style", "{name}={value}");
        if matches!(name, "href" | "src") && !value.starts_with('#') {
            get(served.address, value).expect(200);
        }
    }
    let script = get(served.address, "/app.js").expect(200).body;
    for import in script.split(" from \"./").skip(1) {
        let file = import.split('"').next().unwrap();
        let answer = get(served.address, &format!("/{file}")).expect(200);
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/javascript")
        );
    }
}

#[test]
fn nothing_and_wrong_methods_are_said_in_the_form_of_errors() {
    let served = Served::start(PLAIN);
    get(served.address, "/api/v1/nothing").error(404, "not_found");
    get(served.address, "/nothing").error(404, "not_found");
    ask(served.address, "DELETE", "/api/v1/status", &[], b"").error(405, "method_not_allowed");
    ask(served.address, "PATCH", "/api/v1/config", &[], b"").error(405, "method_not_allowed");
}

#[test]
fn a_body_that_is_too_large_or_no_json_is_refused() {
    let served = Served::start(PLAIN);
    let json = [("Content-Type", "application/json")];
    let large = vec![b' '; 3 << 20];
    ask(served.address, "POST", "/api/v1/users", &json, &large).error(413, "too_large");
    ask(served.address, "POST", "/api/v1/users", &json, b"{").error(400, "bad_request");
    ask(served.address, "POST", "/api/v1/users", &json, b"\xff").error(400, "bad_request");
}

#[test]
fn malformed_chunks_are_no_body_that_is_too_large() {
    let served = Served::start(PLAIN);
    for chunks in ["zz\r\n{}", "-1\r\n{}", "2\r\n{}zz"] {
        let mut stream = TcpStream::connect(served.address).unwrap();
        let request = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{chunks:?}: {answer:?}");
    }
}

#[test]
fn clients_that_say_nothing_do_not_lock_out_others() {
    let served = Served::start(PLAIN);
    let silent: Vec<TcpStream> = (0..64)
        .map(|_| TcpStream::connect(served.address).unwrap())
        .collect();
    let mut over = TcpStream::connect(served.address).unwrap();
    drop(over.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let mut answer = Vec::new();
    drop(over.read_to_end(&mut answer));
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    // One of those that say nothing had to go, and no more than one.
    let ended = silent.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        matches!((&mut &**stream).read(&mut [0; 1]), Ok(0))
    });
    assert_eq!(ended.count(), 1);
}

#[test]
fn slow_bodies_and_connections_that_were_answered_do_not_lock_out_others() {
    let served = guarded();
    let head = format!("Host: localhost\r\nAuthorization: Bearer {READER}");
    let idle = format!("GET /api/v1/status HTTP/1.1\r\n{head}\r\n\r\n");
    let slow = format!(
        "POST /api/v1/users HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n\
         Content-Type: application/json\r\nContent-Length: 300000\r\n\r\n{{\"n"
    );
    for (request, answered) in [(idle, true), (slow, false)] {
        let held: Vec<TcpStream> = (0..70)
            .map(|_| {
                let mut stream = TcpStream::connect(served.address).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                if answered {
                    stream.read_exact(&mut [0; 9]).unwrap();
                }
                stream
            })
            .collect();
        with_token(&served, "GET", "/api/v1/status", ADMIN).expect(200);
        drop(held);
    }
}

/// What is logged while a test runs, of every thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one change after the other, each with its line"
)]
fn each_change_leaves_one_line_and_no_secret() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let config = format!(
        "{PLAIN}[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"tokens\"\n\
         [authentication]\nbackend = \"file\"\nfile = \"users\"\n"
    );
    let admin = "audit-0123456789abcdef-audit";
    let tokens = format!("{admin}\nreadonly:audit-reader-0123456789\n");
    let served = Served::with_files(&config, &[("tokens", &tokens), ("users", "")]);
    let bearer = format!("Bearer {admin}");
    let json = [
        ("Content-Type", "application/json"),
        ("Authorization", bearer.as_str()),
    ];
    let body = json!({"name": "audited\nuser", "password": "hunter2-audit"});
    ask(
        served.address,
        "POST",
        "/api/v1/users",
        &json,
        body.to_string().as_bytes(),
    )
    .expect(400);
    let body = json!({"name": "audited-user", "password": "hunter2-audit"});
    ask(
        served.address,
        "POST",
        "/api/v1/users",
        &json,
        body.to_string().as_bytes(),
    )
    .expect(201);
    ask(served.address, "DELETE", "/api/v1/users/audited-user", &json, b"").expect(204);
    ask(served.address, "GET", "/api/v1/users?audit-read", &json, b"").expect(200);
    send(
        served.address,
        "DELETE",
        "/api/v1/users/audited-unknown",
        &json!({}),
    )
    .expect(401);
    let reader = [json[0], ("Authorization", "Bearer audit-reader-0123456789")];
    let body = json!({"name": "audited-by-reader", "password": "hunter2-audit"});
    ask(
        served.address,
        "POST",
        "/api/v1/users",
        &reader,
        body.to_string().as_bytes(),
    )
    .expect(403);
    let body = json!({"authentication": {"file": "hunter2"}, "broker": {"url": "hunter2"}});
    ask(
        served.address,
        "PUT",
        "/api/v1/config",
        &json,
        body.to_string().as_bytes(),
    )
    .expect(400);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("audit: "))
        .filter(|line| line.contains("audited") || line.contains("broker.url"))
        .collect();
    let wanted: [&[&str]; 6] = [
        &[
            "role=\"admin\" token=\"admin-1\"",
            "method=POST",
            "subject=\"audited\\nuser\"",
            "status=400",
        ],
        &[
            "role=\"readonly\" token=\"readonly-2\"",
            "path=\"/api/v1/users\"",
            "subject=\"audited-by-reader\"",
            "status=403",
        ],
        &[
            "role=\"admin\"",
            "path=\"/api/v1/config\"",
            "subject=\"authentication.file, broker.url\"",
            "status=400",
        ],
        &[
            "role=\"admin\"",
            "method=POST",
            "subject=\"audited-user\"",
            "status=201",
        ],
        &[
            "role=\"admin\"",
            "method=DELETE",
            "path=\"/api/v1/users/audited-user\"",
            "status=204",
        ],
        &[
            "role=\"nobody\"",
            "method=DELETE",
            "path=\"/api/v1/users/audited-unknown\"",
            "status=401",
        ],
    ];
    for words in wanted {
        let found = lines
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count();
        assert!(found >= 1, "{words:?} is not in\n{text}");
    }
    assert!(
        lines.iter().all(|line| line.contains("peer=127.0.0.1:")),
        "{text}"
    );
    assert!(!text.contains("hunter2") && !text.contains(admin), "{text}");
    assert!(!text.contains("audit-read"), "reading is no change");
}
