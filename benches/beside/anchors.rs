//! Bare servers to stand beside: as little as can answer a CoAP request at all. Each is a child of this binary.

use std::collections::HashMap;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, UdpSocket};

use openssl::sha::sha256;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream, SslVersion,
};
use portcullis::dtls::bio::Pipe;

use crate::KEY;

/// Serves for as long as the process lives; says its port first.
pub fn serve(kind: &str, ciphers: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    println!("{}", socket.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    match kind {
        "echo" => echo(&socket),
        "batch" => batch(&socket),
        "dtls" => dtls(&socket, &context(ciphers).build()),
        "dtls-cookie" => dtls(&socket, &with_cookie(ciphers)),
        "fan" => fan(&socket),
        other => panic!("no anchor {other}"),
    }
}

/// The answer to a request: 2.04 or, to a ping, RST; its length.
fn answer(request: &[u8], out: &mut [u8]) -> usize {
    let token = usize::from(request[0] & 0x0f);
    let is_ping = request[1] == 0;
    out[..4 + token].copy_from_slice(&request[..4 + token]);
    out[0] = 0x60 | request[0] & 0x0f | if is_ping { 0x10 } else { 0 };
    out[1] = if is_ping { 0 } else { 0x44 };
    4 + token
}

/// One call for each datagram each way.
fn echo(socket: &UdpSocket) {
    let (mut request, mut out) = ([0; 2_048], [0; 64]);
    loop {
        let (length, from) = socket.recv_from(&mut request).unwrap();
        let length = answer(&request[..length], &mut out);
        socket.send_to(&out[..length], from).unwrap();
    }
}

/// As many datagrams for each call as there are, up to 64.
#[allow(unsafe_code, reason = "the standard library has no calls for many datagrams")]
fn batch(socket: &UdpSocket) {
    use std::os::fd::AsRawFd as _;
    const MANY: usize = 64;
    let mut requests = vec![[0_u8; 2_048]; MANY];
    let mut answers = vec![[0_u8; 64]; MANY];
    // SAFETY: all of these are plain numbers and pointers, for which zero is a value.
    let mut names: Vec<libc::sockaddr_in> = vec![unsafe { std::mem::zeroed() }; MANY];
    // SAFETY: as above.
    let mut headers: Vec<libc::mmsghdr> = vec![unsafe { std::mem::zeroed() }; MANY];
    let mut parts: Vec<libc::iovec> = Vec::with_capacity(MANY);
    let size = u32::try_from(size_of::<libc::sockaddr_in>()).unwrap();
    loop {
        parts.clear();
        parts.extend(requests.iter_mut().map(|request| libc::iovec {
            iov_base: request.as_mut_ptr().cast(),
            iov_len: request.len(),
        }));
        for ((header, name), part) in headers.iter_mut().zip(&mut names).zip(&mut parts) {
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        let fd = socket.as_raw_fd();
        // SAFETY: every header points to a name and to a part of their lengths, which live on.
        let got = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                64,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).expect("recvmmsg");
        for index in 0..got {
            let length = headers[index].msg_len as usize;
            let length = answer(&requests[index][..length], &mut answers[index]);
            parts[index] = libc::iovec {
                iov_base: answers[index].as_mut_ptr().cast(),
                iov_len: length,
            };
        }
        let mut sent = 0;
        while sent < got {
            let left = u32::try_from(got - sent).unwrap();
            // SAFETY: as above.
            let more = unsafe { libc::sendmmsg(fd, headers[sent..].as_mut_ptr(), left, 0) };
            sent += usize::try_from(more).expect("sendmmsg");
        }
    }
}

/// A copy of each request to all who sent a ping before, one call each.
fn fan(socket: &UdpSocket) {
    let (mut request, mut out) = ([0; 2_048], [0; 64]);
    let mut observers: Vec<SocketAddr> = Vec::new();
    loop {
        let (length, from) = socket.recv_from(&mut request).unwrap();
        if request[1] == 0 {
            observers.push(from);
        } else {
            for observer in &observers {
                socket.send_to(&request[..length], observer).unwrap();
            }
        }
        let length = answer(&request[..length], &mut out);
        socket.send_to(&out[..length], from).unwrap();
    }
}

fn context(ciphers: &str) -> SslContextBuilder {
    let mut context = SslContextBuilder::new(SslMethod::dtls()).unwrap();
    context.set_min_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
    context.set_security_level(0);
    context.set_cipher_list(ciphers).unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_psk_server_callback(|_, _, key| {
        key[..KEY.len()].copy_from_slice(KEY);
        Ok(KEY.len())
    });
    context
}

/// One that asks for a cookie first, as ours does.
fn with_cookie(ciphers: &str) -> SslContext {
    let mut context = context(ciphers);
    context.set_options(SslOptions::COOKIE_EXCHANGE);
    context.set_cookie_generate_cb(|_, cookie| {
        cookie[..32].copy_from_slice(&sha256(KEY));
        Ok(32)
    });
    context.set_cookie_verify_cb(|_, cookie| cookie == sha256(KEY));
    context.build()
}

/// OpenSSL, a session for each address, found in a table; no limit, no end.
fn dtls(socket: &UdpSocket, context: &SslContext) {
    let mut sessions: HashMap<SocketAddr, SslStream<Pipe>> = HashMap::new();
    let (mut datagram, mut request, mut out) = ([0; 2_048], [0; 2_048], [0; 64]);
    loop {
        let (length, from) = socket.recv_from(&mut datagram).unwrap();
        let session = sessions.entry(from).or_insert_with(|| {
            let mut ssl = Ssl::new(context).unwrap();
            ssl.set_mtu(1_280).unwrap();
            ssl.set_accept_state();
            SslStream::new(ssl, Pipe::default()).unwrap()
        });
        session.get_mut().put(&datagram[..length]);
        while let Ok(length) = session.ssl_read(&mut request) {
            if length == 0 {
                break;
            }
            let length = answer(&request[..length], &mut out);
            session.ssl_write(&out[..length]).unwrap();
        }
        for answer in session.get_mut().take() {
            match socket.send_to(&answer, from) {
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => panic!("{error}"),
                _ => {}
            }
        }
    }
}
