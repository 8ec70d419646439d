//! The thread that tells what happens to clients: a log that blocks holds up no worker.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::admin::events::Events;

use super::clock;
use super::worker::Told;

/// How long the last events may take at the end: the log may be stuck.
const FINISH: Duration = Duration::from_secs(1);

/// The running thread.
#[derive(Debug)]
pub(super) struct Telling(JoinHandle<()>);

impl Telling {
    /// Tells what comes until the last worker has ended.
    ///
    /// # Errors
    /// The thread cannot be had.
    pub(super) fn start(events: Arc<Events>, mut told: mpsc::Receiver<Told>) -> io::Result<Self> {
        let body = move || {
            while let Some((at, event)) = told.blocking_recv() {
                events.tell(at, &event);
            }
        };
        let thread = std::thread::Builder::new().name("events".to_owned());
        thread.spawn(body).map(Self)
    }

    /// Waits for what the workers told last.
    pub(super) async fn finish(self) {
        let until = clock::now() + FINISH;
        while !self.0.is_finished() && clock::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
