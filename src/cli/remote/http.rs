//! The management interface of a gateway, asked over HTTP: one request, one connection.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use openssl::x509::{X509, X509VerifyResult};
use percent_encoding::utf8_percent_encode;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::admin::api::{ErrorBody, GROUP_UNKNOWN};
use crate::admin::local::GROUP;
use crate::auth::client::{Client, ClientError, Origin, Trust, UNRESERVED, whole};
use crate::auth::settings::TlsSettings;
use crate::cli::exit::{CONFIG, DATA_ERROR, Failure, NO_PERMISSION, NO_USER, SOFTWARE, UNAVAILABLE, USAGE};
use crate::cli::{quickstart, target};
use crate::config::secrets::{read_public, read_secret};
use crate::config::tokens::{self, Role};
use crate::config::{Config, admin_socket, token_store};

use super::args::Remote;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Largest answer: ten thousand clients.
const MAX_ANSWER: usize = 64 << 20;

/// Where the interface listens when nothing else is said.
const DEFAULT_PORT: u16 = 8683;

/// How the interface is reached.
enum Way {
    /// Over the network, or on loopback, with a token.
    Net {
        origin: Origin,
        client: Box<Client>,
        token: Option<Zeroizing<String>>,
    },
    /// By its Unix socket, whose mode lets in.
    Local(PathBuf),
}

/// The management interface of a gateway.
pub(in crate::cli) struct Api {
    way: Way,
    runtime: tokio::runtime::Runtime,
    told: Told,
    /// Whether what it is asked is for this gateway alone, though it is one of a group.
    for_one: bool,
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
        let token = remote.token_file.as_deref().map(read_token).transpose()?;
        let way = match &remote.url {
            Some(url) => {
                let ca_file = remote.ca_file.clone();
                let tls = TlsSettings {
                    ca_file,
                    ..TlsSettings::default()
                };
                Way::net(parse_url(url)?, &Trust::Anchors(tls), token)?
            }
            None => Way::to(&configured(remote.config.as_deref())?, token)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(SOFTWARE, format!("no runtime: {error}")))?;
        Ok(Self {
            way,
            runtime,
            told: Told::default(),
            for_one: false,
        })
    }

    /// The same, asked for this gateway alone although it is one of a group.
    pub(in crate::cli) fn for_one(self, for_one: bool) -> Self {
        Self { for_one, ..self }
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
        match &self.way {
            Way::Net { origin, .. } => origin.to_string(),
            Way::Local(path) => path.display().to_string(),
        }
    }

    /// GET of a path below `/api/v1`, its answer read as `T`.
    pub(in crate::cli) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read_answer(&self.ask("GET", path, None)?)
    }

    /// POST of `body` to a path below `/api/v1`, its answer read as `T`.
    pub(in crate::cli) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, Failure> {
        read_answer(&self.ask("POST", path, Some(body))?)
    }

    /// POST of `body` to a path below `/api/v1` whose answer has no body.
    pub(in crate::cli) fn order(&self, path: &str, body: &serde_json::Value) -> Result<(), Failure> {
        self.ask("POST", path, Some(body)).map(drop)
    }

    /// DELETE of a path below `/api/v1`.
    pub(in crate::cli) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.ask("DELETE", path, None).map(drop)
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

    /// Asks for something whose answer goes on, by POST with `body` or else by GET, and hands out its lines, those without text
    /// left out. Ends with the answer, after `time`, at Ctrl-C, or when `each` has enough and says false. `begun` is called before
    /// the first line.
    pub(in crate::cli) fn follow(
        &self,
        path: &str,
        body: Option<&serde_json::Value>,
        time: Option<Duration>,
        begun: impl FnOnce(),
        each: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let method = if body.is_some() { "POST" } else { "GET" };
            let request = self.request(method, path, body)?;
            let response = tokio::time::timeout(PATIENCE, self.way.send(request))
                .await
                .unwrap_or(Err(ClientError::TimedOut))
                .map_err(|error| self.failed(error))?;
            let status = response.status();
            if !status.is_success() {
                let body = whole(response, MAX_ANSWER).await;
                let body = body.map_err(|error| self.failed(error))?;
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

    fn failed(&self, error: ClientError) -> Failure {
        let address = self.address();
        let is_unknown = !matches!(error, ClientError::Connect(_));
        let said = match error {
            ClientError::TimedOut => format!("{address} does not answer in time"),
            ClientError::Broken(why) => format!("{address}: {why}"),
            ClientError::Connect(why) => {
                let other = X509VerifyResult::APPLICATION_VERIFICATION.error_string();
                let why = if why.contains(other) {
                    "it shows another certificate than admin.cert_file"
                } else {
                    &why
                };
                format!("no gateway answers at {address}: {why}")
            }
        };
        Failure {
            is_unknown,
            ..Failure::new(UNAVAILABLE, said)
        }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<Bytes, Failure> {
        let (status, body) = self.runtime.block_on(async {
            let request = self.request(method, path, body)?;
            tokio::select! {
                () = self.told.next() => Err(Failure::new(UNAVAILABLE, "told to stop")),
                outcome = self.way.ask(request) => outcome.map_err(|error| self.failed(error)),
            }
        })?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(status, &body))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder().method(method).uri(format!("/api/v1/{path}"));
        match &self.way {
            Way::Net {
                token: Some(token), ..
            } => {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.as_str()));
            }
            Way::Net { token: None, .. } => {}
            Way::Local(_) => request = request.header(header::HOST, "localhost"),
        }
        if self.for_one {
            request = request.header("portcullis-scope", "local");
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(ToString::to_string).unwrap_or_default();
        request
            .body(Full::from(body))
            .map_err(|error| Failure::new(USAGE, error.to_string()))
    }
}

impl Way {
    /// To the gateway of this configuration on this machine: by its socket, unless a token is to be shown or the socket is not
    /// there; then on loopback, with a token that this user can read.
    fn to(config: &Config, token: Option<Zeroizing<String>>) -> Result<Self, Failure> {
        if token.is_none() {
            for path in admin_socket::candidates(config) {
                match UnixStream::connect(&path) {
                    Ok(_) => return Ok(Self::Local(path)),
                    Err(error) if error.kind() == ErrorKind::PermissionDenied && path.exists() => {
                        return Err(Failure::new(
                            NO_PERMISSION,
                            format!(
                                "{} lets in its owner and the members of its group ({GROUP}) only",
                                path.display()
                            ),
                        ));
                    }
                    // Left by a process that was killed, or never there.
                    Err(_) => {}
                }
            }
        }
        let (origin, trust) = local(config)?;
        let own = || match &config.admin.token_file {
            Some(file) => read_token(file).ok(),
            None => token_store::first(config).ok().flatten(),
        };
        Self::net(origin, &trust, token.or_else(own))
    }

    fn net(origin: Origin, trust: &Trust, token: Option<Zeroizing<String>>) -> Result<Self, Failure> {
        // Nothing drives an idle connection between two requests, so none is kept.
        let client = Client::new(origin.clone(), trust, 0)
            .map_err(|error| Failure::new(DATA_ERROR, error.to_string()))?;
        Ok(Self::Net {
            origin,
            client: Box::new(client),
            token,
        })
    }

    /// Sends `request` and reads the head of the answer.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let path = match self {
            Self::Net { client, .. } => return client.send(request).await,
            Self::Local(path) => path,
        };
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let stream = tokio::net::UnixStream::connect(path)
            .await
            .map_err(|error| ClientError::Connect(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer; what it ends with shows there.
        tokio::spawn(async { drop(connection.await) });
        sender.send_request(request).await.map_err(broken)
    }

    /// The same with the whole answer.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
        let answer = async {
            let answer = self.send(request).await?;
            Ok((answer.status(), whole(answer, MAX_ANSWER).await?))
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or(Err(ClientError::TimedOut))
    }
}

fn read_answer<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(
            DATA_ERROR,
            format!("the gateway's answer is not understood: {error}"),
        )
    })
}

/// Why the gateway did not do what it was asked.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let error = serde_json::from_slice::<ErrorBody>(body).ok();
    let problems = error.iter().flat_map(|error| &error.problems);
    let problems: Vec<String> = problems.map(super::reload::problem).collect();
    if !problems.is_empty() {
        let said = format!(
            "not reloaded, the old configuration stays in force\n{}",
            problems.join("\n")
        );
        return Failure::new(CONFIG, said);
    }
    let is_unknown = error.as_ref().is_some_and(|error| error.code == GROUP_UNKNOWN);
    let said = error.map_or_else(|| format!("HTTP {status}"), |error| error.message);
    let (code, hint) = match status {
        StatusCode::UNAUTHORIZED => (NO_PERMISSION, "; name the file with it by --token-file"),
        StatusCode::FORBIDDEN => (NO_PERMISSION, ""),
        StatusCode::NOT_FOUND => (NO_USER, ""),
        StatusCode::BAD_REQUEST => (DATA_ERROR, ""),
        _ => (UNAVAILABLE, ""),
    };
    Failure {
        is_unknown,
        ..Failure::new(code, format!("{said}{hint}"))
    }
}

/// The configuration that the gateway on this machine runs with: named, installed, or the quick start's.
pub(in crate::cli) fn configured(file: Option<&Path>) -> Result<Config, Failure> {
    match file.or(target::installed()) {
        Some(file) => target::read_leniently(file),
        None => quickstart::config(&quickstart::state_dir()?),
    }
}

fn local(config: &Config) -> Result<(Origin, Trust), Failure> {
    let admin = &config.admin;
    let Some(bind) = admin.bind else {
        return Err(Failure::new(
            UNAVAILABLE,
            "the management interface is off: admin.bind is \"\"",
        ));
    };
    // What listens everywhere listens here.
    let ip = match bind.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    // The gateway on this machine names itself by its certificate, whatever its address.
    let trust = match &admin.cert_file {
        None => Trust::Anchors(TlsSettings::default()),
        Some(file) => Trust::Pinned(X509::from_pem(&read_public(file)?)?),
    };
    let at = SocketAddr::new(ip, bind.port()).to_string();
    let origin =
        Origin::new(admin.cert_file.is_some(), &at).map_err(|error| Failure::new(SOFTWARE, error))?;
    Ok((origin, trust))
}

fn parse_url(url: &str) -> Result<Origin, Failure> {
    match Origin::of(url) {
        Ok((origin, path)) if path == "/" => Ok(origin.or_port(DEFAULT_PORT)),
        _ => Err(Failure::new(
            USAGE,
            format!("`{url}` is no address of a management interface: http://HOST:PORT or https://HOST:PORT"),
        )),
    }
}

/// The first token of an admin that stands in the file in the clear, else the first of all.
fn read_token(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let content = read_secret(file)?;
    let mut tokens = tokens::in_the_clear(&content).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|wrong| format!("{}, {wrong}", file.display()))
            .collect();
        Failure::new(DATA_ERROR, lines.join("\n"))
    })?;
    tokens.sort_by_key(|(role, _)| *role != Role::Admin);
    let first = tokens.into_iter().next().map(|(_, token)| token);
    first.ok_or_else(|| {
        let shown = file.display();
        Failure::new(
            DATA_ERROR,
            format!("{shown} has no token in the clear: name a file with the token itself"),
        )
    })
}

/// `text` as it stands in a segment of a path or the value of a query.
pub(in crate::cli) fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_perhaps_a_port() {
        let parsed = |url| parse_url(url).unwrap().to_string();
        assert_eq!(parsed("http://127.0.0.1:1"), "http://127.0.0.1:1");
        assert_eq!(parsed("https://[::1]/"), "https://[::1]:8683");
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
