//! The thread of the streams: accepting, TLS, reading and writing, apart from the workers. It is there once a listener needs it.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::stream::{FromStream, Gate};
use crate::types::ListenerId;

/// How long connections may take for their last words when the process ends.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often is looked whether they have had them.
const LOOK: Duration = Duration::from_millis(10);

/// What accepts connections, for all workers.
#[derive(Debug)]
pub(super) struct Streams {
    /// To each worker, in their order.
    workers: Vec<mpsc::Sender<FromStream>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    runtime: Option<Runtime>,
    accepting: HashMap<ListenerId, JoinHandle<()>>,
    gates: Vec<Arc<Gate>>,
}

impl Streams {
    pub(super) fn new(workers: Vec<mpsc::Sender<FromStream>>) -> Self {
        Self {
            workers,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts the connections of a listener from now on, in the place of the socket that it had.
    pub(super) fn open(&self, listener: ListenerId, socket: TcpListener, gate: &Arc<Gate>) -> io::Result<()> {
        let mut state = self.state();
        let runtime = match state.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("streams")
                .enable_all()
                .build()?,
        };
        let opened = {
            let _within = runtime.enter();
            tokio::net::TcpListener::from_std(socket)
                .map(|socket| gate.open(listener, socket, self.workers.clone()))
        };
        state.runtime = Some(runtime);
        state.gates.push(Arc::clone(gate));
        if let Some(before) = state.accepting.insert(listener, opened?) {
            before.abort();
        }
        Ok(())
    }

    /// Accepts no more connections of a listener.
    pub(super) fn close(&self, listener: ListenerId) {
        if let Some(accepting) = self.state().accepting.remove(&listener) {
            accepting.abort();
        }
    }

    /// Waits a little until all connections have ended; the workers have ended them.
    pub(super) async fn finish(&self) {
        let gates = std::mem::take(&mut self.state().gates);
        let all = async {
            while gates.iter().any(|gate| !gate.is_empty()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Whoever does not hear it finds the connection gone.
        let _ended = tokio::time::timeout(LAST_WORDS, all).await;
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(runtime) = self.state().runtime.take() {
            runtime.shutdown_background();
        }
    }
}
