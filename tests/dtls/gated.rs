//! Sessions that go on from a copy of their record that was made a while ago.

use std::sync::Arc;
use std::time::Duration;

use portcullis::dtls::contract::{CloseReason, DtlsEvent, DtlsSettings, SendError, SessionId};
use portcullis::dtls::metrics::{RecordDrop, RestoreResult};
use portcullis::dtls::{DtlsShared, Inexact, KeptSessions, may_leave_memory};
use portcullis::state::{Cell, Clock, Contents, Memory, Store};

use crate::bench::{ALL_PSK, Seen, Server, material, peer, psk_client, settings, start};
use crate::dtls_client::{ClientConfig, DtlsClient};

const LISTENER: u64 = 1;
const RANDOM: u64 = 0x12_3456_789a;
const SECOND: Duration = Duration::from_secs(1);
const CHACHA: &str = "CHACHA20";

fn memory(cells: &'static [Cell]) -> Memory {
    Memory {
        cells,
        reserve: Box::new(|_| true),
    }
}

fn clock() -> Clock {
    Clock {
        now: start(),
        up: 100 * SECOND,
        ahead: Duration::ZERO,
    }
}

/// A listener that keeps its sessions in some cells.
struct Site {
    server: Server,
    store: Arc<Store>,
    cells: &'static [Cell],
}

impl Site {
    /// What is random in it goes by `worker`.
    fn over(store: Store, cells: &'static [Cell], settings: DtlsSettings, worker: u8) -> Self {
        let store = Arc::new(store);
        store.watch();
        let mut server = Server::of_worker(&material(), settings, worker, start());
        let shared = DtlsShared::new([9; 32], server.now);
        let kept = KeptSessions::new(Arc::clone(&store), &shared, Vec::new(), None);
        server.listener.keep_in(kept, LISTENER);
        Self { server, store, cells }
    }

    fn new() -> Self {
        let cells = Vec::leak((0..200).map(|_| Cell::default()).collect());
        let store = Store::create(memory(cells), clock(), [0; 2], 0).unwrap();
        Self::over(store, cells, settings(), 0)
    }

    /// The record of the only session.
    fn copy(&self) -> Contents {
        let places = self.store.take_changed(100);
        let [place] = places[..] else { panic!("{places:?}") };
        self.store.snapshot(self.store.record_at(place).unwrap()).unwrap()
    }

    /// What goes on from a copy, and its session.
    fn from_copy(copy: &Contents, generations: u64, settings: DtlsSettings) -> (Self, SessionId) {
        let mut contents = Contents {
            kind: copy.kind,
            hot: copy.hot,
            body: copy.body.clone(),
        };
        let random = RANDOM;
        assert!(Inexact { generations, random }.apply(&mut contents));
        let cells = Vec::leak((0..200).map(|_| Cell::default()).collect());
        let store = Store::create(memory(cells), clock(), [1; 2], 0).unwrap();
        store.fill();
        let record = store.put(contents.kind, &contents.hot, &contents.body).unwrap();
        store.leave(vec![record]);
        store.filled();
        Self::over(store, cells, settings, 0).restored()
    }

    fn restored(mut self) -> (Self, SessionId) {
        let server = &mut self.server;
        assert_eq!(
            server.listener.restore(&mut server.transmits, false),
            [(RestoreResult::Ok, 1)]
        );
        let Some(DtlsEvent::Restored { session, .. }) = server.listener.poll_event() else {
            panic!("nothing is restored")
        };
        (self, session)
    }

    fn gated(&self) -> u64 {
        self.server.metrics.gated_sessions.get()
    }

    /// The device answers the ping of this record.
    fn answer(&mut self, client: &mut DtlsClient, from: u16, ping: &[u8]) -> Vec<u8> {
        client.handle(ping);
        let plaintexts = client.received();
        let [ping] = &plaintexts[..] else {
            panic!("{plaintexts:?}")
        };
        assert_eq!(ping[..2], [0x40, 0]);
        client.send(&[0x70, 0, ping[2], ping[3]]);
        let answer = client.take().concat();
        assert!(self.server.input(peer(from), &answer).is_empty());
        answer
    }
}

fn with_cid(suite: &str) -> ClientConfig {
    ClientConfig {
        cid: Some(vec![6, 6]),
        ..psk_client(suite)
    }
}

/// A device with a session, the copy of its record, and a record that was taken after the copy was made.
fn before(config: &ClientConfig) -> (DtlsClient, Contents, Vec<u8>) {
    let mut site = Site::new();
    let (mut client, session) = site.server.establish(config, peer(1));
    let copy = site.copy();
    client.send(b"unlock");
    let unlock = client.take().concat();
    site.server.input(peer(1), &unlock);
    assert!(
        site.server
            .seen
            .contains(&Seen::Plaintext(session, b"unlock".to_vec()))
    );
    (client, copy, unlock)
}

#[test]
fn nothing_counts_until_the_device_answers_the_ping() {
    let suites = ALL_PSK.iter().filter(|suite| !suite.contains(CHACHA));
    let configs: Vec<_> = suites
        .flat_map(|suite| [psk_client(suite), with_cid(suite)])
        .collect();
    assert_eq!(configs.len(), 12);
    for config in configs {
        let (mut client, copy, unlock) = before(&config);
        let (mut site, session) = Site::from_copy(&copy, 1, settings());
        assert_eq!(site.server.input(peer(1), &unlock).len(), 1);
        // Once more it is not even answered.
        assert!(site.server.input(peer(1), &unlock).is_empty());
        assert_eq!(site.server.dropped(RecordDrop::Replay), 1);
        site.server.now += SECOND;
        client.send(b"hello");
        let pings = site.server.input(peer(1), &client.take().concat());
        assert_eq!((site.server.dropped(RecordDrop::Gated), pings.len()), (2, 1));
        assert!(site.server.seen.is_empty() && site.gated() == 1);
        let answer = site.answer(&mut client, 1, &pings[0].1);
        assert!(site.server.seen.is_empty() && site.gated() == 0);
        // It is no message of the device, and counts once.
        for record in [&unlock, &answer] {
            assert!(site.server.input(peer(1), record).is_empty());
        }
        assert_eq!(site.server.dropped(RecordDrop::Replay), 3);
        assert!(site.server.talks(&mut client, session, peer(1)));
        assert!(site.server.advance(60 * SECOND).is_empty());
    }
}

#[test]
fn alerts_and_repeated_flights_do_not_count_either() {
    let (mut client, copy, _) = before(&psk_client(ALL_PSK[0]));
    let (mut site, _) = Site::from_copy(&copy, 1, settings());
    client.shutdown();
    let goodbye = client.take().concat();
    assert_eq!(site.server.input(peer(1), &goodbye).len(), 1);
    assert_eq!(
        (site.server.dropped(RecordDrop::Gated), site.server.listener.len()),
        (1, 1)
    );
}

#[test]
fn a_device_that_goes_on_speaking_and_answers_no_ping_is_given_up_after_four() {
    let (mut client, copy, _) = before(&psk_client(ALL_PSK[0]));
    let (mut site, session) = Site::from_copy(&copy, 1, settings());
    let mut pings = 0;
    for second in 0..30 {
        // As it repeats a confirmable request.
        if [0, 3, 8, 18].contains(&second) {
            client.send(b"hello");
            pings += site.server.input(peer(1), &client.take().concat()).len();
        }
        assert_eq!(site.server.listener.len(), 1, "{second}");
        pings += site.server.advance(SECOND).len();
    }
    // One for each record and three besides, and the goodbye.
    assert_eq!(pings, 4 + 3 + 1);
    assert_eq!(site.server.seen, [Seen::Closed(session, CloseReason::Unanswered)]);
    let results = &site.server.metrics.restored_from_disk;
    assert_eq!(results.get(RestoreResult::Unanswered), 1);
    assert_eq!((site.gated(), site.store.take_changed(9).len()), (0, 1));
}

#[test]
fn one_recorded_record_does_not_end_the_session_of_a_device_that_sleeps() {
    for config in [psk_client(ALL_PSK[1]), with_cid(ALL_PSK[1])] {
        let (mut client, copy, unlock) = before(&config);
        let patient = DtlsSettings {
            idle_timeout: 7200 * SECOND,
            ..settings()
        };
        let (mut site, session) = Site::from_copy(&copy, 1, patient);
        let mut pings = site.server.input(peer(1), &unlock).len();
        for second in 0..3600 {
            // However often it comes.
            if second % 5 == 0 {
                assert!(site.server.input(peer(1), &unlock).is_empty());
            }
            pings += site.server.advance(SECOND).len();
        }
        assert_eq!((pings, site.server.listener.len(), site.gated()), (4, 1, 1));
        // It wakes up, and is pinged anew.
        client.send(b"hello");
        let pings = site.server.input(peer(1), &client.take().concat());
        site.answer(&mut client, 1, &pings[0].1);
        assert_eq!((site.gated(), site.server.seen.len()), (0, 0));
        assert!(site.server.talks(&mut client, session, peer(1)));
    }
}

#[test]
fn a_session_moves_when_its_device_has_answered_where_it_is_now() {
    let (mut client, copy, unlock) = before(&with_cid(ALL_PSK[0]));
    let (mut site, session) = Site::from_copy(&copy, 1, settings());
    // A replay from an address of somebody's.
    let pings = site.server.input(peer(7), &unlock);
    assert_eq!((pings.len(), pings[0].0), (1, peer(7).socket_addr()));
    assert!(pings[0].1.len() <= unlock.len() + 40);
    // The device's own, from where it is now.
    client.send(b"hello");
    let pings = site.server.input(peer(2), &client.take().concat());
    assert_eq!(pings[0].0, peer(2).socket_addr());
    assert!(site.server.seen.is_empty());
    site.answer(&mut client, 2, &pings[0].1);
    assert_eq!(site.server.seen, [Seen::AddressChanged(session, peer(2))]);
    assert!(site.server.talks(&mut client, session, peer(2)));
}

#[test]
fn what_is_sent_is_led_by_a_ping_and_a_device_that_sleeps_is_waited_for() {
    let (mut client, copy, _) = before(&psk_client(ALL_PSK[1]));
    let (mut site, session) = Site::from_copy(&copy, 1, settings());
    for round in 0..2 {
        let server = &mut site.server;
        server
            .listener
            .send(session, b"news", &mut server.transmits)
            .unwrap();
        assert_eq!(server.output().len(), 2, "{round}");
        // No time was known then.
        assert!(server.listener.poll_timeout().unwrap() <= server.now);
        let repeated: usize = (0..60).map(|_| site.server.advance(SECOND).len()).sum();
        assert_eq!((repeated, site.server.listener.len()), (3, 1));
    }
    let server = &mut site.server;
    server
        .listener
        .send(session, b"news", &mut server.transmits)
        .unwrap();
    let sent = site.server.output();
    site.answer(&mut client, 1, &sent[0].1);
    client.handle(&sent[1].1);
    assert_eq!((client.received(), site.gated()), (vec![b"news".to_vec()], 0));
}

#[test]
fn an_acknowledgement_that_came_before_the_answer_counts_after_it() {
    let (mut client, copy, _) = before(&with_cid(ALL_PSK[1]));
    let (mut site, session) = Site::from_copy(&copy, 1, settings());
    let server = &mut site.server;
    server
        .listener
        .send(session, b"news", &mut server.transmits)
        .unwrap();
    let sent = site.server.output();
    for late in [9, 12] {
        client.send(&[0x60, 0, 7, late]);
        site.server.input(peer(1), &client.take().concat());
    }
    assert!(site.server.seen.is_empty() && site.gated() == 1);
    site.answer(&mut client, 1, &sent[0].1);
    // The last of them, once, and nothing else of what came before.
    let expected = [Seen::Plaintext(session, vec![0x60, 0, 7, 12])];
    assert_eq!((&site.server.seen[..], site.gated()), (&expected[..], 0));
    assert!(site.server.talks(&mut client, session, peer(1)));
}

#[test]
fn numbers_and_nonces_go_on_beyond_all_that_were_used() {
    let (_, copy, unlock) = before(&psk_client(ALL_PSK[1]));
    for generations in [1, 3] {
        let (mut site, _) = Site::from_copy(&copy, generations, settings());
        let sent = site.server.input(peer(1), &unlock);
        let record = &sent[0].1;
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        assert_eq!(number(&record[5..11]), (1 + generations) << 24);
        assert_eq!(number(&record[13..21]), RANDOM << 24);
    }
}

#[test]
fn a_session_that_is_gated_is_so_in_the_next_process_too() {
    let (mut client, copy, unlock) = before(&psk_client(ALL_PSK[1]));
    let (mut site, _) = Site::from_copy(&copy, 1, settings());
    let first = site.server.input(peer(1), &unlock).remove(0).1;
    let open = |site: &Site| Store::open(memory(site.cells), clock(), [1; 2]).unwrap();
    let (mut next, session) = Site::over(open(&site), site.cells, settings(), 1).restored();
    assert_eq!(next.gated(), 1);
    let pings = next.server.input(peer(1), &unlock);
    // Exactly behind the last one.
    assert_eq!(pings[0].1[13..20], first[13..20]);
    assert_eq!((first[20], pings[0].1[20]), (0, 1));
    // The answer to the ping of the process before opens nothing.
    client.handle(&first);
    let ping = client.received().remove(0);
    client.send(&[0x70, 0, ping[2], ping[3]]);
    next.server.input(peer(1), &client.take().concat());
    assert_eq!(next.gated(), 1);
    next.answer(&mut client, 1, &pings[0].1);
    let (mut last, session_now) = Site::over(open(&next), next.cells, settings(), 2).restored();
    assert_eq!((last.gated(), next.gated()), (0, 0));
    assert!(last.server.talks(&mut client, session_now, peer(1)));
    assert!(next.server.listener.session(session).is_some());
}

#[test]
fn a_key_is_charged_with_what_may_have_been_sealed_since() {
    let (mut client, copy, unlock) = before(&psk_client(ALL_PSK[1]));
    let limited = DtlsSettings {
        records_per_key: (1 << 16) + 8,
        ..settings()
    };
    let (mut site, session) = Site::from_copy(&copy, 1, limited);
    let pings = site.server.input(peer(1), &unlock);
    site.answer(&mut client, 1, &pings[0].1);
    let mut sent = 0;
    let server = &mut site.server;
    let refused = loop {
        match server.listener.send(session, b"x", &mut server.transmits) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(
        refused == SendError::KeyLimit && sent < 8,
        "{refused:?} after {sent}"
    );
}

#[test]
fn a_session_whose_key_has_no_record_left_for_a_ping_is_ended_and_not_left_behind_its_gate() {
    let (_, copy, unlock) = before(&psk_client(ALL_PSK[1]));
    let mut ended = Vec::new();
    for spare in 0..10 {
        let limited = DtlsSettings {
            records_per_key: (1 << 16) + spare,
            ..settings()
        };
        let (mut site, session) = Site::from_copy(&copy, 1, limited);
        // The device speaks once; what is repeated later finds the limit too.
        let mut sent = site.server.input(peer(1), &unlock).len();
        site.server.collect_events();
        let is_first = site.server.listener.is_empty();
        sent += (0..29).map(|_| site.server.advance(SECOND).len()).sum::<usize>();
        if site.server.listener.is_empty() {
            assert_eq!(site.server.seen, [Seen::Closed(session, CloseReason::KeyLimit)]);
            assert_eq!((site.gated(), site.store.take_changed(9).len()), (0, 1));
            ended.push((is_first, sent));
        } else {
            assert_eq!((sent, site.gated()), (4, 1), "{spare}");
        }
    }
    // The last record of a key is for the goodbye.
    assert_eq!(ended[0], (true, 0));
    assert!(
        ended.ends_with(&[(true, 1), (false, 2), (false, 3), (false, 4)]),
        "{ended:?}"
    );
}

#[test]
fn where_the_nonce_is_the_record_number_nothing_goes_on() {
    for suite in ALL_PSK.iter().filter(|suite| suite.contains(CHACHA)) {
        let (_, mut copy, _) = before(&psk_client(suite));
        let inexact = Inexact {
            generations: 1,
            random: RANDOM,
        };
        assert!(!may_leave_memory(&copy) && !inexact.apply(&mut copy), "{suite}");
    }
}
