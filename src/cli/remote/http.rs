//! A small HTTP client for the management interface: one request, one connection.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::http::{Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_openssl::SslStream;
use zeroize::Zeroizing;

use crate::admin::api::ErrorBody;
use crate::cli::exit::{DATA_ERROR, Failure, NO_PERMISSION, NO_USER, SOFTWARE, UNAVAILABLE, USAGE};
use crate::cli::{quickstart, target};
use crate::config::secrets::{read_public, read_secret};
use crate::config::tokens::{self, Role};
use crate::config::{Admin, Config};

use super::args::Remote;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Largest answer: ten thousand clients.
const MAX_ANSWER: usize = 64 << 20;

/// Who is at the other end of a TLS connection.
enum Trust {
    /// Who the system, or `--ca-file`, vouches for.
    Roots(Option<std::path::PathBuf>),
    /// The holder of exactly this certificate: the gateway on this machine names itself by it, whatever its address.
    Pinned(Arc<X509>),
}

/// The management interface of a gateway.
pub(in crate::cli) struct Api {
    host: String,
    port: u16,
    trust: Option<Trust>,
    token: Option<Zeroizing<String>>,
    runtime: tokio::runtime::Runtime,
    told: Told,
}

/// The signals that ask a command to end, once it wants to hear of them, and whether one came.
#[derive(Default)]
struct Told {
    signals: RefCell<Vec<Signal>>,
    stop: Cell<bool>,
}

impl Told {
    /// Ends with the next signal, and at once with one that came since this was waited for last.
    async fn next(&self) {
        std::future::poll_fn(|cx| {
            // Each is asked, or a later one would wake nobody.
            for signal in self.signals.borrow_mut().iter_mut() {
                if signal.poll_recv(cx).is_ready() {
                    self.stop.set(true);
                }
            }
            if self.stop.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Api {
    /// Finds the interface that the arguments mean.
    pub(in crate::cli) fn find(remote: &Remote) -> Result<Self, Failure> {
        let (host, port, trust, admin) = match &remote.url {
            Some(url) => {
                let (host, port, tls) = parse_url(url)?;
                let trust = tls.then(|| Trust::Roots(remote.ca_file.clone()));
                (host, port, trust, None)
            }
            None => local(&configured(remote.config.as_deref())?)?,
        };
        let from_config = admin.and_then(|admin| admin.token_file);
        let token = match (&remote.token_file, &from_config) {
            (Some(file), _) | (None, Some(file)) => Some(read_token(file)?),
            (None, None) => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(SOFTWARE, format!("no runtime: {error}")))?;
        Ok(Self {
            host,
            port,
            trust,
            token,
            runtime,
            told: Told::default(),
        })
    }

    /// The interface of a gateway with this configuration on this machine.
    pub(in crate::cli) fn of_config(config: &Config) -> Result<Self, Failure> {
        let remote = Remote {
            url: None,
            token_file: None,
            ca_file: None,
            config: config.source.clone(),
            json: false,
        };
        Self::find(&remote)
    }

    /// Where it is, for people.
    pub(in crate::cli) fn address(&self) -> String {
        let scheme = if self.trust.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Reads something.
    pub(in crate::cli) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let body = self.ask("GET", path)?;
        serde_json::from_slice(&body).map_err(|error| {
            Failure::new(
                DATA_ERROR,
                format!("the gateway's answer is not understood: {error}"),
            )
        })
    }

    /// Removes something.
    pub(in crate::cli) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.ask("DELETE", path).map(drop)
    }

    /// From now on Ctrl-C and SIGTERM end what is waited for instead of the process.
    pub(in crate::cli) fn stop_when_told(&self) -> Result<(), Failure> {
        let _runtime = self.runtime.enter();
        let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        let signals: Result<Vec<Signal>, _> = signals.into_iter().collect();
        let signals = signals.map_err(|error| Failure::new(SOFTWARE, format!("no signals: {error}")))?;
        self.told.signals.replace(signals);
        Ok(())
    }

    /// Whether one of them came; then an exchange may have failed for that reason.
    pub(in crate::cli) fn is_told_to_stop(&self) -> bool {
        self.told.stop.get()
    }

    /// Waits; false when told to stop.
    pub(in crate::cli) fn wait(&self, time: Duration) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.told.next() => false,
                () = tokio::time::sleep(time) => true,
            }
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Posts something whose answer goes on, and hands out its lines, those without text left out. Ends with the answer, after
    /// `time`, at Ctrl-C, or when `each` has enough and says false. `begun` is called before the first line.
    pub(in crate::cli) fn follow(
        &self,
        path: &str,
        body: &serde_json::Value,
        time: Option<Duration>,
        begun: impl FnOnce(),
        each: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let response = tokio::time::timeout(PATIENCE, self.send("POST", path, Some(body)))
                .await
                .unwrap_or_else(|_| Err(self.late()))?;
            let status = response.status();
            if !status.is_success() {
                let body = self.collect(response).await?;
                return Err(refused(status, &body));
            }
            begun();
            // The gateway ends it too; this is for one that hangs.
            let end = time.map_or(Duration::MAX, |time| time.saturating_add(Duration::from_secs(5)));
            tokio::select! {
                outcome = self.lines(response.into_body(), each) => outcome,
                _ = tokio::signal::ctrl_c() => Ok(()),
                () = tokio::time::sleep(end) => Ok(()),
            }
        })
    }

    async fn lines(
        &self,
        mut body: Incoming,
        mut each: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut waiting: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Failure::new(UNAVAILABLE, format!("{}: {error}", self.address())))?;
            waiting.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref));
            if waiting.len() > MAX_ANSWER {
                return Err(Failure::new(DATA_ERROR, "the gateway's answer is not understood"));
            }
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if !line.trim().is_empty() && !each(line.trim_end())? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn late(&self) -> Failure {
        Failure::new(UNAVAILABLE, format!("{} does not answer in time", self.address()))
    }

    fn ask(&self, method: &str, path: &str) -> Result<Bytes, Failure> {
        let (status, body) = self.runtime.block_on(async {
            let exchange = async {
                let response = self.send(method, path, None).await?;
                Ok((response.status(), self.collect(response).await?))
            };
            tokio::select! {
                () = self.told.next() => Err(Failure::new(UNAVAILABLE, "told to stop")),
                outcome = tokio::time::timeout(PATIENCE, exchange) => outcome.unwrap_or_else(|_| Err(self.late())),
            }
        })?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(status, &body))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| Failure::new(UNAVAILABLE, format!("{}: {error}", self.address())))
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<Incoming>, Failure> {
        let unreachable = |why: &dyn std::fmt::Display| {
            Failure::new(
                UNAVAILABLE,
                format!("no gateway answers at {}: {why}", self.address()),
            )
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| unreachable(&error))?;
        let request = self.request(method, path, body)?;
        match &self.trust {
            None => self.over(stream, request).await,
            Some(trust) => {
                let stream = handshake(stream, &self.host, trust)
                    .await
                    .map_err(|why| unreachable(&why))?;
                self.over(stream, request).await
            }
        }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(header::HOST, self.authority());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.as_str()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(ToString::to_string).unwrap_or_default();
        request
            .body(Full::from(body))
            .map_err(|error| Failure::new(USAGE, error.to_string()))
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let broken =
            |error: &dyn std::fmt::Display| Failure::new(UNAVAILABLE, format!("{}: {error}", self.address()));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // Its errors come out at the sender as well.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(|error| broken(&error))
    }
}

/// Why the gateway did not do what it was asked.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let said = serde_json::from_slice::<ErrorBody>(body)
        .map_or_else(|_| format!("HTTP {status}"), |error| error.message);
    let (code, hint) = match status {
        StatusCode::UNAUTHORIZED => (NO_PERMISSION, "; name the file with it by --token-file"),
        StatusCode::FORBIDDEN => (NO_PERMISSION, ""),
        StatusCode::NOT_FOUND => (NO_USER, ""),
        StatusCode::BAD_REQUEST => (DATA_ERROR, ""),
        _ => (UNAVAILABLE, ""),
    };
    Failure::new(code, format!("{said}{hint}"))
}

async fn handshake(stream: TcpStream, host: &str, trust: &Trust) -> Result<SslStream<TcpStream>, String> {
    let say = |error: openssl::error::ErrorStack| error.to_string();
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(say)?;
    match trust {
        Trust::Roots(None) => {}
        Trust::Roots(Some(file)) => builder.set_ca_file(file).map_err(say)?,
        Trust::Pinned(_) => builder.set_verify(SslVerifyMode::NONE),
    }
    let ssl = builder
        .build()
        .configure()
        .and_then(|connect| connect.into_ssl(host))
        .map_err(say)?;
    let mut stream = SslStream::new(ssl, stream).map_err(say)?;
    Pin::new(&mut stream)
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    if let Trust::Pinned(own) = trust {
        let shown = stream
            .ssl()
            .peer_certificate()
            .and_then(|shown| shown.to_der().ok());
        // Nothing was sent yet, so nothing is lost to someone else.
        if shown.is_none() || shown != own.to_der().ok() {
            return Err("it shows another certificate than admin.cert_file".to_owned());
        }
    }
    Ok(stream)
}

/// The configuration that the gateway on this machine runs with: named, installed, or the quick start's.
pub(in crate::cli) fn configured(file: Option<&Path>) -> Result<Config, Failure> {
    match file.or(target::installed()) {
        Some(file) => target::read_config(file),
        None => quickstart::config(&quickstart::state_dir()?),
    }
}

type Found = (String, u16, Option<Trust>, Option<Admin>);

fn local(config: &Config) -> Result<Found, Failure> {
    let admin = config.admin.clone();
    let Some(bind) = admin.bind else {
        return Err(Failure::new(
            UNAVAILABLE,
            "the management interface is off: admin.bind is \"\"",
        ));
    };
    // What listens everywhere listens here.
    let ip = match bind.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let trust = match &admin.cert_file {
        None => None,
        Some(file) => {
            let content = read_public(file)?;
            let own = X509::from_pem(&content)?;
            Some(Trust::Pinned(Arc::new(own)))
        }
    };
    Ok((ip.to_string(), bind.port(), trust, Some(admin)))
}

fn parse_url(url: &str) -> Result<(String, u16, bool), Failure> {
    let wrong = || {
        Failure::new(
            USAGE,
            format!("`{url}` is no address of a management interface: http://HOST:PORT or https://HOST:PORT"),
        )
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    let host = uri.host().ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().unwrap_or(8683), tls))
}

/// The first token of an admin, else the first of all.
fn read_token(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let content = read_secret(file)?;
    let mut tokens = tokens::parse(&content).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|wrong| format!("{}, line {}: {}", file.display(), wrong.line, wrong.message))
            .collect();
        Failure::new(DATA_ERROR, lines.join("\n"))
    })?;
    tokens.sort_by_key(|token| token.role != Role::Admin);
    tokens
        .into_iter()
        .next()
        .map(|token| token.secret)
        .ok_or_else(|| Failure::new(DATA_ERROR, format!("{} has no token", file.display())))
}

/// `text` as it stands in a segment of a path or the value of a query.
pub(in crate::cli) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_perhaps_a_port() {
        assert_eq!(
            parse_url("http://127.0.0.1:1").unwrap(),
            ("127.0.0.1".to_owned(), 1, false)
        );
        assert_eq!(
            parse_url("https://[::1]/").unwrap(),
            ("::1".to_owned(), 8683, true)
        );
        for bad in [
            "127.0.0.1:8683",
            "ftp://x",
            "http://",
            "http://x/api",
            "http://x?y",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_could_end_a_segment_is_encoded() {
        assert_eq!(encode("a/b?c#d%e é"), "a%2Fb%3Fc%23d%25e%20%C3%A9");
        assert_eq!(encode("Az0-._~"), "Az0-._~");
    }
}
