//! What stands of this node where all see it, as far as is known here, and what is to be written of that next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;

use crate::group::sessions::{Bundle, Lead, Step};
use crate::state::Contents;

use super::super::seal::Sealer;
use super::super::watched::{Known, Watched};
use super::Common;
use super::rows::{Place, Row, RowName};

/// A place in a store: which store, and where.
pub(super) type At = (usize, u32);

/// What is in a place now, and where it goes; nothing where others are not to see it.
pub(super) type Stands = (At, Option<(Place, Contents)>);

/// One who took something over has its records in a store by then; where they are not, they ended.
const ARRIVING: Duration = Duration::from_secs(2);

/// What is to go from a mark, until it is known to be gone: its places may be another's by now.
#[derive(Debug, Clone, Default)]
struct Owed {
    lead: Option<Lead>,
    rows: BTreeSet<RowName>,
    ends: bool,
}

/// What is to be written of a mark.
#[derive(Debug, Default)]
pub(super) struct Turn {
    lead: Option<Lead>,
    removed: BTreeSet<RowName>,
    set: Vec<(RowName, Vec<u8>)>,
    /// Where what is set comes from.
    places: Vec<At>,
    /// How often it was taken over.
    takes: u64,
    ends: bool,
}

impl Turn {
    /// The same as a question.
    pub(super) fn bundle(&self, mark: u64) -> Bundle {
        let steps = match self.ends {
            true => vec![Step::End],
            false => {
                let removed = self.removed.iter().cloned().map(Step::Remove);
                let set = self.set.iter().cloned();
                removed
                    .chain(set.map(|(name, row)| Step::Set(name, row)))
                    .collect()
            }
        };
        Bundle {
            mark,
            lead: self.lead,
            steps,
        }
    }

    /// Whether nothing of it goes on.
    pub(super) const fn ends(&self) -> bool {
        self.ends
    }

    /// Bytes that it is.
    pub(super) fn len(&self) -> usize {
        let set: usize = self.set.iter().map(|(name, row)| name.len() + row.len()).sum();
        set + self.removed.iter().map(Vec::len).sum::<usize>()
    }
}

pub(super) struct Books {
    pub(super) stores: Vec<(u64, Watched)>,
    /// Where what stands there, or may, of a place of a store.
    places: HashMap<At, Place>,
    /// Where the records are that the others of a mark belong to.
    roots: HashMap<u64, At>,
    owed: BTreeMap<u64, Owed>,
    /// Places of what belongs to nothing that stands there yet.
    waiting: HashMap<At, u64>,
}

impl Books {
    pub(super) fn new(stores: Vec<(u64, Watched)>) -> Self {
        Self {
            stores,
            places: HashMap::new(),
            roots: HashMap::new(),
            owed: BTreeMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Rows that stand there.
    pub(super) fn rows(&self) -> usize {
        self.places.len()
    }

    /// Marks of which something is to go.
    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether all that stands there is known to be this node's.
    pub(super) fn is_sure(&self) -> bool {
        let mut known = self.stores.iter().flat_map(|(_, watched)| watched.known.values());
        !known.any(Known::is_doubtful)
    }

    /// Has everything looked at again, as `what` has it be.
    pub(super) fn look_at_all(&mut self, what: impl Fn(&mut Known)) {
        for (_, watched) in &mut self.stores {
            for (index, known) in &mut watched.known {
                what(known);
                watched.store.look_again(*index);
            }
        }
    }

    /// Has places looked at again.
    pub(super) fn look_again<'a>(&self, places: impl IntoIterator<Item = &'a At>) {
        for (store, index) in places {
            if let Some((_, watched)) = self.stores.get(*store) {
                watched.store.look_again(*index);
            }
        }
    }

    /// What is to be written, by marks, of places that have this now; times in it begin to count at `began`. `all` says that no others changed.
    pub(super) fn sort(
        &mut self,
        (now, began): (Instant, Duration),
        due: Vec<Stands>,
        all: bool,
        common: &mut Common,
        sealer: &mut Sealer,
    ) -> Result<BTreeMap<u64, Turn>, ErrorStack> {
        let mut turns: BTreeMap<u64, Turn> = BTreeMap::new();
        self.note_roots(&due);
        for (at, is) in due {
            // What belongs to nothing that stands there would be found by nobody.
            let is = is.filter(|(place, _)| {
                let belongs = self.roots.contains_key(&place.mark);
                match belongs {
                    true => self.waiting.remove(&at),
                    false => self.waiting.insert(at, place.mark),
                };
                belongs
            });
            let stays = |was: &Place| {
                is.as_ref()
                    .is_some_and(|(is, _)| is.mark == was.mark && is.name == was.name)
            };
            if !self.places.get(&at).is_some_and(stays) {
                self.leave(at);
            }
            let Some((place, contents)) = is else {
                continue;
            };
            let turn = turns.entry(place.mark).or_default();
            if let Some(before) = common.before.get(&place.mark) {
                common.own.insert(place.mark, before.takes);
                turn.removed.extend(before.rows.iter().cloned());
            }
            turn.takes = *common.own.entry(place.mark).or_default();
            let mut known = Known::of(&contents, now);
            known.doubt();
            let row = Row {
                takes: turn.takes,
                began,
                contents,
            };
            let sealed = row.seal(sealer, place.mark, &place.name)?;
            if place.is_root {
                turn.lead = place.lead;
            }
            turn.set.push((place.name.clone(), sealed));
            turn.places.push(at);
            // Before it is written: from then on another may have it, whether the answer arrives or not.
            if let Some((_, watched)) = self.stores.get_mut(at.0) {
                watched.store.note_shown(at.1);
                watched.known.insert(at.1, known);
            }
            self.places.insert(at, place);
        }
        if all {
            self.end_what_never_began(now, common);
        }
        for (mark, owed) in &self.owed {
            let turn = turns.entry(*mark).or_default();
            turn.lead = turn.lead.or(owed.lead);
            turn.removed.extend(owed.rows.iter().cloned());
            turn.ends = owed.ends;
        }
        Ok(turns)
    }

    /// Notes which marks stand there from now on, and has looked at again what waited for one.
    fn note_roots(&mut self, due: &[Stands]) {
        let mut came = HashSet::new();
        for (at, is) in due {
            if let Some((place, _)) = is.as_ref().filter(|(place, _)| place.is_root)
                && self.roots.insert(place.mark, *at).is_none()
            {
                came.insert(place.mark);
            }
        }
        if came.is_empty() || self.waiting.is_empty() {
            return;
        }
        let arrived = self.waiting.extract_if(|_, mark| came.contains(mark));
        let arrived: Vec<At> = arrived.map(|(at, _)| at).collect();
        self.look_again(&arrived);
    }

    /// What stands there of a place is to go.
    fn leave(&mut self, at: At) {
        if let Some((_, watched)) = self.stores.get_mut(at.0) {
            watched.known.remove(&at.1);
        }
        let Some(was) = self.places.remove(&at) else {
            return;
        };
        // One that moved stands where it did.
        let is_it = self.roots.get(&was.mark) == Some(&at);
        if was.is_root && !is_it {
            return;
        }
        let owed = self.owed.entry(was.mark).or_default();
        owed.lead = owed.lead.or(was.lead);
        if was.is_root {
            self.roots.remove(&was.mark);
            owed.ends = true;
        } else {
            owed.rows.insert(was.name);
        }
    }

    /// What was taken over and ended before it was written once is to end for all.
    fn end_what_never_began(&mut self, now: Instant, common: &mut Common) {
        let Common { before, own, .. } = common;
        for (mark, before) in before {
            let is_late = before
                .arrived
                .is_some_and(|at| now.saturating_duration_since(at) >= ARRIVING);
            if is_late && !self.roots.contains_key(mark) {
                own.insert(*mark, before.takes);
                self.owed.entry(*mark).or_default().ends = true;
            }
        }
    }

    /// A turn was written, or is lost to another node.
    pub(super) fn done(&mut self, mark: u64, turn: &Turn, is_lost: bool, common: &mut Common) {
        self.owed.remove(&mark);
        let is_over = is_lost || turn.ends;
        for at in &turn.places {
            // By now something else may be there.
            if self.places.get(at).is_none_or(|place| place.mark != mark) {
                continue;
            }
            let Some((_, watched)) = self.stores.get_mut(at.0) else {
                continue;
            };
            if is_over {
                watched.known.remove(&at.1);
                self.places.remove(at);
            } else if let Some(known) = watched.known.get_mut(&at.1) {
                known.confirm();
            }
        }
        if is_over {
            self.roots.remove(&mark);
            common.own.remove(&mark);
        }
        if is_over
            || common
                .before
                .get(&mark)
                .is_some_and(|before| !turn.set.is_empty() && before.takes == turn.takes)
        {
            common.before.remove(&mark);
        }
    }

    /// The answer to a turn did not arrive, or it was not asked: all of it is to be written still.
    pub(super) fn failed(&self, turn: &Turn) {
        self.look_again(&turn.places);
    }

    /// Nothing of these marks is this node's any more.
    pub(super) fn let_go(&mut self, lost: &HashSet<u64>) {
        let stores = &mut self.stores;
        self.places.retain(|(store, index), place| {
            let stays = !lost.contains(&place.mark);
            if let (false, Some((_, watched))) = (stays, stores.get_mut(*store)) {
                watched.known.remove(index);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::super::clock;
    use super::super::Before;
    use super::super::rows::ROOT;
    use super::*;
    use crate::config::state_key::StateKey;
    use crate::state::{Cell, Clock, HOT_WORDS, Kind, MARK, Memory, Store};

    /// Books over one store, and an engine that does as it is told.
    struct World {
        books: Books,
        store: Arc<Store>,
        common: Common,
        sealer: Sealer,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let memory = Memory {
                cells: Vec::leak((0..200).map(|_| Cell::default()).collect()),
                reserve: Box::new(|_| true),
            };
            let now = clock::now();
            let clock = Clock {
                now,
                up: Duration::from_secs(100),
                ahead: Duration::ZERO,
            };
            let store = Arc::new(Store::create(memory, clock, [1; 2], 0).unwrap());
            Self {
                books: Books::new(vec![(7, Watched::new(Arc::clone(&store)))]),
                store,
                common: Common::default(),
                sealer: Sealer::new(StateKey::new([3; 32])).unwrap(),
                now,
            }
        }

        /// A record of a mark, the one that the others belong to or one that belongs, in its store.
        fn put(&self, mark: u64, is_root: bool) -> u32 {
            let mut hot = [0; HOT_WORDS];
            (hot[0], hot[MARK]) = (u64::from(is_root), mark);
            self.store.put(Kind(1), &hot, &[5; 20]).unwrap().index()
        }

        fn free(&self, index: u32) {
            self.store.free(self.store.record_at(index).unwrap());
        }

        /// What is to be written of what changed.
        fn turns(&mut self) -> BTreeMap<u64, Turn> {
            let watched = &self.books.stores[0].1;
            let look = |index: u32| {
                let (_, contents) =
                    watched.look_at(index, self.now, Duration::from_secs(1_000_000), |_| true)?;
                let place = |contents: Contents| {
                    let is_root = contents.hot[0] == 1;
                    let name = if is_root {
                        ROOT.to_vec()
                    } else {
                        index.to_be_bytes().to_vec()
                    };
                    let place = Place {
                        mark: contents.hot[MARK],
                        name,
                        lead: is_root.then_some(Lead::Cid([1; 8])),
                        is_root,
                    };
                    (place, contents)
                };
                Some(((0, index), contents.map(place)))
            };
            let due = self.store.take_changed(100).into_iter().filter_map(look);
            let due = due.collect();
            let (common, sealer) = (&mut self.common, &mut self.sealer);
            let times = (self.now, Duration::ZERO);
            self.books.sort(times, due, true, common, sealer).unwrap()
        }

        /// They are written, or not.
        fn answer(&mut self, turns: &BTreeMap<u64, Turn>, is_written: bool) {
            for (mark, turn) in turns {
                match is_written {
                    true => self.books.done(*mark, turn, false, &mut self.common),
                    false => self.books.failed(turn),
                }
            }
        }

        fn written(&mut self) -> BTreeMap<u64, Turn> {
            let turns = self.turns();
            self.answer(&turns, true);
            turns
        }

        fn fails(&mut self) -> BTreeMap<u64, Turn> {
            let turns = self.turns();
            self.answer(&turns, false);
            turns
        }
    }

    fn steps(turns: &BTreeMap<u64, Turn>, mark: u64) -> Vec<Step> {
        turns
            .get(&mark)
            .map(|turn| turn.bundle(mark).steps)
            .unwrap_or_default()
    }

    #[test]
    fn a_write_that_fails_within_a_gap_leaves_everything_to_be_written_and_in_doubt() {
        let mut world = World::new();
        world.put(1, true);
        world.written();
        assert!(world.books.is_sure() && world.turns().is_empty());
        for _ in 0..3 {
            world.books.look_at_all(Known::doubt);
            assert!(!world.books.is_sure());
            assert_eq!(world.fails().len(), 1);
            assert!(!world.books.is_sure());
        }
        assert_eq!(world.written().len(), 1);
        assert!(world.books.is_sure() && world.turns().is_empty());
    }

    #[test]
    fn a_place_that_another_mark_has_by_now_ends_the_first_and_keeps_the_second() {
        for (first, second) in [(1, 2), (2, 1)] {
            for fails in [false, true] {
                let mut world = World::new();
                let index = world.put(first, true);
                world.written();
                world.free(index);
                assert_eq!(world.put(second, true), index);
                if fails {
                    world.fails();
                }
                let turns = world.written();
                assert_eq!(steps(&turns, first), [Step::End]);
                assert!(matches!(&steps(&turns, second)[..], [Step::Set(..)]));
                assert_eq!(world.books.rows(), 1);
                // It is watched still: its end is told too.
                world.free(index);
                assert_eq!(steps(&world.written(), second), [Step::End]);
                assert_eq!(world.books.rows(), 0);
                assert!(world.common.own.is_empty() && world.turns().is_empty());
            }
        }
    }

    #[test]
    fn what_ended_while_its_first_answer_was_lost_ends_for_all() {
        let mut world = World::new();
        let index = world.put(1, true);
        world.fails();
        world.free(index);
        assert_eq!(steps(&world.fails(), 1), [Step::End]);
        assert_eq!(steps(&world.written(), 1), [Step::End]);
        assert!(world.turns().is_empty());
    }

    #[test]
    fn rows_of_the_node_before_are_taken_away_by_the_first_write_that_arrives() {
        let mut world = World::new();
        let before = Before {
            takes: 4,
            rows: vec![b"of another".to_vec()],
            arrived: Some(world.now),
        };
        world.common.before.insert(1, before);
        world.put(1, true);
        let is_whole = |steps: &[Step]| match steps {
            [Step::Remove(name), Step::Set(..)] => name == b"of another",
            _ => false,
        };
        assert!(is_whole(&steps(&world.fails(), 1)));
        assert!(is_whole(&steps(&world.written(), 1)));
        assert!(world.common.before.is_empty());
        assert_eq!(world.common.own.get(&1), Some(&4));
    }

    #[test]
    fn what_was_taken_over_and_ended_before_it_was_written_ends_for_all() {
        let mut world = World::new();
        let before = |arrived| Before {
            takes: 1,
            rows: Vec::new(),
            arrived,
        };
        world.common.before.insert(1, before(Some(world.now)));
        world.common.before.insert(2, before(None));
        assert!(world.turns().is_empty());
        world.now += ARRIVING;
        assert_eq!(steps(&world.fails(), 1), [Step::End]);
        let turns = world.written();
        assert!(turns.len() == 1 && steps(&turns, 1) == [Step::End]);
        assert!(world.common.before.len() == 1 && world.turns().is_empty());
    }

    #[test]
    fn an_observation_that_is_seen_before_its_session_is_written_with_it() {
        let mut world = World::new();
        world.put(1, false);
        assert!(world.written().is_empty());
        world.put(1, true);
        world.written();
        world.written();
        assert_eq!(world.books.rows(), 2);
    }
}
