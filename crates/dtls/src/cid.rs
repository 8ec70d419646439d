//! Connection IDs (RFC 9146) and return routability checks (RFC 9853): what is negotiated, by extensions that OpenSSL does not
//! know.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{ExtensionContext, Ssl, SslAlert, SslContextBuilder};

use super::chains::Redeeming;
use super::ffi;
use super::hello::CLIENT_HELLO;
use super::psk::PskKey;
use super::shared::DtlsShared;

/// Bytes of the Connection IDs that we hand out.
pub const CID_LEN: usize = 8;
/// The number of the `connection_id` extension.
pub const CONNECTION_ID_EXTENSION: u16 = 54;

/// The number of the `rrc` extension (RFC 9853, 3).
pub const RRC_EXTENSION: u16 = 61;

/// Ours to be found by; the first byte is the worker, the next two are the node of a group.
pub(super) type Cid = [u8; CID_LEN];

/// What the callbacks of one handshake are told and what they note.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The Connection ID to answer with, if any.
    pub(super) offer: Option<Cid>,
    /// What the client wants in the records to it; it may be empty.
    pub(super) peer_cid: Option<Box<[u8]>>,
    /// The client knows return routability checks.
    pub(super) rrc: bool,
    /// The PSK identity that the client named, whole: OpenSSL's own copy ends at a NUL.
    pub(super) psk_identity: Option<Box<[u8]>>,
    /// The client named a PSK identity of which nobody has a key.
    pub(super) unknown_identity: bool,
    /// The key that was chosen for that identity, before OpenSSL asks for it.
    pub(super) psk_key: OnceLock<Arc<PskKey>>,
    /// Of TLS: where it is known which of two keys to take for a client, and where that is.
    pub(super) guesses: Option<(Arc<DtlsShared>, IpAddr)>,
    /// Whether it is for a WebSocket.
    pub(super) is_web: bool,
    /// The handshake messages of both sides, as far as they are needed to try keys.
    pub(super) transcript: Option<Vec<u8>>,
    /// What a ticket is redeemed by.
    pub(super) redeeming: Option<Redeeming>,
    /// Level and description of the last alert that OpenSSL opened.
    pub(super) alert: Mutex<Option<[u8; 2]>>,
}

/// Longest transcript that is noted: two hellos of clients that offer everything, and what goes with a pre-shared key.
const MAX_TRANSCRIPT: usize = 8192;

impl Notes {
    /// Notes a handshake message of either side. What came before a hello is not of this handshake (RFC 6347, 4.2.1).
    pub(super) fn note_message(&mut self, message: &[u8]) {
        let Some(transcript) = &mut self.transcript else {
            return;
        };
        if message.first() == Some(&CLIENT_HELLO) {
            transcript.clear();
        }
        if transcript.len() + message.len() > MAX_TRANSCRIPT {
            self.transcript = None;
        } else {
            transcript.extend_from_slice(message);
        }
    }

    /// The last alert that OpenSSL opened since this was asked.
    pub(super) fn take_alert(&self) -> Option<[u8; 2]> {
        self.alert.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The place of the [`Notes`] in an `Ssl`.
pub(super) fn notes_index() -> Result<Index<Ssl, Notes>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Notes>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let index = Ssl::new_ex_index::<Notes>()?;
    Ok(*INDEX.get_or_init(|| index))
}

/// Teaches a server's context the extensions.
pub(super) fn add_extensions(context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    let index = notes_index()?;
    let when =
        ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_2_SERVER_HELLO | ExtensionContext::DTLS_ONLY;
    context.add_custom_ext(
        RRC_EXTENSION,
        when,
        move |ssl, _, _| {
            // It means nothing without a Connection ID.
            let is_legacy = ffi::is_legacy(ssl);
            let notes = ssl.ex_data(index).filter(|notes| notes.rrc && !is_legacy);
            let has_cid = |notes: &Notes| notes.offer.is_some() && notes.peer_cid.is_some();
            Ok(notes.is_some_and(has_cid).then_some([]))
        },
        move |ssl, _, data, _| {
            if !data.is_empty() {
                return Err(SslAlert::DECODE_ERROR);
            }
            if let Some(notes) = ssl.ex_data_mut(index) {
                notes.rrc = true;
            }
            Ok(())
        },
    )?;
    context.add_custom_ext(
        CONNECTION_ID_EXTENSION,
        when,
        move |ssl, _, _| {
            if ffi::is_legacy(ssl)
                && let Some(notes) = ssl.ex_data_mut(index)
            {
                // OpenSSL's own records cannot carry one.
                notes.peer_cid = None;
            }
            let notes = ssl.ex_data(index).filter(|notes| notes.peer_cid.is_some());
            Ok(notes.and_then(|notes| notes.offer).map(|cid| {
                let mut answer = [0; 1 + CID_LEN];
                let [len, bytes @ ..] = &mut answer;
                *len = CID_LEN as u8;
                *bytes = cid;
                answer
            }))
        },
        move |ssl, _, data, _| {
            let (len, cid) = data.split_first().ok_or(SslAlert::DECODE_ERROR)?;
            if usize::from(*len) != cid.len() {
                return Err(SslAlert::DECODE_ERROR);
            }
            if let Some(notes) = ssl.ex_data_mut(index) {
                notes.peer_cid = notes.offer.map(|_| cid.into());
            }
            Ok(())
        },
    )
}
