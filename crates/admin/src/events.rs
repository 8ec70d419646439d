//! What happens to clients, told in the log, kept for those who ask later, and handed to those who listen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing::{debug, info};

use super::event_lines::Lines;
use utoipa::ToSchema;

use portcullis_proto::coap::describe::code_name;
use portcullis_proto::gateway::events::{ClientEvent, EventKind, More};
use portcullis_proto::types::PeerAddr;
use portcullis_proto::types::reason::Label as _;

use crate::expose::ListenerNames;

/// Events that are kept.
pub const KEPT: usize = 1000;

/// Something that happened to a client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: one more than that of the event before, from 1 at each start of the process.
    pub id: u64,
    /// When it happened (RFC 3339, UTC, milliseconds).
    pub time: String,
    /// What happened: `connected`, `disconnected`, `session_started`, `session_ended`, `restored`, `taken_over`, `moved`,
    /// `asleep`, `lost`, `awake`, `handshake_failed`, `login_refused`, `token_refused`, `denied`, `left_out`;
    /// of a group of gateways `node_joined`, `node_left`, `group_fault`, `group_mended`.
    pub kind: String,
    /// The client id, named or proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clientid: Option<String>,
    /// The user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The identity that the DTLS handshake proved, or that a failed one named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The listener, by name.
    pub listener: String,
    /// Its transport: `udp`, `dtls`, `tcp` or `tls`.
    pub transport: String,
    /// Address and port of the client; none while its DTLS session is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Why, by the word that the metrics have for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `moved`: where it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Of `denied`: `publish`, `subscribe` or `receive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Of `denied`: the topic or filter, without the mountpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Of `denied`: the line of the ACL file, or the rule of the credential, that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Of `denied`: what decided, in words. Of a group: which node, or what is to be mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of `handshake_failed`: how long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Of `asleep`, `lost` and `awake`: how long it had been silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// Of `left_out`: how many events of this source were not told one by one. Of `restored`: how many sessions went on (`reason` is
    /// `ok`), or did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What is kept and who listens.
pub struct Events {
    names: ListenerNames,
    kept: Mutex<Kept>,
    lines: Mutex<Lines>,
    live: broadcast::Sender<Arc<Event>>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    events: VecDeque<Arc<Event>>,
}

impl Events {
    /// Nothing happened yet. `names` are those of the listeners, by their ids.
    #[must_use]
    pub fn new(names: ListenerNames) -> Self {
        Self {
            names,
            kept: Mutex::default(),
            lines: Mutex::default(),
            live: broadcast::Sender::new(KEPT),
        }
    }

    /// Tells of something that happened at this time of day.
    pub fn tell(&self, at: SystemTime, event: &ClientEvent) {
        let names = self.names.all();
        let (listener, transport) = names
            .get(usize::from(event.listener.0))
            .map_or(("", ""), |(name, transport)| (name, transport.label()));
        let mut shown = Event {
            time: humantime::format_rfc3339_millis(at).to_string(),
            kind: event.kind.label().to_owned(),
            clientid: event.client.as_ref().map(ToString::to_string),
            username: event.username.as_deref().map(str::to_owned),
            identity: event.identity.as_deref().map(str::to_owned),
            listener: listener.to_owned(),
            transport: transport.to_owned(),
            address: event.address.as_ref().map(PeerAddr::to_string),
            reason: event.reason.map(str::to_owned),
            ..Event::default()
        };
        let more = shown.tell(&event.more);
        if self.has_line(at, event) {
            log(&shown, event.kind, &more);
        }
        if event.kind.is_of_a_request() {
            return;
        }
        self.keep(shown);
    }

    /// Tells of something that happened to the group of gateways; the log has it already.
    pub(crate) fn tell_group(&self, at: SystemTime, kind: &str, address: Option<String>, detail: String) {
        self.keep(Event {
            time: humantime::format_rfc3339_millis(at).to_string(),
            kind: kind.to_owned(),
            address,
            detail: Some(detail),
            ..Event::default()
        });
    }

    fn keep(&self, mut shown: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        shown.id = kept.last;
        let shown = Arc::new(shown);
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(Arc::clone(&shown));
        // Nobody may listen.
        drop(self.live.send(shown));
    }

    /// Whether the log tells it. What is told of requests is so only at `debug`.
    fn has_line(&self, at: SystemTime, event: &ClientEvent) -> bool {
        if event.kind.is_of_a_request() {
            return true;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for (source, count) in lines.over(at) {
            let address = source.map(|source| source.to_string());
            info!(target: "portcullis::client", address, count, "more of this source are told by `portcullis clients watch`");
        }
        lines.admits(at, event.address.map(|address| address.source()))
    }

    /// What is kept, oldest first, and from then on what happens. Who reads too slowly misses the oldest.
    #[must_use]
    pub fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.events.iter().cloned().collect(), self.live.subscribe())
    }
}

impl Event {
    /// Notes what events of its kind have beside, and says it in words.
    fn tell(&mut self, more: &More) -> String {
        match more {
            More::Nothing => String::new(),
            More::From(address) => {
                self.from = Some(address.to_string());
                format!(" from {address}")
            }
            More::After(time) => {
                self.seconds = Some(time.as_secs_f64());
                format!(" after {:.1} s", time.as_secs_f64())
            }
            More::Silent(time) => {
                self.idle_seconds = Some(time.as_secs());
                format!(" after {} s without a sign of life", time.as_secs())
            }
            More::Access {
                action,
                topic,
                decision,
            } => {
                let detail = decision.to_string();
                let words = format!(": {} {topic:?} {detail}", action.label());
                self.action = Some(action.label().to_owned());
                self.topic = Some(topic.to_string());
                self.line = decision.line;
                self.detail = Some(detail);
                words
            }
            More::Count(count) => {
                self.count = Some(*count);
                format!(": {count} more of this source in 10 s")
            }
            More::Sessions(count) => {
                self.count = Some(*count);
                format!(": {count} sessions")
            }
            More::Request { method, path } => format!(" {} /{}", code_name(*method), path.escape_debug()),
            More::Answer { code, after } => format!(" {} after {} us", code_name(*code), after.as_micros()),
        }
    }
}

/// One line, for people: what happened first, then who and where.
fn log(event: &Event, kind: EventKind, more: &str) {
    let what = event.kind.replace('_', " ");
    let listener = format!("{}:{}", event.transport, event.listener);
    macro_rules! line {
        ($level:ident) => {
            $level!(
                target: "portcullis::client",
                client = event.clientid,
                user = event.username,
                identity = event.identity,
                listener,
                address = event.address,
                reason = event.reason,
                "{what}{more}"
            )
        };
    }
    if kind.is_of_a_request() {
        line!(debug);
    } else {
        line!(info);
    }
}

#[cfg(test)]
mod tests {
    use portcullis_proto::types::{ClientId, ListenerId, Transport};

    use super::*;

    fn event(kind: EventKind, client: &str) -> ClientEvent {
        ClientEvent {
            kind,
            listener: ListenerId(0),
            address: PeerAddr::new(([192, 0, 2, 7], 40_000).into()),
            client: ClientId::new(client),
            username: None,
            identity: None,
            reason: None,
            more: More::Nothing,
        }
    }

    #[test]
    fn a_thousand_are_kept_and_who_reads_slowly_costs_only_itself() {
        let events = Events::new(vec![("lab".to_owned(), Transport::Udp)].into());
        let (before, mut slow) = events.listen();
        assert!(before.is_empty());
        for number in 0..2500 {
            let kind = if number % 2 == 0 {
                EventKind::Connected
            } else {
                EventKind::Request
            };
            events.tell(SystemTime::UNIX_EPOCH, &event(kind, &format!("c{number}")));
        }
        let (kept, _) = events.listen();
        assert_eq!((kept.len(), kept[0].id, kept[KEPT - 1].id), (KEPT, 251, 1250));
        assert_eq!(kept[0].clientid.as_deref(), Some("c500"));
        let missed = slow.try_recv().unwrap_err();
        assert!(
            matches!(missed, broadcast::error::TryRecvError::Lagged(_)),
            "{missed}"
        );
        assert!(slow.try_recv().unwrap().id > 1);
    }

    #[test]
    fn an_event_has_the_names_of_its_listener_and_no_member_without_value() {
        let events = Events::new(vec![("lab".to_owned(), Transport::Udp)].into());
        events.tell(SystemTime::UNIX_EPOCH, &event(EventKind::TakenOver, "m-1"));
        let (kept, _) = events.listen();
        let json = serde_json::to_value(&*kept[0]).unwrap();
        let wanted = serde_json::json!({"id": 1, "time": "1970-01-01T00:00:00.000Z", "kind": "taken_over", "clientid": "m-1",
            "listener": "lab", "transport": "udp", "address": "192.0.2.7:40000"});
        assert_eq!(json, wanted);
    }
}
