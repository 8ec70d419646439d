//! The two queues between a worker and the broker.
//!
//! Both are bounded where a peer could fill them (publishes, subscriptions, delivered messages) and always take what
//! must not be lost: answers, whose number the worker's own cap on pending requests bounds, and
//! [`BrokerRequest::Unsubscribe`], of which there is one for each filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use portcullis_proto::bridge::contract::{BrokerEvent, BrokerRequest, FilterId};
use portcullis_proto::types::Message;

/// Requests that wait for the broker, over all workers and for each connection.
pub(super) const MAX_QUEUED_REQUESTS: usize = 16_384;
/// Payload bytes of requests that wait for the broker.
pub(super) const MAX_QUEUED_REQUEST_BYTES: usize = 64 << 20;
/// Messages that wait for one worker.
pub(super) const MAX_QUEUED_MESSAGES: usize = 16_384;
/// Payload bytes of messages that wait for one worker.
pub(super) const MAX_QUEUED_MESSAGE_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
struct Depth {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// Sends into a queue of which only some items count towards its bounds.
#[derive(Debug)]
pub(super) struct QueueSender<T> {
    tx: mpsc::UnboundedSender<(T, Option<usize>)>,
    depth: Arc<Depth>,
    max_items: usize,
    max_bytes: usize,
}

impl<T> Clone for QueueSender<T> {
    fn clone(&self) -> Self {
        Self {
            tx: self.tx.clone(),
            depth: Arc::clone(&self.depth),
            max_items: self.max_items,
            max_bytes: self.max_bytes,
        }
    }
}

impl<T> QueueSender<T> {
    /// Adds an item that counts, or gives it back when the queue is full or its reader is gone.
    pub(super) fn try_send(&self, item: T, bytes: usize) -> Result<(), T> {
        let items = self.depth.items.fetch_add(1, Ordering::Relaxed);
        let held = self.depth.bytes.fetch_add(bytes, Ordering::Relaxed);
        if items >= self.max_items || held > 0 && held.saturating_add(bytes) > self.max_bytes {
            self.release(bytes);
            return Err(item);
        }
        self.tx.send((item, Some(bytes))).map_err(|refused| {
            self.release(bytes);
            refused.0.0
        })
    }

    /// Adds an item that must not be lost; gives it back only when the reader is gone.
    pub(super) fn send(&self, item: T) -> Result<(), T> {
        self.tx.send((item, None)).map_err(|refused| refused.0.0)
    }

    fn release(&self, bytes: usize) {
        self.depth.items.fetch_sub(1, Ordering::Relaxed);
        self.depth.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The reading end.
#[derive(Debug)]
pub(super) struct QueueReceiver<T> {
    rx: mpsc::UnboundedReceiver<(T, Option<usize>)>,
    depth: Arc<Depth>,
}

impl<T> QueueReceiver<T> {
    fn taken(&self, (item, bytes): (T, Option<usize>)) -> T {
        if let Some(bytes) = bytes {
            self.depth.items.fetch_sub(1, Ordering::Relaxed);
            self.depth.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        item
    }

    /// The next item; `None` when every sender is gone. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<T> {
        let item = self.rx.recv().await?;
        Some(self.taken(item))
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.rx
            .poll_recv(cx)
            .map(|item| item.map(|item| self.taken(item)))
    }

    /// Takes no more; what is there can still be read.
    pub(super) fn close(&mut self) {
        self.rx.close();
    }

    /// The next item, if one is there.
    pub(super) fn try_recv(&mut self) -> Option<T> {
        let item = self.rx.try_recv().ok()?;
        Some(self.taken(item))
    }
}

/// A queue of at most `max_items` counting items that weigh at most `max_bytes` together (one item may weigh more).
pub(super) fn queue<T>(max_items: usize, max_bytes: usize) -> (QueueSender<T>, QueueReceiver<T>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let depth = Arc::new(Depth::default());
    let sender = QueueSender {
        tx,
        depth: Arc::clone(&depth),
        max_items,
        max_bytes,
    };
    (sender, QueueReceiver { rx, depth })
}

/// A request and the index of the worker that asks.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) worker: usize,
    pub(super) request: BrokerRequest,
}

/// Which of `lanes` parallel connections carries a topic or filter; the same in every run.
pub(super) fn lane_of(text: &str, lanes: usize) -> usize {
    if lanes < 2 {
        return 0;
    }
    crc32fast::hash(text.as_bytes()) as usize % lanes
}

/// A worker's end of the way to the broker.
#[derive(Debug, Clone)]
pub struct Requests {
    worker: usize,
    lanes: Arc<[QueueSender<Envelope>]>,
}

impl Requests {
    pub(super) fn new(worker: usize, lanes: Arc<[QueueSender<Envelope>]>) -> Self {
        Self { worker, lanes }
    }

    /// Hands a request to the broker without waiting. [`BrokerRequest::Unsubscribe`] is always taken.
    ///
    /// # Errors
    /// Gives the request back when the way is full, or the broker is gone: the caller answers it with
    /// [`portcullis_proto::bridge::contract::BrokerError::Unavailable`].
    pub fn try_send(&self, request: BrokerRequest) -> Result<(), BrokerRequest> {
        let (lane, bytes) = match &request {
            BrokerRequest::Publish { message, .. } => (
                lane_of(message.topic.as_str(), self.lanes.len()),
                message.payload.len().saturating_add(message.topic.as_str().len()),
            ),
            BrokerRequest::Subscribe { filter, .. } => {
                (lane_of(filter.as_str(), self.lanes.len()), filter.as_str().len())
            }
            BrokerRequest::ReadRetained { topic, .. } => {
                (lane_of(topic.as_str(), self.lanes.len()), topic.as_str().len())
            }
            BrokerRequest::Unsubscribe { filter_id } => {
                self.unsubscribe(*filter_id);
                return Ok(());
            }
        };
        let Some(lane) = self.lanes.get(lane) else {
            return Err(request);
        };
        let envelope = Envelope {
            worker: self.worker,
            request,
        };
        lane.try_send(envelope, bytes).map_err(|refused| refused.request)
    }

    /// Every lane hears of it: only the one that carries the filter knows the id.
    fn unsubscribe(&self, filter_id: FilterId) {
        for lane in self.lanes.iter() {
            let gone = lane.send(Envelope {
                worker: self.worker,
                request: BrokerRequest::Unsubscribe { filter_id },
            });
            // A broker that is gone holds no subscription.
            drop(gone);
        }
    }
}

/// A worker's end of the way from the broker.
#[derive(Debug)]
pub struct Events(QueueReceiver<BrokerEvent>);

impl Events {
    /// The next event; `None` once the broker is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<BrokerEvent> {
        self.0.recv().await
    }

    /// Takes up to `limit` events that are there; 0 once the broker is gone.
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<BrokerEvent>,
        limit: usize,
    ) -> Poll<usize> {
        let first = match self.0.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(0),
            Poll::Ready(Some(event)) => event,
        };
        into.push(first);
        let mut count = 1;
        while count < limit
            && let Some(event) = self.0.try_recv()
        {
            into.push(event);
            count += 1;
        }
        Poll::Ready(count)
    }

    /// The next event, if one is there.
    pub fn try_recv(&mut self) -> Option<BrokerEvent> {
        self.0.try_recv()
    }
}

/// What one worker holds of the broker.
#[derive(Debug)]
pub struct WorkerLink {
    /// The way to the broker.
    pub requests: Requests,
    /// The way back.
    pub events: Events,
}

/// The broker's end of the way to one worker.
#[derive(Debug, Clone)]
pub(super) struct Delivery(QueueSender<BrokerEvent>);

impl Delivery {
    /// Sends an answer, or the loss of a subscription; they always arrive.
    pub(super) fn answer(&self, event: BrokerEvent) {
        // A worker that is gone waits for nothing.
        drop(self.0.send(event));
    }

    /// Sends a message; false when the worker's queue is full and it was dropped.
    pub(super) fn message(&self, filters: Box<[FilterId]>, message: &Arc<Message>) -> bool {
        let bytes = message.payload.len().saturating_add(message.topic.as_str().len());
        let event = BrokerEvent::Message {
            filters,
            message: Arc::clone(message),
        };
        self.0.try_send(event, bytes).is_ok()
    }
}

/// The queues of `workers` workers and `lanes` lanes: the workers' ends, the lanes' ends, and the way to each worker.
pub(super) fn links(
    workers: usize,
    lanes: usize,
) -> (Vec<WorkerLink>, Vec<QueueReceiver<Envelope>>, Vec<Delivery>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes)
        .map(|_| queue(MAX_QUEUED_REQUESTS, MAX_QUEUED_REQUEST_BYTES))
        .unzip();
    let senders: Arc<[QueueSender<Envelope>]> = senders.into();
    let (links, deliveries) = (0..workers)
        .map(|worker| {
            let (sender, receiver) = queue(MAX_QUEUED_MESSAGES, MAX_QUEUED_MESSAGE_BYTES);
            let link = WorkerLink {
                requests: Requests::new(worker, Arc::clone(&senders)),
                events: Events(receiver),
            };
            (link, Delivery(sender))
        })
        .unzip();
    (links, receivers, deliveries)
}

/// The broker's end of one worker's way, for tests that play the broker.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct Played {
    requests: QueueReceiver<Envelope>,
    delivery: Delivery,
}

#[cfg(feature = "testing")]
impl Played {
    /// A worker's link and its other end, which takes up to `max_requests` that wait.
    pub fn new(max_requests: usize) -> (WorkerLink, Self) {
        let (requests, requests_in) = queue(max_requests, MAX_QUEUED_REQUEST_BYTES);
        let (events, events_in) = queue(MAX_QUEUED_MESSAGES, MAX_QUEUED_MESSAGE_BYTES);
        let link = WorkerLink {
            requests: Requests::new(0, [requests].into()),
            events: Events(events_in),
        };
        (
            link,
            Self {
                requests: requests_in,
                delivery: Delivery(events),
            },
        )
    }

    /// The next request; `None` when the worker is gone.
    pub fn next_request(&mut self) -> Option<BrokerRequest> {
        let item = self.requests.rx.blocking_recv()?;
        Some(self.requests.taken(item).request)
    }

    /// Answers.
    pub fn answer(&self, event: BrokerEvent) {
        self.delivery.answer(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_still_takes_what_must_not_be_lost() {
        let (sender, mut receiver) = queue(2, 100);
        assert_eq!(sender.try_send(1, 10), Ok(()));
        assert_eq!(sender.try_send(2, 10), Ok(()));
        assert_eq!(sender.try_send(3, 10), Err(3));
        assert_eq!(sender.send(4), Ok(()));
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.try_send(5, 10), Ok(()));
        assert_eq!(
            [receiver.try_recv(), receiver.try_recv(), receiver.try_recv()],
            [Some(2), Some(4), Some(5)]
        );
        assert_eq!(receiver.try_recv(), None);
    }

    #[test]
    fn bytes_are_bounded_but_one_item_may_be_larger() {
        let (sender, mut receiver) = queue(100, 100);
        assert_eq!(sender.try_send(1, 1000), Ok(()));
        assert_eq!(sender.try_send(2, 1), Err(2));
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.try_send(2, 60), Ok(()));
        assert_eq!(sender.try_send(3, 60), Err(3));
    }

    #[test]
    fn a_queue_without_reader_refuses() {
        let (sender, receiver) = queue(100, 100);
        drop(receiver);
        assert_eq!(sender.try_send(1, 1), Err(1));
        assert_eq!(sender.send(1), Err(1));
    }
}
