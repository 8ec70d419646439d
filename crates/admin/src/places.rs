//! How many connections a server has at once. When all places are taken, a new connection gets that of one without a request
//! under way: the oldest of the source that has most of them. A source with many idle or slow connections so shuts out no
//! other.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The places of one server, a fixed number.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Connections without a request under way, the oldest first: any of them may be closed for a new one.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    connections: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
}

/// A place that is taken. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    seat: Seat,
    _permit: OwnedSemaphorePermit,
}

/// A connection's place as its requests see it: they say when one begins and ends.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    waiting: Arc<Mutex<Waiting>>,
    use_of: Arc<Mutex<SeatUse>>,
    source: IpAddr,
    gone: Arc<Notify>,
}

/// How many requests of a connection are under way.
#[derive(Debug)]
struct SeatUse {
    /// Requests that are being answered. One more before the connection is handed out, and after it has ended.
    busy: usize,
    /// Its key in [`Waiting::connections`] while it has no request under way.
    number: Option<u64>,
}

/// A request that is being answered. Its connection is not closed for a new one until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Seat);

impl Places {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(connections)),
            waiting: Arc::default(),
        }
    }

    /// A place for a connection from `source`, if need be that of one without a request; `None` when all have requests.
    pub(super) async fn take(&self, source: IpAddr) -> Option<Place> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if lock(&self.waiting).send_one_away() => {
                Arc::clone(&self.free).acquire_owned().await.ok()?
            }
            Err(_) => return None,
        };
        let seat = Seat {
            waiting: Arc::clone(&self.waiting),
            use_of: Arc::new(Mutex::new(SeatUse {
                busy: 1,
                number: None,
            })),
            source: network(source),
            gone: Arc::default(),
        };
        seat.release();
        Some(Place {
            seat,
            _permit: permit,
        })
    }
}

impl Place {
    /// The place, for the requests of the connection.
    pub(super) fn seat(&self) -> Seat {
        self.seat.clone()
    }

    /// Resolves when the connection has to be closed for a new one.
    pub(super) async fn sent_away(&self) {
        self.seat.gone.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Never released: a request may end after its connection, and must not put it back among those to be closed.
        self.seat.hold();
    }
}

impl Seat {
    /// Marks a request as under way until the result is dropped.
    pub(super) fn keep(&self) -> Busy {
        self.hold();
        Busy(self.clone())
    }

    /// Whether a request is being answered.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.use_of).busy > 0
    }

    fn hold(&self) {
        let mut use_of = lock(&self.use_of);
        use_of.busy += 1;
        if let Some(number) = use_of.number.take() {
            lock(&self.waiting).connections.remove(&number);
        }
    }

    /// Ends a request. After the last one the connection is the youngest of those that may be closed.
    fn release(&self) {
        let mut use_of = lock(&self.use_of);
        use_of.busy -= 1;
        if use_of.busy == 0 {
            let mut waiting = lock(&self.waiting);
            let number = waiting.next;
            waiting.next += 1;
            let entry = (self.source, Arc::clone(&self.gone));
            waiting.connections.insert(number, entry);
            use_of.number = Some(number);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Waiting {
    /// Closes the oldest connection of the source that has most of them; false when there is none.
    fn send_one_away(&mut self) -> bool {
        let mut per_source: HashMap<IpAddr, usize> = HashMap::new();
        for (source, _) in self.connections.values() {
            *per_source.entry(*source).or_default() += 1;
        }
        let most = per_source.values().copied().max().unwrap_or(0);
        let found = self
            .connections
            .iter()
            .find(|(_, (source, _))| per_source.get(source) == Some(&most))
            .map(|(number, _)| *number);
        let Some((_, gone)) = found.and_then(|number| self.connections.remove(&number)) else {
            return false;
        };
        gone.notify_one();
        true
    }
}

/// The /64 of an IPv6 address, since a host can use all addresses of it; an IPv4 address as it is.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

/// Locks `mutex`, poisoned or not: nothing here can panic in the middle of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    async fn is_sent_away(place: &Place) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), place.sent_away())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn the_source_with_most_connections_makes_room_with_its_oldest() {
        let places = Places::new(3);
        let other = places.take(ip(1)).await.unwrap();
        let (old, new) = (
            places.take(ip(2)).await.unwrap(),
            places.take(ip(2)).await.unwrap(),
        );
        let next = tokio::spawn(async move { places.take(ip(3)).await.is_some() });
        assert!(is_sent_away(&old).await);
        drop(old);
        assert!(next.await.unwrap());
        assert!(!is_sent_away(&other).await && !is_sent_away(&new).await);
    }

    #[tokio::test]
    async fn who_is_being_answered_keeps_the_place() {
        let places = Places::new(1);
        let first = places.take(ip(1)).await.unwrap();
        let seat = first.seat();
        let (answer, another) = (seat.keep(), seat.keep());
        drop(answer);
        assert!(places.take(ip(1)).await.is_none() && seat.is_busy());
        assert!(!is_sent_away(&first).await);
        drop(first);
        assert!(places.take(ip(1)).await.is_some());
        drop(another);
        assert!(
            lock(&places.waiting).connections.is_empty(),
            "what ended is forgotten"
        );
    }

    #[test]
    fn who_has_one_address_of_a_network_has_them_all() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:2"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), ip(1));
    }
}
