//! The thread that owns a spool's log.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::disk::{Directory, Disk};
use super::log::{Append, AppendError, Log};
use crate::clock::Clock;
use crate::record::{self, Record};
use crate::start::StartFault;

/// Commands taken at once.
const MAX_BATCH: usize = 4_096;

/// What a lane asks of its spool.
#[derive(Debug)]
pub(crate) enum Command {
    /// Keep this record; reported in order.
    Append(Append),
    /// The broker has it, or it is worthless: forget it.
    Done(u64),
    /// Read on: at most so many records and about so many bytes.
    Read { max_records: usize, max_bytes: usize },
    /// Begin to read at the oldest record again.
    Rewind,
    /// Forget records at the head whose time is over. Nothing may be held.
    Expire,
    /// Write everything and end.
    Stop,
}

/// A record that was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) number: u64,
    pub(crate) record: Record,
}

/// Where the spool stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpoolState {
    /// Records that are not done.
    pub(crate) live: u64,
    /// The lowest number that is not done.
    pub(crate) head: u64,
    /// Records that wait to be read.
    pub(crate) unread: u64,
    /// Bytes of the records that are not done.
    pub(crate) live_bytes: u64,
    /// Bytes of the files.
    pub(crate) disk_bytes: u64,
    /// When the oldest was accepted, ms since 1970; 0 without any.
    pub(crate) oldest_millis: u64,
    /// Why nothing is taken any more.
    pub(crate) failure: Option<String>,
}

/// What happened in one round of the thread.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Results of the appends, in order.
    pub(crate) appended: Vec<Result<u64, AppendError>>,
    /// What was read; `None` when nothing was asked for.
    pub(crate) loaded: Option<Vec<Loaded>>,
    /// How many rewinds were done.
    pub(crate) rewinds: u64,
    /// Records whose time was over.
    pub(crate) expired: u64,
    /// Records that were given up because the spool was full.
    pub(crate) dropped: u64,
    /// Records that turned out to be damaged.
    pub(crate) lost: u64,
    /// Where it stands after that.
    pub(crate) state: SpoolState,
}

/// Why a spool cannot be used.
#[derive(Debug)]
pub(crate) struct SpoolError {
    path: PathBuf,
    error: io::Error,
}

impl SpoolError {
    /// Whether it can get better by itself.
    pub(crate) fn fault(&self) -> StartFault {
        StartFault::of(&self.error)
    }
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spool {}: {}", self.path.display(), self.error)
    }
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Spool {
    commands: Sender<Command>,
    reports: UnboundedReceiver<Report>,
    thread: JoinHandle<()>,
}

impl Spool {
    /// Opens or makes the spool in `directory`, of at most `max_bytes` on disk. When it is full it refuses records, or with
    /// `drops_oldest` gives up the oldest ones.
    pub(crate) fn open(
        directory: &Path,
        max_bytes: u64,
        drops_oldest: bool,
        clock: Clock,
    ) -> Result<(Self, SpoolState), SpoolError> {
        let fail = |error| SpoolError {
            path: directory.into(),
            error,
        };
        let disk = Directory::open(directory).map_err(fail)?;
        let (log, found) = Log::open(disk, max_bytes).map_err(fail)?;
        if found.damaged_bytes > 0 {
            tracing::warn!(
                spool = %directory.display(),
                bytes = found.damaged_bytes,
                "bytes in the spool belong to no whole record; what is whole is kept"
            );
        }
        Self::start(log, drops_oldest, clock).map_err(fail)
    }

    fn start<D: Disk>(mut log: Log<D>, drops_oldest: bool, clock: Clock) -> io::Result<(Self, SpoolState)> {
        let state = SpoolState::of(&mut log);
        let (commands, waiting) = channel();
        let (reporter, reports) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || serve(log, drops_oldest, clock, &waiting, &reporter))?;
        let spool = Self {
            commands,
            reports,
            thread,
        };
        Ok((spool, state))
    }

    /// Queues a command; after the thread's end nothing happens.
    pub(crate) fn send(&self, command: Command) {
        drop(self.commands.send(command));
    }

    /// What happened; `None` after the thread's end. Cancel safe.
    pub(crate) async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Waits until all is written; gives what was not reported yet.
    pub(crate) async fn close(mut self) -> Vec<Report> {
        self.send(Command::Stop);
        drop(self.commands);
        let mut rest = Vec::new();
        while let Some(report) = self.reports.recv().await {
            rest.push(report);
        }
        if self.thread.join().is_err() {
            tracing::error!("the spool's thread ended abnormally");
        }
        rest
    }
}

impl SpoolState {
    fn of<D: Disk>(log: &mut Log<D>) -> Self {
        let oldest_millis = log.oldest_millis();
        Self {
            live: log.live(),
            head: log.head(),
            unread: log.unread(),
            live_bytes: log.live_bytes(),
            disk_bytes: log.disk_bytes(),
            oldest_millis,
            failure: log.failure().map(Into::into),
        }
    }
}

fn serve<D: Disk>(
    mut log: Log<D>,
    drops_oldest: bool,
    clock: Clock,
    waiting: &Receiver<Command>,
    reports: &UnboundedSender<Report>,
) {
    let mut stopped = false;
    while !stopped && let Ok(first) = waiting.recv() {
        let mut round = Round {
            drops_oldest,
            ..Round::default()
        };
        stopped |= round.take(first, &mut log, clock);
        for command in waiting.try_iter().take(MAX_BATCH) {
            stopped |= round.take(command, &mut log, clock);
        }
        round.append(&mut log, clock);
        log.write_head();
        let mut report = round.report;
        report.state = SpoolState::of(&mut log);
        report.lost = log.take_lost();
        if reports.send(report).is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Round {
    drops_oldest: bool,
    appends: Vec<Append>,
    report: Report,
}

impl Round {
    /// Does one command; whether it was the last one. Appends wait for the next command that needs them done.
    fn take<D: Disk>(&mut self, command: Command, log: &mut Log<D>, clock: Clock) -> bool {
        match command {
            Command::Append(append) => {
                self.appends.push(append);
                return false;
            }
            Command::Done(number) => {
                log.done(number);
                return false;
            }
            _ => self.append(log, clock),
        }
        match command {
            Command::Read {
                max_records,
                max_bytes,
            } => self.read(log, clock, max_records, max_bytes),
            Command::Rewind => {
                log.rewind();
                self.report.rewinds += 1;
                self.report.loaded = None;
            }
            Command::Expire => {
                self.expire(log, clock);
            }
            _ => return true,
        }
        false
    }

    fn append<D: Disk>(&mut self, log: &mut Log<D>, clock: Clock) {
        if self.appends.is_empty() {
            return;
        }
        let mut appends = std::mem::take(&mut self.appends);
        let mut results = log.append(&appends);
        while results.contains(&Err(AppendError::Full)) {
            // Refused ones come after taken ones or in between; only a refused rest is tried again, so order stays.
            let taken = results.iter().rposition(Result::is_ok).map_or(0, |last| last + 1);
            let rest = appends.split_off(taken);
            if rest.is_empty() || !self.make_room(log, clock, &rest) {
                break;
            }
            self.report.appended.extend(results.drain(..taken));
            results = log.append(&rest);
            appends = rest;
        }
        self.report.appended.extend(results);
    }

    /// Forgets what has expired, or gives up what is oldest if that is wanted; whether anything was.
    fn make_room<D: Disk>(&mut self, log: &mut Log<D>, clock: Clock, refused: &[Append]) -> bool {
        if self.expire(log, clock) > 0 {
            return true;
        }
        let fits = |append: &Append| log.is_too_full_for(append.body.len());
        if !self.drops_oldest || !refused.iter().any(fits) {
            return false;
        }
        let dropped = log.drop_oldest();
        self.report.dropped += dropped;
        dropped > 0
    }

    fn read<D: Disk>(&mut self, log: &mut Log<D>, clock: Clock, max_records: usize, max_bytes: usize) {
        let moment = clock.moment();
        let loaded = self.report.loaded.get_or_insert_default();
        let mut bytes = 0;
        while loaded.len() < max_records && bytes < max_bytes {
            match log.read() {
                Ok(Some(frame)) => {
                    bytes += frame.body.len();
                    match record::decode(&frame.body, moment) {
                        Some(record) => loaded.push(Loaded {
                            number: frame.number,
                            record,
                        }),
                        None => log.lose_one(frame.number),
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the spool cannot be read");
                    break;
                }
            }
        }
    }

    fn expire<D: Disk>(&mut self, log: &mut Log<D>, clock: Clock) -> u64 {
        let moment = clock.moment();
        let mut expired = 0;
        while let Ok(Some(frame)) = log.peek_head() {
            let number = frame.number;
            let record = record::decode(&frame.body, moment);
            if record
                .as_ref()
                .is_some_and(|record| !record.message.is_expired(moment.now))
            {
                break;
            }
            // Read, so that the log knows how long is what it is done with.
            if log.read().is_err() {
                break;
            }
            if record.is_some() {
                log.done(number);
                expired += 1;
            } else {
                log.lose_one(number);
            }
        }
        self.report.expired += expired;
        expired
    }
}
