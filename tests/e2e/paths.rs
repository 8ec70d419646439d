//! Resources, methods, codes and topics.

use crate::each_transport;
use crate::support::{Config, Gateway, Kind, Request, code, ms, option};

each_transport!(
    create_answers_2_01_with_a_token,
    heartbeat_answers_2_04,
    close_answers_2_02,
    post_and_put_publish,
    an_empty_publish_is_delivered,
    get_with_observe_0_subscribes,
    post_with_observe_0_and_no_payload_subscribes,
    post_with_observe_0_and_a_payload_publishes,
    get_with_observe_1_unsubscribes,
    unsubscribing_what_is_not_subscribed_answers_the_same,
    get_reads_the_retained_message,
    delete_clears_the_retained_message,
    mqtt_is_an_alias_of_ps,
    mqtt_connection_is_no_topic,
    well_known_core_lists_the_resources,
    well_known_core_is_filtered_by_query,
    any_other_path_is_not_found,
    what_is_not_there_says_what_is,
    any_other_method_is_not_allowed,
    segments_are_not_decoded_again,
    a_leading_slash_is_part_of_the_topic,
    a_long_topic_is_a_topic,
    subscriptions_take_wildcards,
    a_publish_to_a_wildcard_is_refused,
    a_bad_topic_is_refused,
    a_publish_to_sys_is_unauthorized,
    what_the_gateway_tells_of_others_is_not_for_devices,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

fn create_answers_2_01_with_a_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let one = client
        .request(&Request::post("mqtt/connection?clientid=a"))
        .expect(code::CREATED);
    let two = client
        .request(&Request::post("mqtt/connection?clientid=b"))
        .expect(code::CREATED);
    for token in [one.text(), two.text()] {
        // 128 bits need 22 characters of base64; what a query takes as it stands are RFC 3986's unreserved characters.
        assert!(token.len() >= 22, "{token}");
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        assert!(token.chars().all(unreserved), "{token}");
    }
    assert_ne!(one.text(), two.text());
}

fn heartbeat_answers_2_04(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let answer = client.request(&Request::put(&format!(
        "mqtt/connection?clientid=a&token={token}"
    )));
    assert_eq!(answer.expect(code::CHANGED).payload, b"");
}

fn close_answers_2_02(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let answer = client.request(&Request::delete(&format!(
        "mqtt/connection?clientid=a&token={token}"
    )));
    assert_eq!(answer.expect(code::DELETED).payload, b"");
}

fn post_and_put_publish(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a/b");
    for (method, payload) in [(code::POST, "posted"), (code::PUT, "put")] {
        let answer = client.request(&Request::new(method, "ps/a/b").payload(payload));
        assert_eq!(answer.expect(code::CHANGED).payload, b"");
        let notification = client.notification(&observation.token).expect(code::CONTENT);
        assert_eq!(notification.text(), payload);
    }
}

fn an_empty_publish_is_delivered(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    client.publish("ps/a", "");
    assert_eq!(client.notification(&observation.token).payload, b"");
}

fn get_with_observe_0_subscribes(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    assert_eq!(observation.first.payload, b"", "nothing is retained");
    client.publish("ps/a", "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
    client.publish("ps/a/b", "another topic");
    client.no_notification(&observation.token, ms(100));
}

fn post_with_observe_0_and_no_payload_subscribes(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    let observation = client.observe_with(Request::post("ps/a").observe(0));
    assert_eq!(observation.first.text(), "kept");
    client.publish("ps/a", "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
}

fn post_with_observe_0_and_a_payload_publishes(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    client
        .request(&Request::post("ps/a").observe(0).payload("x"))
        .expect(code::CHANGED);
    assert_eq!(client.notification(&observation.token).text(), "x");
}

fn get_with_observe_1_unsubscribes(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    let answer = client.request(&Request::get("ps/a").observe(1).token(&observation.token));
    let answer = answer.expect(code::NO_CONTENT);
    assert_eq!(answer.payload, b"");
    assert_eq!(answer.observe(), None);
    client.publish("ps/a", "x");
    client.no_notification(&observation.token, ms(200));
}

fn unsubscribing_what_is_not_subscribed_answers_the_same(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let answer = client
        .request(&Request::get("ps/a").observe(1))
        .expect(code::NO_CONTENT);
    assert_eq!(answer.observe(), None);
}

fn get_reads_the_retained_message(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
    client.publish("ps/a", "passes by");
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
    client.publish("ps/a?retain=true", "kept");
    let answer = client.request(&Request::get("ps/a")).expect(code::CONTENT);
    assert_eq!(answer.text(), "kept");
    assert_eq!(answer.observe(), None);
}

fn delete_clears_the_retained_message(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    let answer = client.request(&Request::delete("ps/a")).expect(code::DELETED);
    assert_eq!(answer.payload, b"");
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
    client.request(&Request::delete("ps/a")).expect(code::DELETED);
}

fn mqtt_is_an_alias_of_ps(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("mqtt/a/b");
    client.publish("ps/a/b?retain=true", "by ps");
    assert_eq!(client.notification(&observation.token).text(), "by ps");
    client.publish("mqtt/a/b?retain=true", "by mqtt");
    assert_eq!(client.notification(&observation.token).text(), "by mqtt");
    assert_eq!(client.read("ps/a/b"), b"by mqtt");
    client.request(&Request::delete("mqtt/a/b")).expect(code::DELETED);
    client.request(&Request::get("mqtt/a/b")).expect(code::NOT_FOUND);
    let answer = client.request(&Request::get("mqtt/a/b").observe(1).token(&observation.token));
    answer.expect(code::NO_CONTENT);
}

fn mqtt_connection_is_no_topic(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client
        .request(&Request::get("mqtt/connection"))
        .expect(code::METHOD_NOT_ALLOWED);
    client
        .request(&Request::get("mqtt/connection").observe(0))
        .expect(code::METHOD_NOT_ALLOWED);
    client.publish("ps/connection?retain=true", "a topic of that name");
    assert_eq!(client.read("ps/connection"), b"a topic of that name");
    client.publish("mqtt/connection/a?retain=true", "below");
    assert_eq!(client.read("ps/connection/a"), b"below");
}

fn well_known_core_lists_the_resources(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let request = Request::get(".well-known/core");
    let first = client.request(&request).expect(code::CONTENT);
    assert_eq!(first.format(), Some(40));
    let body = String::from_utf8(client.rest_of(&request, &first)).unwrap();
    assert!(
        body.contains("</ps>") && body.contains("rt=\"core.ps\""),
        "{body}"
    );
    for link in body.split(',').filter(|link| link.contains(";ct=40")) {
        let path = link.trim_start_matches("</").split('>').next().unwrap();
        client.request(&Request::get(path)).expect(code::CONTENT);
    }
}

fn well_known_core_is_filtered_by_query(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for (filter, found) in [
        ("rt=core.ps", true),
        ("rt=core.*", true),
        ("rt=core.p", false),
        ("rt=other", false),
        ("href=/ps", true),
        ("href=/p*", true),
        ("href=/nothing", false),
    ] {
        let request = Request::get(".well-known/core").query(filter);
        let first = client.request(&request).expect(code::CONTENT);
        let body = String::from_utf8(client.rest_of(&request, &first)).unwrap();
        assert_eq!(body.contains("</ps>"), found, "{filter}: {body:?}");
    }
}

fn any_other_path_is_not_found(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for path in [
        "",
        "a",
        "PS/a",
        "Mqtt/connection",
        ".well-known",
        ".well-known/core/a",
        "p/s",
        "psx/a",
        "/ps/a",
    ] {
        for method in [code::GET, code::POST, code::PUT, code::DELETE] {
            client
                .request(&Request::new(method, path))
                .expect(code::NOT_FOUND);
        }
    }
}

fn what_is_not_there_says_what_is(kind: Kind) {
    let gateway = gateway();
    for (method, path, status, hint) in [
        (code::GET, "topics/a", code::NOT_FOUND, "ps/"),
        (code::GET, "ps/none/here", code::NOT_FOUND, "retained"),
        (code::FETCH, "nowhere", code::METHOD_NOT_ALLOWED, "GET"),
        (code::GET, "mqtt/connection", code::METHOD_NOT_ALLOWED, "POST"),
        (code::PUT, ".well-known/core", code::METHOD_NOT_ALLOWED, "GET"),
    ] {
        let mut client = gateway.client(kind);
        let answer = client.request(&Request::new(method, path)).expect(status);
        assert!(answer.text().contains(hint), "{path}: {}", answer.text());
    }
}

fn any_other_method_is_not_allowed(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for method in [code::FETCH, code::PATCH, code::IPATCH, 31] {
        for path in [
            "ps/a",
            "mqtt/a",
            "mqtt/connection",
            ".well-known/core",
            "",
            "a/b",
            "ps/a&qos=1",
        ] {
            client
                .request(&Request::new(method, path))
                .expect(code::METHOD_NOT_ALLOWED);
        }
    }
    for method in [code::POST, code::PUT, code::DELETE] {
        client
            .request(&Request::new(method, ".well-known/core"))
            .expect(code::METHOD_NOT_ALLOWED);
    }
    client
        .request(&Request::get("mqtt/connection"))
        .expect(code::METHOD_NOT_ALLOWED);
}

fn segments_are_not_decoded_again(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let slash = client.observe("ps/a/b");
    for segment in ["50%off", "a%2Fb", "a%25b", "%", "a b", "ü", "a&b=c", "a?b"] {
        let observation = client.observe_with(Request::get("ps").segment(segment).observe(0));
        client
            .request(&Request::post("ps").segment(segment).payload("x"))
            .expect(code::CHANGED);
        assert_eq!(client.notification(&observation.token).text(), "x", "{segment}");
    }
    client.no_notification(&slash.token, ms(50));
}

fn a_leading_slash_is_part_of_the_topic(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps//a?retain=true", "with");
    client.publish("ps/a?retain=true", "without");
    client.publish("ps/a/?retain=true", "behind");
    assert_eq!(client.read("ps//a"), b"with");
    assert_eq!(client.read("ps/a"), b"without");
    assert_eq!(client.read("ps/a/"), b"behind");
    // The topic `/a` has two levels, the first of them empty.
    assert_eq!(client.observe("ps/+/a").first.text(), "with");
}

fn a_long_topic_is_a_topic(kind: Kind) {
    let gateway = Gateway::start(Config::new().set("limits", "topic_levels = 40\ntopic_bytes = 20000"));
    let mut client = gateway.client(kind);
    let segment = "s".repeat(250);
    let topic = vec![segment.as_str(); 40].join("/");
    let observation = client.observe(&format!("ps/{topic}"));
    client.publish(&format!("ps/{topic}"), "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
}

fn subscriptions_take_wildcards(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let plus = client.observe("ps/w/+/c");
    let hash = client.observe("ps/w/#");
    let all = client.observe("ps/#");
    client.publish("ps/w/b/c", "1");
    for observation in [&plus, &hash, &all] {
        assert_eq!(client.notification(&observation.token).text(), "1");
    }
    client.publish("ps/w", "2");
    assert_eq!(
        client.notification(&hash.token).text(),
        "2",
        "# matches the parent level too"
    );
    assert_eq!(client.notification(&all.token).text(), "2");
    client.publish("ps/v/b/c", "3");
    assert_eq!(client.notification(&all.token).text(), "3");
    client.no_notification(&plus.token, ms(50));
    client.no_notification(&hash.token, ms(50));
    for filter in ["ps/a/#/b", "ps/a#", "ps/a+/b", "ps/#/"] {
        client
            .request(&Request::get(filter).observe(0))
            .expect(code::BAD_REQUEST);
    }
}

fn a_publish_to_a_wildcard_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for topic in ["+", "#", "a/+/b", "a/#", "a+", "a#b"] {
        for method in [code::POST, code::PUT] {
            client
                .request(&Request::new(method, &format!("ps/{topic}")).payload("x"))
                .expect(code::BAD_REQUEST);
        }
        client
            .request(&Request::delete(&format!("ps/{topic}")))
            .expect(code::BAD_REQUEST);
    }
}

fn a_bad_topic_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for path in ["ps", "ps/", "mqtt", "mqtt/"] {
        client
            .request(&Request::post(path).payload("x"))
            .expect(code::BAD_REQUEST);
        client
            .request(&Request::get(path).observe(0))
            .expect(code::BAD_REQUEST);
        // What is read at ps is the topic collection.
        let read = client.request(&Request::get(path));
        read.expect(if path == "ps" {
            code::CONTENT
        } else {
            code::BAD_REQUEST
        });
    }
    for segment in [&b"a\0b"[..], b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"] {
        client
            .request(&Request::post("ps").segment(segment).payload("x"))
            .expect(code::BAD_REQUEST);
        client
            .request(&Request::get("ps").segment(segment).observe(0))
            .expect(code::BAD_REQUEST);
        client
            .request(&Request::get("ps").segment(segment))
            .expect(code::BAD_REQUEST);
    }
}

fn a_publish_to_sys_is_unauthorized(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for topic in ["$SYS/a", "$SYS/broker/uptime"] {
        client
            .request(&Request::post(&format!("ps/{topic}")).payload("x"))
            .expect(code::UNAUTHORIZED);
        client
            .request(&Request::put(&format!("mqtt/{topic}")).payload("x"))
            .expect(code::UNAUTHORIZED);
        client
            .request(&Request::delete(&format!("ps/{topic}")))
            .expect(code::UNAUTHORIZED);
    }
    client
        .request(&Request::get("ps/a").option(option::OBSERVE, &[]))
        .expect(code::CONTENT);
}

fn what_the_gateway_tells_of_others_is_not_for_devices(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for filter in ["$portcullis/#", "$portcullis/+/clients/+/connected"] {
        let request = Request::get(&format!("ps/{filter}")).observe(0);
        client.request(&request).expect(code::UNAUTHORIZED);
        client
            .request(&Request::get(&format!("mqtt/{filter}")).observe(0))
            .expect(code::UNAUTHORIZED);
    }
    client
        .request(&Request::get("ps/$portcullis/portcullis/status"))
        .expect(code::UNAUTHORIZED);
    // Other topics that begin so are ordinary.
    client
        .request(&Request::get("ps/$other/#").observe(0))
        .expect(code::CONTENT);
}
