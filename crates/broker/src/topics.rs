//! Which subscriptions a message matches.
//!
//! The *shape* of a filter is how many levels it has, at which of them it is literal, and whether `#` ends it. Filters of
//! one shape differ only in their literals, so that one look into a hash table finds those of them that match a topic. A
//! match costs a look for each shape that fits the topic's depth: at most three for each set of its levels, and at most one
//! for each filter, however many filters there are and whatever they hold.

use std::hash::{BuildHasher, RandomState};
use std::mem::size_of;

use hashbrown::HashTable;

use portcullis_proto::types::{TopicFilter, TopicName};

/// Levels whose hashes are combined at once.
const CHUNK: usize = 8;
/// Combinations of the levels of a chunk.
const COMBINATIONS: usize = 1 << CHUNK;
/// Places that a table keeps whatever it holds.
const SMALL: usize = 64;

/// A filter and a value that subscribed it.
#[derive(Debug)]
struct Entry<T> {
    /// Of a plain filter the hash of its text; else the hashes of its literal levels and its shape's salt combined by XOR.
    signature: u64,
    filter: TopicFilter,
    value: T,
}

/// The shape of one filter.
struct ShapeOf {
    /// Those before `#`, where it ends in that.
    levels: usize,
    open: bool,
    /// At which levels it is literal, one bit each.
    mask: Vec<u8>,
}

/// The filters of one shape.
#[derive(Debug)]
struct Shape {
    /// XOR of the signatures of its filters: of the only one, when it is alone.
    signatures: u64,
    /// How many signatures begin with each of the 32 values of five bits, two bits each; 3 is 3 or more, and stays.
    begins: u64,
    filters: u32,
}

impl Shape {
    fn add(&mut self, signature: u64) {
        self.signatures ^= signature;
        self.filters += 1;
        if self.beginning_as(signature) < 3 {
            self.begins += 1 << begin(signature);
        }
    }

    fn remove(&mut self, signature: u64) {
        self.signatures ^= signature;
        self.filters -= 1;
        if matches!(self.beginning_as(signature), 1 | 2) {
            self.begins -= 1 << begin(signature);
        }
    }

    fn beginning_as(&self, signature: u64) -> u64 {
        self.begins >> begin(signature) & 3
    }

    /// Whether one of its filters may have this signature. Few that have none are looked up, which costs a far place in memory.
    fn may_have(&self, signature: u64) -> bool {
        if self.filters == 1 {
            self.signatures == signature
        } else {
            self.beginning_as(signature) > 0
        }
    }
}

/// Where the two bits of a signature stand in [`Shape::begins`].
fn begin(signature: u64) -> u64 {
    signature >> 59 << 1
}

/// The shapes of one number of levels and one ending.
#[derive(Debug)]
struct Shapes {
    salt: u64,
    /// Bytes of a mask.
    stride: usize,
    /// At which levels each shape is literal, one mask after the other.
    masks: Vec<u8>,
    shapes: Vec<Shape>,
    /// By their masks.
    places: HashTable<u32>,
}

/// The filters of all subscribers, each with the values that subscribed it.
#[derive(Debug)]
pub(super) struct FilterTable<T> {
    hasher: RandomState,
    entries: HashTable<Entry<T>>,
    /// Bytes of the filters' texts.
    text: usize,
    /// The shapes with wildcards that do not end in `#`, by their number of levels.
    whole: Vec<Shapes>,
    /// The shapes that end in `#`, by the number of levels before it.
    open: Vec<Shapes>,
}

/// Room for the XOR of the hashes of every combination of a topic's levels, chunk by chunk. Whoever matches keeps it.
#[derive(Debug, Default)]
pub(super) struct Sums(Vec<u64>);

impl<T> Default for FilterTable<T> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            entries: HashTable::new(),
            text: 0,
            whole: Vec::new(),
            open: Vec::new(),
        }
    }
}

impl<T: Copy + PartialEq> FilterTable<T> {
    /// Adds a filter; a value may be added once for each filter.
    pub(super) fn insert(&mut self, filter: &TopicFilter, value: T) {
        let (signature, shape) = self.read(filter);
        if let Some(ShapeOf { levels, open, mask }) = shape {
            let by_levels = if open { &mut self.open } else { &mut self.whole };
            while by_levels.len() <= levels {
                by_levels.push(Shapes::new(
                    salt(&self.hasher, by_levels.len(), open),
                    by_levels.len(),
                ));
            }
            if let Some(shapes) = by_levels.get_mut(levels) {
                shapes.add(&self.hasher, &mask, signature);
            }
        }
        self.text += weight_of_text(filter);
        let entry = Entry {
            signature,
            filter: filter.clone(),
            value,
        };
        self.entries
            .insert_unique(signature, entry, |entry| entry.signature);
    }

    /// Removes what [`Self::insert`] added; nothing when it did not.
    pub(super) fn remove(&mut self, filter: &TopicFilter, value: T) {
        let (signature, shape) = self.read(filter);
        let same = |entry: &Entry<T>| entry.value == value && entry.filter == *filter;
        let Ok(entry) = self.entries.find_entry(signature, same) else {
            return;
        };
        entry.remove();
        self.text -= weight_of_text(filter);
        if let Some(room) = room_to_keep(self.entries.len(), self.entries.capacity()) {
            self.entries.shrink_to(room, |entry| entry.signature);
        }
        let Some(ShapeOf { levels, open, mask }) = shape else {
            return;
        };
        let by_levels = if open { &mut self.open } else { &mut self.whole };
        if let Some(shapes) = by_levels.get_mut(levels) {
            shapes.remove(&self.hasher, &mask, signature);
        }
        while by_levels.pop_if(|shapes| shapes.shapes.is_empty()).is_some() {}
    }

    /// The signature of a filter, and its shape if it has wildcards.
    fn read(&self, filter: &TopicFilter) -> (u64, Option<ShapeOf>) {
        if !filter.has_wildcard() {
            return (self.hasher.hash_one(filter.as_str()), None);
        }
        let mut shape = ShapeOf {
            levels: 0,
            open: false,
            mask: Vec::new(),
        };
        let mut combined = 0;
        for level in filter.as_str().split('/') {
            if level == "#" {
                shape.open = true;
                break;
            }
            let bit = shape.levels % CHUNK;
            if bit == 0 {
                shape.mask.push(0);
            }
            if level != "+" {
                combined ^= self.hasher.hash_one((shape.levels, level));
                if let Some(bits) = shape.mask.last_mut() {
                    *bits |= 1 << bit;
                }
            }
            shape.levels += 1;
        }
        shape.mask.resize(stride(shape.levels), 0);
        (
            combined ^ salt(&self.hasher, shape.levels, shape.open),
            Some(shape),
        )
    }

    /// Appends the values of all filters that match `topic`.
    pub(super) fn matching(&self, topic: &TopicName, sums: &mut Sums, found: &mut Vec<T>) {
        if self.entries.is_empty() {
            return;
        }
        let text = topic.as_str();
        self.look_up(self.hasher.hash_one(text), topic, found);
        let levels = text.bytes().filter(|byte| *byte == b'/').count() + 1;
        let whole = self.whole.get(levels).filter(|shapes| !shapes.shapes.is_empty());
        let open = self.open.get(..=levels).unwrap_or(&self.open);
        let deepest = if whole.is_some() {
            levels
        } else {
            open.len().saturating_sub(1)
        };
        combine(&self.hasher, text.split('/').take(deepest), &mut sums.0);
        for shapes in whole.into_iter().chain(open) {
            for (mask, shape) in shapes.masks.chunks_exact(shapes.stride).zip(&shapes.shapes) {
                let sums = sums.0.chunks(COMBINATIONS).zip(mask);
                let signature = sums.fold(shapes.salt, |signature, (sums, bits)| {
                    signature ^ sums.get(usize::from(*bits)).unwrap_or(&0)
                });
                if shape.may_have(signature) {
                    self.look_up(signature, topic, found);
                }
            }
        }
    }

    fn look_up(&self, signature: u64, topic: &TopicName, found: &mut Vec<T>) {
        let same = |entry: &&Entry<T>| entry.signature == signature && entry.filter.matches(topic);
        found.extend(
            self.entries
                .iter_hash(signature)
                .filter(same)
                .map(|entry| entry.value),
        );
    }

    /// What it takes in memory, in bytes; texts of filters included, though others may hold the same.
    pub(super) fn bytes(&self) -> usize {
        let shapes = |by_levels: &Vec<Shapes>| by_levels.iter().map(Shapes::bytes).sum::<usize>();
        self.entries.allocation_size() + self.text + shapes(&self.whole) + shapes(&self.open)
    }

    /// Whether no filter is there.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.whole.is_empty() && self.open.is_empty()
    }
}

impl Shapes {
    fn new(salt: u64, levels: usize) -> Self {
        Self {
            salt,
            stride: stride(levels),
            masks: Vec::new(),
            shapes: Vec::new(),
            places: HashTable::new(),
        }
    }

    fn place_of(&self, hasher: &RandomState, mask: &[u8]) -> Option<u32> {
        let same = |place: &u32| mask_at(&self.masks, self.stride, *place) == mask;
        self.places.find(hasher.hash_one(mask), same).copied()
    }

    fn add(&mut self, hasher: &RandomState, mask: &[u8], signature: u64) {
        if let Some(shape) = self
            .place_of(hasher, mask)
            .and_then(|place| self.shapes.get_mut(place as usize))
        {
            return shape.add(signature);
        }
        let place = u32::try_from(self.shapes.len()).unwrap_or(u32::MAX);
        self.masks.extend_from_slice(mask);
        let mut shape = Shape {
            signatures: 0,
            begins: 0,
            filters: 0,
        };
        shape.add(signature);
        self.shapes.push(shape);
        let (masks, stride) = (&self.masks, self.stride);
        self.places.insert_unique(hasher.hash_one(mask), place, |place| {
            hasher.hash_one(mask_at(masks, stride, *place))
        });
    }

    fn remove(&mut self, hasher: &RandomState, mask: &[u8], signature: u64) {
        let Some(place) = self.place_of(hasher, mask) else {
            return;
        };
        let Some(shape) = self.shapes.get_mut(place as usize) else {
            return;
        };
        shape.remove(signature);
        if shape.filters > 0 {
            return;
        }
        // The last shape takes the place.
        let last = u32::try_from(self.shapes.len() - 1).unwrap_or(u32::MAX);
        let hash_of_last = hasher.hash_one(mask_at(&self.masks, self.stride, last));
        if let Ok(entry) = self
            .places
            .find_entry(hasher.hash_one(mask), |other| *other == place)
        {
            entry.remove();
        }
        if let Some(moved) = self.places.find_mut(hash_of_last, |other| *other == last) {
            *moved = place;
        }
        let (from, to) = (last as usize * self.stride, place as usize * self.stride);
        self.masks.copy_within(from.., to);
        self.masks.truncate(from);
        self.shapes.swap_remove(place as usize);
        if let Some(room) = room_to_keep(self.shapes.len(), self.shapes.capacity()) {
            self.shapes.shrink_to(room);
            self.masks.shrink_to(room * self.stride);
            let (masks, stride) = (&self.masks, self.stride);
            self.places
                .shrink_to(room, |place| hasher.hash_one(mask_at(masks, stride, *place)));
        }
    }

    fn bytes(&self) -> usize {
        let shapes = self.shapes.capacity() * size_of::<Shape>();
        size_of::<Self>() + self.masks.capacity() + shapes + self.places.allocation_size()
    }
}

/// What tells filters of one number of levels and one ending from others.
fn salt(hasher: &RandomState, levels: usize, open: bool) -> u64 {
    hasher.hash_one((levels, open))
}

/// Bytes of a mask of so many levels; one at least, so that each has its place.
fn stride(levels: usize) -> usize {
    levels.div_ceil(CHUNK).max(1)
}

fn mask_at(masks: &[u8], stride: usize, place: u32) -> &[u8] {
    masks.chunks_exact(stride).nth(place as usize).unwrap_or_default()
}

/// A text is shared with whoever subscribed it, behind two counters.
fn weight_of_text(filter: &TopicFilter) -> usize {
    filter.as_str().len() + 2 * size_of::<usize>()
}

/// The room to keep in a table that has become too large for what it holds.
fn room_to_keep(len: usize, capacity: usize) -> Option<usize> {
    (capacity > SMALL && len < capacity / 4).then_some(len * 2)
}

/// The XOR of the hashes of every combination of `levels`: for each chunk of eight a table, by the bits of the levels in it.
fn combine<'a>(hasher: &RandomState, levels: impl Iterator<Item = &'a str>, sums: &mut Vec<u64>) {
    sums.clear();
    let mut chunk = 0;
    for (at, level) in levels.enumerate() {
        if at % CHUNK == 0 {
            chunk = sums.len();
            sums.push(0);
        }
        let (hash, without) = (hasher.hash_one((at, level)), sums.len());
        sums.extend_from_within(chunk..);
        for sum in sums.iter_mut().skip(without) {
            *sum ^= hash;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn text(rng: &mut StdRng, words: &[&str], filter: bool) -> String {
        let levels = rng.random_range(1..=5);
        let mut out: Vec<&str> = (0..levels).map(|_| *words.choose(rng).unwrap()).collect();
        if filter {
            for level in &mut out {
                if rng.random_bool(0.25) {
                    *level = "+";
                }
            }
            if rng.random_bool(0.3) {
                out.push("#");
            }
            if rng.random_bool(0.02) {
                return "#".into();
            }
        }
        out.join("/")
    }

    #[test]
    fn the_table_finds_what_a_naive_matcher_finds() {
        let words = ["", "a", "b", "c", "$SYS", "temp"];
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..60 {
            let mut table = FilterTable::default();
            let mut naive: Vec<(TopicFilter, u32)> = Vec::new();
            for value in 0..rng.random_range(1..120) {
                let Ok(filter) = TopicFilter::new(&text(&mut rng, &words, true)) else {
                    continue;
                };
                table.insert(&filter, value);
                naive.push((filter, value));
                if rng.random_bool(0.3) {
                    let (filter, value) = naive.swap_remove(rng.random_range(0..naive.len()));
                    table.remove(&filter, value);
                }
            }
            for _ in 0..200 {
                let Ok(topic) = TopicName::new(&text(&mut rng, &words, false)) else {
                    continue;
                };
                let mut found = Vec::new();
                table.matching(&topic, &mut Sums::default(), &mut found);
                found.sort_unstable();
                let mut wanted: Vec<u32> = naive
                    .iter()
                    .filter(|(f, _)| f.matches(&topic))
                    .map(|(_, v)| *v)
                    .collect();
                wanted.sort_unstable();
                assert_eq!(found, wanted, "{topic}");
            }
            for (filter, value) in naive {
                table.remove(&filter, value);
            }
            assert!(table.is_empty());
        }
    }

    #[test]
    fn deep_topics_and_filters_match_as_shallow_ones_do() {
        let mut table = FilterTable::default();
        let deep = |level: &str, levels| vec![level; levels].join("/");
        for (filter, value) in [
            ("#".into(), 1),
            (deep("+", 200), 2),
            (deep("a", 199) + "/#", 3),
            (deep("+", 7) + "/#", 4),
        ] {
            table.insert(&TopicFilter::new(&filter).unwrap(), value);
        }
        for (levels, wanted) in [
            (200, &[1, 2, 3, 4][..]),
            (199, &[1, 3, 4]),
            (198, &[1, 4]),
            (7, &[1, 4]),
            (6, &[1]),
        ] {
            let mut found = Vec::new();
            table.matching(
                &TopicName::new(&deep("a", levels)).unwrap(),
                &mut Sums::default(),
                &mut found,
            );
            found.sort_unstable();
            assert_eq!(found, wanted, "{levels} levels");
        }
    }

    /// Filters of `levels` levels, each `+` or `a` at random.
    fn of_one_word(rng: &mut StdRng, count: u32, levels: usize) -> Vec<TopicFilter> {
        let mut filter = |_| {
            let levels = (0..levels).map(|_| if rng.random_bool(0.5) { "+" } else { "a" });
            TopicFilter::new(&(levels.collect::<Vec<_>>().join("/") + "/b")).unwrap()
        };
        (0..count).map(&mut filter).collect()
    }

    #[test]
    fn a_topic_looks_at_no_more_shapes_than_its_levels_have_sets() {
        let mut rng = StdRng::seed_from_u64(11);
        let mut table = FilterTable::default();
        for (value, filter) in (0..).zip(of_one_word(&mut rng, 20_000, 5)) {
            table.insert(&filter, value);
        }
        assert_eq!(
            table.whole.iter().map(|shapes| shapes.shapes.len()).max(),
            Some(31)
        );
        let mut found = Vec::new();
        table.matching(
            &TopicName::new("a/a/a/a/a/b").unwrap(),
            &mut Sums::default(),
            &mut found,
        );
        assert_eq!(found.len(), 20_000);
    }

    #[test]
    fn deep_filters_take_a_few_hundred_bytes_each_and_give_them_back() {
        let mut rng = StdRng::seed_from_u64(12);
        let mut table = FilterTable::default();
        let filters = of_one_word(&mut rng, 20_000, 31);
        for (value, filter) in (0_u32..).zip(&filters) {
            table.insert(filter, value);
        }
        let text = filters.iter().map(weight_of_text).sum::<usize>();
        assert!(table.bytes() - text < 20_000 * 200, "{}", table.bytes() - text);
        for (value, filter) in (0..).zip(&filters) {
            table.remove(filter, value);
        }
        assert!(table.is_empty() && table.bytes() < 16 << 10, "{}", table.bytes());
    }
}
