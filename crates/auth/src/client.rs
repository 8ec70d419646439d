//! An HTTP/1.1 client of one server: of an authentication server, and of the commands that ask a gateway.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_openssl::client::legacy::HttpsConnector;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::{X509, X509VerifyResult};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use tower::ServiceExt as _;
use tower::util::MapFuture;

use super::settings::TlsSettings;
use super::users::FileError;

/// TLS sessions that are remembered for the next connection.
const SESSIONS: i32 = 16;

/// Making a connection, TLS included: one that is made for later has no request whose time ends it.
const CONNECT: Duration = Duration::from_secs(10);

/// What stays as it is in a segment of a path and in a query: the unreserved characters of RFC 3986, 2.3.
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

type Tls = HttpsConnector<HttpConnector>;
type Connecting = <Tls as tower::Service<Uri>>::Future;
type Connector = MapFuture<Tls, fn(Connecting) -> Connecting>;

/// Where a server is: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    /// The server that listens at `authority`.
    ///
    /// # Errors
    /// It is no `HOST[:PORT]`.
    pub fn new(tls: bool, authority: &str) -> Result<Self, String> {
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        match authority.parse::<Authority>() {
            Ok(authority) if !authority.host().is_empty() => Ok(Self { scheme, authority }),
            _ => Err(format!("`{authority}` is no HOST[:PORT]")),
        }
    }

    /// Splits a URL into where the server is and what is asked of it (at least `/`).
    ///
    /// # Errors
    /// What is wrong with it, as an operator should read it.
    pub fn of(url: &str) -> Result<(Self, String), String> {
        let form = || "this is not http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH".to_owned();
        let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains("${") {
            return Err("the host of the URL must be fixed, without placeholders".to_owned());
        }
        if authority.contains('@') {
            return Err("the URL must hold no user or password; use a header".to_owned());
        }
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(form()),
        };
        let origin = Self::new(tls, authority).map_err(|_| form())?;
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok((origin, format!("{slash}{path}")))
    }

    /// The same with this port, if it names none.
    #[must_use]
    pub fn or_port(self, port: u16) -> Self {
        match self.authority.port() {
            Some(_) => self,
            None => Self::new(self.is_https(), &format!("{}:{port}", self.authority)).unwrap_or(self),
        }
    }

    fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Who is trusted to be the server, with TLS.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Whom these anchors, or the system's, vouch for.
    Anchors(TlsSettings),
    /// The holder of exactly this certificate, whatever its name.
    Pinned(X509),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Not within the time.
    TimedOut,
    /// The connection could not be made.
    Connect(String),
    /// The connection broke, or what came is no HTTP, ambiguous or too long.
    Broken(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Broken(error) => write!(f, "no whole answer: {error}"),
        }
    }
}

impl From<legacy::Error> for ClientError {
    fn from(error: legacy::Error) -> Self {
        let is_connect = error.is_connect();
        let text = causes(&error);
        if is_connect {
            Self::Connect(text)
        } else {
            Self::Broken(text)
        }
    }
}

/// The client of one server.
pub struct Client {
    origin: Origin,
    keeps: bool,
    inner: legacy::Client<Connector, Full<Bytes>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.origin)
    }
}

impl Client {
    /// A client of the server at `origin` that keeps up to `kept` idle connections.
    ///
    /// # Errors
    /// A file that `trust` names cannot be used.
    pub fn new(origin: Origin, trust: &Trust, kept: usize) -> Result<Self, FileError> {
        let unnamed = |error| FileError::whole(&PathBuf::from("TLS"), error);
        let mut tls = SslConnector::builder(SslMethod::tls_client()).map_err(unnamed)?;
        if origin.is_https() {
            verify(&mut tls, trust)?;
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Requests are small; waiting to fill a segment only delays them.
        tcp.set_nodelay(true);
        let mut connector = HttpsConnector::with_connector(tcp, tls).map_err(unnamed)?;
        connector.set_callback(|tls, uri| {
            // The brackets of `[::1]` belong to the URL; with them it is neither an address nor a name.
            let bracketed = uri
                .host()
                .and_then(|host| host.strip_prefix('[')?.strip_suffix(']'));
            if let Some(ip) = bracketed.and_then(|ip| ip.parse::<IpAddr>().ok()) {
                tls.set_use_server_name_indication(false);
                tls.set_verify_hostname(false);
                tls.param_mut().set_ip(ip)?;
            }
            Ok(())
        });
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(kept)
            .build(connector.map_future(in_time as fn(Connecting) -> Connecting));
        Ok(Self {
            origin,
            keeps: kept > 0,
            inner,
        })
    }

    /// Sends `request`, whose URI is a path and query, and reads the whole answer.
    ///
    /// # Errors
    /// There is no whole answer of at most `limit` bytes within `time`.
    pub async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        time: Duration,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let answer = async {
            let answer = self.send(request).await?;
            Ok((answer.status(), whole(answer, limit).await?))
        };
        tokio::time::timeout(time, answer)
            .await
            .unwrap_or(Err(ClientError::TimedOut))
    }

    /// Sends `request`, whose URI is a path and query, and reads the head of the answer, for as long as that takes.
    ///
    /// # Errors
    /// There is none, or one that another reader would take for two (RFC 9112, 6.3).
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        // Not put together as text: the bytes of a path with a password in it are wiped when the last that holds them lets go.
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.origin.scheme.clone());
        parts.authority = Some(self.origin.authority.clone());
        *request.uri_mut() =
            Uri::from_parts(parts).map_err(|error| ClientError::Broken(error.to_string()))?;
        let mut answered = self.inner.request(request.clone()).await;
        // The server may have closed a kept connection just when the request was on its way.
        if self.keeps && answered.as_ref().is_err_and(|error| !error.is_connect()) {
            answered = self.inner.request(request).await;
        }
        let answer = answered?;
        if let Some(coding) = answer.headers().get(TRANSFER_ENCODING) {
            let why = if answer.headers().contains_key(CONTENT_LENGTH) {
                "it has both a Content-Length and a Transfer-Encoding"
            } else if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                "its Transfer-Encoding is not chunked alone"
            } else {
                return Ok(answer);
            };
            return Err(ClientError::Broken(why.to_owned()));
        }
        Ok(answer)
    }
}

/// The body of an answer.
///
/// # Errors
/// It broke off, or is longer than `limit` bytes.
pub async fn whole(answer: Response<Incoming>, limit: usize) -> Result<Bytes, ClientError> {
    let body = answer.into_body();
    let length = body.size_hint().lower();
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) => Err(ClientError::Broken(format!("{error} (at least {length} bytes)"))),
    }
}

fn in_time(connecting: Connecting) -> Connecting {
    Box::pin(async { tokio::time::timeout(CONNECT, connecting).await? })
}

/// What makes TLS connections to a server that `settings` let trust.
///
/// # Errors
/// A file that is named cannot be used.
#[cfg(any(
    feature = "ldap",
    feature = "mysql",
    feature = "postgresql",
    feature = "redis"
))]
pub(super) fn connector(settings: &TlsSettings) -> Result<SslConnectorBuilder, FileError> {
    let unnamed = |error| FileError::whole(&PathBuf::from("TLS"), error);
    let mut tls = SslConnector::builder(SslMethod::tls_client()).map_err(unnamed)?;
    verify(&mut tls, &Trust::Anchors(settings.clone()))?;
    Ok(tls)
}

/// An error and what it comes from.
#[cfg(any(feature = "ldap", feature = "mysql", feature = "postgresql"))]
pub(super) fn chain(error: &dyn Error) -> String {
    let causes = causes(error);
    let said = error.to_string();
    if causes.is_empty() || said.contains(&causes) {
        said
    } else {
        format!("{said}: {causes}")
    }
}

/// What an error comes from, without what it is called on the way.
fn causes(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}{}{said}", if text.is_empty() { "" } else { ": " });
        }
        source = cause.source();
    }
    text
}

fn verify(tls: &mut SslConnectorBuilder, trust: &Trust) -> Result<(), FileError> {
    let unnamed = |error| FileError::whole(&PathBuf::from("TLS"), error);
    tls.set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(unnamed)?;
    tls.set_session_cache_size(SESSIONS);
    let settings = match trust {
        Trust::Anchors(settings) => settings,
        Trust::Pinned(own) => {
            let own = own.to_der().map_err(unnamed)?;
            tls.set_verify_callback(SslVerifyMode::PEER, move |_, context| {
                let shown = context.chain().and_then(|chain| chain.get(0)?.to_der().ok());
                let is_own = shown.is_some_and(|shown| shown == own);
                context.set_error(if is_own {
                    X509VerifyResult::OK
                } else {
                    X509VerifyResult::APPLICATION_VERIFICATION
                });
                is_own
            });
            return Ok(());
        }
    };
    if let Some(file) = &settings.ca_file {
        // The system's anchors were loaded by the builder; a given file stands alone.
        let store = openssl::x509::store::X509StoreBuilder::new().map_err(unnamed)?;
        tls.set_cert_store(store.build());
        tls.set_ca_file(file)
            .map_err(|_| FileError::whole(file, "no certificate in PEM can be read from this"))?;
    }
    if let Some(file) = &settings.cert_file {
        tls.set_certificate_chain_file(file)
            .map_err(|_| FileError::whole(file, "no certificate in PEM can be read from this"))?;
    }
    if let Some(file) = &settings.key_file {
        let wrong = "no private key in PEM for that certificate can be read from this";
        tls.set_private_key_file(file, SslFiletype::PEM)
            .map_err(|_| FileError::whole(file, wrong))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_into_server_and_path() {
        let (origin, path) = Origin::of("http://[::1]:8080/auth?x=${clientid}#f").unwrap();
        assert_eq!(origin.to_string(), "http://[::1]:8080");
        assert_eq!(path, "/auth?x=${clientid}");
        let (origin, path) = Origin::of("https://auth.example").unwrap();
        assert_eq!(
            (origin.to_string().as_str(), path.as_str()),
            ("https://auth.example", "/")
        );
        assert_eq!(origin.or_port(1).to_string(), "https://auth.example:1");
        assert_eq!(Origin::of("https://h?x=1").unwrap().1, "/?x=1");
        for bad in [
            "auth.example/x",
            "ftp://h/",
            "http:///x",
            "http://:80/",
            "http://${clientid}/",
            "http://u:p@h/",
            "http://h h/",
        ] {
            assert!(Origin::of(bad).is_err(), "{bad}");
        }
    }
}
