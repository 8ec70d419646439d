//! The page an edge author reads: what goes into a gateway and what comes out.
//!
//! ```text
//! gateway.handle(now, input)            any number of times
//! gateway.transmits()                   datagrams to send; then gateway.transmits_sent()
//! gateway.poll_output()                 until it returns none
//! gateway.poll_timeout()                when to call gateway.handle_timeout(now)
//! ```
//! The state is whole only once outputs are drained.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::bridge::contract::{BrokerEvent, BrokerRequest};
use crate::dtls::DtlsContext;
use crate::policy::authentication::{AuthRequest, Verdict};
use crate::types::{ListenerId, WorkerId};

use super::settings::Settings;
use super::workers::WorkerMessage;

/// What happens to a gateway.
pub enum Input<'a> {
    /// A datagram arrived. DTLS records are opened in place.
    Datagram {
        /// On which listener.
        listener: ListenerId,
        /// From where.
        from: SocketAddr,
        /// Its bytes, all of them.
        bytes: &'a mut [u8],
    },
    /// The broker answered or has a message.
    Broker(BrokerEvent),
    /// An authentication backend's word on an [`Output::Authenticate`].
    Authenticated {
        /// From the request.
        ticket: u64,
        /// The word.
        verdict: Verdict,
    },
    /// Another worker says something.
    Worker(WorkerMessage),
    /// Someone at the console or the API wants something.
    Control {
        /// Comes back in the answer.
        ticket: u64,
        /// What.
        request: ControlRequest,
    },
}

/// What a gateway wants done.
#[derive(Debug)]
pub enum Output {
    /// Ask the broker. When its channel is full, hand the matching failure back as an input.
    Broker(BrokerRequest),
    /// Ask who this is. When no backend can take it, hand [`Verdict::Unavailable`] back.
    Authenticate(AuthRequest),
    /// Tell another worker.
    Worker {
        /// Which; never itself.
        to: WorkerId,
        /// What.
        message: WorkerMessage,
    },
    /// An answer to [`Input::Control`].
    Control {
        /// From the request.
        ticket: u64,
        /// The answer.
        answer: ControlAnswer,
    },
}

/// What an operator asks of a worker.
#[derive(Clone)]
pub enum ControlRequest {
    /// New settings for what comes next; established sessions stay.
    Reconfigure {
        /// The settings.
        settings: Arc<Settings>,
        /// A DTLS context for each DTLS listener; `None` for plain UDP.
        contexts: Vec<Option<Arc<DtlsContext>>>,
    },
    /// Say goodbye to every DTLS session (close_notify).
    Drain,
}

/// What a worker answers.
#[derive(Debug, Clone)]
pub enum ControlAnswer {
    /// Done.
    Done,
}
