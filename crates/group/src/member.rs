//! A node as the engine has it while its lease lasts: readable for people, and proved by the key of the group.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portcullis_redis::cmd;
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Fault, PREFIX, bytes, parts};
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

/// Most bytes that are read of a lease: more than any node writes.
pub(crate) const LONGEST: usize = 4096;

/// The key of a node's lease.
pub(crate) fn lease_key(id: u16) -> String {
    format!("{}{id}", lease_keys())
}

/// What begins the keys of all leases.
fn lease_keys() -> String {
    format!("{PREFIX}node:")
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

/// The ids of the set KEYS 1, each with the lease under ARGV 1 and the id; of a lease ARGV 2 bytes, of ids ARGV 3. Whoever else may write
/// there must not have every node read whatever lies there, each second: what is no id is taken out, and takes no node's place.
const LEASES: &str = "local found = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if not string.find(id, '^[1-9]%d?%d?%d?%d?$') or tonumber(id) > 65535 then
    redis.call('SREM', KEYS[1], id)
  elseif #found < 2 * tonumber(ARGV[3]) then
    local lease = redis.pcall('GETRANGE', ARGV[1] .. id, 0, ARGV[2] - 1)
    found[#found + 1] = id
    found[#found + 1] = type(lease) == 'string' and lease or 'no lease'
  end
end
return found";

/// An id as nodes write it.
fn read_id(text: &[u8]) -> Option<u16> {
    let id: u16 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (id != 0 && id.to_string().as_bytes() == text).then_some(id)
}

/// The nodes that live, as the engine says. Ids whose lease is over are forgotten there.
pub(crate) async fn living(engine: &mut Engine, key: &GroupKey) -> Result<Living, Fault> {
    let mut asking = cmd("EVAL");
    asking.arg(LEASES).arg(1).arg(index_key());
    asking.arg(lease_keys()).arg(LONGEST).arg(MAX_MEMBERS);
    let mut found = parts(engine.ask(&asking).await?).into_iter().map(bytes);
    let mut leases = BTreeMap::new();
    while let (Some(id), Some(lease)) = (found.next(), found.next()) {
        if let Some(id) = id.as_deref().and_then(read_id) {
            leases.insert(id, lease.unwrap_or_default());
        }
    }
    let (mut living, mut gone) = (Living::default(), Vec::new());
    for (id, lease) in leases {
        match Member::read(id, &lease, key) {
            _ if lease.is_empty() => gone.push(id),
            Some(member) => living.members.push(member),
            None => living.foreign.push(id),
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
