//! The topic collection over several workers: every worker knows it, limits hold over all of them, and it ends when its time is over.

use ciborium::{Value, cbor};

use super::*;
use crate::bridge::collection::MAX_TOPICS;
use crate::bridge::collection::topic::Topic;

const WALL: u64 = 1_700_000_000;

fn site(workers: u8, mode: TopicsMode) -> Site {
    let mut settings = settings(workers);
    settings.connection_required = false;
    settings.topics = mode;
    let site = Site::with(settings);
    site.shared.set_wall(WALL);
    site
}

fn bytes(value: Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).unwrap();
    bytes
}

fn properties(map: &[(u8, Value)]) -> Vec<u8> {
    let map = map.iter().map(|(key, value)| (Value::from(*key), value.clone()));
    bytes(Value::Map(map.collect()))
}

/// The properties of a new topic, and more.
fn described(name: &str, more: &[(u8, Value)]) -> Vec<u8> {
    let fixed = [(0, Value::from(name)), (2, Value::from("core.ps.data"))];
    properties(&[&fixed[..], more].concat())
}

impl Site {
    fn send(
        &mut self,
        (worker, port): (usize, u16),
        method: RequestType,
        path: &str,
        payload: Vec<u8>,
    ) -> Packet {
        let mut request = self.request(method, path, &[]);
        request.payload = payload;
        self.ask(worker, port, &request).remove(0)
    }

    fn observe(&mut self, (worker, port): (usize, u16), path: &str) -> Packet {
        let mut request = self.request(RequestType::Get, path, &[]);
        request.set_observe_value(0);
        self.ask(worker, port, &request).remove(0)
    }

    /// Creates a topic and tells its path.
    fn created(&mut self, at: (usize, u16), name: &str, more: &[(u8, Value)]) -> String {
        let answer = self.send(at, RequestType::Post, "ps", described(name, more));
        assert_eq!(code(&answer), ResponseType::Created, "{answer:?}");
        let location = answer.get_option(CoapOption::LocationPath).unwrap();
        let segments = location
            .iter()
            .map(|segment| std::str::from_utf8(segment).unwrap());
        segments.collect::<Vec<_>>().join("/")
    }

    fn put(&mut self, at: (usize, u16), path: &str, payload: &[u8]) -> ResponseType {
        code(&self.send(at, RequestType::Put, path, payload.to_vec()))
    }

    /// Who was sent 4.04 since it was last asked: worker and port.
    fn ended(&mut self) -> Vec<(usize, u16)> {
        let mut ended = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            for (_, to, bytes) in worker.transmits().iter() {
                if code(&Packet::from_bytes(bytes).unwrap()) == ResponseType::NotFound {
                    ended.push((number, to.socket_addr().port()));
                }
            }
            worker.transmits_sent();
        }
        ended
    }

    fn listed(&mut self, at: (usize, u16)) -> Vec<String> {
        let answer = self.send(at, RequestType::Get, "ps", Vec::new());
        let text = String::from_utf8(answer.payload).unwrap();
        text.split(',')
            .filter(|link| !link.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn what_one_worker_creates_every_worker_has() {
    let mut site = site(3, TopicsMode::Implicit);
    let path = site.created((0, 1000), "hall", &[(3, Value::from(60))]);
    for worker in 0..3 {
        assert_eq!(site.listed((worker, 2000)), [format!("</{path}>")]);
        let read = site.send((worker, 2000), RequestType::Get, &path, Vec::new());
        assert_eq!(code(&read), ResponseType::Content);
    }
    let again = site.send((2, 2000), RequestType::Post, "ps", described("hall", &[]));
    assert_eq!(code(&again), ResponseType::BadRequest);
    let deleted = site.send((1, 3000), RequestType::Delete, &path, Vec::new());
    assert_eq!(code(&deleted), ResponseType::Deleted);
    for worker in 0..3 {
        assert!(site.listed((worker, 2000)).is_empty());
    }
    assert!(site.retained.is_empty());
    site.created((2, 2000), "hall", &[]);
}

#[test]
fn a_topic_is_half_created_until_data_comes_and_again_when_it_goes() {
    let mut site = site(2, TopicsMode::Implicit);
    site.created((0, 1000), "hall", &[]);
    assert_eq!(code(&site.observe((1, 2000), "ps/hall")), ResponseType::NotFound);
    assert_eq!(site.put((0, 1000), "ps/hall", b"1"), ResponseType::Created);
    assert_eq!(site.put((1, 2000), "ps/hall", b"2"), ResponseType::Changed);
    let observed = site.observe((1, 2000), "ps/hall");
    assert_eq!(
        (code(&observed), &observed.payload[..]),
        (ResponseType::Content, &b"2"[..])
    );
    assert!(observed.get_observe_value().is_some());

    let deleted = site.send((0, 1000), RequestType::Delete, "ps/hall", Vec::new());
    assert_eq!(code(&deleted), ResponseType::Deleted);
    let last = site.sent(1, 2000);
    assert_eq!(
        last.iter().map(code).collect::<Vec<_>>(),
        [ResponseType::NotFound]
    );
    assert_eq!(site.workers[1].observations.len(), 0);
    assert_eq!(code(&site.observe((1, 2000), "ps/hall")), ResponseType::NotFound);
    assert_eq!(site.put((1, 2000), "ps/hall", b"3"), ResponseType::Created);
    assert_eq!(site.put((0, 1000), "ps/hall", b""), ResponseType::BadRequest);
}

#[test]
fn seats_are_counted_over_all_workers_and_the_newest_observers_lose_theirs() {
    let mut site = site(3, TopicsMode::Implicit);
    let path = site.created((0, 1000), "hall", &[(6, Value::from(3))]);
    site.put((0, 1000), "ps/hall", b"1");
    let places = [(0, 2000), (1, 2001), (0, 2002)];
    for place in places {
        assert!(site.observe(place, "ps/hall").get_observe_value().is_some());
    }
    // Who is too many gets what a GET gets; who observes already may renew.
    let over = site.observe((1, 2003), "ps/hall");
    assert_eq!((&over.payload[..], over.get_observe_value()), (&b"1"[..], None));
    assert!(site.observe((1, 2001), "ps/hall").get_observe_value().is_some());

    let fewer = properties(&[(6, Value::from(2))]);
    let patched = site.send((2, 3000), RequestType::IPatch, &path, fewer);
    assert_eq!(code(&patched), ResponseType::Changed);
    let ended = site.ended();
    assert!(
        matches!(ended[..], [(_, 2001 | 2002)]),
        "of its worker's it is the newest: {ended:?}"
    );
    let left = site
        .workers
        .iter()
        .map(|worker| worker.observations.len())
        .sum::<usize>();
    assert_eq!(left, 2);
    let mut stop = site.request(RequestType::Get, "ps/hall", &[]);
    stop.set_observe_value(1);
    site.ask(0, 2000, &stop);
    assert!(site.observe((1, 2003), "ps/hall").get_observe_value().is_some());
}

#[test]
fn a_topic_ends_at_its_date_with_its_data_and_observers() {
    let mut site = site(3, TopicsMode::Implicit);
    let date = cbor!(WALL + 7_300).unwrap();
    let path = site.created((0, 1000), "hall", &[(5, Value::Tag(1, Box::new(date)))]);
    site.put((0, 1000), "ps/hall", b"1");
    site.observe((2, 2000), "ps/hall");
    for minute in 1..=121 {
        site.shared.set_wall(WALL + minute * 60);
        site.pass(Duration::from_secs(60));
    }
    assert_eq!(site.listed((1, 3000)).len(), 1);
    assert!(site.sent(2, 2000).is_empty());
    site.shared.set_wall(WALL + 7_300);
    site.pass(Duration::from_secs(3_600));
    assert!(site.listed((1, 3000)).is_empty());
    assert_eq!(
        site.sent(2, 2000).iter().map(code).collect::<Vec<_>>(),
        [ResponseType::NotFound]
    );
    assert!(site.retained.is_empty());
    assert_eq!(
        code(&site.send((0, 1000), RequestType::Get, &path, Vec::new())),
        ResponseType::NotFound
    );
}

#[test]
fn what_the_broker_kept_is_there_after_a_restart_and_what_is_damaged_is_not() {
    let mut before = site(1, TopicsMode::Implicit);
    let path = before.created((0, 1000), "hall", &[(7, Value::from(30))]);
    before.put((0, 1000), "ps/hall", b"1");
    let mut retained = before.retained;
    let record = retained.keys().next().unwrap().clone();
    assert!(Topic::from_record(&retained[&record].payload).unwrap().is_full);
    let damaged = TopicName::new("$portcullis/test/topics/0123456789abcdef").unwrap();
    let mut message = (*retained[&record]).clone();
    message.topic = damaged.clone();
    retained.insert(damaged, Arc::new(message));

    let mut after = settings(2);
    after.connection_required = false;
    let mut after = Site::with(after);
    after.retained = retained;
    for worker in 0..2 {
        let (filter, event) = (
            after.collections[worker].1,
            crate::bridge::contract::BrokerError::Unavailable,
        );
        let lost = BrokerEvent::SubscriptionLost {
            filter_id: filter,
            error: event,
        };
        after.workers[worker].handle(after.now, Input::Broker(lost));
    }
    after.settle();
    after.pass(Duration::from_secs(10));
    assert_eq!(after.listed((1, 1000)), [format!("</{path}>")]);
    assert_eq!(after.put((1, 1000), "ps/hall", b"2"), ResponseType::Changed);
    assert_eq!(code(&after.observe((1, 1000), "ps/hall")), ResponseType::Content);
    after.pass(Duration::from_secs(31));
    let check = after.sent(1, 1000);
    assert_eq!(
        check[0].header.get_type(),
        MessageType::Confirmable,
        "observer-check"
    );
}

#[test]
fn where_topics_have_to_be_created_others_are_not_there() {
    let mut site = site(1, TopicsMode::Created);
    assert_eq!(site.put((0, 1000), "ps/hall", b"1"), ResponseType::NotFound);
    assert_eq!(code(&site.observe((0, 1000), "ps/hall")), ResponseType::NotFound);
    assert_eq!(
        code(&site.send((0, 1000), RequestType::Get, "ps/hall", vec![])),
        ResponseType::NotFound
    );
    site.created(
        (0, 1000),
        "hall",
        &[(3, Value::from(0)), (8, Value::Bytes(b"first".to_vec()))],
    );
    let read = site.send((0, 1000), RequestType::Get, "ps/hall", vec![]);
    assert_eq!(
        (code(&read), &read.payload[..]),
        (ResponseType::Content, &b"first"[..])
    );
    assert_eq!(
        site.put((0, 1000), "ps/hall", b"x"),
        ResponseType::UnsupportedContentFormat
    );
    let mut text = site.request(RequestType::Put, "ps/hall", &[]);
    text.set_content_format(coap_lite::ContentFormat::TextPlain);
    text.payload = b"second".to_vec();
    assert_eq!(code(&site.ask(0, 1000, &text)[0]), ResponseType::Changed);
}

#[test]
fn a_publish_creates_a_topic_where_that_is_wanted_as_long_as_there_is_room() {
    let mut site = site(2, TopicsMode::Both);
    assert_eq!(site.put((0, 1000), "ps/hall", b"1"), ResponseType::Created);
    assert_eq!(site.put((1, 2000), "ps/hall", b"2"), ResponseType::Changed);
    assert_eq!(site.listed((1, 3000)).len(), 1);
    // Strangers may fill a quarter; what they publish beyond is published all the same.
    for number in 1..MAX_TOPICS / 4 {
        let path = format!("ps/n/{number}");
        assert_eq!(site.put((0, 1000), &path, b"1"), ResponseType::Created);
    }
    assert_eq!(site.put((0, 1000), "ps/n/more", b"1"), ResponseType::Changed);
    let full = site.send((1, 1000), RequestType::Post, "ps", described("more", &[]));
    assert_eq!(code(&full), ResponseType::ServiceUnavailable);
}

#[test]
fn observers_of_a_topic_that_is_created_later_are_its_observers() {
    let mut site = site(3, TopicsMode::Implicit);
    for place in [(0, 2000), (0, 2001), (1, 2002)] {
        site.observe(place, "ps/hall");
    }
    site.created((2, 1000), "hall", &[(6, Value::from(2))]);
    let ended = site.ended();
    assert!(matches!(ended[..], [(_, 2001 | 2002)]), "{ended:?}");
}
