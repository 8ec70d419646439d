//! Trials: what the broker may hang up on is sent on a connection of its own, a few at a time and at last one alone.
//!
//! That connection has a client id of its own, a clean session and no will, and ends a while after the last trial. What is
//! alone on it when the broker hangs up is condemned, once the lane's connection has shown that the broker is still there. To
//! a broker that does not let it in, trials are held on the lane's connection, with nothing else under way; then the broker
//! has to hang up at the same one twice. What the broker says nothing to is no more than put off: a broker whose
//! acknowledgements are late has not refused anything.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use portcullis_proto::types::TopicFilter;

use super::codec::{Connect, Subscription};
use super::connection::Connection;
use super::judge::Subject;
use super::options;
use super::pipeline::Pipeline;
use super::session::{Ending, Happening, Sent, Session};
use super::subscriptions::{Subscriptions, Tried};
use crate::metrics::RefusedReason;
use crate::settings::MqttSettings;

/// The connection ends when nothing was tried for so long.
const IDLE: Duration = Duration::from_secs(10);
/// Attempts in a row that failed, after which trials are held on the lane's connection.
const FAILURES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Case {
    /// The message of this token.
    Message(u64),
    Subscribe(u32),
    Unsubscribe(TopicFilter),
}

/// What is being tried, and how it went out.
#[derive(Debug)]
struct Item {
    case: Case,
    sent: Sent,
    subject: Subject,
}

/// The trials of one lane.
pub(super) struct Trial {
    settings: std::sync::Arc<MqttSettings>,
    lane: usize,
    now: fn() -> Instant,
    connection: Option<Connection>,
    stands: bool,
    items: Vec<Item>,
    failures: u32,
    again_at: Option<Instant>,
    used_at: Option<Instant>,
    /// What the connection ended over, the reason, and what the lane's connection is to confirm first.
    ended_over: Option<(Item, Option<u8>, u64)>,
    /// What was alone on the lane's connection when that ended.
    struck: Option<Subject>,
    on_main: bool,
    /// A filter was put off: messages have their turn first.
    messages_first: bool,
    /// Part of the client id: a gateway with the same name must not end this connection by taking it over.
    suffix: u16,
}

impl Trial {
    pub(super) fn new(settings: std::sync::Arc<MqttSettings>, lane: usize, now: fn() -> Instant) -> Self {
        Self {
            settings,
            lane,
            now,
            connection: None,
            stands: false,
            items: Vec::new(),
            failures: 0,
            again_at: None,
            used_at: None,
            ended_over: None,
            struck: None,
            on_main: false,
            messages_first: false,
            suffix: StdRng::from_os_rng().random(),
        }
    }

    /// What happens on its own connection; for ever pending without one. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<Happening> {
        match &mut self.connection {
            Some(connection) => connection.next().await,
            None => std::future::pending().await,
        }
    }

    /// When [`Self::proceed`] has something to do again by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ping = self
            .connection
            .as_ref()
            .and_then(|connection| connection.session.deadline());
        ping.into_iter().chain(self.again_at).min()
    }

    /// Whether something is being tried on the lane's connection.
    pub(super) fn is_on_main(&self) -> bool {
        self.on_main && !self.items.is_empty()
    }

    /// Whether the lane's connection is to carry nothing but what is tried.
    pub(super) fn wants_main(&self, pipeline: &Pipeline, subscriptions: &Subscriptions) -> bool {
        self.on_main || self.failures >= FAILURES && has_cases(pipeline, subscriptions)
    }

    /// Opens, tries, ends what is not needed. `main` is the session of the lane's connection when that stands.
    pub(super) async fn proceed(
        &mut self,
        now: Instant,
        main: Option<&mut Session>,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
    ) {
        let ending = self
            .connection
            .as_mut()
            .and_then(|connection| connection.tick(now));
        if let Some(ending) = ending {
            self.on_ended(now, &ending, None, pipeline);
        }
        self.put_off_if_silent(now, pipeline, subscriptions);
        let Some(main) = main else { return };
        if !self.items.is_empty() || self.ended_over.is_some() {
            return self.flush().await;
        }
        if !has_cases(pipeline, subscriptions) {
            let idle = |used: Instant| now.saturating_duration_since(used) >= IDLE;
            if self.used_at.is_none_or(idle) {
                self.leave();
            }
            return self.flush().await;
        }
        if self.failures >= FAILURES && main.is_idle() {
            self.on_main = true;
            self.fill(now, main, pipeline, subscriptions, true);
            self.on_main = !self.items.is_empty();
        } else if self.stands {
            self.used_at = Some(now);
            if let Some(mut connection) = self.connection.take() {
                self.fill(now, &mut connection.session, pipeline, subscriptions, false);
                self.connection = Some(connection);
            }
        }
        if self.connection.is_none() && self.again_at.is_none_or(|at| at <= now) {
            self.again_at = None;
            self.open(now);
        }
        self.flush().await;
    }

    /// Ends a connection on which the broker answers pings and not what is tried. That waits behind the other suspects.
    fn put_off_if_silent(
        &mut self,
        now: Instant,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
    ) {
        let session = self.connection.as_ref().map(|connection| &connection.session);
        let owed = session.and_then(|session| session.requests.owed_since());
        let silent = |since| now.saturating_duration_since(since) >= self.settings.ack_patience;
        if self.on_main || !owed.is_some_and(silent) {
            return;
        }
        pipeline.metrics.stalls.inc();
        (self.connection, self.stands) = (None, false);
        let items = std::mem::take(&mut self.items);
        pipeline
            .judge
            .corner(items.iter().map(|item| item.subject.clone()));
        for item in items {
            self.messages_first = !matches!(item.case, Case::Message(_));
            match item.case {
                Case::Message(token) => pipeline.put_off(now, token, &item.subject),
                Case::Subscribe(_) | Case::Unsubscribe(_) => subscriptions.put_off(),
            }
        }
    }

    async fn flush(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.flush().await;
        }
    }

    fn leave(&mut self) {
        if let Some(connection) = &mut self.connection.take() {
            connection.session.disconnect();
        }
        (self.stands, self.failures) = (false, 0);
    }

    fn open(&mut self, now: Instant) {
        let connect = Connect {
            client_id: format!(
                "{}-{:04x}-trial",
                options::client_id(&self.settings, self.lane),
                self.suffix
            ),
            clean_start: true,
            session_seconds: 0,
            keep_alive: options::keep_alive(&self.settings),
            will: None,
        };
        match options::connect(&self.settings, connect, self.now) {
            Ok(connection) => self.connection = Some(connection),
            Err(text) => self.retry(now, &text),
        }
    }

    fn retry(&mut self, now: Instant, text: &str) {
        let wait = (PAUSE * 2_u32.saturating_pow(self.failures)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.again_at = now.checked_add(wait);
        if self.failures == FAILURES {
            tracing::warn!(
                connection = self.lane,
                "no connection for what the broker may hang up on ({text}); the lane's own is used"
            );
        }
    }

    /// Sends what is next: a filter, a message that is close to the cause, or several that are not.
    fn fill(
        &mut self,
        now: Instant,
        session: &mut Session,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
        alone: bool,
    ) {
        let messages_first = std::mem::take(&mut self.messages_first) && !pipeline.window.apart().is_empty();
        if !messages_first && let Some(tried) = subscriptions.next_on_trial() {
            let (case, packet, filter) = match tried {
                Tried::Subscribe(number, filter, qos) => {
                    let subscription = Subscription {
                        filter: filter.as_str(),
                        qos,
                        number: None,
                        retained: false,
                    };
                    let packet = session.subscribe(now, &subscription);
                    (Case::Subscribe(number), packet, filter)
                }
                Tried::Unsubscribe(filter) => {
                    let packet = session.unsubscribe(now, filter.as_str());
                    (Case::Unsubscribe(filter.clone()), packet, filter)
                }
            };
            self.items.extend(packet.map(|packet| Item {
                case,
                sent: Sent::Packet(packet),
                subject: Subject::Filter(filter.as_str().into()),
            }));
            return;
        }
        let max = if alone { 1 } else { pipeline.judge.batch() };
        while self.items.len() < max {
            let taken: Vec<&Subject> = self.items.iter().map(|item| &item.subject).collect();
            let Some((token, subject, close)) = pipeline.next_apart(now, &taken) else {
                return;
            };
            if close && !self.items.is_empty() {
                return;
            }
            let sent = pipeline.try_apart(now, token, session);
            match sent {
                Sent::Full => return,
                Sent::TooLarge => continue,
                Sent::Packet(_) | Sent::Unconfirmed(_) => {}
            }
            self.items.push(Item {
                case: Case::Message(token),
                sent,
                subject,
            });
            if close {
                return;
            }
        }
    }

    /// Follows up on what happened on its own connection. `main` is the session of the lane's connection when that stands.
    pub(super) fn on_happening(
        &mut self,
        now: Instant,
        happening: Happening,
        main: Option<&mut Session>,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
    ) {
        match happening {
            Happening::Connected(_) => {
                pipeline.metrics.trials.inc();
                (self.stands, self.failures, self.used_at) = (true, 0, Some(now));
            }
            Happening::Ended(ending) => self.on_ended(now, &ending, main, pipeline),
            Happening::Received(packet) => {
                if let Some(connection) = &mut self.connection {
                    connection.session.release(now, packet);
                }
            }
            answer => {
                let filter = self.answered(now, &answer, pipeline, subscriptions);
                // Nobody reads what comes here.
                if let (Some(filter), Some(connection)) = (filter, &mut self.connection) {
                    connection.session.unsubscribe(now, filter.as_str());
                }
            }
        }
    }

    /// Whether this is the answer to what is tried on the lane's connection.
    pub(super) fn takes_from_main(
        &mut self,
        now: Instant,
        happening: &Happening,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
    ) -> bool {
        if let Happening::Confirmed(number) = happening
            && let Some((item, reason, _)) = self.ended_over.take_if(|(_, _, behind)| *behind <= *number)
        {
            condemn(now, &item, reason, pipeline, subscriptions);
        }
        if !self.on_main {
            return false;
        }
        let before = self.items.len();
        self.answered(now, happening, pipeline, subscriptions);
        let taken = self.items.len() < before;
        if taken {
            (self.on_main, self.struck) = (false, None);
        }
        taken
    }

    /// Ends what was answered; gives the filter that was subscribed by it.
    fn answered(
        &mut self,
        now: Instant,
        answer: &Happening,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
    ) -> Option<TopicFilter> {
        let is_meant = |item: &mut Item| match (answer, &item.sent) {
            (
                Happening::Acknowledged(packet, _)
                | Happening::Subscribed(packet, _)
                | Happening::Unsubscribed(packet),
                Sent::Packet(known),
            ) => packet == known,
            (Happening::Confirmed(number), Sent::Unconfirmed(known)) => known <= number,
            _ => false,
        };
        let reason = match answer {
            Happening::Acknowledged(_, reason) | Happening::Subscribed(_, reason) => *reason,
            _ => 0,
        };
        let mut subscribed = None;
        for item in self.items.extract_if(.., is_meant).collect::<Vec<Item>>() {
            match item.case {
                Case::Message(token) => pipeline.tried(now, token, &item.subject, reason),
                Case::Subscribe(number) => {
                    pipeline.judge.acquit(&item.subject, 0);
                    if let (Subject::Filter(filter), Err(refusal)) =
                        (&item.subject, subscriptions.word(reason))
                    {
                        pipeline.judge.note(now, "filter", filter, reason);
                        pipeline.metrics.refusals.inc(RefusedReason::of(refusal.error));
                    }
                    subscribed = subscriptions.tried(now, number, reason);
                }
                Case::Unsubscribe(filter) => {
                    pipeline.judge.acquit(&item.subject, 0);
                    subscriptions.tried_unsubscribe(filter);
                }
            }
        }
        subscribed
    }

    fn on_ended(
        &mut self,
        now: Instant,
        ending: &Ending,
        main: Option<&mut Session>,
        pipeline: &mut Pipeline,
    ) {
        let stood = std::mem::take(&mut self.stands);
        self.connection = None;
        if self.on_main {
            return if stood {
                self.again_at = now.checked_add(PAUSE)
            } else {
                self.retry(now, &ending.text)
            };
        }
        let mut items = std::mem::take(&mut self.items);
        if !stood {
            return self.retry(now, &ending.text);
        }
        self.again_at = now.checked_add(PAUSE);
        if !ending.by_broker {
            return;
        }
        if items.len() > 1 {
            let subjects = items.into_iter().map(|item| item.subject);
            pipeline.judge.corner(subjects);
        } else if let (Some(item), Some(main)) = (items.pop(), main) {
            self.ended_over = Some((item, ending.reason, main.confirm()));
        }
    }

    /// The lane's connection is over, by the broker when `accused`.
    pub(super) fn main_ended(
        &mut self,
        now: Instant,
        ending: &Ending,
        accused: bool,
        pipeline: &mut Pipeline,
        subscriptions: &mut Subscriptions,
    ) {
        // Both ended: that tells of the broker and not of a message.
        self.ended_over = None;
        if !std::mem::take(&mut self.on_main) {
            return;
        }
        for item in std::mem::take(&mut self.items) {
            if !accused {
                continue;
            }
            if self.struck.take_if(|struck| *struck == item.subject).is_some() {
                condemn(now, &item, ending.reason, pipeline, subscriptions);
            } else {
                self.struck = Some(item.subject);
            }
        }
    }
}

fn has_cases(pipeline: &Pipeline, subscriptions: &Subscriptions) -> bool {
    !pipeline.window.apart().is_empty() || subscriptions.is_on_trial()
}

fn condemn(
    now: Instant,
    item: &Item,
    reason: Option<u8>,
    pipeline: &mut Pipeline,
    subscriptions: &mut Subscriptions,
) {
    match &item.case {
        Case::Message(token) => pipeline.condemn(now, *token, &item.subject, reason),
        Case::Subscribe(number) => {
            pipeline.condemn_filter(&item.subject, "subscribe");
            subscriptions.condemned(now, *number);
        }
        Case::Unsubscribe(filter) => {
            pipeline.condemn_filter(&item.subject, "unsubscribe");
            subscriptions.condemned_unsubscribe(filter);
        }
    }
}
