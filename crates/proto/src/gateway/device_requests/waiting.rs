//! What a worker keeps of requests to devices.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{OutgoingRequest, PeerId, RequestError, RequestId};
use crate::gateway::contract::{ControlAnswer, Output};
use crate::gateway::metrics::DeviceRequestResult;
use crate::gateway::timers::Timer;
use crate::gateway::workers::{PassedRequest, WorkerMessage};
use crate::gateway::{Gateway, cx};
use crate::policy::connections::Owner;
use crate::policy::ledger::Table;
use crate::types::hash::IdMap;
use crate::types::reason::Limit;
use crate::types::{ClientId, WorkerId};

/// Requests to devices of a worker, those that wait included.
pub(super) const MAX: usize = 4096;

/// What those that wait weigh together, in bytes. Each is in the account of its client too, as long as that is there.
const MAX_BYTES: usize = 64 << 20;

/// What a request that may wait weighs beside its payload, path and query, in bytes.
const OVERHEAD: usize = 384;

/// A request to a device.
pub(super) struct Asked {
    pub(super) by: Asker,
    /// How it waits, where it does so here.
    pub(super) waits: Option<Waits>,
    /// Whether it waits at another worker, which has its client now.
    pub(super) is_passed: bool,
}

/// Who asked for a request.
#[derive(Clone, Copy)]
pub(super) enum Asker {
    /// An operator.
    Operator(u64),
    /// Another worker, which calls it so.
    Worker(RequestId),
}

/// Who had the client id when a request was asked for. Nobody else gets it, whoever takes the name after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Addressee {
    pub(super) owner: Owner,
    username: Option<Arc<str>>,
}

pub(super) struct Waits {
    pub(super) client: ClientId,
    pub(super) of: Addressee,
    pub(super) request: OutgoingRequest,
    pub(super) until: Instant,
    /// In whose account it is, and what it weighs.
    pub(super) charged: (Option<AccountHolder>, usize),
}

/// Where a client is that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum Elsewhere {
    /// At the worker of its connection, as its home worker knows it.
    AtItsConnection,
    /// At a worker that heard of it, and of whom.
    Worker(WorkerId, Addressee),
}

impl Elsewhere {
    /// Whether who is there may be who a request is for.
    pub(super) fn has(&self, of: &Addressee) -> bool {
        match self {
            Self::AtItsConnection => true,
            Self::Worker(_, there) => there == of,
        }
    }
}

/// The requests to one client that may wait, oldest first.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) requests: VecDeque<RequestId>,
    pub(super) bytes: usize,
    /// Whether the first of them is on its way.
    pub(super) is_sent: bool,
    /// To where it was sent last.
    pub(super) sent_to: Option<PeerId>,
    /// Whether nothing goes before the client was heard of.
    pub(super) is_stuck: bool,
    /// Where the client is, when another worker has it.
    pub(super) elsewhere: Option<Elsewhere>,
    /// Whether the other workers say when they hear of the client.
    pub(super) is_awaited: bool,
}

/// The requests of a worker to devices.
#[derive(Default)]
pub(in crate::gateway) struct DeviceRequests {
    pub(super) asked: IdMap<RequestId, Asked>,
    pub(super) queues: HashMap<ClientId, Queue>,
    /// What all of them weigh.
    bytes: usize,
    /// For whom requests wait at other workers.
    pub(in crate::gateway) awaited: Awaited,
}

impl DeviceRequests {
    #[cfg(test)]
    pub(in crate::gateway) fn len(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn waits(&self, id: RequestId) -> Option<&Waits> {
        self.asked.get(&id)?.waits.as_ref()
    }

    /// Those that wait and are not on their way.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (RequestId, Instant)> + '_ {
        let not_sent = |queue: &'_ Queue| usize::from(queue.is_sent);
        let all = self
            .queues
            .values()
            .flat_map(move |queue| queue.requests.iter().skip(not_sent(queue)));
        all.filter_map(|id| Some((*id, self.waits(*id)?.until)))
    }
}

/// The clients for which requests wait at other workers.
#[derive(Default)]
pub(in crate::gateway) struct Awaited {
    by_client: HashMap<ClientId, Vec<Waiter>>,
}

/// A worker where requests wait for a client.
struct Waiter {
    worker: WorkerId,
    /// Who it was told that the client is here.
    told: Option<Addressee>,
}

impl Awaited {
    /// Notes that requests wait for a client at a worker, which wants to be told as if it had not been.
    pub(in crate::gateway) fn add(&mut self, client: ClientId, worker: WorkerId) {
        let waiters = self.by_client.entry(client).or_default();
        waiters.retain(|waiter| waiter.worker != worker);
        waiters.push(Waiter { worker, told: None });
    }

    /// Nothing waits for a client at a worker any more.
    pub(in crate::gateway) fn remove(&mut self, client: &ClientId, worker: WorkerId) {
        if let Some(waiters) = self.by_client.get_mut(client) {
            waiters.retain(|waiter| waiter.worker != worker);
            if waiters.is_empty() {
                self.by_client.remove(client);
            }
        }
    }

    pub(in crate::gateway) fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    pub(super) fn has(&self, client: &ClientId) -> bool {
        self.by_client.contains_key(client)
    }

    /// Who is to be told that a client is here, each once.
    pub(super) fn untold(&mut self, client: &ClientId, of: &Addressee) -> Vec<WorkerId> {
        let waiters = self.by_client.get_mut(client).into_iter().flatten();
        let untold = waiters.filter_map(|waiter| {
            let news = waiter.told.as_ref() != Some(of);
            news.then(|| {
                waiter.told = Some(of.clone());
                waiter.worker
            })
        });
        untold.collect()
    }
}

/// What a request that may wait weighs, in bytes.
fn weight(request: &OutgoingRequest) -> usize {
    let texts = request.path.iter().chain(&request.query);
    OVERHEAD + request.payload.len() + texts.map(String::len).sum::<usize>()
}

impl Gateway {
    /// Puts a request that was passed on back into the queue of its client, which may be nowhere, before those that were asked for
    /// after it; false where there is no room.
    pub(super) fn enqueue_again(&mut self, passed: PassedRequest) -> bool {
        let weight = weight(&passed.request);
        let requests = &mut self.device_requests;
        if requests.bytes + weight > MAX_BYTES {
            self.metrics.limits.inc(Limit::QueuedRequests);
            return false;
        }
        let Some(asked) = requests.asked.get_mut(&passed.id) else {
            return true;
        };
        asked.is_passed = false;
        asked.waits = Some(Waits {
            client: passed.client.clone(),
            of: passed.of,
            request: passed.request,
            until: passed.until,
            // It was in an account when it was asked for, and what that was of may be gone.
            charged: (None, weight),
        });
        let queue = requests.queues.entry(passed.client).or_default();
        let sent = usize::from(queue.is_sent);
        let at = queue
            .requests
            .partition_point(|other| *other < passed.id)
            .max(sent);
        queue.requests.insert(at.min(queue.requests.len()), passed.id);
        queue.bytes += weight;
        requests.bytes += weight;
        true
    }

    /// Puts a request into the queue of its client; false where there is no room.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        id: RequestId,
        (holder, client, of): (AccountHolder, ClientId, Addressee),
        by: Asker,
        (request, until): (OutgoingRequest, Instant),
    ) -> bool {
        let weight = weight(&request);
        let cx = cx!(self, now);
        let sleep = &cx.settings.sleep;
        let known = self.device_requests.queues.get(&client);
        let (count, bytes) = known.map_or((0, 0), |queue| (queue.requests.len(), queue.bytes));
        let account = cx.ledger.of(holder);
        let fits = count < sleep.queue_messages
            && bytes + weight <= sleep.queue_bytes
            && self.device_requests.bytes + weight <= MAX_BYTES;
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
            charged: (Some(holder), weight),
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
        self.device_requests.bytes += weight;
        true
    }

    /// Who has a client id here.
    pub(super) fn addressee(&self, holder: AccountHolder) -> Option<Addressee> {
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

    pub(super) fn arm_device_requests(&mut self, now: Instant) {
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

    /// Has the other workers say when they hear of a client for which requests wait here.
    pub(in crate::gateway) fn await_elsewhere(&mut self, client: &ClientId) {
        if let Some(queue) = self.device_requests.queues.get_mut(client) {
            queue.is_awaited = true;
            let here = self.worker;
            self.tell_others(|| WorkerMessage::Awaits(client.clone(), here));
        }
    }

    /// Nothing waits here for a client of which the other workers would say that they heard.
    pub(in crate::gateway) fn await_no_more(&mut self, client: &ClientId) {
        let here = self.worker;
        self.tell_others(|| WorkerMessage::AwaitsNoMore(client.clone(), here));
    }

    fn tell_others(&mut self, message: impl Fn() -> WorkerMessage) {
        let here = self.worker;
        for worker in (0..self.settings.workers).map(WorkerId).filter(|to| *to != here) {
            self.agenda.tell(worker, message());
        }
    }

    /// Answers who asked for a request, and forgets it.
    pub(super) fn end_device_request(
        &mut self,
        id: RequestId,
        result: DeviceRequestResult,
        answer: ControlAnswer,
    ) {
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
    pub(super) fn forget_waiting(&mut self, id: RequestId, waits: &Waits) {
        let (holder, weight) = waits.charged;
        if let Some(account) = holder.and_then(|holder| self.ledger.of(holder)) {
            self.ledger
                .add(account, Table::DeviceRequests, -weight.cast_signed());
        }
        if let Some(queue) = self.device_requests.queues.get_mut(&waits.client) {
            queue.requests.retain(|other| *other != id);
            queue.bytes = queue.bytes.saturating_sub(weight);
            self.device_requests.bytes = self.device_requests.bytes.saturating_sub(weight);
            if queue.requests.is_empty() {
                let is_awaited = queue.is_awaited;
                self.device_requests.queues.remove(&waits.client);
                if is_awaited {
                    self.await_no_more(&waits.client);
                }
            }
        }
    }
}
