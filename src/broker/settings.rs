//! What the broker is built from: checked values.

use std::path::PathBuf;
use std::sync::Arc;

use super::clock::Clock;
pub use super::retained::RetainedLimits;

/// Everything the broker needs to know.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// The node's name.
    pub node: Arc<str>,
    /// Where retained messages and the spool are kept; `None` keeps nothing beyond the process.
    pub state_dir: Option<PathBuf>,
    /// Its clocks.
    pub clock: Clock,
    /// Which broker.
    pub kind: BrokerKind,
}

/// Which broker.
#[derive(Debug, Clone)]
pub enum BrokerKind {
    /// The one inside this process.
    Embedded(RetainedLimits),
}
