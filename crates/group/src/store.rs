//! What all nodes share, in the engine: named parts, sealed, in versions. A version is made whole or not at all.

use std::collections::BTreeMap;

use openssl::sha::sha256;
use portcullis_redis::{Cmd, cmd};
use serde::{Deserialize, Serialize};

use super::Secret;
use super::engine::{Engine, Fault, PREFIX, bytes, number, parts};
use super::key::GroupKey;

/// How often what was changed while it was read is read again.
const ATTEMPTS: usize = 5;

/// How long one node may be about a change before another takes its turn, in milliseconds.
const LOCK_MILLIS: u64 = 30_000;

/// Most bytes of all parts together, sealed; a change has half of them at most.
pub const MAX_BYTES: usize = 256 << 20;

/// Most bytes of the list of parts, sealed.
const MAX_MANIFEST: usize = 1 << 20;

/// SHA-256 of a part.
pub type Digest = [u8; 32];

/// By name what is known already of the parts.
pub type Known = BTreeMap<String, Digest>;

/// Makes the next version where nobody was faster. KEYS: the hash. ARGV: the version before, the next, the manifest, how many parts
/// are written, their fields and contents, the fields of those that are gone.
const COMMIT: &str = "if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
local last = 4 + 2 * tonumber(ARGV[4])
for at = 5, last, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
for at = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'manifest', ARGV[3])
return 1";

const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1";

/// Reads the fields ARGV 2 and on of the hash KEYS 1, of ARGV 1 bytes at most: what is longer no node wrote, and reads as nothing.
const READ: &str = "local found = {}
for at = 2, #ARGV do
  local long = redis.call('HSTRLEN', KEYS[1], ARGV[at]) > tonumber(ARGV[1])
  found[at - 1] = long and '' or redis.call('HGET', KEYS[1], ARGV[at])
end
return found";

/// What all share, as one version of it has it.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The version; 0 where nothing is shared yet.
    pub version: u64,
    /// The name of the node that made it.
    pub by: String,
    /// All parts by name, with their content where it was not known.
    pub parts: BTreeMap<String, (Digest, Option<Secret>)>,
}

/// The next version.
pub struct Commit {
    /// The version that it comes after.
    pub base: u64,
    /// Its own, a higher one.
    pub next: u64,
    /// The name of the node that makes it.
    pub by: String,
    /// The contents that are new.
    pub changed: BTreeMap<String, Secret>,
    /// All parts, those that are new included.
    pub all: Known,
    /// The names of those that were there and are not any more.
    pub gone: Vec<String>,
}

/// Which parts a version has, sealed beside them, so that nobody without the key mixes parts of several.
#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u64,
    by: String,
    parts: BTreeMap<String, String>,
    /// Bytes of each part as it stands there: who may write there has nobody read more. Nodes of before noted none.
    #[serde(default)]
    lengths: BTreeMap<String, usize>,
}

/// The digest of a part.
#[must_use]
pub fn digest(content: &[u8]) -> Digest {
    sha256(content)
}

pub(crate) fn key() -> String {
    format!("{PREFIX}config")
}

fn lock_key() -> String {
    format!("{PREFIX}config:change")
}

/// Where a part stands: its name is nobody's business there.
fn field(group: &GroupKey, name: &str) -> String {
    let proof = group.proof("part", &[name.as_bytes()]);
    format!("part:{}", hex::encode(proof.get(..16).unwrap_or_default()))
}

/// What a part is sealed as.
fn sealed_as(name: &str) -> String {
    format!("part {name}")
}

fn damaged(what: &str) -> Fault {
    let message = format!("{what} in the engine was not written with this group.key, or is damaged");
    Fault::new("group.key_file", message)
}

fn too_large(what: &str, limit: usize, has: usize) -> Fault {
    let mib = limit >> 20;
    let message = format!("{what} {mib} MiB at most, and this would be {has} bytes");
    Fault::new("group", message)
}

/// What all share: of a version below `newest` without the contents.
pub(crate) async fn fetch(
    engine: &mut Engine,
    group: &GroupKey,
    known: Known,
    newest: u64,
) -> Result<Fetched, Fault> {
    for _ in 0..ATTEMPTS {
        if let Some(fetched) = fetch_once(engine, group, &known, newest).await? {
            return Ok(fetched);
        }
    }
    Err(Fault::new(
        "group.url",
        "what all share changes faster than it can be read",
    ))
}

fn reading(limit: usize, fields: &[&str]) -> Cmd {
    let mut asking = cmd("EVAL");
    asking.arg(READ).arg(1).arg(key()).arg(limit).arg(fields);
    asking
}

/// The list of parts that stands there; nothing where nothing is shared yet.
async fn manifest(engine: &mut Engine, group: &GroupKey) -> Result<Option<Manifest>, Fault> {
    let asking = reading(MAX_MANIFEST, &["version", "manifest"]);
    let mut answer = parts(engine.ask(&asking).await?).into_iter();
    let version = answer.next().map(number).unwrap_or_default();
    if version == 0 {
        return Ok(None);
    }
    let sealed = answer.next().and_then(bytes).unwrap_or_default();
    let manifest = group
        .open("manifest", &sealed)
        .map_err(|_| damaged("the shared configuration"))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|_| damaged("the shared configuration"))?;
    if manifest.version != version {
        return Err(damaged("the version of the shared configuration"));
    }
    Ok(Some(manifest))
}

/// Nothing where it changed meanwhile.
async fn fetch_once(
    engine: &mut Engine,
    group: &GroupKey,
    known: &Known,
    newest: u64,
) -> Result<Option<Fetched>, Fault> {
    let Some(manifest) = manifest(engine, group).await? else {
        return Ok(Some(Fetched::default()));
    };
    let version = manifest.version;
    let mut found = BTreeMap::new();
    for (name, hex) in manifest.parts {
        let mut digest = [0; 32];
        hex::decode_to_slice(hex, &mut digest).map_err(|_| damaged("the shared configuration"))?;
        found.insert(name, (digest, None));
    }
    let wanted: Vec<String> = found
        .iter()
        .filter(|(name, (digest, _))| version >= newest && known.get(*name) != Some(digest))
        .map(|(name, _)| name.clone())
        .collect();
    let mut left = MAX_BYTES;
    for name in wanted {
        let longest = manifest.lengths.get(&name).copied().unwrap_or(left).min(left);
        let asking = reading(longest, &[&field(group, &name), "version"]);
        let mut read = parts(engine.ask(&asking).await?).into_iter();
        let sealed = read.next().and_then(bytes);
        let Some(sealed) = sealed.filter(|_| read.next().map(number) == Some(version)) else {
            return Ok(None);
        };
        left = left.saturating_sub(sealed.len());
        let content = group
            .open(&sealed_as(&name), &sealed)
            .map_err(|_| damaged(&name))?;
        let Some((digest, place)) = found.get_mut(&name) else {
            continue;
        };
        if self::digest(&content) != *digest {
            return Ok(None);
        }
        *place = Some(content);
    }
    Ok(Some(Fetched {
        version,
        by: manifest.by,
        parts: found,
    }))
}

/// Whether it was made: not where another version is there by now.
pub(crate) async fn commit(engine: &mut Engine, group: &GroupKey, commit: Commit) -> Result<bool, Fault> {
    let no_seal = |error: openssl::error::ErrorStack| Fault::new("group", error.to_string());
    let all: usize = commit.changed.values().map(|content| content.len()).sum();
    if all > MAX_BYTES / 2 {
        return Err(too_large("a change of what all share has", MAX_BYTES / 2, all));
    }
    let mut sealed = BTreeMap::new();
    for (name, content) in &commit.changed {
        sealed.insert(name, group.seal(&sealed_as(name), content).map_err(no_seal)?);
    }
    // Of a list that nobody can read nothing is known, and nobody can read the parts.
    let before = match manifest(engine, group).await {
        Ok(before) => before.map(|before| before.lengths).unwrap_or_default(),
        Err(fault) if fault.key == "group.key_file" => BTreeMap::new(),
        Err(fault) => return Err(fault),
    };
    let length = |name: &String| match sealed.get(name) {
        Some(sealed) => Some(sealed.len()),
        None => before.get(name).copied(),
    };
    let lengths: BTreeMap<String, usize> = commit
        .all
        .keys()
        .filter_map(|name| Some((name.clone(), length(name)?)))
        .collect();
    let all: usize = lengths.values().sum();
    if all > MAX_BYTES {
        return Err(too_large("what all share has", MAX_BYTES, all));
    }
    let manifest = Manifest {
        version: commit.next,
        by: commit.by,
        parts: commit
            .all
            .iter()
            .map(|(name, digest)| (name.clone(), hex::encode(digest)))
            .collect(),
        lengths,
    };
    let text = serde_json::to_vec(&manifest).unwrap_or_default();
    let text = group.seal("manifest", &text).map_err(no_seal)?;
    if text.len() > MAX_MANIFEST {
        return Err(too_large(
            "the list of what all share has",
            MAX_MANIFEST,
            text.len(),
        ));
    }
    let mut asking = cmd("EVAL");
    asking.arg(COMMIT).arg(1).arg(key());
    asking.arg(commit.base).arg(manifest.version);
    asking.arg(text).arg(sealed.len());
    for (name, sealed) in sealed {
        asking.arg(field(group, name)).arg(sealed);
    }
    for name in &commit.gone {
        asking.arg(field(group, name));
    }
    Ok(number(engine.ask(&asking).await?) == 1)
}

/// Takes the turn of who changes something; the name of the node whose turn it is, where it is another's.
pub(crate) async fn lock(engine: &mut Engine, holder: &str) -> Result<Option<String>, Fault> {
    let mut asking = cmd("SET");
    asking
        .arg(lock_key())
        .arg(holder)
        .arg("NX")
        .arg("PX")
        .arg(LOCK_MILLIS);
    if bytes(engine.ask(&asking).await?).is_some_and(|answer| answer == b"OK") {
        return Ok(None);
    }
    let mut asking = cmd("GETRANGE");
    asking.arg(lock_key()).arg(0).arg(255);
    let held = bytes(engine.ask(&asking).await?).unwrap_or_default();
    let held = String::from_utf8_lossy(&held);
    Ok(Some(held.split(' ').next().unwrap_or_default().to_owned()))
}

pub(crate) async fn unlock(engine: &mut Engine, holder: &str) -> Result<(), Fault> {
    let mut asking = cmd("EVAL");
    asking.arg(UNLOCK).arg(1).arg(lock_key()).arg(holder);
    engine.ask(&asking).await.map(drop)
}
