//! The ways between a worker and the broker: queues to lanes, or calls into the embedded broker, and a queue back.
//!
//! The queues are bounded where a peer could fill them (publishes, subscriptions, delivered messages) and always take what
//! must not be lost: answers, whose number the worker's own cap on pending requests bounds, and requests that nobody answers, of which
//! there is one for each filter, or for each observation of an earlier process.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(feature = "testing")]
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::embedded::{Access, Own};
use portcullis_proto::bridge::contract::{BrokerEvent, BrokerRequest, FilterId};
use portcullis_proto::bridge::receipt::Receipt;
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
    /// Nothing is added any more.
    over: AtomicBool,
}

/// An item and, where it counts towards the bounds, its bytes.
type Item<T> = (T, Option<usize>);

/// Sends into a queue of which only some items count towards its bounds. What it takes leaves with the next
/// [`Self::flush`], all of it at once, so that the reader is woken once.
#[derive(Debug)]
pub(super) struct QueueSender<T> {
    tx: mpsc::UnboundedSender<Vec<Item<T>>>,
    batch: Vec<Item<T>>,
    depth: Arc<Depth>,
    max_items: usize,
    max_bytes: usize,
}

impl<T> Clone for QueueSender<T> {
    fn clone(&self) -> Self {
        Self {
            tx: self.tx.clone(),
            batch: Vec::new(),
            depth: Arc::clone(&self.depth),
            max_items: self.max_items,
            max_bytes: self.max_bytes,
        }
    }
}

impl<T> QueueSender<T> {
    /// Adds an item that counts, or gives it back when the queue is full or its reader is gone.
    pub(super) fn try_send(&mut self, item: T, bytes: usize) -> Result<(), T> {
        let items = self.depth.items.fetch_add(1, Ordering::Relaxed);
        let held = self.depth.bytes.fetch_add(bytes, Ordering::Relaxed);
        let full = items >= self.max_items || held > 0 && held.saturating_add(bytes) > self.max_bytes;
        if full || self.tx.is_closed() {
            self.depth.release(bytes);
            return Err(item);
        }
        self.batch.push((item, Some(bytes)));
        Ok(())
    }

    /// Adds an item that must not be lost.
    pub(super) fn send(&mut self, item: T) {
        self.batch.push((item, None));
    }

    /// Hands over what was added; gives it back when the reader is gone.
    pub(super) fn flush(&mut self) -> Vec<T> {
        if self.batch.is_empty() {
            return Vec::new();
        }
        match self.tx.send(std::mem::take(&mut self.batch)) {
            Ok(()) => Vec::new(),
            Err(refused) => refused
                .0
                .into_iter()
                .map(|(item, bytes)| {
                    self.depth.release_counted(bytes);
                    item
                })
                .collect(),
        }
    }
}

impl<T> Drop for QueueSender<T> {
    fn drop(&mut self) {
        // A reader that is gone waits for nothing.
        drop(self.flush());
    }
}

impl Depth {
    fn release(&self, bytes: usize) {
        self.items.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn release_counted(&self, bytes: Option<usize>) {
        if let Some(bytes) = bytes {
            self.release(bytes);
        }
    }
}

/// The reading end.
#[derive(Debug)]
pub(super) struct QueueReceiver<T> {
    rx: mpsc::UnboundedReceiver<Vec<Item<T>>>,
    batch: std::vec::IntoIter<Item<T>>,
    depth: Arc<Depth>,
}

impl<T> QueueReceiver<T> {
    fn next_of_batch(&mut self) -> Option<T> {
        let (item, bytes) = self.batch.next()?;
        self.depth.release_counted(bytes);
        Some(item)
    }

    /// The next item; `None` when every sender is gone. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            if let Some(item) = self.next_of_batch() {
                return Poll::Ready(Some(item));
            }
            match self.rx.poll_recv(cx) {
                Poll::Ready(Some(batch)) => self.batch = batch.into_iter(),
                Poll::Pending if !self.is_over() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(None),
            }
        }
    }

    /// Takes no more; what is there can still be read.
    pub(super) fn close(&mut self) {
        self.rx.close();
    }

    /// The next item, if one is there.
    pub(super) fn try_recv(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.next_of_batch() {
                return Some(item);
            }
            self.batch = self.rx.try_recv().ok()?.into_iter();
        }
    }

    /// Whether nothing is there to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.len() == 0 && self.rx.is_empty()
    }

    fn is_over(&self) -> bool {
        self.depth.over.load(Ordering::Acquire)
    }
}

/// A queue of at most `max_items` counting items that weigh at most `max_bytes` together (one item may weigh more).
pub(super) fn queue<T>(max_items: usize, max_bytes: usize) -> (QueueSender<T>, QueueReceiver<T>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let depth = Arc::new(Depth::default());
    let sender = QueueSender {
        tx,
        batch: Vec::new(),
        depth: Arc::clone(&depth),
        max_items,
        max_bytes,
    };
    let receiver = QueueReceiver {
        rx,
        batch: Vec::new().into_iter(),
        depth,
    };
    (sender, receiver)
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

/// A worker's way to lanes.
#[derive(Debug)]
struct Lanes {
    worker: usize,
    lanes: Vec<QueueSender<Envelope>>,
}

impl Lanes {
    fn ask(&mut self, request: BrokerRequest) -> Result<(), BrokerRequest> {
        let count = self.lanes.len();
        let (lane, bytes) = match &request {
            BrokerRequest::Publish { message, .. } | BrokerRequest::PublishIf { message, .. } => (
                lane_of(message.topic.as_str(), count),
                message.payload.len().saturating_add(message.topic.as_str().len()),
            ),
            BrokerRequest::Subscribe { filter, .. } => {
                (lane_of(filter.as_str(), count), filter.as_str().len())
            }
            BrokerRequest::ReadRetained { topic, .. } => {
                (lane_of(topic.as_str(), count), topic.as_str().len())
            }
            BrokerRequest::Unsubscribe { filter_id } => {
                let filter_id = *filter_id;
                self.tell_all(|| BrokerRequest::Unsubscribe { filter_id });
                return Ok(());
            }
            BrokerRequest::Restored => {
                self.tell_all(|| BrokerRequest::Restored);
                return Ok(());
            }
            BrokerRequest::Restore { filter, .. } | BrokerRequest::Abandon { filter } => {
                let lane = lane_of(filter.as_str(), count);
                self.tell(lane, request);
                return Ok(());
            }
        };
        let Some(lane) = self.lanes.get_mut(lane) else {
            return Err(request);
        };
        let envelope = Envelope {
            worker: self.worker,
            request,
        };
        lane.try_send(envelope, bytes).map_err(|refused| refused.request)
    }

    fn tell(&mut self, lane: usize, request: BrokerRequest) {
        let worker = self.worker;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.send(Envelope { worker, request });
        }
    }

    /// Every lane hears of it: only the one that carries a filter knows its id.
    fn tell_all(&mut self, request: impl Fn() -> BrokerRequest) {
        (0..self.lanes.len()).for_each(|lane| self.tell(lane, request()));
    }
}

#[derive(Debug)]
enum Way {
    Lanes(Lanes),
    Embedded(Box<Access>),
}

/// What one worker holds of the broker: the way there, and the way back.
#[derive(Debug)]
pub struct WorkerLink {
    way: Way,
    events: QueueReceiver<BrokerEvent>,
    at_hand: VecDeque<BrokerEvent>,
}

impl WorkerLink {
    fn new(way: Way, events: QueueReceiver<BrokerEvent>) -> Self {
        Self {
            way,
            events,
            at_hand: VecDeque::new(),
        }
    }

    /// Hands a request to the broker without waiting. What the embedded broker answers at once is at hand then; anything else
    /// leaves with the next [`Self::flush`]. What nobody answers is always taken.
    ///
    /// # Errors
    /// Gives the request back when the way is full, or the broker is gone: the caller answers it with
    /// [`portcullis_proto::bridge::contract::BrokerError::Unavailable`].
    pub fn ask(&mut self, request: BrokerRequest) -> Result<(), BrokerRequest> {
        match &mut self.way {
            Way::Lanes(lanes) => lanes.ask(request),
            Way::Embedded(_) if self.events.is_over() => Err(request),
            Way::Embedded(access) => {
                let mut own = Own {
                    queue: &self.events,
                    at_hand: &mut self.at_hand,
                };
                access.ask(request, &mut own);
                Ok(())
            }
        }
    }

    /// The next answer or message that the last requests brought at once.
    pub fn next_at_hand(&mut self) -> Option<BrokerEvent> {
        self.at_hand.pop_front()
    }

    /// Lets requests, and messages for other workers, leave: in one go for each lane and worker. Gives back the requests that
    /// nobody will answer, since the broker is gone.
    pub fn flush(&mut self) -> Vec<BrokerRequest> {
        match &mut self.way {
            Way::Lanes(lanes) => lanes
                .lanes
                .iter_mut()
                .flat_map(QueueSender::flush)
                .map(|envelope| envelope.request)
                .collect(),
            Way::Embedded(access) => {
                access.flush();
                Vec::new()
            }
        }
    }

    /// The next event, after a flush; `None` once the broker is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<BrokerEvent> {
        drop(self.flush());
        if let Some(event) = self.at_hand.pop_front() {
            return Some(event);
        }
        self.events.recv().await
    }

    /// Takes up to `limit` events that are there; 0 once the broker is gone.
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<BrokerEvent>,
        limit: usize,
    ) -> Poll<usize> {
        let first = match self.events.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(0),
            Poll::Ready(Some(event)) => event,
        };
        into.push(first);
        let mut count = 1;
        while count < limit
            && let Some(event) = self.events.try_recv()
        {
            into.push(event);
            count += 1;
        }
        Poll::Ready(count)
    }

    /// The next event, if one is there, after a flush.
    pub fn try_recv(&mut self) -> Option<BrokerEvent> {
        drop(self.flush());
        self.next_at_hand().or_else(|| self.events.try_recv())
    }
}

/// The broker's end of the way to one worker. What it takes leaves with the next [`Self::flush`].
#[derive(Debug, Clone)]
pub(super) struct Delivery(QueueSender<BrokerEvent>);

impl Delivery {
    /// Sends an answer, or the loss of a subscription; they always arrive.
    pub(super) fn answer(&mut self, event: BrokerEvent) {
        self.0.send(event);
    }

    /// Sends a message; false when the worker's queue is full and it was dropped.
    pub(super) fn message(
        &mut self,
        filters: Box<[FilterId]>,
        message: &Arc<Message>,
        receipt: Option<&Receipt>,
    ) -> bool {
        let bytes = message.payload.len().saturating_add(message.topic.as_str().len());
        let event = BrokerEvent::Message {
            filters,
            message: Arc::clone(message),
            receipt: receipt.cloned(),
        };
        let refused = self.0.try_send(event, bytes).err();
        if let Some(BrokerEvent::Message {
            receipt: Some(receipt),
            ..
        }) = refused
        {
            receipt.taken();
            return false;
        }
        refused.is_none()
    }

    /// Whether nothing waits for a flush.
    pub(super) fn is_empty(&self) -> bool {
        self.0.batch.is_empty()
    }

    /// Lets it all go, and wakes the worker once.
    pub(super) fn flush(&mut self) {
        // A worker that is gone waits for nothing.
        drop(self.0.flush());
    }

    /// Tells the worker that the broker is gone, though other workers may hold the way to it.
    pub(super) fn end(&mut self) {
        self.flush();
        self.0.depth.over.store(true, Ordering::Release);
        // Nothing in it: it wakes.
        drop(self.0.tx.send(Vec::new()));
    }
}

/// The ways from the broker: its end and the worker's, for each of `workers` workers.
pub(super) fn deliveries(workers: usize) -> (Vec<Delivery>, Vec<QueueReceiver<BrokerEvent>>) {
    (0..workers)
        .map(|_| {
            let (sender, receiver) = queue(MAX_QUEUED_MESSAGES, MAX_QUEUED_MESSAGE_BYTES);
            (Delivery(sender), receiver)
        })
        .unzip()
}

/// The queues of `workers` workers and `lanes` lanes: the workers' ends, the lanes' ends, and the way to each worker.
pub(super) fn links(
    workers: usize,
    lanes: usize,
) -> (Vec<WorkerLink>, Vec<QueueReceiver<Envelope>>, Vec<Delivery>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes)
        .map(|_| queue(MAX_QUEUED_REQUESTS, MAX_QUEUED_REQUEST_BYTES))
        .unzip();
    let (deliveries, events) = deliveries(workers);
    let links = events.into_iter().enumerate().map(|(worker, events)| {
        let lanes = senders.clone();
        WorkerLink::new(Way::Lanes(Lanes { worker, lanes }), events)
    });
    (links.collect(), receivers, deliveries)
}

/// A worker's link to the embedded broker.
pub(super) fn embedded_link(access: Access, events: QueueReceiver<BrokerEvent>) -> WorkerLink {
    WorkerLink::new(Way::Embedded(Box::new(access)), events)
}

/// The broker's end of one worker's way, for tests that play the broker.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct Played {
    requests: QueueReceiver<Envelope>,
    delivery: Mutex<Delivery>,
}

#[cfg(feature = "testing")]
impl Played {
    /// A worker's link and its other end, which takes up to `max_requests` that wait.
    pub fn new(max_requests: usize) -> (WorkerLink, Self) {
        let (requests, requests_in) = queue(max_requests, MAX_QUEUED_REQUEST_BYTES);
        let (events, events_in) = queue(MAX_QUEUED_MESSAGES, MAX_QUEUED_MESSAGE_BYTES);
        let lanes = Lanes {
            worker: 0,
            lanes: vec![requests],
        };
        (
            WorkerLink::new(Way::Lanes(lanes), events_in),
            Self {
                requests: requests_in,
                delivery: Mutex::new(Delivery(events)),
            },
        )
    }

    /// The next request; `None` when the worker is gone.
    pub fn next_request(&mut self) -> Option<BrokerRequest> {
        loop {
            if let Some(envelope) = self.requests.next_of_batch() {
                return Some(envelope.request);
            }
            self.requests.batch = self.requests.rx.blocking_recv()?.into_iter();
        }
    }

    /// Answers.
    pub fn answer(&self, event: BrokerEvent) {
        let mut delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
        delivery.answer(event);
        delivery.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_still_takes_what_must_not_be_lost() {
        let (mut sender, mut receiver) = queue(2, 100);
        assert_eq!(sender.try_send(1, 10), Ok(()));
        assert_eq!(sender.try_send(2, 10), Ok(()));
        assert_eq!(sender.try_send(3, 10), Err(3));
        sender.send(4);
        assert_eq!(receiver.try_recv(), None, "nothing leaves before a flush");
        assert!(sender.flush().is_empty());
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.try_send(5, 10), Ok(()));
        assert!(sender.flush().is_empty());
        assert_eq!(
            [receiver.try_recv(), receiver.try_recv(), receiver.try_recv()],
            [Some(2), Some(4), Some(5)]
        );
        assert_eq!(receiver.try_recv(), None);
    }

    #[test]
    fn bytes_are_bounded_but_one_item_may_be_larger() {
        let (mut sender, mut receiver) = queue(100, 100);
        assert_eq!(sender.try_send(1, 1000), Ok(()));
        assert_eq!(sender.try_send(2, 1), Err(2));
        assert!(sender.flush().is_empty());
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.try_send(2, 60), Ok(()));
        assert_eq!(sender.try_send(3, 60), Err(3));
    }

    #[test]
    fn a_queue_without_reader_refuses_and_gives_back_what_was_on_its_way() {
        let (mut sender, receiver) = queue(100, 100);
        assert_eq!(sender.try_send(1, 1), Ok(()));
        drop(receiver);
        assert_eq!(sender.try_send(2, 1), Err(2));
        assert_eq!(sender.flush(), [1]);
        assert_eq!(sender.depth.items.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_one_turn_adds_wakes_the_reader_once() {
        let (mut sender, mut receiver) = queue(100, 1_000);
        let woken = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        assert!(receiver.poll_recv(&mut cx).is_pending());
        for item in 0..50 {
            assert_eq!(sender.try_send(item, 1), Ok(()));
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(sender.flush().is_empty());
        for item in 0..50 {
            assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(Some(item)));
        }
        assert!(receiver.poll_recv(&mut cx).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }

    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}
