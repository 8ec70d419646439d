//! A site to manage: real gateways on threads with real sockets, the embedded broker, a configuration in a directory.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use portcullis::admin::api::handle::{Answer, ListenerState, Moment, Reloaded, Site, SiteState};
use portcullis::admin::api::restart::needs_restart;
use portcullis::admin::api::serve;
use portcullis::admin::events::Events;
use portcullis::admin::expose::ExposeWorkers;
use portcullis::admin::expose::mqtt_requests::MqttRequestMetrics;
use portcullis::admin::expose::process::Process;
use portcullis::admin::local::LocalSocket;
use portcullis::admin::monitoring::Monitoring;
use portcullis::admin::operator::Operator;
use portcullis::admin::server::{Doors, Server};
use portcullis::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest};
use portcullis::broker::{self, BrokerKind, BrokerRuntime, BrokerSettings, RetainedLimits, WorkerLink};
use portcullis::coap::CoapMetrics;
use portcullis::config::ban_book::BanBook;
use portcullis::config::{self, Config, Problems, to_gateway_settings};
use portcullis::gateway::contract::{ControlAnswer, ControlRequest, Input, Output};
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::workers::WorkerMessage;
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::types::{ListenerId, Transport, WorkerId};
use tokio::sync::oneshot;

use crate::http::TOKEN;

/// Workers of a site.
pub const WORKERS: u8 = 2;

enum Told {
    Control(ControlRequest, oneshot::Sender<ControlAnswer>),
    Worker(WorkerMessage),
    Stop,
}

/// A site, its workers, its API and its files. Dropping it ends it.
pub struct Served {
    pub address: SocketAddr,
    /// Where each worker takes datagrams.
    pub coap: Vec<SocketAddr>,
    pub site: Arc<TestSite>,
    pub directory: tempfile::TempDir,
    _server: Server,
    workers: Vec<JoinHandle<()>>,
}

pub struct TestSite {
    file: PathBuf,
    config: Mutex<Arc<Config>>,
    told: Vec<mpsc::Sender<Told>>,
    binds: Vec<SocketAddr>,
    enabled: Arc<AtomicBool>,
    monitoring: Monitoring,
    events: Arc<Events>,
    operator: Option<Operator>,
    broker: BrokerRuntime,
    started: SystemTime,
    bans: Arc<BanBook>,
    pub ready: Mutex<Result<(), String>>,
}

impl Served {
    /// A site with this configuration behind `[listeners.udp.default]`.
    pub fn start(config: &str) -> Self {
        Self::with_files(config, &[])
    }

    /// The same with files beside the configuration; those whose name begins with `secret` are their owner's alone.
    pub fn with_files(config: &str, files: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = directory.path().join("portcullis.toml");
        std::fs::write(&file, config).unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("admin.token"), format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(state.join("admin.token"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut loaded = config::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        loaded.config.node.state_dir = state;
        let (site, coap, workers) = TestSite::start(file, loaded.config);
        let doors = Doors {
            net: Some(TcpListener::bind("127.0.0.1:0").unwrap()),
            local: Some(LocalSocket::bind(&directory.path().join("admin.sock")).unwrap()),
            nodes: None,
        };
        let server = serve::start(doors, site.clone()).unwrap();
        Self {
            address: server.address().unwrap(),
            coap,
            site,
            directory,
            _server: server,
            workers,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for told in &self.site.told {
            drop(told.send(Told::Stop));
        }
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
    }
}

impl TestSite {
    fn start(file: PathBuf, config: Config) -> (Arc<Self>, Vec<SocketAddr>, Vec<JoinHandle<()>>) {
        let bans = BanBook::open(&config.node.state_dir).unwrap();
        let mut settings = to_gateway_settings(&config, 4 << 30);
        settings.workers = WORKERS;
        let settings = Arc::new(settings);
        let listeners = settings.listeners.len();
        let broker_settings = BrokerSettings {
            node: "test".into(),
            state_dir: None,
            clock: broker::Clock {
                now: Instant::now,
                wall: SystemTime::now,
            },
            kind: BrokerKind::Embedded(RetainedLimits::default()),
        };
        let (broker, mut links) = broker::start(broker_settings, usize::from(WORKERS) + 1).unwrap();
        let operator = links.pop().map(|link| Operator::start(link).unwrap());
        let enabled = Arc::new(AtomicBool::new(true));
        let (told, hears): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| mpsc::channel()).unzip();
        let metrics: Vec<_> = (0..WORKERS)
            .map(|_| Arc::new(GatewayMetrics::new(listeners)))
            .collect();
        let coap_metrics: Vec<_> = (0..WORKERS)
            .map(|_| Arc::new(CoapMetrics::new(listeners)))
            .collect();
        let monitoring = monitoring(&config, metrics.clone(), coap_metrics.clone(), &broker);
        let shared = Arc::new(Shared::new(Instant::now(), &settings, [2; 32]));
        let names: Vec<_> = config
            .listeners
            .iter()
            .map(|listener| (listener.name.clone(), listener.transport()))
            .collect();
        let events = Arc::new(Events::new(names.into()));
        let mut coap = Vec::new();
        let mut threads = Vec::new();
        for ((index, link), hears) in (0..WORKERS).zip(links).zip(hears) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
            coap.push(socket.local_addr().unwrap());
            let parts = Parts {
                worker: WorkerId(index),
                settings: settings.clone(),
                shared: shared.clone(),
                dtls: settings.listeners.iter().map(|_| None).collect(),
                coap_metrics: coap_metrics[usize::from(index)].clone(),
                metrics: metrics[usize::from(index)].clone(),
                seed: [index; 32],
                store: None,
            };
            let worker = Worker {
                gateway: Gateway::new(Instant::now(), parts),
                socket,
                link,
                hears,
                others: told.clone(),
                enabled: enabled.clone(),
                tickets: HashMap::new(),
                events: events.clone(),
            };
            threads.push(std::thread::spawn(move || worker.run()));
        }
        let site = Arc::new(Self {
            file,
            binds: config.listeners.iter().map(|_| coap[0]).collect(),
            config: Mutex::new(Arc::new(config)),
            told,
            enabled,
            monitoring,
            events,
            operator,
            broker,
            started: SystemTime::now(),
            ready: Mutex::new(Ok(())),
            bans: Arc::new(bans),
        });
        (site, coap, threads)
    }

    fn load(&self) -> Result<Reloaded, Problems> {
        let mut loaded = config::load(&self.file)?;
        let mut current = self.config.lock().unwrap();
        loaded.config.node.state_dir.clone_from(&current.node.state_dir);
        let reloaded = Reloaded {
            needs_restart: needs_restart(&current, &loaded.config),
            warnings: loaded.warnings,
        };
        *current = Arc::new(loaded.config);
        Ok(reloaded)
    }
}

impl Site for TestSite {
    fn now(&self) -> Moment {
        Moment {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    fn workers(&self) -> u8 {
        WORKERS
    }

    fn ask(&self, worker: WorkerId, request: ControlRequest) -> Answer<'_, Option<ControlAnswer>> {
        let (reply, answer) = oneshot::channel();
        drop(self.told[usize::from(worker.0)].send(Told::Control(request, reply)));
        Box::pin(async { answer.await.ok() })
    }

    fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap().clone()
    }

    fn state(&self) -> SiteState {
        SiteState {
            started: self.started,
            ready: self.ready.lock().unwrap().clone(),
            broker: self.broker.status(),
            numbers: self.broker.metrics().snapshot(),
            logins: Vec::new(),
        }
    }

    fn listeners(&self) -> Vec<ListenerState> {
        let config = self.config();
        config
            .listeners
            .iter()
            .zip(&self.binds)
            .map(|(listener, bind)| ListenerState {
                transport: listener.transport(),
                name: listener.name.clone(),
                bind: *bind,
                removed: false,
                context: None,
                enabled: listener.transport() == Transport::Dtls || self.enabled.load(Ordering::Relaxed),
            })
            .collect()
    }

    fn set_listener(&self, listener: ListenerId, enabled: bool) -> Answer<'_, Result<(), String>> {
        let udp = self.config().listeners[usize::from(listener.0)].transport() == Transport::Udp;
        let outcome = if udp {
            self.enabled.store(enabled, Ordering::Relaxed);
            Ok(())
        } else {
            Err("this one stays".to_owned())
        };
        Box::pin(async { outcome })
    }

    fn reload(&self) -> Answer<'_, Result<Reloaded, Problems>> {
        let outcome = self.load();
        Box::pin(async { outcome })
    }

    fn drain(&self) -> Answer<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn bans(&self) -> &Arc<BanBook> {
        &self.bans
    }

    fn operator(&self) -> Option<Operator> {
        self.operator.clone()
    }

    fn mqtt_requests(&self) -> Arc<MqttRequestMetrics> {
        Arc::default()
    }

    fn events(&self) -> Arc<Events> {
        self.events.clone()
    }

    fn metrics_text(&self) -> String {
        self.monitoring.render().unwrap()
    }
}

fn monitoring(
    config: &Config,
    gateways: Vec<Arc<GatewayMetrics>>,
    coaps: Vec<Arc<CoapMetrics>>,
    broker: &BrokerRuntime,
) -> Monitoring {
    let listeners: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| (listener.name.clone(), listener.transport()))
        .collect();
    Monitoring {
        exposes: vec![
            Box::new(ExposeWorkers {
                listeners: listeners.clone().into(),
                workers: gateways,
            }),
            Box::new(ExposeWorkers {
                listeners: listeners.into(),
                workers: coaps,
            }),
            Box::new(broker.metrics()),
        ],
        health: Arc::default(),
        ready: Box::new(|| Ok(())),
        process: Process::default(),
    }
}

struct Worker {
    gateway: Gateway,
    socket: UdpSocket,
    link: WorkerLink,
    hears: mpsc::Receiver<Told>,
    others: Vec<mpsc::Sender<Told>>,
    enabled: Arc<AtomicBool>,
    tickets: HashMap<u64, oneshot::Sender<ControlAnswer>>,
    events: Arc<Events>,
}

impl Worker {
    fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        let mut next_ticket = 0;
        loop {
            while let Ok(told) = self.hears.try_recv() {
                let input = match told {
                    Told::Stop => return,
                    Told::Worker(message) => Input::Worker(message),
                    Told::Control(request, reply) => {
                        next_ticket += 1;
                        self.tickets.insert(next_ticket, reply);
                        let ticket = next_ticket;
                        Input::Control { ticket, request }
                    }
                };
                self.handle(input);
            }
            while let Some(event) = self.link.try_recv() {
                self.handle(Input::Broker(event));
            }
            let now = Instant::now();
            if self.gateway.poll_timeout().is_some_and(|due| due <= now) {
                self.gateway.handle_timeout(now);
                self.settle();
            }
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer)
                && self.enabled.load(Ordering::Relaxed)
            {
                let bytes = &mut buffer[..len];
                self.handle(Input::Datagram {
                    local: None,
                    listener: ListenerId(0),
                    from,
                    bytes,
                });
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.gateway.handle(Instant::now(), input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Broker(request) => {
                    if let Err(refused) = self.link.ask(request) {
                        let event = refusal(&refused);
                        self.gateway.handle(Instant::now(), Input::Broker(event));
                    }
                }
                Output::Worker { to, message } => {
                    drop(self.others[usize::from(to.0)].send(Told::Worker(message)));
                }
                Output::Control { ticket, answer } => {
                    let reply = self.tickets.remove(&ticket).expect("an answer to a question");
                    drop(reply.send(answer));
                }
                Output::Event(event) => self.events.tell(SystemTime::now(), &event),
                Output::Forward { .. } | Output::Seek(_) => panic!("there is one node"),
                Output::Authenticate { .. } | Output::FindKeys { .. } => {
                    panic!("no listener here authenticates")
                }
            }
        }
        for (_, to, bytes) in self.gateway.transmits().iter() {
            drop(self.socket.send_to(bytes, to.socket_addr()));
        }
        self.gateway.transmits_sent();
    }
}

fn refusal(request: &BrokerRequest) -> BrokerEvent {
    let error = BrokerError::Unavailable;
    match request {
        BrokerRequest::Publish { ticket, .. } | BrokerRequest::PublishIf { ticket, .. } => {
            BrokerEvent::Published {
                ticket: *ticket,
                result: Err(error),
            }
        }
        BrokerRequest::Subscribe { ticket, .. } => BrokerEvent::Subscribed {
            ticket: *ticket,
            result: Err(error),
        },
        BrokerRequest::ReadRetained { ticket, .. } => BrokerEvent::Retained {
            ticket: *ticket,
            result: Err(error),
        },
        BrokerRequest::Unsubscribe { .. }
        | BrokerRequest::Restore { .. }
        | BrokerRequest::Abandon { .. }
        | BrokerRequest::Restored => unreachable!("it is always taken"),
    }
}

/// Whether two paths hold the same bytes.
pub fn same(a: &Path, b: &str) -> bool {
    std::fs::read_to_string(a).unwrap() == b
}
