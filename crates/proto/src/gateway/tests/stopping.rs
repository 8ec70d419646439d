//! What clients are told when the gateway stops.

use super::*;

#[test]
fn requests_that_still_wait_for_the_broker_when_it_stops_are_answered() {
    let mut settings = settings(1);
    settings.connection_required = false;
    let mut site = Site::with(settings);
    let publish = site.request(RequestType::Post, "ps/a", &["qos=1"]);
    let read = site.request(RequestType::Get, "ps/a", &[]);
    let mut observe = site.request(RequestType::Get, "ps/a", &[]);
    observe.set_observe_value(0);
    for (port, request) in (1..).zip([&publish, &read, &observe]) {
        let mut bytes = request.to_bytes().unwrap();
        let input = Input::Datagram {
            local: None,
            listener: ListenerId(0),
            from: ([127, 0, 0, 1], port).into(),
            bytes: &mut bytes,
        };
        site.workers[0].handle(site.now, input);
    }
    // A broker that never answers.
    while site.workers[0].poll_output().is_some() {}
    let request = ControlRequest::Drain { goodbye: true };
    site.workers[0].handle(site.now, Input::Control { ticket: 1, request });
    let told: Vec<ResponseType> = site.workers[0]
        .transmits()
        .iter()
        .map(|(_, _, bytes)| code(&Packet::from_bytes(bytes).unwrap()))
        .collect();
    assert_eq!(told, [ResponseType::ServiceUnavailable; 3]);
    assert_eq!(
        site.metrics[0]
            .publishes
            .get(super::super::metrics::PublishResult::Unavailable),
        1
    );
}
