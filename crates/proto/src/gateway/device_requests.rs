//! Requests to devices that operators ask for: under way, or waiting for a device that is asleep or away until it is heard of.
//!
//! Those that may wait go one after the other for each client. One that the device acknowledged is not sent again; one that it did not
//! acknowledge is, so that a device whose acknowledgement was lost gets it twice.

use std::time::{Duration, Instant};

use super::contract::ControlAnswer;
use super::metrics::DeviceRequestResult;
use super::workers::{PassedRequest, ToPeer, WorkerMessage};
use super::{Gateway, cx};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{OutgoingRequest, PeerId, RequestError, RequestId, Response};
use crate::types::reason::Limit;
use crate::types::{ClientId, WorkerId};

mod following;
mod waiting;

pub(super) use waiting::{Addressee, DeviceRequests, Elsewhere};
use waiting::{Asked, Asker, MAX};

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

    /// A request of another worker, whose client is here now.
    pub(super) fn take_over_request(&mut self, now: Instant, passed: PassedRequest) {
        let (first, client) = (passed.id, passed.client.clone());
        let Some((holder, _)) = self.holder_of(&client) else {
            return self.send_back(Box::new(passed));
        };
        if self.addressee(holder).as_ref() != Some(&passed.of) {
            let answer = WorkerMessage::Answered(first, Err(RequestError::Gone));
            return self.agenda.tell(WorkerId::of(first.0), answer);
        }
        let id = RequestId(self.agenda.ticket().0);
        let (place, what) = (
            (holder, client.clone(), passed.of.clone()),
            (passed.request.clone(), passed.until),
        );
        if self.enqueue(now, id, place, Asker::Worker(first), what) {
            self.send_next(now, &client);
        } else {
            self.send_back(Box::new(passed));
        }
    }

    /// Has a request wait where it was asked for until its client is heard of again.
    pub(super) fn send_back(&mut self, passed: Box<PassedRequest>) {
        let first = WorkerId::of(passed.id.0);
        self.agenda.tell(first, WorkerMessage::TakeBack(passed));
    }

    /// A request that was passed on comes back.
    pub(super) fn take_back_request(&mut self, now: Instant, passed: PassedRequest) {
        let (id, client, until) = (passed.id, passed.client.clone(), passed.until);
        if until <= now {
            return self.end_device_request(id, DeviceRequestResult::Expired, ControlAnswer::Expired);
        }
        if self.enqueue_again(passed) {
            self.send_next(now, &client);
            let queue = self.device_requests.queues.get(&client);
            if queue.is_some_and(|queue| !queue.is_awaited) {
                self.await_elsewhere(&client);
            }
        } else {
            self.end_device_request(id, DeviceRequestResult::Refused, ControlAnswer::Unavailable);
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
            let is_news = !queue.is_awaited;
            self.metrics.queue_requests.inc(DeviceRequestResult::Queued);
            if is_news {
                self.await_elsewhere(client);
            }
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

    /// An operator ended what a client had: what waits for it is not for who comes next by its name.
    pub(super) fn end_device_requests(&mut self, now: Instant, client: &ClientId) {
        let Some(queue) = self.device_requests.queues.get(client) else {
            return;
        };
        let all: Vec<RequestId> = queue.requests.iter().copied().collect();
        for id in all {
            let answer = ControlAnswer::Answered(Err(RequestError::Gone));
            self.end_device_request(id, DeviceRequestResult::Failed, answer);
        }
        self.arm_device_requests(now);
    }

    /// What waits for who is banned is for nobody.
    pub(super) fn end_requests_to_banned(&mut self, now: Instant) {
        let waiting = self.device_requests.asked.values();
        let waiting = waiting.filter_map(|asked| asked.waits.as_ref());
        let banned = waiting.filter(|waits| {
            let identity = waits.of.owner.identity();
            self.bans.kind_of(now, Some(&waits.client), identity).is_some()
        });
        for client in banned.map(|waits| waits.client.clone()).collect::<Vec<_>>() {
            self.end_device_requests(now, &client);
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
            (queue.is_stuck, queue.elsewhere) = (false, None);
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
        if self.device_requests.queues.is_empty() && self.device_requests.awaited.is_empty() {
            return;
        }
        let client = self.peers.get(id).and_then(|peer| peer.known_as());
        if let Some(client) = client
            && self
                .holder_of(&client)
                .is_some_and(|(holder, _)| holder == AccountHolder::Peer(id))
        {
            self.heard(now, &client);
            self.tell_who_awaits(&client);
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
            if let Some(queue) = queue.filter(|queue| now < until && queue.elsewhere.is_none())
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
        let queue = self.device_requests.queues.get(&client);
        if let Some(elsewhere) = queue.and_then(|queue| queue.elsewhere.clone()) {
            self.pass_requests_on(now, &client, &elsewhere);
        }
        self.send_next(now, &client);
    }

    /// What was on its way and comes back waits here, or goes after its client.
    fn stay_or_go(&mut self, now: Instant, client: &ClientId) {
        let queue = self.device_requests.queues.get(client);
        match queue.and_then(|queue| queue.elsewhere.clone()) {
            Some(elsewhere) => self.pass_requests_on(now, client, &elsewhere),
            None => self.arm_device_requests(now),
        }
    }
}
