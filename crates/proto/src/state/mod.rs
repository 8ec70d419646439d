//! Records in memory that outlives the process: what the next one goes on from.
//!
//! A [`Store`] is the memory of one worker. A record has a kind, a few words that change with each packet, and bytes that are
//! written once; what they mean only those know who keep them. Words are stored one by one and atomically, so that a process that is
//! killed between any two of them leaves what the next one can read.

mod bytes;
mod changes;
mod held;
mod layout;
mod store;
mod tenure;

pub use bytes::{ReadBytes, WriteBytes};
pub use held::Held;
pub use layout::{CELL_BYTES, Cell, HOT_WORDS, MAGIC as LAYOUT, MARK, digest};
pub use store::{Clock, Contents, Kind, Memory, Record, Restoring, Store, Unusable};
pub use tenure::Tenure;

#[cfg(test)]
mod tests;
