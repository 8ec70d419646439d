//! What the log must never say, at any level.

use crate::support::gateway::hex;
use crate::support::{Config, Gateway, Kind, Request, code, dtls, ms, psk_of};

#[test]
fn no_secret_reaches_the_log_or_the_metrics() {
    for format in ["text", "json"] {
        let config = Config::new()
            .connection_mode()
            .dtls("handshake_timeout = \"1s\"")
            .set("log", &format!("level = \"trace\"\nformat = \"{format}\""));
        let gateway = Gateway::start(config);
        let mut secrets = vec![];
        for kind in [Kind::Udp, Kind::Dtls] {
            let mut client = gateway.client(kind);
            let create =
                format!("mqtt/connection?clientid=visible-{kind:?}&username=u&password=pass-{kind:?}-word");
            let token = client
                .request(&Request::post(&create))
                .expect(code::CREATED)
                .text();
            let pair = format!("clientid=visible-{kind:?}&token={token}");
            let observation = client.observe(&format!("ps/t?{pair}"));
            client.publish(&format!("ps/t?{pair}"), "payload-of-the-device");
            client.notification(&observation.token);
            client.request(&Request::put(&format!(
                "mqtt/connection?clientid=visible-{kind:?}&token=guess-{token}"
            )));
            client.request(&Request::put(&format!("mqtt/connection?{pair}&token={token}")));
            client.request(&Request::post("ps/t").segment(format!("x&{pair}")));
            client.request(&Request::post(&format!("{create}&password=again-{kind:?}")));
            secrets.extend([token, format!("pass-{kind:?}-word"), format!("again-{kind:?}")]);
        }
        secrets.push("payload-of-the-device".to_owned());
        let wrong = dtls::Options::psk("dev1", b"wrong-key-of-dev").patience(ms(300));
        assert!(dtls::connect(gateway.dtls_addr(), &wrong).is_err());
        for identity in ["dev1", "dev2", "dev3", "dev4"] {
            secrets.extend([psk_of(identity), hex(psk_of(identity).as_bytes())]);
        }
        gateway.reload();
        std::thread::sleep(ms(200));
        let said = gateway.log() + &gateway.metrics();
        assert!(said.len() > 1000, "the log says something at level trace: {said}");
        for secret in secrets {
            assert!(!said.contains(&secret), "{secret} is in the log ({format})");
        }
        let mut peer = gateway.client_as(Kind::Dtls, "dev4");
        let token = peer.create("good");
        peer.publish(&format!("ps/a?clientid=good&token={token}"), "served");
    }
}
