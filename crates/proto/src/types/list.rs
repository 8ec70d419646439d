//! Lists in order of age through the entries of a slab.

use slab::Slab;

const NONE: u32 = u32::MAX;

/// Where an entry stands in a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links {
    older: u32,
    newer: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            older: NONE,
            newer: NONE,
        }
    }
}

/// A list through entries of one slab, oldest first. Each operation takes constant time. `links` selects the pair of links
/// that belongs to this list, so that one entry can stand in several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    oldest: u32,
    newest: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self {
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }
}

impl List {
    pub(crate) fn oldest(&self) -> Option<usize> {
        (self.oldest != NONE).then_some(self.oldest as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push_newest<T>(&mut self, slab: &mut Slab<T>, at: usize, links: fn(&mut T) -> &mut Links) {
        let older = self.newest;
        if let Some(entry) = slab.get_mut(at) {
            *links(entry) = Links { older, newer: NONE };
        }
        match slab.get_mut(older as usize) {
            Some(entry) => links(entry).newer = at as u32,
            None => self.oldest = at as u32,
        }
        self.newest = at as u32;
        self.len += 1;
    }

    /// Takes out an entry that stands in this list.
    pub(crate) fn remove<T>(&mut self, slab: &mut Slab<T>, at: usize, links: fn(&mut T) -> &mut Links) {
        let Some(entry) = slab.get_mut(at) else { return };
        let Links { older, newer } = std::mem::take(links(entry));
        match slab.get_mut(older as usize) {
            Some(entry) => links(entry).newer = newer,
            None => self.oldest = newer,
        }
        match slab.get_mut(newer as usize) {
            Some(entry) => links(entry).older = older,
            None => self.newest = older,
        }
        self.len = self.len.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_leave_from_anywhere_and_the_order_stays() {
        let mut slab: Slab<Links> = Slab::new();
        let mut list = List::default();
        let keys: Vec<usize> = (0..4).map(|_| slab.insert(Links::default())).collect();
        for key in &keys {
            list.push_newest(&mut slab, *key, |links| links);
        }
        list.remove(&mut slab, keys[0], |links| links);
        list.remove(&mut slab, keys[2], |links| links);
        assert_eq!(list.oldest(), Some(keys[1]));
        list.push_newest(&mut slab, keys[0], |links| links);
        list.remove(&mut slab, keys[1], |links| links);
        assert_eq!(list.oldest(), Some(keys[3]));
        list.remove(&mut slab, keys[3], |links| links);
        assert_eq!((list.oldest(), list.len()), (Some(keys[0]), 1));
        list.remove(&mut slab, keys[0], |links| links);
        assert!(list.is_empty() && list.oldest().is_none());
    }
}
