//! Listeners that come and go while the process runs: sockets to the workers, and to the service manager.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::expose::ListenerNames;
use crate::gateway::contract::ControlRequest;
use crate::net::GroupSpec;
use crate::session::SecureSource;
use crate::stream::Gate;
use crate::types::ListenerId;

use super::listener_ids::Opening;
use super::systemd;
use super::workers::Workers;

/// How long the workers may take for one step.
const PATIENCE: Duration = Duration::from_secs(5);

/// A change to what listens.
#[derive(Debug)]
pub enum ListenerStep {
    /// The listener stops: what is connected through it ends, and its sockets are closed.
    Close {
        /// The listener that stops; it keeps its id.
        listener: ListenerId,
        /// What its sockets are stored under.
        spec: GroupSpec,
    },
    /// The listener serves from now on, on sockets that are bound already.
    Open(NewListener),
}

/// A listener that is about to serve.
#[derive(Debug)]
pub struct NewListener {
    pub(super) opening: Opening,
    /// Of one whose id is new: what each worker needs to speak DTLS.
    pub(super) dtls: Option<Vec<Option<Arc<dyn SecureSource>>>>,
    /// Where the connections of one for streams come in.
    pub(super) gate: Option<Arc<Gate>>,
}

/// Does all of it, in order.
pub async fn apply(workers: &Workers, steps: Vec<ListenerStep>, names: &ListenerNames) {
    for step in steps {
        let done = match step {
            ListenerStep::Close { listener, spec } => {
                timeout(PATIENCE, close(workers, listener, &spec)).await
            }
            ListenerStep::Open(new) => timeout(PATIENCE, open(workers, new, names)).await,
        };
        if !matches!(done, Ok(true)) {
            warn!("a worker did not confirm the change of a listener");
        }
    }
}

async fn close(workers: &Workers, listener: ListenerId, spec: &GroupSpec) -> bool {
    let enabled = false;
    let stopped = workers
        .ask(&ControlRequest::SetListener { listener, enabled })
        .await;
    workers.close_stream(listener);
    let closed = workers.close(listener).await;
    systemd::forget(spec);
    info!(name = spec.name, transport = spec.transport.label(), addr = %spec.bind, "no longer listening");
    stopped.iter().all(Option::is_some) && closed
}

async fn open(workers: &Workers, new: NewListener, names: &ListenerNames) -> bool {
    let addr = new.opening.address();
    let Opening {
        listener,
        spec,
        sockets,
        stream,
        ..
    } = new.opening;
    systemd::keep(std::slice::from_ref(&spec), std::slice::from_ref(&sockets));
    let told = match new.dtls {
        Some(parts) => {
            names.add(spec.name.clone(), spec.transport);
            let requests = parts
                .into_iter()
                .map(|dtls| ControlRequest::AddListener { listener, dtls });
            workers.ask_each(requests).await
        }
        None => {
            let enabled = true;
            workers
                .ask(&ControlRequest::SetListener { listener, enabled })
                .await
        }
    };
    let opened = match (stream, &new.gate) {
        (Some(socket), Some(gate)) => workers.open_stream(listener, socket, gate),
        _ => workers.open(listener, sockets).await,
    };
    info!(name = spec.name, transport = spec.transport.label(), addr = %addr.unwrap_or(spec.bind), "listening");
    told.iter().all(Option::is_some) && opened
}
