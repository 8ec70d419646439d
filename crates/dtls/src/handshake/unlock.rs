//! Chooses the pre-shared key of a handshake, and gives OpenSSL what was held back until then.

use std::sync::Arc;
use std::time::Instant;

use super::super::aead::Aead;
use super::super::cid::{CID_LEN, notes_index};
use super::super::ffi;
use super::super::hello::psk_identity;
use super::super::metrics::HandshakeResult;
use super::super::psk::{PskKey, PskKeys};
use super::super::record::{CHANGE_CIPHER_SPEC, HANDSHAKE, Header, TLS12_CID};
use super::super::suite::{KeyExchange, Suite};
use super::gate::{Gate, Ingredients, Wait};
use super::{BAD_FLIGHTS, Pending, Progress, put};

/// Records that two keys are tried on. Whoever is behind one more has neither of them, or somebody else sends records in its name.
const MAX_TRIALS: u8 = 64;

/// How the key of a handshake was chosen.
#[derive(Default)]
pub(super) struct Choice {
    /// Whether it was, or none was found.
    made: bool,
    trials: u8,
    /// The identity's keys, where one of two was taken before it could be tried, and which.
    guess: Option<(Arc<PskKeys>, Arc<PskKey>)>,
}

impl Pending {
    /// Whether a record in the clear is held until the key is chosen.
    pub(super) fn is_held(&mut self, header: &Header, record: &[u8]) -> bool {
        let body = record.get(header.header_len..).unwrap_or_default();
        match (&mut self.gate, header.kind) {
            (Some(gate), CHANGE_CIPHER_SPEC) => {
                gate.change.get_or_insert_with(|| record.to_vec());
                return true;
            }
            (Some(gate), HANDSHAKE) => return gate.hold(header.sequence, body),
            _ => {}
        }
        if header.kind == HANDSHAKE && self.asks_for_key() {
            self.gate = Gate::close(header.sequence, body).map(Box::new);
        }
        self.gate.is_some()
    }

    fn asks_for_key(&self) -> bool {
        let suite = ffi::pending_suite(self.stream.ssl());
        let uses_psk = suite.is_some_and(|suite| suite.key_exchange().uses_psk());
        uses_psk && !self.choice.made && self.keys.is_none()
    }

    /// The PSK identity that the client names, once its message is whole and as long as nobody was asked for its keys.
    pub(in super::super) fn asks_for(&self) -> Option<&[u8]> {
        let gate = self.gate.as_ref()?;
        let message = gate.message().filter(|_| matches!(gate.wait, Wait::Message))?;
        // OpenSSL has words for what is none.
        Some(psk_identity(message).unwrap_or_default())
    }

    /// The PSK identity that the client names, once its message is whole.
    pub(in super::super) fn identity(&self) -> Option<&[u8]> {
        psk_identity(self.gate.as_ref()?.message()?)
    }

    /// Somebody was asked for the identity's keys.
    pub(in super::super) fn wait_for_keys(&mut self) {
        if let Some(gate) = &mut self.gate {
            gate.wait = Wait::Keys;
        }
    }

    /// Whether an answer about keys is waited for.
    pub(in super::super) fn is_asking(&self) -> bool {
        let gate = self.gate.as_ref();
        gate.is_some_and(|gate| matches!(gate.wait, Wait::Keys))
    }

    /// The identity has these keys, or nobody knows any. `guess` says which of two to take where they cannot be tried.
    pub(in super::super) fn give_keys(
        &mut self,
        keys: Option<Arc<PskKeys>>,
        guess: impl FnOnce(&PskKeys) -> Option<Arc<PskKey>>,
    ) -> Progress {
        let Some(keys) = keys else {
            return self.unlock(None);
        };
        let [first, _, ..] = keys.keys() else {
            return self.unlock(keys.keys().first().cloned());
        };
        if self.ingredients().is_some()
            && let Some(gate) = &mut self.gate
        {
            gate.wait = Wait::Finished(keys);
            return Progress::Waiting;
        }
        let key = guess(&keys).unwrap_or_else(|| Arc::clone(first));
        self.choice.guess = Some((keys, Arc::clone(&key)));
        self.unlock(Some(key))
    }

    /// Tries the identity's keys on the client's Finished, if both are there.
    pub(in super::super) fn try_keys(&mut self, aead: &mut Aead, now: Instant) -> Progress {
        let Some(gate) = self.gate.as_ref().filter(|gate| gate.change.is_some()) else {
            return Progress::Waiting;
        };
        let Wait::Finished(keys) = &gate.wait else {
            return Progress::Waiting;
        };
        let keys = Arc::clone(keys);
        let Some(header) = Header::parse(&self.early, CID_LEN) else {
            return Progress::Waiting;
        };
        let fits = self.cids().is_some() == (header.kind == TLS12_CID);
        let opens = |key: &&Arc<PskKey>| {
            let session = self.ingredients().map(|ingredients| ingredients.with(key));
            let mut copy = self.early.clone();
            session.is_some_and(|session| aead.open(&session.client, &header, &mut copy).is_some())
        };
        let key = keys.keys().iter().filter(|_| fits).find(opens).cloned();
        if key.is_some() {
            return self.unlock(key);
        }
        self.early.clear();
        self.choice.trials += 1;
        self.doubt.get_or_insert(HandshakeResult::WrongKey);
        self.bad_flights += u8::from(std::mem::take(&mut self.changed));
        if self.bad_flights >= BAD_FLIGHTS {
            self.deadline = self.deadline.min(now);
        }
        if self.choice.trials >= MAX_TRIALS {
            return self.unlock(keys.keys().first().cloned());
        }
        Progress::Waiting
    }

    /// What the identity's keys are tried with; nothing where a key exchange, CBC, or a hello that could not be noted is in
    /// the way.
    fn ingredients(&self) -> Option<Ingredients<'_>> {
        let ssl = self.stream.ssl();
        let suite: Suite = ffi::pending_suite(ssl)?;
        let algorithm = suite
            .algorithm()
            .filter(|_| suite.key_exchange() == KeyExchange::Psk)?;
        let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
        let known =
            ssl.client_random(&mut client_random) == 32 && ssl.server_random(&mut server_random) == 32;
        let messages = if self.extended_master_secret {
            let before = ssl.ex_data(notes_index().ok()?)?.transcript.as_deref()?;
            Some([before, self.gate.as_ref()?.message()?])
        } else {
            None
        };
        known.then_some(Ingredients {
            algorithm,
            client_random,
            server_random,
            messages,
        })
    }

    /// The key that was chosen.
    pub(in super::super) fn key(&self) -> Option<&Arc<PskKey>> {
        let notes = self.stream.ssl().ex_data(notes_index().ok()?)?;
        notes.psk_key.get()
    }

    /// Where one of two keys was taken without a trial: all, and which.
    pub(in super::super) const fn guess(&self) -> Option<&(Arc<PskKeys>, Arc<PskKey>)> {
        self.choice.guess.as_ref()
    }

    /// Tells OpenSSL the key, and gives it what was held.
    fn unlock(&mut self, key: Option<Arc<PskKey>>) -> Progress {
        let Some(gate) = self.gate.take() else {
            return Progress::Waiting;
        };
        self.choice.made = true;
        let notes = notes_index()
            .ok()
            .and_then(|index| self.stream.ssl().ex_data(index));
        if let (Some(notes), Some(key)) = (notes, key) {
            notes.psk_key.get_or_init(|| key);
        }
        put(&mut self.stream, &gate.record(), self.skipped);
        let progress = self.drive();
        let Some(change) = gate.change.filter(|_| progress == Progress::Waiting) else {
            return progress;
        };
        put(&mut self.stream, &change, self.skipped);
        self.drive()
    }
}
