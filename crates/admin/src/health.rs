//! Whether the process lives and serves.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Why `/readyz` says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Every listener is up.
    Ready,
    /// It does not serve yet.
    Starting,
    /// It does not serve any more.
    Stopping,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ok",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
        })
    }
}

/// What the process knows of its own state. The daemon writes it, HTTP reads it.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    readiness: Readiness,
    stuck: Vec<usize>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                readiness: Readiness::Starting,
                stuck: Vec::new(),
            }),
        }
    }
}

impl Health {
    /// Says whether the process serves.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.with(|state| state.readiness = readiness);
    }

    /// Says which workers do not move.
    pub fn set_stuck(&self, stuck: &[usize]) {
        self.with(|state| {
            state.stuck.clear();
            state.stuck.extend_from_slice(stuck);
        });
    }

    /// Whether every worker moves.
    ///
    /// # Errors
    /// Which do not, in words.
    pub fn live(&self) -> Result<(), String> {
        self.with(|state| match state.stuck.as_slice() {
            [] => Ok(()),
            stuck => Err(format!("stuck workers: {stuck:?}")),
        })
    }

    /// Whether it lives and serves.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn ready(&self) -> Result<(), String> {
        self.live()?;
        self.with(|state| match &state.readiness {
            Readiness::Ready => Ok(()),
            other => Err(other.to_string()),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Every write leaves the state whole, so a writer that panicked left nothing broken.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_worker_makes_it_neither_live_nor_ready() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        health.set_readiness(Readiness::Ready);
        assert_eq!(health.ready(), Ok(()));
        health.set_stuck(&[1]);
        assert_eq!(health.live(), Err("stuck workers: [1]".to_owned()));
        assert!(health.ready().is_err());
        health.set_stuck(&[]);
        health.set_readiness(Readiness::Stopping);
        assert_eq!(
            (health.live(), health.ready()),
            (Ok(()), Err("stopping".to_owned()))
        );
    }
}
