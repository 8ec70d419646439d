//! Raw public keys (RFC 7250), which OpenSSL has from 3.2 on.

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Public};
use openssl::ssl::{SslContextBuilder, SslRef};
use openssl::x509::X509StoreContextRef;

/// Whether the OpenSSL that this is built against has them.
pub(in super::super) const SUPPORTED: bool = cfg!(openssl_rpk);

#[cfg(openssl_rpk)]
mod wrapped {
    use std::ffi::c_int;

    use foreign_types_shared::ForeignTypeRef;
    use openssl::pkey::PKeyRef;
    use openssl_sys::{EVP_PKEY, SSL, SSL_CTX, X509_STORE_CTX};

    use super::super::super::hello::{RAW_KEY, X509};
    use super::{ErrorStack, PKey, Public, SslContextBuilder, SslRef, X509StoreContextRef};

    unsafe extern "C" {
        fn SSL_CTX_set1_server_cert_type(context: *mut SSL_CTX, kinds: *const u8, len: usize) -> c_int;
        fn SSL_CTX_set1_client_cert_type(context: *mut SSL_CTX, kinds: *const u8, len: usize) -> c_int;
        fn SSL_set1_server_cert_type(ssl: *mut SSL, kinds: *const u8, len: usize) -> c_int;
        fn SSL_get0_peer_rpk(ssl: *const SSL) -> *mut EVP_PKEY;
        fn X509_STORE_CTX_get0_rpk(context: *const X509_STORE_CTX) -> *mut EVP_PKEY;
    }

    /// Takes both kinds of keys for the server, a certificate first, and for clients raw ones, and certificates where these are asked
    /// for.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub(in super::super::super) fn allow(
        context: &SslContextBuilder,
        certificates: bool,
    ) -> Result<(), ErrorStack> {
        let (server, client) = ([X509, RAW_KEY], [RAW_KEY, X509]);
        let count = if certificates { 2 } else { 1 };
        // SAFETY: the context is alive; the calls copy as many bytes as they are told of, which the arrays have.
        let taken = unsafe {
            SSL_CTX_set1_server_cert_type(context.as_ptr(), server.as_ptr(), server.len()) == 1
                && SSL_CTX_set1_client_cert_type(context.as_ptr(), client.as_ptr(), count) == 1
        };
        if taken { Ok(()) } else { Err(ErrorStack::get()) }
    }

    /// Shows this client a raw key rather than a certificate.
    pub(in super::super::super) fn prefer(ssl: &SslRef) {
        let kinds = [RAW_KEY, X509];
        // SAFETY: the SSL is alive; the call copies as many bytes as it is told of.
        unsafe { SSL_set1_server_cert_type(ssl.as_ptr(), kinds.as_ptr(), kinds.len()) };
    }

    /// The raw key that the peer proved to have, in this handshake or in that of the session that it resumed.
    pub(in super::super::super) fn of_peer(ssl: &SslRef) -> Option<PKey<Public>> {
        // SAFETY: the SSL is alive; what is pointed to belongs to it, and is given a reference of its own here.
        unsafe {
            let key = SSL_get0_peer_rpk(ssl.as_ptr());
            (!key.is_null()).then(|| PKeyRef::<Public>::from_ptr(key).to_owned())
        }
    }

    /// The raw key that is being verified, where it is none with a certificate.
    pub(in super::super::super) fn in_question(context: &X509StoreContextRef) -> Option<PKey<Public>> {
        // SAFETY: the context is alive; what is pointed to belongs to it, and is given a reference of its own here.
        unsafe {
            let key = X509_STORE_CTX_get0_rpk(context.as_ptr());
            (!key.is_null()).then(|| PKeyRef::<Public>::from_ptr(key).to_owned())
        }
    }
}

#[cfg(openssl_rpk)]
pub(in super::super) use wrapped::{allow, in_question, of_peer, prefer};

#[cfg(not(openssl_rpk))]
mod absent {
    use super::{ErrorStack, PKey, Public, SslContextBuilder, SslRef, X509StoreContextRef};

    /// Nothing to allow.
    ///
    /// # Errors
    /// None.
    pub(in super::super::super) const fn allow(_: &SslContextBuilder, _: bool) -> Result<(), ErrorStack> {
        Ok(())
    }

    /// There is none to show.
    pub(in super::super::super) const fn prefer(_: &SslRef) {}

    /// No peer has one.
    pub(in super::super::super) const fn of_peer(_: &SslRef) -> Option<PKey<Public>> {
        None
    }

    /// None is verified.
    pub(in super::super::super) const fn in_question(_: &X509StoreContextRef) -> Option<PKey<Public>> {
        None
    }
}

#[cfg(not(openssl_rpk))]
pub(in super::super) use absent::{allow, in_question, of_peer, prefer};
