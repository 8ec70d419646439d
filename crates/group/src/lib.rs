//! Several gateways as one: who of them lives, what they share, and how they speak with each other.
//!
//! | file | what |
//! |---|---|
//! | [`key`] | the key of the group, and what is made of it |
//! | [`member`] | a node as the engine has it, while its lease lasts |
//! | [`channel`] | TLS 1.3 from node to node, with the key of the group in the place of certificates |
//! | [`links`] | datagrams from node to node: records of sessions of another, and their answers |
//! | `replay` | none of them is taken twice |
//! | [`engine`] | Redis or Valkey, asked within a time |
//! | `lease` | the lease of this node, renewed; who else has one |
//! | `orders` | what else is asked of the engine |
//! | [`sessions`] | whose the sessions of all nodes are, and what another one goes on from |
//! | [`store`] | what all nodes share, in versions |
//! | [`tickets`] | the keys of session tickets, the same at all nodes |
//! | [`files`] | what a node notes in its state directory |
//! | [`metrics`] | what is counted |
//!
//! Nothing here knows what a gateway does. Who serves devices waits for none of it: a [`Group`] runs on a thread of its own, tells what
//! it sees in a [`View`], and takes orders.

pub mod channel;
pub mod engine;
pub mod files;
pub mod key;
mod lease;
pub mod links;
pub mod member;
pub mod metrics;
mod orders;
mod replay;
pub mod sessions;
pub mod store;
pub mod tickets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_proto::state::Tenure;
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

pub use engine::{EngineSettings, Fault};
pub use key::GroupKey;
pub use links::{Links, Listening, Sent};
pub use member::Member;
pub use metrics::GroupMetrics;
use orders::{Order, Orders};
use store::{Commit, Fetched, Known};
pub use tickets::TicketBytes;

/// Orders that wait.
const ORDERS: usize = 64;

/// What a node of a group is told.
pub struct Settings {
    /// The engine that all nodes share.
    pub engine: EngineSettings,
    /// The key that all nodes share.
    pub key: Arc<GroupKey>,
    /// The name of this node.
    pub name: String,
    /// Where other nodes reach it.
    pub address: SocketAddr,
    /// Its id, 1 to 65535; 0 is one that is free, and the same again at the next start.
    pub node: u16,
    /// How long others believe that it lives without hearing of it.
    pub lease: Duration,
    /// Where it notes which id it had.
    pub state_dir: PathBuf,
    /// The clock that leases are measured with.
    pub clock: fn() -> Instant,
    /// The time of day since 1970, that keys of session tickets are dated by.
    pub wall: fn() -> Duration,
    /// Told when the lease is renewed, and when it is given up.
    pub tenure: Arc<Tenure>,
}

/// What a node knows of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The id of this node, while its lease lasts.
    pub node: Option<u16>,
    /// Whether the engine answered the last time.
    pub connected: bool,
    /// What somebody has to mend.
    pub fault: Option<Fault>,
    /// The nodes that live, this one among them, by id.
    pub members: Vec<Member>,
    /// The version of what all share; 0 while there is none.
    pub version: u64,
}

/// What is asked of the lease.
pub(crate) enum Asked {
    /// Looks at the engine now instead of at the next turn.
    Look(oneshot::Sender<View>),
    Leave(oneshot::Sender<()>),
}

/// A node's part in its group. It ends with the last of these handles, or with [`Group::leave`].
#[derive(Clone)]
pub struct Group {
    asks: mpsc::Sender<Asked>,
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<View>,
    key: Arc<GroupKey>,
    metrics: Arc<GroupMetrics>,
    boot: Arc<str>,
    tickets: watch::Receiver<Option<Arc<TicketBytes>>>,
}

impl Group {
    /// Joins the group, on a thread of its own. The engine need not be there yet.
    ///
    /// # Errors
    /// The thread, its runtime, or randomness cannot be had.
    pub fn start(settings: Settings, metrics: Arc<GroupMetrics>) -> std::io::Result<Self> {
        let (asks, asked) = mpsc::channel(ORDERS);
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (seen, view) = watch::channel(View::default());
        let key = Arc::clone(&settings.key);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (counted, boot) = (Arc::clone(&metrics), lease::random()?);
        let (in_use, tickets) = watch::channel(None);
        let serving = Orders::new(&settings, Arc::clone(&metrics), &boot);
        let lease = lease::Lease::new(settings, counted, (seen, in_use), boot.clone())?;
        std::thread::Builder::new()
            .name("group".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    // Who has left asks nothing more.
                    tokio::select! {
                        () = lease.run(asked) => {}
                        never = serving.run(ordered) => match never {},
                    }
                });
            })?;
        Ok(Self {
            asks,
            orders,
            view,
            key,
            metrics,
            boot: boot.into(),
            tickets,
        })
    }

    /// What this node knows now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The same, to be told when it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The key of the group.
    #[must_use]
    pub fn key(&self) -> &Arc<GroupKey> {
        &self.key
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<GroupMetrics> {
        &self.metrics
    }

    /// What tells this process from every other one, as [`Member::boot`].
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The keys of session tickets that all nodes use, as far as they are known here.
    #[must_use]
    pub fn tickets(&self) -> Option<Arc<TicketBytes>> {
        self.tickets.borrow().clone()
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, Fault>>) -> Order,
    ) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        let ended = || Fault::new("group", "this node has left its group");
        self.orders.send(order(reply)).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Who lives, as the engine says now.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn look(&self) -> Result<View, Fault> {
        let (reply, answer) = oneshot::channel();
        let ended = || Fault::new("group", "this node has left its group");
        let sent = self.asks.send(Asked::Look(reply)).await;
        sent.map_err(|_| ended())?;
        let view = answer.await.map_err(|_| ended())?;
        match (&view.fault, view.connected) {
            (Some(fault), false) => Err(fault.clone()),
            _ => Ok(view),
        }
    }

    /// What all share. Of what is `known` already only the name comes, and so it is where the version is below `newest`.
    ///
    /// # Errors
    /// The engine does not answer, or what it has was not written with this key.
    pub async fn fetch(&self, known: Known, newest: u64) -> Result<Fetched, Fault> {
        self.order(|reply| Order::Fetch(known, newest, reply)).await
    }

    /// Makes the next version; false where another node was faster.
    ///
    /// # Errors
    /// The engine does not answer: nobody knows then whether it did.
    pub async fn commit(&self, commit: Commit) -> Result<bool, Fault> {
        self.order(|reply| Order::Commit(commit, reply)).await
    }

    /// Takes the one place of who changes what all share, for half a minute at most; the name of the node that has it where it is
    /// taken.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn lock(&self) -> Result<Option<String>, Fault> {
        self.order(Order::Lock).await
    }

    /// Gives that place back.
    pub async fn unlock(&self) {
        drop(self.orders.send(Order::Unlock).await);
    }

    /// Gives the lease back, within `patience`, after what was asked before: the place of who changes something would be taken for
    /// half a minute.
    pub async fn leave(&self, patience: Duration) {
        let (reply, done) = oneshot::channel();
        let asked_before = async {
            if self.orders.send(Order::Wait(reply)).await.is_ok() {
                drop(done.await);
            }
        };
        let patience = patience / 2;
        drop(tokio::time::timeout(patience, asked_before).await);
        let (reply, left) = oneshot::channel();
        if self.asks.send(Asked::Leave(reply)).await.is_ok() {
            drop(tokio::time::timeout(patience, left).await);
        }
    }
}

/// Reads what all share by a connection of its own, for who has not joined yet; as [`Group::fetch`].
///
/// # Errors
/// The engine does not answer in time, or what it has was not written with this key.
pub async fn fetch(
    engine: &EngineSettings,
    key: &GroupKey,
    known: Known,
    newest: u64,
) -> Result<Fetched, Fault> {
    let mut asked = engine::Engine::new(engine.clone());
    store::fetch(&mut asked, key, known, newest).await
}

/// Asks the engine whether it lets this node in, and whether all nodes that live have the same key.
///
/// # Errors
/// What is to be mended.
pub async fn probe(engine: &EngineSettings, key: &GroupKey) -> Result<Vec<Member>, Fault> {
    let mut asked = engine::Engine::new(engine.clone());
    let found = member::living(&mut asked, key).await?;
    match found.foreign.first() {
        Some(id) => Err(member::other_key(*id)),
        None => Ok(found.members),
    }
}

/// A secret of bytes.
pub type Secret = Zeroizing<Vec<u8>>;
