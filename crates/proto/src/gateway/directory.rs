//! Which worker has which client's connection. Each client id has one home worker, chosen by its hash, whose directory decides.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use super::workers::Registration;
use crate::policy::connections::{ConnectionKey, Owner};
use crate::types::{ClientId, WorkerId};

/// The connections of the client ids whose home this worker is.
#[derive(Debug, Default)]
pub struct ClientDirectory {
    connections: HashMap<ClientId, (ConnectionKey, Owner)>,
}

impl ClientDirectory {
    /// The home of a client id; the same in every worker.
    #[must_use]
    pub fn home(client: &ClientId, workers: u8) -> WorkerId {
        // Unkeyed on purpose: all workers must agree. A peer that chooses ids for one home only crowds what one worker
        // serves anyway.
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        client.as_str().hash(&mut hasher);
        WorkerId(u8::try_from(hasher.finish() % u64::from(workers.max(1))).unwrap_or(0))
    }

    /// Notes a new connection, and says which older one has to end for it. A client id whose connection belongs to a DTLS
    /// identity is that identity's until it ends. With `join` one that the owner has already stays.
    pub(crate) fn register(
        &mut self,
        client: ClientId,
        key: ConnectionKey,
        owner: Owner,
        join: bool,
    ) -> (Registration, Option<ConnectionKey>) {
        match self.connections.get(&client) {
            Some((known, its)) if join && *its == owner => (Registration::Exists(*known), None),
            Some((_, its @ Owner::Dtls(Some(_)))) if *its != owner => (Registration::Refused, None),
            _ => {
                let older = self.connections.insert(client, (key, owner));
                (Registration::Granted, older.map(|(older, _)| older))
            }
        }
    }

    /// The worker that has the connection of a client.
    #[must_use]
    pub fn worker_of(&self, client: &ClientId) -> Option<WorkerId> {
        self.connections.get(client).map(|(key, _)| key.worker())
    }

    /// Notes that a connection ended. Whether it was known.
    pub fn ended(&mut self, client: &ClientId, key: ConnectionKey) -> bool {
        let known = self
            .connections
            .get(client)
            .is_some_and(|(known, _)| *known == key);
        if known {
            self.connections.remove(client);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Identity, Proof};

    fn dtls(name: &str) -> Owner {
        Owner::Dtls(Some(Identity::new(name, Proof::Psk)))
    }

    #[test]
    fn a_client_id_of_one_identity_is_refused_to_all_others() {
        let client = ClientId::new("meter").unwrap();
        let mut directory = ClientDirectory::default();
        let mut register =
            |key, owner, join| directory.register(client.clone(), ConnectionKey(key), owner, join);
        assert_eq!(register(1, dtls("a"), false), (Registration::Granted, None));
        for thief in [dtls("b"), Owner::Udp, Owner::Dtls(None)] {
            for join in [false, true] {
                assert_eq!(register(2, thief.clone(), join), (Registration::Refused, None));
            }
        }
        let again = register(3, dtls("a"), false);
        assert_eq!(again, (Registration::Granted, Some(ConnectionKey(1))));
        assert!(!directory.ended(&client, ConnectionKey(1)));
        assert!(directory.ended(&client, ConnectionKey(3)));
        assert!(!directory.ended(&client, ConnectionKey(3)));
    }

    #[test]
    fn a_handshake_joins_the_connection_of_its_identity_and_replaces_one_of_nobody() {
        let client = ClientId::new("meter").unwrap();
        let mut directory = ClientDirectory::default();
        let mut register =
            |key, owner, join| directory.register(client.clone(), ConnectionKey(key), owner, join);
        assert_eq!(register(1, Owner::Udp, false).0, Registration::Granted);
        let proved = register(2, dtls("meter"), true);
        assert_eq!(proved, (Registration::Granted, Some(ConnectionKey(1))));
        let next = register(3, dtls("meter"), true);
        assert_eq!(next, (Registration::Exists(ConnectionKey(2)), None));
    }
}
