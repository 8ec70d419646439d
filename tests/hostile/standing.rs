//! Strangers, and devices that want too much: what they make the gateway keep is theirs, and nobody else goes without for it.

use std::net::{Ipv4Addr, UdpSocket};
use std::ops::Range;

use crate::support::dtls::Options;
use crate::support::{Client, Config, Gateway, Kind, Request, code, ms, psk_of};

const STRANGERS: u32 = 12_000;

/// Whoever was there before, and must be served afterwards.
struct Standing {
    gateway: Gateway,
    session: Client,
    rss: u64,
}

impl Standing {
    fn start(limits: &str) -> Self {
        let config = Config::new().set("node", "workers = 1").set("limits", limits);
        let gateway = Gateway::start(config);
        gateway.assert_serves();
        let mut session = gateway.client(Kind::Dtls);
        session
            .request(&Request::put("ps/standing").payload("1"))
            .expect(code::CHANGED);
        Self {
            rss: gateway.rss_kib(),
            session,
            gateway,
        }
    }

    /// One datagram, not confirmable, from each of many addresses.
    fn strangers(&self, numbers: Range<u32>, request: impl Fn(u32) -> Request) {
        let mut template = self.gateway.client(Kind::Udp);
        for n in numbers {
            let mut datagram = template.message(&request(n)).encode();
            datagram[0] |= 0x10;
            let [.., high, low] = n.to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, high, low), 0)).unwrap();
            let _ = socket.send_to(&datagram, self.gateway.udp_addr());
            if n % 128 == 127 {
                std::thread::sleep(ms(4));
            }
        }
    }

    /// The standing session publishes and observes, and new peers of both kinds are served.
    fn are_served(mut self, most_kib: u64) {
        self.session
            .request(&Request::put("ps/standing").payload("2"))
            .expect(code::CHANGED);
        let _seen = self.session.observe("ps/standing");
        for n in 0..20 {
            let mut new = self.gateway.client(Kind::Udp);
            let answer = new.request(&Request::put("ps/new").payload(n.to_string()));
            answer.expect(code::CHANGED);
        }
        self.gateway.assert_serves();
        let refuses = ["action=\"refuse_all\""];
        assert!(self.gateway.metric("overload_active", &refuses) < 1.0);
        let grown = self.gateway.rss_kib().saturating_sub(self.rss);
        assert!(grown < most_kib, "{grown} KiB more than before");
    }
}

#[test]
fn forged_connections_refuse_nobody_else() {
    let standing = Standing::start("memory = \"8MiB\"");
    standing.strangers(0..STRANGERS, |n| {
        Request::post(&format!("mqtt/connection?c=forged-{n}"))
    });
    let kept = standing
        .gateway
        .metric("standing_bytes", &["standing=\"unproven\""]);
    assert!(kept <= 2.2 * 1024.0 * 1024.0, "{kept} bytes of strangers");
    standing.are_served(48 << 10);
}

#[test]
fn forged_observations_lock_nobody_out() {
    let standing = Standing::start("memory = \"8MiB\"");
    standing.strangers(0..STRANGERS, |n| {
        Request::get(&format!("ps/forged/{}", n % 50)).observe(0)
    });
    standing.are_served(48 << 10);
}

#[test]
fn transfers_that_strangers_begin_end_nobody_elses() {
    let mut standing = Standing::start("memory = \"6MiB\"");
    let mut uploads: Vec<(String, Client)> = vec![];
    for (kind, name) in [(Kind::Dtls, "known"), (Kind::Udp, "new")] {
        uploads.push((
            format!("ps/upload/{name}?retain=1"),
            standing.gateway.client(kind),
        ));
    }
    let block = |uri: &str, num: u32, more| Request::put(uri).payload([7; 128]).block1(num, more, 128);
    for num in 0..6 {
        standing.strangers(2_000 * num..2_000 * (num + 1), |n| {
            Request::put(&format!("ps/never/{n}"))
                .payload([1; 128])
                .block1(0, true, 128)
        });
        for (uri, client) in &mut uploads {
            client.request(&block(uri, num, true)).expect(code::CONTINUE);
        }
        standing
            .session
            .request(&block("ps/upload/standing", num, true))
            .expect(code::CONTINUE);
    }
    standing
        .session
        .request(&block("ps/upload/standing", 6, false))
        .expect(code::CHANGED);
    for (uri, client) in &mut uploads {
        client.request(&block(uri, 6, false)).expect(code::CHANGED);
        assert_eq!(client.read(uri.trim_end_matches("?retain=1")), [7; 7 * 128]);
    }
    let blocks = ["table=\"blocks\"", "standing=\"unproven\""];
    let kept = standing.gateway.metric("standing_bytes", &blocks);
    assert!(kept <= 1024.0 * 1024.0, "{kept} bytes of strangers");
    standing.are_served(48 << 10);
}

#[test]
fn one_device_with_many_sessions_has_its_share_of_observations() {
    let limits = "handshakes_per_second = 0\nper_identity = { sessions = 6, observations = 40 }";
    let standing = Standing::start(limits);
    let options = Options::psk("dev3", psk_of("dev3").as_bytes());
    let (mut granted, mut refused, mut latest) = (0, 0, (0, 0));
    let mut sessions = Vec::new();
    for session in 0..9 {
        let mut client = Client::dtls(standing.gateway.dtls_addr(), &options);
        for n in 0..12 {
            let answer = client.request(&Request::get(&format!("ps/greedy/{session}/{n}")).observe(0));
            match answer.code {
                code::CONTENT => {
                    granted += 1;
                    latest = (session, n);
                }
                code::UNAVAILABLE => refused += 1,
                _ => panic!("{answer:?}"),
            }
        }
        sessions.push(client);
    }
    assert!(granted > 0 && refused > 0, "{granted} granted, {refused} refused");
    // What it has it may ask for again.
    let (session, n) = latest;
    let again = Request::get(&format!("ps/greedy/{session}/{n}")).observe(0);
    sessions[session].request(&again).expect(code::CONTENT);
    let observations = standing.gateway.metric("subscriptions", &[]);
    // Those of the peers that were served before stand beside them.
    assert!(observations <= 44.0, "{observations}");
    let limit = ["limit=\"per_identity_sessions\""];
    assert!(standing.gateway.metric("limits_rejected_total", &limit) >= 3.0);
    standing.are_served(48 << 10);
}
