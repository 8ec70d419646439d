//! Plaintexts on their way out.

use portcullis_proto::session::SendError;
use portcullis_proto::types::Transmits;

use super::super::contract::{CloseReason, SessionId};
use super::super::record::APPLICATION_DATA;
use super::{DtlsListener, Path};

impl DtlsListener {
    /// Seals `plaintext` into one record, which is one datagram.
    ///
    /// # Errors
    /// When nothing was sent.
    pub fn send(
        &mut self,
        session: SessionId,
        plaintext: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), SendError> {
        let key = self.sessions.by_id(session).ok_or(SendError::NoSession)?;
        if plaintext.len() > self.max_plaintext(session) {
            return Err(SendError::TooLong);
        }
        self.ping_before(key, transmits);
        let asked_from = self.asked_from.filter(|_| self.answering == Some(session));
        let cid = self.sessions.get(key).and_then(|session| session.cid.as_ref());
        let candidate = cid.and_then(|cid| cid.candidate.as_ref());
        let path = match candidate {
            Some(candidate) if asked_from == Some(candidate.address) => Path::Candidate,
            _ => Path::Bound,
        };
        match self.seal(key, path, APPLICATION_DATA, plaintext, transmits) {
            Err(SendError::KeyLimit) => {
                self.say_goodbye(key, transmits);
                self.end(key, CloseReason::KeyLimit);
                Err(SendError::KeyLimit)
            }
            result => result,
        }
    }
}
