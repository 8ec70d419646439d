//! A gateway put together: core, broker, authentication and management, as [`super::assembly`] wants them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::admin::api::handle::ListenerState;
use crate::admin::api::serve;
use crate::admin::expose::auth::ExposeAuth;
use crate::admin::expose::certificates::{Certificates, ExposeCertificates};
use crate::admin::expose::dtls::{DtlsCounters, ExposeDtls};
use crate::admin::expose::mqtt_requests::{ExposeMqttRequests, MqttRequestMetrics};
use crate::admin::expose::reload::{ExposeReloads, Reloads};
use crate::admin::expose::streams::StreamCounters;
use crate::admin::expose::{ExposeWorkers, ListenerNames};
use crate::admin::local::LocalSocket;
use crate::admin::operator::Operator;
use crate::admin::server::{Doors, Server};
use crate::auth::{self, AuthHandle};
use crate::broker::{
    self, BrokerAddress, BrokerKind, BrokerMetrics, BrokerRuntime, BrokerSettings, MqttSettings, Protocol,
    RetainedLimits, StartFault, WorkerLink,
};
use crate::coap::CoapMetrics;
use crate::config::ban_book::BanBook;
use crate::config::{self, BrokerUrl, Config, Keep, Problems, admin_socket};
use crate::dtls::{ContextCell, DtlsContext, DtlsShared, TicketKeys};
use crate::gateway::contract::ControlRequest;
use crate::gateway::metrics::GatewayMetrics;
use crate::gateway::nodes::Seek;
use crate::gateway::{Gateway, Parts, Shared};
use crate::group::{Group, GroupMetrics, Links, Listening, channel};
use crate::net::group::BindError;
use crate::policy::overload::fullness;
use crate::state::Tenure;
use crate::stream::Gate;
use crate::types::metrics::Exposes;
use crate::types::{ListenerId, WorkerId};

use super::assembly::{Assembly, ExitReason, Renewed, StartError, WorkerParts};
use super::from_config::{self, Materials};
use super::kept::group::SEEKS;
use super::kept::{self, KeptState};
use super::listener_ids::{ListenerIds, SPARE_LISTENERS};
use super::management::{Controls, NodeSite};
use super::process_settings::ProcessSettings;
use super::{clock, group, run, state};

/// Called once every listener is up.
type OnReady = Box<dyn FnOnce() + Send>;

/// Serves until told to stop; `on_ready` is called once every listener is up.
#[must_use]
pub fn serve(config: Config, on_ready: OnReady) -> ExitCode {
    let (config, notes) = group::caught_up(config);
    let settings = ProcessSettings::from(&config);
    run::run(&settings, |memories| {
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        Node::new(config, memories, on_ready)
    })
}

/// A runtime that may be dropped within another one, where a bare one panics. A start that fails does that.
pub(super) struct Detached(Option<Runtime>);

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The parts of a gateway: configuration in force, core, broker, authentication, management.
pub struct Node {
    pub(super) config: Arc<Config>,
    /// The same, for those who manage the process.
    pub(super) in_force: Arc<Mutex<Arc<Config>>>,
    pub(super) admin: Option<Server>,
    pub(super) materials: Materials,
    /// By listener: where its workers get what [`Materials::contexts`] has.
    pub(super) contexts: Vec<Option<Arc<ContextCell>>>,
    pub(super) tickets: TicketKeys,
    pub(super) shared: Arc<DtlsShared>,
    pub(super) kept: KeptState,
    pub(super) sources: Arc<Shared>,
    pub(super) broker: Option<BrokerRuntime>,
    pub(super) broker_metrics: Arc<BrokerMetrics>,
    /// Those of the workers, the next one last, behind that of the operator.
    pub(super) links: Vec<WorkerLink>,
    /// Until the end: without a backend too, so that a reload can bring one.
    pub(super) auth: Option<(AuthHandle, Detached)>,
    pub(super) gateways: Vec<Arc<GatewayMetrics>>,
    pub(super) coaps: Vec<Arc<CoapMetrics>>,
    pub(super) dtls: DtlsCounters,
    /// By listener: where the connections of one for streams come in.
    pub(super) gates: Vec<Option<Arc<Gate>>>,
    pub(super) streams: StreamCounters,
    pub(super) slots: ListenerIds,
    pub(super) names: ListenerNames,
    /// The listeners as operators see them.
    pub(super) listed: Arc<Mutex<Vec<ListenerState>>>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) reloads: Arc<Reloads>,
    mqtt_requests: Arc<MqttRequestMetrics>,
    pub(super) bans: Arc<BanBook>,
    pub(super) group: Option<Group>,
    to_nodes: Option<Arc<Links>>,
    seeks_to: Option<mpsc::Sender<Seek>>,
    seeks: Option<mpsc::Receiver<Seek>>,
    listening: Option<Listening>,
    pub(super) group_metrics: Arc<GroupMetrics>,
    pub(super) on_ready: Option<OnReady>,
}

fn names_of(config: &Config) -> ListenerNames {
    let names = config.listeners.iter();
    let names = names.map(|listener| (listener.name.clone(), listener.transport()));
    names.collect::<Vec<_>>().into()
}

fn cells(materials: &Materials) -> Vec<Option<Arc<ContextCell>>> {
    let cell = |context: &Option<Arc<DtlsContext>>| Some(ContextCell::new(Arc::clone(context.as_ref()?)));
    materials.contexts.iter().map(cell).collect()
}

impl Node {
    pub(super) fn new(
        config: Config,
        memories: Vec<(OwnedFd, String)>,
        on_ready: OnReady,
    ) -> Result<Self, StartError> {
        let wrong = |lines| StartError {
            code: ExitReason::Config,
            lines,
        };
        state::prepare(&config.node.state_dir)?;
        let tickets = match group::tickets(&config) {
            Some(tickets) => tickets,
            None => own_tickets(&config.node.state_dir)?,
        };
        let bans = BanBook::open(&config.node.state_dir).map_err(|line| wrong(vec![line]))?;
        let materials = from_config::load(&config, &tickets).map_err(wrong)?;
        let group_metrics = Arc::<GroupMetrics>::default();
        let auth_settings = from_config::auth_settings(&config).map_err(wrong)?;
        let runtime = auth_runtime()?;
        let handle = runtime.handle().clone();
        let runtime = Detached(Some(runtime));
        let auth = auth::start(&auth_settings, handle)
            .map_err(|errors| wrong(errors.iter().map(ToString::to_string).collect()))?;
        let workers = usize::from(materials.settings.workers);
        let shared = group::dtls_shared(&config, random()?)?;
        let tenure = Arc::new(Tenure::new(clock::now()));
        let kept = KeptState::open(
            &config,
            materials.settings.caps.memory,
            &shared,
            memories,
            &tenure,
        )
        .map_err(|line| wrong(vec![line]))?;
        let (broker, links) = broker::start(broker_settings(&config, kept.workers()), workers + 1)
            .map_err(|error| StartError::new(exit_reason(error.fault()), error.to_string()))?;
        broker.limit_topics(config.limits.topics());
        // Last of what may fail: others are told that it lives.
        let group = group::join(&config, &group_metrics, tenure)?;
        let to_nodes = group::links(&config, group.as_ref())?;
        let keeps_in_group = config.state.keep == Keep::Group && group.is_some();
        let (seeks_to, seeks) = keeps_in_group.then(|| mpsc::channel(SEEKS)).unzip();
        let certificates = Arc::new(Certificates::default());
        let config = Arc::new(config);
        certificates.set(&config, &materials.contexts);
        let sources = Shared::new(clock::now(), &materials.settings, random()?);
        sources.set_wall(clock::unix_seconds());
        let names = names_of(&config);
        let mut node = Self {
            gates: Vec::new(),
            streams: StreamCounters::new(names.clone()),
            shared,
            kept,
            sources: Arc::new(sources),
            broker_metrics: broker.metrics(),
            broker: Some(broker),
            links: links.into_iter().rev().collect(),
            auth: Some((auth, runtime)),
            gateways: Vec::new(),
            coaps: Vec::new(),
            dtls: DtlsCounters::default(),
            slots: ListenerIds::new(&config, workers),
            names,
            listed: Arc::default(),
            certificates,
            reloads: Arc::new(Reloads::new(clock::wall())),
            mqtt_requests: Arc::default(),
            bans: Arc::new(bans),
            group,
            to_nodes,
            seeks_to,
            seeks,
            listening: None,
            group_metrics,
            on_ready: Some(on_ready),
            in_force: Arc::new(Mutex::new(Arc::clone(&config))),
            admin: None,
            config,
            contexts: cells(&materials),
            materials,
            tickets,
        };
        node.set_gates();
        Ok(node)
    }

    /// Starts the management interface, where any way to it is configured.
    fn manage(&mut self, controls: Controls) -> Result<Option<Server>, StartError> {
        let doors = doors(&self.config, self.group.as_ref())?;
        let operator = self.links.pop().map(Operator::start).transpose();
        let operator = operator.map_err(|error| {
            StartError::new(ExitReason::System, format!("no thread for the operator: {error}"))
        })?;
        let is_asked = !self.config.broker.mqtt_requests.is_empty();
        let is_reached = doors.net.is_some() || doors.local.is_some() || doors.nodes.is_some();
        let (Some(broker), true) = (&self.broker, is_reached || is_asked) else {
            return Ok(None);
        };
        let socket = doors
            .local
            .as_ref()
            .map(|socket| socket.path().display().to_string());
        let site = NodeSite {
            listeners: Arc::clone(&self.listed),
            controls,
            config: Arc::clone(&self.in_force),
            started: clock::wall(),
            bans: Arc::clone(&self.bans),
            group: self.group.clone(),
            broker: broker.watch_status(),
            broker_metrics: Arc::clone(&self.broker_metrics),
            auth: self.auth.as_ref().map(|(handle, _)| handle.clone()),
            operator,
            mqtt_requests: Arc::clone(&self.mqtt_requests),
        };
        let server = serve::start(doors, Arc::new(site)).map_err(|error| {
            StartError::new(
                ExitReason::System,
                format!("no thread for the management interface: {error}"),
            )
        })?;
        if let Some(addr) = server.address() {
            tracing::info!(%addr, "dashboard and HTTP API");
        }
        if let Some(path) = socket {
            tracing::info!(path, "socket of the command line");
        }
        Ok(Some(server))
    }
}

fn own_tickets(state_dir: &Path) -> Result<TicketKeys, StartError> {
    let tickets = state::ticket_keys(state_dir).map_err(|line| StartError::new(ExitReason::System, line))?;
    if let Some(why) = &tickets.unsaved {
        tracing::warn!("session tickets will not outlive a restart: {why}");
    }
    Ok(tickets.keys)
}

fn is_default(admin: SocketAddr) -> bool {
    admin.to_string() == config::DEFAULT_ADMIN
}

/// The ways to the management interface. With `admin.bind = ""` there is none, unless a socket is named.
fn doors(config: &Config, group: Option<&Group>) -> Result<Doors, StartError> {
    let net = match config.admin.bind.map(|bind| (bind, TcpListener::bind(bind))) {
        None => None,
        Some((_, Ok(listener))) => Some(listener),
        // Two gateways on one machine that do not care for it have the same default: devices are served all the same.
        Some((bind, Err(error))) if is_default(bind) => {
            let error = BindError::of_tcp("admin.bind", bind, error);
            tracing::warn!("no dashboard and no HTTP API: {error}");
            None
        }
        Some((bind, Err(error))) => {
            let error = BindError::of_tcp("admin.bind", bind, error);
            return Err(StartError::new(ExitReason::Unavailable, error.to_string()));
        }
    };
    let nodes = group
        .map(|group| nodes_door(config, group))
        .transpose()?
        .flatten();
    if config.admin.bind.is_none() && config.admin.socket.is_none() {
        return Ok(Doors {
            nodes,
            ..Doors::default()
        });
    }
    let path = admin_socket::served_at(config);
    let local = match LocalSocket::bind(&path) {
        Ok(socket) => Some(socket),
        Err(error) if config.admin.socket.is_none() => {
            let path = path.display();
            tracing::warn!(
                "no socket for the command line: cannot listen at {path}: {error}; name one in admin.socket"
            );
            None
        }
        Err(error) => {
            let line = format!("admin.socket: cannot listen at {}: {error}", path.display());
            return Err(StartError::new(ExitReason::Unavailable, line));
        }
    };
    Ok(Doors { net, local, nodes })
}

/// Where the other nodes of the group come in.
fn nodes_door(
    config: &Config,
    group: &Group,
) -> Result<Option<(TcpListener, Arc<openssl::ssl::SslAcceptor>)>, StartError> {
    let Some(bind) = config.group.as_ref().map(|group| group.bind) else {
        return Ok(None);
    };
    let listener = TcpListener::bind(bind).map_err(|error| {
        let error = BindError::of_tcp("group.bind", bind, error);
        StartError::new(ExitReason::Unavailable, error.to_string())
    })?;
    let acceptor = channel::acceptor(group.key())
        .map_err(|error| StartError::new(ExitReason::System, format!("no TLS between nodes: {error}")))?;
    Ok(Some((listener, Arc::new(acceptor))))
}

fn exit_reason(fault: StartFault) -> ExitReason {
    match fault {
        StartFault::Wrong => ExitReason::Config,
        StartFault::Taken => ExitReason::Unavailable,
        StartFault::System => ExitReason::System,
    }
}

fn auth_runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("auth")
        .enable_all()
        .build()
        .map_err(|error| StartError::new(ExitReason::System, format!("no thread for logins: {error}")))
}

fn random() -> Result<[u8; 32], StartError> {
    let mut bytes = [0; 32];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|error| StartError::new(ExitReason::System, format!("no randomness: {error}")))?;
    Ok(bytes)
}

pub(super) fn broker_settings(config: &Config, keepers: usize) -> BrokerSettings {
    BrokerSettings {
        node: config.node.name.as_str().into(),
        state_dir: Some(config.node.state_dir.clone()),
        clock: broker::Clock {
            now: clock::now,
            wall: clock::wall,
        },
        kind: match &config.broker.url {
            BrokerUrl::Embedded => BrokerKind::Embedded(RetainedLimits::default()),
            BrokerUrl::Mqtt { tls, host, port } => {
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                let address = BrokerAddress {
                    tls: *tls,
                    host,
                    port: *port,
                };
                BrokerKind::Mqtt(Box::new(mqtt_settings(config, address, keepers)))
            }
        },
    }
}

fn mqtt_settings(config: &Config, address: BrokerAddress, keepers: usize) -> MqttSettings {
    let broker = &config.broker;
    MqttSettings {
        protocol: match broker.protocol {
            config::broker::Protocol::V4 => Protocol::V4,
            config::broker::Protocol::V5 => Protocol::V5,
        },
        username: broker.username.clone(),
        password_file: broker.password_file.clone(),
        ca_file: broker.ca_file.clone(),
        cert_file: broker.cert_file.clone(),
        key_file: broker.key_file.clone(),
        connections: usize::try_from(broker.connections).unwrap_or(1),
        keep_alive: broker.keep_alive,
        events_prefix: broker.events_prefix.clone(),
        session_expiry: broker.session_expiry,
        keepers,
        spool_bytes: broker.spool.max_bytes.0,
        spool_drops_oldest: broker.spool.when_full == config::broker::WhenFull::DropOldest,
        ..MqttSettings::new(address, &broker.client_id.replace("${node}", &config.node.name))
    }
}

impl Assembly for Node {
    type Core = Gateway;

    fn worker(&mut self, worker: WorkerId) -> Result<WorkerParts<Gateway>, StartError> {
        let listeners = self.config.listeners.len() + SPARE_LISTENERS;
        let gateway_metrics = Arc::new(GatewayMetrics::new(listeners));
        let coap_metrics = Arc::new(CoapMetrics::new(listeners));
        self.gateways.push(Arc::clone(&gateway_metrics));
        self.coaps.push(Arc::clone(&coap_metrics));
        let dtls = self
            .config
            .listeners
            .iter()
            .zip((0..).map(ListenerId))
            .map(|(listener, id)| self.source(id, &listener.name, worker))
            .collect();
        let parts = Parts {
            worker,
            settings: Arc::clone(&self.materials.settings),
            shared: Arc::clone(&self.sources),
            dtls,
            coap_metrics,
            metrics: gateway_metrics,
            seed: random()?,
            store: self.kept.of(worker).map(|kept| kept.shared_store()),
        };
        let broker = self
            .links
            .pop()
            .ok_or_else(|| StartError::new(ExitReason::Software, "the broker has no way to this worker"))?;
        let bans = self.bans.in_force(clock::now(), clock::wall());
        Ok(WorkerParts {
            core: Box::new(move || {
                let now = clock::now();
                let mut gateway = Gateway::new(now, parts);
                kept::report(worker, gateway.restored());
                gateway.set_bans(now, bans);
                gateway
            }),
            broker,
            auth: self.auth.as_ref().map(|(handle, _)| handle.clone()),
            links: self.to_nodes.clone(),
            seeks: self.seeks_to.clone(),
        })
    }

    fn gates(&self) -> Vec<Option<Arc<Gate>>> {
        self.gates.clone()
    }

    fn exposes(&mut self) -> Vec<Box<dyn Exposes>> {
        let mut exposes: Vec<Box<dyn Exposes>> = vec![
            Box::new(ExposeWorkers {
                listeners: self.names.clone(),
                workers: self.gateways.clone(),
            }),
            Box::new(ExposeWorkers {
                listeners: self.names.clone(),
                workers: self.coaps.clone(),
            }),
            Box::new(ExposeDtls(self.dtls.clone())),
            Box::new(self.streams.clone()),
            Box::new(Arc::clone(&self.broker_metrics)),
            Box::new(ExposeCertificates(Arc::clone(&self.certificates))),
            Box::new(ExposeReloads(Arc::clone(&self.reloads))),
            Box::new(ExposeMqttRequests(Arc::clone(&self.mqtt_requests))),
            Box::new(Arc::clone(&self.bans)),
            Box::new(Arc::clone(&self.group_metrics)),
            Box::new(self.kept.disk_metrics()),
        ];
        exposes.push(Box::new(ExposeAuth(
            self.auth.as_ref().map(|(handle, _)| handle.clone()),
        )));
        exposes
    }

    fn listeners(&self) -> Option<usize> {
        Some(self.slots.serving())
    }

    fn serving(&mut self, controls: Controls) -> Result<(), StartError> {
        let states = self.config.listeners.iter().zip(&controls.addresses);
        let states = states
            .zip(&self.contexts)
            .map(|((listener, bind), context)| ListenerState {
                transport: listener.transport(),
                name: listener.name.clone(),
                bind: *bind,
                enabled: true,
                removed: false,
                context: context.clone(),
            });
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = states.collect();
        if let (Some(group), Some(links)) = (&self.group, &self.to_nodes) {
            let listening = group::listen(group, links, &self.shared, controls.of_nodes.clone())?;
            self.listening = Some(listening);
            if let Some(seeks) = self.seeks.take() {
                let shown = group::shown(&self.config, group, links, (&controls, seeks))?;
                let shown = self.kept.show(shown);
                shown.map_err(|error| {
                    StartError::new(ExitReason::System, format!("no thread for kept state: {error}"))
                })?;
            }
        }
        self.admin = self.manage(controls)?;
        if let Some(on_ready) = self.on_ready.take() {
            on_ready();
        }
        Ok(())
    }

    fn readiness(&self) -> Box<dyn Fn() -> Result<(), String> + Send + Sync> {
        let metrics = Arc::clone(&self.broker_metrics);
        Box::new(move || {
            let now = metrics.snapshot();
            if now.retained_failed || now.spool_failed {
                return Err("a store on disk failed".to_owned());
            }
            if !now.connected && now.spool_capacity_bytes == 0 {
                return Err("the broker cannot be reached".to_owned());
            }
            Ok(())
        })
    }

    fn status(&self) -> String {
        let status = self.broker.as_ref().map(|broker| broker.status().to_string());
        format!("broker: {}", status.unwrap_or_default())
    }

    fn reload(&mut self) -> Result<Renewed, Problems> {
        let outcome = self.renew();
        match &outcome {
            Ok(_) => self.reloads.success(clock::wall()),
            Err(_) => self.reloads.failure(),
        }
        outcome
    }

    fn could(&self, config: Config) -> Result<(), Problems> {
        self.try_on(config)
    }

    fn rotate(&mut self) -> Option<ControlRequest> {
        self.rotate_tickets()
    }

    fn take_shared(&mut self) -> Option<ControlRequest> {
        self.group.as_ref().and_then(Group::tickets)?;
        self.rotate_tickets()
    }

    fn tell_time(&self) {
        self.sources.set_wall(clock::unix_seconds());
        self.shared.set_wall(clock::now(), clock::since_1970());
    }

    fn store_fullness(&self) -> f64 {
        // A spool that makes room for itself is full in ordinary times.
        if self.config.broker.spool.when_full == config::broker::WhenFull::DropOldest {
            return 0.0;
        }
        let now = self.broker_metrics.snapshot();
        fullness(now.spool_bytes, now.spool_capacity_bytes)
    }

    async fn finish(&mut self, patience: Duration) {
        // First: it asks workers that have ended.
        self.admin = None;
        self.listening = None;
        // While this node counts as alive: what it writes last is its own.
        self.kept.finish();
        if let Some(group) = self.group.take() {
            group.leave(patience).await;
        }
        if let Some(broker) = self.broker.take()
            && tokio::time::timeout(patience, broker.shutdown()).await.is_err()
        {
            tracing::error!("the broker did not end in time");
        }
        self.auth = None;
    }
}
