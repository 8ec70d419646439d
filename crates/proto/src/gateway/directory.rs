//! Which worker has which client's connection. Each client id has one home worker, chosen by its hash, whose directory decides.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use crate::policy::connections::{ConnectionKey, Owner};
use crate::types::{ClientId, WorkerId};

#[derive(Debug)]
struct Entry {
    key: ConnectionKey,
    worker: WorkerId,
    owner: Owner,
    moves: u32,
}

/// What became of a registration.
#[derive(Debug, PartialEq, Eq)]
pub enum Registration {
    /// It stands; nobody had the client id.
    New,
    /// It stands; this older connection has to end.
    Replaces(WorkerId, ConnectionKey),
    /// The client id belongs to another DTLS identity.
    Refused,
}

/// The connections of the client ids whose home this worker is.
#[derive(Debug, Default)]
pub struct Directory {
    entries: HashMap<ClientId, Entry>,
}

impl Directory {
    /// The home of a client id; the same in every worker.
    #[must_use]
    pub fn home(client: &ClientId, workers: u8) -> WorkerId {
        // Unkeyed on purpose: all workers must agree. A peer that chooses ids for one home only crowds what one worker
        // serves anyway.
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        client.as_str().hash(&mut hasher);
        WorkerId(u8::try_from(hasher.finish() % u64::from(workers.max(1))).unwrap_or(0))
    }

    /// Notes a new connection. A client id whose connection belongs to a DTLS identity is that identity's until it ends.
    pub fn register(
        &mut self,
        client: ClientId,
        key: ConnectionKey,
        worker: WorkerId,
        owner: Owner,
    ) -> Registration {
        match self.entries.get(&client) {
            Some(Entry {
                owner: known @ Owner::Dtls(Some(_)),
                ..
            }) if *known != owner => Registration::Refused,
            _ => {
                let entry = Entry {
                    key,
                    worker,
                    owner,
                    moves: 0,
                };
                match self.entries.insert(client, entry) {
                    Some(old) => Registration::Replaces(old.worker, old.key),
                    None => Registration::New,
                }
            }
        }
    }

    /// Notes that a connection went to `worker` when it moved for the `moves`th time. Workers may be heard in any order.
    pub fn moved(&mut self, client: &ClientId, key: ConnectionKey, worker: WorkerId, moves: u32) {
        let entry = self.entries.get_mut(client);
        if let Some(entry) = entry.filter(|entry| entry.key == key && entry.moves < moves) {
            entry.worker = worker;
            entry.moves = moves;
        }
    }

    /// Notes that a connection ended.
    pub fn ended(&mut self, client: &ClientId, key: ConnectionKey) {
        if self.entries.get(client).is_some_and(|entry| entry.key == key) {
            self.entries.remove(client);
        }
    }

    /// The worker that has the client's connection.
    #[must_use]
    pub fn find(&self, client: &ClientId) -> Option<WorkerId> {
        self.entries.get(client).map(|entry| entry.worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Identity, Proof};

    fn dtls(name: &str) -> Owner {
        Owner::Dtls(Some(Identity {
            name: name.into(),
            proof: Proof::Psk,
        }))
    }

    #[test]
    fn word_of_an_earlier_move_that_comes_late_changes_nothing() {
        let client = ClientId::new("meter").unwrap();
        let mut directory = Directory::default();
        directory.register(client.clone(), ConnectionKey(1), WorkerId(0), Owner::Udp);
        directory.moved(&client, ConnectionKey(1), WorkerId(2), 2);
        directory.moved(&client, ConnectionKey(1), WorkerId(1), 1);
        assert_eq!(directory.find(&client), Some(WorkerId(2)));
    }

    #[test]
    fn a_client_id_of_one_identity_is_refused_to_all_others() {
        let client = ClientId::new("meter").unwrap();
        let mut directory = Directory::default();
        let worker = WorkerId(0);
        assert_eq!(
            directory.register(client.clone(), ConnectionKey(1), worker, dtls("a")),
            Registration::New
        );
        for thief in [dtls("b"), Owner::Udp, Owner::Dtls(None)] {
            assert_eq!(
                directory.register(client.clone(), ConnectionKey(2), worker, thief),
                Registration::Refused
            );
        }
        let again = directory.register(client.clone(), ConnectionKey(3), WorkerId(1), dtls("a"));
        assert_eq!(again, Registration::Replaces(worker, ConnectionKey(1)));
        directory.ended(&client, ConnectionKey(1));
        assert_eq!(directory.find(&client), Some(WorkerId(1)));
        directory.ended(&client, ConnectionKey(3));
        assert_eq!(directory.find(&client), None);
    }
}
