//! The topic collection as this worker knows it. The broker keeps it: each topic is a retained message below
//! `$portcullis/{node}/topics/`, which every worker subscribes to, so that a change that the broker took reaches all of them.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::agenda::Cx;
use super::answers::{bad_request, not_found, other_format, unavailable};
use super::context::{ReplyTo, RequestContext};
use super::metrics::CollectionResult;
use super::observations::Observations;
use super::pending_requests::{Awaited, PendingRequests};
use super::settings::TopicsMode;
use super::timers::Timer;
use crate::bridge::collection::topic::Topic;
use crate::bridge::collection::{Collection, MAX_TOPICS};
use crate::bridge::contract::{BrokerError, BrokerRequest, FilterId};
use crate::coap::contract::Response;
use crate::types::message::Qos;
use crate::types::standing::Standing;
use crate::types::{Message, TopicFilter, TopicName, WorkerId};

/// How soon the broker is asked again for what it keeps of the collection.
const RETRY: Duration = Duration::from_secs(5);

/// How often a date is compared with the clock, which may be set, at least and at most.
const LOOK_LEAST: Duration = Duration::from_secs(1);
const LOOK_MOST: Duration = Duration::from_secs(3_600);

/// The collection's filters are numbered from here on: the upper byte names the worker, and those of observers begin at 1.
const FIRST_FILTER: u64 = 1 << 55;

/// What follows for a created topic once the broker took a publish to it.
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// It has data.
    Filled(Box<str>),
    /// It has no data any more.
    Emptied(Box<str>),
    /// It goes into the collection.
    Created(Box<Topic>),
}

/// A change to the collection: what the broker has to take first, in this order, and what comes of it.
pub(super) struct Change {
    /// Who asked for it; nobody where a topic's time is over.
    pub(super) reply: Option<ReplyTo>,
    /// The id of the topic.
    pub(super) id: Box<str>,
    pub(super) messages: VecDeque<Message>,
    /// The topic from then on; `None` where it is deleted.
    pub(super) topic: Option<Topic>,
    /// What to count.
    pub(super) result: CollectionResult,
    /// What to answer.
    pub(super) response: Response,
}

/// The collection, and what is under way.
pub(super) struct Topics {
    collection: Collection,
    filter: FilterId,
    /// Whether what the broker keeps has come.
    is_loaded: bool,
    /// Whether the broker has been asked for it.
    is_asked: bool,
    /// Topics that a change is under way for.
    changing: HashSet<Box<str>>,
}

impl Topics {
    pub(super) fn new(worker: WorkerId) -> Self {
        Self {
            collection: Collection::default(),
            filter: FilterId(worker.first_id() + FIRST_FILTER),
            is_loaded: false,
            is_asked: false,
            changing: HashSet::new(),
        }
    }

    pub(super) const fn collection(&self) -> &Collection {
        &self.collection
    }

    /// Whether a filter is the collection's own.
    pub(super) fn is_own(&self, filter: FilterId) -> bool {
        filter == self.filter
    }

    /// Whether the collection is known.
    ///
    /// # Errors
    /// 5.03 while it is not.
    pub(super) fn loaded(&self) -> Result<(), Response> {
        if self.is_loaded {
            Ok(())
        } else {
            Err(unavailable())
        }
    }

    /// The topic of the collection that is published to, read or observed.
    ///
    /// # Errors
    /// 4.04 where only those in the collection are there, and this is none; 5.03 while that is not known.
    pub(super) fn used(&self, cx: &Cx<'_>, topic: &str) -> Result<Option<&Topic>, Response> {
        let found = self.collection.of_topic(topic);
        if found.is_none() && cx.settings.topics == TopicsMode::Created {
            self.loaded()?;
            return Err(not_found("no such topic was created"));
        }
        Ok(found)
    }

    /// The topic of the collection that is published to.
    ///
    /// # Errors
    /// As [`Self::used`]; 4.15 for another Content-Format than its own, 4.00 for no data at all.
    pub(super) fn published_to(
        &self,
        cx: &Cx<'_>,
        topic: &str,
        (format, context): (Option<u16>, &RequestContext),
    ) -> Result<Option<&Topic>, Response> {
        let found = self.used(cx, topic)?;
        if let Some(topic) = found {
            let wanted = topic.properties().content_format;
            if wanted.is_some() && wanted != format {
                return Err(other_format("the topic has another topic-content-format"));
            }
            if context.payload.is_empty() {
                return Err(bad_request(
                    "an empty payload deletes what is there: that is DELETE",
                ));
            }
        }
        Ok(found)
    }

    /// Whether one more topic may be created by a peer of this standing.
    pub(super) fn has_room(&self, standing: Standing) -> bool {
        self.collection.len() + self.changing.len() < standing.share_of(MAX_TOPICS)
    }

    /// Whether a topic of this id, or with its data at this topic, is there or about to be.
    pub(super) fn is_taken(&self, topic: &Topic) -> bool {
        self.collection.get(topic.id()).is_some()
            || self.changing.contains(topic.id())
            || self.collection.of_topic(topic.topic().as_str()).is_some()
    }

    /// Asks the broker for the collection where it has to be asked, and deletes topics whose time is over.
    pub(super) fn tick(&mut self, cx: &mut Cx<'_>, pending: &mut PendingRequests) {
        if !self.is_asked {
            self.subscribe(cx, pending);
        }
        let wall = cx.shared.wall();
        let over = |topic: &&Topic| topic.properties().expiration.is_some_and(|date| date <= wall);
        let expired = self.collection.iter().filter(over);
        let mine = expired.filter(|topic| home(topic.id(), cx.settings.workers) == cx.worker);
        let mine: Vec<Topic> = mine.cloned().collect();
        for topic in mine {
            let change = deletion(cx, &topic, None, CollectionResult::Expired);
            // Where there is no room, the next look tries again.
            let _refused = self.change(cx, pending, change);
        }
        self.arm(cx);
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>, pending: &mut PendingRequests) {
        let Ok(filter) = TopicFilter::new(&path(cx, "+")) else {
            // Where the node's name makes no topic there is no collection.
            return;
        };
        let Ok(ticket) = pending.wait(cx, Awaited::Collection) else {
            return;
        };
        self.is_asked = true;
        cx.agenda.broker(BrokerRequest::Subscribe {
            ticket,
            filter_id: self.filter,
            filter,
            qos: Qos::AtLeastOnce,
            retained: true,
        });
    }

    /// What the broker keeps of the collection, or why it does not say.
    pub(super) fn subscribed(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        result: Result<Vec<Arc<Message>>, BrokerError>,
    ) {
        let Ok(messages) = result else {
            return self.lost(cx);
        };
        let kept: Vec<Topic> = messages.iter().filter_map(|message| read(cx, message)).collect();
        let gone = |topic: &&Topic| !kept.iter().any(|kept| kept.id() == topic.id());
        let gone: Vec<Box<str>> = self
            .collection
            .iter()
            .filter(gone)
            .map(|topic| topic.id().into())
            .collect();
        for id in gone {
            self.remove(cx, observations, &id);
        }
        for topic in kept {
            self.put(cx, observations, topic);
        }
        self.is_loaded = true;
    }

    /// The broker does not serve the subscription (any more): it is asked again.
    pub(super) fn lost(&mut self, cx: &mut Cx<'_>) {
        cx.agenda.broker(BrokerRequest::Unsubscribe {
            filter_id: self.filter,
        });
        self.filter.0 += 1;
        self.is_asked = false;
        cx.timers.arm(cx.now + RETRY, Timer::Topics);
    }

    /// The broker tells of a topic that was created, changed or deleted.
    pub(super) fn told(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, message: &Message) {
        if !message.payload.is_empty() {
            if let Some(topic) = read(cx, message) {
                self.put(cx, observations, topic);
            }
        } else if let Some(id) = message.topic.as_str().rsplit('/').next() {
            self.remove(cx, observations, id);
        }
    }

    fn put(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, topic: Topic) {
        observations.heed(cx, &topic);
        self.collection.insert(topic);
        self.show(cx);
        self.arm(cx);
    }

    fn remove(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, id: &str) {
        if let Some(topic) = self.collection.remove(id) {
            cx.shared.seats.forget(topic.topic());
            observations.refuse_topic(cx, topic.topic());
            self.show(cx);
        }
    }

    /// The first worker tells how many there are: all know the same.
    fn show(&self, cx: &Cx<'_>) {
        if cx.worker.first_id() == 0 {
            cx.metrics.topics.set(self.collection.len() as u64);
        }
    }

    /// Arms the next look at the dates, or at the broker.
    fn arm(&self, cx: &mut Cx<'_>) {
        let wall = cx.shared.wall();
        let dates = self
            .collection
            .iter()
            .filter_map(|topic| topic.properties().expiration);
        let left = dates
            .min()
            .map(|date| Duration::from_secs(date.saturating_sub(wall)));
        let next = match (self.is_asked, left) {
            (false, _) => RETRY,
            (true, Some(left)) => left.clamp(LOOK_LEAST, LOOK_MOST),
            (true, None) => return cx.timers.disarm(Timer::Topics),
        };
        cx.timers.arm(cx.now + next, Timer::Topics);
    }

    /// Begins a change: the broker has to take it first.
    ///
    /// # Errors
    /// 5.03 while another one of the same topic is under way, or where too much waits.
    pub(super) fn change(
        &mut self,
        cx: &mut Cx<'_>,
        pending: &mut PendingRequests,
        change: Change,
    ) -> Result<(), Response> {
        if self.changing.contains(&change.id) {
            return Err(unavailable());
        }
        pending.room(cx)?;
        self.changing.insert(change.id.clone());
        next_step(cx, pending, change)
    }

    /// The broker's word on a step of a change.
    pub(super) fn stepped(
        &mut self,
        cx: &mut Cx<'_>,
        (pending, observations): (&mut PendingRequests, &mut Observations),
        mut change: Change,
        refused: Option<Response>,
    ) {
        if refused.is_none() && !change.messages.is_empty() {
            let (id, reply) = (change.id.clone(), change.reply);
            if let Err(response) = next_step(cx, pending, change) {
                self.changing.remove(&id);
                answer(cx, reply, response);
            }
            return;
        }
        self.changing.remove(&change.id);
        let result = match refused {
            Some(_) => CollectionResult::Refused,
            None => change.result,
        };
        cx.metrics.collection.inc(result);
        if refused.is_none() {
            match change.topic.take() {
                Some(topic) => self.put(cx, observations, topic),
                None => self.remove(cx, observations, &change.id),
            }
        }
        answer(cx, change.reply, refused.unwrap_or(change.response));
    }

    /// The broker took a publish to a topic. Whether it is the first data of it.
    pub(super) fn follow_up(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, then: Then) -> bool {
        let (id, is_full) = match then {
            Then::Nothing => return false,
            Then::Created(topic) => {
                // Another publish may have created it meanwhile.
                if self.is_taken(&topic) {
                    return false;
                }
                keep(cx, &topic);
                cx.metrics.collection.inc(CollectionResult::Created);
                self.put(cx, observations, *topic);
                return true;
            }
            Then::Filled(id) => (id, true),
            Then::Emptied(id) => (id, false),
        };
        let Some(topic) = self.collection.set_full(&id, is_full) else {
            return false;
        };
        keep(cx, topic);
        is_full
    }
}

fn answer(cx: &mut Cx<'_>, reply: Option<ReplyTo>, response: Response) {
    if let Some(reply) = reply {
        cx.agenda.answer(reply, response);
    }
}

fn next_step(cx: &mut Cx<'_>, pending: &mut PendingRequests, mut change: Change) -> Result<(), Response> {
    let Some(message) = change.messages.pop_front() else {
        return Ok(());
    };
    let ticket = pending.wait(cx, Awaited::Change(Box::new(change)))?;
    cx.agenda.broker(BrokerRequest::Publish {
        ticket,
        message: Arc::new(message),
    });
    Ok(())
}

/// Reads what the broker keeps of a topic.
fn read(cx: &Cx<'_>, message: &Message) -> Option<Topic> {
    let id = message.topic.as_str().rsplit('/').next();
    let read = Topic::from_record(&message.payload).ok();
    let read = read.filter(|topic| Some(topic.id()) == id);
    if read.is_none() {
        cx.metrics.collection.inc(CollectionResult::Damaged);
    }
    read
}

/// Has the broker keep a topic; nobody waits for its answer.
fn keep(cx: &mut Cx<'_>, topic: &Topic) {
    if let Some(message) = record(cx, topic.id(), Bytes::from(topic.record())) {
        let ticket = cx.agenda.ticket();
        cx.agenda.broker(BrokerRequest::Publish {
            ticket,
            message: Arc::new(message),
        });
    }
}

/// The message that keeps a topic, or with an empty payload ends that.
pub(super) fn record(cx: &Cx<'_>, id: &str, payload: Bytes) -> Option<Message> {
    Some(retained(TopicName::new(&path(cx, id)).ok()?, payload))
}

/// Where the broker keeps a topic of the collection.
fn path(cx: &Cx<'_>, id: &str) -> String {
    let prefix = cx.settings.authorizer.events_prefix();
    format!("{prefix}/{}/topics/{id}", cx.settings.node)
}

/// A retained message of the gateway's own.
pub(super) fn retained(topic: TopicName, payload: Bytes) -> Message {
    Message {
        retain: true,
        ..Message::new(topic, payload, Qos::AtLeastOnce)
    }
}

/// The change that deletes a topic with its data.
pub(super) fn deletion(
    cx: &Cx<'_>,
    topic: &Topic,
    reply: Option<ReplyTo>,
    result: CollectionResult,
) -> Change {
    let data = retained(topic.topic().clone(), Bytes::new());
    Change {
        reply,
        id: topic.id().into(),
        messages: std::iter::once(data)
            .chain(record(cx, topic.id(), Bytes::new()))
            .collect(),
        topic: None,
        result,
        response: Response::new(crate::coap::contract::Code::DELETED),
    }
}

/// The worker that deletes a topic whose time is over; the same in every worker.
fn home(id: &str, workers: u8) -> WorkerId {
    let sum = id.bytes().fold(0_u8, u8::wrapping_add);
    WorkerId(sum % workers.max(1))
}
