//! Kept state where all nodes of a group see it: written there behind the workers' backs, and gone on from when a node is gone.
//!
//! `writing` copies what this node has, `books` knows what of it stands there, `finding` looks for the sessions of records that are nobody's here, `rows` is how a record stands there.
//! They run on a thread of their own, and workers wait for none of it.

mod books;
mod finding;
mod rows;
mod writing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use crate::config::state_key::StateKey;
use crate::gateway::contract::{ControlAnswer, ControlRequest};
use crate::gateway::nodes::Seek;
use crate::group::sessions::Sessions;
use crate::group::{EngineSettings, Group, Links};
use crate::state::{Clock, Kind, Store, Tenure};

use super::super::clock;
use super::super::worker::Command;
use super::watched::Watched;
use finding::Finder;
use rows::RowName;
use writing::Writer;

/// Records that wait to be looked for. More are dropped, and counted.
pub(in crate::daemon) const SEEKS: usize = 256;

/// Sessions that are looked for at a time, each by a connection to the engine of its own.
const FINDERS: usize = 4;

/// Connection IDs that were looked for and are not looked for again for a while.
const MAX_ASKED: usize = 65_536;

/// What a node needs to keep state in its group.
pub(in crate::daemon) struct Shown {
    /// Where the others see it.
    pub(in crate::daemon) engine: EngineSettings,
    /// This node's part in the group.
    pub(in crate::daemon) group: Group,
    /// Where sessions of nodes that live are led to.
    pub(in crate::daemon) links: Arc<Links>,
    /// To each worker.
    pub(in crate::daemon) workers: Vec<mpsc::Sender<Command>>,
    /// The records whose sessions are looked for.
    pub(in crate::daemon) seeks: mpsc::Receiver<Seek>,
    /// How long others believe that a node lives without hearing of it.
    pub(in crate::daemon) lease: Duration,
    /// How long a session that is silent stands there.
    pub(in crate::daemon) idle: Duration,
}

/// What this node has of a bundle that another had before.
struct Before {
    takes: u64,
    /// The rows that are not this node's own.
    rows: Vec<RowName>,
    /// When a worker had taken it in.
    arrived: Option<Instant>,
}

/// What those who write and those who look have in common.
#[derive(Default)]
struct Common {
    /// How often each bundle of this node was taken over. One whose end is not written yet is among them.
    own: HashMap<u64, u64>,
    /// Those that were taken over and not written since.
    before: HashMap<u64, Before>,
    /// Until when a Connection ID is not looked for again.
    asked: HashMap<[u8; 8], Instant>,
}

impl Common {
    /// Whether a Connection ID is to be looked for; it is not again until then, unless [`Common::ask_again`].
    fn asks(&mut self, cid: [u8; 8], now: Instant, until: Instant) -> bool {
        if self.asked.get(&cid).is_some_and(|until| now < *until) {
            return false;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.retain(|_, until| now < *until);
        }
        let has_room = self.asked.len() < MAX_ASKED;
        if has_room {
            self.asked.insert(cid, until);
        }
        has_room
    }

    fn ask_again(&mut self, cid: [u8; 8], at: Option<Instant>) {
        match at {
            Some(at) => self.asked.insert(cid, at),
            None => self.asked.remove(&cid),
        };
    }
}

/// The same for all of them.
#[derive(Clone)]
struct Shared {
    common: Arc<Mutex<Common>>,
    group: Group,
    tenure: Arc<Tenure>,
    workers: Vec<mpsc::Sender<Command>>,
    /// What all stores count times by.
    clock: Clock,
}

impl Shared {
    fn common(&self) -> MutexGuard<'_, Common> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What names this node's state directory, while others take it for alive.
    fn home(&self) -> Option<String> {
        let view = self.group.view();
        let this = view
            .members
            .iter()
            .find(|member| member.boot == self.group.boot())?;
        self.tenure.has_lease(clock::now()).then(|| this.home.clone())
    }

    /// When the times in the stores began to count, since 1970.
    fn began(&self) -> Duration {
        let counted = Duration::from_millis(self.clock.millis(clock::now()));
        let wall = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        wall.saturating_sub(counted)
    }

    /// Asks a worker; nothing where it has ended.
    async fn ask(&self, worker: usize, request: ControlRequest) -> Option<ControlAnswer> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Control { request, reply };
        self.workers.get(worker)?.send(command).await.ok()?;
        answer.await.ok()
    }
}

/// Has every store watched whose records others may see, those that were found among them.
pub(super) fn watch(stores: impl IntoIterator<Item = (u64, Arc<Store>)>) -> Vec<(u64, Watched)> {
    let watch = |(id, store): (u64, Arc<Store>)| {
        let watched = Watched::new(store);
        let found = watched.store.found(Kind::ANY);
        for record in &found {
            watched.store.note_shown(record.index());
        }
        watched.store.leave(found);
        (id, watched)
    };
    stores.into_iter().map(watch).collect()
}

/// The thread.
#[derive(Debug)]
pub(super) struct Showing {
    ends: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Showing {
    /// Writes what the stores have from now on, and looks for what is asked for.
    pub(super) fn start(
        stores: Vec<(u64, Watched)>,
        tenure: Arc<Tenure>,
        shown: Shown,
    ) -> std::io::Result<Self> {
        let none = || std::io::Error::other("nothing is kept");
        let (_, first) = stores.first().ok_or_else(none)?;
        let root: StateKey = shown.group.key().derive("state");
        let shared = Shared {
            common: Arc::default(),
            group: shown.group,
            tenure,
            workers: shown.workers,
            clock: first.store.clock(),
        };
        let seeks = Arc::new(tokio::sync::Mutex::new(shown.seeks));
        let finder = |_| Finder {
            sessions: Sessions::new(shown.engine.clone()),
            shared: shared.clone(),
            links: Arc::clone(&shown.links),
            root: root.clone(),
            seeks: Arc::clone(&seeks),
            lease: shown.lease,
        };
        let finders: Vec<Finder> = (0..FINDERS).map(finder).collect();
        let sessions = Sessions::new(shown.engine);
        let writer =
            Writer::new(stores, sessions, shared, root, shown.idle).map_err(std::io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ends, end) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    for finder in finders {
                        tokio::spawn(finder.run());
                    }
                    writer.run(end).await;
                });
            })?;
        Ok(Self { ends, thread })
    }

    /// Writes what is left, and ends.
    pub(super) fn finish(self) {
        drop(self.ends);
        if self.thread.join().is_err() {
            tracing::error!("the thread of kept state ended abnormally");
        }
    }
}
