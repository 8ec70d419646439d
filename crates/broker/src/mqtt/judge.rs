//! What the broker ends connections over.
//!
//! A broker may hang up on a topic, a filter or a size that MQTT allows: its parser is stricter, its access rules end the
//! connection of who breaks them. Sent again on each new connection, such a packet would take the broker from everybody. So
//! all that was sent and not acknowledged when the broker ended a connection is *suspect*, and is sent on a connection of its
//! own first, while the rest goes on. What that one ends over, alone, is *condemned*: refused, and its like from then on.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::notes::Notes;
use crate::private;
use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::message::Message;

/// Topics and filters under suspicion; beyond it those that were never closer to the cause than thousands of others go first.
const MAX_SUSPECTS: usize = 20_000;
const MAX_VERDICTS: usize = 4_096;
/// More than any file of these has, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// A verdict stands so long; then its like is tried again, since rules of brokers change.
const VERDICT: Duration = Duration::from_secs(600);
/// A suspicion that nothing renewed is over after this time.
const SUSPICION: Duration = Duration::from_secs(3_600);

/// What can be judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// Publishes to a topic.
    Topic(Arc<str>),
    /// A subscribe or unsubscribe of a filter.
    Filter(Arc<str>),
}

impl Subject {
    pub(super) fn topic(message: &Message) -> Self {
        Self::Topic(message.topic.as_str().into())
    }

    fn text(&self) -> (&'static str, &str) {
        match self {
            Self::Topic(text) => ("topic", text),
            Self::Filter(text) => ("filter", text),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Suspect {
    /// It was among few when a connection ended over one of them.
    close: bool,
    until: u64,
}

#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// It holds for payloads of this size and above.
    bytes: usize,
    /// It holds for retained publishes only.
    retain: bool,
    until: u64,
}

/// Suspects and verdicts, by wall clock, so that they outlive the process.
#[derive(Debug, Default)]
pub(super) struct Judge {
    suspects: HashMap<Subject, Suspect>,
    verdicts: HashMap<Subject, Verdict>,
    path: Option<PathBuf>,
    changed: bool,
    notes: Notes,
}

impl Judge {
    /// With what an earlier process learnt, if `path` holds it.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let mut judge = Self {
            path,
            ..Self::default()
        };
        if let Some(path) = judge.path.clone()
            && judge.load(&path).is_none()
            && path.exists()
        {
            tracing::warn!(file = %path.display(), "what the broker refused before cannot be read, and is learnt again");
        }
        judge
    }

    fn load(&mut self, path: &Path) -> Option<()> {
        let mut text = Vec::new();
        let file = File::open(path).ok()?;
        file.take(MAX_FILE).read_to_end(&mut text).ok()?;
        let file: Value = serde_json::from_slice(&text).ok()?;
        for entry in file.as_array()?.iter().take(MAX_SUSPECTS + MAX_VERDICTS) {
            let text = entry.get("topic").or(entry.get("filter"))?.as_str()?;
            let subject = match entry.get("topic") {
                Some(_) => Subject::Topic(text.into()),
                None => Subject::Filter(text.into()),
            };
            let until = entry.get("until")?.as_u64()?;
            if let Some(bytes) = entry.get("bytes") {
                let verdict = Verdict {
                    bytes: usize::try_from(bytes.as_u64()?).ok()?,
                    retain: entry.get("retain")?.as_bool()?,
                    until,
                };
                self.verdicts.insert(subject, verdict);
            } else {
                self.suspects.insert(subject, Suspect { close: true, until });
            }
        }
        Some(())
    }

    /// Writes down what was learnt since the last call, should the process end. The next learns it again where that fails.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else {
            return;
        };
        let suspects = self
            .suspects
            .iter()
            .filter(|(_, suspect)| suspect.close)
            .map(|(subject, suspect)| {
                let (kind, text) = subject.text();
                json!({ kind: text, "until": suspect.until })
            });
        let verdicts = self.verdicts.iter().map(|(subject, verdict)| {
            let (kind, text) = subject.text();
            json!({ kind: text, "until": verdict.until, "bytes": verdict.bytes, "retain": verdict.retain })
        });
        let entries: Vec<Value> = suspects.chain(verdicts).collect();
        let fresh = path.with_extension("new");
        let written = private::write(&fresh, Value::from(entries).to_string().as_bytes())
            .and_then(|_| std::fs::rename(&fresh, path));
        if let Err(error) = written {
            tracing::warn!(file = %path.display(), %error, "what the broker refuses cannot be written down");
        }
        self.changed = false;
    }

    /// Whether nothing is known against anything.
    pub(super) fn is_clean(&self) -> bool {
        self.suspects.is_empty() && self.verdicts.is_empty()
    }

    /// Suspects that were not tried one by one yet decide how many are tried at once.
    pub(super) fn batch(&self) -> usize {
        (self.suspects.len() / 16).clamp(1, 64)
    }

    /// A connection ended over one of these.
    pub(super) fn accuse(&mut self, wall_millis: u64, subjects: impl IntoIterator<Item = Subject>) {
        let subjects: Vec<Subject> = subjects.into_iter().collect();
        let close = subjects.len() <= 16;
        let until = wall_millis.saturating_add(millis(SUSPICION));
        self.suspects.retain(|_, suspect| suspect.until > wall_millis);
        self.verdicts
            .retain(|_, verdict| verdict.until.saturating_add(millis(SUSPICION)) > wall_millis);
        if self.suspects.len() + subjects.len() > MAX_SUSPECTS {
            self.suspects.retain(|_, suspect| suspect.close);
        }
        for subject in subjects {
            let room = self.suspects.len() < MAX_SUSPECTS;
            if let Some(suspect) = self.suspects.get_mut(&subject) {
                suspect.close |= close;
                suspect.until = until;
            } else if room {
                self.suspects.insert(subject, Suspect { close, until });
            }
        }
        self.changed = true;
    }

    /// A connection for trials ended over one of these: each is to be tried alone.
    pub(super) fn corner(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        for subject in subjects {
            if let Some(suspect) = self.suspects.get_mut(&subject) {
                suspect.close = true;
            }
        }
        self.changed = true;
    }

    /// Names what the broker refuses in the log, one each second.
    pub(super) fn note(&mut self, now: Instant, kind: &'static str, text: &str, reason: u8) {
        if let Some(others) = self.notes.admit(now) {
            tracing::warn!(
                "the broker refuses {kind} {text:?} with reason 0x{reason:02X} ({others} more before)"
            );
        }
    }

    /// Whether it is to be tried apart: because a connection ended over it, or a verdict on it is out of date.
    pub(super) fn suspects(&self, wall_millis: u64, subject: &Subject) -> bool {
        let over = |verdict: &Verdict| verdict.until <= wall_millis;
        self.suspects.contains_key(subject) || self.verdicts.get(subject).is_some_and(over)
    }

    /// Whether it is to be tried alone, and not with others of which it may be any.
    pub(super) fn is_close(&self, subject: &Subject) -> bool {
        self.suspects.get(subject).is_none_or(|suspect| suspect.close)
    }

    /// The broker took `bytes` of it, or said no in words: it goes with the others again, but for what a verdict covers.
    pub(super) fn acquit(&mut self, subject: &Subject, bytes: usize) {
        self.suspects.remove(subject);
        if self
            .verdicts
            .get(subject)
            .is_some_and(|verdict| verdict.bytes <= bytes)
        {
            self.verdicts.remove(subject);
        }
        self.changed = true;
    }

    /// It was alone when the broker hung up. `bytes` of payload and more are refused from now on, and less is tried.
    pub(super) fn condemn(&mut self, wall_millis: u64, subject: &Subject, bytes: usize, retain: bool) {
        let until = wall_millis.saturating_add(millis(VERDICT));
        if self.verdicts.len() >= MAX_VERDICTS && !self.verdicts.contains_key(subject) {
            self.verdicts.clear();
        }
        let fresh = Verdict { bytes, retain, until };
        let verdict = self.verdicts.entry(subject.clone()).or_insert(fresh);
        *verdict = Verdict {
            bytes: verdict.bytes.min(bytes),
            retain: verdict.retain && retain,
            until,
        };
        self.accuse(wall_millis, [subject.clone()]);
    }

    /// Why a filter is refused without another try.
    pub(super) fn filter_verdict(&self, wall_millis: u64, filter: &str) -> Option<BrokerError> {
        self.verdicts
            .get(&Subject::Filter(filter.into()))
            .filter(|verdict| verdict.until > wall_millis)
            .map(|_| BrokerError::Refused)
    }

    /// Why a message is refused without another try.
    pub(super) fn verdict(&self, wall_millis: u64, message: &Message) -> Option<BrokerError> {
        if self.verdicts.is_empty() {
            return None;
        }
        let verdict = self.verdicts.get(&Subject::topic(message))?;
        let holds = verdict.until > wall_millis
            && message.payload.len() >= verdict.bytes
            && (message.retain || !verdict.retain);
        holds.then_some(BrokerError::Refused)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn a_verdict_holds_for_its_like_and_not_for_ever() {
        let mut judge = Judge::default();
        let large = message("t", "twelve bytes");
        let subject = Subject::topic(&large);
        judge.condemn(1_000, &subject, large.payload.len(), false);
        assert_eq!(judge.verdict(1_001, &large), Some(BrokerError::Refused));
        assert_eq!(judge.verdict(1_001, &message("t", "small")), None);
        assert_eq!(judge.verdict(1_001, &message("u", "twelve bytes")), None);
        assert_eq!(judge.verdict(1_000 + millis(VERDICT), &large), None);
        assert!(judge.suspects(1_001, &subject), "less of it is tried apart");
        judge.acquit(&subject, 5);
        assert!(!judge.suspects(1_001, &subject));
        assert_eq!(judge.verdict(1_001, &large), Some(BrokerError::Refused));
        assert!(
            judge.suspects(1_000 + millis(VERDICT), &subject),
            "it is tried again then"
        );
        judge.acquit(&subject, large.payload.len());
        assert!(judge.is_clean());
    }

    #[test]
    fn a_restart_keeps_what_was_learnt() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("judged.json");
        let mut judge = Judge::open(Some(path.clone()));
        let bad = message("living room/t", "x");
        judge.condemn(1_000, &Subject::topic(&bad), 1, false);
        judge.condemn(1_000, &Subject::Filter("a b".into()), 0, false);
        judge.save();
        let judge = Judge::open(Some(path.clone()));
        assert_eq!(judge.verdict(1_001, &bad), Some(BrokerError::Refused));
        assert_eq!(judge.filter_verdict(1_001, "a b"), Some(BrokerError::Refused));
        std::fs::write(&path, b"[{\"topic\": 7}]").unwrap();
        assert!(Judge::open(Some(path)).is_clean());
    }

    /// CVE-2017-9868: they name the topics of devices.
    #[test]
    fn verdicts_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("judged.json");
        let left = path.with_extension("new");
        std::fs::write(&left, "of a process that was killed").unwrap();
        std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o666)).unwrap();
        let mut judge = Judge::open(Some(path.clone()));
        judge.condemn(1_000, &Subject::Filter("ward/+/bed 7".into()), 0, false);
        judge.save();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn suspects_are_bounded() {
        let mut judge = Judge::default();
        for round in 0..3 {
            let topics = (0..15_000).map(|n| Subject::Topic(format!("{round}/{n}").into()));
            judge.accuse(1, topics);
        }
        assert!(judge.suspects.len() <= MAX_SUSPECTS);
    }
}
