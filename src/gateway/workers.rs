//! What workers say to each other.

/// A message from one worker to another.
#[derive(Debug)]
pub enum WorkerMessage {}
