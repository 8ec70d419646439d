//! Requests to devices that operators ask for: under way, or waiting for a device that is asleep or away until it is heard of.
//!
//! Those that may wait go one after the other for each client. One that the device acknowledged is not sent again; one that it did not
//! acknowledge is, so that a device whose acknowledgement was lost gets it twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::contract::{ControlAnswer, Output};
use super::directory::ClientDirectory;
use super::metrics::DeviceRequestResult;
use super::timers::Timer;
use super::workers::{PassedRequest, ToPeer, WorkerMessage};
use super::{Gateway, cx};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{OutgoingRequest, PeerId, RequestError, RequestId, Response};
use crate::policy::connections::Owner;
use crate::policy::ledger::Table;
use crate::types::hash::IdMap;
use crate::types::reason::Limit;
use crate::types::{ClientId, WorkerId};

/// Requests to devices of a worker, those that wait included.
const MAX: usize = 4096;

/// What a request that may wait weighs beside its payload, path and query, in bytes.
const OVERHEAD: usize = 384;

/// A request to a device.
struct Asked {
    by: Asker,
    /// How it waits, where it does so here.
    waits: Option<Waits>,
    /// Whether it waits at another worker, which has its client now.
    is_passed: bool,
}

/// Who asked for a request.
#[derive(Clone, Copy)]
enum Asker {
    /// An operator.
    Operator(u64),
    /// Another worker, which calls it so.
    Worker(RequestId),
}

/// Who had the client id when a request was asked for. Nobody else gets it, whoever takes the name after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addressee {
    owner: Owner,
    username: Option<Arc<str>>,
}

struct Waits {
    client: ClientId,
    of: Addressee,
    request: OutgoingRequest,
    until: Instant,
    /// In whose account it is, and what it weighs.
    charged: (AccountHolder, usize),
}

/// The requests to one client that may wait, oldest first.
#[derive(Default)]
struct Queue {
    requests: VecDeque<RequestId>,
    bytes: usize,
    /// Whether the first of them is on its way.
    is_sent: bool,
    /// To where it was sent last.
    sent_to: Option<PeerId>,
    /// Whether nothing goes before the client was heard of.
    is_stuck: bool,
    /// Whether another worker has the client.
    is_elsewhere: bool,
}

/// The requests of a worker to devices.
#[derive(Default)]
pub(super) struct DeviceRequests {
    asked: IdMap<RequestId, Asked>,
    queues: HashMap<ClientId, Queue>,
}

impl DeviceRequests {
    fn waits(&self, id: RequestId) -> Option<&Waits> {
        self.asked.get(&id)?.waits.as_ref()
    }

    /// Those that wait and are not on their way.
    fn waiting(&self) -> impl Iterator<Item = (RequestId, Instant)> + '_ {
        let not_sent = |queue: &'_ Queue| usize::from(queue.is_sent);
        let all = self
            .queues
            .values()
            .flat_map(move |queue| queue.requests.iter().skip(not_sent(queue)));
        all.filter_map(|id| Some((*id, self.waits(*id)?.until)))
    }
}

impl Gateway {
    /// Where a client is and what holds its observations. One whose connection another worker has is that worker's to show.
    pub(super) fn holder_of(&self, client: &ClientId) -> Option<(AccountHolder, Option<PeerId>)> {
        if let Some(connection) = self.connections.of_client(client) {
            return Some((AccountHolder::Connection(connection.key), connection.peer));
        }
        let id = self.peers.of_client(client)?;
        let elsewhere = self.peers.get(id)?.guests.of_client(client);
        elsewhere.is_none().then_some((AccountHolder::Peer(id), Some(id)))
    }

    /// Sends a request to a device, or has it wait for that; the answer comes later, or at once when neither can be.
    pub(super) fn request_to_device(
        &mut self,
        now: Instant,
        ticket: u64,
        client: ClientId,
        (request, wait): (OutgoingRequest, Duration),
    ) -> Option<ControlAnswer> {
        let Some((holder, peer)) = self.holder_of(&client) else {
            return Some(ControlAnswer::NotFound);
        };
        if self.device_requests.asked.len() >= MAX {
            self.metrics.limits.inc(Limit::QueuedRequests);
            return Some(ControlAnswer::Unavailable);
        }
        let id = RequestId(self.agenda.ticket().0);
        if wait.is_zero() {
            let Some(peer) = peer else {
                return Some(ControlAnswer::Unavailable);
            };
            let asked = Asked {
                by: Asker::Operator(ticket),
                waits: None,
                is_passed: false,
            };
            self.device_requests.asked.insert(id, asked);
            self.agenda.tell_peer(peer, ToPeer::Request(id, request));
            return None;
        }
        let until = now.checked_add(wait).unwrap_or(now);
        let Some(of) = self.addressee(holder) else {
            return Some(ControlAnswer::NotFound);
        };
        let queued = self.enqueue(
            now,
            id,
            (holder, client.clone(), of),
            Asker::Operator(ticket),
            (request, until),
        );
        if !queued {
            return Some(ControlAnswer::Unavailable);
        }
        self.send_next(now, &client);
        None
    }

    /// Puts a request into the queue of its client; false where there is no room.
    fn enqueue(
        &mut self,
        now: Instant,
        id: RequestId,
        (holder, client, of): (AccountHolder, ClientId, Addressee),
        by: Asker,
        (request, until): (OutgoingRequest, Instant),
    ) -> bool {
        let texts = request.path.iter().chain(&request.query);
        let weight = OVERHEAD + request.payload.len() + texts.map(String::len).sum::<usize>();
        let cx = cx!(self, now);
        let sleep = &cx.settings.sleep;
        let known = self.device_requests.queues.get(&client);
        let (count, bytes) = known.map_or((0, 0), |queue| (queue.requests.len(), queue.bytes));
        let account = cx.ledger.of(holder);
        let fits = count < sleep.queue_messages && bytes + weight <= sleep.queue_bytes;
        let Some(account) = account.filter(|account| fits && cx.may_grow(*account, weight)) else {
            cx.metrics.limits.inc(Limit::QueuedRequests);
            cx.metrics.queue_requests.inc(DeviceRequestResult::Refused);
            return false;
        };
        cx.ledger
            .add(account, Table::DeviceRequests, weight.cast_signed());
        let waits = Waits {
            client: client.clone(),
            of,
            request,
            until,
            charged: (holder, weight),
        };
        let asked = Asked {
            by,
            waits: Some(waits),
            is_passed: false,
        };
        self.device_requests.asked.insert(id, asked);
        let queue = self.device_requests.queues.entry(client).or_default();
        queue.requests.push_back(id);
        queue.bytes += weight;
        true
    }

    /// The client of a connection that was replaced is at another worker: what waits for it goes there.
    pub(super) fn pass_requests_on(&mut self, now: Instant, client: &ClientId) {
        let Some(queue) = self.device_requests.queues.get_mut(client) else {
            return;
        };
        queue.is_elsewhere = true;
        let sent = usize::from(queue.is_sent);
        let waiting: Vec<RequestId> = queue.requests.iter().skip(sent).copied().collect();
        let home = ClientDirectory::home(client, self.settings.workers);
        for id in waiting {
            let asked = self.device_requests.asked.get_mut(&id);
            let Some((asked, waits)) = asked.and_then(|asked| {
                let waits = asked.waits.take()?;
                Some((asked, waits))
            }) else {
                continue;
            };
            asked.is_passed = true;
            let passed = PassedRequest {
                id,
                client: waits.client.clone(),
                of: waits.of.clone(),
                request: waits.request.clone(),
                until: waits.until,
            };
            self.agenda.tell(home, WorkerMessage::PassOn(Box::new(passed)));
            self.forget_waiting(id, &waits);
        }
        self.arm_device_requests(now);
    }

    /// A request of another worker, whose client is here now.
    pub(super) fn take_over_request(&mut self, now: Instant, passed: PassedRequest) {
        let PassedRequest {
            id: of_other,
            client,
            of,
            request,
            until,
        } = passed;
        let id = RequestId(self.agenda.ticket().0);
        let holder = self.holder_of(&client).map(|(holder, _)| holder);
        let holder = holder.filter(|holder| self.addressee(*holder).as_ref() == Some(&of));
        let queued = holder.is_some_and(|holder| {
            let place = (holder, client.clone(), of);
            self.enqueue(now, id, place, Asker::Worker(of_other), (request, until))
        });
        if queued {
            self.send_next(now, &client);
        } else {
            let answer = WorkerMessage::Answered(of_other, Err(RequestError::Gone));
            self.agenda.tell(WorkerId::of(of_other.0), answer);
        }
    }

    /// Who has a client id here.
    fn addressee(&self, holder: AccountHolder) -> Option<Addressee> {
        match holder {
            AccountHolder::Connection(key) => self.connections.get(key).map(|connection| Addressee {
                owner: connection.owner.clone(),
                username: connection.username.clone(),
            }),
            AccountHolder::Peer(id) => self.peers.get(id).map(|peer| Addressee {
                owner: peer.facts(id, &self.ledger).owner,
                username: None,
            }),
        }
    }

    /// Ends what waits for another one than who has the client id now.
    fn end_for_others(&mut self, client: &ClientId, holder: AccountHolder) {
        let here = self.addressee(holder);
        let Some(queue) = self.device_requests.queues.get(client) else {
            return;
        };
        let sent = usize::from(queue.is_sent);
        let waiting = queue.requests.iter().skip(sent).copied();
        let is_for_other = |id: &RequestId| {
            let waits = self.device_requests.waits(*id);
            waits.is_some_and(|waits| here.as_ref() != Some(&waits.of))
        };
        for id in waiting.filter(is_for_other).collect::<Vec<_>>() {
            let answer = ControlAnswer::Answered(Err(RequestError::Gone));
            self.end_device_request(id, DeviceRequestResult::Failed, answer);
        }
    }

    /// Sends the next request to a client, where nothing is on its way to it and it can be reached.
    fn send_next(&mut self, now: Instant, client: &ClientId) {
        let holder = self.holder_of(client);
        if let Some((holder, _)) = holder {
            self.end_for_others(client, holder);
        }
        let requests = &mut self.device_requests;
        if let Some(queue) = requests.queues.get_mut(client)
            && !queue.is_sent
            && !queue.is_stuck
            && let Some(id) = queue.requests.front().copied()
        {
            let held = |holder| match holder {
                AccountHolder::Connection(key) => self.connections.get(key).is_some_and(|it| it.is_held),
                AccountHolder::Peer(_) => false,
            };
            let place = holder.filter(|(holder, _)| !held(*holder));
            let place = place.and_then(|(_, peer)| peer);
            let waits = requests.asked.get(&id).and_then(|asked| asked.waits.as_ref());
            if let (Some(peer), Some(waits)) = (place, waits) {
                (queue.is_sent, queue.sent_to) = (true, Some(peer));
                self.agenda
                    .tell_peer(peer, ToPeer::Request(id, waits.request.clone()));
                if let Some((holder, _)) = holder {
                    self.listen_for(holder);
                }
            } else {
                self.stick(client, holder.map(|(holder, _)| holder));
            }
        }
        self.arm_device_requests(now);
    }

    /// Nothing goes to a client before it was heard of.
    fn stick(&mut self, client: &ClientId, holder: Option<AccountHolder>) {
        if let Some(queue) = self.device_requests.queues.get_mut(client) {
            queue.is_sent = false;
            queue.is_stuck = true;
            self.metrics.queue_requests.inc(DeviceRequestResult::Queued);
        }
        if let Some(holder) = holder {
            self.listen_for(holder);
        }
    }

    /// Has the next sign of life of a client told; those of one without a connection always are.
    fn listen_for(&mut self, holder: AccountHolder) {
        if let AccountHolder::Connection(key) = holder {
            self.connections.listen_for(key);
        }
    }

    fn arm_device_requests(&mut self, now: Instant) {
        let waiting = self.device_requests.waiting();
        let (count, next) = waiting.fold((0, None), |(count, next): (u64, Option<Instant>), (_, until)| {
            (count + 1, Some(next.map_or(until, |next| next.min(until))))
        });
        self.metrics.queued_requests.set(count);
        match next {
            Some(next) => self.timers.arm(next.max(now), Timer::DeviceRequests),
            None => self.timers.disarm(Timer::DeviceRequests),
        }
    }

    /// Ends those that waited for as long as they could.
    pub(super) fn expire_device_requests(&mut self, now: Instant) {
        let over: Vec<RequestId> = self
            .device_requests
            .waiting()
            .filter(|(_, until)| *until <= now)
            .map(|(id, _)| id)
            .collect();
        for id in over {
            self.end_device_request(id, DeviceRequestResult::Expired, ControlAnswer::Expired);
        }
        self.arm_device_requests(now);
    }

    /// A client was heard of: what waits for it goes on, and what is on its way and was not acknowledged is repeated at once, for it may
    /// sleep again when the next repetition is due.
    pub(super) fn heard(&mut self, now: Instant, client: &ClientId) {
        if let Some(queue) = self.device_requests.queues.get_mut(client) {
            (queue.is_stuck, queue.is_elsewhere) = (false, false);
            if queue.is_sent
                && let Some((holder, Some(peer))) = self.holder_of(client)
            {
                self.agenda.tell_peer(peer, ToPeer::Nudge);
                self.listen_for(holder);
            }
            self.send_next(now, client);
        }
    }

    /// A peer was heard of. Where it is a client without a connection, what waits for that goes on.
    pub(super) fn heard_peer(&mut self, now: Instant, id: PeerId) {
        if self.device_requests.queues.is_empty() {
            return;
        }
        let client = self.peers.get(id).and_then(|peer| peer.known_as());
        if let Some(client) = client
            && self
                .holder_of(&client)
                .is_some_and(|(holder, _)| holder == AccountHolder::Peer(id))
        {
            self.heard(now, &client);
        }
    }

    /// A device answered a request of ours, or did not.
    pub(super) fn device_answered(
        &mut self,
        now: Instant,
        id: RequestId,
        result: Result<Response, RequestError>,
    ) {
        let Some(asked) = self.device_requests.asked.get(&id) else {
            return;
        };
        let (client, until) = match &asked.waits {
            Some(waits) => (waits.client.clone(), waits.until),
            None => {
                let (is_expired, ended) = (asked.is_passed, DeviceRequestResult::Answered);
                let answer = match result {
                    Err(RequestError::Unreached) if is_expired => ControlAnswer::Expired,
                    result => ControlAnswer::Answered(result),
                };
                return self.end_device_request(id, ended, answer);
            }
        };
        let unreached = matches!(
            result,
            Err(RequestError::Unreached | RequestError::Gone | RequestError::Busy)
        );
        if unreached {
            let place = self.holder_of(&client);
            let queue = self.device_requests.queues.get_mut(&client);
            // Where it was asked nobody answered, and it is somewhere else by now.
            if let Some(queue) = queue.filter(|queue| now < until && !queue.is_elsewhere)
                && let Some((_, Some(peer))) = place
                && queue.sent_to != Some(peer)
            {
                (queue.is_sent, queue.is_stuck) = (false, false);
                return self.send_next(now, &client);
            }
            let holder = place.map(|(holder, _)| holder);
            if let (Err(RequestError::Unreached), Some(AccountHolder::Connection(key))) = (&result, holder) {
                let (connections, observations) = (&mut self.connections, &mut self.observations);
                connections.unreached(&mut cx!(self, now), observations, key);
            }
            self.stick(&client, holder);
        }
        let (end, answer) = match (unreached, result) {
            (true, _) if now < until => return self.stay_or_go(now, &client),
            (true, _) => (DeviceRequestResult::Expired, ControlAnswer::Expired),
            (false, Ok(response)) => {
                let answer = ControlAnswer::Answered(Ok(response));
                (DeviceRequestResult::Answered, answer)
            }
            (false, Err(error)) => (DeviceRequestResult::Failed, ControlAnswer::Answered(Err(error))),
        };
        if let Some(queue) = self.device_requests.queues.get_mut(&client) {
            queue.is_sent = false;
        }
        self.end_device_request(id, end, answer);
        self.send_next(now, &client);
    }

    /// What was on its way and comes back waits here, or goes after its client.
    fn stay_or_go(&mut self, now: Instant, client: &ClientId) {
        let queue = self.device_requests.queues.get(client);
        if queue.is_some_and(|queue| queue.is_elsewhere) {
            self.pass_requests_on(now, client);
        } else {
            self.arm_device_requests(now);
        }
    }

    /// Answers who asked for a request, and forgets it.
    fn end_device_request(&mut self, id: RequestId, result: DeviceRequestResult, answer: ControlAnswer) {
        let Some(Asked { by, waits, .. }) = self.device_requests.asked.remove(&id) else {
            return;
        };
        if let Some(waits) = waits {
            self.metrics.queue_requests.inc(result);
            self.forget_waiting(id, &waits);
        }
        match by {
            Asker::Operator(ticket) => self.agenda.output(Output::Control { ticket, answer }),
            Asker::Worker(of_other) => {
                let result = match answer {
                    ControlAnswer::Answered(result) => result,
                    _ => Err(RequestError::Unreached),
                };
                let answer = WorkerMessage::Answered(of_other, result);
                self.agenda.tell(WorkerId::of(of_other.0), answer);
            }
        }
    }

    /// Takes a request out of the queue and the account of its client.
    fn forget_waiting(&mut self, id: RequestId, waits: &Waits) {
        let (holder, weight) = waits.charged;
        if let Some(account) = self.ledger.of(holder) {
            self.ledger
                .add(account, Table::DeviceRequests, -weight.cast_signed());
        }
        if let Some(queue) = self.device_requests.queues.get_mut(&waits.client) {
            queue.requests.retain(|other| *other != id);
            queue.bytes = queue.bytes.saturating_sub(weight);
            if queue.requests.is_empty() {
                self.device_requests.queues.remove(&waits.client);
            }
        }
    }
}
