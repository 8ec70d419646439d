//! TLS 1.3 from node to node. The key of the group stands in the place of certificates: who does not have it gets no further than the
//! handshake, and what was recorded does not open with a key that leaks later (psk_dhe_ke).

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{
    Ssl, SslAcceptor, SslConnector, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::key::GroupKey;

/// What both sides call the key.
const IDENTITY: &[u8] = b"portcullis-group\0";

/// The one suite of TLS 1.3 whose hash is that of keys without a name for it (RFC 8446, 4.2.11).
const SUITE: &str = "TLS_AES_128_GCM_SHA256";

/// How long it may take until a node can be spoken to.
const PATIENCE: Duration = Duration::from_secs(3);

/// The side that others connect to.
///
/// # Errors
/// OpenSSL has no TLS 1.3.
pub fn acceptor(key: &Arc<GroupKey>) -> Result<SslAcceptor, ErrorStack> {
    let mut tls = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server())?;
    let secret = key.derive("nodes");
    tls.set_psk_server_callback(move |_, identity, place| {
        let name = IDENTITY.strip_suffix(b"\0").unwrap_or(IDENTITY);
        if identity.is_none_or(|identity| identity != name) {
            return Ok(0);
        }
        Ok(put(place, secret.as_slice()))
    });
    tls.set_verify(SslVerifyMode::NONE);
    common(&mut tls)?;
    Ok(tls.build())
}

/// Connects to another node.
///
/// # Errors
/// It cannot be reached in time, or has another key; in words.
pub async fn connect(key: &Arc<GroupKey>, address: SocketAddr) -> Result<SslStream<TcpStream>, String> {
    let reached = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let ssl = client(key).map_err(|error| error.to_string())?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
        let shaken = Pin::new(&mut stream).connect().await;
        // A handshake that the key had no part in is nobody's of the group, however it ended.
        match shaken.is_ok() && stream.ssl().session_reused() {
            true => Ok(stream),
            false => Err("it does not have the same group.key".to_owned()),
        }
    };
    let late = |_| Err("it did not answer in time".to_owned());
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(late)
}

fn client(key: &Arc<GroupKey>) -> Result<Ssl, ErrorStack> {
    let mut tls = SslConnector::builder(SslMethod::tls_client())?;
    let secret = key.derive("nodes");
    tls.set_psk_client_callback(move |_, _, identity, place| {
        if put(identity, IDENTITY) == 0 {
            return Ok(0);
        }
        Ok(put(place, secret.as_slice()))
    });
    common(&mut tls)?;
    // Who shows a certificate did not take the key: whatever it is, it proves nothing here.
    tls.set_verify_callback(SslVerifyMode::PEER, |_, _| false);
    let mut configured = tls.build().configure()?;
    configured.set_verify_hostname(false);
    configured.into_ssl("portcullis")
}

fn common(tls: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    tls.set_ciphersuites(SUITE)?;
    tls.set_session_cache_mode(SslSessionCacheMode::OFF);
    tls.set_options(SslOptions::NO_TICKET);
    tls.set_num_tickets(0)
}

fn put(place: &mut [u8], secret: &[u8]) -> usize {
    match place.get_mut(..secret.len()) {
        Some(place) => {
            place.copy_from_slice(secret);
            secret.len()
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn key(digit: &str) -> Arc<GroupKey> {
        Arc::new(GroupKey::parse(digit.repeat(64).as_bytes()).unwrap())
    }

    async fn node(key: Arc<GroupKey>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = acceptor(&key).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
                if Pin::new(&mut stream).accept().await.is_ok() {
                    stream.write_all(b"here").await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn nodes_with_one_key_speak_and_others_get_no_word() {
        let address = node(key("1")).await;
        let mut stream = connect(&key("1"), address).await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"here");
        assert_eq!(stream.ssl().version_str(), "TLSv1.3");
        let why = connect(&key("2"), address).await.map(drop).unwrap_err();
        assert!(why.contains("group.key"), "{why}");
        // A stranger with any certificate-less TLS gets no word either.
        let mut stranger = SslConnector::builder(SslMethod::tls_client()).unwrap();
        stranger.set_verify(SslVerifyMode::NONE);
        let ssl = stranger.build().configure().unwrap().into_ssl("x").unwrap();
        let mut stream = SslStream::new(ssl, TcpStream::connect(address).await.unwrap()).unwrap();
        assert!(Pin::new(&mut stream).connect().await.is_err());
        let mut again = connect(&key("1"), address).await.unwrap();
        again.read_exact(&mut said).await.unwrap();
    }
}
