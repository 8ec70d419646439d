//! `events`: what happens to clients, as server-sent events.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpAnswer;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio::time::timeout;
use utoipa::IntoParams;

use crate::events::{Event, KEPT};
use crate::places::{Busy, Seat};
use portcullis_proto::gateway::events::EventKind;
use portcullis_proto::types::reason::Label as _;

use super::Api;
use super::error::{ApiError, ErrorBody};
use super::extract::Params;
use super::group;
use super::trace::Lines;

/// Readers at the same time.
pub(super) const READERS: usize = 32;

/// When there is nothing to tell, a comment this often shows whether anyone still reads.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How long a reader may not read.
const STALLED: Duration = Duration::from_secs(30);

/// Answers that wait for the connection to take them.
const WAITING: usize = 16;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// Only those of this client id or DTLS identity.
    client: Option<String>,
    /// Only those of this listener, by name.
    listener: Option<String>,
    /// Only those of these kinds, separated by commas.
    kind: Option<String>,
    /// How many of the events that are kept to begin with, 0 to 1000.
    #[serde(default = "all")]
    #[param(default = 1000, maximum = 1000)]
    last: usize,
    /// Whether to go on with what happens then.
    #[serde(default = "yes")]
    #[param(default = true)]
    follow: bool,
}

const fn all() -> usize {
    KEPT
}

const fn yes() -> bool {
    true
}

/// Which events a reader wants.
struct Filter {
    client: Option<String>,
    listener: Option<String>,
    kinds: Vec<String>,
}

impl EventQuery {
    fn filter(&self) -> Result<Filter, ApiError> {
        let kinds: Vec<String> = self
            .kind
            .iter()
            .flat_map(|kinds| kinds.split(','))
            .map(|kind| kind.trim().to_owned())
            .collect();
        let of_clients = EventKind::ALL.iter().filter(|kind| !kind.is_of_a_request());
        let words: Vec<&str> = of_clients.map(|kind| kind.label()).chain(group::KINDS).collect();
        if let Some(wrong) = kinds.iter().find(|kind| !words.contains(&kind.as_str())) {
            return Err(ApiError::bad_request(format!(
                "kind: {wrong:?} is none of {}",
                words.join(", ")
            )));
        }
        Ok(Filter {
            client: self.client.clone(),
            listener: self.listener.clone(),
            kinds,
        })
    }
}

impl Filter {
    fn fits(&self, event: &Event) -> bool {
        let client = |wanted: &String| {
            [&event.clientid, &event.identity]
                .into_iter()
                .any(|name| name.as_ref() == Some(wanted))
        };
        self.client.as_ref().is_none_or(client)
            && self
                .listener
                .as_ref()
                .is_none_or(|wanted| event.listener == *wanted)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

/// Follow what happens to clients
///
/// Server-sent events: `id` is the number of the event, `event` its kind, `data` the JSON of it. Those of the last 1,000 that
/// fit come first, then what happens; with the header `Last-Event-ID` only those after it. A reader that is too slow gets the
/// event `lost` with the number of those that it missed, and one that does not read for 30 s is hung up on.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    tag = "clients",
    params(EventQuery),
    responses(
        (status = 200, description = "Events as they happen", body = Event, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "Too many read already")
    )
)]
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    Extension(seat): Extension<Seat>,
    headers: HeaderMap,
    Params(query): Params<EventQuery>,
) -> Result<Response, ApiError> {
    if query.last > KEPT {
        return Err(ApiError::bad_request(format!("last is 0 to {KEPT}")));
    }
    let filter = query.filter()?;
    let full = || ApiError::conflict("limit", format!("{READERS} read events already"));
    let place = Arc::clone(&api.readers).try_acquire_owned().map_err(|_| full())?;
    let (kept, live) = api.site.events().listen();
    let seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.trim().parse::<u64>().ok())
        // Of an earlier life of the process: all are new.
        .filter(|seen| kept.last().is_some_and(|last| *seen <= last.id));
    let fitting: Vec<_> = kept
        .iter()
        .filter(|event| seen.is_none_or(|seen| event.id > seen) && filter.fits(event))
        .collect();
    let skip = if seen.is_some() {
        0
    } else {
        fitting.len().saturating_sub(query.last)
    };
    // At once, so that the reader sees that it is heard.
    let mut text = ": ok\n\n".to_owned();
    for event in fitting.into_iter().skip(skip) {
        write_event(&mut text, event);
    }
    let (to, lines) = mpsc::channel(WAITING);
    let reader = Reader {
        filter,
        to,
        _busy: seat.keep(),
        _place: place,
    };
    tokio::spawn(reader.run(text, query.follow.then_some(live)));
    let body = HttpAnswer::new(Lines(lines));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

fn write_event(text: &mut String, event: &Event) {
    if let Ok(json) = serde_json::to_string(event) {
        // JSON has no line break in it.
        _ = write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.id, event.kind);
    }
}

/// One who reads.
struct Reader {
    filter: Filter,
    to: mpsc::Sender<Bytes>,
    /// The connection lives for as long as its answer does.
    _busy: Busy,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn run(self, kept: String, live: Option<broadcast::Receiver<Arc<Event>>>) {
        let sent = timeout(STALLED, self.to.send(kept.into())).await;
        let (Some(mut live), Ok(Ok(()))) = (live, sent) else {
            return;
        };
        loop {
            let next = tokio::select! {
                () = self.to.closed() => return,
                next = timeout(SIGN_OF_LIFE, live.recv()) => next,
            };
            let mut text = String::new();
            match next {
                Err(_) => text.push_str(": still there\n\n"),
                Ok(Ok(event)) if self.filter.fits(&event) => write_event(&mut text, &event),
                Ok(Ok(_)) => continue,
                Ok(Err(RecvError::Lagged(count))) => {
                    _ = write!(
                        text,
                        "event: lost\ndata: {{\"kind\":\"lost\",\"count\":{count}}}\n\n"
                    );
                }
                Ok(Err(RecvError::Closed)) => return,
            }
            if !matches!(timeout(STALLED, self.to.send(text.into())).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}
