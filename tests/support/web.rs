//! An HTTP/1.1 server on loopback that a test answers for, with TLS where it has a certificate.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use openssl::ssl::{SslAcceptor, SslMethod};

use super::certs::Certified;

/// A request that the server got.
#[derive(Debug, Clone)]
pub struct Got {
    pub method: String,
    pub uri: String,
    /// By name in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

type Answer = dyn Fn(&Got) -> (u16, String) + Send + Sync;

/// The server; no longer asked once it is dropped.
pub struct WebServer {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    stopped: Arc<AtomicBool>,
    tls: bool,
}

impl WebServer {
    /// Answers each request with a status and a body.
    pub fn start(answer: impl Fn(&Got) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(answer))
    }

    /// The same over TLS.
    pub fn start_tls(
        pair: &Certified,
        answer: impl Fn(&Got) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&pair.certificate).unwrap();
        acceptor.set_private_key(&pair.key).unwrap();
        Self::listen(Some(acceptor.build()), Arc::new(answer))
    }

    fn listen(acceptor: Option<SslAcceptor>, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            got: Arc::default(),
            stopped: Arc::default(),
            tls: acceptor.is_some(),
        };
        let (got, stopped) = (Arc::clone(&server.got), Arc::clone(&server.stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                let (got, stopped) = (Arc::clone(&got), Arc::clone(&stopped));
                std::thread::spawn(move || match acceptor {
                    None => serve(stream, &*answer, &got, &stopped),
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream) {
                            serve(stream, &*answer, &got, &stopped);
                        }
                    }
                });
            }
        });
        server
    }

    /// `path` on this server.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// What was asked so far.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the one that accepts.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: impl Read + Write, answer: &Answer, got: &Mutex<Vec<Got>>, stopped: &AtomicBool) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        if stopped.load(Ordering::Acquire) {
            return;
        }
        got.lock().unwrap().push(request.clone());
        let (status, body) = answer(&request);
        let head = format!("HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n");
        let whole = match status {
            204 => format!("{head}\r\n"),
            _ => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        };
        if stream.get_mut().write_all(whole.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Got> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, uri) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(Got {
        method,
        uri,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}
