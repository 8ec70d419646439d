//! Bans over the API: what is taken, what is refused, and how it is shown.

use serde_json::json;

use crate::PLAIN;
use crate::http::{delete, get, send};
use crate::site::Served;

#[test]
fn bans_are_made_listed_and_lifted() {
    let served = Served::start(PLAIN);
    let post = |body| send(served.address, "POST", "/api/v1/bans", &body);
    let made = post(json!({"clientid": "meter/7 #", "reason": "stolen"}))
        .expect(201)
        .json();
    assert_eq!(
        (&made["kind"], &made["value"], &made["until"]),
        (&json!("clientid"), &json!("meter/7 #"), &json!(null))
    );
    post(json!({"kind": "identity", "value": "hex:00ff", "for": "2h"})).expect(201);
    let until = "2999-01-31T00:00:00Z";
    let made = post(json!({"address": "192.0.2.9/24", "until": until}))
        .expect(201)
        .json();
    assert_eq!(
        (&made["value"], &made["until"]),
        (&json!("192.0.2.0/24"), &json!(until))
    );
    post(json!({"address": "192.0.2.0/24"})).expect(200);
    let all = get(served.address, "/api/v1/bans").expect(200).json();
    let shown: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|ban| (ban["kind"].as_str().unwrap(), ban["value"].as_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            ("clientid", "meter/7 #"),
            ("identity", "hex:00ff"),
            ("address", "192.0.2.0/24")
        ]
    );
    for path in [
        "clientid/meter%2F7%20%23",
        "identity/hex:00FF",
        "address/192.0.2.0%2F24",
    ] {
        delete(served.address, &format!("/api/v1/bans/{path}")).expect(204);
        delete(served.address, &format!("/api/v1/bans/{path}")).error(404, "not_found");
    }
    post(json!({"address": "2001:db8::/32"})).expect(201);
    delete(served.address, "/api/v1/bans/address/2001:db8::/32").expect(204);
    assert_eq!(get(served.address, "/api/v1/bans").expect(200).json(), json!([]));
}

#[test]
fn what_bans_nobody_or_more_than_was_meant_is_refused() {
    let served = Served::start(PLAIN);
    for body in [
        json!({}),
        json!({"clientid": ""}),
        json!({"clientid": "a", "identity": "a"}),
        json!({"kind": "clientid"}),
        json!({"kind": "username", "value": "a"}),
        json!({"address": "192.0.2"}),
        json!({"address": "::ffff:192.0.2.0/90"}),
        json!({"clientid": "a", "until": "tomorrow"}),
        json!({"clientid": "a", "until": "2001-01-01T00:00:00Z"}),
        json!({"clientid": "a", "for": "1h", "until": "2999-01-01T00:00:00Z"}),
        json!({"clientid": "a", "for": "0s"}),
        json!({"clientid": "a", "reason": "x".repeat(257)}),
        json!({"clientid": "a", "reason": "line\nbreak"}),
        json!({"clientid": "a", "banana": 1}),
    ] {
        send(served.address, "POST", "/api/v1/bans", &body).error(400, "bad_request");
    }
    delete(served.address, "/api/v1/bans/user/x").error(400, "bad_request");
    assert_eq!(get(served.address, "/api/v1/bans").expect(200).json(), json!([]));
}
