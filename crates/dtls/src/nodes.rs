//! Which nodes of a group live, as Connection IDs name them: bytes 1 and 2 of ours are the node that gave it out.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

const WORDS: usize = (1 << 16) / 64;

/// The nodes of a group. Alone there are none, and nothing is looked at.
#[derive(Debug, Default)]
pub struct NodeIds(OnceLock<Box<Known>>);

#[derive(Debug)]
struct Known {
    /// 0 while this node has none.
    own: AtomicU16,
    /// A bit for each of the others.
    others: [AtomicU64; WORDS],
}

impl NodeIds {
    /// Knows from now on that this node has the id `own`, and that these others live.
    pub fn set(&self, own: Option<u16>, others: impl IntoIterator<Item = u16>) {
        let mut bits = vec![0_u64; WORDS];
        for node in others.into_iter().filter(|node| Some(*node) != own && *node != 0) {
            if let Some(word) = bits.get_mut(usize::from(node / 64)) {
                *word |= 1 << (node % 64);
            }
        }
        let known = self.0.get_or_init(|| {
            Box::new(Known {
                own: AtomicU16::new(0),
                others: [const { AtomicU64::new(0) }; WORDS],
            })
        });
        known.own.store(own.unwrap_or_default(), Ordering::Relaxed);
        for (word, bits) in known.others.iter().zip(bits) {
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// What new Connection IDs say: nothing where this node is alone, 0 where it has no id.
    pub(super) fn own(&self) -> Option<u16> {
        self.0.get().map(|known| known.own.load(Ordering::Relaxed))
    }

    /// Whether a node other than this one lives.
    pub(super) fn has(&self, node: u16) -> bool {
        let word = self
            .0
            .get()
            .and_then(|known| known.others.get(usize::from(node / 64)));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (node % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_alone_knows_of_none_and_one_of_a_group_of_the_others() {
        let nodes = NodeIds::default();
        assert!(nodes.own().is_none() && !nodes.has(0) && !nodes.has(7));
        nodes.set(Some(7), [0, 1, 7, 64, u16::MAX]);
        assert_eq!(nodes.own(), Some(7));
        let all: Vec<u16> = (0..=u16::MAX).filter(|node| nodes.has(*node)).collect();
        assert_eq!(all, [1, 64, u16::MAX]);
        nodes.set(None, [1]);
        assert_eq!(nodes.own(), Some(0));
        assert!(nodes.has(1) && !nodes.has(64));
    }
}
