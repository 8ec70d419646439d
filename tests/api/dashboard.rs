//! The files of the dashboard, compressed answers, and what the dashboard asks for: the last hour, who one is, the access rules.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};

use serde_json::json;

use crate::PLAIN;
use crate::http::{Answer, TOKEN, ask, ask_bytes, get};
use crate::site::Served;
use crate::support::{Client, wait_until};

fn fetch(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (Answer, Vec<u8>) {
    let stream = TcpStream::connect(address).unwrap();
    ask_bytes(stream, &address.to_string(), "GET", path, headers, b"")
}

fn unpacked(small: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(small)
        .read_to_string(&mut text)
        .unwrap();
    text
}

/// The files that the page names, and those that they import.
fn files(address: SocketAddr) -> Vec<String> {
    let mut found = vec!["/".to_owned(), "/style.css".to_owned(), "/app.js".to_owned()];
    let mut at = 0;
    while at < found.len() {
        let text = get(address, &found[at]).expect(200).body;
        for line in text.lines().filter(|line| line.contains("from \"./")) {
            let name = line.split("from \".").nth(1).unwrap().split('"').next().unwrap();
            if !found.iter().any(|own| own == name) {
                found.push(name.to_owned());
            }
        }
        at += 1;
    }
    found
}

#[test]
fn the_page_was_sent_whole_and_in_plain_at_each_load() {
    let served = Served::start(PLAIN);
    let files = files(served.address);
    assert!(files.len() > 10, "{files:?}");
    for path in files {
        let plain = get(served.address, &path).expect(200);
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        assert_eq!(plain.header("vary"), Some("accept-encoding"), "{path}");
        let (small, body) = fetch(served.address, &path, &[("Accept-Encoding", "br, gzip")]);
        assert_eq!(small.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(unpacked(&body), plain.body, "{path}");
        assert!(body.len() < plain.body.len(), "{path}");
        for (first, takes) in [(&plain, ""), (&small, "gzip")] {
            let tag = first.header("etag").unwrap();
            for known in [tag.to_owned(), format!("\"older\", W/{tag}")] {
                let headers = [("If-None-Match", known.as_str()), ("Accept-Encoding", takes)];
                let (again, body) = fetch(served.address, &path, &headers);
                assert_eq!((again.status, body.len()), (304, 0), "{path} {known}");
                assert_eq!(again.header("etag"), Some(tag), "{path}");
                assert!(again.header("content-security-policy").is_some(), "{path}");
            }
        }
        assert_ne!(plain.header("etag"), small.header("etag"), "{path}");
        let (other, _) = fetch(served.address, &path, &[("If-None-Match", "\"another\"")]);
        assert_eq!(other.status, 200, "{path}");
    }
}

#[test]
fn answers_of_the_api_are_compressed_for_those_who_take_it() {
    let served = Served::start(PLAIN);
    let (answer, body) = fetch(served.address, "/api/v1/metrics", &[("Accept-Encoding", "gzip")]);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert!(unpacked(&body).contains("portcullis_sessions"));
    let plain = get(served.address, "/api/v1/metrics").expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    assert!(
        plain.body.len() > 3 * body.len(),
        "{} and {}",
        plain.body.len(),
        body.len()
    );
    // What is short is not worth it, and what goes on comes as it happens.
    for path in ["/api/v1/self", "/api/v1/events?follow=false"] {
        let (short, _) = fetch(served.address, path, &[("Accept-Encoding", "gzip")]);
        assert_eq!(short.header("content-encoding"), None, "{path}");
    }
}

#[test]
fn the_last_hour_was_known_only_to_the_tab_that_watched_it() {
    let served = Served::start(PLAIN);
    let mut client = Client::udp(served.coap[0]);
    client.observe("ps/t?clientid=seen");
    let history = || get(served.address, "/api/v1/history").expect(200).json();
    wait_until("a step with the requests", || {
        client.publish("ps/u?clientid=seen", "x");
        let points = history()["points"].clone();
        points.as_array().unwrap().iter().any(|point| {
            point["requests_per_second"].as_f64().unwrap() > 0.0
                && point["latency_p50_seconds"].is_number()
                && point["udp_peers"] == json!(1.0)
        })
    });
    let all = history();
    assert_eq!(all["step_seconds"], 10);
    let last = all["points"].as_array().unwrap().last().unwrap()["time"]
        .as_f64()
        .unwrap();
    // serde_json reads a number to the last bit but one.
    let after = last + 0.001;
    let rest = get(served.address, &format!("/api/v1/history?after={after}"))
        .expect(200)
        .json();
    let newer = rest["points"].as_array().unwrap();
    assert!(
        newer.iter().all(|point| point["time"].as_f64().unwrap() > last),
        "{rest}"
    );
    for bad in ["after=x", "after=NaN", "before=3"] {
        get(served.address, &format!("/api/v1/history?{bad}")).error(400, "bad_request");
    }
}

#[test]
fn nobody_could_tell_whose_token_a_token_is() {
    let config = format!("{PLAIN}[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"tokens\"\n");
    let reader = "reader-0123456789abcdef";
    let tokens = format!("admin:{TOKEN}\nreadonly:{reader}\n");
    let served = Served::with_files(&config, &[("tokens", &tokens)]);
    let me = |token: &str| {
        let bearer = format!("Bearer {token}");
        ask(
            served.address,
            "GET",
            "/api/v1/self",
            &[("Authorization", &bearer)],
            b"",
        )
    };
    assert_eq!(me(TOKEN).expect(200).json()["role"], "admin");
    let read_only = me(reader).expect(200).json();
    assert_eq!(read_only["role"], "readonly");
    assert!(!read_only["token"].as_str().unwrap().is_empty());
    me("nobody-at-all-0123456789").error(401, "unauthorized");
}

#[test]
fn the_access_rules_are_asked_without_their_text() {
    let rules = "topic read weather/#\nuser ann\ntopic readwrite barn/#\npattern write dev/%c/#\n";
    let config = format!("{PLAIN}[authorization]\nacl_file = \"rules.acl\"\n");
    let served = Served::with_files(&config, &[("rules.acl", rules)]);
    let ask = |query: &str| get(served.address, &format!("/api/v1/acl/check?{query}"));
    for (query, allowed, line) in [
        ("action=receive&topic=weather/today", true, json!(1)),
        ("action=publish&topic=weather/today", false, json!(null)),
        ("action=publish&topic=barn/door&username=ann", true, json!(3)),
        (
            "action=publish&topic=dev/m-4/t&clientid=m-4&username=bob",
            true,
            json!(4),
        ),
        (
            "action=publish&topic=dev/m-4/t&clientid=m-5&username=bob",
            false,
            json!(null),
        ),
    ] {
        let answer = ask(query).expect(200);
        let said = answer.json();
        assert_eq!(
            (&said["allowed"], &said["line"]),
            (&json!(allowed), &line),
            "{query}"
        );
        assert!(!answer.body.contains("barn/#"), "{answer:?}");
    }
    for bad in ["action=eat&topic=t", "action=publish&topic=", "topic=t"] {
        ask(bad).error(400, "bad_request");
    }
    let open = Served::start(PLAIN);
    let said = get(open.address, "/api/v1/acl/check?action=publish&topic=t")
        .expect(200)
        .json();
    assert_eq!(said["allowed"], true);
}
