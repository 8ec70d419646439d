//! Requests that wait follow their client to the worker that it came to.
//!
//! Where its connection was replaced, its home worker knows that worker. Where it has none any more, or never had, the others are told
//! that something waits for it, and who hears of it says so.

use std::time::Instant;

use super::waiting::{Asker, Elsewhere};
use crate::coap::contract::RequestId;
use crate::gateway::Gateway;
use crate::gateway::directory::ClientDirectory;
use crate::gateway::workers::{Arrival, PassedRequest, ToPeer, WorkerMessage};
use crate::types::ClientId;

impl Gateway {
    /// A client was heard of here: says so where requests wait for it.
    pub(in crate::gateway) fn tell_who_awaits(&mut self, client: &ClientId) {
        if !self.device_requests.awaited.has(client) {
            return;
        }
        let Some(of) = self
            .holder_of(client)
            .and_then(|(holder, _)| self.addressee(holder))
        else {
            return;
        };
        for worker in self.device_requests.awaited.untold(client, &of) {
            let arrival = Arrival {
                client: client.clone(),
                of: of.clone(),
                at: self.worker,
            };
            self.agenda.tell(worker, WorkerMessage::Came(Box::new(arrival)));
        }
    }

    /// A client was heard of at another worker. What waits for it goes there, unless its connection is here: then what speaks there
    /// does not use it.
    pub(in crate::gateway) fn came_elsewhere(&mut self, now: Instant, arrival: Arrival) {
        let Arrival { client, of, at } = arrival;
        if self.connections.of_client(&client).is_none() {
            self.pass_requests_on(now, &client, &Elsewhere::Worker(at, of));
        }
    }

    /// The connection of a client has ended, and it may come back anywhere.
    pub(in crate::gateway) fn connection_gone(&mut self, client: &ClientId) {
        let queue = self.device_requests.queues.get(client);
        if queue.is_some_and(|queue| queue.is_awaited && queue.elsewhere.is_none()) {
            self.await_elsewhere(client);
        }
    }

    /// The client is at another worker: what waits for it goes there.
    pub(in crate::gateway) fn pass_requests_on(&mut self, now: Instant, client: &ClientId, to: &Elsewhere) {
        let Some(queue) = self.device_requests.queues.get_mut(client) else {
            return;
        };
        queue.elsewhere = Some(to.clone());
        let sent = usize::from(queue.is_sent);
        let first = queue.requests.front().filter(|_| queue.is_sent).copied();
        let waiting: Vec<RequestId> = queue.requests.iter().skip(sent).copied().collect();
        let sent_to = queue.sent_to;
        // They stay in their order: what is on its way to where the client was goes before them, or is answered before them.
        if let (Some(first), Some(peer)) = (first, sent_to)
            && let Some(waits) = self.device_requests.waits(first)
            && to.has(&waits.of)
        {
            return self.agenda.tell_peer(peer, ToPeer::GiveUp(first));
        }
        for id in waiting {
            self.pass_on(id, to);
        }
        self.arm_device_requests(now);
    }

    fn pass_on(&mut self, id: RequestId, to: &Elsewhere) {
        let Some(asked) = self.device_requests.asked.get_mut(&id) else {
            return;
        };
        let waits = asked.waits.take_if(|waits| to.has(&waits.of));
        let Some(waits) = waits else { return };
        asked.is_passed = true;
        // Who had it asked for first is answered by who has it last.
        let first = match asked.by {
            Asker::Operator(_) => id,
            Asker::Worker(first) => {
                self.device_requests.asked.remove(&id);
                first
            }
        };
        self.forget_waiting(id, &waits);
        let passed = Box::new(PassedRequest {
            id: first,
            client: waits.client,
            of: waits.of,
            request: waits.request,
            until: waits.until,
        });
        let (worker, message) = match to {
            Elsewhere::AtItsConnection => {
                let home = ClientDirectory::home(&passed.client, self.settings.workers);
                (home, WorkerMessage::PassOn(passed))
            }
            Elsewhere::Worker(worker, _) => (*worker, WorkerMessage::TakeOver(passed)),
        };
        self.agenda.tell(worker, message);
    }
}
