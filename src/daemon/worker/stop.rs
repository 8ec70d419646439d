//! Ending without breaking off: first the answers that are owed, then goodbye to the peers.

use std::time::{Duration, Instant};

use crate::daemon::clock;
use crate::daemon::worker::core::Core;
use crate::gateway::contract::{ControlRequest, Input};

use super::{Worker, WorkerError};

/// How far a worker is with its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It reads its sockets.
    Serving,
    /// It reads no more and waits for the broker's answers to what it read.
    Finishing {
        /// Until then at most.
        until: Instant,
        /// Whether every DTLS session hears of it.
        goodbye: bool,
    },
    /// Nothing is left to do.
    Ended,
}

impl<C: Core> Worker<C> {
    pub(super) fn begin_stop(&mut self, now: Instant, grace: Duration, goodbye: bool) {
        if self.stage == Stage::Serving {
            self.stage = Stage::Finishing {
                until: now + grace,
                goodbye,
            };
        }
    }

    /// Ends once nothing is owed any more, or the grace is over.
    pub(super) async fn advance_stop(&mut self) -> Result<(), WorkerError> {
        let Stage::Finishing { until, goodbye } = self.stage else {
            return Ok(());
        };
        let now = clock::now();
        // A worker that ended answers no more.
        let others = self
            .ports
            .workers
            .iter()
            .zip(0_u8..)
            .filter(|(_, id)| *id != self.id.0);
        let asked = self.asked > 0 && others.into_iter().any(|(worker, _)| !worker.is_closed());
        let owed = self.unanswered > 0 || asked;
        if owed && now < until && !self.ready.broker_gone {
            return Ok(());
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.core.handle(
            now,
            Input::Control {
                ticket,
                request: ControlRequest::Drain { goodbye },
            },
        );
        self.settle().await?;
        self.stage = Stage::Ended;
        tracing::debug!(worker = self.id.0, unanswered = self.unanswered, "ended");
        Ok(())
    }
}
