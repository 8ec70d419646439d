//! Starts and stops the broker's thread.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use portcullis_proto::types::TopicLimits;

use super::aside;
use super::embedded::{Access, Keeper, Shared, Store};
use super::layout;
use super::link::{WorkerLink, deliveries, embedded_link, links};
use super::metrics::BrokerMetrics;
use super::mqtt::{Lane, LaneParts, check_files};
use super::origin::Origins;
use super::retained::{Disk, Retained, RetainedLimits};
use super::settings::{BrokerKind, BrokerSettings, MqttSettings, Protocol};
use super::spool::Spool;
use super::status::Status;

/// What kind of thing keeps the broker from starting: whether it can get better by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFault {
    /// A file that the settings name, or a damaged store: it stays until someone mends it.
    Wrong,
    /// Another process has a store open.
    Taken,
    /// The system refuses something, for example because the disk is full: it may pass.
    System,
}

impl StartFault {
    /// What an error of the file system stands for.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock => Self::Taken,
            io::ErrorKind::InvalidData => Self::Wrong,
            _ => Self::System,
        }
    }
}

/// Why the broker cannot start.
#[derive(Debug)]
pub struct BrokerStartError {
    text: String,
    fault: StartFault,
}

impl BrokerStartError {
    fn new(fault: StartFault, error: impl fmt::Display) -> Self {
        Self {
            text: error.to_string(),
            fault,
        }
    }

    fn system(error: impl fmt::Display) -> Self {
        Self::new(StartFault::System, error)
    }

    /// Whether it can get better by itself.
    #[must_use]
    pub const fn fault(&self) -> StartFault {
        self.fault
    }
}

impl fmt::Display for BrokerStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for BrokerStartError {}

/// The running broker.
#[derive(Debug)]
pub struct BrokerRuntime {
    metrics: Arc<BrokerMetrics>,
    status: watch::Receiver<Status>,
    topics: watch::Sender<TopicLimits>,
    stop: watch::Sender<bool>,
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

    /// From now on, messages of an upstream broker on topics over `limits` are for nobody. Before the first call the limits
    /// are [`TopicLimits::MAX`]. What workers publish and subscribe, they have checked.
    pub fn limit_topics(&self, limits: TopicLimits) {
        self.topics.send_replace(limits);
    }

    /// Whether the broker can be reached; the embedded one always.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.metrics.is_connected()
    }

    /// Finishes what is queued, answers it, brings everything to the broker or to disk and ends. With an upstream that
    /// does not answer this takes up to four seconds.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
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
/// When a store in the state directory, or a file that the settings name, cannot be used; the text names the file. An
/// upstream that is away is no error.
pub fn start(
    settings: BrokerSettings,
    workers: usize,
) -> Result<(BrokerRuntime, Vec<WorkerLink>), BrokerStartError> {
    let state_dir = settings.state_dir.clone();
    match &settings.kind {
        BrokerKind::Embedded(limits) => start_embedded(&settings, *limits, state_dir.as_deref(), workers),
        BrokerKind::Mqtt(mqtt) => start_mqtt(&settings, mqtt, state_dir.as_deref(), workers),
    }
}

fn start_embedded(
    settings: &BrokerSettings,
    limits: RetainedLimits,
    state_dir: Option<&Path>,
    workers: usize,
) -> Result<(BrokerRuntime, Vec<WorkerLink>), BrokerStartError> {
    let (deliveries, events) = deliveries(workers);
    let metrics = Arc::new(BrokerMetrics::embedded(workers));
    let (status_sender, status) = watch::channel(Status {
        connection: "embedded".into(),
        ..Status::default()
    });
    let retained = Retained::new(limits);
    let disk = state_dir.map(|directory| {
        (
            directory.to_path_buf(),
            Disk::open(directory, settings.clock.moment()),
        )
    });
    // Whoever else has it open would lose what this process writes; anything else is a matter of the store alone.
    if let Some((_, Err(error))) = &disk
        && error.fault() == StartFault::Taken
    {
        return Err(BrokerStartError::new(error.fault(), error));
    }
    let (store, reports) = Store::new(
        settings.clock,
        deliveries.clone(),
        retained,
        disk,
        metrics.lane(0),
        status_sender,
    );
    let shared = Arc::new(Shared::new(settings.clock, store, metrics.lane(0)));
    let worker_links = events.into_iter().enumerate().map(|(worker, events)| {
        let metrics = metrics.lane(1 + worker);
        let access = Access::new(worker, Arc::clone(&shared), deliveries.clone(), metrics);
        embedded_link(access, events)
    });
    let worker_links = worker_links.collect();
    let keeper = Keeper::new(shared, reports);
    let (stop, stopped) = watch::channel(false);
    let (topics, _) = watch::channel(TopicLimits::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| BrokerStartError::system(format!("cannot start the broker: {error}")))?;
    let thread = std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || runtime.block_on(keeper.run(stopped)))
        .map_err(|error| BrokerStartError::system(format!("cannot start the broker's thread: {error}")))?;
    Ok((
        BrokerRuntime {
            metrics,
            status,
            topics,
            stop,
            thread,
        },
        worker_links,
    ))
}

fn start_mqtt(
    settings: &BrokerSettings,
    mqtt: &MqttSettings,
    state_dir: Option<&Path>,
    workers: usize,
) -> Result<(BrokerRuntime, Vec<WorkerLink>), BrokerStartError> {
    check_files(mqtt).map_err(|error| BrokerStartError::new(StartFault::Wrong, error))?;
    let count = mqtt.connections.max(1);
    let spool_bytes = state_dir.map_or(0, |_| mqtt.spool_bytes);
    let mut spools = open_spools(settings, state_dir, count, spool_bytes, mqtt.spool_drops_oldest)?;
    let (worker_links, lanes, deliveries) = links(workers, count);
    let metrics = Arc::new(BrokerMetrics::new(count, spool_bytes));
    let (status_sender, status) = watch::channel(Status {
        connection: format!("connecting to {}", mqtt.address),
        ..Status::default()
    });
    let (stop, stopped) = watch::channel(false);
    let (topics, limits) = watch::channel(TopicLimits::MAX);
    let (status_sender, mqtt) = (Arc::new(status_sender), Arc::new(mqtt.clone()));
    let origins = Origins::new(mqtt.protocol == Protocol::V4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count.min(16))
        .thread_name("broker")
        .enable_all()
        .build()
        .map_err(|error| BrokerStartError::system(format!("cannot start the broker: {error}")))?;
    let mut tasks = Vec::new();
    for (index, requests) in lanes.into_iter().enumerate() {
        let lane = Lane::new(LaneParts {
            index,
            settings: Arc::clone(&mqtt),
            node: Arc::clone(&settings.node),
            clock: settings.clock,
            workers: deliveries.clone(),
            spool: spools.pop_front(),
            judged: own_file(state_dir, &format!("judged-{index}.json")),
            exchanges: own_file(state_dir, &format!("exchanges-{index}")),
            origins: origins.clone(),
            metrics: metrics.lane(index),
            status: Arc::clone(&status_sender),
            topics: limits.clone(),
        });
        tasks.push(runtime.spawn(lane.run(requests, stopped.clone())));
    }
    let wait_for_all = async {
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("a connection's task ended abnormally");
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || runtime.block_on(wait_for_all))
        .map_err(|error| BrokerStartError::system(format!("cannot start the broker's thread: {error}")))?;
    Ok((
        BrokerRuntime {
            metrics,
            status,
            topics,
            stop,
            thread,
        },
        worker_links,
    ))
}

/// A file of the state directory, where nothing else stands in its place.
fn own_file(state_dir: Option<&Path>, name: &str) -> Option<PathBuf> {
    let path = state_dir?.join(name);
    if let Err(error) = aside::make_way_for_file(&path) {
        tracing::warn!(file = %path.display(), %error, "is no regular file and cannot be put away");
    }
    Some(path)
}

type Spools = std::collections::VecDeque<(Spool, super::spool::SpoolState)>;

fn open_spools(
    settings: &BrokerSettings,
    state_dir: Option<&Path>,
    count: usize,
    spool_bytes: u64,
    drops_oldest: bool,
) -> Result<Spools, BrokerStartError> {
    let Some(directory) = state_dir.filter(|_| spool_bytes > 0) else {
        return Ok(Spools::new());
    };
    let directories = layout::prepare(&directory.join("spool"), count)
        .map_err(|error| BrokerStartError::new(StartFault::of(&error.error), error))?;
    let share = spool_bytes / count as u64;
    directories
        .iter()
        .map(|directory| {
            Spool::open(directory, share, drops_oldest, settings.clock)
                .map_err(|error| BrokerStartError::new(error.fault(), error))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_taken_for_a_wrong_configuration() {
        for (kind, fault) in [
            (io::ErrorKind::StorageFull, StartFault::System),
            (io::ErrorKind::ReadOnlyFilesystem, StartFault::System),
            (io::ErrorKind::ResourceBusy, StartFault::Taken),
            (io::ErrorKind::InvalidData, StartFault::Wrong),
        ] {
            assert_eq!(StartFault::of(&io::Error::from(kind)), fault, "{kind}");
        }
    }
}
