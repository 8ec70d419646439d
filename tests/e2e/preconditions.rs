//! If-Match and If-None-Match on what is retained (RFC 7252, 5.10.8).

use crate::each_transport;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, option};

each_transport!(
    what_is_there_changes_only_for_who_knows_it,
    a_read_that_brings_the_etag_of_what_is_there_gets_no_payload,
    what_is_not_there_is_made_once,
    conditions_on_what_has_no_state_are_never_met,
    of_many_who_want_to_be_first_one_is,
);

const IF_MATCH: u16 = 1;
const IF_NONE_MATCH: u16 = 5;

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

fn etag(client: &mut Client, uri: &str) -> Vec<u8> {
    let read = client.request(&Request::get(uri)).expect(code::CONTENT);
    read.option(option::ETAG).expect("an ETag").to_vec()
}

fn put(client: &mut Client, payload: &str, conditions: &[(u16, &[u8])]) -> Message {
    let request = Request::put("ps/a?retain=1").payload(payload);
    let with = |request: Request, (number, value): &(u16, &[u8])| request.option(*number, value);
    client.request(&conditions.iter().fold(request, with))
}

fn what_is_there_changes_only_for_who_knows_it(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", "1");
    let first = etag(&mut client, "ps/a");
    assert_eq!(etag(&mut client, "ps/a"), first, "the same state, the same ETag");
    put(&mut client, "2", &[(IF_MATCH, b"other"), (IF_MATCH, &first)]).expect(code::CHANGED);
    let second = etag(&mut client, "ps/a");
    assert_ne!(first, second);
    put(&mut client, "3", &[(IF_MATCH, &first)]).expect(code::PRECONDITION_FAILED);
    let known = Request::get("ps/a").option(IF_MATCH, &second);
    assert_eq!(client.request(&known).expect(code::CONTENT).text(), "2");
    let unknown = Request::get("ps/a").option(IF_MATCH, &first);
    client.request(&unknown).expect(code::PRECONDITION_FAILED);
    let delete = |etag: &[u8]| Request::delete("ps/a").option(IF_MATCH, etag);
    client.request(&delete(&first)).expect(code::PRECONDITION_FAILED);
    assert_eq!(client.read("ps/a"), b"2");
    client.request(&delete(&second)).expect(code::DELETED);
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
    gateway.metric_becomes("publishes_total", &["result=\"precondition\""], 2.0);
}

fn a_read_that_brings_the_etag_of_what_is_there_gets_no_payload(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", "x".repeat(2_000));
    let known = etag(&mut client, "ps/a");
    let again = Request::get("ps/a").option(option::ETAG, &known);
    let valid = client.request(&again).expect(code::VALID);
    assert_eq!(
        (valid.option(option::ETAG), valid.payload.len()),
        (Some(&known[..]), 0)
    );
    client.publish("ps/a?retain=1", "new");
    assert_eq!(client.request(&again).expect(code::CONTENT).text(), "new");
    gateway.metric_becomes("coap_messages_sent_total", &["code=\"2.03\""], 1.0);
}

fn what_is_not_there_is_made_once(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    put(&mut client, "0", &[(IF_MATCH, b"")]).expect(code::PRECONDITION_FAILED);
    put(&mut client, "1", &[(IF_NONE_MATCH, b"")]).expect(code::CHANGED);
    put(&mut client, "2", &[(IF_NONE_MATCH, b"")]).expect(code::PRECONDITION_FAILED);
    assert_eq!(client.read("ps/a"), b"1");
    put(&mut client, "3", &[(IF_MATCH, b"")]).expect(code::CHANGED);
    put(&mut client, "4", &[(IF_MATCH, b""), (IF_NONE_MATCH, b"")]).expect(code::PRECONDITION_FAILED);
    assert_eq!(client.read("ps/a"), b"3");
    // What has run out is not there.
    client.publish("ps/a?retain=1&expiry=1", "short");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    put(&mut client, "5", &[(IF_NONE_MATCH, b"")]).expect(code::CHANGED);
}

fn conditions_on_what_has_no_state_are_never_met(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", "1");
    for request in [
        Request::get("ps/a").observe(0),
        Request::get("ps"),
        Request::get(".well-known/core"),
        Request::post("mqtt/connection?clientid=x"),
    ] {
        let request = request.option(IF_MATCH, b"");
        client.request(&request).expect(code::PRECONDITION_FAILED);
    }
    gateway.metric_becomes("subscriptions", &[], 0.0);
    gateway.metric_becomes("connections", &[], 0.0);
}

fn of_many_who_want_to_be_first_one_is(kind: Kind) {
    let gateway = gateway();
    let clients: Vec<_> = (0..12).map(|_| gateway.client(kind)).collect();
    let first = |(number, mut client): (usize, Client)| {
        std::thread::spawn(move || put(&mut client, &number.to_string(), &[(IF_NONE_MATCH, b"")]).code)
    };
    let threads: Vec<_> = clients.into_iter().enumerate().map(first).collect();
    let mut codes: Vec<u8> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    codes.sort_unstable();
    let mut wanted = vec![code::PRECONDITION_FAILED; 12];
    wanted[0] = code::CHANGED;
    assert_eq!(codes, wanted);
}
