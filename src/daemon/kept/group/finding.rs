//! Looking where all nodes see it for the session of a record that is nobody's here, and taking it over where its node is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::state_key::StateKey;
use crate::dtls::{self, Inexact, is_next_of, may_change_nodes, shift_session};
use crate::gateway::contract::{ControlAnswer, ControlRequest};
use crate::gateway::kept::{make_inexact, owner_worker, role_of, session_of, shift_times};
use crate::gateway::nodes::{Seek, Taken};
use crate::group::metrics::LookUp;
use crate::group::sessions::{NamedRow, Seen, Sessions};
use crate::group::{Fault, Links};
use crate::state::{Clock, Contents};

use super::super::super::clock;
use super::super::seal::Sealer;
use super::rows::{ROOT, Row};
use super::{Before, Shared};

/// How often is looked which server of the engine answers.
const LOOK: Duration = Duration::from_secs(1);

/// For how long nobody is asked again for a Connection ID that is being looked for, of which there is nothing, or that was taken over.
const ASKING: Duration = Duration::from_secs(10);
const UNKNOWN: Duration = Duration::from_secs(30);
const TAKEN: Duration = Duration::from_secs(2);

/// How many steps of record numbers one who takes over goes on, at random, beyond those that are known of: an engine that came in the place of another
/// may have forgotten who took over before, and the device hears nobody whose numbers are not higher than those. Where it did come so, this many more.
const FORGOTTEN: u64 = 16;

pub(super) struct Finder {
    pub(super) sessions: Sessions,
    pub(super) shared: Shared,
    pub(super) links: Arc<Links>,
    pub(super) root: StateKey,
    pub(super) seeks: Arc<Mutex<mpsc::Receiver<Seek>>>,
    pub(super) lease: Duration,
}

impl Finder {
    pub(super) async fn run(mut self) {
        let seeks = Arc::clone(&self.seeks);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async { seeks.lock().await.recv().await };
            tokio::select! {
                _ = look.tick() => {
                    // Where it does not answer nothing is taken over until it does.
                    drop(self.sessions.known_for(clock::now()).await);
                }
                seek = next => {
                    let Some(seek) = seek else { return };
                    let result = self.seek(seek).await;
                    self.shared.group.metrics().lookups.inc(result);
                }
            }
        }
    }

    async fn seek(&mut self, seek: Seek) -> LookUp {
        let (cid, now) = (seek.cid, clock::now());
        if !self.shared.common().asks(cid, now, now + ASKING) {
            return LookUp::Asked;
        }
        let result = self.look_for(seek).await.unwrap_or(LookUp::Unavailable);
        let again = match result {
            LookUp::Unknown | LookUp::Refused => Some(UNKNOWN),
            LookUp::Taken => Some(TAKEN),
            _ => None,
        };
        self.shared
            .common()
            .ask_again(cid, again.map(|after| clock::now() + after));
        result
    }

    async fn look_for(&mut self, seek: Seek) -> Result<LookUp, Fault> {
        let Some(home) = self.shared.home() else {
            return Ok(LookUp::Unsettled);
        };
        let Some(mark) = self.sessions.find(seek.cid).await? else {
            return Ok(LookUp::Unknown);
        };
        let Some(Seen { owner, lives, row }) = self.sessions.see(mark, ROOT).await? else {
            return Ok(LookUp::Unknown);
        };
        if owner == home {
            if self.shared.common().own.contains_key(&mark) {
                // It ended here, which the engine does not know yet.
                return Ok(LookUp::Own);
            }
        } else if lives {
            let view = self.shared.group.view();
            let node = view.members.iter().find(|member| member.home == owner);
            let Some(node) = node else {
                return Ok(LookUp::OwnerLives);
            };
            self.links
                .forward(node.id, seek.listener, seek.from, &seek.record);
            return Ok(LookUp::Forwarded);
        }
        let Some(session) = self.open(mark, ROOT, &row) else {
            return Ok(LookUp::Damaged);
        };
        let contents = &session.contents;
        let is_it = may_change_nodes(contents)
            && dtls::cid_of(contents) == Some(seek.cid)
            && dtls::place_of(contents).is_some_and(|place| place.listener == seek.listener);
        if !is_it || !is_next_of(contents, &seek.record) {
            return Ok(LookUp::NotAuthentic);
        }
        if self.sessions.known_for(clock::now()).await? < self.lease * 2 {
            return Ok(LookUp::Unsettled);
        }
        let Some(rows) = self.take(mark, &owner, &home).await? else {
            return Ok(LookUp::Lost);
        };
        let is_here = self
            .install(usize::from(seek.worker.0), Taken { rows, led_by: None })
            .await;
        if !self.arrives(mark, is_here) {
            self.sessions.give_back(mark, &home, &owner).await?;
            return Ok(LookUp::Refused);
        }
        self.take_connections(mark, &owner, &home).await?;
        let led_by = Some((seek.listener, seek.from, seek.record));
        let led = Taken {
            rows: Vec::new(),
            led_by,
        };
        self.install(usize::from(seek.worker.0), led).await;
        Ok(LookUp::Taken)
    }

    /// Takes over the connections whose clients are at a session.
    async fn take_connections(&mut self, session: u64, owner: &str, home: &str) -> Result<(), Fault> {
        for mark in self.sessions.linked(session).await? {
            let seen = self
                .sessions
                .see(mark, ROOT)
                .await?
                .filter(|seen| seen.owner == owner);
            let root = seen.and_then(|seen| self.open(mark, ROOT, &seen.row));
            let Some(root) = root.filter(|root| session_of(&root.contents) == Some(session)) else {
                continue;
            };
            let workers = self.shared.workers.len();
            let worker = owner_worker(&root.contents, u8::try_from(workers).unwrap_or(u8::MAX));
            if let (Some(worker), Some(rows)) = (worker, self.take(mark, owner, home).await?) {
                let taken = Taken { rows, led_by: None };
                let is_here = self.install(usize::from(worker.0), taken).await;
                if !self.arrives(mark, is_here) {
                    self.sessions.give_back(mark, home, owner).await?;
                }
            }
        }
        Ok(())
    }

    /// Notes whether a worker took in what was taken over.
    fn arrives(&self, mark: u64, is_here: bool) -> bool {
        let mut common = self.shared.common();
        if !is_here {
            common.before.remove(&mark);
        } else if let Some(before) = common.before.get_mut(&mark) {
            before.arrived = Some(clock::now());
        }
        is_here
    }

    async fn install(&self, worker: usize, taken: Taken) -> bool {
        let request = ControlRequest::TakeOver(Arc::new(taken));
        matches!(self.shared.ask(worker, request).await, Some(ControlAnswer::Done))
    }

    fn open(&self, mark: u64, name: &[u8], sealed: &[u8]) -> Option<Row> {
        let sealer = Sealer::new(self.root.clone()).ok()?;
        Row::open(&mut sealer.opener(), mark, name, sealed)
    }

    /// Takes over what has a mark: its records as they go on here, that to which the others belong first. Nothing where another was faster.
    async fn take(&mut self, mark: u64, owner: &str, home: &str) -> Result<Option<Vec<Contents>>, Fault> {
        let Some((takes, named)) = self.sessions.take(mark, owner, home).await? else {
            return Ok(None);
        };
        let (mut rows, began) = (Vec::<(bool, Contents)>::new(), self.shared.began());
        let beyond = FORGOTTEN * u64::from(self.sessions.is_successor());
        for (name, sealed) in &named {
            let row = self.open(mark, name, sealed);
            rows.extend(row.and_then(|row| Some((name != ROOT, go_on(row, (takes, beyond), began)?))));
        }
        rows.sort_by_key(|(belongs, contents)| (*belongs, contents.kind.0));
        let names = named
            .into_iter()
            .map(|(name, _): NamedRow| name)
            .filter(|name| name != ROOT);
        let before = Before {
            takes,
            rows: names.collect(),
            arrived: None,
        };
        self.shared.common().before.insert(mark, before);
        Ok(Some(rows.into_iter().map(|(_, contents)| contents).collect()))
    }
}

/// A record as it goes on here; nothing where it cannot.
fn go_on(row: Row, (takes, beyond): (u64, u64), began: Duration) -> Option<Contents> {
    let mut contents = row.contents;
    let by = |millis| Clock::of_another(millis, row.began, began);
    let mut random = [0; 8];
    openssl::rand::rand_bytes(&mut random).ok()?;
    let random = u64::from_be_bytes(random);
    let inexact = Inexact {
        generations: takes
            .saturating_sub(row.takes)
            .max(1)
            .saturating_add(beyond + random % FORGOTTEN),
        random,
    };
    let is_read = match role_of(&contents) {
        Some(_) => shift_times(&mut contents, by),
        None => shift_session(&mut contents, by),
    };
    make_inexact(&mut contents);
    (is_read && inexact.apply(&mut contents)).then_some(contents)
}
