//! `trace`: what one device sends and gets, line by line while it happens.
//!
//! Each worker gathers for itself and is asked five times a second. When nobody reads the answer any more the trace ends at
//! every worker: at once when the connection closes, else after some seconds, and by the workers' own patience in any case.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body as HttpAnswer, HttpBody};
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, timeout};
use utoipa::ToSchema;

use crate::places::{Busy, Seat};
use portcullis_proto::gateway::contract::{ControlAnswer, ControlRequest};
use portcullis_proto::gateway::trace::{MAX_PREVIEW, TraceRecord};
use portcullis_proto::types::WorkerId;

use super::error::{ApiError, ErrorBody};
use super::extract::Body;
use super::trace_event::TraceEvent;
use super::{Api, ask};

/// Traces at the same time.
pub(super) const TRACES: usize = 8;

/// How often the workers are asked.
const EVERY: Duration = Duration::from_millis(200);

/// When there is nothing to tell, an empty line this often shows whether anyone still reads.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How long a reader may not read.
const STALLED: Duration = Duration::from_secs(5);

/// Answers that wait for the connection to take them.
const WAITING: usize = 16;

/// Longest trace, in seconds.
const MAX_SECONDS: u64 = 86_400;

/// Longest target, in bytes: what a DTLS identity may have.
const MAX_TARGET: usize = 256;

/// Which device a trace follows, and for how long.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTrace {
    /// A client id, a user name, a DTLS identity, or an address with or without port.
    pub target: String,
    /// How many bytes of each payload to show, 0 to 1024.
    #[serde(default = "preview")]
    #[schema(default = 64, maximum = 1024)]
    pub payload: usize,
    /// For how long, in seconds, 1 to 86400.
    #[serde(default = "ten_minutes")]
    #[schema(default = 600, minimum = 1, maximum = 86400)]
    pub seconds: u64,
}

const fn preview() -> usize {
    64
}

const fn ten_minutes() -> u64 {
    600
}

/// Trace a device
///
/// The answer goes on for as long as was asked: one JSON object per line, and an empty line now and then. Tokens and passwords
/// are masked. It shows messages with their options, why one was dropped, handshakes with their results, alerts, changes of
/// address, the end of sessions, what the access rules said and which line, and what went to the broker and came from it, of whoever has the target as client id, user name, DTLS identity or address; a
/// handshake that fails shows under the identity that it named. The trace ends when the connection closes.
#[utoipa::path(
    post,
    path = "/api/v1/trace",
    tag = "clients",
    request_body = NewTrace,
    responses(
        (status = 200, description = "One event per line", body = TraceEvent, content_type = "application/x-ndjson"),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "Eight traces are on already")
    )
)]
pub(super) async fn start(
    State(api): State<Arc<Api>>,
    Extension(seat): Extension<Seat>,
    Body(wanted): Body<NewTrace>,
) -> Result<Response, ApiError> {
    check(&wanted)?;
    let full = || ApiError::conflict("limit", format!("{TRACES} traces are on already"));
    let place = Arc::clone(&api.traces).try_acquire_owned().map_err(|_| full())?;
    let mut id = [0; 8];
    openssl::rand::rand_bytes(&mut id)
        .map_err(|error| ApiError::internal(format!("no randomness: {error}")))?;
    let running = Running {
        api: Arc::clone(&api),
        id: u64::from_ne_bytes(id),
        _busy: seat.keep(),
        _place: place,
    };
    let target: Arc<str> = wanted.target.as_str().into();
    for worker in (0..api.site.workers()).map(WorkerId) {
        let request = ControlRequest::Trace {
            id: running.id,
            target: Arc::clone(&target),
            preview: wanted.payload,
        };
        match ask(&api, worker, request).await {
            Ok(ControlAnswer::Done) => {}
            outcome => {
                running.end().await;
                return Err(outcome.err().unwrap_or_else(full));
            }
        }
    }
    let (to, lines) = mpsc::channel(WAITING);
    let until = Instant::now() + Duration::from_secs(wanted.seconds);
    tokio::spawn(running.run(to, until));
    let body = HttpAnswer::new(Lines(lines));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn check(wanted: &NewTrace) -> Result<(), ApiError> {
    if wanted.target.is_empty() || wanted.target.len() > MAX_TARGET {
        return Err(ApiError::bad_request(format!(
            "target is 1 to {MAX_TARGET} bytes: a client id, a user name, a DTLS identity or an address"
        )));
    }
    if wanted.payload > MAX_PREVIEW {
        return Err(ApiError::bad_request(format!("payload is 0 to {MAX_PREVIEW}")));
    }
    if !(1..=MAX_SECONDS).contains(&wanted.seconds) {
        return Err(ApiError::bad_request(format!("seconds is 1 to {MAX_SECONDS}")));
    }
    Ok(())
}

/// A trace that is on at every worker.
struct Running {
    api: Arc<Api>,
    id: u64,
    /// The connection lives for as long as its answer does.
    _busy: Busy,
    _place: OwnedSemaphorePermit,
}

impl Running {
    async fn run(self, to: mpsc::Sender<Bytes>, until: Instant) {
        let mut spoke = Instant::now();
        while Instant::now() < until {
            tokio::select! {
                () = to.closed() => break,
                () = sleep(EVERY) => {}
            }
            let Some((records, lost)) = self.take().await else {
                break;
            };
            let mut text = self.text(records, lost);
            if text.is_empty() && spoke.elapsed() < SIGN_OF_LIFE {
                continue;
            }
            if text.is_empty() {
                text.push('\n');
            }
            spoke = Instant::now();
            if !matches!(timeout(STALLED, to.send(text.into())).await, Ok(Ok(()))) {
                break;
            }
        }
        self.end().await;
    }

    /// What came at all workers, in the order of time; `None` when a worker does not have the trace any more.
    async fn take(&self) -> Option<(Vec<TraceRecord>, u64)> {
        let (mut all, mut lost_in_all) = (Vec::new(), 0);
        for worker in (0..self.api.site.workers()).map(WorkerId) {
            let request = ControlRequest::TakeTrace { id: self.id };
            match ask(&self.api, worker, request).await {
                Ok(ControlAnswer::Traced { records, lost }) => {
                    all.extend(records);
                    lost_in_all += lost;
                }
                _ => return None,
            }
        }
        all.sort_by_key(|record| record.at);
        Some((all, lost_in_all))
    }

    fn text(&self, records: Vec<TraceRecord>, lost: u64) -> String {
        let now = self.api.site.now();
        let listeners = self.api.site.listeners();
        let events = records
            .iter()
            .map(|record| TraceEvent::of(record, &now, &listeners));
        let lost = (lost > 0).then(|| TraceEvent::lost(&now, lost));
        let mut text = String::new();
        for event in events.chain(lost) {
            if let Ok(line) = serde_json::to_string(&event) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }

    async fn end(self) {
        for worker in (0..self.api.site.workers()).map(WorkerId) {
            // One that is gone, or has ended it already, is as good.
            drop(ask(&self.api, worker, ControlRequest::EndTrace { id: self.id }).await);
        }
    }
}

/// A body that goes on.
pub(super) struct Lines(pub(super) mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|lines| lines.map(|lines| Ok(Frame::data(lines))))
    }
}
