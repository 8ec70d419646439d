//! What OpenSSL's errors say about a handshake that failed.

use openssl::error::ErrorStack;

use super::super::metrics::HandshakeResult;

/// The result to count. The numbers are OpenSSL's `SSL_R_*`, the same in all its versions.
pub(crate) fn judge(errors: Option<&ErrorStack>) -> HandshakeResult {
    const NO_SHARED_CIPHER: i32 = 193;
    const NO_CIPHERS_SPECIFIED: i32 = 183;
    const BAD_SIGNATURE: i32 = 123;
    const CERTIFICATE_VERIFY_FAILED: i32 = 134;
    const NO_CERTIFICATE_RETURNED: i32 = 176;
    const PEER_DID_NOT_RETURN_A_CERTIFICATE: i32 = 199;
    const EE_KEY_TOO_SMALL: i32 = 399;
    const WRONG_CURVE: i32 = 378;
    const WRONG_SIGNATURE_TYPE: i32 = 370;
    let Some(error) = errors.and_then(|stack| stack.errors().iter().find(|error| error.library_code() == 20))
    else {
        return HandshakeResult::Protocol;
    };
    match error.reason_code() {
        NO_SHARED_CIPHER | NO_CIPHERS_SPECIFIED => HandshakeResult::NoCipher,
        BAD_SIGNATURE
        | CERTIFICATE_VERIFY_FAILED
        | NO_CERTIFICATE_RETURNED
        | PEER_DID_NOT_RETURN_A_CERTIFICATE
        | EE_KEY_TOO_SMALL
        | WRONG_CURVE
        | WRONG_SIGNATURE_TYPE => HandshakeResult::BadCertificate,
        _ => HandshakeResult::Protocol,
    }
}
