//! What a node asks of the engine beside its lease, by a connection of its own: what is long under way there holds up no renewal.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::engine::{Engine, Fault};
use super::metrics::GroupMetrics;
use super::store::{self, Commit, Fetched, Known};
use super::{GroupKey, Settings};

/// What may be asked.
pub(crate) enum Order {
    Fetch(Known, u64, oneshot::Sender<Result<Fetched, Fault>>),
    Commit(Commit, oneshot::Sender<Result<bool, Fault>>),
    Lock(oneshot::Sender<Result<Option<String>, Fault>>),
    Unlock,
    /// Answered when all before it is done.
    Wait(oneshot::Sender<()>),
}

/// The place where it is asked.
pub(crate) struct Orders {
    engine: Engine,
    key: Arc<GroupKey>,
    metrics: Arc<GroupMetrics>,
    /// Who takes the turn of changing something.
    holder: String,
    is_locked: bool,
}

impl Orders {
    pub(crate) fn new(settings: &Settings, metrics: Arc<GroupMetrics>, boot: &str) -> Self {
        Self {
            engine: Engine::new(settings.engine.clone()),
            key: Arc::clone(&settings.key),
            metrics,
            holder: format!("{} {boot}", settings.name),
            is_locked: false,
        }
    }

    /// Until the lease is given back.
    pub(crate) async fn run(mut self, mut ordered: mpsc::Receiver<Order>) -> Infallible {
        while let Some(order) = ordered.recv().await {
            self.serve(order).await;
        }
        std::future::pending().await
    }

    /// Whoever asked may have gone.
    async fn serve(&mut self, order: Order) {
        match order {
            Order::Fetch(known, newest, reply) => {
                let fetched = store::fetch(&mut self.engine, &self.key, known, newest).await;
                drop(reply.send(self.metrics.counted(fetched)));
            }
            Order::Commit(commit, reply) => {
                let made = store::commit(&mut self.engine, &self.key, commit).await;
                drop(reply.send(self.metrics.counted(made)));
            }
            Order::Lock(reply) => {
                let locked = store::lock(&mut self.engine, &self.holder).await;
                self.is_locked |= matches!(locked, Ok(None));
                drop(reply.send(self.metrics.counted(locked)));
            }
            Order::Unlock if self.is_locked => {
                self.is_locked = false;
                let unlocked = store::unlock(&mut self.engine, &self.holder).await;
                // It ends by itself.
                drop(self.metrics.counted(unlocked));
            }
            Order::Unlock => {}
            Order::Wait(reply) => drop(reply.send(())),
        }
    }
}
