//! What this node has, written where the others see it: what changed, coalesced, in few questions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::state_key::StateKey;
use crate::gateway::contract::ControlRequest;
use crate::group::Fault;
use crate::group::sessions::{Bundle, Lead, Sessions, Step};

use super::super::super::clock;
use super::super::seal::Sealer;
use super::super::watched::{Due, Known, Watched};
use super::Shared;
use super::rows::{Place, Row};

/// What changed in this time is written together.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often words are looked at that change with each packet.
const LOOK: Duration = Duration::from_secs(1);
/// Records of one turn, and bundles of one question.
const MOST: usize = 4096;
const BUNDLES: usize = 64;
/// After a failure the engine is left alone for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// What is still to be written when the process ends may take this long.
const LAST: Duration = Duration::from_secs(3);
/// How much longer than a session may be silent it stands there: when it was heard is written now and then.
const LONGER: Duration = Duration::from_secs(60);

/// A place in a store: which store, and where.
type At = (usize, u32);

/// What is to be written of a mark, and what stands there then.
#[derive(Default)]
struct Turn {
    lead: Option<Lead>,
    steps: Vec<Step>,
    then: Vec<(At, Option<(Known, Place)>)>,
    /// Whether it ends.
    ends: bool,
}

pub(super) struct Writer {
    stores: Vec<(u64, Watched)>,
    /// Where what stands there of a place of a store.
    places: HashMap<At, Place>,
    /// The marks of the sessions and connections that stand there.
    roots: HashSet<u64>,
    sessions: Sessions,
    shared: Shared,
    sealer: Sealer,
    ttl: Duration,
    next_look: Instant,
    not_before: Instant,
    failing: bool,
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
            stores,
            places: HashMap::new(),
            roots: HashSet::new(),
            sessions,
            shared,
            sealer: Sealer::new(root)?,
            ttl: idle + LONGER,
            next_look: now,
            not_before: now,
            failing: false,
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
                self.look_at_all(|_| {});
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
        if gap.is_some() {
            self.look_at_all(Known::forget);
        }
        loop {
            match self.turn(clock::now()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(fault) => return self.fail(now, &fault),
            }
        }
        if let Some(gap) = gap {
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

    fn look_at_all(&mut self, what: impl Fn(&mut Known)) {
        for (_, watched) in &mut self.stores {
            for (index, known) in &mut watched.known {
                what(known);
                watched.store.look_again(*index);
            }
        }
    }

    /// Writes some of what is to be written. Whether that was all; nothing is while others take this node for dead.
    async fn turn(&mut self, now: Instant) -> Result<bool, Fault> {
        let Some(home) = self.shared.home() else {
            return Ok(true);
        };
        let looks = now >= self.next_look;
        let (mut due, mut all) = (Vec::new(), true);
        for (at, (_, watched)) in self.stores.iter().enumerate() {
            let room = MOST.saturating_sub(due.len());
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
            let look = |index| Some((at, watched.look_at(index, now, self.ttl / 4, |_| true)?));
            due.extend(places.into_iter().filter_map(look));
        }
        if looks && all {
            self.next_look = now + LOOK;
        }
        let turns: Vec<(u64, Turn)> = self.sort(now, due)?.into_iter().collect();
        let mut lost = HashSet::new();
        let mut turns = turns.into_iter().peekable();
        while turns.peek().is_some() {
            let some: Vec<(u64, Turn)> = turns.by_ref().take(BUNDLES).collect();
            if let Err(fault) = self.write(&home, some, &mut lost).await {
                for (_, turn) in turns {
                    self.look_again(&turn);
                }
                return Err(fault);
            }
        }
        self.let_go(lost).await;
        let rows = self.places.len() as u64;
        self.shared.group.metrics().rows.set(rows);
        Ok(all)
    }

    /// What is due by marks, as what is to be written of each.
    fn sort(&mut self, now: Instant, due: Vec<(usize, Due)>) -> Result<BTreeMap<u64, Turn>, Fault> {
        let mut turns: BTreeMap<u64, Turn> = BTreeMap::new();
        let began = self.shared.began();
        let mut named = Vec::new();
        for (at, (index, contents)) in due {
            let id = self.stores.get(at).map_or(0, |(id, _)| *id);
            let is = contents.and_then(|contents| Some((Place::of(&contents, id, index)?, contents)));
            if let Some((place, _)) = is.as_ref().filter(|(place, _)| place.is_root) {
                self.roots.insert(place.mark);
            }
            named.push(((at, index), is));
        }
        let mut common = self
            .shared
            .common
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (at, is) in named {
            // What belongs to nothing that stands there would be found by nobody.
            let is = is.filter(|(place, _)| self.roots.contains(&place.mark));
            let was = self.places.get(&at);
            if let Some(was) = was.filter(|was| {
                is.as_ref()
                    .is_none_or(|(is, _)| is.mark != was.mark || is.name != was.name)
            }) {
                let turn = turns.entry(was.mark).or_default();
                turn.lead = turn.lead.or(was.lead);
                turn.steps.push(Step::Remove(was.name.clone()));
                turn.ends |= was.is_root;
                turn.then.push((at, None));
            }
            let Some((place, contents)) = is else { continue };
            let turn = turns.entry(place.mark).or_default();
            if let Some(before) = common.before.remove(&place.mark) {
                common.own.insert(place.mark, before.takes);
                turn.steps.extend(before.rows.into_iter().map(Step::Remove));
            }
            let takes = *common.own.entry(place.mark).or_default();
            let known = Known::of(&contents, now);
            let row = Row {
                takes,
                began,
                contents,
            };
            let sealed = row.seal(&mut self.sealer, place.mark, &place.name);
            let sealed = sealed.map_err(|error| Fault::new("group.key_file", error.to_string()))?;
            if place.is_root {
                turn.lead = place.lead;
            }
            turn.steps.push(Step::Set(place.name.clone(), sealed));
            if let Some((_, watched)) = self.stores.get(at.0) {
                // Before it is written: from then on another may have it.
                watched.store.note_shown(at.1);
            }
            turn.then.push((at, Some((known, place))));
        }
        Ok(turns)
    }

    async fn write(
        &mut self,
        home: &str,
        turns: Vec<(u64, Turn)>,
        lost: &mut HashSet<u64>,
    ) -> Result<(), Fault> {
        let bundle = |(mark, turn): &(u64, Turn)| Bundle {
            mark: *mark,
            lead: turn.lead,
            steps: if turn.ends {
                vec![Step::End]
            } else {
                turn.steps.clone()
            },
        };
        let bundles: Vec<Bundle> = turns.iter().map(bundle).collect();
        let others = match self.sessions.write(home, self.ttl, &bundles).await {
            Ok(others) => others,
            Err(fault) => {
                turns.iter().for_each(|(_, turn)| self.look_again(turn));
                return Err(fault);
            }
        };
        for (at, (mark, turn)) in turns.into_iter().enumerate() {
            let is_lost = others.contains(&at);
            for ((store, index), then) in turn.then {
                let Some((_, watched)) = self.stores.get_mut(store) else {
                    continue;
                };
                match then.filter(|_| !is_lost) {
                    Some((known, place)) => {
                        watched.known.insert(index, known);
                        self.places.insert((store, index), place);
                    }
                    None => {
                        watched.known.remove(&index);
                        self.places.remove(&(store, index));
                    }
                }
            }
            if is_lost || turn.ends {
                self.roots.remove(&mark);
                self.shared.common().own.remove(&mark);
            }
            if is_lost && !turn.ends {
                lost.insert(mark);
            }
        }
        Ok(())
    }

    fn look_again(&self, turn: &Turn) {
        for ((store, index), _) in &turn.then {
            if let Some((_, watched)) = self.stores.get(*store) {
                watched.store.look_again(*index);
            }
        }
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
        let stores = &mut self.stores;
        self.places.retain(|(store, index), place| {
            let stays = !lost.contains(&place.mark);
            if let (false, Some((_, watched))) = (stays, stores.get_mut(*store)) {
                watched.known.remove(index);
            }
            stays
        });
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
