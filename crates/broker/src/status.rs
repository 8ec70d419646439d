//! What the broker says about itself in words.

use std::fmt;

/// The state of the broker, for the log, `status` and the service manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// One line: `embedded`, `connected to mqtt://...`, `disconnected: ...`.
    pub connection: String,
    /// What an upstream broker does not offer while it is connected, each in words: "it takes QoS 1 at most".
    pub lacks: Vec<String>,
    /// What a person has to put right, if anything.
    pub fault: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.connection)?;
        if let Some(fault) = &self.fault {
            write!(f, "; {fault}")?;
        }
        Ok(())
    }
}
