//! The retained messages of the embedded broker, their disk, and who waits for either.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::link::Delivery;
use crate::metrics::LaneMetrics;
use crate::notes::Notes;
use crate::retained::{Disk, Durable, Opened, Reports, Retained, RetainedError, Search};
use crate::status::Status;
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, Ticket};
use portcullis_proto::types::message::Qos;
use portcullis_proto::types::{Message, TopicFilter, TopicName};

/// After a failure of the retained store, a new one is tried after this long, then after twice as long, and so on.
const RENEW_FIRST: Duration = Duration::from_secs(5);
const RENEW_LAST: Duration = Duration::from_secs(300);
/// Retained topics that a search looks at before others have their turn.
const SEARCHED_AT_ONCE: usize = 256;
/// Expired messages forgotten in one sweep.
const SWEEP_MAX: usize = 1_000;

/// A worker, and the request that it waits for.
type Asker = (usize, Ticket);

/// When a publish is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Now,
    WhenDurable,
}

/// An answer that waits for the disk.
struct Waiting {
    write: u64,
    asker: Asker,
    since: Instant,
    /// It clears a message.
    clear: bool,
}

/// The retained store failed: retained messages are refused until one that is written anew is whole.
struct Failure {
    renew_at: Instant,
    pause: Duration,
}

/// The retained messages.
pub(crate) struct Store {
    clock: Clock,
    workers: Vec<Delivery>,
    retained: Retained,
    /// Where the retained messages are kept, when they are.
    directory: Option<PathBuf>,
    disk: Option<Disk>,
    failed: Option<Failure>,
    /// The store could not be opened: what is in it is not in memory, so it is not written anew.
    unopened: bool,
    /// The disk is full: what clears is taken, and nothing else.
    full: bool,
    /// The disk is given away to be closed.
    closed: bool,
    waiting: VecDeque<Waiting>,
    /// For retained messages; the first is under way, those who wait for each stand in [`Self::searchers`].
    searches: VecDeque<Search>,
    searchers: HashMap<TopicFilter, Vec<Asker>>,
    notes: Notes,
    /// Written under the lock of the store.
    metrics: Arc<LaneMetrics>,
    status: watch::Sender<Status>,
}

impl Store {
    /// A store that tells `workers` of what they wait for, and the reports of its disk.
    pub(crate) fn new(
        clock: Clock,
        workers: Vec<Delivery>,
        retained: Retained,
        disk: Option<(PathBuf, Result<Opened, RetainedError>)>,
        metrics: Arc<LaneMetrics>,
        status: watch::Sender<Status>,
    ) -> (Self, Option<Reports>) {
        metrics.connected.set(1);
        let (directory, opened) = disk.unzip();
        let mut store = Self {
            clock,
            workers,
            retained,
            directory,
            disk: None,
            failed: None,
            unopened: false,
            full: false,
            closed: false,
            waiting: VecDeque::new(),
            searches: VecDeque::new(),
            searchers: HashMap::new(),
            notes: Notes::default(),
            metrics,
            status,
        };
        let reports = match opened {
            Some(Ok(opened)) => Some(store.opened(opened)),
            Some(Err(error)) => {
                store.unopened = true;
                store.disk_failed((clock.now)(), &error.to_string());
                None
            }
            None => None,
        };
        store.update_gauges();
        (store, reports)
    }

    /// Takes what was found on disk. Expired messages go in too: the first sweep removes them here and on disk.
    fn opened(&mut self, opened: Opened) -> Reports {
        for message in opened.messages {
            self.retained.insert(Arc::new(message));
        }
        self.disk = Some(opened.disk);
        self.unopened = false;
        if let Some(damage) = opened.damage {
            tracing::error!("{damage}");
            self.metrics.retained_damaged.inc();
            self.status.send_modify(|status| status.fault = Some(damage));
        }
        opened.reports
    }

    /// Keeps a retained message before anyone sees it, so that what is refused is refused as a whole. Without a `record` it
    /// clears.
    pub(super) fn retain(
        &mut self,
        now: Instant,
        asker: Asker,
        message: &Arc<Message>,
        record: Option<Vec<u8>>,
    ) -> Result<Answer, BrokerError> {
        if self.failed.is_some() || self.closed {
            return Err(BrokerError::Unavailable);
        }
        let clear = record.is_none();
        if self.full && !clear {
            self.metrics.retained_rejected.inc();
            return Err(BrokerError::Quota);
        }
        if !clear && self.retained.check(message).is_err() {
            self.sweep(now);
            if self.retained.check(message).is_err() {
                self.metrics.retained_rejected.inc();
                return Err(BrokerError::Quota);
            }
        }
        let mut answer = Answer::Now;
        if let Some(disk) = &mut self.disk {
            let write = disk
                .write(&message.topic, record)
                .ok_or(BrokerError::Unavailable)?;
            if message.qos != Qos::AtMostOnce {
                answer = Answer::WhenDurable;
                self.waiting.push_back(Waiting {
                    write,
                    asker,
                    since: now,
                    clear,
                });
            }
        }
        if clear {
            self.retained.remove(&message.topic);
        } else {
            self.retained.insert(Arc::clone(message));
            if let Some(search) = self.searches.front_mut() {
                search.note(&message.topic);
            }
        }
        self.update_gauges();
        Ok(answer)
    }

    /// The retained message of a topic.
    pub(super) fn get(&self, topic: &TopicName, now: Instant) -> Option<Arc<Message>> {
        self.retained.get(topic, now)
    }

    /// The retained messages that a filter matches, unless these have to be searched for longer than others should wait: then
    /// [`Self::search`] finds them, and answers.
    pub(super) fn find(
        &mut self,
        now: Instant,
        asker: Asker,
        filter: TopicFilter,
    ) -> Option<Vec<Arc<Message>>> {
        if let Some(others) = self.searchers.get_mut(&filter) {
            others.push(asker);
            return None;
        }
        let mut search = Search::new(filter);
        if search.go_on(&self.retained, now, SEARCHED_AT_ONCE) {
            return Some(self.end_search(now, search));
        }
        let filter = search.filter().clone();
        self.searchers.insert(filter.clone(), vec![asker]);
        // Until it is the first, nothing tells it what changes behind it: it begins anew then.
        self.searches.push_back(Search::new(filter));
        None
    }

    /// Goes on with the first search. Whether more is to be done.
    pub(super) fn search(&mut self, now: Instant) -> bool {
        let Some(mut search) = self.searches.pop_front() else {
            return false;
        };
        if !search.go_on(&self.retained, now, SEARCHED_AT_ONCE) {
            self.searches.push_front(search);
            return true;
        }
        let searchers = self.searchers.remove(search.filter()).unwrap_or_default();
        let found = self.end_search(now, search);
        for (worker, ticket) in searchers {
            let result = Ok(found.clone());
            self.answer(worker, BrokerEvent::Subscribed { ticket, result });
        }
        !self.searches.is_empty()
    }

    fn end_search(&mut self, now: Instant, search: Search) -> Vec<Arc<Message>> {
        let filter = search.filter().clone();
        let (found, more) = search.end(&self.retained, now);
        if more {
            self.metrics.retained_cut.inc();
            self.notes.cut(now, filter.as_str());
        }
        found
    }

    /// Follows up on what the disk reports; `None` once it is gone.
    pub(super) fn durable(&mut self, now: Instant, report: Option<Durable>) {
        match report {
            Some(Durable::Upto(number)) => {
                let done = self.waiting.partition_point(|waiting| waiting.write <= number);
                let done: Vec<Waiting> = self.waiting.drain(..done).collect();
                for done in done {
                    self.published(done.asker, Ok(()), done.since, now);
                }
            }
            Some(Durable::Failed(reason)) => self.disk_failed(now, &reason),
            Some(Durable::Full(number)) => self.disk_full(now, number),
            Some(Durable::Renewed) => {
                tracing::info!("the retained store is whole, and takes messages again");
                (self.failed, self.full) = (None, false);
                self.metrics.retained_failed.set(0);
                self.status.send_modify(|status| status.fault = None);
            }
            None => self.disk = None,
        }
    }

    /// Of the writes up to this one, those that clear are on disk. The others are kept for when there is room, and nobody is told
    /// that they are safe.
    fn disk_full(&mut self, now: Instant, number: Option<u64>) {
        if !std::mem::replace(&mut self.full, true) {
            let fault = "no room is left for the retained store; what clears messages is taken";
            tracing::error!("{fault}");
            self.metrics.retained_failed.set(1);
            self.status
                .send_modify(|status| status.fault = Some(fault.into()));
        }
        let done = self
            .waiting
            .partition_point(|waiting| Some(waiting.write) <= number);
        let done: Vec<Waiting> = self.waiting.drain(..done).collect();
        for done in done {
            let result = if done.clear {
                Ok(())
            } else {
                Err(BrokerError::Quota)
            };
            self.published(done.asker, result, done.since, now);
        }
    }

    fn disk_failed(&mut self, now: Instant, reason: &str) {
        let pause = self.failed.as_ref().map(|failure| failure.pause);
        if pause.is_none() {
            tracing::error!(
                reason,
                "the retained store failed; retained messages are refused until it can be written anew"
            );
        }
        let pause = pause.map_or(RENEW_FIRST, |pause| (pause * 2).min(RENEW_LAST));
        self.failed = Some(Failure {
            renew_at: now + pause,
            pause,
        });
        self.metrics.retained_failed.set(1);
        self.status
            .send_modify(|status| status.fault = Some(format!("retained store failed: {reason}")));
        for lost in std::mem::take(&mut self.waiting) {
            let result = Err(BrokerError::Unavailable);
            self.published(lost.asker, result, lost.since, now);
        }
    }

    /// Writes what is in memory to a new store, once it is time, and gives its reports. The disk may have been full, and no longer
    /// be.
    pub(super) fn renew(&mut self, now: Instant) -> Option<Reports> {
        let due = self
            .failed
            .as_ref()
            .is_some_and(|failure| failure.renew_at <= now);
        let directory = self.directory.as_ref().filter(|_| due && self.disk.is_none())?;
        if self.unopened {
            return match Disk::open(directory, self.clock.moment()) {
                Ok(opened) => {
                    self.status.send_modify(|status| status.fault = None);
                    let reports = self.opened(opened);
                    self.durable(now, Some(Durable::Renewed));
                    Some(reports)
                }
                Err(error) => {
                    self.disk_failed(now, &error.to_string());
                    None
                }
            };
        }
        match Disk::renew(directory, self.retained.all(), self.clock.moment()) {
            Ok((disk, reports)) => {
                self.disk = Some(disk);
                Some(reports)
            }
            Err(error) => {
                self.disk_failed(now, &error.to_string());
                None
            }
        }
    }

    fn published(
        &mut self,
        (worker, ticket): Asker,
        result: Result<(), BrokerError>,
        since: Instant,
        now: Instant,
    ) {
        if result.is_ok() {
            self.metrics.accepted.inc();
            self.metrics.acknowledged.inc();
            self.metrics
                .ack_seconds
                .observe(now.saturating_duration_since(since));
        } else {
            self.metrics.refused.inc();
        }
        self.answer(worker, BrokerEvent::Published { ticket, result });
    }

    fn answer(&mut self, worker: usize, event: BrokerEvent) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.answer(event);
        }
    }

    /// Hands workers what they were told.
    pub(super) fn flush(&mut self) {
        self.workers.iter_mut().for_each(Delivery::flush);
    }

    /// Forgets what has expired.
    pub(super) fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_MAX {
            let Some(topic) = self.retained.expire(now) else {
                break;
            };
            if let Some(disk) = &mut self.disk {
                // A removal that finds no room is made up for by the next start, which skips what has expired.
                let _number = disk.write(&topic, None);
            }
        }
        self.update_gauges();
    }

    /// Retains nothing more, answers those whose searches are not done, and gives the disk to be closed.
    pub(super) fn finish(&mut self) -> Option<Disk> {
        self.closed = true;
        self.searches.clear();
        for (worker, ticket) in std::mem::take(&mut self.searchers).into_values().flatten() {
            let result = Err(BrokerError::Unavailable);
            self.answer(worker, BrokerEvent::Subscribed { ticket, result });
        }
        self.disk.take()
    }

    /// Tells the workers that the broker is gone.
    pub(super) fn end(&mut self) {
        self.workers.iter_mut().for_each(Delivery::end);
        self.metrics.connected.set(0);
    }

    fn update_gauges(&mut self) {
        self.metrics.retained_messages.set(self.retained.len() as u64);
        self.metrics.retained_bytes.set(self.retained.bytes() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::link::deliveries;
    use crate::metrics::BrokerMetrics;
    use crate::record;
    use crate::retained::RetainedLimits;
    use crate::testing::{clock, message};

    /// A store, and the reports of its disk.
    struct Kept {
        store: Store,
        reports: Option<Reports>,
    }

    fn kept(directory: &Path) -> Kept {
        let (deliveries, _events) = deliveries(1);
        let opened = Disk::open(directory, clock().moment());
        let (status, _) = watch::channel(Status {
            connection: "embedded".into(),
            ..Status::default()
        });
        let metrics = BrokerMetrics::new(1, 0).lane(0);
        let retained = Retained::new(RetainedLimits::default());
        let disk = Some((directory.to_path_buf(), opened));
        let (store, reports) = Store::new(clock(), deliveries, retained, disk, metrics, status);
        Kept { store, reports }
    }

    fn retain(kept: &mut Kept, topic: &str) -> Result<(), BrokerError> {
        let message = Arc::new(Message {
            retain: true,
            ..message(topic, "payload")
        });
        let mut record = Vec::new();
        record::encode(&message, None, clock().moment(), &mut record);
        let now = (clock().now)();
        kept.store
            .retain(now, (0, Ticket(0)), &message, Some(record))
            .map(drop)
    }

    async fn hear(kept: &mut Kept) {
        let heard = kept.reports.as_mut().unwrap().next().await;
        kept.store.durable((clock().now)(), heard);
    }

    fn close(kept: &mut Kept) {
        let disk = kept.store.disk.take().unwrap();
        disk.close(kept.reports.take());
    }

    fn renew(kept: &mut Kept, now: Instant) {
        if let Some(reports) = kept.store.renew(now) {
            kept.reports = Some(reports);
        }
    }

    #[tokio::test]
    async fn a_disk_that_was_full_for_a_while_takes_retained_messages_again_without_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = kept(directory.path());
        retain(&mut kept, "before").unwrap();
        hear(&mut kept).await;
        // What the thread says before it ends.
        kept.store.durable(
            (clock().now)(),
            Some(Durable::Failed("No space left on device".into())),
        );
        close(&mut kept);
        kept.store.durable((clock().now)(), None);
        assert_eq!(retain(&mut kept, "meanwhile"), Err(BrokerError::Unavailable));
        assert_eq!(kept.store.metrics.retained_failed.get(), 1);

        let now = (clock().now)();
        renew(&mut kept, now);
        assert!(kept.store.disk.is_none(), "not at once");
        // Still no room: its directory is away.
        let away = directory.path().with_extension("away");
        std::fs::rename(directory.path(), &away).unwrap();
        renew(&mut kept, now + RENEW_FIRST * 2);
        hear(&mut kept).await;
        hear(&mut kept).await;
        assert!(kept.store.disk.is_none() && kept.store.failed.is_some());
        std::fs::rename(&away, directory.path()).unwrap();

        renew(&mut kept, now + RENEW_LAST);
        assert_eq!(retain(&mut kept, "too early"), Err(BrokerError::Unavailable));
        hear(&mut kept).await;
        assert_eq!(kept.store.metrics.retained_failed.get(), 0);
        assert_eq!(kept.store.status.borrow().fault, None);
        retain(&mut kept, "after").unwrap();
        hear(&mut kept).await;
        close(&mut kept);
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        let found: Vec<_> = opened
            .messages
            .iter()
            .map(|message| message.topic.as_str())
            .collect();
        assert_eq!(found, ["after", "before"]);
    }
}
