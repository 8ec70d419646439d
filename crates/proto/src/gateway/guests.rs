//! The connections that are used from one peer, whichever worker has them.

use std::sync::Arc;

use crate::policy::connections::ConnectionKey;
use crate::types::{ClientId, WorkerId};

/// A connection that is used from a peer.
#[derive(Debug)]
pub struct Guest {
    /// Which; its key names its worker.
    pub key: ConnectionKey,
    /// The client whose connection it is.
    pub client: ClientId,
    /// The user name that it was authenticated with.
    pub username: Option<Arc<str>>,
    /// Whether whoever made it is known by checked credentials or by the handshake.
    pub is_known: bool,
}

/// The connections that are used from a peer.
#[derive(Debug, Default)]
pub struct Guests {
    guests: Vec<Guest>,
    /// The workers that have them, with how many.
    owners: Vec<(WorkerId, usize)>,
}

impl Guests {
    /// Adds one.
    pub fn add(&mut self, guest: Guest) {
        let owner = guest.key.worker();
        match self.owners.iter_mut().find(|(worker, _)| *worker == owner) {
            Some((_, count)) => *count += 1,
            None => self.owners.push((owner, 1)),
        }
        self.guests.push(guest);
    }

    /// Takes one out.
    pub fn remove(&mut self, key: ConnectionKey) {
        let Some(place) = self.guests.iter().position(|guest| guest.key == key) else {
            return;
        };
        self.guests.remove(place);
        if let Some((_, count)) = self.owners.iter_mut().find(|(worker, _)| *worker == key.worker()) {
            *count -= 1;
        }
        self.owners.retain(|(_, count)| *count > 0);
    }

    /// The one of a client.
    #[must_use]
    pub(crate) fn of_client(&self, client: &ClientId) -> Option<ConnectionKey> {
        let guest = self.guests.iter().find(|guest| guest.client == *client)?;
        Some(guest.key)
    }

    /// The workers that have them, each once.
    pub(crate) fn owners(&self) -> impl Iterator<Item = WorkerId> {
        self.owners.iter().map(|(worker, _)| *worker)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Guest> {
        self.guests.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }
}
