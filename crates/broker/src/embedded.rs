//! The embedded broker: one task that owns all subscriptions and retained messages.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest, FilterId, Ticket};
use portcullis_proto::types::message::Qos;
use portcullis_proto::types::{Message, TopicFilter};

use super::clock::Clock;
use super::link::{Delivery, Envelope, QueueReceiver};
use super::metrics::LaneMetrics;
use super::record;
use super::retained::{Disk, Durable, Opened, Retained, RetainedError, Search};
use super::status::Status;
use super::topics::FilterTable;

/// Requests handled before the clock is read again and the metrics are brought up to date.
const BATCH: usize = 256;
const SWEEP: Duration = Duration::from_secs(1);
/// After a failure of the retained store, a new one is tried after this long, then after twice as long, and so on.
const RENEW_FIRST: Duration = Duration::from_secs(5);
const RENEW_LAST: Duration = Duration::from_secs(300);
/// Retained topics that a search looks at before others have their turn.
const SEARCHED_AT_ONCE: usize = 256;
/// Expired messages forgotten in one sweep.
const SWEEP_MAX: usize = 1_000;

type Subscriber = (usize, FilterId);

/// An answer that waits for the disk.
struct Waiting {
    write: u64,
    worker: usize,
    ticket: Ticket,
    since: Instant,
    /// It clears a message.
    clear: bool,
}

/// The retained store failed: retained messages are refused until one that is written anew is whole.
struct Failure {
    renew_at: Instant,
    pause: Duration,
}

/// The broker's state.
pub(super) struct Embedded {
    clock: Clock,
    workers: Vec<Delivery>,
    filters: FilterTable<Subscriber>,
    subscribed: HashMap<Subscriber, TopicFilter>,
    retained: Retained,
    /// Where the retained messages are kept, when they are.
    directory: Option<PathBuf>,
    disk: Option<Disk>,
    failed: Option<Failure>,
    /// The store could not be opened: what is in it is not in memory, so it is not written anew.
    unopened: bool,
    /// The disk is full: what clears is taken, and nothing else.
    full: bool,
    waiting: VecDeque<Waiting>,
    /// For retained messages; the first is under way, those who wait for each stand in [`Self::searchers`].
    searches: VecDeque<Search>,
    searchers: HashMap<TopicFilter, Vec<(usize, Ticket)>>,
    found: Vec<Subscriber>,
    metrics: Arc<LaneMetrics>,
    status: watch::Sender<Status>,
}

impl Embedded {
    pub(super) fn new(
        clock: Clock,
        workers: Vec<Delivery>,
        retained: Retained,
        disk: Option<(PathBuf, Result<Opened, RetainedError>)>,
        metrics: Arc<LaneMetrics>,
        status: watch::Sender<Status>,
    ) -> Self {
        metrics.connected.set(1);
        let (directory, opened) = disk.unzip();
        let mut embedded = Self {
            clock,
            workers,
            filters: FilterTable::default(),
            subscribed: HashMap::new(),
            retained,
            directory,
            disk: None,
            failed: None,
            unopened: false,
            full: false,
            waiting: VecDeque::new(),
            searches: VecDeque::new(),
            searchers: HashMap::new(),
            found: Vec::new(),
            metrics,
            status,
        };
        match opened {
            Some(Ok(opened)) => embedded.opened(opened),
            Some(Err(error)) => {
                embedded.unopened = true;
                embedded.disk_failed((clock.now)(), &error.to_string());
            }
            None => {}
        }
        embedded.update_gauges();
        embedded
    }

    /// Takes what was found on disk. Expired messages go in too: the first sweep removes them here and on disk.
    fn opened(&mut self, opened: Opened) {
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
    }

    /// Serves until all workers are gone or `stop` is told; then everything queued is done and on disk.
    pub(super) async fn run(
        mut self,
        mut requests: QueueReceiver<Envelope>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            // In random order, and a bounded amount of each: requests may come without a pause, and must not keep the disk's
            // reports (the answers to what is durable) or the sweep from their turn. The end is looked at first, above.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                report = report(&mut self.disk) => self.durable(report),
                request = requests.recv() => match request {
                    Some(first) => self.batch(first, &mut requests),
                    None => break,
                },
                () = tokio::task::yield_now(), if !self.searches.is_empty() => self.search(),
                _ = sweep.tick() => self.sweep(),
            }
        }
        requests.close();
        while let Some(first) = requests.try_recv() {
            self.batch(first, &mut requests);
        }
        for (worker, ticket) in std::mem::take(&mut self.searchers).into_values().flatten() {
            let result = Err(BrokerError::Unavailable);
            self.answer(worker, BrokerEvent::Subscribed { ticket, result });
        }
        if let Some(disk) = self.disk.take() {
            for report in disk.close() {
                self.durable(Some(report));
            }
        }
        self.metrics.connected.set(0);
    }

    fn batch(&mut self, first: Envelope, requests: &mut QueueReceiver<Envelope>) {
        let now = (self.clock.now)();
        self.handle(now, first);
        for _ in 1..BATCH {
            let Some(next) = requests.try_recv() else { break };
            self.handle(now, next);
        }
        self.update_gauges();
    }

    fn handle(&mut self, now: Instant, Envelope { worker, request }: Envelope) {
        match request {
            BrokerRequest::Publish { ticket, message } => {
                self.metrics.sent.inc();
                match self.publish(now, worker, ticket, &message) {
                    Ok(Answer::Now) => self.published(worker, ticket, Ok(()), now, now),
                    Ok(Answer::WhenDurable) => {}
                    Err(error) => self.published(worker, ticket, Err(error), now, now),
                }
            }
            BrokerRequest::Subscribe {
                ticket,
                filter_id,
                filter,
                qos: _,
                retained,
            } => {
                let result = self.subscribe(now, (worker, filter_id), ticket, filter, retained);
                if let Some(result) = result.transpose() {
                    self.answer(worker, BrokerEvent::Subscribed { ticket, result });
                }
            }
            BrokerRequest::Unsubscribe { filter_id } => {
                if let Some(filter) = self.subscribed.remove(&(worker, filter_id)) {
                    self.filters.remove(&filter, (worker, filter_id));
                }
            }
            BrokerRequest::ReadRetained { ticket, topic } => {
                let result = Ok(self.retained.get(&topic, now));
                self.answer(worker, BrokerEvent::Retained { ticket, result });
            }
        }
    }

    fn publish(
        &mut self,
        now: Instant,
        worker: usize,
        ticket: Ticket,
        message: &Arc<Message>,
    ) -> Result<Answer, BrokerError> {
        let answer = if message.retain {
            self.retain(now, worker, ticket, message)?
        } else {
            Answer::Now
        };
        if !message.is_expired(now) {
            self.deliver(message);
        }
        Ok(answer)
    }

    /// Keeps a retained message before anyone sees it, so that what is refused is refused as a whole.
    fn retain(
        &mut self,
        now: Instant,
        worker: usize,
        ticket: Ticket,
        message: &Arc<Message>,
    ) -> Result<Answer, BrokerError> {
        if self.failed.is_some() {
            return Err(BrokerError::Unavailable);
        }
        let clear = message.payload.is_empty() || message.is_expired(now);
        if self.full && !clear {
            self.metrics.retained_rejected.inc();
            return Err(BrokerError::Quota);
        }
        if !clear && self.retained.check(message).is_err() {
            self.sweep();
            if self.retained.check(message).is_err() {
                self.metrics.retained_rejected.inc();
                return Err(BrokerError::Quota);
            }
        }
        let mut answer = Answer::Now;
        if let Some(disk) = &mut self.disk {
            let record = (!clear).then(|| {
                let mut bytes = Vec::with_capacity(message.payload.len() + 128);
                record::encode(message, None, self.clock.moment(), &mut bytes);
                bytes
            });
            let write = disk
                .write(&message.topic, record)
                .ok_or(BrokerError::Unavailable)?;
            if message.qos != Qos::AtMostOnce {
                answer = Answer::WhenDurable;
                self.waiting.push_back(Waiting {
                    write,
                    worker,
                    ticket,
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
        Ok(answer)
    }

    fn deliver(&mut self, message: &Arc<Message>) {
        self.found.clear();
        self.filters.matching(&message.topic, &mut self.found);
        self.found.sort_unstable();
        for group in self.found.chunk_by(|a, b| a.0 == b.0) {
            let Some(worker) = group.first().and_then(|(worker, _)| self.workers.get(*worker)) else {
                continue;
            };
            let filters = group.iter().map(|(_, filter)| *filter).collect();
            if worker.message(filters, message) {
                self.metrics.received.inc();
            } else {
                self.metrics.undelivered.inc();
            }
        }
    }

    /// The retained messages, unless these have to be searched for longer than others should wait.
    fn subscribe(
        &mut self,
        now: Instant,
        subscriber: Subscriber,
        ticket: Ticket,
        filter: TopicFilter,
        retained: bool,
    ) -> Result<Option<Vec<Arc<Message>>>, BrokerError> {
        if filter.as_str().starts_with("$share/") {
            return Err(BrokerError::Refused);
        }
        if let std::collections::hash_map::Entry::Vacant(new) = self.subscribed.entry(subscriber) {
            self.filters.insert(&filter, subscriber);
            new.insert(filter.clone());
        }
        if !retained {
            return Ok(Some(Vec::new()));
        }
        let searcher = (subscriber.0, ticket);
        if let Some(others) = self.searchers.get_mut(&filter) {
            others.push(searcher);
            return Ok(None);
        }
        let mut search = Search::new(filter);
        if search.go_on(&self.retained, now, SEARCHED_AT_ONCE) {
            return Ok(Some(self.end_search(now, search)));
        }
        let filter = search.filter().clone();
        self.searchers.insert(filter.clone(), vec![searcher]);
        // Until it is the first, nothing tells it what changes behind it: it begins anew then.
        self.searches.push_back(Search::new(filter));
        Ok(None)
    }

    /// Goes on with the first search.
    fn search(&mut self) {
        let now = (self.clock.now)();
        let Some(mut search) = self.searches.pop_front() else {
            return;
        };
        if !search.go_on(&self.retained, now, SEARCHED_AT_ONCE) {
            return self.searches.push_front(search);
        }
        let searchers = self.searchers.remove(search.filter()).unwrap_or_default();
        let found = self.end_search(now, search);
        for (worker, ticket) in searchers {
            let result = Ok(found.clone());
            self.answer(worker, BrokerEvent::Subscribed { ticket, result });
        }
    }

    fn end_search(&self, now: Instant, search: Search) -> Vec<Arc<Message>> {
        let (found, more) = search.end(&self.retained, now);
        if more {
            self.metrics.retained_cut.inc();
        }
        found
    }

    fn durable(&mut self, report: Option<Durable>) {
        let now = (self.clock.now)();
        match report {
            Some(Durable::Upto(number)) => {
                let done = self.waiting.partition_point(|waiting| waiting.write <= number);
                let done: Vec<Waiting> = self.waiting.drain(..done).collect();
                for done in done {
                    self.published(done.worker, done.ticket, Ok(()), done.since, now);
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
            self.published(done.worker, done.ticket, result, done.since, now);
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
            self.published(lost.worker, lost.ticket, result, lost.since, now);
        }
    }

    /// Writes what is in memory to a new store, once it is time. The disk may have been full, and no longer be.
    fn renew(&mut self, now: Instant) {
        let due = self
            .failed
            .as_ref()
            .is_some_and(|failure| failure.renew_at <= now);
        let Some(directory) = self.directory.as_ref().filter(|_| due && self.disk.is_none()) else {
            return;
        };
        if self.unopened {
            match Disk::open(directory, self.clock.moment()) {
                Ok(opened) => {
                    self.status.send_modify(|status| status.fault = None);
                    self.opened(opened);
                    self.durable(Some(Durable::Renewed));
                }
                Err(error) => self.disk_failed(now, &error.to_string()),
            }
            return;
        }
        match Disk::renew(directory, self.retained.all(), self.clock.moment()) {
            Ok(disk) => self.disk = Some(disk),
            Err(error) => self.disk_failed(now, &error.to_string()),
        }
    }

    fn published(
        &self,
        worker: usize,
        ticket: Ticket,
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

    fn answer(&self, worker: usize, event: BrokerEvent) {
        if let Some(worker) = self.workers.get(worker) {
            worker.answer(event);
        }
    }

    fn sweep(&mut self) {
        let now = (self.clock.now)();
        self.renew(now);
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

    fn update_gauges(&mut self) {
        self.metrics.retained_messages.set(self.retained.len() as u64);
        self.metrics.retained_bytes.set(self.retained.bytes() as u64);
        self.metrics.subscriptions.set(self.subscribed.len() as u64);
        self.metrics.filter_bytes.set(self.filters.bytes() as u64);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Now,
    WhenDurable,
}

/// The disk's next report; for ever pending without one.
async fn report(disk: &mut Option<Disk>) -> Option<Durable> {
    match disk {
        Some(disk) => disk.report().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::link::links;
    use crate::metrics::BrokerMetrics;
    use crate::retained::RetainedLimits;
    use crate::testing::{clock, message};

    fn embedded(directory: &Path) -> Embedded {
        let (_links, _lanes, deliveries) = links(1, 1);
        let opened = Disk::open(directory, clock().moment());
        let (status, _) = watch::channel(Status {
            connection: "embedded".into(),
            fault: None,
        });
        let metrics = BrokerMetrics::new(1, 0).lane(0);
        let retained = Retained::new(RetainedLimits::default());
        let disk = Some((directory.to_path_buf(), opened));
        Embedded::new(clock(), deliveries, retained, disk, metrics, status)
    }

    fn retain(embedded: &mut Embedded, topic: &str) -> Result<(), BrokerError> {
        let message = Arc::new(Message {
            retain: true,
            ..message(topic, "payload")
        });
        let now = (embedded.clock.now)();
        embedded.retain(now, 0, Ticket(0), &message).map(drop)
    }

    async fn hear(embedded: &mut Embedded) {
        let heard = report(&mut embedded.disk).await;
        embedded.durable(heard);
    }

    #[tokio::test]
    async fn a_disk_that_was_full_for_a_while_takes_retained_messages_again_without_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut embedded = embedded(directory.path());
        retain(&mut embedded, "before").unwrap();
        hear(&mut embedded).await;
        // What the thread says before it ends.
        embedded.durable(Some(Durable::Failed("No space left on device".into())));
        embedded.disk.take().map(Disk::close);
        embedded.durable(None);
        assert_eq!(retain(&mut embedded, "meanwhile"), Err(BrokerError::Unavailable));
        assert_eq!(embedded.metrics.retained_failed.get(), 1);

        let now = (embedded.clock.now)();
        embedded.renew(now);
        assert!(embedded.disk.is_none(), "not at once");
        // Still no room: a directory is in the way.
        let unfinished = directory.path().join("retained.new");
        std::fs::create_dir(&unfinished).unwrap();
        embedded.renew(now + RENEW_FIRST * 2);
        hear(&mut embedded).await;
        hear(&mut embedded).await;
        assert!(embedded.disk.is_none() && embedded.failed.is_some());
        std::fs::remove_dir(&unfinished).unwrap();

        embedded.renew(now + RENEW_LAST);
        assert_eq!(retain(&mut embedded, "too early"), Err(BrokerError::Unavailable));
        hear(&mut embedded).await;
        assert_eq!(embedded.metrics.retained_failed.get(), 0);
        assert_eq!(embedded.status.borrow().fault, None);
        retain(&mut embedded, "after").unwrap();
        hear(&mut embedded).await;
        embedded.disk.take().map(Disk::close);
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        let found: Vec<_> = opened
            .messages
            .iter()
            .map(|message| message.topic.as_str())
            .collect();
        assert_eq!(found, ["after", "before"]);
    }
}
