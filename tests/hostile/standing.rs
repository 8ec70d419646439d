//! Strangers, and devices that want too much: what they make the gateway keep is theirs, and nobody else goes without for it.

use std::net::{Ipv4Addr, UdpSocket};

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
    fn strangers(&self, request: impl Fn(u32) -> Request) {
        let mut template = self.gateway.client(Kind::Udp);
        for n in 0..STRANGERS {
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
    standing.strangers(|n| Request::post(&format!("mqtt/connection?c=forged-{n}")));
    let kept = standing
        .gateway
        .metric("standing_bytes", &["standing=\"unproven\""]);
    assert!(kept <= 2.2 * 1024.0 * 1024.0, "{kept} bytes of strangers");
    standing.are_served(48 << 10);
}

#[test]
fn forged_observations_lock_nobody_out() {
    let standing = Standing::start("memory = \"8MiB\"");
    standing.strangers(|n| Request::get(&format!("ps/forged/{}", n % 50)).observe(0));
    standing.are_served(48 << 10);
}

#[test]
fn one_device_with_many_sessions_has_its_share_of_observations() {
    let limits = "handshakes_per_second = 0\nper_identity = { sessions = 6, observations = 40 }";
    let standing = Standing::start(limits);
    let options = Options::psk("dev3", psk_of("dev3").as_bytes());
    let (mut granted, mut refused) = (0, 0);
    let mut sessions = Vec::new();
    for session in 0..9 {
        let mut client = Client::dtls(standing.gateway.dtls_addr(), &options);
        for n in 0..12 {
            let answer = client.request(&Request::get(&format!("ps/greedy/{session}/{n}")).observe(0));
            match answer.code {
                code::CONTENT => granted += 1,
                code::UNAVAILABLE => refused += 1,
                _ => panic!("{answer:?}"),
            }
        }
        sessions.push(client);
    }
    assert!(granted > 0 && refused > 0, "{granted} granted, {refused} refused");
    let observations = standing.gateway.metric("subscriptions", &[]);
    // Those of the peers that were served before stand beside them.
    assert!(observations <= 44.0, "{observations}");
    let limit = ["limit=\"per_identity_sessions\""];
    assert!(standing.gateway.metric("limits_rejected_total", &limit) >= 3.0);
    standing.are_served(48 << 10);
}
