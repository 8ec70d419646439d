//! Who observes what at this worker, and what becomes of a message that they wait for (interface 2.6).

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::agenda::Cx;
use super::answers::not_found;
use super::kept::KeptObservations;
use super::kept_notifications::{self, KeptNotifications};
use super::metrics::{ConditionResult, QueueResult};
use super::notification::{
    self, carrying, confirmable, empty, may_receive, meets_conditions, remember, shown_to,
};
use super::peer_life::UDP_PEER_IDLE;
use super::representations::Representations;
use super::timers::Timer;
use super::workers::ToPeer;
use crate::bridge::backlog::{Backlog, Room};
use crate::bridge::collection::seats::Seat;
use crate::bridge::collection::topic::Topic;
use crate::bridge::conditions::Look;
use crate::bridge::content::{self, Representation};
use crate::bridge::contract::{BrokerRequest, FilterId};
use crate::bridge::sample::Sample;
use crate::bridge::subscriptions::{
    AccountHolder, Inserted, Observation, ObservationRegistry, Removed, State, Terms,
};
use crate::coap::contract::{Notification, NotificationOutcome, ObservationId, PeerId, Response};
use crate::invariant;
use crate::policy::connections::ConnectionKey;
use crate::policy::ledger::Table;
use crate::policy::shares::Share;
use crate::session::RestoreResult;
use crate::state::{Contents, Record, Store};
use crate::types::reason::Limit;
use crate::types::standing::Standing;
use crate::types::{Message, TopicFilter, TopicName, WorkerId};

/// The observations of a worker, and what waits for clients that are away.
pub(super) struct Observations {
    registry: ObservationRegistry,
    backlog: Backlog,
    kept: KeptObservations,
    notifications: KeptNotifications,
    /// The connections whose clients sleep.
    sleepers: HashSet<ConnectionKey>,
}

impl Observations {
    pub(super) fn new(worker: WorkerId, store: Option<Arc<Store>>) -> Self {
        Self {
            registry: ObservationRegistry::new(worker.first_id()),
            backlog: Backlog::default(),
            kept: KeptObservations::new(store.clone()),
            notifications: KeptNotifications::new(store),
            sleepers: HashSet::new(),
        }
    }

    /// Notes what names a holder in the records that the next process finds.
    pub(super) fn note_holder(&mut self, holder: AccountHolder, mark: Option<u64>) {
        self.kept.note_holder(holder, mark);
    }

    /// Notes whether the client of a connection sleeps.
    pub(super) fn set_sleeps(&mut self, key: ConnectionKey, sleeps: bool) {
        match sleeps {
            true => self.sleepers.insert(key),
            false => self.sleepers.remove(&key),
        };
        for id in self.of(AccountHolder::Connection(key)).to_vec() {
            if let Some(observation) = self.registry.get_mut(id) {
                observation.sleeps = sleeps;
            }
        }
    }

    pub(super) fn of(&self, holder: AccountHolder) -> &[ObservationId] {
        self.registry.of(holder)
    }

    pub(super) fn get(&self, id: ObservationId) -> Option<&Observation> {
        self.registry.get(id)
    }

    pub(super) fn get_mut(&mut self, id: ObservationId) -> Option<&mut Observation> {
        self.registry.get_mut(id)
    }

    pub(super) fn find(&self, holder: AccountHolder, filter: &TopicFilter) -> Option<ObservationId> {
        self.registry.find(holder, filter)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.registry.len()
    }

    /// Whether a client may begin one more observation. Where it may, its principal's share is taken.
    pub(super) fn has_room(&self, cx: &Cx<'_>, holder: AccountHolder, terms: &Terms) -> bool {
        let Some(account) = cx.ledger.of(holder) else {
            return false;
        };
        let caps = &cx.settings.caps;
        let replaced = self.find(holder, &terms.filter).and_then(|id| self.get(id));
        let replaced = replaced.map(|observation| &observation.terms);
        if replaced.is_none() && self.of(holder).len() >= caps.observations_per_client {
            cx.metrics.limits.inc(Limit::Observations);
            return false;
        }
        // One in place of another is refused only for what it has more.
        let grows = terms.weight().saturating_sub(replaced.map_or(0, Terms::weight));
        if grows > 0 && !cx.may_grow(account, grows) {
            return false;
        }
        let share = terms.principal.as_ref().map_or(Ok(()), |principal| {
            let same = replaced.filter(|replaced| replaced.principal.as_ref() == Some(principal));
            let less = same.map_or_else(Share::default, |terms| Share::observation(terms.weight()));
            let more = Share::observation(terms.weight());
            cx.shared.shares.take(principal, (more, less), caps)
        });
        share.inspect_err(|limit| cx.metrics.limits.inc(*limit)).is_ok()
    }

    /// Adds an observation whose client is at a peer, in place of those that it replaces. Its id, its filter's, and whether its holder
    /// observed that before.
    pub(super) fn insert(
        &mut self,
        cx: &mut Cx<'_>,
        holder: AccountHolder,
        at: Option<PeerId>,
        terms: Terms,
    ) -> (ObservationId, FilterId, bool) {
        let kept = self.kept.keep(holder, &terms);
        let inserted = self.add(cx, holder, at, terms);
        if let (Some(observation), Some(kept)) = (self.registry.get_mut(inserted.0), kept) {
            observation.keep_in(kept);
        }
        inserted
    }

    /// Takes over an observation of an earlier process, or of another node; its id and that of its filter.
    pub(super) fn go_on(
        &mut self,
        cx: &mut Cx<'_>,
        holder: AccountHolder,
        at: Option<PeerId>,
        terms: Terms,
        record: Record,
    ) -> (ObservationId, FilterId) {
        let (id, filter_id, _) = self.add(cx, holder, at, terms);
        if let Some(observation) = self.registry.get_mut(id) {
            observation.go_on(record);
            observation.is_live = true;
        }
        (id, filter_id)
    }

    fn add(
        &mut self,
        cx: &mut Cx<'_>,
        holder: AccountHolder,
        at: Option<PeerId>,
        terms: Terms,
    ) -> (ObservationId, FilterId, bool) {
        let Inserted {
            id,
            filter_id,
            replaced,
            known,
        } = {
            if let Some(account) = cx.ledger.of(holder) {
                cx.ledger
                    .add(account, Table::Observations, terms.weight().cast_signed());
            }
            self.registry.insert(cx.now, holder, at, terms)
        };
        if let (AccountHolder::Connection(key), Some(observation)) = (holder, self.registry.get_mut(id)) {
            observation.sleeps = self.sleepers.contains(&key);
        }
        for removed in replaced {
            self.forget(cx, &removed);
        }
        cx.metrics.subscriptions.set(self.registry.len() as u64);
        self.arm(cx, id);
        (id, filter_id, known)
    }

    /// Ends one observation; nothing is sent.
    pub(super) fn end(&mut self, cx: &mut Cx<'_>, id: ObservationId) {
        if let Some(removed) = self.registry.remove(id) {
            self.forget(cx, &removed);
            cx.metrics.subscriptions.set(self.registry.len() as u64);
        }
    }

    /// Ends all observations of a peer or connection; nothing is sent.
    pub(super) fn end_all(&mut self, cx: &mut Cx<'_>, holder: AccountHolder) {
        while let Some(id) = self.of(holder).first().copied() {
            self.end(cx, id);
        }
        if let AccountHolder::Connection(key) = holder {
            self.sleepers.remove(&key);
        }
        if let Some(mark) = self.kept.forget_holder(holder) {
            self.notifications.forget(mark);
        }
    }

    /// Ends an observation with an error (RFC 7641, 4.2); not confirmable: it ends either way.
    pub(super) fn refuse(&mut self, cx: &mut Cx<'_>, id: ObservationId, response: Response) {
        if let Some(observation) = self.registry.get_mut(id) {
            let notification = Notification {
                code: response.code,
                payload: response.payload,
                max_age: response.max_age,
                ..empty(observation, false)
            };
            if let Some(peer) = observation.at {
                cx.agenda.tell_peer(peer, ToPeer::Notify(id, notification));
            }
        }
        self.end(cx, id);
    }

    /// Takes the seat of the observation that one of this filter is about to replace.
    pub(super) fn seat_of(&mut self, holder: AccountHolder, filter: &TopicFilter) -> Option<Seat> {
        let id = self.find(holder, filter)?;
        self.get_mut(id)?.seat.take()
    }

    /// Gives back what [`Self::seat_of`] took, since nothing is replaced.
    pub(super) fn keep_seat(&mut self, holder: AccountHolder, filter: &TopicFilter, seat: Option<Seat>) {
        if let Some(observation) = self.find(holder, filter).and_then(|id| self.get_mut(id)) {
            observation.seat = seat;
        }
    }

    /// Gives an observation its seat at a created topic, and how often it is checked there, in seconds.
    pub(super) fn sit(&mut self, cx: &mut Cx<'_>, id: ObservationId, seat: Option<Seat>, check: Option<u32>) {
        if let Some(observation) = self.get_mut(id) {
            observation.seat = seat;
            observation.check = check.map(|seconds| Duration::from_secs(seconds.into()));
            self.arm(cx, id);
        }
    }

    /// Makes who observes a topic that was created or changed an observer of a created topic, the oldest as long as there are seats.
    pub(super) fn heed(&mut self, cx: &mut Cx<'_>, topic: &Topic) {
        let Some(filter) = self.registry.filter_of(topic.topic()) else {
            return;
        };
        let properties = topic.properties();
        let most = properties.max_subscribers.unwrap_or(u32::MAX);
        let mut seated: Vec<ObservationId> = Vec::new();
        while let Some((id, observation)) = self.registry.nth_of_filter(filter, seated.len()) {
            seated.push(id);
            let seat = observation.seat.take();
            let seat = seat.or_else(|| cx.shared.seats.take(topic.topic(), u32::MAX));
            self.sit(cx, id, seat, properties.observer_check);
        }
        // Ids ascend.
        seated.sort_unstable();
        while let Some(id) = seated.pop() {
            let observation = self.registry.get_mut(id);
            let seat = observation.and_then(|observation| observation.seat.as_mut());
            if !seat.is_some_and(|seat| seat.give_up_over(most)) {
                break;
            }
            self.refuse(cx, id, not_found("the topic has fewer max-subscribers now"));
        }
    }

    /// Ends all observations of a created topic that is deleted.
    pub(super) fn refuse_topic(&mut self, cx: &mut Cx<'_>, topic: &TopicName) {
        if let Some(filter) = self.registry.filter_of(topic) {
            self.refuse_filter(cx, filter, &not_found("the topic was deleted"));
        }
    }

    /// Ends all observations of a filter with an error.
    pub(super) fn refuse_filter(&mut self, cx: &mut Cx<'_>, filter: FilterId, response: &Response) {
        while let Some((id, _)) = self.registry.nth_of_filter(filter, 0) {
            self.refuse(cx, id, response.clone());
        }
    }

    fn forget(&mut self, cx: &mut Cx<'_>, removed: &Removed) {
        self.kept.free(removed.observation.kept);
        let Observation { holder, terms, .. } = &removed.observation;
        if let Some(account) = cx.ledger.of(*holder) {
            let weight = removed.observation.weight();
            cx.ledger.add(account, Table::Observations, -weight.cast_signed());
        }
        if let Some(principal) = &terms.principal {
            cx.shared
                .shares
                .give_back(principal, Share::observation(terms.weight()));
        }
        if let Some(peer) = removed.observation.at {
            cx.agenda.tell_peer(peer, ToPeer::Cancel(removed.id));
        }
        cx.timers.disarm(Timer::Observation(removed.id));
        let before = self.backlog.bytes();
        let forgotten = self.backlog.forget(removed.id);
        cx.metrics
            .queue_notifications
            .add(QueueResult::Forgotten, forgotten as u64);
        self.weigh_backlog(cx, *holder, before);
        if let Some(filter_id) = removed.unsubscribe {
            cx.agenda.broker(BrokerRequest::Unsubscribe { filter_id });
        }
    }

    /// The observations of a connection whose client is away, or asleep, from now on.
    pub(super) fn set_away(&mut self, key: ConnectionKey) -> Vec<ObservationId> {
        let ids = self.of(AccountHolder::Connection(key)).to_vec();
        for id in &ids {
            if let Some(observation) = self.registry.get_mut(*id) {
                observation.at = None;
            }
        }
        ids
    }

    /// The client of a connection is at a peer from now on, and gets what waited for it.
    pub(super) fn set_at(&mut self, cx: &mut Cx<'_>, key: ConnectionKey, peer: PeerId) {
        for id in self.of(AccountHolder::Connection(key)).to_vec() {
            if let Some(observation) = self.registry.get_mut(id) {
                observation.at = Some(peer);
            }
            let before = self.backlog.bytes();
            let (waited, expired) = self.backlog.take(cx.now, id);
            self.weigh_backlog(cx, AccountHolder::Connection(key), before);
            let results = &cx.metrics.queue_notifications;
            results.add(QueueResult::Expired, expired as u64);
            results.add(QueueResult::Delivered, waited.len() as u64);
            for mut notification in waited {
                notification.returns = true;
                self.deliver(cx, id, notification);
            }
        }
    }

    /// Takes back what a peer was not sent, or did not acknowledge.
    pub(super) fn take_back(&mut self, cx: &mut Cx<'_>, notifications: Vec<(ObservationId, Notification)>) {
        for (id, notification) in notifications {
            self.keep(cx, id, notification);
        }
    }

    /// What became of a notification.
    pub(super) fn notified(&mut self, cx: &mut Cx<'_>, id: ObservationId, outcome: NotificationOutcome) {
        match (outcome, self.registry.get_mut(id)) {
            (NotificationOutcome::Acknowledged, Some(observation)) => {
                observation.confirmed_at = cx.now;
                observation.doubted_since = None;
            }
            (NotificationOutcome::Acknowledged, None) => {}
            (NotificationOutcome::Reset | NotificationOutcome::TimedOut, _) => self.end(cx, id),
        }
    }

    /// A message that filters of ours match, each once.
    pub(super) fn message(&mut self, cx: &mut Cx<'_>, filters: &[FilterId], message: &Arc<Message>) {
        if message.is_expired(cx.now) {
            return;
        }
        let shown = Representations::new(cx.settings, cx.metrics, message);
        let sample = OnceCell::new();
        let sample = || {
            let format = content::format_of(message);
            *sample.get_or_init(|| Sample::of(format, &message.payload))
        };
        for filter in filters {
            let mut index = 0;
            while let Some((id, observation)) = self.registry.nth_of_filter(*filter, index) {
                if observation.seat.is_some() && message.payload.is_empty() {
                    // Another one takes its place.
                    self.refuse(cx, id, not_found("the data of the topic was deleted"));
                    continue;
                }
                index += 1;
                let Some(shown) = shown_to(cx, observation, message, &shown) else {
                    continue;
                };
                remember(cx, observation, (message, &shown), sample);
                let has_conditions = observation.watch.is_some();
                if meets_conditions(cx, observation, sample) {
                    let kept = (&self.kept, &mut self.notifications);
                    let notification = notification::of(cx, observation, message, shown, kept);
                    self.deliver(cx, id, notification);
                }
                if has_conditions {
                    self.arm(cx, id);
                }
            }
        }
    }

    /// Sends a retained message to one observer.
    pub(super) fn notify_one(
        &mut self,
        cx: &mut Cx<'_>,
        id: ObservationId,
        message: &Arc<Message>,
        shown: Representation,
    ) {
        let Some(observation) = self.registry.get_mut(id) else {
            invariant!(false, "an observation that has just begun is there");
            return;
        };
        let sample = || Sample::of(content::format_of(message), &message.payload);
        remember(cx, observation, (message, &shown), sample);
        let kept = (&self.kept, &mut self.notifications);
        let notification = notification::of(cx, observation, message, shown, kept);
        self.deliver(cx, id, notification);
    }

    /// Reads a notification that an earlier process left to a holder, and the observation that it is of.
    pub(super) fn read_notification(
        &self,
        holder: AccountHolder,
        record: Record,
        contents: &Contents,
    ) -> Result<(ObservationId, Notification), RestoreResult> {
        let (token, read) = kept_notifications::read_token(contents).ok_or(RestoreResult::Damaged)?;
        let of_token = |id: &&ObservationId| self.get(**id).is_some_and(|it| it.terms.token == token);
        let id = *self.of(holder).iter().find(of_token).ok_or(RestoreResult::Gone)?;
        let observation = self.get(id).ok_or(RestoreResult::Gone)?;
        let notification = self
            .notifications
            .read(&observation.terms, read, record, contents);
        Ok((id, notification.ok_or(RestoreResult::Damaged)?))
    }

    /// Goes on with what an earlier process had not delivered, in its order.
    pub(super) fn go_on_with(
        &mut self,
        cx: &mut Cx<'_>,
        mut waiting: Vec<(u64, ObservationId, Notification)>,
    ) {
        let age = |id: ObservationId, number: u32| {
            let last = self.get(id).map_or(0, |observation| observation.sequence);
            last.wrapping_sub(number) & 0x00FF_FFFF
        };
        waiting.sort_by_cached_key(|(_, id, notification)| (*id, Reverse(age(*id, notification.observe))));
        for (mark, id, notification) in waiting {
            self.notifications.note(mark, &notification);
            self.deliver(cx, id, notification);
        }
    }

    fn deliver(&mut self, cx: &mut Cx<'_>, id: ObservationId, notification: Notification) {
        match self.get(id).and_then(|observation| observation.at) {
            Some(peer) => cx.agenda.tell_peer(peer, ToPeer::Notify(id, notification)),
            None => self.keep(cx, id, notification),
        }
    }

    /// The client is away: the notification waits, as long as those of its standing do not have more than their share.
    fn keep(&mut self, cx: &mut Cx<'_>, id: ObservationId, mut notification: Notification) {
        let Some(holder) = self.get(id).map(|observation| observation.holder) else {
            return;
        };
        let account = cx.ledger.of(holder);
        let standing = account.map_or(Standing::Unproven, |account| cx.ledger.standing(account));
        let sleep = &cx.settings.sleep;
        if let Some(until) = sleep.queue_age.and_then(|age| cx.now.checked_add(age)) {
            notification.expires_at = Some(notification.expires_at.map_or(until, |at| at.min(until)));
        }
        let room = Room {
            messages: sleep.queue_messages,
            bytes: sleep.queue_bytes,
            newest: sleep.keep_newest,
        };
        let max_bytes = standing.share_of(cx.settings.caps.queued_bytes);
        let before = self.backlog.bytes();
        let of_client = self.registry.of(holder);
        let what = (id, notification);
        let gone = self.backlog.push(cx.now, what, of_client, room, max_bytes);
        self.weigh_backlog(cx, holder, before);
        let results = &cx.metrics.queue_notifications;
        results.inc(QueueResult::Queued);
        results.add(QueueResult::Dropped, gone.dropped as u64);
        results.add(QueueResult::Replaced, gone.replaced as u64);
        results.add(QueueResult::Expired, gone.expired as u64);
        cx.metrics
            .limits
            .add(Limit::QueuedNotifications, gone.dropped as u64);
    }

    /// Writes down what is kept more or less of a holder's than before.
    fn weigh_backlog(&self, cx: &mut Cx<'_>, holder: AccountHolder, before: usize) {
        if let Some(account) = cx.ledger.of(holder) {
            let change = self.backlog.bytes().cast_signed() - before.cast_signed();
            cx.ledger.add(account, Table::Queues, change);
        }
        cx.metrics
            .queued_notifications
            .set(self.backlog.messages() as u64);
    }

    /// An observer that was not heard of for most of `observe_check` gets its next notification confirmably (RFC 7641, 4.5).
    /// Where none comes in that time, it is sent once more what it was sent last. It ends with a confirmable one that nobody
    /// acknowledges; but an address that is unproven and has had all that it may get is sent none, so a second check ends it.
    pub(super) fn check(&mut self, cx: &mut Cx<'_>, id: ObservationId) {
        let Some(observation) = self.registry.get_mut(id) else {
            return;
        };
        let every = observation.check.unwrap_or(cx.settings.observe_check);
        if observation.terms.grant.until.is_some_and(|until| until <= cx.now) {
            return self.end(cx, id);
        }
        let unheard = observation.confirmed_at + every <= cx.now;
        if unheard && observation.is_given_up(cx.now, every.max(UDP_PEER_IDLE)) {
            return self.end(cx, id);
        }
        let newest = observation.newest(cx.now);
        let state = newest.as_ref().and(observation.state.as_deref());
        let sample = state.and_then(|state| state.sample);
        let look = match observation.watch.as_deref_mut() {
            Some(watch) if unheard => {
                watch.report(cx.now, sample);
                Look::Again
            }
            Some(watch) if watch.due().is_some_and(|due| due <= cx.now) => watch.look(cx.now, sample),
            _ => Look::Nothing,
        };
        if !unheard && look == Look::Nothing {
            return self.arm(cx, id);
        }
        if !unheard {
            cx.metrics.conditions.inc(ConditionResult::Timed);
        }
        let confirmable = unheard || confirmable(cx, observation, newest.as_deref());
        if unheard {
            // Counts as heard of until the check has run its course.
            observation.confirmed_at = cx.now;
        }
        let newest =
            newest.filter(|message| may_receive(&cx.settings.authorizer, cx.metrics, observation, message));
        // Who is away is told of what is new when it comes back, and not how often it was told.
        if observation.at.is_none() && look != Look::News {
            return self.arm(cx, id);
        }
        let is_current = |state: &&State| state.rules == cx.settings.translations;
        let shown = match (&newest, observation.state.as_deref().filter(is_current)) {
            (Some(_), Some(state)) => Some(state.shown.clone()),
            (Some(message), None) => {
                let shown = Representations::of(cx, message).for_accept(observation.terms.accept);
                if let (Some(shown), Some(_)) = (&shown, &observation.state) {
                    remember(cx, observation, (message, shown), || sample);
                }
                shown
            }
            (None, _) => None,
        };
        let check = match newest.zip(shown) {
            Some((message, shown)) => carrying(observation, &message, shown, confirmable),
            None => empty(observation, confirmable),
        };
        self.deliver(cx, id, check);
        self.arm(cx, id);
    }

    /// Has what gives way first show that it is still there: its observers are sent what they were sent last, confirmably.
    pub(super) fn ask_for_life(&mut self, cx: &mut Cx<'_>, holder: AccountHolder) {
        if let Some(id) = self.of(holder).first().copied()
            && let Some(observation) = self.registry.get_mut(id)
        {
            let every = observation.check.unwrap_or(cx.settings.observe_check);
            observation.confirmed_at = cx.now.checked_sub(every).unwrap_or(cx.now);
            self.check(cx, id);
        }
    }

    /// Arms the next look at an observation: its check, the end of its client's credential, or a time of its conditions.
    pub(super) fn arm(&self, cx: &mut Cx<'_>, id: ObservationId) {
        let Some(observation) = self.get(id) else { return };
        let check = observation.check.unwrap_or(cx.settings.observe_check);
        let check = observation.confirmed_at.checked_add(check);
        let conditions = observation.watch.as_ref().and_then(|watch| watch.due());
        let at = [check, observation.terms.grant.until, conditions];
        let at = at.into_iter().flatten().min();
        if let Some(at) = at {
            cx.timers.arm(at.max(cx.now), Timer::Observation(id));
        }
    }
}
