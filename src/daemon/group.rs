//! This node's part in its group, made from `[group]`.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::config::group::{EngineKind, Reply};
use crate::config::secrets::read_secret;
use crate::config::shared::record::Record;
use crate::config::shared::{self, apply};
use crate::config::{self, Config};
use crate::dtls::{DtlsShared, TicketKeys};
use crate::gateway::nodes::{NodeMessage, Seek};
use crate::group::{self, EngineSettings, Fault, Group, GroupKey, GroupMetrics, Links, Listening, Member};
use crate::redis::Kind;
use crate::state::Tenure;

use super::assembly::{ExitReason, StartError};
use super::clock;
use super::kept::group::Shown;
use super::listener_ids::buffers;
use super::management::Controls;

/// Joins the group that the configuration names; none where the node is alone.
pub(super) fn join(
    config: &Config,
    metrics: &Arc<GroupMetrics>,
    tenure: Arc<Tenure>,
) -> Result<Option<Group>, StartError> {
    let Some(group) = &config.group else {
        return Ok(None);
    };
    // A start reads all of it.
    if let Some(record) = Record::read(&config.node.state_dir) {
        metrics.applied.set(record.version);
        metrics
            .drift
            .set(u64::try_from(record.drift()).unwrap_or(u64::MAX));
    }
    let settings = group::Settings {
        engine: engine(group).map_err(wrong)?,
        key: Arc::new(key(group).map_err(wrong)?),
        name: config.node.name.clone(),
        address: group.bind,
        node: group.node,
        lease: group.lease,
        state_dir: config.node.state_dir.clone(),
        clock: clock::now,
        wall: clock::since_1970,
        tenure,
    };
    Group::start(settings, Arc::clone(metrics))
        .map(Some)
        .map_err(|error| StartError::new(ExitReason::System, format!("no thread for the group: {error}")))
}

/// The datagrams between this node and the others of its group; none where it is alone.
pub(super) fn links(config: &Config, group: Option<&Group>) -> Result<Option<Arc<Links>>, StartError> {
    let (Some(settings), Some(group)) = (&config.group, group) else {
        return Ok(None);
    };
    let bind = settings.bind;
    // As much as a listener: what a burst brings there arrives here.
    let room = config
        .listeners
        .iter()
        .map(|listener| buffers(listener).receive)
        .max();
    let socket = UdpSocket::bind(bind).and_then(|socket| {
        SockRef::from(&socket).set_recv_buffer_size(room.unwrap_or_default())?;
        Links::new(group, socket, settings.reply == Reply::Direct)
    });
    let links = socket.map_err(|error| {
        let line = format!("group.bind: cannot take UDP on {bind}: {error}; choose another address or port");
        StartError::new(ExitReason::Unavailable, line)
    })?;
    Ok(Some(Arc::new(links)))
}

/// What is needed to keep state where the group sees it.
pub(super) fn shown(
    config: &Config,
    group: &Group,
    links: &Arc<Links>,
    (controls, seeks): (&Controls, mpsc::Receiver<Seek>),
) -> Result<Shown, StartError> {
    let settings = config.group.as_ref();
    let missing = || StartError::new(ExitReason::Config, "state.keep: \"group\" needs [group]");
    let settings = settings.ok_or_else(missing)?;
    let idle = config
        .listeners
        .iter()
        .filter_map(|listener| listener.dtls.as_ref());
    let idle = idle
        .filter_map(|dtls| Some(dtls.sessions.as_ref()?.idle_timeout))
        .max();
    Ok(Shown {
        engine: engine(settings).map_err(|fault| StartError::new(ExitReason::Config, fault.to_string()))?,
        group: group.clone(),
        links: Arc::clone(links),
        workers: controls.workers.clone(),
        seeks,
        lease: settings.lease,
        idle: idle.unwrap_or_default(),
    })
}

/// Has the workers hear what other nodes send, and new Connection IDs name this one.
pub(super) fn listen(
    group: &Group,
    links: &Arc<Links>,
    shared: &Arc<DtlsShared>,
    workers: Vec<mpsc::Sender<NodeMessage>>,
) -> Result<Listening, StartError> {
    let shared = Arc::clone(shared);
    // By what this process drew: while its lease is not renewed, what others see of it is no other node.
    let this = group.boot().to_owned();
    let lives = move |own, members: &[Member]| {
        let others = members.iter().filter(|member| member.boot != this);
        shared.nodes().set(own, others.map(|member| member.id));
    };
    let take = move |message: NodeMessage| {
        let steered_by = match &message {
            NodeMessage::Record { bytes, .. } => bytes.get(FIRST_BYTE_OF_CID).copied().unwrap_or_default(),
            NodeMessage::Answer { to, .. } => {
                let [low, ..] = to.socket_addr().port().to_le_bytes();
                low
            }
        };
        let worker = workers.get(usize::from(steered_by) % workers.len().max(1));
        worker.is_some_and(|worker| worker.try_send(message).is_ok())
    };
    links
        .listen(group, lives, take)
        .map_err(|error| StartError::new(ExitReason::System, format!("no thread for other nodes: {error}")))
}

/// Where the Connection ID stands in a record (RFC 9146, 4); its first byte is the worker.
const FIRST_BYTE_OF_CID: usize = 11;

/// How long a start waits for what the group has.
const PATIENCE: Duration = Duration::from_secs(3);

/// The configuration as the group has it, where the engine answers and that can be in force here, and what is to be told in the log: a node
/// that was away begins with what the others have by now.
pub(super) fn caught_up(config: Config) -> (Config, Vec<String>) {
    let Some(group) = &config.group else {
        return (config, Vec::new());
    };
    match catch_up(&config, group) {
        Ok(None) => (config, Vec::new()),
        Ok(Some((new, notes))) => (new, notes),
        Err(why) => (
            config,
            vec![format!("not begun with the configuration of the group: {why}")],
        ),
    }
}

/// The keys of session tickets that this node used last with the others of its group, while they are of today.
pub(super) fn tickets(config: &Config) -> Option<TicketKeys> {
    // What is in the way is told by the part that joins.
    let key = key(config.group.as_ref()?).ok()?;
    let kept = group::tickets::kept(&config.node.state_dir, &key, clock::since_1970())?;
    Some(TicketKeys::new(**kept))
}

/// What the workers share of DTLS, made from random bytes; in a group all nodes make their cookies alike.
///
/// # Errors
/// The key of the group is none.
pub(super) fn dtls_shared(config: &Config, random: [u8; 32]) -> Result<Arc<DtlsShared>, StartError> {
    let now = clock::now();
    let Some(group) = &config.group else {
        return Ok(DtlsShared::new(random, now));
    };
    let shared = DtlsShared::of_group(*key(group).map_err(wrong)?.derive("cookies"), random, now);
    shared.set_wall(now, clock::since_1970());
    Ok(shared)
}

fn wrong(fault: Fault) -> StartError {
    StartError::new(ExitReason::Config, fault.to_string())
}

fn catch_up(config: &Config, group: &config::Group) -> Result<Option<(Config, Vec<String>)>, String> {
    let (engine, key) = (engine(group).map_err(said)?, key(group).map_err(said)?);
    let state_dir = &config.node.state_dir;
    let Some(record) = Record::read(state_dir) else {
        // Of a node that was never of the group nothing is replaced before it serves: the first one may be about to give its own.
        return Ok(None);
    };
    let known = record.known(&shared::parts(config)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(said)?;
    let fetched = runtime.block_on(async {
        let fetched =
            tokio::time::timeout(PATIENCE, group::fetch(&engine, &key, known, record.version)).await;
        fetched
            .map_err(|_| "group.url: it did not answer in time".to_owned())?
            .map_err(said)
    })?;
    if fetched.version < record.version {
        return Ok(None);
    }
    let taken = apply::take(config, &record, fetched.version, fetched.parts).map_err(said)?;
    let written = taken.checked.write(Some(&record))?;
    taken.record.write(state_dir).map_err(said)?;
    let copies = written.put_aside.iter().map(|copy| {
        let copy = copy.display();
        format!("what was changed by hand is not in force: the group's has its place, and a copy is {copy}")
    });
    let source = config.source.clone().unwrap_or_default();
    let new = config::load(&source).map_err(said)?;
    Ok(Some((new.config, copies.collect())))
}

fn said(why: impl std::fmt::Display) -> String {
    why.to_string()
}

/// Asks the engine whether it lets this node in; the nodes that live.
///
/// # Errors
/// What is to be mended.
pub(super) async fn probe(group: &config::Group) -> Result<Vec<Member>, Fault> {
    group::probe(&engine(group)?, &key(group)?).await
}

fn key(group: &config::Group) -> Result<GroupKey, Fault> {
    let wrong = |why: String| Fault::new("group.key_file", why);
    let content = read_secret(&group.key_file).map_err(|error| wrong(error.to_string()))?;
    GroupKey::parse(&content).map_err(|why| wrong(format!("{}: {why}", group.key_file.display())))
}

fn engine(group: &config::Group) -> Result<EngineSettings, Fault> {
    let password = group.password_file.as_deref().map(|path| {
        let content =
            read_secret(path).map_err(|error| Fault::new("group.password_file", error.to_string()))?;
        let text = String::from_utf8_lossy(content.trim_ascii_end()).into_owned();
        Ok::<_, Fault>(Zeroizing::new(text))
    });
    let url = &group.url;
    Ok(EngineSettings {
        kind: match &url.kind {
            EngineKind::Single => Kind::Single,
            EngineKind::Sentinel(master) => Kind::Sentinel(master.clone()),
            EngineKind::Cluster => Kind::Cluster,
        },
        nodes: url.nodes.clone(),
        username: url.username.clone(),
        password: password.transpose()?,
        database: url.database,
        tls: url.tls,
        ca_file: group.ca_file.clone(),
    })
}
