//! Answers and messages on their way to the workers.

use std::sync::Arc;
use std::time::Instant;

use crate::link::Delivery;
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, FilterId};
use portcullis_proto::bridge::receipt::Receipt;
use portcullis_proto::types::message::Message;

use super::{Ask, AskKind, MAX_HELD, MAX_RETAINED, Subscriptions, taken};

impl Subscriptions {
    /// Answers an ask and, on success, lets messages through to its holder.
    pub(super) fn finish(&mut self, number: u32, ask: Ask, result: Result<(), BrokerError>) {
        let (worker, kind) = (ask.worker, ask.kind);
        let succeeded = result.is_ok();
        if ask.cut {
            self.metrics.retained_cut.inc();
        }
        if let Some(entry) = self
            .entries
            .get_mut(&number)
            .filter(|entry| !entry.holders.is_empty())
        {
            for message in ask.collected.values() {
                entry.seen.note(&self.hasher, message);
            }
        }
        self.answer(ask, result);
        let AskKind::Subscribe { filter_id, .. } = kind else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        let holder = (worker, filter_id);
        let Some(known) = entry.holders.iter_mut().find(|known| known.holder == holder) else {
            return;
        };
        if known.active {
            return;
        }
        if !succeeded {
            entry.holders.retain(|known| known.holder != holder);
            self.by_holder.remove(&holder);
            return;
        }
        known.active = true;
        for (message, receipt) in std::mem::take(&mut known.held) {
            self.deliver_to(worker, Box::new([filter_id]), &message, receipt.as_ref());
            taken([receipt]);
        }
    }

    pub(super) fn answer(&mut self, ask: Ask, result: Result<(), BrokerError>) {
        let ticket = ask.ticket;
        let event = match ask.kind {
            AskKind::Subscribe { .. } => BrokerEvent::Subscribed {
                ticket,
                result: result.map(|()| ask.collected.into_values().collect()),
            },
            AskKind::Read => BrokerEvent::Retained {
                ticket,
                result: result.map(|()| ask.collected.into_values().next()),
            },
        };
        self.tell(ask.worker, event);
    }

    /// Hands workers what they were told.
    pub(in crate::mqtt) fn flush(&mut self) {
        self.workers.iter_mut().for_each(Delivery::flush);
    }

    pub(super) fn tell(&mut self, worker: usize, event: BrokerEvent) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.answer(event);
        }
    }

    pub(super) fn deliver_to(
        &mut self,
        worker: usize,
        filters: Box<[FilterId]>,
        message: &Arc<Message>,
        receipt: Option<&Receipt>,
    ) {
        let delivered = self
            .workers
            .get_mut(worker)
            .is_some_and(|worker| worker.message(filters, message, receipt));
        let counter = if delivered {
            &self.metrics.received
        } else {
            &self.metrics.undelivered
        };
        counter.inc();
    }

    /// Passes on a message; `named` are the subscriptions that the broker says it matches.
    pub(in crate::mqtt) fn on_message(
        &mut self,
        now: Instant,
        message: Message,
        retained: bool,
        named: &[usize],
        receipt: Option<Receipt>,
    ) {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        // What waited at the broker for a session of an earlier process is named by that one's numbers.
        if named.is_empty() || !named.iter().all(|number| self.is_ours(*number)) {
            self.table.matching(&message.topic, &mut self.sums, &mut found);
            if !retained && found.len() > 1 && self.duplicates.is_duplicate(now, &message, found.len()) {
                found.clear();
            }
        } else {
            found.extend(named.iter().filter_map(|number| u32::try_from(*number).ok()));
            found.sort_unstable();
            found.dedup();
        }
        let message = Arc::new(message);
        if retained {
            self.collect(now, &found, &message);
            self.keep_news(now, &mut found, &message);
        }
        self.pass_on(&found, &message, receipt.as_ref());
        taken([receipt]);
        self.found = found;
    }

    /// Of a retained message the subscriptions to which it is news after a lost session.
    fn keep_news(&self, now: Instant, found: &mut Vec<u32>, message: &Message) {
        found.retain(|number| {
            self.entries.get(number).is_some_and(|entry| {
                entry.renewed_until.is_some_and(|until| now < until)
                    && entry.seen.is_news(&self.hasher, message)
            })
        });
    }

    fn pass_on(&mut self, found: &[u32], message: &Arc<Message>, receipt: Option<&Receipt>) {
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        for number in found {
            let Some(entry) = self.entries.get_mut(number) else {
                continue;
            };
            if !entry.holders.is_empty() {
                entry.seen.note(&self.hasher, message);
            }
            for known in &mut entry.holders {
                if known.active {
                    targets.push(known.holder);
                } else if known.held.len() < MAX_HELD {
                    known.held.push((Arc::clone(message), receipt.cloned()));
                }
            }
            let Some(round) = &mut entry.round else { continue };
            for ask in &mut round.asks {
                // A further observer of a filter that its worker holds already sees the newest message of each topic.
                let further = matches!(ask.kind, AskKind::Subscribe { filter_id, retained: true }
                    if entry.holders.iter().any(|known| known.active && known.holder == (ask.worker, filter_id)));
                if further && ask.collected.len() < MAX_RETAINED {
                    ask.collected.insert(message.topic.clone(), Arc::clone(message));
                }
            }
        }
        targets.sort_unstable();
        targets.dedup();
        for group in targets.chunk_by(|a, b| a.0 == b.0) {
            let Some((worker, _)) = group.first() else {
                continue;
            };
            self.deliver_to(
                *worker,
                group.iter().map(|(_, filter)| *filter).collect(),
                message,
                receipt,
            );
        }
        self.targets = targets;
    }
}
