//! A whole gateway with a DTLS listener on a table: what the layers above do when a session ends under them.

use std::sync::Arc;
use std::time::Duration;

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use portcullis::bridge::contract::BrokerRequest;
use portcullis::coap::CoapMetrics;
use portcullis::coap::contract::CoapSettings;
use portcullis::dtls::contract::{CloseReason, DtlsSettings};
use portcullis::dtls::{ContextCell, DtlsContext, DtlsMetrics, DtlsShared, DtlsSource};
use portcullis::gateway::contract::{ControlRequest, Input, Output};
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::settings::{
    DefaultQos, DtlsListenerSettings, ListenerSettings, NotifyType, OnClose, Settings, TopicsMode,
};
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::policy::acl::Acl;
use portcullis::policy::authentication::{IdentityRole, Verdict};
use portcullis::policy::authorization::{Authorizer, NoMatch};
use portcullis::types::limits::Caps;
use portcullis::types::{AccessRules, ListenerId, PeerAddr, WorkerId};

use crate::bench::{material, peer, psk_client, settings as dtls_settings, start};
use crate::dtls_client::DtlsClient;

const GCM: &str = "PSK-AES128-GCM-SHA256";

/// Identities are user names, everyone is asked about, and `u1` may not do what `admin` may.
fn settings(transport: DtlsSettings) -> Settings {
    let acl = "user admin\ntopic readwrite #\nuser u1\ntopic readwrite own/#";
    Settings {
        node: "test".into(),
        workers: 1,
        connection_required: false,
        heartbeat: None,
        notify_type: NotifyType::Qos,
        publish_qos: DefaultQos::Coap,
        subscribe_qos: DefaultQos::Coap,
        mountpoint: "".into(),
        observe_check: Duration::from_secs(86_400),
        topics: TopicsMode::Implicit,
        pubsub_content_format: 606,
        translations: Arc::default(),
        sleep: Default::default(),
        coap: CoapSettings::default(),
        caps: Caps::default(),
        authorizer: Authorizer::new(Some(Arc::new(Acl::parse(acl).unwrap())), NoMatch::Deny),
        requests_per_second: 0,
        unproven_datagrams_per_second: 0,
        failed_logins_per_minute: 0,
        tells_requests: false,
        listeners: vec![ListenerSettings {
            name: "default".into(),
            dtls: Some(DtlsListenerSettings {
                transport,
                identity: IdentityRole::Username,
                names: Default::default(),
                on_close: OnClose::Detach,
            }),
            access: AccessRules::default(),
            authentication: true,
            token_in_username: false,
            mountpoint: Some("fleet/".into()),
            overrides: Default::default(),
            fresh_requests: None,
            max_peers: 0,
            health: None,
        }],
    }
}

struct House {
    gateway: Gateway,
    now: std::time::Instant,
    settings: Arc<Settings>,
    dtls: Arc<DtlsMetrics>,
    metrics: Arc<GatewayMetrics>,
    logins: Vec<u64>,
    broker: Vec<BrokerRequest>,
}

impl House {
    fn new(transport: DtlsSettings) -> Self {
        let now = start();
        let settings = Arc::new(settings(transport));
        let (dtls, metrics) = (Arc::new(DtlsMetrics::default()), Arc::new(GatewayMetrics::new(1)));
        let parts = Parts {
            worker: WorkerId(0),
            settings: Arc::clone(&settings),
            shared: Arc::new(Shared::new(now, &settings, [2; 32])),
            dtls: vec![Some(Arc::new(DtlsSource {
                contexts: ContextCell::new(Arc::new(DtlsContext::new(&material()).unwrap())),
                shared: DtlsShared::new([9; 32], now),
                metrics: Arc::clone(&dtls),
                kept: None,
            }))],
            coap_metrics: Arc::new(CoapMetrics::new(1)),
            metrics: Arc::clone(&metrics),
            seed: [1; 32],
            store: None,
        };
        Self {
            gateway: Gateway::new(now, parts),
            now,
            settings,
            dtls,
            metrics,
            logins: Vec::new(),
            broker: Vec::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Vec<u8>> {
        self.gateway.handle(self.now, input);
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Authenticate { request, .. } => self.logins.push(request.ticket),
                Output::Broker(request) => self.broker.push(request),
                Output::Control { .. } | Output::Event(_) => {}
                Output::Worker { .. } => panic!("there is one worker"),
                Output::Forward { .. } | Output::Seek(_) => panic!("there is one node"),
                Output::FindKeys { .. } => panic!("the keys are in a file"),
            }
        }
        let sent = self.gateway.transmits().iter();
        let sent = sent.map(|(_, _, bytes)| bytes.to_vec()).collect();
        self.gateway.transmits_sent();
        sent
    }

    fn datagram(&mut self, from: PeerAddr, bytes: &mut [u8]) -> Vec<Vec<u8>> {
        self.input(Input::Datagram {
            local: None,
            listener: ListenerId(0),
            from: from.socket_addr(),
            bytes,
        })
    }

    fn control(&mut self, request: ControlRequest) {
        self.input(Input::Control { ticket: 1, request });
    }

    fn establish(&mut self, from: PeerAddr) -> DtlsClient {
        let mut client = DtlsClient::new(&psk_client(GCM));
        client.connect();
        loop {
            let out = client.take();
            if out.is_empty() {
                break;
            }
            for mut datagram in out {
                for answer in self.datagram(from, &mut datagram) {
                    client.handle(&answer);
                }
            }
        }
        assert!(client.is_connected());
        client
    }

    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(due) = self.gateway.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.gateway.handle_timeout(self.now);
            self.gateway.transmits_sent();
        }
        self.now = until;
    }

    /// Lets all who wait for a word of the backend in.
    fn let_in(&mut self) {
        for ticket in std::mem::take(&mut self.logins) {
            let verdict = Verdict::allow();
            self.input(Input::Authenticated { ticket, verdict });
        }
    }

    fn reload(&mut self) {
        self.control(ControlRequest::Reconfigure {
            settings: Arc::clone(&self.settings),
        });
    }
}

fn request(method: RequestType, path: &str, query: &[&str]) -> Packet {
    let mut packet = Packet::new();
    packet.header.set_type(MessageType::Confirmable);
    packet.header.code = MessageClass::Request(method);
    packet.header.message_id = 7;
    packet.set_token(b"tok".to_vec());
    for segment in path.split('/') {
        packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
    }
    for option in query {
        packet.add_option(CoapOption::UriQuery, option.as_bytes().to_vec());
    }
    packet
}

/// A request and close_notify in one datagram: its sender is gone when the backend says that it may come in.
fn ask_and_leave(house: &mut House, packet: &Packet) {
    let mut client = house.establish(peer(1));
    client.send(&packet.to_bytes().unwrap());
    client.shutdown();
    let mut datagram = client.take().concat();
    house.datagram(peer(1), &mut datagram);
    assert_eq!(house.logins.len(), 1);
    assert_eq!(house.dtls.closed.get(CloseReason::CloseNotify), 1);
    house.let_in();
}

#[test]
fn a_publish_whose_session_ended_before_it_was_let_in_is_not_done_in_anothers_name() {
    let mut house = House::new(dtls_settings());
    ask_and_leave(
        &mut house,
        &request(RequestType::Post, "ps/secret", &["username=admin"]),
    );
    assert!(house.broker.is_empty(), "{:?}", house.broker);
}

#[test]
fn an_observation_whose_session_ended_before_it_was_let_in_leaves_nothing() {
    let mut house = House::new(dtls_settings());
    let mut observe = request(RequestType::Get, "ps/secret", &["username=admin"]);
    observe.set_observe_value(0);
    ask_and_leave(&mut house, &observe);
    assert!(house.broker.is_empty(), "{:?}", house.broker);
    assert_eq!(house.metrics.subscriptions.get(), 0);
}

#[test]
fn a_request_that_waits_for_the_backend_is_done_while_its_session_lives() {
    let mut house = House::new(dtls_settings());
    let mut client = house.establish(peer(1));
    client.send(
        &request(RequestType::Post, "ps/own/x", &["username=admin"])
            .to_bytes()
            .unwrap(),
    );
    house.datagram(peer(1), &mut client.take().concat());
    house.let_in();
    let [BrokerRequest::Publish { message, .. }] = &*house.broker else {
        panic!("{:?}", house.broker)
    };
    assert_eq!(message.topic.as_str(), "fleet/own/x");
}

#[test]
fn idle_sessions_end_sooner_under_pressure_and_as_late_as_ever_without() {
    for (memory, minutes) in [(0.1, 60), (0.61, 30), (0.76, 15), (0.86, 8), (0.96, 4)] {
        let mut house = House::new(dtls_settings());
        let _client = house.establish(peer(1));
        house.control(ControlRequest::Pressure { memory, spool: 0.0 });
        house.pass(Duration::from_secs(60 * (minutes - 1) - 30));
        assert_eq!(house.dtls.sessions.get(), 1, "memory {memory}");
        house.pass(Duration::from_secs(90));
        assert_eq!(house.dtls.closed.get(CloseReason::Idle), 1, "memory {memory}");
    }
}

#[test]
fn a_busy_session_stays_under_pressure() {
    let mut house = House::new(dtls_settings());
    let mut client = house.establish(peer(1));
    let memory = 0.86;
    house.control(ControlRequest::Pressure { memory, spool: 0.0 });
    for _ in 0..10 {
        house.pass(Duration::from_secs(400));
        // A ping.
        client.send(&[0x40, 0, 0, 1]);
        house.datagram(peer(1), &mut client.take().concat());
    }
    assert_eq!(house.dtls.sessions.get(), 1);
    let memory = 0.1;
    house.control(ControlRequest::Pressure { memory, spool: 0.0 });
    house.pass(Duration::from_secs(3000));
    assert_eq!(house.dtls.sessions.get(), 1, "the pressure is over");
}

#[test]
fn a_reload_under_pressure_does_not_forget_the_pressure() {
    let mut house = House::new(dtls_settings());
    let _client = house.establish(peer(1));
    let memory = 0.61;
    house.control(ControlRequest::Pressure { memory, spool: 0.0 });
    house.pass(Duration::from_secs(10));
    house.reload();
    house.pass(Duration::from_secs(1800));
    assert_eq!(house.dtls.closed.get(CloseReason::Idle), 1);
}
