//! A node as the engine has it while its lease lasts: readable for people, and proved by the key of the group.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portcullis_redis::cmd;
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Fault, PREFIX, bytes, number, parts};
use super::key::GroupKey;

/// Most nodes that are looked at.
pub const MAX_MEMBERS: usize = 1024;

/// A node that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, 1 to 65535.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Where other nodes reach it.
    pub address: SocketAddr,
    /// Drawn anew by each process: tells one from the next under the same id.
    pub boot: String,
    /// Drawn once for its state directory: tells a node that was started again from another one.
    pub home: String,
}

/// What stands under `node:ID`.
#[derive(Serialize, Deserialize)]
struct Written {
    name: String,
    address: SocketAddr,
    boot: String,
    home: String,
    proof: String,
}

/// Who lives.
#[derive(Debug, Default)]
pub(crate) struct Living {
    pub(crate) members: Vec<Member>,
    /// The ids of those whose lease was not written with this key.
    pub(crate) foreign: Vec<u16>,
}

/// The key of a node's lease.
pub(crate) fn lease_key(id: u16) -> String {
    format!("{PREFIX}node:{id}")
}

/// The key of the set of ids that have, or had, a lease.
pub(crate) fn index_key() -> String {
    format!("{PREFIX}nodes")
}

impl Member {
    fn proof(&self, key: &GroupKey) -> String {
        let address = self.address.to_string();
        let id = self.id.to_be_bytes();
        let parts = [
            &id[..],
            self.name.as_bytes(),
            address.as_bytes(),
            self.boot.as_bytes(),
            self.home.as_bytes(),
        ];
        hex::encode(key.proof("node", &parts).as_slice())
    }

    /// As it is written.
    pub(crate) fn write(&self, key: &GroupKey) -> String {
        let written = Written {
            name: self.name.clone(),
            address: self.address,
            boot: self.boot.clone(),
            home: self.home.clone(),
            proof: self.proof(key),
        };
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Reads what was written with the same key; nothing otherwise.
    pub(crate) fn read(id: u16, text: &[u8], key: &GroupKey) -> Option<Self> {
        let written: Written = serde_json::from_slice(text).ok()?;
        let member = Self {
            id,
            name: written.name,
            address: written.address,
            boot: written.boot,
            home: written.home,
        };
        let (wanted, shown) = (member.proof(key), written.proof);
        let is_proved =
            wanted.len() == shown.len() && openssl::memcmp::eq(wanted.as_bytes(), shown.as_bytes());
        is_proved.then_some(member)
    }
}

/// That somebody writes with another key.
pub(crate) fn other_key(id: u16) -> Fault {
    let message = format!("node {id} has another group.key: all nodes of a group need the same one");
    Fault::new("group.key_file", message)
}

/// The nodes that live, as the engine says. Ids whose lease is over are forgotten there.
pub(crate) async fn living(engine: &mut Engine, key: &GroupKey) -> Result<Living, Fault> {
    let mut asking = cmd("SMEMBERS");
    asking.arg(index_key());
    let ids = parts(engine.ask(&asking).await?).into_iter().map(number);
    let ids: BTreeSet<u16> = ids
        .filter_map(|id| u16::try_from(id).ok())
        .filter(|id| *id != 0)
        .collect();
    let ids: Vec<u16> = ids.into_iter().take(MAX_MEMBERS).collect();
    let mut living = Living::default();
    if ids.is_empty() {
        return Ok(living);
    }
    let mut asking = cmd("MGET");
    for id in &ids {
        asking.arg(lease_key(*id));
    }
    let mut gone = Vec::new();
    for (id, lease) in ids.iter().zip(parts(engine.ask(&asking).await?)) {
        match bytes(lease).map(|text| Member::read(*id, &text, key)) {
            None => gone.push(*id),
            Some(None) => living.foreign.push(*id),
            Some(Some(member)) => living.members.push(member),
        }
    }
    if !gone.is_empty() {
        // One that comes back meanwhile enters itself again with its next renewal.
        let mut asking = cmd("SREM");
        asking.arg(index_key()).arg(gone);
        engine.ask(&asking).await?;
    }
    Ok(living)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_with_its_key_and_under_its_id_only() {
        let key = |digit: &str| GroupKey::parse(digit.repeat(64).as_bytes()).unwrap();
        let member = Member {
            id: 7,
            name: "edge-7".to_owned(),
            address: ([127, 0, 0, 1], 7683).into(),
            boot: "b".to_owned(),
            home: "h".to_owned(),
        };
        let text = member.write(&key("1"));
        assert!(
            text.contains("edge-7") && text.contains("127.0.0.1:7683"),
            "{text}"
        );
        assert_eq!(Member::read(7, text.as_bytes(), &key("1")), Some(member));
        assert_eq!(Member::read(8, text.as_bytes(), &key("1")), None);
        assert_eq!(Member::read(7, text.as_bytes(), &key("2")), None);
        let moved = text.replace("7683", "7684");
        assert_eq!(Member::read(7, moved.as_bytes(), &key("1")), None);
        assert_eq!(Member::read(7, b"junk", &key("1")), None);
    }
}
