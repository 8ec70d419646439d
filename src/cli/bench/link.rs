//! A device's way to the gateway: UDP, or DTLS with a pre-shared key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVersion,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::dtls::bio::{Pipe, is_waiting};
use crate::dtls::suite::Suite;
use crate::types::reason::Label as _;

/// Largest datagram.
const MAX_DATAGRAM: usize = 2048;

/// How often an unfinished handshake is looked after; OpenSSL repeats a flight when it finds it time.
const LOOK: Duration = Duration::from_millis(250);

/// Largest IP packet of a handshake flight.
const MTU: u32 = 1280;

/// A socket, and the session over it.
pub(super) struct Link {
    socket: UdpSocket,
    session: Option<SslStream<Pipe>>,
    buffer: Vec<u8>,
}

/// What all sessions of an identity are made within.
pub(super) fn context(identity: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<SslContext, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::dtls_client())?;
    context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    context.set_options(SslOptions::NO_QUERY_MTU);
    let suites = Suite::ALL
        .iter()
        .filter(|suite| suite.key_exchange().uses_psk() && !suite.is_legacy());
    let names: Vec<&str> = suites.map(|suite| suite.openssl_name()).collect();
    // CCM_8, which RFC 7252 makes mandatory, is below every other level.
    context.set_cipher_list(&format!("{}:@SECLEVEL=0", names.join(":")))?;
    context.set_psk_client_callback(move |_, _, name, secret| {
        // Without room for both there is no handshake; the name ends with a zero.
        let fits = name.len() > identity.len() && secret.len() >= key.len();
        if let (true, Some((end, name)), Some(secret)) = (
            fits,
            name.get_mut(..=identity.len()).and_then(<[u8]>::split_last_mut),
            secret.get_mut(..key.len()),
        ) {
            *end = 0;
            name.copy_from_slice(&identity);
            secret.copy_from_slice(&key);
            return Ok(key.len());
        }
        Ok(0)
    });
    Ok(context.build())
}

impl Link {
    /// Opens a socket and, with a context, makes a session by `deadline`; why not, otherwise.
    pub(super) async fn open(
        to: SocketAddr,
        context: Option<&SslContext>,
        deadline: Instant,
    ) -> Result<Self, String> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let failed = |error: std::io::Error| error.to_string();
        let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
        socket.connect(to).await.map_err(failed)?;
        let session = context
            .map(session)
            .transpose()
            .map_err(|error| error.to_string())?;
        let mut link = Self {
            socket,
            session,
            buffer: vec![0; MAX_DATAGRAM],
        };
        if link.session.is_some() {
            link.shake(deadline).await?;
        }
        Ok(link)
    }

    async fn shake(&mut self, deadline: Instant) -> Result<(), String> {
        loop {
            let Some(session) = &mut self.session else {
                return Ok(());
            };
            let outcome = session.do_handshake();
            let is_done = match outcome {
                Ok(()) => true,
                Err(error) if is_waiting(session.ssl(), &error) => false,
                Err(error) => return Err(format!("the handshake failed: {error}")),
            };
            self.flush().await;
            if is_done {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err("the handshake was not answered in time".to_owned());
            }
            let received = timeout_at(deadline.min(now + LOOK), self.socket.recv(&mut self.buffer)).await;
            match (received, &mut self.session) {
                (Ok(Ok(len)), Some(session)) => {
                    session.get_mut().put(self.buffer.get(..len).unwrap_or_default());
                }
                // A port where nobody listens yet.
                (Ok(Err(_)), _) => tokio::time::sleep(LOOK).await,
                _ => {}
            }
        }
    }

    /// Sends what the session has written. What the system does not take is as good as lost on the way.
    async fn flush(&mut self) {
        let Some(session) = &mut self.session else { return };
        for datagram in session.get_mut().take() {
            drop(self.socket.send(&datagram).await);
        }
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &[u8]) {
        match &mut self.session {
            None => drop(self.socket.send(message).await),
            Some(session) => {
                drop(session.ssl_write(message));
                self.flush().await;
            }
        }
    }

    /// The next message, appended to nothing in `into`; false at `deadline`.
    pub(super) async fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> bool {
        loop {
            into.clear();
            let received = match timeout_at(deadline, self.socket.recv(&mut self.buffer)).await {
                Err(_) => return false,
                Ok(received) => received,
            };
            let Ok(len) = received else {
                // Nobody listens there now: what is sent meanwhile is lost.
                tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)).await;
                continue;
            };
            let datagram = self.buffer.get(..len).unwrap_or_default();
            let Some(session) = &mut self.session else {
                into.extend_from_slice(datagram);
                return true;
            };
            session.get_mut().put(datagram);
            into.resize(MAX_DATAGRAM, 0);
            match session.ssl_read(into) {
                Ok(len) => {
                    into.truncate(len);
                    return true;
                }
                Err(error) => {
                    let is_over =
                        error.code() == ErrorCode::ZERO_RETURN || !is_waiting(session.ssl(), &error);
                    self.flush().await;
                    if is_over {
                        tokio::time::sleep_until(deadline).await;
                        return false;
                    }
                }
            }
        }
    }

    /// Says goodbye, so that the gateway need not keep the session.
    pub(super) async fn close(mut self) {
        if let Some(session) = &mut self.session {
            drop(session.shutdown());
        }
        self.flush().await;
    }
}

fn session(context: &SslContext) -> Result<SslStream<Pipe>, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    ssl.set_mtu(MTU)?;
    ssl.set_connect_state();
    SslStream::new(ssl, Pipe::default())
}
