//! What the tests of the backends share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use portcullis::auth::settings::{AuthCaps, AuthSettings, BackendSettings};
use portcullis::auth::{AuthHandle, Full};
use portcullis::policy::authentication::{AuthRequest, IdentityRole, Password, Verdict};
use portcullis::policy::failures::Class;
use portcullis::types::{ClientId, ListenerId, PeerAddr};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::certs::{Recipe, authority};

/// Settings with one backend, nothing remembered.
pub(crate) fn settings(backend: BackendSettings) -> AuthSettings {
    AuthSettings {
        backend,
        per_listener: std::collections::BTreeMap::new(),
        key_sources: std::collections::BTreeMap::new(),
        listeners: vec![Arc::from("default"), Arc::from("second")],
        caps: AuthCaps {
            hashers: 2,
            ..AuthCaps::default()
        },
        cache: Duration::ZERO,
        clock: SystemTime::now,
    }
}

pub(crate) fn start(settings: &AuthSettings) -> AuthHandle {
    portcullis::auth::start(settings, Handle::current()).unwrap()
}

/// A request of client `c1` from 127.0.0.1.
pub(crate) fn request(user: &str, password: &str) -> AuthRequest {
    static TICKET: AtomicU64 = AtomicU64::new(0);
    AuthRequest {
        ticket: TICKET.fetch_add(1, Ordering::Relaxed),
        clientid: ClientId::new("c1"),
        username: Some(user.into()),
        password: Some(Password::new(password.as_bytes())),
        identity: None,
        identity_role: IdentityRole::None,
        peer: PeerAddr::new("127.0.0.1:40000".parse().unwrap()).unwrap(),
        listener: ListenerId(0),
    }
}

/// Hands a request in and gives what its verdict comes on.
pub(crate) fn submit(
    auth: &AuthHandle,
    request: AuthRequest,
    class: Class,
) -> Result<oneshot::Receiver<Verdict>, Full> {
    let (sender, receiver) = oneshot::channel();
    let ticket = request.ticket;
    let reply = Box::new(move |answer: portcullis::auth::AuthAnswer| {
        assert_eq!(answer.ticket, ticket);
        drop(sender.send(answer.verdict));
    });
    auth.try_submit(request, class, reply).map(|()| receiver)
}

/// The verdict on a request.
pub(crate) async fn judge(auth: &AuthHandle, request: AuthRequest) -> Verdict {
    submit(auth, request, Class::Proven).unwrap().await.unwrap()
}

/// Gives `name` this password in a users file, which is made if there is none.
pub(crate) fn add_user(file: &Path, name: &str, password: &str) {
    let old = std::fs::read_to_string(file).unwrap_or_default();
    let others = old.lines().filter(|line| line.split(':').next() != Some(name));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    let hash = portcullis::auth::users::hash_password(password.as_bytes()).unwrap();
    text += &format!("{name}:{hash}\n");
    std::fs::write(file, text).unwrap();
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes a certificate for 127.0.0.1 and localhost with that of its authority, and its key.
pub(crate) fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
    let ca = authority("ca");
    let server = Recipe::server("localhost").make(Some(&ca));
    std::fs::write(&cert_path, [server.cert_pem(), ca.cert_pem()].concat()).unwrap();
    std::fs::write(&key_path, server.key_pem()).unwrap();
    (cert_path, key_path)
}

/// A request that a [`Server`] got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: String,
    pub(crate) connection: usize,
}

type Answerer = dyn Fn(&Got) -> (u16, String) + Send + Sync;

/// An HTTP/1.1 server on loopback, with TLS if it has a certificate; ends when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) got: Arc<std::sync::Mutex<Vec<Got>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(
        tls: Option<(PathBuf, PathBuf)>,
        delay: Duration,
        answer: impl Fn(&Got) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(std::sync::Mutex::new(Vec::new()));
        let acceptor = tls.map(|(cert, key)| {
            let method = openssl::ssl::SslMethod::tls_server();
            let mut builder = openssl::ssl::SslAcceptor::mozilla_intermediate_v5(method).unwrap();
            builder.set_certificate_chain_file(cert).unwrap();
            builder
                .set_private_key_file(key, openssl::ssl::SslFiletype::PEM)
                .unwrap();
            builder.build()
        });
        let answer: Arc<Answerer> = Arc::new(answer);
        let seen = Arc::clone(&got);
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, seen, acceptor) = (Arc::clone(&answer), Arc::clone(&seen), acceptor.clone());
                tokio::spawn(async move {
                    let Some(acceptor) = acceptor else {
                        return serve(stream, connection, delay, answer, seen).await;
                    };
                    let ssl = openssl::ssl::Ssl::new(acceptor.context()).unwrap();
                    let mut stream = tokio_openssl::SslStream::new(ssl, stream).unwrap();
                    if std::pin::Pin::new(&mut stream).accept().await.is_ok() {
                        serve(stream, connection, delay, answer, seen).await;
                    }
                });
            }
        });
        Self { port, got, task }
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn serve(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    connection: usize,
    delay: Duration,
    answer: Arc<Answerer>,
    seen: Arc<std::sync::Mutex<Vec<Got>>>,
) {
    use http_body_util::{BodyExt, Full};
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let got = Got {
                method: parts.method.to_string(),
                uri: parts.uri.to_string(),
                headers: parts.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
                connection,
            };
            let (status, text) = answer(&got);
            seen.lock().unwrap().push(got);
            tokio::time::sleep(delay).await;
            let answer = hyper::Response::builder()
                .status(status)
                .body(Full::new(bytes::Bytes::from(text)));
            Ok::<_, hyper::Error>(answer.unwrap())
        }
    });
    let io = hyper_util::rt::TokioIo::new(stream);
    drop(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await,
    );
}
