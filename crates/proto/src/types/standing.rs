//! What is known of a peer, and its share of what the gateway keeps (interface 2.7).

use crate::labels;

labels! {
    /// What is known of a peer: `standing_bytes{standing}`.
    pub enum Standing {
        /// A datagram came from its address.
        Unproven = "unproven",
        /// It receives at its address.
        Proven = "proven",
        /// A backend checked its credentials, or a handshake proved its identity.
        Known = "known",
    }
}

impl Standing {
    /// What all of this standing may have together of `all`: peers that proved nothing a quarter, those known by no credential half.
    #[must_use]
    pub(crate) fn share_of(self, all: usize) -> usize {
        match self {
            Self::Unproven => all / 4,
            Self::Proven => all / 2,
            Self::Known => all,
        }
    }
}

/// One thing for each standing.
#[derive(Debug, Default)]
pub struct ByStanding<T> {
    unproven: T,
    proven: T,
    known: T,
}

impl<T> ByStanding<T> {
    /// That of one standing.
    #[must_use]
    pub fn of(&self, standing: Standing) -> &T {
        match standing {
            Standing::Unproven => &self.unproven,
            Standing::Proven => &self.proven,
            Standing::Known => &self.known,
        }
    }

    /// That of one standing, to change.
    pub(crate) fn of_mut(&mut self, standing: Standing) -> &mut T {
        match standing {
            Standing::Unproven => &mut self.unproven,
            Standing::Proven => &mut self.proven,
            Standing::Known => &mut self.known,
        }
    }
}
