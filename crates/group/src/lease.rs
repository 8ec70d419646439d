//! The lease of this node: had, renewed three times within its time, given back.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use portcullis_redis::cmd;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::engine::{Engine, Fault, bytes, number, parts};
use super::member::{self, Member, index_key, lease_key};
use super::metrics::{GroupMetrics, LeaseState};
use super::sessions::alive_key;
use super::tickets::{Clocks, TicketBook, TicketBytes};
use super::{Asked, Settings, View, files, store};

/// Renewals within the time of a lease.
const RENEWALS: u32 = 3;

/// Ids that are tried at a time.
const TRIES: usize = 8;

/// The file with the id that this node had, within the state directory.
const FILE: &str = "group.node";

/// Takes a lease, or renews it: where nobody has it, or whoever has it is this process (ARGV 1) or the one before it (ARGV 3).
/// KEYS: the lease, the set of ids, what all share, what shows that the node with this state directory lives. Answers who has it where that is another, else the version of what
/// all share, and what stands for the time since which it did not run out: ARGV 5 from now on, where it did.
const HOLD: &str = "local held, since = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[4])
if held == false then
  since = false
  if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return {0, ''} end
elseif held == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif held == ARGV[3] then
  since = false
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
else
  return {0, string.sub(held, 1, 4096)}
end
redis.call('SADD', KEYS[2], ARGV[4])
since = since or ARGV[5]
redis.call('SET', KEYS[4], since, 'PX', ARGV[2])
return {1, string.sub(redis.call('HGET', KEYS[3], 'version') or '0', 1, 20), since}";

/// Gives a lease back, where it is still this process's.
const GIVE_BACK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[2])
  redis.call('DEL', KEYS[3])
end
return 1";

/// What a node notes for its next start.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Noted {
    id: u16,
    home: String,
}

/// Who has an id that was asked for.
enum Held {
    /// This node; and the version of what all share.
    Ours(u64),
    /// Another one, as it is written.
    Theirs(Vec<u8>),
}

pub(crate) struct Lease {
    settings: Settings,
    metrics: Arc<GroupMetrics>,
    seen: watch::Sender<View>,
    tickets: TicketBook,
    /// What kept the keys of session tickets from being looked at, the last time.
    unlooked: Option<Fault>,
    engine: Engine,
    noted: Noted,
    boot: String,
    /// The id that is held, and when it was renewed last.
    held: Option<(u16, Instant)>,
    /// What stands for the time since which the lease did not run out.
    since: Vec<u8>,
    /// Whether the lease of the process before this one may be taken over: at the start only, or two copies of one state directory
    /// would take it from each other for ever.
    inherits: bool,
}

impl Lease {
    pub(crate) fn new(
        settings: Settings,
        metrics: Arc<GroupMetrics>,
        (seen, in_use): (watch::Sender<View>, watch::Sender<Option<Arc<TicketBytes>>>),
        boot: String,
    ) -> std::io::Result<Self> {
        // A connection that went silent costs one renewal, and not the lease.
        let engine = Engine::new(settings.engine.clone()).within(settings.lease, settings.lease / RENEWALS);
        let noted = match noted(&settings.state_dir) {
            Some(noted) => noted,
            None => Noted {
                id: 0,
                home: random()?,
            },
        };
        let clocks = Clocks {
            wall: settings.wall,
            steady: settings.clock,
        };
        let (key, counted) = (Arc::clone(&settings.key), Arc::clone(&metrics));
        let tickets = TicketBook::new(key, counted, &settings.state_dir, clocks, in_use);
        Ok(Self {
            settings,
            metrics,
            seen,
            tickets,
            unlooked: None,
            engine,
            noted,
            boot,
            held: None,
            since: Vec::new(),
            inherits: true,
        })
    }

    pub(crate) async fn run(mut self, mut asked: mpsc::Receiver<Asked>) {
        let mut turn = interval(self.settings.lease / RENEWALS);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What keeps this node alive for others goes before what it is asked.
                biased;
                _ = turn.tick() => self.turn().await,
                asked = asked.recv() => match asked {
                    // Whoever waited may have lost patience.
                    Some(Asked::Leave(left)) => {
                        self.leave().await;
                        _ = left.send(());
                        return;
                    }
                    Some(Asked::Look(reply)) => {
                        self.turn().await;
                        drop(reply.send(self.seen.borrow().clone()));
                    }
                    None => return self.leave().await,
                },
            }
        }
    }

    /// Renews the lease, or tries to have one, and looks who lives.
    async fn turn(&mut self) {
        let before = self.seen.borrow().clone();
        let looked = self.look().await;
        let looked = self.metrics.counted(looked);
        let found = match looked.is_ok() {
            true => self.tickets.turn(&mut self.engine).await,
            false => Ok(false),
        };
        let found = self.metrics.counted(found);
        if !matches!(found, Ok(true)) {
            self.tickets.alone();
        }
        let unlooked = found.err();
        if let Some(fault) = unlooked
            .as_ref()
            .filter(|fault| self.unlooked.as_ref() != Some(fault))
        {
            warn!("the keys of session tickets in the engine cannot be looked at: {fault}");
        }
        self.unlooked = unlooked;
        let now = (self.settings.clock)();
        if let Some((id, renewed)) = self.held
            && now.saturating_duration_since(renewed) >= self.settings.lease
        {
            warn!(
                id,
                "the lease of this node is over: others take it for dead until it is renewed"
            );
            self.held = None;
        }
        let view = match looked {
            Ok((version, living, fault)) => View {
                node: self.held.map(|(id, _)| id),
                connected: true,
                fault: fault.or_else(|| living.foreign.first().map(|id| member::other_key(*id))),
                members: living.members,
                version,
            },
            Err(fault) => View {
                node: self.held.map(|(id, _)| id),
                connected: false,
                fault: Some(fault),
                ..before.clone()
            },
        };
        self.tell(&before, &view);
        self.seen.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
    }

    /// The version of what all share, who lives, and what keeps this node from having an id.
    async fn look(&mut self) -> Result<(u64, member::Living, Option<Fault>), Fault> {
        let (version, fault) = match self.have().await? {
            Ok(version) => (version, None),
            Err(fault) => (self.seen.borrow().version, Some(fault)),
        };
        let living = member::living(&mut self.engine, &self.settings.key).await?;
        let twin = |other: &&Member| other.name == self.settings.name && other.boot != self.boot;
        let twin = living.members.iter().find(twin).map(|other| {
            let message = format!(
                "node {} at {} has the name {:?} too: each node needs one of its own",
                other.id, other.address, other.name
            );
            Fault::new("node.name", message)
        });
        Ok((version, living, fault.or(twin)))
    }

    /// Holds an id: the one that is held, else one that is free.
    async fn have(&mut self) -> Result<Result<u64, Fault>, Fault> {
        let fixed = self.settings.node;
        for attempt in 0..TRIES {
            let id = match (self.held, fixed) {
                (Some((id, _)), _) => id,
                (None, 0) => self.candidate(attempt)?,
                (None, fixed) => fixed,
            };
            // The engine counts from when it was asked: the answer may have been long on its way.
            let asked = (self.settings.clock)();
            match self.hold(id).await? {
                Held::Ours(version) => {
                    let is_new = self.held.is_none();
                    self.held = Some((id, asked));
                    self.inherits = false;
                    if is_new {
                        info!(id, name = self.settings.name, "this node is one of its group");
                        self.note(id);
                    }
                    return Ok(Ok(version));
                }
                Held::Theirs(_) if self.held.is_some() => {
                    warn!(id, "another node has the lease of this one: it takes another");
                    self.held = None;
                    self.settings.tenure.ended();
                    // Whoever has it has the same state directory, or a copy: both cannot be this node.
                    self.noted = Noted {
                        id: 0,
                        home: random().map_err(no_randomness)?,
                    };
                }
                Held::Theirs(text) if fixed != 0 => {
                    let whose = Member::read(id, &text, &self.settings.key);
                    let whose = whose.map(|other| format!(" by {} at {}", other.name, other.address));
                    let message = format!(
                        "{id} is leased{}: choose another, or 0",
                        whose.unwrap_or_default()
                    );
                    return Ok(Err(Fault::new("group.node", message)));
                }
                Held::Theirs(_) => {}
            }
        }
        Ok(Err(Fault::new(
            "group.node",
            "no id was free of those that were tried",
        )))
    }

    /// The id that this node had, then one that its name leads to, then any.
    fn candidate(&self, attempt: usize) -> Result<u16, Fault> {
        let drawn = |seed: &[u8]| {
            let hash = openssl::sha::sha256(seed);
            let number = u16::from_be_bytes([hash[0], hash[1]]);
            number.max(1)
        };
        Ok(match attempt {
            0 if self.noted.id != 0 => self.noted.id,
            0 => drawn(self.settings.name.as_bytes()),
            _ => drawn(random().map_err(no_randomness)?.as_bytes()),
        })
    }

    async fn hold(&mut self, id: u16) -> Result<Held, Fault> {
        let mine = self.me(id).write(&self.settings.key);
        let mut before = Vec::new();
        if self.inherits {
            let mut asking = cmd("GETRANGE");
            asking.arg(lease_key(id)).arg(0).arg(member::LONGEST - 1);
            let found = bytes(self.engine.ask(&asking).await?).unwrap_or_default();
            let member = Member::read(id, &found, &self.settings.key);
            if member.is_some_and(|member| member.home == self.noted.home) {
                before = found;
            }
        }
        let asked = (self.settings.clock)();
        let mut asking = cmd("EVAL");
        asking
            .arg(HOLD)
            .arg(4)
            .arg(lease_key(id))
            .arg(index_key())
            .arg(store::key())
            .arg(alive_key(&self.noted.home));
        let millis = u64::try_from(self.settings.lease.as_millis()).unwrap_or(u64::MAX);
        let since = random().map_err(no_randomness)?;
        asking.arg(mine).arg(millis).arg(before).arg(id).arg(since);
        let mut answer = parts(self.engine.ask(&asking).await?).into_iter();
        let is_ours = answer.next().is_some_and(|first| number(first) == 1);
        let second = answer.next();
        if is_ours {
            let now = (self.settings.clock)();
            let since = answer.next().and_then(bytes).unwrap_or_default();
            let was_there = std::mem::replace(&mut self.since, since.clone()) == since;
            let (tenure, lease) = (&self.settings.tenure, self.settings.lease);
            tenure.renewed(asked, now, lease, was_there);
        }
        Ok(if is_ours {
            Held::Ours(second.map(number).unwrap_or_default())
        } else {
            Held::Theirs(second.and_then(bytes).unwrap_or_default())
        })
    }

    fn me(&self, id: u16) -> Member {
        Member {
            id,
            name: self.settings.name.clone(),
            address: self.settings.address,
            boot: self.boot.clone(),
            home: self.noted.home.clone(),
        }
    }

    fn note(&mut self, id: u16) {
        let noted = Noted {
            id,
            home: self.noted.home.clone(),
        };
        if self.noted == noted {
            return;
        }
        self.noted = noted;
        if let Err(error) = write(&self.settings.state_dir, &self.noted) {
            let path = self.settings.state_dir.join(FILE);
            warn!(
                "the id of this node may be another after a restart: {}: {error}",
                path.display()
            );
        }
    }

    /// What changed, in the log and in the numbers.
    fn tell(&self, before: &View, now: &View) {
        if before.fault != now.fault {
            match &now.fault {
                Some(fault) => warn!("group: {fault}"),
                None => info!(nodes = now.members.len(), "group: all is well"),
            }
        }
        let known = |view: &View, member: &Member| view.members.iter().any(|other| other.boot == member.boot);
        for member in now.members.iter().filter(|member| !known(before, member)) {
            info!(id = member.id, name = member.name, address = %member.address, "a node of the group is there");
        }
        for member in before.members.iter().filter(|member| !known(now, member)) {
            info!(id = member.id, name = member.name, address = %member.address, "a node of the group is gone");
        }
        let metrics = &self.metrics;
        metrics.connected.set(now.connected.into());
        metrics.nodes.set(match now.connected {
            true => u64::try_from(now.members.len()).unwrap_or(u64::MAX),
            false => 0,
        });
        metrics.node.set(now.node.unwrap_or_default().into());
        metrics.lease.set(LeaseState::Held, u64::from(now.node.is_some()));
        metrics.lease.set(LeaseState::Lost, u64::from(now.node.is_none()));
        metrics.version.set(now.version);
    }

    async fn leave(&mut self) {
        if let Some((id, _)) = self.held.take() {
            self.settings.tenure.ended();
            let mut asking = cmd("EVAL");
            asking.arg(GIVE_BACK).arg(3).arg(lease_key(id)).arg(index_key());
            asking.arg(alive_key(&self.noted.home));
            asking.arg(self.me(id).write(&self.settings.key)).arg(id);
            // Otherwise it runs out.
            drop(self.engine.ask(&asking).await);
        }
    }
}

/// 128 random bits in hexadecimal digits.
///
/// # Errors
/// OpenSSL has no randomness: without it two processes would be the same to others, and use the same nonces.
pub(crate) fn random() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn no_randomness(error: std::io::Error) -> Fault {
    Fault::new("group", format!("no randomness: {error}"))
}

fn noted(state_dir: &Path) -> Option<Noted> {
    serde_json::from_slice(&files::read(&state_dir.join(FILE), member::LONGEST).ok()?).ok()
}

fn write(state_dir: &Path, noted: &Noted) -> std::io::Result<()> {
    files::replace(
        &state_dir.join(FILE),
        serde_json::to_string(noted)?.as_bytes(),
        0o600,
    )
}
