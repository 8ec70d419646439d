//! Handshakes that are connections (`identity = "clientid"`), over several workers; the sessions are feigned.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;

use super::*;
use crate::gateway::kept::listener_mark;
use crate::gateway::nodes::NodeMessage;
use crate::gateway::settings::{DtlsListenerSettings, OnClose};
use crate::gateway::workers::{FromPeer, WorkerMessage};
use crate::policy::authentication::IdentityRole;
use crate::policy::ledger::Table;
use crate::session::{
    CloseReason, DtlsEvent, DtlsSettings, KeyAnswer, RestoreResult, SecureSource, SecureTransport, SendError,
    SessionId, SessionInfo, StreamSettings,
};
use crate::types::reason::{DropReason, Limit};
use crate::types::standing::Standing;
use crate::types::{Identity, PeerAddr, Proof, Transmits, Transport};

/// Every address has a session at once; its port says who it is. A datagram `bye` ends it.
#[derive(Default)]
struct Feigned {
    sessions: HashMap<SessionId, PeerAddr>,
    events: std::collections::VecDeque<DtlsEvent>,
    is_web: bool,
}

impl Feigned {
    fn session_at(&self, address: PeerAddr) -> Option<SessionId> {
        let mut sessions = self.sessions.iter();
        sessions.find(|(_, at)| **at == address).map(|(id, _)| *id)
    }
}

fn identity(address: SocketAddr) -> Identity {
    Identity::new(format!("dev{}", address.port() / 1000), Proof::Psk)
}

impl SecureTransport for Feigned {
    fn handle_datagram(
        &mut self,
        _: Instant,
        from: PeerAddr,
        datagram: &mut [u8],
        _: &mut Transmits,
    ) -> bool {
        let session = self.session_at(from).unwrap_or_else(|| {
            let session = SessionId(u64::from(from.socket_addr().port()));
            self.sessions.insert(session, from);
            self.events.push_back(DtlsEvent::Established {
                session,
                address: from,
                identity: Some(identity(from.socket_addr())),
            });
            session
        });
        if datagram == b"bye" {
            self.sessions.remove(&session);
            let reason = CloseReason::CloseNotify;
            self.events.push_back(DtlsEvent::Closed { session, reason });
        } else if datagram != b"hello" {
            let range = Range {
                start: 0,
                end: datagram.len(),
            };
            self.events.push_back(DtlsEvent::Plaintext { session, range });
        }
        true
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Transmits) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    fn send(
        &mut self,
        session: SessionId,
        plaintext: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), SendError> {
        let to = self.sessions.get(&session).ok_or(SendError::NoSession)?;
        transmits.push(ListenerId(0), *to, plaintext);
        Ok(())
    }

    fn give_keys(&mut self, _: Instant, _: u64, _: KeyAnswer, _: &mut Transmits) {}

    fn max_plaintext(&self, _: SessionId) -> usize {
        16_384
    }

    fn close(&mut self, _: Instant, session: SessionId, _: CloseReason, _: &mut Transmits) {
        self.sessions.remove(&session);
    }

    fn restore(&mut self, _: &mut Transmits, _: bool) -> Vec<(RestoreResult, u64)> {
        Vec::new()
    }

    fn kept(&self, _: SessionId) -> Option<crate::state::Record> {
        None
    }

    fn leave(&mut self, _: Instant, _: &mut Transmits) {
        self.sessions.clear();
    }

    fn close_all(&mut self, _: Instant, _: CloseReason, _: &mut Transmits) {
        self.sessions.clear();
    }

    fn reconfigure(&mut self, _: Instant, settings: DtlsSettings, _: &mut Transmits) {
        self.is_web = settings.stream.is_some_and(|stream| stream.web);
    }

    fn set_pressure(&mut self, _: Duration, _: bool) {}

    fn set_watched(&mut self, _: bool) {}

    fn confirm_address(&mut self, _: SessionId) {}

    fn session(&self, session: SessionId) -> Option<SessionInfo> {
        let address = *self.sessions.get(&session)?;
        Some(SessionInfo {
            address,
            identity: Some(identity(address.socket_addr())),
            suite: "FEIGNED",
            cid: false,
            established_at: clock(),
            resumed: false,
            max_plaintext: 16_384,
        })
    }

    fn session_count(&self) -> usize {
        self.sessions.len()
    }

    fn session_weight(&self) -> usize {
        if self.is_web { 0 } else { 768 }
    }
}

#[derive(Debug)]
pub(super) struct FeignedSource;

impl SecureSource for FeignedSource {
    fn open(&self, _: ListenerId, _: WorkerId, _: DtlsSettings, _: [u8; 32]) -> Box<dyn SecureTransport> {
        Box::new(Feigned::default())
    }
}

fn site(workers: u8, on_close: OnClose) -> Site {
    Site::with(settings_for(workers, on_close))
}

fn settings_for(workers: u8, on_close: OnClose) -> Settings {
    let mut settings = settings(workers);
    settings.listeners[0].dtls = Some(DtlsListenerSettings {
        transport: DtlsSettings {
            handshake_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(3600),
            max_sessions: 100,
            sessions_per_identity: 1_000,
            max_half_open: 100,
            mtu: 1200,
            cid: true,
            handshakes_per_second: 0,
            max_handshakes_per_second: 0,
            legacy_max_sessions: 10,
            records_per_key: u64::MAX,
            wants_identity: true,
            stream: None,
        },
        identity: IdentityRole::ClientId,
        names: Default::default(),
        on_close,
    });
    settings
}

fn say(site: &mut Site, worker: usize, port: u16, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let input = Input::Datagram {
        local: None,
        listener: ListenerId(0),
        from: ([127, 0, 0, 1], port).into(),
        bytes: &mut bytes,
    };
    site.workers[worker].handle(site.now, input);
    site.settle();
}

/// `dev1` with a session at worker 0, where its connection is, which observes `t`.
fn observing(workers: u8, on_close: OnClose) -> Site {
    let mut site = site(workers, on_close);
    let mut observe = site.request(RequestType::Get, "ps/t", &[]);
    observe.set_observe_value(0);
    assert_eq!(code(&site.ask(0, 1000, &observe)[0]), ResponseType::Content);
    site
}

fn connections(site: &Site) -> Vec<usize> {
    site.workers
        .iter()
        .map(|worker| worker.connections.len())
        .collect()
}

#[test]
fn a_new_handshake_at_another_worker_goes_on_with_the_connection_of_the_old_one() {
    let mut site = observing(3, OnClose::Detach);
    say(&mut site, 2, 1001, b"hello");
    site.publish(&Site::message("t", b"x"));
    assert_eq!(site.sent(2, 1001).len(), 1, "the handshake alone moves it");
    let publish = site.request(RequestType::Post, "ps/u", &[]);
    assert_eq!(code(&site.ask(2, 1001, &publish)[0]), ResponseType::Changed);
    assert_eq!(connections(&site), [1, 0, 0]);
    assert_eq!(site.events(ConnectionEvent::Implicit), 1);
}

#[test]
fn sessions_of_one_identity_have_its_share_at_all_workers_together() {
    let mut settings = settings_for(2, OnClose::End);
    settings.caps.memory_per_identity = 3_000;
    let mut site = Site::with(settings);
    let sessions = |site: &Site| -> Vec<usize> {
        let counts = site
            .workers
            .iter()
            .map(|worker| worker.dtls[0].as_ref().unwrap().session_count());
        counts.collect()
    };
    for port in 1000..1003 {
        say(&mut site, usize::from(port % 2), port, b"hello");
    }
    assert_eq!(sessions(&site), [1, 1], "the third goes");
    say(&mut site, 0, 2000, b"hello");
    assert_eq!(sessions(&site), [2, 1], "another identity has its own");
    say(&mut site, 1, 1001, b"bye");
    say(&mut site, 0, 1004, b"hello");
    assert_eq!(sessions(&site), [3, 0]);
    let refused = site
        .workers
        .iter()
        .map(|worker| worker.metrics.limits.get(Limit::IdentityMemory));
    assert_eq!(refused.sum::<u64>(), 1);
}

#[test]
fn a_session_gives_back_what_it_took_though_one_weighs_something_else_by_then() {
    let mut settings = settings_for(1, OnClose::End);
    settings.caps.memory_per_identity = 3_000;
    let mut site = Site::with(settings.clone());
    for port in [1000, 1001] {
        say(&mut site, 0, port, b"hello");
    }
    let before = Arc::clone(&site.workers[0].settings);
    if let Some(dtls) = &mut settings.listeners[0].dtls {
        let web = true;
        dtls.transport.stream = Some(StreamSettings {
            web,
            ..Default::default()
        });
    }
    let reconfigure = |site: &mut Site, settings| {
        let answer = site.control(0, ControlRequest::Reconfigure { settings });
        assert!(matches!(answer, ControlAnswer::Done));
    };
    reconfigure(&mut site, Arc::new(settings));
    for port in [1000, 1001] {
        say(&mut site, 0, port, b"bye");
    }
    reconfigure(&mut site, before);
    for port in [1002, 1003] {
        say(&mut site, 0, port, b"hello");
    }
    let count = site.workers[0].dtls[0].as_ref().unwrap().session_count();
    assert_eq!((count, site.metrics[0].limits.get(Limit::IdentityMemory)), (2, 0));
}

#[test]
fn what_waits_for_a_client_that_is_away_is_weighed_though_it_has_no_body() {
    let mut site = observing(1, OnClose::Detach);
    let waiting = |site: &Site| {
        site.metrics[0]
            .standing_bytes
            .of(Standing::Known)
            .get(Table::Queues)
    };
    say(&mut site, 0, 1000, b"bye");
    for _ in 0..30 {
        site.publish(&Site::message("t", b""));
    }
    assert!(waiting(&site) >= 30 * 150, "{}", waiting(&site));
    say(&mut site, 0, 1001, b"hello");
    assert_eq!(site.sent(0, 1001).len(), 30);
    assert_eq!(waiting(&site), 0);
}

#[test]
fn a_session_outlives_its_connection_at_another_worker_and_makes_it_anew() {
    let mut site = observing(2, OnClose::Detach);
    say(&mut site, 1, 1001, b"hello");
    site.pass(Duration::from_secs(60));
    assert_eq!(connections(&site), [0, 0]);
    let publish = site.request(RequestType::Post, "ps/u", &[]);
    assert_eq!(code(&site.ask(1, 1001, &publish)[0]), ResponseType::Changed);
    assert_eq!(connections(&site), [0, 1]);
}

#[test]
fn a_request_on_its_way_to_a_connection_that_ends_is_served_by_the_next_one() {
    let mut site = observing(2, OnClose::Detach);
    say(&mut site, 1, 1001, b"hello");
    let publish = site.request(RequestType::Post, "ps/u", &[]);
    let mut bytes = publish.to_bytes().unwrap();
    let input = Input::Datagram {
        local: None,
        listener: ListenerId(0),
        from: ([127, 0, 0, 1], 1001).into(),
        bytes: &mut bytes,
    };
    site.workers[1].handle(site.now, input);
    let Some(Output::Worker { to, message }) = site.workers[1].poll_output() else {
        panic!("it is handed on");
    };
    let WorkerMessage::FromPeer(_, FromPeer::Request(_, Some(key))) = &message else {
        panic!("{message:?}");
    };
    assert_eq!((to, key.worker()), (WorkerId(0), WorkerId(0)));
    // It expires before the request arrives.
    site.now += Duration::from_secs(60);
    let now = site.now;
    site.workers[0].handle_timeout(now);
    assert_eq!(connections(&site), [0, 0]);
    site.workers[0].handle(now, Input::Worker(message));
    site.settle();
    let answers = site.sent(1, 1001);
    assert_eq!(code(answers.last().unwrap()), ResponseType::Changed);
    assert_eq!(connections(&site), [0, 1]);
}

#[test]
fn requests_of_a_handshake_whose_connection_is_not_made_yet_wait_for_it_in_order() {
    let mut site = site(8, OnClose::Detach);
    let home = usize::from(ClientDirectory::home(&crate::types::ClientId::new("dev1").unwrap(), 8).0);
    let worker = (home + 1) % 8;
    for n in 0..20 {
        let publish = site.request(RequestType::Post, &format!("ps/{n}"), &[]);
        let mut bytes = publish.to_bytes().unwrap();
        let input = Input::Datagram {
            local: None,
            listener: ListenerId(0),
            from: ([127, 0, 0, 1], 1000).into(),
            bytes: &mut bytes,
        };
        site.workers[worker].handle(site.now, input);
    }
    let refused = site.sent(worker, 1000).len();
    site.settle();
    let served = site.sent(worker, 1000);
    assert!(served.iter().all(|answer| code(answer) == ResponseType::Changed));
    assert!(refused > 0 && refused + served.len() == 20, "{refused} refused");
    let mids: Vec<_> = served.iter().map(|answer| answer.header.message_id).collect();
    assert!(mids.is_sorted(), "{mids:?}");
    assert_eq!(connections(&site).iter().sum::<usize>(), 1);
}

#[test]
fn who_only_named_a_client_id_gives_way_to_who_proves_it() {
    let mut site = site(2, OnClose::Detach);
    let named = WorkerMessage::Register {
        ticket: crate::bridge::contract::Ticket(1),
        client: crate::types::ClientId::new("dev1").unwrap(),
        key: crate::policy::connections::ConnectionKey(WorkerId(1).first_id() + 99),
        owner: crate::policy::connections::Owner::Udp,
        join: false,
        ended: None,
    };
    let home = usize::from(ClientDirectory::home(&crate::types::ClientId::new("dev1").unwrap(), 2).0);
    site.workers[home].handle(site.now, Input::Worker(named));
    site.settle();
    let publish = site.request(RequestType::Post, "ps/u", &[]);
    assert_eq!(code(&site.ask(0, 1000, &publish)[0]), ResponseType::Changed);
}

#[test]
fn a_session_that_ends_at_another_worker_ends_or_leaves_its_connection() {
    for (on_close, left) in [(OnClose::End, 0), (OnClose::Detach, 1)] {
        let mut site = observing(2, on_close);
        say(&mut site, 1, 1001, b"hello");
        say(&mut site, 1, 1001, b"bye");
        assert_eq!(connections(&site), [left, 0]);
        if left == 0 {
            continue;
        }
        site.publish(&Site::message("t", b"meanwhile"));
        say(&mut site, 1, 1002, b"hello");
        let sent = site.sent(1, 1002);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].payload, b"meanwhile");
    }
}

#[test]
fn a_kick_ends_the_session_at_another_worker() {
    let mut site = observing(2, OnClose::Detach);
    say(&mut site, 1, 1001, b"hello");
    let client = crate::types::ClientId::new("dev1").unwrap();
    let kicked = site.control(0, ControlRequest::Kick { client });
    assert!(matches!(kicked, ControlAnswer::Done));
    assert_eq!(connections(&site), [0, 0]);
    let gateway = &site.workers[1];
    assert_eq!(gateway.dtls[0].as_ref().unwrap().session_count(), 0);
}

#[test]
fn an_answer_of_another_node_does_not_leave_by_a_listener_that_is_stopped() {
    let mut site = site(1, OnClose::End);
    let name = &site.workers[0].settings.listeners[0].name;
    let listener = listener_mark(Transport::Dtls, name) as u32;
    let to = PeerAddr::new(([192, 0, 2, 1], 1000).into()).unwrap();
    let answer = |site: &mut Site| {
        let bytes = b"of another node"[..].into();
        let message = WorkerMessage::OfNode(NodeMessage::Answer { listener, to, bytes });
        site.workers[0].handle(site.now, Input::Worker(message));
        let left = site.workers[0].transmits().len();
        site.workers[0].transmits_sent();
        left
    };
    assert_eq!(answer(&mut site), 1);
    for (enabled, left) in [(false, 0), (true, 1)] {
        let listener = ListenerId(0);
        site.control(0, ControlRequest::SetListener { listener, enabled });
        site.workers[0].transmits_sent();
        assert_eq!(answer(&mut site), left, "{enabled}");
    }
    let dropped = &site.workers[0].metrics.listeners[0].dropped;
    assert_eq!(dropped.get(DropReason::ListenerStopped), 1);
}
