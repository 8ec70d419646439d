//! The process as the management interface sees it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::Health;
use crate::admin::api::handle::{Answer, ListenerState, Moment, Reloaded, Site, SiteState};
use crate::admin::events::Events;
use crate::admin::expose::mqtt_requests::MqttRequestMetrics;
use crate::admin::monitoring::Monitoring;
use crate::admin::operator::Operator;
use crate::auth::AuthHandle;
use crate::broker::{BrokerMetrics, Status};
use crate::config::ban_book::BanBook;
use crate::config::{Config, Problems};
use crate::gateway::contract::{ControlAnswer, ControlRequest};
use crate::gateway::nodes::NodeMessage;
use crate::group::Group;
use crate::types::{ListenerId, WorkerId};

use super::clock;
use super::worker::Command;

/// What the management interface asks of the main thread.
#[derive(Debug)]
pub enum Manage {
    /// Reload, and say what came of it.
    Reload(oneshot::Sender<Result<Reloaded, Problems>>),
    /// Whether a configuration could be put in force.
    Could(Box<Config>, oneshot::Sender<Result<(), Problems>>),
    /// End, with a goodbye to every DTLS session.
    Drain,
}

/// What [`super::run`] hands to those who manage the process.
pub struct Controls {
    /// To each worker, in the order of [`WorkerId`].
    pub workers: Vec<mpsc::Sender<Command>>,
    /// Where each of them hears of other nodes.
    pub of_nodes: Vec<mpsc::Sender<NodeMessage>>,
    /// To the main thread.
    pub manage: mpsc::Sender<Manage>,
    /// What a scrape shows.
    pub monitoring: Arc<Monitoring>,
    /// Whether the process lives and serves.
    pub health: Arc<Health>,
    /// What happens to clients.
    pub events: Arc<Events>,
    /// Where each listener listens.
    pub addresses: Vec<SocketAddr>,
}

/// The running process behind the HTTP API: answers what it asks, and hands on what it wants changed.
pub(super) struct NodeSite {
    pub(super) controls: Controls,
    pub(super) config: Arc<Mutex<Arc<Config>>>,
    pub(super) started: SystemTime,
    pub(super) bans: Arc<BanBook>,
    pub(super) group: Option<Group>,
    pub(super) broker: watch::Receiver<Status>,
    pub(super) broker_metrics: Arc<BrokerMetrics>,
    pub(super) auth: Option<AuthHandle>,
    pub(super) operator: Option<Operator>,
    pub(super) mqtt_requests: Arc<MqttRequestMetrics>,
    /// In the order of [`ListenerId`].
    pub(super) listeners: Arc<Mutex<Vec<ListenerState>>>,
}

impl NodeSite {
    async fn ask_one(&self, worker: usize, request: ControlRequest) -> Option<ControlAnswer> {
        let (reply, answer) = oneshot::channel();
        self.controls
            .workers
            .get(worker)?
            .send(Command::Control { request, reply })
            .await
            .ok()?;
        answer.await.ok()
    }
}

impl Site for NodeSite {
    fn now(&self) -> Moment {
        Moment {
            steady: clock::now(),
            wall: clock::wall(),
        }
    }

    fn workers(&self) -> u8 {
        u8::try_from(self.controls.workers.len()).unwrap_or(u8::MAX)
    }

    fn ask(&self, worker: WorkerId, request: ControlRequest) -> Answer<'_, Option<ControlAnswer>> {
        Box::pin(self.ask_one(usize::from(worker.0), request))
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> SiteState {
        let ready = self
            .controls
            .health
            .ready()
            .and_then(|()| (self.controls.monitoring.ready)());
        SiteState {
            started: self.started,
            ready,
            broker: self.broker.borrow().clone(),
            numbers: self.broker_metrics.snapshot(),
            logins: self.auth.as_ref().map(AuthHandle::servers).unwrap_or_default(),
        }
    }

    fn listeners(&self) -> Vec<ListenerState> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_listener(&self, listener: ListenerId, enabled: bool) -> Answer<'_, Result<(), String>> {
        Box::pin(async move {
            for worker in 0..self.controls.workers.len() {
                let request = ControlRequest::SetListener { listener, enabled };
                if self.ask_one(worker, request).await.is_none() {
                    return Err("a worker is gone".to_owned());
                }
            }
            let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(state) = all.get_mut(usize::from(listener.0)) {
                state.enabled = enabled;
            }
            Ok(())
        })
    }

    fn reload(&self) -> Answer<'_, Result<Reloaded, Problems>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let sent = self.controls.manage.send(Manage::Reload(reply)).await;
            let gone = || Problems::unreadable("reload".as_ref(), "the process is stopping");
            if sent.is_err() {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn could(&self, config: Config) -> Answer<'_, Result<(), Problems>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let gone = || Problems::unreadable("reload".as_ref(), "the process is stopping");
            let sent = self
                .controls
                .manage
                .send(Manage::Could(Box::new(config), reply))
                .await;
            sent.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn bans(&self) -> &Arc<BanBook> {
        &self.bans
    }

    fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    fn operator(&self) -> Option<Operator> {
        self.operator.clone()
    }

    fn mqtt_requests(&self) -> Arc<MqttRequestMetrics> {
        Arc::clone(&self.mqtt_requests)
    }

    fn events(&self) -> Arc<Events> {
        Arc::clone(&self.controls.events)
    }

    fn drain(&self) -> Answer<'_, Result<(), String>> {
        Box::pin(async move {
            let sent = self.controls.manage.send(Manage::Drain).await;
            sent.map_err(|_| "the process is stopping".to_owned())
        })
    }

    fn metrics_text(&self) -> String {
        self.controls.monitoring.render().unwrap_or_default()
    }
}
