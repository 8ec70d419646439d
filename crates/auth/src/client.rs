//! A small HTTP/1.1 client for one server: a few kept connections, one time-out for all of a request, bounded answers.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::settings::TlsSettings;
use super::users::FileError;

/// Largest answer in bytes.
const MAX_ANSWER: usize = 256 << 10;
/// Connections that are kept open between requests.
const KEPT: usize = 8;

type Sender = SendRequest<Full<Bytes>>;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    host: String,
    port: u16,
    tls: bool,
    authority: HeaderValue,
}

impl Origin {
    /// Splits a URL into where the server is and what is asked of it (at least `/`).
    pub(super) fn of(url: &str) -> Result<(Self, String), String> {
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
        let uri: Uri = format!("{scheme}://{authority}/").parse().map_err(|_| form())?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(form()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(form)?;
        let origin = Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            authority: HeaderValue::from_str(authority).map_err(|_| form())?,
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok((origin, path))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ClientError {
    /// Not within the time.
    TimedOut,
    /// The connection could not be made.
    Connect(String),
    /// The connection broke, or what came is no HTTP or too long.
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

/// The client of one server.
pub(super) struct Client {
    origin: Origin,
    connector: Option<SslConnector>,
    timeout: Duration,
    kept: Mutex<Vec<Sender>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}:{})", self.origin.host, self.origin.port)
    }
}

impl Client {
    /// A client of the server at `origin`.
    pub(super) fn new(origin: Origin, tls: &TlsSettings, timeout: Duration) -> Result<Self, FileError> {
        let connector = origin.tls.then(|| connector(tls)).transpose()?;
        Ok(Self {
            origin,
            connector,
            timeout,
            kept: Mutex::default(),
        })
    }

    /// Sends `request`, whose URI is a path and query, and reads the whole answer.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        request.headers_mut().insert(HOST, self.origin.authority.clone());
        match tokio::time::timeout(self.timeout, self.send_in_time(request)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut),
        }
    }

    async fn send_in_time(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
        // The server may have closed a kept connection at any time, so what fails on one is tried on a new one.
        while let Some(sender) = self.take_kept() {
            if let Ok(answer) = self.exchange(sender, request.clone()).await {
                return Ok(answer);
            }
        }
        let sender = self.connect().await.map_err(ClientError::Connect)?;
        self.exchange(sender, request).await.map_err(ClientError::Broken)
    }

    async fn exchange(
        &self,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), String> {
        sender.ready().await.map_err(|error| error.to_string())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.into_body();
        let length = body.size_hint().lower();
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        let bytes = whole
            .map_err(|error| format!("{error} (at least {length} bytes)"))?
            .to_bytes();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(sender);
        }
        Ok((status, bytes))
    }

    fn take_kept(&self) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|sender| !sender.is_closed());
        kept.pop()
    }

    async fn connect(&self) -> Result<Sender, String> {
        let address = (&*self.origin.host, self.origin.port);
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        // Requests are small; waiting to fill a segment only delays the login.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        match &self.connector {
            None => handshake(stream).await,
            Some(connector) => {
                let ssl = connector
                    .configure()
                    .and_then(|configured| configured.into_ssl(&self.origin.host))
                    .map_err(|error| error.to_string())?;
                let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
                Pin::new(&mut stream)
                    .connect()
                    .await
                    .map_err(|error| error.to_string())?;
                handshake(stream).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<Sender, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // It ends when the sender is dropped or the server closes; what went wrong is told to the sender.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn connector(settings: &TlsSettings) -> Result<SslConnector, FileError> {
    let unnamed = |error| FileError::whole(&PathBuf::from("TLS"), error);
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(unnamed)?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(unnamed)?;
    if let Some(file) = &settings.ca_file {
        // The system's anchors were loaded by the builder; a given file stands alone.
        let store = openssl::x509::store::X509StoreBuilder::new().map_err(unnamed)?;
        builder.set_cert_store(store.build());
        builder
            .set_ca_file(file)
            .map_err(|_| FileError::whole(file, "no certificate in PEM can be read from this"))?;
    }
    if let Some(file) = &settings.cert_file {
        builder
            .set_certificate_chain_file(file)
            .map_err(|_| FileError::whole(file, "no certificate in PEM can be read from this"))?;
    }
    if let Some(file) = &settings.key_file {
        builder
            .set_private_key_file(file, SslFiletype::PEM)
            .map_err(|_| {
                FileError::whole(
                    file,
                    "no private key in PEM for that certificate can be read from this",
                )
            })?;
    }
    Ok(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_into_server_and_path() {
        let (origin, path) = Origin::of("http://[::1]:8080/auth?x=${clientid}#f").unwrap();
        assert_eq!(
            (origin.host.as_str(), origin.port, origin.tls),
            ("::1", 8080, false)
        );
        assert_eq!(path, "/auth?x=${clientid}");
        let (origin, path) = Origin::of("https://auth.example").unwrap();
        assert_eq!((origin.port, origin.tls, path.as_str()), (443, true, "/"));
        assert_eq!(Origin::of("https://h?x=1").unwrap().1, "/?x=1");
        for bad in [
            "auth.example/x",
            "ftp://h/",
            "http:///x",
            "http://${clientid}/",
            "http://u:p@h/",
            "http://h h/",
        ] {
            assert!(Origin::of(bad).is_err(), "{bad}");
        }
    }
}
