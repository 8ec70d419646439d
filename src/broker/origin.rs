//! Recognises our own messages when an upstream broker hands them back, for no-local.

/// What is sent along with a message (and kept with it in the spool) so that its origin can be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OriginTag {
    /// A random number of this process: tags of others mean nothing here.
    pub(super) process: u64,
    /// Which publish it was.
    pub(super) number: u64,
}
