//! What the `openssl` crate does not wrap. All unsafe code of this folder is here.
#![expect(
    unsafe_code,
    reason = "OpenSSL functions that the openssl crate does not wrap"
)]

pub(super) mod raw_keys;

use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::slice;
use std::sync::Mutex;
use std::time::Duration;

use foreign_types_shared::{ForeignType, ForeignTypeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, PKeyRef};
use openssl::ssl::{SslCipher, SslCipherRef, SslContextBuilder, SslRef, SslStream};
use openssl::stack::StackRef;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509Crl, X509Ref, X509VerifyResult};
use openssl_sys::{
    EVP_PKEY, SSL, SSL_CIPHER, SSL_CTX, SSL_SESSION, X509, X509_CRL, X509_STORE, stack_st_SSL_CIPHER,
};

use super::bio::Pipe;
use super::chains::id_above;
use super::cid::notes_index;
use super::hello::{empty_hello, psk_identity};
use super::record::{ALERT, HANDSHAKE};
use super::suite::Suite;

const SSL_CTRL_SET_MAX_CERT_LIST: c_int = 51;
const SSL_CTRL_SET_TICKET_KEYS: c_int = 59;
const SSL_CTRL_CHAIN_CERT: c_int = 89;
const SSL_CTRL_SET_GROUPS: c_int = 91;
const DTLS_CTRL_GET_TIMEOUT: c_int = 73;
const DTLS_CTRL_HANDLE_TIMEOUT: c_int = 74;
const SSL_OP_COOKIE_EXCHANGE: u64 = 1 << 13;
const SSL_OP_NO_TICKET: u64 = 1 << 14;

/// What became of a ticket, and what to do with it.
const TICKET_SUCCESS: c_int = 5;
const TICKET_SUCCESS_RENEW: c_int = 6;
const TICKET_IGNORE_RENEW: c_int = 2;
const TICKET_USE: c_int = 3;
const TICKET_USE_RENEW: c_int = 4;

type RedeemCallback =
    unsafe extern "C" fn(*mut SSL, *mut SSL_SESSION, *const u8, usize, c_int, *mut c_void) -> c_int;

type MessageCallback = unsafe extern "C" fn(c_int, c_int, c_int, *const c_void, usize, *mut SSL, *mut c_void);

unsafe extern "C" {
    fn EVP_PKEY_get_group_name(
        key: *const EVP_PKEY,
        name: *mut c_char,
        size: usize,
        len: *mut usize,
    ) -> c_int;
    fn DTLSv1_listen(ssl: *mut SSL, client: *mut c_void) -> c_int;
    fn BIO_ADDR_new() -> *mut c_void;
    fn BIO_ADDR_free(address: *mut c_void);
    fn SSL_set_options(ssl: *mut SSL, options: u64) -> u64;
    fn SSL_get_pending_cipher(ssl: *const SSL) -> *const SSL_CIPHER;
    fn SSL_CTX_get_ciphers(context: *const SSL_CTX) -> *mut stack_st_SSL_CIPHER;
    fn SSL_CTX_set_timeout(context: *mut SSL_CTX, seconds: c_long) -> c_long;
    fn SSL_CTX_set_session_ticket_cb(
        context: *mut SSL_CTX,
        on_issue: Option<unsafe extern "C" fn(*mut SSL, *mut c_void) -> c_int>,
        on_redeem: Option<RedeemCallback>,
        argument: *mut c_void,
    ) -> c_int;
    fn SSL_SESSION_set1_ticket_appdata(session: *mut SSL_SESSION, data: *const c_void, len: usize) -> c_int;
    fn SSL_SESSION_get0_ticket_appdata(
        session: *mut SSL_SESSION,
        data: *mut *mut c_void,
        len: *mut usize,
    ) -> c_int;
    fn SSL_SESSION_get0_peer(session: *mut SSL_SESSION) -> *mut X509;
    fn SSL_CTX_set_msg_callback(context: *mut SSL_CTX, each: Option<MessageCallback>);
    fn X509_STORE_add_crl(store: *mut X509_STORE, crl: *mut X509_CRL) -> c_int;
}

/// Shows a fresh SSL the ClientHello that its pipe holds, whose cookie is known to be good. Whether it took it.
pub(super) fn listen(stream: &mut SslStream<Pipe>) -> bool {
    // SAFETY: the SSL is alive and has its BIOs; the address is allocated here, only written to by the call, freed
    // once, and its absence is checked.
    let taken = unsafe {
        let address = BIO_ADDR_new();
        if address.is_null() {
            return false;
        }
        let taken = DTLSv1_listen(stream.ssl().as_ptr(), address);
        BIO_ADDR_free(address);
        taken
    };
    taken == 1
}

/// Brings a fresh SSL to where it expects the hello with this number, which [`listen`] cannot: it asks for cookies, and what
/// it says is thrown away. The cookie of the hello that follows is known to be good.
pub(super) fn skip_hellos(stream: &mut SslStream<Pipe>, sequence: u16) {
    // SAFETY: the SSL is alive; the options are a plain number.
    unsafe { SSL_set_options(stream.ssl().as_ptr(), SSL_OP_COOKIE_EXCHANGE) };
    for n in 0..sequence {
        stream.get_mut().put(&empty_hello(n));
        drop(stream.accept());
        drop(stream.get_mut().take());
    }
}

/// How long until this handshake wants [`handle_timeout`]; nothing when it has no flight to repeat.
pub(super) fn timeout(ssl: &SslRef) -> Option<Duration> {
    let mut left = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    // SAFETY: the SSL is alive, and this command writes one timeval.
    let armed = unsafe {
        openssl_sys::SSL_ctrl(
            ssl.as_ptr(),
            DTLS_CTRL_GET_TIMEOUT,
            0,
            ptr::from_mut(&mut left).cast::<c_void>(),
        )
    };
    let seconds = u64::try_from(left.tv_sec).unwrap_or(0);
    let micros = u64::try_from(left.tv_usec).unwrap_or(0);
    (armed == 1).then(|| Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// Repeats the last flight if its time has come. Whether the handshake may go on.
pub(super) fn handle_timeout(ssl: &SslRef) -> bool {
    // SAFETY: the SSL is alive, and this command takes no argument.
    unsafe { openssl_sys::SSL_ctrl(ssl.as_ptr(), DTLS_CTRL_HANDLE_TIMEOUT, 0, ptr::null_mut()) >= 0 }
}

/// Keeps this handshake from promising a session ticket.
pub(super) fn refuse_ticket(ssl: &SslRef) {
    // SAFETY: the SSL is alive; the options are a plain number.
    unsafe { SSL_set_options(ssl.as_ptr(), SSL_OP_NO_TICKET) };
}

/// Sets the groups of this handshake, best first.
pub(super) fn set_groups(ssl: &SslRef, groups: &[Nid]) {
    let mut numbers: Vec<c_int> = groups.iter().map(|group| group.as_raw()).collect();
    let count = c_long::try_from(numbers.len()).unwrap_or(0);
    // SAFETY: the SSL is alive; this command reads as many numbers as it is told of, and only during the call.
    unsafe {
        openssl_sys::SSL_ctrl(
            ssl.as_ptr(),
            SSL_CTRL_SET_GROUPS,
            count,
            numbers.as_mut_ptr().cast::<c_void>(),
        )
    };
}

/// Sets the most bytes of certificates that a peer may send.
pub(super) fn set_max_cert_list(context: &SslContextBuilder, bytes: usize) {
    let bytes = c_long::try_from(bytes).unwrap_or(c_long::MAX);
    // SAFETY: the context is alive; this command reads the number only.
    unsafe {
        openssl_sys::SSL_CTX_ctrl(
            context.as_ptr(),
            SSL_CTRL_SET_MAX_CERT_LIST,
            bytes,
            ptr::null_mut(),
        )
    };
}

/// Adds a certificate to the chain of the one that was set last.
///
/// # Errors
/// What OpenSSL says.
pub(super) fn add_to_chain(context: &SslContextBuilder, certificate: &X509Ref) -> Result<(), ErrorStack> {
    // SAFETY: both are alive; with this number the command takes a reference of its own.
    let added = unsafe {
        let certificate = certificate.as_ptr().cast::<c_void>();
        openssl_sys::SSL_CTX_ctrl(context.as_ptr(), SSL_CTRL_CHAIN_CERT, 1, certificate)
    };
    if added == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// Sets how long a ticket is good for.
pub(super) fn set_ticket_lifetime(context: &SslContextBuilder, lifetime: Duration) {
    let seconds = c_long::try_from(lifetime.as_secs()).unwrap_or(c_long::MAX);
    // SAFETY: the context is alive; the argument is a plain number.
    unsafe { SSL_CTX_set_timeout(context.as_ptr(), seconds) };
}

/// Sets the ticket keys: 16 bytes of name, 32 for the MAC, 32 for AES. Whether OpenSSL took them.
pub(super) fn set_ticket_keys(context: &SslContextBuilder, keys: &[u8; 80]) -> bool {
    // SAFETY: the context is alive; this command reads the 80 bytes that it is told of, and only during the call.
    let taken = unsafe {
        openssl_sys::SSL_CTX_ctrl(
            context.as_ptr(),
            SSL_CTRL_SET_TICKET_KEYS,
            80,
            keys.as_ptr().cast::<c_void>().cast_mut(),
        )
    };
    taken == 1
}

/// Notes the messages of each handshake and its PSK identity, whole, before its key is asked for, and the alerts of sessions that
/// stay OpenSSL's.
pub(super) fn note_messages(context: &SslContextBuilder) {
    unsafe extern "C" fn note(
        is_ours: c_int,
        _: c_int,
        kind: c_int,
        message: *const c_void,
        len: usize,
        ssl: *mut SSL,
        _: *mut c_void,
    ) {
        let is_alert = kind == c_int::from(ALERT) && is_ours == 0;
        if !(is_alert || kind == c_int::from(HANDSHAKE)) || message.is_null() {
            return;
        }
        // SAFETY: OpenSSL calls this with a message of that length and with an SSL that is alive and not borrowed elsewhere
        // while it reads or writes.
        let (message, ssl) = unsafe {
            (
                slice::from_raw_parts(message.cast::<u8>(), len),
                SslRef::from_ptr_mut(ssl),
            )
        };
        let Some(notes) = notes_index().ok().and_then(|index| ssl.ex_data_mut(index)) else {
            return;
        };
        if is_alert {
            notes.alert = Mutex::new(message.first_chunk().copied());
            return;
        }
        notes.note_message(message);
        if is_ours == 0
            && let Some(identity) = psk_identity(message)
        {
            notes.psk_identity = Some(identity.into());
        }
    }
    // SAFETY: the context is alive; the function is static and gets no argument.
    unsafe { SSL_CTX_set_msg_callback(context.as_ptr(), Some(note)) };
}

/// Makes every ticket carry what its session stands on: the mark of its key and the identity, or the name of the
/// chain above the client's certificate. One whose chain is not at hand is no ticket: the whole handshake follows, which shows it.
pub(super) fn mark_tickets(context: &SslContextBuilder) {
    unsafe extern "C" fn mark(ssl: *mut SSL, _: *mut c_void) -> c_int {
        // SAFETY: OpenSSL calls this with an SSL that is alive and has a session, and copies the bytes.
        unsafe {
            let ssl = SslRef::from_ptr(ssl);
            if let (Some(data), Some(session)) = (ticket_data(ssl), ssl.session()) {
                SSL_SESSION_set1_ticket_appdata(session.as_ptr(), data.as_ptr().cast(), data.len());
            }
        }
        1
    }
    unsafe extern "C" fn redeem(
        ssl: *mut SSL,
        session: *mut SSL_SESSION,
        _: *const u8,
        _: usize,
        status: c_int,
        _: *mut c_void,
    ) -> c_int {
        let taken = match status {
            TICKET_SUCCESS => TICKET_USE,
            TICKET_SUCCESS_RENEW => TICKET_USE_RENEW,
            _ => return TICKET_IGNORE_RENEW,
        };
        // SAFETY: OpenSSL calls this with an SSL and, of a ticket that it opened, a session that are alive; the certificate belongs
        // to the session.
        let is_good = unsafe {
            let peer = SSL_SESSION_get0_peer(session);
            peer.is_null()
                || may_redeem(SslRef::from_ptr(ssl), session, X509Ref::from_ptr(peer)) == Some(true)
        };
        // What a search for a chain left behind would be taken for a failure of the handshake.
        drop(ErrorStack::get());
        if is_good { taken } else { TICKET_IGNORE_RENEW }
    }
    // SAFETY: the context is alive; the functions are static and get no argument.
    unsafe {
        SSL_CTX_set_session_ticket_cb(context.as_ptr(), Some(mark), Some(redeem), ptr::null_mut());
    }
}

/// # Safety
/// `session` is alive.
unsafe fn may_redeem(ssl: &SslRef, session: *mut SSL_SESSION, certificate: &X509Ref) -> Option<bool> {
    let redeeming = ssl.ex_data(notes_index().ok()?)?.redeeming.as_ref()?;
    // SAFETY: as the caller promises.
    let named = unsafe { mark_of(session) }?;
    Some(redeeming.redeem(&named, certificate))
}

fn ticket_data(ssl: &SslRef) -> Option<Vec<u8>> {
    let notes = ssl.ex_data(notes_index().ok()?)?;
    match (notes.psk_key.get(), &notes.psk_identity) {
        (Some(key), Some(identity)) => Some([key.mark().to_be_bytes().as_slice(), identity].concat()),
        _ => Some(id_above(ssl.verified_chain()?, ssl.peer_cert_chain())?.to_vec()),
    }
}

/// What the ticket that a session was resumed by says that it stands on.
pub(super) fn ticket_mark(ssl: &SslRef) -> Option<Box<[u8]>> {
    // SAFETY: the session is alive while it is borrowed.
    unsafe { mark_of(ssl.session()?.as_ptr()) }
}

/// # Safety
/// `session` is alive.
unsafe fn mark_of(session: *mut SSL_SESSION) -> Option<Box<[u8]>> {
    let (mut data, mut len) = (ptr::null_mut::<c_void>(), 0);
    // SAFETY: what is pointed to belongs to the session; it is copied before the call ends.
    unsafe {
        let found = SSL_SESSION_get0_ticket_appdata(session, &raw mut data, &raw mut len);
        (found == 1 && !data.is_null()).then(|| slice::from_raw_parts(data.cast::<u8>(), len).into())
    }
}

/// The cipher suites of a context, best first, by their numbers at IANA with OpenSSL's names.
pub(super) fn ciphers(context: &SslContextBuilder) -> Vec<([u8; 2], String)> {
    // SAFETY: the stack belongs to the context, which outlives this borrow and is not changed meanwhile.
    let stack = unsafe {
        let stack = SSL_CTX_get_ciphers(context.as_ptr());
        if stack.is_null() {
            return Vec::new();
        }
        StackRef::<SslCipher>::from_ptr(stack)
    };
    stack
        .iter()
        .map(|cipher| (cipher.protocol_id(), cipher.name().to_owned()))
        .collect()
}

/// The suite that a handshake chose, once it has.
pub(super) fn pending_suite(ssl: &SslRef) -> Option<Suite> {
    // SAFETY: the SSL is alive; what is pointed to is static.
    unsafe {
        let cipher = SSL_get_pending_cipher(ssl.as_ptr());
        (!cipher.is_null())
            .then(|| SslCipherRef::from_ptr(cipher.cast_mut()).protocol_id())
            .and_then(Suite::from_id)
    }
}

/// Whether a handshake that chose its suite chose one of CBC.
pub(super) fn is_legacy(ssl: &SslRef) -> bool {
    pending_suite(ssl).is_some_and(Suite::is_legacy)
}

/// Adds a revocation list to a store of trust anchors.
///
/// # Errors
/// What OpenSSL says.
pub(super) fn add_crl(store: &mut X509StoreBuilder, crl: &X509Crl) -> Result<(), ErrorStack> {
    // SAFETY: both are alive; the store takes its own reference to the list.
    let added = unsafe { X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) };
    if added == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// OpenSSL's verdict on a certificate, by its number.
pub(super) fn verify_result(code: i32) -> X509VerifyResult {
    // SAFETY: the callers' codes are numbers that OpenSSL defines as X509_V_ERR_*.
    unsafe { X509VerifyResult::from_raw(code) }
}

/// The name of an EC key's group. Asking the crate for the group would make OpenSSL copy the key first, which costs as
/// much as a signature.
pub(super) fn group_name<T: HasPublic>(key: &PKeyRef<T>) -> Option<String> {
    let (mut name, mut len) = ([0_u8; 64], 0_usize);
    // SAFETY: the key is alive; at most the length of the buffer is written to it, and the length to the number.
    let told =
        unsafe { EVP_PKEY_get_group_name(key.as_ptr(), name.as_mut_ptr().cast(), name.len(), &raw mut len) };
    let name = name.get(..len).filter(|_| told == 1)?;
    str::from_utf8(name).ok().map(str::to_owned)
}
