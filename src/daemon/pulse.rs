//! Whether every worker moves.

use std::sync::Arc;

use super::metrics::WorkerMetrics;

/// Compares each worker's count of turns with that of the last look.
pub struct Pulse {
    workers: Vec<(Arc<WorkerMetrics>, u64)>,
}

impl Pulse {
    /// Begins with the counts now.
    #[must_use]
    pub fn new(workers: Vec<Arc<WorkerMetrics>>) -> Self {
        let with_turns = |worker: Arc<WorkerMetrics>| {
            let turns = worker.turns.get();
            (worker, turns)
        };
        Self {
            workers: workers.into_iter().map(with_turns).collect(),
        }
    }

    /// The workers that have not turned since the last look.
    pub fn stuck(&mut self) -> Vec<usize> {
        let mut stuck = Vec::new();
        for (number, (worker, seen)) in self.workers.iter_mut().enumerate() {
            let turns = worker.turns.get();
            if turns == *seen {
                stuck.push(number);
            }
            *seen = turns;
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_stands_still_is_seen_beside_others_that_move() {
        let workers: Vec<_> = (0..3).map(|_| Arc::new(WorkerMetrics::default())).collect();
        let mut pulse = Pulse::new(workers.clone());
        workers[0].turns.inc();
        workers[2].turns.inc();
        assert_eq!(pulse.stuck(), [1]);
        workers.iter().for_each(|worker| worker.turns.inc());
        assert!(pulse.stuck().is_empty());
    }
}
