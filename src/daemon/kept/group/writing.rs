//! What this node has, written where the others see it: what changed, coalesced, in few questions.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::state_key::StateKey;
use crate::gateway::contract::ControlRequest;
use crate::group::Fault;
use crate::group::sessions::{Bundle, Sessions};

use super::super::super::clock;
use super::super::seal::Sealer;
use super::super::watched::{Known, Watched};
use super::Shared;
use super::books::{At, Books, Stands, Turn};
use super::rows::Place;

/// What changed in this time is written together.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often words are looked at that change with each packet.
const LOOK: Duration = Duration::from_secs(1);
/// Records of one turn; and bundles of one question, and bytes after which no more are added.
const MOST: usize = 4096;
const BUNDLES: usize = 64;
const BYTES: usize = 256 * 1024;
/// After a failure the engine is left alone for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// What is still to be written when the process ends may take this long.
const LAST: Duration = Duration::from_secs(3);
/// How much longer than a session may be silent it stands there: when it was heard is written now and then.
const LONGER: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    books: Books,
    sessions: Sessions,
    shared: Shared,
    sealer: Sealer,
    ttl: Duration,
    next_look: Instant,
    not_before: Instant,
    failing: bool,
    /// The gap in the lease for which all is written anew.
    gap: Option<u64>,
}

impl Writer {
    pub(super) fn new(
        stores: Vec<(u64, Watched)>,
        sessions: Sessions,
        shared: Shared,
        root: StateKey,
        idle: Duration,
    ) -> Result<Self, ErrorStack> {
        let now = clock::now();
        Ok(Self {
            books: Books::new(stores),
            sessions,
            shared,
            sealer: Sealer::new(root)?,
            ttl: idle + LONGER,
            next_look: now,
            not_before: now,
            failing: false,
            gap: None,
        })
    }

    pub(super) async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let mut turns = interval(TOGETHER);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async {
                turns.tick().await;
                if clock::now() >= self.not_before {
                    self.catch_up().await;
                }
            };
            let ends = tokio::select! {
                // What an engine that is slow has not taken by then is written once more, within the time that there is.
                _ = &mut end => true,
                () = next => false,
            };
            if ends {
                // Whatever moved at all: nobody will come later.
                self.books.look_at_all(|_| {});
                let all = async { while !self.turn(clock::now()).await.unwrap_or(true) {} };
                if tokio::time::timeout(LAST, all).await.is_err() {
                    tracing::warn!("not all of kept state is where the group sees it");
                }
                return;
            }
        }
    }

    /// Writes what is to be written. After a gap in the lease that is everything, which shows what another has by now.
    async fn catch_up(&mut self) {
        let now = clock::now();
        let gap = self
            .shared
            .tenure
            .doubt()
            .filter(|_| self.shared.home().is_some());
        if gap.is_some() && gap != self.gap {
            self.books.look_at_all(Known::doubt);
            self.gap = gap;
        }
        loop {
            match self.turn(clock::now()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(fault) => return self.fail(now, &fault),
            }
        }
        if let Some(gap) = gap.filter(|_| self.books.is_sure()) {
            self.shared.tenure.settle(gap);
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("kept state is where the group sees it again");
        }
    }

    fn fail(&mut self, now: Instant, fault: &Fault) {
        self.shared.group.metrics().write_failures.inc();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                "kept state is not written for the group, and would not outlast this node: {fault}"
            );
        }
        self.not_before = now + PAUSE;
    }

    /// Writes some of what is to be written. Whether that was all; nothing is while others take this node for dead.
    async fn turn(&mut self, now: Instant) -> Result<bool, Fault> {
        let Some(home) = self.shared.home() else {
            return Ok(true);
        };
        let (due, all) = self.due(now);
        let turns = self.sort(now, due, all)?;
        let written = self.write(&home, turns).await;
        self.shared.group.metrics().rows.set(self.books.rows() as u64);
        written.map(|()| all)
    }

    fn sort(&mut self, now: Instant, due: Vec<Stands>, all: bool) -> Result<BTreeMap<u64, Turn>, Fault> {
        let places: Vec<At> = due.iter().map(|(at, _)| *at).collect();
        let (began, mut common) = (self.shared.began(), self.shared.common());
        let sorted = self
            .books
            .sort((now, began), due, all, &mut common, &mut self.sealer);
        sorted.map_err(|error| {
            self.books.look_again(&places);
            Fault::new("group.key_file", error.to_string())
        })
    }

    /// What changed, and whether that is all of it.
    fn due(&mut self, now: Instant) -> (Vec<Stands>, bool) {
        let looks = now >= self.next_look;
        let (mut due, mut all) = (Vec::new(), true);
        // What is still to go is room that is taken: otherwise it would grow while the engine refuses it.
        let most = MOST.saturating_sub(self.books.owed());
        for (at, (id, watched)) in self.books.stores.iter().enumerate() {
            let room = most.saturating_sub(due.len());
            let mut places = watched.store.take_changed(room);
            if looks {
                let moved = watched.moved(now);
                places.extend(moved.take(room.saturating_sub(places.len())));
                let old = watched
                    .known
                    .iter()
                    .filter(|(_, known)| known.is_older(now, self.ttl / 4));
                places.extend(
                    old.map(|(index, _)| *index)
                        .take(room.saturating_sub(places.len())),
                );
            }
            all &= places.len() < room;
            let look = |index| {
                let (_, contents) = watched.look_at(index, now, self.ttl / 4, |_| true)?;
                let is = contents.and_then(|contents| Some((Place::of(&contents, *id, index)?, contents)));
                Some(((at, index), is))
            };
            due.extend(places.into_iter().filter_map(look));
        }
        if looks && all {
            self.next_look = now + LOOK;
        }
        (due, all)
    }

    async fn write(&mut self, home: &str, turns: BTreeMap<u64, Turn>) -> Result<(), Fault> {
        let mut turns = turns.into_iter().peekable();
        while turns.peek().is_some() {
            let (mut some, mut bytes): (Vec<(u64, Turn)>, usize) = (Vec::new(), 0);
            while bytes < BYTES
                && some.len() < BUNDLES
                && let Some(next) = turns.next()
            {
                bytes += next.1.len();
                some.push(next);
            }
            let bundles: Vec<Bundle> = some.iter().map(|(mark, turn)| turn.bundle(*mark)).collect();
            let others = match self.sessions.write(home, self.ttl, &bundles).await {
                Ok(others) => others,
                Err(fault) => {
                    for (_, turn) in some.into_iter().chain(turns) {
                        self.books.failed(&turn);
                    }
                    return Err(fault);
                }
            };
            // Before anything else can fail: what is lost is told once.
            let lost = self.note(&some, &others);
            self.let_go(lost).await;
        }
        Ok(())
    }

    /// Notes what was written, and returns what another has, by its place in `others`.
    fn note(&mut self, turns: &[(u64, Turn)], others: &[usize]) -> HashSet<u64> {
        let mut lost = HashSet::new();
        let mut common = self.shared.common();
        for (at, (mark, turn)) in turns.iter().enumerate() {
            let is_lost = others.contains(&at);
            self.books.done(*mark, turn, is_lost, &mut common);
            if is_lost && !turn.ends() {
                lost.insert(*mark);
            }
        }
        lost
    }

    /// Has the workers let go of what another node has.
    async fn let_go(&mut self, lost: HashSet<u64>) {
        if lost.is_empty() {
            return;
        }
        tracing::warn!(
            count = lost.len(),
            "sessions or connections of this node were taken over by another one"
        );
        self.shared.group.metrics().lost.add(lost.len() as u64);
        self.books.let_go(&lost);
        let lost = Arc::new(lost);
        for worker in 0..self.shared.workers.len() {
            // One that has ended has let go of everything.
            _ = self
                .shared
                .ask(worker, ControlRequest::LetGo(Arc::clone(&lost)))
                .await;
        }
    }
}
