//! Sessions with a Connection ID (RFC 9146) over IPv6: whatever port they come from, their worker has them.

use crate::roaming::Roaming;
use crate::support::{Client, Config, Gateway};

#[test]
fn sessions_over_ipv6_keep_their_worker_and_observations_from_any_port() {
    let port = crate::support::ports::reserve();
    let config = Config::new().set("node", "workers = 4").set(
        "listeners.dtls.six",
        &format!("bind = \"[::1]:{}\"\npsk_file = \"psk.txt\"", port.number),
    );
    let gateway = Gateway::start(config);
    let server = format!("[::1]:{}", port.number).parse().unwrap();
    for device in 0..4 {
        let mut client = Client::over(Box::new(Roaming::connect(server)));
        let topic = format!("ps/six/{}", device);
        let observation = client.observe(&topic);
        for n in 0..10 {
            client.publish(&topic, format!("{n}"));
            assert_eq!(client.notification(&observation.token).text(), n.to_string());
        }
    }
    gateway.metric_becomes(
        "dtls_handshakes_total",
        &["listener=\"six\"", "result=\"ok\""],
        4.0,
    );
    gateway.metric_becomes("dtls_cid_sessions", &[], 4.0);
}
