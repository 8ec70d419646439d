//! All workers: starting them, asking them, noticing when one ends, ending them.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Barrier, mpsc, oneshot};

use crate::gateway::contract::{ControlAnswer, ControlRequest};
use crate::gateway::nodes::NodeMessage;
use crate::net::NetMetrics;
use crate::stream::Gate;
use crate::types::{ListenerId, WorkerId};

use super::assembly::WorkerParts;
use super::listener_ids::SPARE_LISTENERS;
use super::metrics::WorkerMetrics;
use super::streams::Streams;
use super::worker::core::Core;
use super::worker::{Command, Ports, Told, Worker};

/// Messages that wait for one worker from all others.
const INBOX: usize = 4096;

/// Datagrams of other nodes that wait for one worker, of 65 KB at most. More are lost, and counted.
const OF_NODES: usize = 256;

/// Commands that wait for one worker.
const COMMANDS: usize = 16;

/// What happens in streams that waits for one worker. What has no place waits where it came in.
const STREAMS: usize = 256;

/// Events of all workers that wait to be told. More are lost, and counted.
const EVENTS: usize = 8192;

/// A worker that ended.
#[derive(Debug)]
pub struct Ended {
    /// The worker that ended.
    pub worker: WorkerId,
    /// Why, when nobody asked it to.
    pub failure: Option<String>,
}

/// The threads of all workers, and the way to each of them.
pub struct Workers {
    commands: Vec<mpsc::Sender<Command>>,
    of_nodes: Vec<mpsc::Sender<NodeMessage>>,
    threads: Vec<JoinHandle<()>>,
    /// Those whose end was not noticed yet.
    running: usize,
    ended: mpsc::UnboundedReceiver<Ended>,
    metrics: Vec<Arc<WorkerMetrics>>,
    net: Vec<Arc<NetMetrics>>,
    events: Option<mpsc::Receiver<Told>>,
    streams: Streams,
}

/// Says that a worker ended, however it ends.
struct Obituary {
    worker: WorkerId,
    failure: Option<String>,
    to: mpsc::UnboundedSender<Ended>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        let ended = Ended {
            worker: self.worker,
            failure: self.failure.take(),
        };
        // Nobody listens any more when the process ends.
        drop(self.to.send(ended));
    }
}

impl Workers {
    /// Starts a thread for each worker. `groups` holds the sockets of each listener in worker order.
    ///
    /// # Errors
    /// A thread cannot be had.
    pub fn start<C: Core + 'static>(
        parts: Vec<WorkerParts<C>>,
        groups: Vec<Vec<UdpSocket>>,
    ) -> io::Result<Self> {
        let (obituaries, ended) = mpsc::unbounded_channel();
        let (events, told) = mpsc::channel(EVENTS);
        let (inboxes, inboxes_in): (Vec<_>, Vec<_>) = parts.iter().map(|_| mpsc::channel(INBOX)).unzip();
        let listeners = groups.len() + SPARE_LISTENERS;
        let started = Arc::new(Barrier::new(parts.len()));
        let mut to_streams = Vec::new();
        let mut groups: Vec<_> = groups.into_iter().map(Vec::into_iter).collect();
        let mut workers = Self {
            commands: Vec::new(),
            of_nodes: Vec::new(),
            threads: Vec::new(),
            running: 0,
            ended,
            metrics: Vec::new(),
            net: Vec::new(),
            events: Some(told),
            streams: Streams::new(Vec::new()),
        };
        for ((id, parts), inbox) in (0..).map(WorkerId).zip(parts).zip(inboxes_in) {
            let sockets = groups.iter_mut().map(Iterator::next).collect();
            let (streams_to, streams) = mpsc::channel(STREAMS);
            to_streams.push(streams_to);
            let (of_nodes_to, of_nodes) = mpsc::channel(OF_NODES);
            workers.of_nodes.push(of_nodes_to);
            let (commands, commands_in) = mpsc::channel(COMMANDS);
            let (verdicts_to, verdicts) = mpsc::unbounded_channel();
            let ports = Ports {
                started: Arc::clone(&started),
                commands: commands_in,
                inbox,
                workers: inboxes.clone(),
                broker: parts.broker,
                auth: parts.auth,
                verdicts,
                verdicts_to,
                events: events.clone(),
                streams,
                of_nodes,
                links: parts.links,
                seeks: parts.seeks,
            };
            let metrics = Arc::new(WorkerMetrics::default());
            let net = Arc::new(NetMetrics::new(listeners));
            workers.metrics.push(metrics.clone());
            workers.net.push(net.clone());
            workers.commands.push(commands);
            let obituary = Obituary {
                worker: id,
                failure: Some("it panicked".to_owned()),
                to: obituaries.clone(),
            };
            let body = move || {
                // As a whole: it has to be dropped on this thread, also when this thread panics.
                let mut obituary = obituary;
                let result = run(id, parts.core, ports, sockets, &net, metrics);
                obituary.failure = result.err();
            };
            let name = format!("worker-{}", id.0);
            workers.running += 1;
            workers
                .threads
                .push(std::thread::Builder::new().name(name).spawn(body)?);
        }
        workers.streams = Streams::new(to_streams);
        Ok(workers)
    }

    /// The way to each worker.
    #[must_use]
    pub fn commands(&self) -> Vec<mpsc::Sender<Command>> {
        self.commands.clone()
    }

    /// Where each worker hears of other nodes.
    #[must_use]
    pub fn of_nodes(&self) -> Vec<mpsc::Sender<NodeMessage>> {
        self.of_nodes.clone()
    }

    /// What happens to clients, as all workers tell it; it ends with the last of them. Only the first call gets it.
    pub fn events(&mut self) -> Option<mpsc::Receiver<Told>> {
        self.events.take()
    }

    /// The counters of each worker's loop.
    #[must_use]
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.metrics
    }

    /// The counters of each worker's sockets.
    #[must_use]
    pub fn net(&self) -> &[Arc<NetMetrics>] {
        &self.net
    }

    /// The next worker that ends.
    pub async fn ended(&mut self) -> Ended {
        match self.ended.recv().await {
            Some(ended) => {
                self.running -= 1;
                ended
            }
            None => std::future::pending().await,
        }
    }

    /// Asks every worker and waits for all answers; none from a worker that ended meanwhile.
    pub async fn ask(&self, request: &ControlRequest) -> Vec<Option<ControlAnswer>> {
        self.ask_each(std::iter::repeat_with(|| request.clone())).await
    }

    /// Has every worker read a socket of a listener, in their order. Whether all do.
    pub async fn open(&self, listener: ListenerId, sockets: Vec<UdpSocket>) -> bool {
        let mut answers = Vec::with_capacity(self.commands.len());
        for (commands, socket) in self.commands.iter().zip(sockets) {
            let (reply, answer) = oneshot::channel();
            let command = Command::Open {
                listener,
                socket,
                reply,
            };
            answers.push(commands.send(command).await.is_ok().then_some(answer));
        }
        all_done(answers).await
    }

    /// Has every worker close its socket of a listener. Whether all have.
    pub async fn close(&self, listener: ListenerId) -> bool {
        let mut answers = Vec::with_capacity(self.commands.len());
        for commands in &self.commands {
            let (reply, answer) = oneshot::channel();
            let sent = commands.send(Command::Close { listener, reply }).await;
            answers.push(sent.is_ok().then_some(answer));
        }
        all_done(answers).await
    }

    /// Accepts the connections of a listener for streams, for all workers. Whether it can.
    pub fn open_stream(&self, listener: ListenerId, socket: TcpListener, gate: &Arc<Gate>) -> bool {
        let opened = self.streams.open(listener, socket, gate);
        if let Err(error) = &opened {
            tracing::error!(%error, "no connections are accepted");
        }
        opened.is_ok()
    }

    /// Accepts no more connections of a listener for streams.
    pub fn close_stream(&self, listener: ListenerId) {
        self.streams.close(listener);
    }

    /// Asks each worker something of its own.
    pub async fn ask_each(
        &self,
        requests: impl IntoIterator<Item = ControlRequest>,
    ) -> Vec<Option<ControlAnswer>> {
        let mut answers = Vec::with_capacity(self.commands.len());
        for (commands, request) in self.commands.iter().zip(requests) {
            let (reply, answer) = oneshot::channel();
            let sent = commands.send(Command::Control { request, reply }).await;
            answers.push(sent.is_ok().then_some(answer));
        }
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(match answer {
                Some(answer) => answer.await.ok(),
                None => None,
            });
        }
        all
    }

    /// Ends every worker, giving answers in flight up to `grace`, and a goodbye to every DTLS session or to those only that the next
    /// process will not find. Whether all ended in time and of their own accord.
    pub async fn stop(mut self, grace: Duration, goodbye: bool) -> bool {
        let all = async {
            // Side by side: one that is stuck must not keep the others from hearing.
            let mut telling = tokio::task::JoinSet::new();
            for commands in self.commands.drain(..) {
                // One that ended already needs no command.
                telling.spawn(async move { drop(commands.send(Command::Stop { grace, goodbye }).await) });
            }
            let mut clean = true;
            for _ in 0..self.threads.len() {
                clean &= self
                    .ended
                    .recv()
                    .await
                    .is_some_and(|ended| ended.failure.is_none());
            }
            clean
        };
        // Beyond the grace only for what a turn takes.
        let clean = tokio::time::timeout(grace + Duration::from_secs(2), all).await;
        if clean.is_err() {
            return false;
        }
        self.streams.finish().await;
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        clean.unwrap_or(false)
    }
}

async fn all_done(answers: Vec<Option<oneshot::Receiver<()>>>) -> bool {
    let mut all = true;
    for answer in answers {
        all &= match answer {
            Some(answer) => answer.await.is_ok(),
            None => false,
        };
    }
    all
}

fn run<C: Core>(
    id: WorkerId,
    core: Box<dyn FnOnce() -> C + Send>,
    ports: Ports,
    sockets: Vec<Option<UdpSocket>>,
    net: &Arc<NetMetrics>,
    metrics: Arc<WorkerMetrics>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let worker = Worker::new(id, core(), ports, sockets, net, metrics)
            .map_err(|error| format!("a socket cannot be used: {error}"))?;
        worker.run().await.map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_whose_commands_wait_in_a_full_queue_is_stopped_all_the_same() {
        let (commands, mut commands_in) = mpsc::channel(1);
        let (obituary, ended) = mpsc::unbounded_channel();
        let (reply, _answer) = oneshot::channel();
        let listener = ListenerId(0);
        commands.try_send(Command::Close { listener, reply }).unwrap();
        let thread = std::thread::spawn(move || {
            while !matches!(commands_in.blocking_recv(), Some(Command::Stop { .. })) {}
            let worker = WorkerId(0);
            drop(obituary.send(Ended {
                worker,
                failure: None,
            }));
        });
        // As the management interface does.
        let _other = commands.clone();
        let workers = Workers {
            commands: vec![commands],
            of_nodes: Vec::new(),
            threads: vec![thread],
            running: 1,
            ended,
            metrics: Vec::new(),
            net: Vec::new(),
            events: None,
            streams: Streams::new(Vec::new()),
        };
        assert!(workers.stop(Duration::from_secs(3), true).await);
    }
}
