//! From start to end of the process.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tracing::{error, info, warn};

use crate::admin::Health;
use crate::admin::api::handle::Reloaded;
use crate::admin::events::Events;
use crate::admin::expose::process::{ExposeProcess, Process};
use crate::admin::expose::{ExposeWorkers, ListenerNames};
use crate::admin::health::Readiness;
use crate::admin::monitoring::Monitoring;
use crate::admin::server::{Bounds, Security, Server};
use crate::config::Problems;
use crate::gateway::contract::ControlRequest;
use crate::net::group::{BindError, bound_addresses, open_stream};
use crate::types::metrics::Exposes;
use crate::types::{ListenerId, WorkerId};

use super::assembly::{Assembly, ExitReason, Renewed, StartError};
use super::management::{Controls, Manage};
use super::memory::Memory;
use super::metrics::ExposeLoops;
use super::process_settings::ProcessSettings;
use super::pulse::Pulse;
use super::systemd::Passed;
use super::telling::Telling;
use super::workers::Workers;
use super::{clock, listeners, logging, systemd};

/// How long the broker may take to write what has to be kept.
const FINISH: Duration = Duration::from_secs(5);

/// Orders of the management interface that wait.
const MANAGE: usize = 16;

/// How often the workers are told how full memory and spool are.
const PRESSURE: Duration = Duration::from_secs(1);

/// How often is looked whether keys have had their time.
const ROTATION: Duration = Duration::from_secs(3600);

/// How long the workers may take to take over new settings.
const RECONFIGURE: Duration = Duration::from_secs(5);

/// Runs the process: starts logging, binds, lets `build` read files and make the parts, with the memories that the service manager
/// kept of an earlier process, serves, and comes back when a signal, or the failure of a part, ended it.
pub fn run<A: Assembly>(
    settings: &ProcessSettings,
    build: impl FnOnce(Vec<(OwnedFd, String)>) -> Result<A, StartError>,
) -> ExitCode {
    match try_run(settings, build) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in &failure.lines {
                error!("{line}");
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

fn try_run<A: Assembly>(
    settings: &ProcessSettings,
    build: impl FnOnce(Vec<(OwnedFd, String)>) -> Result<A, StartError>,
) -> Result<(), StartError> {
    let config = |line| StartError::new(ExitReason::Config, line);
    logging::start(&settings.log_filter, settings.log_format).map_err(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system("no runtime", &error))?;
    runtime.block_on(async {
        // Before anything takes time: a signal that comes meanwhile must not kill the process half way.
        let signals = Signals::new().map_err(|error| system("no signal handlers", &error))?;
        // Ports first: that one is taken says more than that the other process holds the stores too.
        let Passed { sockets, memories } = systemd::passed();
        let groups = bind(settings, sockets)?;
        let streams = bind_streams(settings)?;
        let monitoring = settings.metrics.map(bind_monitoring).transpose()?;
        let mut assembly = build(memories)?;
        match start(settings, &mut assembly, (groups, streams), monitoring) {
            Ok(serving) => serve(settings, &mut assembly, serving, signals).await,
            Err(error) => {
                assembly.finish(FINISH).await;
                Err(error)
            }
        }
    })
}

fn system(what: &str, error: &std::io::Error) -> StartError {
    StartError::new(ExitReason::System, format!("{what}: {error}"))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// What runs from the start to the end of the process.
struct Serving {
    workers: Workers,
    health: Arc<Health>,
    manage: mpsc::Receiver<Manage>,
    controls: Option<Controls>,
    names: ListenerNames,
    telling: Option<Telling>,
    // Ends with this.
    _monitoring: Option<Server>,
}

fn bind(
    settings: &ProcessSettings,
    stored: Vec<(OwnedFd, String)>,
) -> Result<Vec<Vec<UdpSocket>>, StartError> {
    systemd::sockets(&settings.groups(), stored).map_err(|errors| StartError {
        code: ExitReason::Unavailable,
        lines: errors.iter().map(ToString::to_string).collect(),
    })
}

/// The sockets of the listeners for streams, by listener.
fn bind_streams(settings: &ProcessSettings) -> Result<Vec<Option<TcpListener>>, StartError> {
    let specs = settings.groups();
    let (mut sockets, mut lines) = (Vec::new(), Vec::new());
    for spec in &specs {
        let socket = spec.transport.is_stream().then(|| open_stream(spec, &specs));
        match socket.transpose() {
            Ok(socket) => sockets.push(socket),
            Err(error) => lines.push(error.to_string()),
        }
    }
    match lines.is_empty() {
        true => Ok(sockets),
        false => Err(StartError {
            code: ExitReason::Unavailable,
            lines,
        }),
    }
}

fn start<A: Assembly>(
    settings: &ProcessSettings,
    assembly: &mut A,
    (groups, streams): (Vec<Vec<UdpSocket>>, Vec<Option<TcpListener>>),
    monitoring: Option<TcpListener>,
) -> Result<Serving, StartError> {
    let parts = (0..settings.workers.get())
        .map(|worker| assembly.worker(WorkerId(worker)))
        .collect::<Result<Vec<_>, _>>()?;
    let of_streams = streams.iter().map(|it| it.as_ref()?.local_addr().ok());
    let bound = bound_addresses(&groups).into_iter().zip(of_streams);
    let bound = bound.map(|(datagrams, stream)| datagrams.or(stream));
    let bound = settings
        .listeners
        .iter()
        .zip(bound)
        .map(|(listener, addr)| addr.unwrap_or(listener.bind));
    let addresses: Vec<SocketAddr> = bound.collect();
    for (listener, addr) in settings.listeners.iter().zip(&addresses) {
        info!(name = listener.name, transport = listener.transport.label(), %addr, "listening");
    }
    systemd::keep(&settings.groups(), &groups);
    let mut workers =
        Workers::start(parts, groups).map_err(|error| system("no thread for a worker", &error))?;
    for ((id, socket), gate) in (0..).map(ListenerId).zip(streams).zip(assembly.gates()) {
        if let (Some(socket), Some(gate)) = (socket, gate)
            && !workers.open_stream(id, socket, &gate)
        {
            return Err(StartError::new(ExitReason::System, "no thread for streams"));
        }
    }
    let health = Arc::<Health>::default();
    let names: ListenerNames = settings
        .listeners
        .iter()
        .map(|listener| (listener.name.clone(), listener.transport))
        .collect::<Vec<_>>()
        .into();
    let events = Arc::new(Events::new(names.clone()));
    let telling = workers
        .events()
        .map(|told| Telling::start(Arc::clone(&events), told))
        .transpose()
        .map_err(|error| system("no thread for events", &error))?;
    let shown = Arc::new(Monitoring {
        exposes: exposes(&names, assembly, &workers),
        health: health.clone(),
        ready: assembly.readiness(),
        process: Process::default(),
    });
    let monitoring = monitoring
        .map(|listener| {
            let router = shown.clone().router();
            Server::start("monitoring", listener, router, Bounds::default(), || {
                Security::Plain
            })
        })
        .transpose()
        .map_err(|error| system("no thread for metrics", &error))?;
    let (to_manage, manage) = mpsc::channel(MANAGE);
    let controls = Controls {
        workers: workers.commands(),
        of_nodes: workers.of_nodes(),
        manage: to_manage,
        monitoring: shown,
        health: health.clone(),
        events,
        addresses,
    };
    Ok(Serving {
        workers,
        health,
        manage,
        controls: Some(controls),
        names,
        telling,
        _monitoring: monitoring,
    })
}

fn bind_monitoring(bind: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(bind).map_err(|error| {
        let error = BindError::of_tcp("metrics.bind", bind, error);
        StartError::new(ExitReason::Unavailable, error.to_string())
    })?;
    if let Ok(addr) = listener.local_addr() {
        info!(%addr, "metrics and health");
    }
    Ok(listener)
}

fn exposes<A: Assembly>(names: &ListenerNames, assembly: &mut A, workers: &Workers) -> Vec<Box<dyn Exposes>> {
    let mut exposes: Vec<Box<dyn Exposes>> = vec![
        Box::new(ExposeProcess {
            started: clock::wall(),
        }),
        Box::new(ExposeLoops(workers.metrics().to_vec())),
        Box::new(ExposeWorkers {
            listeners: names.clone(),
            workers: workers.net().to_vec(),
        }),
    ];
    exposes.extend(assembly.exposes());
    exposes
}

async fn serve<A: Assembly>(
    settings: &ProcessSettings,
    assembly: &mut A,
    mut serving: Serving,
    mut signals: Signals,
) -> Result<(), StartError> {
    let mut pulse = Pulse::new(serving.workers.metrics().to_vec());
    let period = pulse_period(systemd::watchdog());
    let mut beat = interval_at(Instant::now() + period, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let memory = Memory::of_this_process();
    let mut pressure = interval(PRESSURE);
    pressure.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rotation = interval_at(Instant::now() + ROTATION, ROTATION);
    rotation.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Before it is told that it serves: one that cannot be managed ends.
    if let Some(controls) = serving.controls.take()
        && let Err(error) = assembly.serving(controls)
    {
        let stopped = stop(settings, assembly, serving, signals, End::asked(settings)).await;
        return stopped.and(Err(error));
    }
    serving.health.set_readiness(Readiness::Ready);
    systemd::ready(&status(settings, assembly));
    info!(workers = settings.workers.get(), "serving");
    let end = loop {
        tokio::select! {
            // In this order: a worker that is stuck makes the last branch take a second each time, and by chance it could
            // go before a signal or the beat again and again.
            biased;
            _ = signals.terminate.recv() => break End::asked(settings),
            _ = signals.interrupt.recv() => break End::asked(settings),
            _ = signals.hang_up.recv() => {
                systemd::reloading();
                // What came of it is in the log.
                let _report = reload(assembly, &serving).await;
                systemd::ready(&status(settings, assembly));
            }
            Some(order) = serving.manage.recv() => match order {
                // Whoever asked may have gone.
                Manage::Reload(reply) => drop(reply.send(reload(assembly, &serving).await)),
                Manage::Could(config, reply) => drop(reply.send(assembly.could(*config))),
                Manage::Drain => break End { goodbye: true, failure: None },
            },
            ended = serving.workers.ended() => {
                let why = ended.failure.unwrap_or_else(|| "it ended".to_owned());
                let failure = Some(format!("worker {} failed: {why}", ended.worker.0));
                break End { failure, ..End::asked(settings) };
            }
            _ = beat.tick() => {
                check_pulse(&mut pulse, &serving.health);
                systemd::status(&status(settings, assembly));
            }
            _ = rotation.tick() => {
                if let Some(request) = assembly.rotate() {
                    reconfigure(&serving.workers, &request).await;
                }
            }
            _ = pressure.tick() => {
                assembly.tell_time();
                if let Some(request) = assembly.take_shared() {
                    reconfigure(&serving.workers, &request).await;
                }
                let request = ControlRequest::Pressure {
                    memory: memory.fullness(),
                    spool: assembly.store_fullness(),
                };
                // A worker that does not take it is stuck, which the watchdog sees.
                let _answers = timeout(PRESSURE, serving.workers.ask(&request)).await;
            }
        }
    };
    stop(settings, assembly, serving, signals, end).await
}

/// How the process ends.
struct End {
    /// Whether every DTLS session hears of it although the next process would find it.
    goodbye: bool,
    /// Why, when nobody asked for it.
    failure: Option<String>,
}

impl End {
    /// Somebody asked for it.
    fn asked(settings: &ProcessSettings) -> Self {
        Self {
            goodbye: settings.goodbye,
            failure: None,
        }
    }
}

async fn stop<A: Assembly>(
    settings: &ProcessSettings,
    assembly: &mut A,
    serving: Serving,
    mut signals: Signals,
    end: End,
) -> Result<(), StartError> {
    systemd::stopping();
    info!("stopping");
    serving.health.set_readiness(Readiness::Stopping);
    let clean = tokio::select! {
        clean = serving.workers.stop(settings.grace, end.goodbye) => clean,
        _ = signals.terminate.recv() => false,
        _ = signals.interrupt.recv() => false,
    };
    assembly.finish(FINISH).await;
    if let Some(telling) = serving.telling {
        telling.finish().await;
    }
    match end.failure {
        Some(line) => Err(StartError::new(ExitReason::Software, line)),
        None if !clean => Err(StartError::new(
            ExitReason::Software,
            "stopped before every worker had given its answers",
        )),
        None => {
            info!("stopped");
            Ok(())
        }
    }
}

/// Three times per period of the watchdog, but no faster than a worker turns.
fn pulse_period(watchdog: Option<Duration>) -> Duration {
    let wanted = watchdog.map_or(Duration::from_secs(5), |period| period / 3);
    wanted.clamp(Duration::from_millis(1100), Duration::from_secs(10))
}

fn check_pulse(pulse: &mut Pulse, health: &Health) {
    let stuck = pulse.stuck();
    if stuck.is_empty() {
        systemd::alive();
    } else {
        error!(workers = ?stuck, "workers are stuck");
    }
    health.set_stuck(&stuck);
}

async fn reload<A: Assembly>(assembly: &mut A, serving: &Serving) -> Result<Reloaded, Problems> {
    match assembly.reload() {
        Ok(Renewed {
            request,
            listeners: steps,
            report,
        }) => {
            reconfigure(&serving.workers, &request).await;
            listeners::apply(&serving.workers, steps, &serving.names).await;
            for warning in report.warnings.iter() {
                warn!("{warning}");
            }
            for key in &report.needs_restart {
                warn!(%key, "changed in the file, but takes effect at the next start only");
            }
            info!("reloaded");
            Ok(report)
        }
        Err(problems) => {
            for problem in problems.iter() {
                // The place stands on a line of its own, which a log has no room for.
                let problem = problem.to_string().replace('\n', ": ");
                error!("not reloaded, the old stays in force: {problem}");
            }
            Err(problems)
        }
    }
}

async fn reconfigure(workers: &Workers, request: &ControlRequest) {
    let answers = timeout(RECONFIGURE, workers.ask(request)).await;
    if !answers.is_ok_and(|answers| answers.iter().all(Option::is_some)) {
        warn!("a worker did not confirm the new settings");
    }
}

fn status<A: Assembly>(settings: &ProcessSettings, assembly: &A) -> String {
    let listeners = assembly.listeners().unwrap_or(settings.listeners.len());
    let workers = settings.workers;
    format!(
        "serving {listeners} listeners with {workers} workers; {}",
        assembly.status()
    )
}
