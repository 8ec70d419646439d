//! Starts and stops the broker's thread.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::embedded::Embedded;
use super::link::{Delivery, Envelope, QueueReceiver, WorkerLink, links};
use super::metrics::BrokerMetrics;
use super::retained::{Disk, Retained, RetainedLimits};
use super::settings::{BrokerKind, BrokerSettings};
use super::status::Status;

/// Why the broker cannot start.
#[derive(Debug)]
pub struct BrokerStartError(String);

impl fmt::Display for BrokerStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokerStartError {}

/// The running broker.
#[derive(Debug)]
pub struct BrokerRuntime {
    metrics: Arc<BrokerMetrics>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl BrokerRuntime {
    /// Its numbers.
    #[must_use]
    pub fn metrics(&self) -> Arc<BrokerMetrics> {
        Arc::clone(&self.metrics)
    }

    /// What it says about itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The same, to be watched.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether the broker can be reached; the embedded one always.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.metrics.is_connected()
    }

    /// Finishes what is queued, answers it, brings everything to disk and ends.
    pub async fn shutdown(self) {
        // A thread that has already ended needs no telling.
        let _told = self.stop.send(());
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the broker's thread ended abnormally");
        }
    }
}

/// Starts the broker for `workers` workers: the handle on it, and a link for each worker in their order.
///
/// # Errors
/// When a store in the state directory cannot be used; the text names the file. An upstream that is away is no error.
pub fn start(
    settings: BrokerSettings,
    workers: usize,
) -> Result<(BrokerRuntime, Vec<WorkerLink>), BrokerStartError> {
    match settings.kind {
        BrokerKind::Embedded(limits) => start_embedded(&settings, limits, workers),
    }
}

fn start_embedded(
    settings: &BrokerSettings,
    limits: RetainedLimits,
    workers: usize,
) -> Result<(BrokerRuntime, Vec<WorkerLink>), BrokerStartError> {
    let (worker_links, mut lanes, deliveries) = links(workers, 1);
    let metrics = Arc::new(BrokerMetrics::new(1, 0));
    let (status_sender, status) = watch::channel(Status {
        connection: "embedded".into(),
        fault: None,
    });
    let embedded = open_embedded(settings, limits, deliveries, &metrics, status_sender)?;
    let (stop, stopped) = oneshot::channel();
    let Some(requests) = lanes.pop() else {
        return Err(BrokerStartError("no lane".into()));
    };
    let thread = spawn_embedded(embedded, requests, stopped)?;
    let runtime = BrokerRuntime {
        metrics,
        status,
        stop,
        thread,
    };
    Ok((runtime, worker_links))
}

fn open_embedded(
    settings: &BrokerSettings,
    limits: RetainedLimits,
    deliveries: Vec<Delivery>,
    metrics: &BrokerMetrics,
    status: watch::Sender<Status>,
) -> Result<Embedded, BrokerStartError> {
    let mut retained = Retained::new(limits);
    let mut disk = None;
    if let Some(directory) = &settings.state_dir {
        let moment = settings.clock.moment();
        let (opened, messages) =
            Disk::open(directory, moment).map_err(|error| BrokerStartError(error.to_string()))?;
        // Expired ones go in too: the first sweep removes them here and on disk.
        for message in messages {
            retained.insert(Arc::new(message));
        }
        disk = Some(opened);
    }
    Ok(Embedded::new(
        settings.clock,
        deliveries,
        retained,
        disk,
        metrics.lane(0),
        status,
    ))
}

fn spawn_embedded(
    embedded: Embedded,
    requests: QueueReceiver<Envelope>,
    stopped: oneshot::Receiver<()>,
) -> Result<JoinHandle<()>, BrokerStartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| BrokerStartError(format!("cannot start the broker: {error}")))?;
    std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || runtime.block_on(embedded.run(requests, stopped)))
        .map_err(|error| BrokerStartError(format!("cannot start the broker's thread: {error}")))
}
