//! The pipeline's dealings with the spool.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::DroppedReason;
use crate::origin::OriginTag;
use crate::record;
use crate::spool::{Append, AppendError, Command, Report, Spool, SpoolState};
use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::message::{Message, Qos};

use super::exchanges::Exchange;
use super::judge::Subject;
use super::pipeline::Pipeline;
use super::window::{Answer, Entry};

/// A publish that the broker has not acknowledged for this long is written to the spool and answered from there.
const SPILL_AFTER: Duration = Duration::from_secs(1);
const SPILL_EVERY: Duration = Duration::from_millis(200);
/// Records on their way into the spool beyond which publishes are refused.
const MAX_WRITING: usize = 16_384;
const MAX_WRITING_BYTES: usize = 64 << 20;
/// Below so many messages in the window more are read from the spool.
const READ_BELOW: usize = 512;
const READ_RECORDS: usize = 1_024;
const READ_BYTES: usize = 4 << 20;
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// A record on its way into the spool.
#[derive(Debug)]
struct Writing {
    token: u64,
    bytes: usize,
    /// The window has it too, with its answer.
    in_window: bool,
    /// It was settled meanwhile.
    settled: bool,
    answer: Option<Answer>,
    /// To be gone on with when it is read again.
    exchange: Option<Exchange>,
}

/// What is known of the spool.
#[derive(Debug)]
pub(super) struct Spooling {
    spool: Option<Spool>,
    state: SpoolState,
    writing: VecDeque<Writing>,
    writing_bytes: usize,
    /// Records on their way that the window does not have.
    behind: usize,
    /// Records that are not to be read: a message that stands apart is theirs, or was and is done.
    apart: BTreeSet<u64>,
    /// Rewinds that were asked for and not reported yet.
    rewinding: u64,
    loading: bool,
    /// When to read again after a read that failed.
    read_again: Option<Instant>,
    expire_at: Option<Instant>,
    spill_at: Option<Instant>,
}

impl Spooling {
    pub(super) fn new(spool: Option<(Spool, SpoolState)>) -> Self {
        let (spool, state) = spool.unzip();
        Self {
            spool,
            state: state.unwrap_or_default(),
            writing: VecDeque::new(),
            writing_bytes: 0,
            behind: 0,
            apart: BTreeSet::new(),
            rewinding: 0,
            loading: false,
            read_again: None,
            expire_at: None,
            spill_at: None,
        }
    }

    /// Whether messages wait on disk, so that later ones must go behind them.
    pub(super) fn has_backlog(&self) -> bool {
        self.rewinding > 0 || self.loading || self.behind > 0 || self.state.unread > 0
    }

    /// Whether it takes more now.
    pub(super) fn is_open(&self) -> bool {
        self.spool.is_some()
            && self.state.failure.is_none()
            && self.writing.len() < MAX_WRITING
            && self.writing_bytes < MAX_WRITING_BYTES
    }

    pub(super) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Where it stands.
    pub(super) fn state(&self) -> &SpoolState {
        &self.state
    }

    fn command(&self, command: Command) {
        if let Some(spool) = &self.spool {
            spool.send(command);
        }
    }

    pub(super) fn done(&self, number: u64) {
        self.command(Command::Done(number));
    }

    pub(super) fn settled_while_writing(&mut self, token: u64) {
        if let Some(writing) = self.writing.iter_mut().find(|writing| writing.token == token) {
            writing.settled = true;
        }
    }

    pub(super) fn renamed(&mut self, old: u64, new: u64) {
        if let Some(writing) = self.writing.iter_mut().find(|writing| writing.token == old) {
            writing.token = new;
        }
    }

    fn append(&mut self, writing: Writing, accepted_millis: u64, body: Vec<u8>) {
        self.writing_bytes += writing.bytes;
        self.behind += usize::from(!writing.in_window);
        let held = writing.in_window;
        self.writing.push_back(writing);
        self.command(Command::Append(Append {
            accepted_millis,
            body,
            held,
        }));
    }

    fn rewind(&mut self) {
        if self.spool.is_some() {
            self.command(Command::Rewind);
            self.rewinding += 1;
            self.loading = false;
        }
    }

    /// What happened in the spool; for ever pending without one. Cancel safe.
    pub(super) async fn report(&mut self) -> Option<Report> {
        match &mut self.spool {
            Some(spool) => spool.report().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the spool out, to close it.
    pub(super) fn take(&mut self) -> Option<Spool> {
        self.spool.take()
    }
}

impl Pipeline {
    fn encode(&self, message: &Message, origin: Option<OriginTag>) -> (u64, Vec<u8>) {
        let moment = self.clock.moment();
        let mut body = Vec::with_capacity(message.payload.len() + message.topic.as_str().len() + 64);
        record::encode(message, origin, moment, &mut body);
        (moment.wall_millis, body)
    }

    /// Writes a publish to the spool, behind all others.
    pub(super) fn store(
        &mut self,
        message: Arc<Message>,
        origin: Option<OriginTag>,
        answer: Answer,
        exchange: Option<Exchange>,
    ) {
        let (accepted, body) = self.encode(&message, origin);
        let writing = Writing {
            token: self.window.token(),
            bytes: body.len(),
            in_window: false,
            settled: false,
            answer: Some(answer),
            exchange,
        };
        self.spooling.append(writing, accepted, body);
    }

    /// Writes those messages to the spool that have waited for `older_than`; they stay in flight.
    pub(super) fn spill(&mut self, now: Instant, older_than: Duration) {
        // What stands apart is not in the window's order, so it may go behind what waits.
        for at in 0..self.window.apart().len() {
            if let Some(entry) = self.window.apart().get(at)
                && !self.spill_entry(now, older_than, entry.token)
            {
                break;
            }
        }
        if self.spooling.has_backlog() {
            return;
        }
        for at in 0..self.window.entries().len() {
            if let Some(entry) = self.window.entries().get(at)
                && !self.spill_entry(now, older_than, entry.token)
            {
                return;
            }
        }
    }

    /// False when neither this nor what follows it is to be spilled.
    fn spill_entry(&mut self, now: Instant, older_than: Duration, token: u64) -> bool {
        let is_open = self.spooling.is_open();
        let Some(entry) = self.window.entry(token) else {
            return true;
        };
        let there = entry.number.is_some() || entry.writing || entry.refused_by_spool;
        if entry.done || entry.internal || there || entry.message.qos == Qos::AtMostOnce {
            return true;
        }
        if now.saturating_duration_since(entry.since) < older_than || !is_open {
            return false;
        }
        entry.writing = true;
        let (message, origin) = (Arc::clone(&entry.message), entry.origin);
        let (accepted, body) = self.encode(&message, origin);
        let writing = Writing {
            token,
            bytes: body.len(),
            in_window: true,
            settled: false,
            answer: None,
            exchange: None,
        };
        self.spooling.append(writing, accepted, body);
        true
    }

    /// The window is given up with its connection: all that counts goes to the spool in order, to be read from there.
    ///
    /// Only what is suspect and was never near the spool stays, apart: its answer is the verdict, which is a matter of
    /// milliseconds when the broker is there. If it is not, the spool has it within a second.
    pub(super) fn keep_window(&mut self, now: Instant, goes_on: bool) {
        let entries = self.window.take();
        let fresh = goes_on
            && !self.spooling.has_backlog()
            && entries
                .iter()
                .all(|entry| entry.number.is_none() && !entry.writing);
        let wall = self.clock.wall_millis();
        for entry in entries {
            if let Some(number) = entry.number {
                self.spooling.apart.remove(&number);
                if let Some(exchange) = entry.exchange {
                    self.exchanges.keep(number, exchange);
                }
                continue;
            }
            let suspect = fresh
                && entry.exchange.is_none()
                && entry.message.qos != Qos::AtMostOnce
                && now.saturating_duration_since(entry.since) < SPILL_AFTER
                && self.judge.suspects(wall, &Subject::topic(&entry.message));
            if suspect {
                self.window.keep_apart(entry);
                continue;
            }
            if entry.writing {
                let writing = self
                    .spooling
                    .writing
                    .iter_mut()
                    .find(|writing| writing.token == entry.token);
                if let Some(writing) = writing {
                    writing.in_window = false;
                    writing.answer = entry.answer;
                    writing.exchange = entry.exchange;
                    self.spooling.behind += 1;
                }
                continue;
            }
            let Some(answer) = entry.answer else { continue };
            if entry.message.qos == Qos::AtMostOnce || !self.spooling.is_open() {
                if let Some(exchange) = entry.exchange {
                    self.exchanges.orphan(exchange);
                }
                self.refuse(answer, BrokerError::Unavailable);
            } else {
                self.store(entry.message, entry.origin, answer, entry.exchange);
            }
        }
        self.spooling.rewind();
    }

    /// Follows up on what the spool did.
    pub(super) fn on_report(&mut self, now: Instant, report: Report) {
        let failure = &report.state.failure;
        if let Some(reason) = failure.as_ref().filter(|_| self.spooling.state.failure.is_none()) {
            tracing::error!(%reason, "the spool failed and takes nothing more until a restart");
            self.metrics.spool_failed.set(1);
        }
        self.spooling.state = report.state;
        self.spooling.apart = self.spooling.apart.split_off(&self.spooling.state.head);
        self.show_spool();
        for result in report.appended {
            self.on_appended(now, result);
        }
        self.spooling.rewinding = self.spooling.rewinding.saturating_sub(report.rewinds);
        if let Some(loaded) = report.loaded.filter(|_| self.spooling.rewinding == 0) {
            self.spooling.loading = false;
            if loaded.is_empty() && self.spooling.state.unread > 0 {
                self.spooling.read_again = now.checked_add(EXPIRE_EVERY);
            }
            for loaded in loaded {
                if self.spooling.apart.remove(&loaded.number) {
                    continue;
                }
                let record = loaded.record;
                let exchange = self.exchanges.take(loaded.number, &record.message);
                let message = Arc::new(record.message);
                self.window.push(Entry {
                    number: Some(loaded.number),
                    exchange,
                    ..Entry::new(now, message, record.origin)
                });
            }
        }
        self.metrics.dropped.add(DroppedReason::Expired, report.expired);
        self.metrics.dropped.add(DroppedReason::SpoolFull, report.dropped);
        if report.lost > 0 {
            tracing::error!(
                messages = report.lost,
                "messages in the spool are damaged and lost"
            );
            self.metrics.dropped.add(DroppedReason::Corrupt, report.lost);
        }
    }

    /// Brings the spool's gauges up to date.
    pub(super) fn show_spool(&self) {
        let state = &self.spooling.state;
        self.metrics.spool_messages.set(state.live);
        self.metrics.spool_bytes.set(state.live_bytes);
        self.metrics.spool_disk_bytes.set(state.disk_bytes);
        self.metrics.spool_oldest_millis.set(state.oldest_millis);
    }

    fn on_appended(&mut self, now: Instant, result: Result<u64, AppendError>) {
        let Some(writing) = self.spooling.writing.pop_front() else {
            return;
        };
        self.spooling.writing_bytes -= writing.bytes;
        self.spooling.behind -= usize::from(!writing.in_window);
        if let Ok(number) = result
            && writing.settled
        {
            return self.spooling.done(number);
        }
        if let Some(exchange) = writing.exchange {
            match result {
                Ok(number) => self.exchanges.keep(number, exchange),
                Err(_) => self.exchanges.orphan(exchange),
            }
        }
        if let Ok(number) = result
            && self
                .window
                .apart()
                .iter()
                .any(|entry| entry.token == writing.token)
        {
            // It may have gone behind what waits to be read.
            self.spooling.apart.insert(number);
        }
        let mut answer = writing.answer;
        if writing.in_window
            && let Some(entry) = self.window.entry(writing.token)
        {
            entry.writing = false;
            match result {
                Ok(number) => {
                    entry.number = Some(number);
                    answer = entry.answer.take();
                    if let Some(exchange) = entry.exchange {
                        self.exchanges.note(&exchange, Some(number));
                    }
                }
                // The broker may still take it.
                Err(_) => entry.refused_by_spool = true,
            }
        }
        match (result, answer) {
            (Ok(_), Some(answer)) => self.accept(answer, now),
            (Err(AppendError::Full), Some(answer)) => {
                self.metrics.spool_full.inc();
                self.refuse(answer, BrokerError::Quota);
            }
            (Err(AppendError::Failed), Some(answer)) => self.refuse(answer, BrokerError::Unavailable),
            (_, None) => {}
        }
    }

    /// What time brings: slow messages are spilled, more are read, expired ones are forgotten.
    pub(super) fn tick(&mut self, now: Instant, connected: bool) {
        let spooling = &mut self.spooling;
        let held = !self.window.is_empty();
        if (connected || held) && spooling.spill_at.is_none_or(|at| at <= now) {
            spooling.spill_at = now.checked_add(SPILL_EVERY);
            self.spill(now, SPILL_AFTER);
        }
        if connected {
            return self.read_ahead(now);
        }
        let spooling = &mut self.spooling;
        if spooling.state.live > 0 && spooling.rewinding == 0 && spooling.expire_at.is_none_or(|at| at <= now)
        {
            spooling.command(Command::Expire);
            spooling.expire_at = now.checked_add(EXPIRE_EVERY);
        }
    }

    /// Reads on in the spool while the window has room; only for a connection that stands.
    pub(super) fn read_ahead(&mut self, now: Instant) {
        let spooling = &mut self.spooling;
        let waiting = spooling.read_again.is_some_and(|at| now < at);
        let settled = spooling.rewinding == 0 && !spooling.loading && !waiting;
        let room = self.window.len() < READ_BELOW;
        if settled && spooling.state.unread > 0 && room {
            spooling.loading = true;
            spooling.read_again = None;
            spooling.command(Command::Read {
                max_records: READ_RECORDS,
                max_bytes: READ_BYTES,
            });
        }
    }
}
