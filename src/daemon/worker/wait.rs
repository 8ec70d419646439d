//! Waiting for whatever comes first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::bridge::contract::BrokerEvent;
use crate::daemon::clock;
use crate::daemon::worker::core::Core;
use crate::gateway::nodes::NodeMessage;
use crate::gateway::workers::WorkerMessage;
use crate::stream::FromStream;

use super::stop::Stage;
use super::{Command, Word, Worker, WorkerError};

/// What one turn takes from each channel at most.
const COMMANDS: usize = 16;
const MESSAGES: usize = 256;

/// A worker turns at least this often, so that the watchdog sees it live.
const BEAT: Duration = Duration::from_millis(500);

/// When to look again whether another worker's inbox has room.
const ROOM: Duration = Duration::from_millis(1);

/// What there is to do in this turn.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) commands: Vec<Command>,
    pub(super) operator_gone: bool,
    pub(super) inbox: Vec<WorkerMessage>,
    pub(super) events: Vec<BrokerEvent>,
    pub(super) verdicts: Vec<Word>,
    pub(super) broker_gone: bool,
    pub(super) sockets: Vec<usize>,
    pub(super) streams: Vec<FromStream>,
    pub(super) streams_gone: bool,
    pub(super) of_nodes: Vec<NodeMessage>,
    pub(super) nodes_gone: bool,
}

/// The one armed timer of a worker. It is moved only when something is due sooner, or after it fired: a timer that
/// fires too early costs one turn, moving it at every datagram costs more.
pub(super) struct Deadline {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
    fired: bool,
}

impl Deadline {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep_until(now.into())),
            at: now,
            fired: false,
        }
    }

    fn arm(&mut self, at: Instant) {
        if self.fired || at < self.at {
            self.sleep.as_mut().reset(at.into());
            self.at = at;
            self.fired = false;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.fired = self.fired || self.sleep.as_mut().poll(cx).is_ready();
        self.fired
    }
}

impl<C: Core> Worker<C> {
    /// Waits until there is something to do and notes it in [`Worker::ready`].
    pub(super) async fn wait(&mut self) -> Result<(), WorkerError> {
        self.arm();
        poll_fn(|cx| self.poll_sources(cx)).await
    }

    fn arm(&mut self) {
        let now = clock::now();
        let mut at = now + BEAT;
        if let Some(due) = self.core.poll_timeout() {
            at = at.min(due);
        }
        if let Stage::Finishing { until, .. } = self.stage {
            at = at.min(until);
        }
        if self.unsent.iter().any(|waiting| !waiting.is_empty()) {
            at = at.min(now + ROOM);
        }
        self.deadline.arm(at);
    }

    fn poll_sources(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WorkerError>> {
        let Self {
            ports,
            ready,
            sockets,
            deadline,
            ..
        } = self;
        let mut any = deadline.poll(cx);
        any |= take(
            &mut ports.commands,
            cx,
            &mut ready.commands,
            COMMANDS,
            &mut ready.operator_gone,
        );
        if !ready.broker_gone
            && let Poll::Ready(count) = ports.broker.poll_recv_many(cx, &mut ready.events, MESSAGES)
        {
            ready.broker_gone = count == 0;
            any = true;
        }
        // The worker holds a sender of its own verdicts, so this one is never closed.
        any |= ports
            .verdicts
            .poll_recv_many(cx, &mut ready.verdicts, MESSAGES)
            .is_ready();
        // The worker holds a sender of its own inbox, so this one is never closed.
        any |= take(&mut ports.inbox, cx, &mut ready.inbox, MESSAGES, &mut false);
        ready.sockets.clear();
        if self.stage == Stage::Serving {
            any |= take(
                &mut ports.streams,
                cx,
                &mut ready.streams,
                MESSAGES,
                &mut ready.streams_gone,
            );
            any |= take(
                &mut ports.of_nodes,
                cx,
                &mut ready.of_nodes,
                MESSAGES,
                &mut ready.nodes_gone,
            );
            for (index, socket) in sockets.iter().enumerate() {
                let Some(socket) = socket else { continue };
                match socket.poll_readable(cx) {
                    Poll::Ready(Ok(())) => ready.sockets.push(index),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending if any && socket.wants_retry() => ready.sockets.push(index),
                    Poll::Pending => {}
                }
            }
            any |= !ready.sockets.is_empty();
        }
        if any { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Takes what waits in a channel. Whether there was something new; a channel that closes is news once.
fn take<T>(
    channel: &mut mpsc::Receiver<T>,
    cx: &mut Context<'_>,
    into: &mut Vec<T>,
    limit: usize,
    closed: &mut bool,
) -> bool {
    if *closed {
        return false;
    }
    match channel.poll_recv_many(cx, into, limit) {
        Poll::Pending => false,
        Poll::Ready(count) => {
            *closed = count == 0;
            true
        }
    }
}
