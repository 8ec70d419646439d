//! The HTTP backend against HTTP and HTTPS servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis::auth::metrics::{AuthResult, Backend};
use portcullis::auth::settings::{AuthSettings, BackendSettings, HttpMethod, HttpSettings};
use portcullis::policy::authentication::{DenyReason, IdentityRole, Password, Verdict};
use portcullis::types::{Identity, Proof};
use serde_json::{Value, json};

use super::support::{Server, certificate, judge, request, settings, start};

const REFUSED: Verdict = Verdict::Deny(DenyReason::Refused);

fn http(settings_of: HttpSettings) -> AuthSettings {
    settings(BackendSettings::Http(settings_of))
}

async fn server(answer: impl Fn(&super::support::Got) -> (u16, String) + Send + Sync + 'static) -> Server {
    Server::start(None, Duration::ZERO, answer).await
}

/// Lets in who sends the password `right` as JSON.
fn by_password(got: &super::support::Got) -> (u16, String) {
    let fields: Value = serde_json::from_str(&got.body).unwrap();
    let result = if fields["password"] == "right" {
        "allow"
    } else {
        "deny"
    };
    (200, json!({"result": result, "is_superuser": false}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_decides_and_connections_are_kept() {
    let server = server(by_password).await;
    let mut asking = HttpSettings::new(&format!("http://127.0.0.1:{}/auth/${{username}}", server.port));
    asking.headers = [("Content-Type", "application/json"), ("X-Client", "${clientid}")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(
        &token, "abc
",
    )
    .unwrap();
    asking.token_file = Some(token);
    let auth = start(&http(asking));
    assert_eq!(judge(&auth, request("a/b c", "right")).await, Verdict::allow());
    assert_eq!(judge(&auth, request("ann", "wrong \"} \u{1f512}")).await, REFUSED);
    let got = server.got();
    assert_eq!(
        (got[0].method.as_str(), got[0].uri.as_str()),
        ("POST", "/auth/a%2Fb%20c")
    );
    assert_eq!(
        got[0].headers["host"],
        format!("127.0.0.1:{}", server.port).as_str()
    );
    assert_eq!(got[0].headers["x-client"], "c1");
    assert_eq!(got[0].headers["authorization"], "Bearer abc");
    assert_eq!(got[0].headers["content-type"], "application/json");
    let sent: Value = serde_json::from_str(&got[1].body).unwrap();
    assert_eq!(
        sent,
        json!({"clientid": "c1", "username": "ann", "password": "wrong \"} \u{1f512}"})
    );
    assert_eq!((got[0].connection, got[1].connection), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_puts_the_fields_into_the_query_and_forms_are_encoded() {
    let server = server(|_| (204, String::new())).await;
    let mut asking = HttpSettings::new(&format!("http://127.0.0.1:{}/q?v=1", server.port));
    asking.method = HttpMethod::Get;
    asking.body = [
        ("u", "${username}"),
        ("i", "${identity}@${listener}"),
        ("h", "${peerhost}"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let mut asked = request("a&b=c", "x");
    asked.identity = Some(Identity::new("dev 1", Proof::Certificate));
    asked.identity_role = IdentityRole::Username;
    assert_eq!(
        judge(&start(&http(asking.clone())), asked.clone()).await,
        Verdict::allow()
    );
    asking.method = HttpMethod::Post;
    asking
        .headers
        .insert("content-type".into(), "application/x-www-form-urlencoded".into());
    assert_eq!(judge(&start(&http(asking)), asked).await, Verdict::allow());
    let got = server.got();
    assert_eq!(got[0].uri, "/q?v=1&h=127.0.0.1&i=dev%201%40default&u=a%26b%3Dc");
    assert_eq!((got[0].method.as_str(), got[0].body.as_str()), ("GET", ""));
    assert_eq!(
        (got[1].uri.as_str(), got[1].body.as_str()),
        ("/q?v=1", "h=127.0.0.1&i=dev%201%40default&u=a%26b%3Dc")
    );
    assert_eq!(
        got[1].headers["content-type"],
        "application/x-www-form-urlencoded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_acl_superuser_and_attributes_are_carried() {
    let server = server(|_| {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 100;
        let acl = json!([{"permission": "allow", "action": "publish", "topic": "t/${clientid}"}]);
        let answer = json!({"result": "allow", "expire_at": at, "is_superuser": true, "client_attrs": {"a": "b"}, "acl": acl});
        (200, answer.to_string())
    })
    .await;
    let mut settings = http(HttpSettings::new(&format!("http://127.0.0.1:{}/", server.port)));
    settings.cache = Duration::from_secs(30);
    let auth = start(&settings);
    for _ in 0..2 {
        let verdict = judge(&auth, request("ann", "x")).await;
        let Verdict::Allow {
            expires_in: Some(left),
            superuser: true,
            acl: Some(_),
            attributes,
        } = verdict
        else {
            panic!("{verdict:?}");
        };
        assert_eq!(attributes.get("a"), Some("b"));
        assert!(
            left > Duration::from_secs(95) && left <= Duration::from_secs(100),
            "{left:?}"
        );
    }
    assert_eq!(server.got().len(), 1);
    assert_eq!(auth.metrics().get(Backend::Http, AuthResult::Cached), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_slow_or_odd_lets_nobody_in_and_counts_as_unavailable() {
    let unavailable = async |settings: AuthSettings| {
        let auth = start(&settings);
        let judged =
            tokio::time::timeout(Duration::from_secs(30), judge(&auth, request("ann", "right"))).await;
        assert_eq!(judged.unwrap(), Verdict::Unavailable);
        assert_eq!(auth.metrics().get(Backend::Http, AuthResult::Unavailable), 1);
    };
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    unavailable(http(HttpSettings::new(&format!("http://127.0.0.1:{closed}/")))).await;

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut asking = HttpSettings::new(&format!("http://{}/", silent.local_addr().unwrap()));
    asking.timeout = Duration::from_millis(200);
    unavailable(http(asking)).await;
    drop(silent);

    for (status, body) in [
        (500, r#"{"result":"allow"}"#),
        (200, "OK"),
        (200, "{}"),
        (302, ""),
    ] {
        let server = server(move |_| (status, body.to_owned())).await;
        unavailable(http(HttpSettings::new(&format!(
            "http://127.0.0.1:{}/",
            server.port
        ))))
        .await;
    }
    // What two readers would understand differently.
    for head in [
        "Content-Length: 18\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 900\r\n\r\n12\r\n",
        "Content-Length: 18\r\nContent-Length: 23\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n12\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}{{\"result\":\"allow\"}}\r\n0\r\n\r\n");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                drop(stream.read(&mut [0; 4096]));
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        unavailable(http(HttpSettings::new(&url))).await;
    }
    let twice = server(|_| (200, r#"{"result":"deny","x":1,"result":"allow"}"#.to_owned())).await;
    unavailable(http(HttpSettings::new(&format!(
        "http://127.0.0.1:{}/",
        twice.port
    ))))
    .await;
    let huge = server(|_| {
        (
            200,
            format!(r#"{{"result":"allow","x":"{}"}}"#, "x".repeat(300 << 10)),
        )
    })
    .await;
    unavailable(http(HttpSettings::new(&format!(
        "http://127.0.0.1:{}/",
        huge.port
    ))))
    .await;
}

/// A server that promises to keep its connections and closes each after one answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_server_closed_costs_no_login() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            if stream.read(&mut request).await.unwrap() > 0 {
                stream
                    .write_all(b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n")
                    .await
                    .unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let auth = start(&http(HttpSettings::new(&url)));
    for _ in 0..20 {
        assert_eq!(judge(&auth, request("ann", "right")).await, Verdict::allow());
    }
    assert_eq!(answered.load(Ordering::Relaxed), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_verified_against_the_given_anchors_and_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let server = Server::start(Some((cert.clone(), key)), Duration::ZERO, by_password).await;
    let ask = async |url: String, ca_file| {
        let mut asking = HttpSettings::new(&url);
        asking.tls.ca_file = ca_file;
        judge(&start(&http(asking)), request("ann", "right")).await
    };
    let port = server.port;
    assert_eq!(
        ask(format!("https://127.0.0.1:{port}/"), Some(cert.clone())).await,
        Verdict::allow()
    );
    assert_eq!(
        ask(format!("https://localhost:{port}/"), Some(cert.clone())).await,
        Verdict::allow()
    );
    assert_eq!(
        ask(format!("https://127.0.0.1:{port}/"), None).await,
        Verdict::Unavailable
    );
    assert_eq!(
        ask(format!("https://127.0.0.2:{port}/"), Some(cert.clone())).await,
        Verdict::Unavailable
    );
    assert_eq!(server.got().len(), 2);

    let six = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let url = format!("https://{}/", six.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut near, _) = six.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut near, &mut far).await) });
        }
    });
    assert_eq!(
        ask(url, Some(cert)).await,
        Verdict::allow(),
        "an address in brackets"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_put_into_a_request_is_refused_without_asking() {
    let server = server(|_| (204, String::new())).await;
    let mut asking = HttpSettings::new(&format!("http://127.0.0.1:{}/", server.port));
    asking.headers = [("X-User".into(), "${username}".into())].into();
    let auth = start(&http(asking));
    let refused = Verdict::Deny(DenyReason::BadCredentials);
    assert_eq!(judge(&auth, request("ann\r\nX-Admin: 1", "x")).await, refused);
    let mut binary = request("ann", "");
    binary.password = Some(Password::new(b"\xff\x00"));
    assert_eq!(judge(&auth, binary).await, refused);
    assert!(server.got().is_empty());
}

#[tokio::test]
async fn wrong_settings_are_all_told_at_once_without_secrets() {
    let mut asking = HttpSettings::new("ftp://h/");
    asking.headers = [("Bad Name", "x"), ("X-Key", "hunter2${nope}")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    asking.body.insert("x".into(), "${user}".into());
    let errors =
        portcullis::auth::start(&http(asking.clone()), tokio::runtime::Handle::current()).unwrap_err();
    let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert!(!format!("{shown:?} {asking:?}").contains("hunter2"), "{shown:?}");
}
