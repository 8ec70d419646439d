//! Our records beside OpenSSL's.

use std::hint::black_box;

use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVersion};
use portcullis::dtls::aead::{Aead, Seal, SessionKeys};
use portcullis::dtls::bio::Pipe;
use portcullis::dtls::record::{APPLICATION_DATA, Header};
use portcullis::dtls::suite::Suite;

use crate::KEY;
use crate::clock::{median, timed};

const ROUNDS: usize = 15;
const PER_ROUND: usize = 2_000;

fn context(suite: Suite, is_server: bool) -> SslContext {
    let mut context = SslContextBuilder::new(SslMethod::dtls()).unwrap();
    context.set_max_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
    context.set_security_level(0);
    context
        .set_cipher_list(&format!("{}:@SECLEVEL=0", suite.openssl_name()))
        .unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU);
    if is_server {
        context.set_psk_server_callback(|_, _, key| {
            key[..16].copy_from_slice(KEY);
            Ok(16)
        });
    } else {
        context.set_psk_client_callback(|_, _, name, key| {
            name[..2].copy_from_slice(b"u\0");
            key[..16].copy_from_slice(KEY);
            Ok(16)
        });
    }
    context.build()
}

fn connected(suite: Suite) -> (SslStream<Pipe>, SslStream<Pipe>, SessionKeys) {
    let endpoint = |is_server| {
        let mut ssl = Ssl::new(&context(suite, is_server)).unwrap();
        ssl.set_mtu(1400).unwrap();
        SslStream::new(ssl, Pipe::default()).unwrap()
    };
    let (mut client, mut server) = (endpoint(false), endpoint(true));
    for _ in 0..6 {
        drop(client.connect());
        for datagram in client.get_mut().take() {
            server.get_mut().put(&datagram);
            drop(server.accept());
        }
        for datagram in server.get_mut().take() {
            client.get_mut().put(&datagram);
            drop(client.connect());
        }
    }
    let (mut master, mut a, mut b) = ([0; 48], [0; 32], [0; 32]);
    server.ssl().session().unwrap().master_key(&mut master);
    server.ssl().client_random(&mut a);
    server.ssl().server_random(&mut b);
    let keys = SessionKeys::derive(suite.algorithm().unwrap(), &master, &a, &b);
    (client, server, keys)
}

/// One line: a suite with plaintexts of `len` bytes.
pub fn records(suite: Suite, len: usize) {
    let (mut client, mut server, keys) = connected(suite);
    let plaintext = vec![7; len];
    let mut aead = Aead::default();
    let (mut times, mut out, mut buffer) = (vec![Vec::new(); 4], Vec::new(), vec![0; 17_000]);
    for _ in 0..ROUNDS {
        let mut sealed = Vec::new();
        for _ in 0..PER_ROUND {
            client.ssl_write(&plaintext).unwrap();
            sealed.push(client.get_mut().take().remove(0).into_vec());
        }
        let mut copies = sealed.clone();
        let mut next = copies.iter_mut();
        times[0].push(timed(PER_ROUND, || {
            let record = next.next().unwrap();
            let header = Header::parse(record, 8).unwrap();
            black_box(aead.open(&keys.client, &header, record).unwrap());
        }));
        let mut next = sealed.iter();
        times[1].push(timed(PER_ROUND, || {
            server.get_mut().put(next.next().unwrap());
            black_box(server.ssl_read(&mut buffer).unwrap());
        }));
        let mut sequence = 1000;
        times[2].push(timed(PER_ROUND, || {
            sequence += 1;
            out.clear();
            let what = Seal {
                kind: APPLICATION_DATA,
                sequence,
                explicit: sequence,
                cid: &[],
                plaintext: &plaintext,
            };
            aead.seal(&keys.server, &what, &mut out).unwrap();
        }));
        times[3].push(timed(PER_ROUND, || {
            black_box(server.ssl_write(&plaintext).unwrap());
        }));
        server.get_mut().take();
    }
    let [open, read, seal, write] = [0, 1, 2, 3].map(|n| median(times[n].clone()));
    println!(
        "{:<24}{len:>5} B  open {open:.2} us ({:.2} of SSL_read)  seal {seal:.2} us ({:.2} of SSL_write)",
        suite.openssl_name(),
        open / read,
        seal / write
    );
}
