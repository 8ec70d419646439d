//! Who is banned, until when and why, kept in the state directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use portcullis_proto::policy::bans::{BanKind, Banned, Bans};
use portcullis_proto::types::metrics::{Descriptor, Exposes, LabelPair, Samples};
use portcullis_proto::types::reason::Label as _;
use serde::{Deserialize, Serialize};

use super::atomic::{self, DirectoryLock};
use super::psk_file::canonical_identity;
use super::secrets::read_secret;

/// Most bans at a time.
pub const MAX_BANS: usize = 10_000;

/// Longest reason in bytes.
pub const MAX_REASON: usize = 256;

/// The file, within the state directory.
const FILE: &str = "bans.json";

/// Bans by what they keep out.
type Book = BTreeMap<(BanKind, String), Ban>;

const BANS: Descriptor = Descriptor::gauge("bans", "Bans that are kept, by what they keep out.");

/// One ban.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Who is kept out.
    pub banned: Banned,
    /// When it was made.
    pub since: SystemTime,
    /// When it ends; `None` never.
    pub until: Option<SystemTime>,
    /// Why, for people.
    pub reason: String,
}

impl Ban {
    fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A ban as its line in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: String,
    value: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// Why a ban was not made.
#[derive(Debug)]
pub enum NotBanned {
    /// There are [`MAX_BANS`] already.
    Full,
    /// The file cannot be written.
    File(std::io::Error),
}

/// The file with the bans of a state directory.
#[must_use]
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Checks the content of such a file.
///
/// # Errors
/// It is not what was written.
pub fn check(content: &[u8]) -> Result<(), String> {
    read_all(content).map(drop)
}

/// The bans of this gateway. What changes is on disk before it is told to anyone.
#[derive(Debug)]
pub struct BanBook {
    path: PathBuf,
    all: Mutex<Book>,
}

/// Reads what is to be banned: as [`Banned::parse`], and an identity in either of its forms.
///
/// # Errors
/// What would be right.
pub fn banned(kind: BanKind, text: &str) -> Result<Banned, String> {
    match kind {
        BanKind::Identity => Banned::parse(kind, &canonical_identity(text)?),
        _ => Banned::parse(kind, text),
    }
}

impl BanBook {
    /// Reads the bans that a state directory has.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written: nobody knows then who was meant to be kept out.
    pub fn open(state_dir: &Path) -> Result<Self, String> {
        let book = Self {
            path: file(state_dir),
            all: Mutex::default(),
        };
        book.reopen()?;
        Ok(book)
    }

    /// Reads them again.
    ///
    /// # Errors
    /// As [`Self::open`]; the bans stay as they are.
    pub fn reopen(&self) -> Result<(), String> {
        let mut all = Book::new();
        if self.path.exists() {
            let content = read_secret(&self.path).map_err(|error| error.to_string())?;
            let broken = |what| {
                format!(
                    "{}: {what}; mend it, or remove it to ban nobody",
                    self.path.display()
                )
            };
            all = read_all(&content).map_err(broken)?;
        }
        *self.all() = all;
        Ok(())
    }

    /// Where they are kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn all(&self) -> MutexGuard<'_, Book> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bans that last, by kind and name.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<Ban> {
        let all = self.all();
        all.values().filter(|ban| !ban.is_over(now)).cloned().collect()
    }

    /// The same as the workers hold them. `steady` and `wall` are now.
    #[must_use]
    pub fn in_force(&self, steady: Instant, wall: SystemTime) -> Arc<Bans> {
        let all = self.list(wall).into_iter().map(|ban| {
            let left = ban
                .until
                .map(|until| until.duration_since(wall).unwrap_or_default());
            // An end that no clock reaches is none.
            (ban.banned, left.and_then(|left| steady.checked_add(left)))
        });
        Arc::new(Bans::new(all))
    }

    /// Makes a ban, in place of an older one of the same; true where there was none.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn add(&self, ban: Ban, now: SystemTime) -> Result<bool, NotBanned> {
        let mut all = self.all();
        let (next, is_new) = with(&all, ban, now)?;
        self.write(&next).map_err(NotBanned::File)?;
        *all = next;
        Ok(is_new)
    }

    /// What the file would hold with a ban, and whether there was none of the same.
    ///
    /// # Errors
    /// There are [`MAX_BANS`] already.
    pub fn text_with(&self, ban: Ban, now: SystemTime) -> Result<(Vec<u8>, bool), NotBanned> {
        let (next, is_new) = with(&self.all(), ban, now)?;
        Ok((
            text(&next).map_err(|error| NotBanned::File(error.into()))?,
            is_new,
        ))
    }

    /// What the file would hold without a ban; nothing where there is none.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn text_without(&self, banned: &Banned) -> std::io::Result<Option<Vec<u8>>> {
        let mut next = self.all().clone();
        match next.remove(&key(banned)) {
            Some(_) => Ok(Some(text(&next)?)),
            None => Ok(None),
        }
    }

    /// Lifts a ban; false where there is none.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed.
    pub fn remove(&self, banned: &Banned) -> std::io::Result<bool> {
        let mut all = self.all();
        let mut next = all.clone();
        if next.remove(&key(banned)).is_none() {
            return Ok(false);
        }
        self.write(&next)?;
        *all = next;
        Ok(true)
    }

    fn write(&self, all: &Book) -> std::io::Result<()> {
        let lock = DirectoryLock::of(&self.path)?;
        atomic::write(&lock, &self.path, &text(all)?, atomic::SECRET)
    }
}

/// `bans{kind}`.
impl Exposes for BanBook {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let all = self.all();
        for kind in BanKind::ALL {
            let count = all.keys().filter(|(of, _)| of == kind).count();
            out.number(BANS, &[("kind", kind.label())], count as f64);
        }
    }
}

fn with(all: &Book, ban: Ban, now: SystemTime) -> Result<(Book, bool), NotBanned> {
    let mut next = all.clone();
    next.retain(|_, ban| !ban.is_over(now));
    let is_new = next.insert(key(&ban.banned), ban).is_none();
    if next.len() > MAX_BANS {
        return Err(NotBanned::Full);
    }
    Ok((next, is_new))
}

fn text(all: &Book) -> serde_json::Result<Vec<u8>> {
    let lines: Vec<Line> = all.values().map(line).collect();
    let mut text = serde_json::to_vec_pretty(&lines)?;
    text.push(b'\n');
    Ok(text)
}

fn read_all(content: &[u8]) -> Result<Book, String> {
    let lines: Vec<Line> =
        serde_json::from_slice(content).map_err(|error| format!("no list of bans, line {}", error.line()))?;
    let mut all = Book::new();
    for (number, line) in (1..).zip(lines) {
        let ban = read(line).map_err(|why| format!("ban {number}: {why}"))?;
        all.insert(key(&ban.banned), ban);
    }
    Ok(all)
}

fn key(banned: &Banned) -> (BanKind, String) {
    (banned.kind(), banned.text())
}

fn line(ban: &Ban) -> Line {
    let time = |time| humantime::format_rfc3339_seconds(time).to_string();
    Line {
        kind: ban.banned.kind().label().to_owned(),
        value: ban.banned.text(),
        since: time(ban.since),
        until: ban.until.map(time),
        reason: ban.reason.clone(),
    }
}

fn read(line: Line) -> Result<Ban, String> {
    let time = |text: &str| {
        humantime::parse_rfc3339(text).map_err(|_| "expected a time such as 2027-01-31T00:00:00Z".to_owned())
    };
    let kind = kind(&line.kind).ok_or("the kind is clientid, identity or address")?;
    Ok(Ban {
        banned: banned(kind, &line.value)?,
        since: time(&line.since)?,
        until: line.until.as_deref().map(time).transpose()?,
        reason: line.reason,
    })
}

/// The kind of this name.
#[must_use]
pub fn kind(word: &str) -> Option<BanKind> {
    BanKind::ALL.iter().copied().find(|kind| kind.label() == word)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ban(kind: BanKind, text: &str, until: Option<SystemTime>) -> Ban {
        Ban {
            banned: banned(kind, text).unwrap(),
            since: SystemTime::UNIX_EPOCH,
            until,
            reason: "why".to_owned(),
        }
    }

    #[test]
    fn bans_are_there_again_after_a_restart_but_those_that_are_over() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let hour = Duration::from_secs(3600);
        let book = BanBook::open(directory.path()).unwrap();
        assert!(book.add(ban(BanKind::ClientId, "meter-7", None), now).unwrap());
        assert!(
            book.add(ban(BanKind::Identity, "hex:61ff", Some(now + hour)), now)
                .unwrap()
        );
        assert!(
            book.add(ban(BanKind::Address, "192.0.2.9/24", None), now)
                .unwrap()
        );
        assert!(
            !book
                .add(ban(BanKind::Address, "192.0.2.0/24", Some(now + hour)), now)
                .unwrap()
        );
        assert_eq!(atomic::mode_of(&directory.path().join(FILE), 0), 0o600);
        let again = BanBook::open(directory.path()).unwrap();
        assert_eq!(again.list(now), book.list(now));
        assert_eq!(again.list(now).len(), 3);
        let later = again.list(now + hour);
        assert_eq!(later.len(), 1, "{later:?}");
        let lift = banned(BanKind::ClientId, "meter-7").unwrap();
        assert!(again.remove(&lift).unwrap() && !again.remove(&lift).unwrap());
        assert!(
            BanBook::open(directory.path())
                .unwrap()
                .list(now + hour)
                .is_empty()
        );
    }

    #[test]
    fn a_printable_identity_is_one_whichever_way_it_is_written() {
        let written = banned(BanKind::Identity, "hex:6d65746572").unwrap();
        assert_eq!(written, banned(BanKind::Identity, "meter").unwrap());
        assert!(banned(BanKind::Identity, "hex:6").is_err());
    }

    #[test]
    fn a_broken_file_bans_nobody_unsaid() {
        let directory = tempfile::tempdir().unwrap();
        for (text, wanted) in [
            ("[{\"kind\":", "no list of bans"),
            (
                "[{\"kind\":\"x\",\"value\":\"y\",\"since\":\"z\"}]",
                "ban 1: the kind",
            ),
            (
                "[{\"kind\":\"address\",\"value\":\"y\",\"since\":\"2027-01-31T00:00:00Z\"}]",
                "ban 1: expected an address",
            ),
        ] {
            let path = directory.path().join(FILE);
            let lock = DirectoryLock::of(&path).unwrap();
            atomic::write(&lock, &path, text.as_bytes(), atomic::SECRET).unwrap();
            drop(lock);
            let said = BanBook::open(directory.path()).unwrap_err();
            assert!(said.contains(wanted) && said.contains(FILE), "{said}");
        }
    }

    #[test]
    fn there_is_an_end_to_bans() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let book = BanBook::open(directory.path()).unwrap();
        let many = (0..MAX_BANS).map(|n| ban(BanKind::ClientId, &format!("c{n}"), Some(now)));
        *book.all() = many.map(|ban| (key(&ban.banned), ban)).collect();
        let before = now - Duration::from_secs(1);
        let one = ban(BanKind::ClientId, "more", None);
        assert!(matches!(book.add(one.clone(), before), Err(NotBanned::Full)));
        assert_eq!(book.list(before).len(), MAX_BANS);
        assert!(book.add(one, now).unwrap(), "those that are over make room");
        assert_eq!(book.list(now).len(), 1);
    }
}
