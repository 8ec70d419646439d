//! The operator at the broker: publishes, reads what is retained and listens, beside the workers and as one of them would.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::interval;

use portcullis_broker::WorkerLink;
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest, FilterId, Ticket};
use portcullis_proto::types::message::Qos;
use portcullis_proto::types::{Message, TopicFilter, TopicName};

/// Orders that wait.
const ORDERS: usize = 64;

/// Orders whose answer the broker owes.
const UNANSWERED: usize = 256;

/// How often is looked whether those who listen are still there.
const SWEEP: Duration = Duration::from_secs(2);

type Reply<T> = oneshot::Sender<Result<T, BrokerError>>;

/// Retained messages, oldest topic first.
type Found = Vec<Arc<Message>>;

enum Order {
    Publish(Arc<Message>, Reply<()>),
    Read(TopicName, Reply<Option<Arc<Message>>>),
    Find(TopicFilter, Reply<Found>),
    Listen(TopicFilter, Qos, Ear, Reply<Found>),
}

/// Where what one who listens is to hear goes.
struct Ear {
    to: mpsc::Sender<Heard>,
    missed: Arc<AtomicU64>,
}

impl Ear {
    fn tell(&self, heard: Heard) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.to.try_send(heard) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What one who listens hears, and how much it missed.
#[derive(Debug)]
pub struct Hearing {
    from: mpsc::Receiver<Heard>,
    missed: Arc<AtomicU64>,
}

impl Hearing {
    /// The next that it hears; `None` when there will be nothing more.
    pub async fn recv(&mut self) -> Option<Heard> {
        self.from.recv().await
    }

    /// How many messages it missed since this was asked last, because too many waited.
    pub(crate) fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

/// What one who listens hears.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Arc<Message>),
    /// The broker ended the subscription.
    Ended(BrokerError),
}

/// Whose answer the broker owes.
enum Owed {
    Published(Reply<()>),
    Read(Reply<Option<Arc<Message>>>),
    Found(Reply<Found>, FilterId),
}

/// The way to the broker.
#[derive(Debug, Clone)]
pub struct Operator(mpsc::Sender<Order>);

impl Operator {
    /// Serves orders over `link` on a thread of its own until the last handle is gone.
    ///
    /// # Errors
    /// The thread, or its runtime, cannot be had.
    pub fn start(link: WorkerLink) -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel(ORDERS);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let desk = Desk {
            link,
            owed: HashMap::new(),
            listening: HashMap::new(),
            last: 0,
        };
        std::thread::Builder::new()
            .name("operator".to_owned())
            .spawn(move || runtime.block_on(desk.run(ordered)))?;
        Ok(Self(orders))
    }

    async fn order<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, BrokerError> {
        let (reply, answer) = oneshot::channel();
        if self.0.send(order(reply)).await.is_err() {
            return Err(BrokerError::Unavailable);
        }
        answer.await.unwrap_or(Err(BrokerError::Unavailable))
    }

    /// Publishes.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn publish(&self, message: Message) -> Result<(), BrokerError> {
        self.order(|reply| Order::Publish(Arc::new(message), reply)).await
    }

    /// The message that is retained at a topic.
    ///
    /// # Errors
    /// What the broker says.
    pub(crate) async fn retained_at(&self, topic: TopicName) -> Result<Option<Arc<Message>>, BrokerError> {
        self.order(|reply| Order::Read(topic, reply)).await
    }

    /// The retained messages that a filter matches: in topic order, and at most
    /// [`portcullis_proto::bridge::contract::MAX_RETAINED`].
    ///
    /// # Errors
    /// What the broker says.
    pub async fn retained(&self, filter: TopicFilter) -> Result<Found, BrokerError> {
        self.order(|reply| Order::Find(filter, reply)).await
    }

    /// Listens: the retained messages, and then what comes, until what it hears by is dropped. With more than `most` messages waiting it misses
    /// those that come.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn listen(
        &self,
        filter: TopicFilter,
        qos: Qos,
        most: usize,
    ) -> Result<(Found, Hearing), BrokerError> {
        let (to, from) = mpsc::channel(most);
        let missed = Arc::<AtomicU64>::default();
        let ear = Ear {
            to,
            missed: Arc::clone(&missed),
        };
        let found = self.order(|reply| Order::Listen(filter, qos, ear, reply)).await?;
        Ok((found, Hearing { from, missed }))
    }
}

struct Desk {
    link: WorkerLink,
    owed: HashMap<Ticket, Owed>,
    listening: HashMap<FilterId, Ear>,
    /// The last ticket or filter id.
    last: u64,
}

impl Desk {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut sweep = interval(SWEEP);
        loop {
            tokio::select! {
                order = orders.recv(), if self.owed.len() < UNANSWERED => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
                event = self.link.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return,
                },
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn take(&mut self, order: Order) {
        let ticket = Ticket(self.number());
        let (owed, request) = match order {
            Order::Publish(message, reply) => {
                (Owed::Published(reply), BrokerRequest::Publish { ticket, message })
            }
            Order::Read(topic, reply) => (Owed::Read(reply), BrokerRequest::ReadRetained { ticket, topic }),
            Order::Find(filter, reply) => self.subscribe(ticket, filter, Qos::AtMostOnce, reply),
            Order::Listen(filter, qos, ear, reply) => {
                let (owed, request) = self.subscribe(ticket, filter, qos, reply);
                if let Owed::Found(_, id) = &owed {
                    self.listening.insert(*id, ear);
                }
                (owed, request)
            }
        };
        self.owed.insert(ticket, owed);
        if self.link.ask(request).is_err() {
            self.refuse(ticket);
        }
    }

    fn subscribe(
        &mut self,
        ticket: Ticket,
        filter: TopicFilter,
        qos: Qos,
        reply: Reply<Found>,
    ) -> (Owed, BrokerRequest) {
        let filter_id = FilterId(self.number());
        let request = BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter,
            qos,
            retained: true,
        };
        (Owed::Found(reply, filter_id), request)
    }

    /// Answers what the way to the broker has no room for.
    fn refuse(&mut self, ticket: Ticket) {
        let refused = BrokerError::Unavailable;
        // Who asked may have gone.
        match self.owed.remove(&ticket) {
            Some(Owed::Published(reply)) => _ = reply.send(Err(refused)),
            Some(Owed::Read(reply)) => drop(reply.send(Err(refused))),
            Some(Owed::Found(reply, id)) => {
                self.listening.remove(&id);
                drop(reply.send(Err(refused)));
            }
            None => {}
        }
    }

    fn hear(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Published { ticket, result } => {
                if let Some(Owed::Published(reply)) = self.owed.remove(&ticket) {
                    _ = reply.send(result);
                }
            }
            BrokerEvent::Retained { ticket, result } => {
                if let Some(Owed::Read(reply)) = self.owed.remove(&ticket) {
                    drop(reply.send(result));
                }
            }
            BrokerEvent::Subscribed { ticket, result } => {
                if let Some(Owed::Found(reply, id)) = self.owed.remove(&ticket) {
                    let stands = result.is_ok();
                    drop(reply.send(result));
                    if !stands {
                        self.listening.remove(&id);
                    } else if !self.listening.contains_key(&id) {
                        self.end(id);
                    }
                }
            }
            BrokerEvent::Message {
                filters,
                message,
                receipt,
            } => {
                for id in filters {
                    if let Some(ear) = self.listening.get(&id) {
                        // Who is gone is found by the sweep.
                        ear.tell(Heard::Message(Arc::clone(&message)));
                    }
                }
                // Nobody who listens here is promised anything.
                if let Some(receipt) = receipt {
                    receipt.taken();
                }
            }
            BrokerEvent::SubscriptionLost { filter_id, error } => {
                if let Some(ear) = self.listening.remove(&filter_id) {
                    ear.tell(Heard::Ended(error));
                }
            }
        }
    }

    fn end(&mut self, filter_id: FilterId) {
        // It is always taken.
        drop(self.link.ask(BrokerRequest::Unsubscribe { filter_id }));
    }

    fn sweep(&mut self) {
        let gone: Vec<FilterId> = self
            .listening
            .iter()
            .filter(|(_, ear)| ear.to.is_closed())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.listening.remove(&id);
            self.end(id);
        }
    }
}
