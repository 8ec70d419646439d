//! TLS 1.2 and 1.3 with the keys, certificates and rules of DTLS, for streams. The records stay OpenSSL's.

use std::net::IpAddr;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, Ssl, SslContextBuilder, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVersion,
};

use portcullis_proto::types::Identity;

use super::cid::{Notes, notes_index};
use super::context::{Authority, DtlsContext};
use super::handshake::verdict::judge;
use super::listener::keys::unix_seconds;
use super::metrics::HandshakeResult;
use super::psk::{PskStore, identity_text};
use super::shared::DtlsShared;

/// The protocol's name, with its length before it (RFC 8323, 8.2).
const COAP: &[u8] = b"\x04coap";
/// That of WebSockets, whose handshake is HTTP's (RFC 8323, 8.4).
const HTTP: &[u8] = b"\x08http/1.1";
/// OpenSSL finds a pre-shared key of any name for the first of them.
const SUITES: &str =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256";
const SIGNATURES: &str = "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA384:RSA-PSS+SHA384:RSA+SHA384:\
                          ECDSA+SHA512:RSA-PSS+SHA512:RSA+SHA512";

/// Who came in by a TLS handshake, and by what that can be lost.
#[derive(Debug)]
pub struct TlsClient(Authority);

impl TlsClient {
    /// Who it proved to be; `None` when it has no certificate and used no PSK.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }
}

/// What holds for every TLS handshake. Nothing is resumed: a stream lasts, and who lost what lets it in must not come back by a ticket.
pub(super) fn set_policy(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    // As for DTLS: key strength is checked by ourselves.
    builder.set_security_level(0);
    builder.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_TICKET
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    builder.set_mode(
        SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    builder.set_ciphersuites(SUITES)?;
    builder.set_sigalgs_list(SIGNATURES)?;
    builder.set_alpn_select_callback(|ssl, offered| {
        let notes = notes_index().ok().and_then(|index| ssl.ex_data(index));
        let own = if notes.is_some_and(|notes| notes.is_web) {
            HTTP
        } else {
            COAP
        };
        openssl::ssl::select_next_proto(own, offered).ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(())
}

/// Chooses the key of a client that names itself: with two of them the newest, unless the other was right there before, or the newest
/// was not.
pub(super) fn choose_key(notes: &mut Notes, psks: &PskStore, named: &[u8]) {
    notes.psk_identity = Some(named.into());
    let Some(keys) = psks.get(named) else { return };
    let guesses = notes.guesses.as_ref();
    let guess = guesses.and_then(|(shared, source)| shared.guess(keys, *source));
    if let Some(key) = guess.or_else(|| keys.keys().first().cloned()) {
        // A client that is asked for a second hello names itself again.
        let _chosen_before = notes.psk_key.set(key);
    }
}

impl DtlsContext {
    /// A fresh server side of a TLS handshake with a client at `source`, for a stream or for a WebSocket.
    ///
    /// # Errors
    /// OpenSSL has no room for it.
    pub fn tls_server(
        &self,
        shared: &Arc<DtlsShared>,
        source: IpAddr,
        is_web: bool,
    ) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(self.openssl())?;
        let notes = Notes {
            guesses: Some((Arc::clone(shared), source)),
            is_web,
            ..Notes::default()
        };
        ssl.set_ex_data(notes_index()?, notes);
        ssl.set_accept_state();
        Ok(ssl)
    }

    /// Who came in by a finished TLS handshake; nothing when nobody is let in by it.
    #[must_use]
    pub fn tls_client(&self, ssl: &SslRef, shared: &DtlsShared) -> Option<TlsClient> {
        let uses_psk = match ssl.version2() {
            // Nothing else is resumed.
            Some(SslVersion::TLS1_3) => ssl.session_reused(),
            _ => ssl.current_cipher()?.name().contains("PSK"),
        };
        let authority = self.authorize_tls(ssl, uses_psk, &shared.chains)?;
        if uses_psk {
            let _two_keys = self.note_key(ssl, true);
        }
        Some(TlsClient(authority))
    }

    /// Notes that the key of a handshake was right, or that another is to be tried for the next one from there.
    fn note_key(&self, ssl: &SslRef, is_right: bool) -> Option<()> {
        let notes = ssl.ex_data(notes_index().ok()?)?;
        let (key, (shared, source)) = (notes.psk_key.get()?, notes.guesses.as_ref()?);
        if is_right {
            key.note_use(unix_seconds());
        }
        let keys = self.psks()?.get(notes.psk_identity.as_deref()?)?;
        let newest = keys.keys().first().filter(|_| keys.keys().len() > 1)?;
        let next = match is_right {
            true => Some(key).filter(|key| !Arc::ptr_eq(key, newest)),
            false => keys.keys().iter().find(|other| !Arc::ptr_eq(other, key)),
        };
        shared.guess_next(keys, *source, next);
        Some(())
    }

    /// Whether a client that came in by TLS may stay under the keys and certificates of this context.
    #[must_use]
    pub fn still_admits(&self, client: Option<&TlsClient>) -> bool {
        client.is_none_or(|client| self.still_authorizes(&client.0))
    }

    /// Why a TLS handshake failed, and the PSK identity that the client named.
    #[must_use]
    pub fn tls_failure(
        &self,
        ssl: &SslRef,
        error: Option<&ErrorStack>,
    ) -> (HandshakeResult, Option<Box<str>>) {
        // OpenSSL's `SSL_R_*`: what a key that is not the one of the store leads to.
        const DIGEST_CHECK_FAILED: i32 = 149;
        const BINDER_DOES_NOT_VERIFY: i32 = 253;
        const BAD_RECORD_MAC: i32 = 281;
        const BAD_ALERTS: [i32; 2] = [1020, 1051];
        const CERTIFICATE_ALERTS: std::ops::RangeInclusive<i32> = 1042..=1048;
        let notes = notes_index().ok().and_then(|index| ssl.ex_data(index));
        let identity = notes.and_then(|notes| notes.psk_identity.as_deref());
        let is_unknown = notes.is_some_and(|notes| notes.unknown_identity);
        let reasons = error.into_iter().flat_map(|stack| stack.errors());
        let reason = reasons
            .map(openssl::error::Error::reason_code)
            .next()
            .unwrap_or_default();
        let is_about_key = matches!(
            reason,
            DIGEST_CHECK_FAILED | BINDER_DOES_NOT_VERIFY | BAD_RECORD_MAC
        ) || BAD_ALERTS.contains(&reason);
        let result = match identity {
            Some(_) if is_unknown => HandshakeResult::UnknownIdentity,
            Some(_) if is_about_key => {
                let _two_keys = self.note_key(ssl, false);
                HandshakeResult::WrongKey
            }
            _ if CERTIFICATE_ALERTS.contains(&reason) => HandshakeResult::BadCertificate,
            _ => judge(error),
        };
        (result, identity.map(|identity| identity_text(identity).into()))
    }
}
