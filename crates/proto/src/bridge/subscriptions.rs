//! Who observes what: observations by client, by filter, and the distinct filters that the broker knows.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::collection::seats::Seat;
use super::conditions::{Conditions, Watch};
use super::content::Representation;
use super::contract::FilterId;
use super::sample::Sample;
use super::translate::Translations;
use crate::coap::contract::{ObservationId, PeerId, ResourceKey, Token};
use crate::invariant;
use crate::policy::connections::{ConnectionKey, Grant};
use crate::state::{HOT_WORDS, Record};
use crate::types::hash::IdMap;
use crate::types::message::Qos;
use crate::types::{ClientId, ListenerId, Message, TopicFilter, TopicName};

/// Whose an observation is, and with whom it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountHolder {
    /// A peer: its UDP address, or its DTLS session (connectionless mode).
    Peer(PeerId),
    /// A connection, wherever its client is now.
    Connection(ConnectionKey),
}

/// What an observation was asked to be.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The token of the request that began it.
    pub token: Token,
    /// The listener that it came to; none that there is for an observation that an operator began.
    pub listener: ListenerId,
    /// The resource of that request.
    pub resource: ResourceKey,
    /// The block size that that request asked for.
    pub block_szx: Option<u8>,
    /// The filter, mountpoint included.
    pub filter: TopicFilter,
    /// How many bytes of the filter are the mountpoint's.
    pub mounted: usize,
    /// The Content-Format that the request accepts, for the life of the observation.
    pub accept: Option<u16>,
    /// The QoS that the request named.
    pub qos: Option<Qos>,
    /// The QoS that the settings demand where the request named none.
    pub ceiling: Option<Qos>,
    /// The QoS to subscribe with.
    pub subscribe_qos: Qos,
    /// Whether the client's own messages stay away (`nl=1`).
    pub no_local: bool,
    /// When it is notified; `None` of every message.
    pub conditions: Option<Box<Conditions>>,
    /// The client id, named or proved.
    pub client: Option<ClientId>,
    /// The user name that authorisation goes by.
    pub username: Option<Arc<str>>,
    /// The name that the DTLS handshake proved.
    pub identity: Option<Arc<str>>,
    /// What the client's authentication granted.
    pub grant: Grant,
    /// Whose share it is counted in; `None` where nobody's credentials were checked.
    pub principal: Option<Arc<str>>,
}

impl Terms {
    /// What the observation weighs, in bytes: its record, its places in the indices, its filter here and at the broker.
    #[must_use]
    pub fn weight(&self) -> usize {
        const RECORD: usize = 768;
        /// Beside its text, whatever it looks like (docs/decisions/0018).
        const FILTER: usize = 200;
        let watch = self.conditions.as_ref().map_or(0, |_| 2 * size_of::<Watch>());
        watch + RECORD + FILTER + 3 * self.filter.as_str().len() + self.resource.0.len()
    }
}

/// One observation.
#[derive(Debug)]
pub struct Observation {
    /// Whose it is.
    pub holder: AccountHolder,
    /// What it was asked to be.
    pub terms: Terms,
    /// The worker's id of its filter.
    pub filter_id: FilterId,
    /// The last Observe number sent.
    pub sequence: u32,
    /// When the client last showed that it still wants it.
    pub confirmed_at: Instant,
    /// Since when its client has been asked whether it still wants it and has not said so.
    pub doubted_since: Option<Instant>,
    /// What it was last sent, to be sent once more when the client is checked; where it has conditions, the newest message, whether
    /// it was sent or not.
    pub last: Option<Arc<Message>>,
    /// What [`Self::last`] is to its observer, where that has conditions: it may be looked at and sent each second.
    pub state: Option<Box<State>>,
    /// What is known of the values of its topic, where it has conditions.
    pub watch: Option<Box<Watch>>,
    /// Its place among the observers of its topic, where that was created.
    pub seat: Option<Seat>,
    /// `observer-check` of its topic, in place of the setting.
    pub check: Option<Duration>,
    /// Whether the broker has said that the subscription stands; what comes before is not for it.
    pub is_live: bool,
    /// Whether its client sleeps: what that does not acknowledge waits for it, in place of ending the observation.
    pub sleeps: bool,
    /// Where its notifications go; `None` while its client is away or asleep, or has not been given back what waited elsewhere.
    pub at: Option<PeerId>,
    /// Where the next process finds it.
    pub kept: Option<Record>,
    /// Where it stands among those of its filter.
    place: usize,
}

/// What a message is to an observer with conditions.
#[derive(Debug)]
pub struct State {
    /// As the observer is shown it.
    pub shown: Representation,
    /// The rules of which that is.
    pub rules: Arc<Translations>,
    /// Its value; `None` where it has none.
    pub sample: Option<Sample>,
}

impl State {
    /// What it weighs beside the message that it is made of, in bytes.
    #[must_use]
    pub fn weight(&self, message: &Message) -> usize {
        match self.shown.payload.as_ptr() == message.payload.as_ptr() {
            true => 0,
            false => self.shown.payload.len(),
        }
    }
}

/// The word of its record with the last Observe number.
const SEQUENCE: usize = 0;

/// Has the words of a record that was copied a while ago name Observe numbers that come after all that were used since, and are still
/// taken for later ones (RFC 7641, 4.4).
pub(crate) fn skip_sequence(hot: &mut [u64; HOT_WORDS]) {
    if let Some(word) = hot.get_mut(SEQUENCE) {
        *word = (*word + 4096) & 0x00FF_FFFF;
    }
}

impl Observation {
    /// The next Observe number: 24 bits, ascending (RFC 7641, 4.4).
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1) & 0x00FF_FFFF;
        if let Some(kept) = &self.kept {
            kept.set(SEQUENCE, u64::from(self.sequence));
        }
        self.sequence
    }

    /// Is kept in `record` from now on.
    pub fn keep_in(&mut self, record: Record) {
        record.set(SEQUENCE, u64::from(self.sequence));
        self.kept = Some(record);
    }

    /// Goes on where an earlier process stopped.
    pub fn go_on(&mut self, record: Record) {
        self.sequence = record.get(SEQUENCE) as u32 & 0x00FF_FFFF;
        self.kept = Some(record);
    }

    /// What the observation weighs, in bytes: its terms, and what is kept of the last message beyond a small one's payload.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.terms.weight() + self.weight_of_last()
    }

    /// What is kept of the last message, in bytes, beyond a small one's payload.
    #[must_use]
    pub(crate) fn weight_of_last(&self) -> usize {
        self.last.as_deref().map_or(0, |last| {
            weight_of_last(last) + self.state.as_ref().map_or(0, |state| state.weight(last))
        })
    }

    /// The newest message of it that still counts at `now`.
    #[must_use]
    pub fn newest(&self, now: Instant) -> Option<Arc<Message>> {
        self.last.clone().filter(|message| !message.is_expired(now))
    }

    /// Max-Age of its notifications, in seconds: where the next one comes within `c.pmax`, a cache must not answer for longer.
    #[must_use]
    pub fn max_age(&self) -> Option<u32> {
        let period = self.terms.conditions.as_ref()?.max_period?;
        Some(u32::try_from(period.as_secs()).unwrap_or(u32::MAX))
    }

    /// Whether nobody has answered for so long since it was first asked, while there was somebody to ask.
    pub(crate) fn is_given_up(&mut self, now: Instant, after: Duration) -> bool {
        let since = *self.doubted_since.get_or_insert(now);
        if self.at.is_none() {
            self.doubted_since = None;
        }
        self.at.is_some() && now.saturating_duration_since(since) >= after
    }

    /// Whether the client asked not to get `message` because it published it itself.
    #[must_use]
    pub fn is_own(&self, message: &Message) -> bool {
        if !self.terms.no_local {
            return false;
        }
        message
            .origin
            .as_ref()
            .is_some_and(|origin| match (&origin.client, &self.terms.client) {
                (Some(publisher), Some(observer)) => publisher == observer,
                _ => self.holder == AccountHolder::Peer(PeerId(origin.peer)),
            })
    }
}

/// What the last message of an observation weighs beside the record, in bytes. It may be shared with other observations, but
/// nobody knows for how long.
fn weight_of_last(message: &Message) -> usize {
    /// Payloads up to this length are in the record's estimate.
    const SMALL: usize = 256;
    message.payload.len().saturating_sub(SMALL)
}

struct Filter {
    filter: TopicFilter,
    observations: Vec<ObservationId>,
}

/// What [`ObservationRegistry::insert`] did.
#[derive(Debug)]
pub struct Inserted {
    /// The new observation.
    pub id: ObservationId,
    /// Its filter's id.
    pub filter_id: FilterId,
    /// The observations whose place it took: the same filter, or the same token, of the same holder.
    pub replaced: Vec<Removed>,
    /// Whether this holder observed this filter before.
    pub known: bool,
}

/// What [`ObservationRegistry::remove`] took out.
#[derive(Debug)]
pub struct Removed {
    /// Its id.
    pub id: ObservationId,
    /// The observation as it was.
    pub observation: Observation,
    /// The filter that nobody observes any more, to be unsubscribed.
    pub unsubscribe: Option<FilterId>,
}

/// All observations of a worker.
pub struct ObservationRegistry {
    observations: IdMap<ObservationId, Observation>,
    by_holder: IdMap<AccountHolder, Vec<ObservationId>>,
    filters: IdMap<FilterId, Filter>,
    by_filter: HashMap<TopicFilter, FilterId>,
    next: u64,
}

impl ObservationRegistry {
    /// An empty registry; ids begin after `first_id`, which must set workers apart.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Self {
            observations: IdMap::default(),
            by_holder: IdMap::default(),
            filters: IdMap::default(),
            by_filter: HashMap::new(),
            next: first_id,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Adds an observation that is not active yet. It replaces those of the same holder with the same filter or the same
    /// token (RFC 7641, 4.1), and goes on counting where a replaced one stopped.
    pub fn insert(
        &mut self,
        now: Instant,
        holder: AccountHolder,
        at: Option<PeerId>,
        terms: Terms,
    ) -> Inserted {
        let filter_id = match self.by_filter.get(&terms.filter) {
            Some(id) => *id,
            None => self.add_filter(terms.filter.clone()),
        };
        let id = ObservationId(self.next_id());
        let old: Vec<ObservationId> = self
            .of(holder)
            .iter()
            .copied()
            .filter(|old| {
                self.observations.get(old).is_some_and(|observation| {
                    observation.terms.filter == terms.filter || observation.terms.token == terms.token
                })
            })
            .collect();
        let seen = old.iter().filter_map(|old| self.observations.get(old));
        let known = seen.clone().any(|old| old.terms.filter == terms.filter);
        let sequence = seen.map(|old| old.sequence).max().unwrap_or(0);
        // Added before the old ones go, so that a filter that stays is never unsubscribed in between.
        push(&mut self.by_holder, holder, id);
        let mut place = 0;
        if let Some(filter) = self.filters.get_mut(&filter_id) {
            place = filter.observations.len();
            filter.observations.push(id);
        }
        let conditions = terms.conditions.as_deref().cloned();
        let observation = Observation {
            holder,
            watch: conditions.map(|conditions| Box::new(Watch::new(now, conditions))),
            terms,
            filter_id,
            sequence,
            confirmed_at: now,
            doubted_since: None,
            last: None,
            state: None,
            seat: None,
            check: None,
            is_live: false,
            sleeps: false,
            at,
            kept: None,
            place,
        };
        self.observations.insert(id, observation);
        let replaced = old.into_iter().filter_map(|old| self.remove(old)).collect();
        Inserted {
            id,
            filter_id,
            replaced,
            known,
        }
    }

    fn add_filter(&mut self, filter: TopicFilter) -> FilterId {
        let id = FilterId(self.next_id());
        self.by_filter.insert(filter.clone(), id);
        self.filters.insert(
            id,
            Filter {
                filter,
                observations: Vec::new(),
            },
        );
        id
    }

    /// Takes an observation out.
    pub fn remove(&mut self, id: ObservationId) -> Option<Removed> {
        let observation = self.observations.remove(&id)?;
        self.leave(observation.holder, id);
        let Some(filter) = self.filters.get_mut(&observation.filter_id) else {
            invariant!(false, "a filter lasts as long as its observations");
            return None;
        };
        if filter.observations.get(observation.place) == Some(&id) {
            // A filter may have as many observations as there are; the last one takes the place.
            filter.observations.swap_remove(observation.place);
            let moved = filter.observations.get(observation.place);
            if let Some(moved) = moved.and_then(|moved| self.observations.get_mut(moved)) {
                moved.place = observation.place;
            }
        }
        let unsubscribe = filter.observations.is_empty().then_some(observation.filter_id);
        if unsubscribe.is_some()
            && let Some(filter) = self.filters.remove(&observation.filter_id)
        {
            self.by_filter.remove(&filter.filter);
        }
        Some(Removed {
            id,
            observation,
            unsubscribe,
        })
    }

    fn leave(&mut self, holder: AccountHolder, id: ObservationId) {
        if let Some(ids) = self.by_holder.get_mut(&holder) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_holder.remove(&holder);
            }
        }
    }

    /// The observation of `holder` on `filter`.
    #[must_use]
    pub fn find(&self, holder: AccountHolder, filter: &TopicFilter) -> Option<ObservationId> {
        self.of(holder).iter().copied().find(|id| {
            self.observations
                .get(id)
                .is_some_and(|observation| observation.terms.filter == *filter)
        })
    }

    /// The observations of a holder, oldest first.
    #[must_use]
    pub fn of(&self, holder: AccountHolder) -> &[ObservationId] {
        self.by_holder.get(&holder).map_or(&[], Vec::as_slice)
    }

    /// One observation.
    #[must_use]
    pub fn get(&self, id: ObservationId) -> Option<&Observation> {
        self.observations.get(&id)
    }

    /// One observation, to change.
    pub fn get_mut(&mut self, id: ObservationId) -> Option<&mut Observation> {
        self.observations.get_mut(&id)
    }

    /// The `index`th observation of a filter; one that ends gives its place to the last.
    pub(crate) fn nth_of_filter(
        &mut self,
        filter: FilterId,
        index: usize,
    ) -> Option<(ObservationId, &mut Observation)> {
        let id = *self.filters.get(&filter)?.observations.get(index)?;
        Some((id, self.observations.get_mut(&id)?))
    }

    /// The filter that is exactly this topic, if it is observed.
    #[must_use]
    pub(crate) fn filter_of(&self, topic: &TopicName) -> Option<FilterId> {
        self.by_filter.get(topic.as_str()).copied()
    }

    #[cfg(test)]
    fn filter_len(&self, filter: FilterId) -> usize {
        self.filters
            .get(&filter)
            .map_or(0, |filter| filter.observations.len())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.observations.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.observations.is_empty()
    }
}

fn push<K: Eq + Hash>(map: &mut IdMap<K, Vec<ObservationId>>, key: K, id: ObservationId) {
    map.entry(key).or_default().push(id);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_for_tests as clock;

    fn terms(filter: &str, token: u8) -> Terms {
        Terms {
            listener: ListenerId(0),
            token: Token::new(&[token]).unwrap(),
            resource: ResourceKey(Arc::from(&b""[..])),
            block_szx: None,
            filter: TopicFilter::new(filter).unwrap(),
            mounted: 0,
            accept: None,
            qos: None,
            ceiling: None,
            subscribe_qos: Qos::AtMostOnce,
            no_local: false,
            conditions: None,
            client: None,
            username: None,
            identity: None,
            grant: Grant::default(),
            principal: None,
        }
    }

    #[test]
    fn a_new_token_replaces_the_observation_and_the_filter_stays() {
        let mut registry = ObservationRegistry::new(0);
        let holder = AccountHolder::Peer(PeerId(1));
        let first = registry.insert(clock(), holder, None, terms("a", 1));
        registry.get_mut(first.id).unwrap().sequence = 9;
        let second = registry.insert(clock(), holder, None, terms("a", 2));
        assert!(second.known);
        assert_eq!(second.filter_id, first.filter_id);
        assert_eq!(second.replaced.len(), 1);
        assert_eq!(second.replaced[0].unsubscribe, None);
        assert_eq!(registry.get_mut(second.id).unwrap().next_sequence(), 10);
        assert_eq!(
            registry.remove(second.id).unwrap().unsubscribe,
            Some(first.filter_id)
        );
        assert!(registry.is_empty());
    }

    #[test]
    fn a_token_used_for_another_filter_ends_the_older_observation() {
        let mut registry = ObservationRegistry::new(0);
        let holder = AccountHolder::Peer(PeerId(1));
        let first = registry.insert(clock(), holder, None, terms("a", 1));
        let second = registry.insert(clock(), holder, None, terms("b", 1));
        assert!(!second.known);
        assert_eq!(second.replaced[0].unsubscribe, Some(first.filter_id));
        assert_eq!(registry.of(holder), [second.id]);
    }

    #[test]
    fn observers_of_one_filter_share_its_id() {
        let mut registry = ObservationRegistry::new(0);
        let a = registry.insert(clock(), AccountHolder::Peer(PeerId(1)), None, terms("a/#", 1));
        let b = registry.insert(
            clock(),
            AccountHolder::Connection(ConnectionKey(1)),
            None,
            terms("a/#", 1),
        );
        assert_eq!(a.filter_id, b.filter_id);
        assert_eq!(registry.filter_len(a.filter_id), 2);
        assert_eq!(registry.remove(a.id).unwrap().unsubscribe, None);
        assert_eq!(registry.remove(b.id).unwrap().unsubscribe, Some(a.filter_id));
    }

    #[test]
    fn observations_that_end_in_any_order_leave_the_others_in_their_places() {
        let mut registry = ObservationRegistry::new(0);
        let mut there = Vec::new();
        for step in 0..2000_u64 {
            if step % 3 < 2 {
                let holder = AccountHolder::Peer(PeerId(step));
                there.push(registry.insert(clock(), holder, None, terms("a", 1)));
            } else {
                let gone = there.swap_remove((step * 7919) as usize % there.len());
                assert!(registry.remove(gone.id).is_some());
            }
            let Some(filter) = there.first().map(|inserted| inserted.filter_id) else {
                continue;
            };
            assert_eq!(registry.filter_len(filter), there.len());
        }
        let filter = there[0].filter_id;
        let mut listed: Vec<_> = (0..there.len())
            .map(|index| registry.nth_of_filter(filter, index).unwrap().0)
            .collect();
        let mut wanted: Vec<_> = there.iter().map(|inserted| inserted.id).collect();
        listed.sort();
        wanted.sort();
        assert_eq!(listed, wanted);
    }

    #[test]
    fn ending_one_of_many_observations_of_a_filter_moves_the_last_and_no_other() {
        let mut registry = ObservationRegistry::new(0);
        let ids: Vec<_> = (0..500)
            .map(|peer| {
                let holder = AccountHolder::Peer(PeerId(peer));
                registry.insert(clock(), holder, None, terms("a", 1)).id
            })
            .collect();
        let filter = registry.get(ids[0]).unwrap().filter_id;
        let mut wanted = ids;
        while !wanted.is_empty() {
            let at = wanted.len() / 3;
            registry.remove(wanted.swap_remove(at));
            let listed = (0..wanted.len()).map(|index| registry.nth_of_filter(filter, index).unwrap().0);
            assert!(listed.eq(wanted.iter().copied()));
        }
        assert!(registry.is_empty());
    }
}
