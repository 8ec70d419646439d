//! The thread beside the workers: what the disk reports, long searches, what has expired.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Shared, Store};
use crate::retained::{Durable, Reports};

const SWEEP: Duration = Duration::from_secs(1);

/// The keeper.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    reports: Option<Reports>,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, reports: Option<Reports>) -> Self {
        Self { shared, reports }
    }

    /// Serves until `stop` is told; then everything is answered and on disk.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        let mut searching = false;
        while !*stop.borrow() {
            // In random order: none keeps another from its turn.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                report = report(&mut self.reports) => self.durable(report),
                () = shared.search.notified(), if !searching => searching = true,
                () = tokio::task::yield_now(), if searching => {
                    searching = self.with_store(|store| store.search((shared.clock.now)()));
                }
                _ = sweep.tick() => self.sweep(),
            }
        }
        let disk = self.with_store(Store::finish);
        if let Some(disk) = disk {
            for report in disk.close(self.reports.take()) {
                self.durable(Some(report));
            }
        }
    }

    /// Has the store do something, and hands over what that brings for workers.
    fn with_store<T>(&self, step: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.shared.store_after_workers();
        let result = step(&mut store);
        store.flush();
        result
    }

    fn durable(&mut self, report: Option<Durable>) {
        if report.is_none() {
            self.reports = None;
        }
        let now = (self.shared.clock.now)();
        self.with_store(|store| store.durable(now, report));
    }

    fn sweep(&mut self) {
        let now = (self.shared.clock.now)();
        let renewed = self.with_store(|store| {
            store.sweep(now);
            store.renew(now)
        });
        if renewed.is_some() {
            self.reports = renewed;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.store().end();
    }
}

/// The disk's next report; for ever pending without one.
async fn report(reports: &mut Option<Reports>) -> Option<Durable> {
    match reports {
        Some(reports) => reports.next().await,
        None => std::future::pending().await,
    }
}
