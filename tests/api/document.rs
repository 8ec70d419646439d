//! The OpenAPI document against what is served.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::PLAIN;
use crate::http::{ask, get};
use crate::site::Served;

/// The routes of the contract, as people read them there, and the two that this interface adds.
const CONTRACT: &[(&str, &str)] = &[
    ("get", "/api/v1/status"),
    ("get", "/api/v1/metrics"),
    ("get", "/api/v1/history"),
    ("get", "/api/v1/self"),
    ("get", "/api/v1/acl/check"),
    ("get", "/api/v1/openapi.json"),
    ("get", "/api/v1/clients"),
    ("get", "/api/v1/clients/{id}"),
    ("delete", "/api/v1/clients/{id}"),
    ("get", "/api/v1/clients/{id}/subscriptions"),
    ("post", "/api/v1/clients/{id}/subscriptions"),
    ("delete", "/api/v1/clients/{id}/subscriptions/{topic}"),
    ("post", "/api/v1/clients/{id}/request"),
    ("get", "/api/v1/clients/{id}/requests/{request}"),
    ("delete", "/api/v1/retained"),
    ("delete", "/api/v1/retained/{topic}"),
    ("get", "/api/v1/config/effective"),
    ("get", "/api/v1/events"),
    ("get", "/api/v1/messages"),
    ("get", "/api/v1/group"),
    ("post", "/api/v1/group/import"),
    ("post", "/api/v1/group/restore"),
    ("get", "/api/v1/retained"),
    ("post", "/api/v1/publish"),
    ("post", "/api/v1/trace"),
    ("get", "/api/v1/config"),
    ("put", "/api/v1/config"),
    ("get", "/api/v1/config/schema"),
    ("get", "/api/v1/listeners"),
    ("post", "/api/v1/listeners"),
    ("delete", "/api/v1/listeners/{kind}/{name}"),
    ("put", "/api/v1/listeners/{kind}/{name}/enable/{enabled}"),
    ("get", "/api/v1/users"),
    ("post", "/api/v1/users"),
    ("delete", "/api/v1/users/{name}"),
    ("get", "/api/v1/psk"),
    ("post", "/api/v1/psk"),
    ("put", "/api/v1/psk/{identity}"),
    ("delete", "/api/v1/psk/{identity}"),
    ("get", "/api/v1/tokens"),
    ("post", "/api/v1/tokens"),
    ("delete", "/api/v1/tokens/{name}"),
    ("get", "/api/v1/bans"),
    ("post", "/api/v1/bans"),
    ("delete", "/api/v1/bans/{kind}/{value}"),
    ("post", "/api/v1/reload"),
    ("post", "/api/v1/drain"),
    ("get", "/"),
];

fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| key.len() < 7);
            methods.map(move |method| (method.clone(), path.clone()))
        })
        .collect()
}

#[test]
fn the_document_names_the_routes_of_the_contract_and_no_other() {
    let served = Served::start(PLAIN);
    let document = get(served.address, "/api/v1/openapi.json").expect(200).json();
    let contract: BTreeSet<_> = CONTRACT
        .iter()
        .filter(|(_, path)| *path != "/")
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(documented(&document), contract);
}

#[test]
fn every_documented_method_is_served_and_no_other_is() {
    let served = Served::start(PLAIN);
    let document = get(served.address, "/api/v1/openapi.json").expect(200).json();
    let routes = documented(&document);
    let paths: BTreeSet<_> = routes.iter().map(|(_, path)| path.clone()).collect();
    for path in paths {
        let filled: String = path
            .split('/')
            .map(|segment| if segment.starts_with('{') { "x" } else { segment })
            .collect::<Vec<_>>()
            .join("/");
        for method in ["get", "post", "put", "delete", "patch"] {
            // Events go on for as long as they are read.
            let asked = filled.replace("/events", "/events?follow=false");
            let answer = ask(served.address, &method.to_uppercase(), &asked, &[], b"");
            let is_documented = routes.contains(&(method.to_owned(), path.clone()));
            assert_eq!(
                answer.status != 405,
                is_documented,
                "{method} {filled}: {answer:?}"
            );
            // A path that is not there at all says so in other words.
            assert!(!answer.body.contains("nothing at this path"), "{method} {filled}");
        }
    }
}

#[test]
fn what_every_request_may_get_is_documented_at_each() {
    let served = Served::start(PLAIN);
    let document = get(served.address, "/api/v1/openapi.json").expect(200).json();
    for (method, path) in documented(&document) {
        let operation = &document["paths"][&path][&method];
        for (status, response) in operation["responses"].as_object().unwrap() {
            let words = response["description"].as_str().unwrap_or_default();
            assert!(
                !words.is_empty(),
                "{method} {path} {status}: OpenAPI takes no answer without a description"
            );
        }
        let mut wanted = vec!["401", "403"];
        if operation.get("parameters").is_some() {
            wanted.push("400");
        }
        if operation.get("requestBody").is_some() {
            wanted.extend(["400", "408", "413"]);
        }
        for status in wanted {
            let schema = &operation["responses"][status]["content"]["application/json"]["schema"];
            assert_eq!(
                schema["$ref"], "#/components/schemas/Error",
                "{method} {path} {status}"
            );
        }
    }
}

#[test]
fn operations_have_names_of_their_own() {
    let served = Served::start(PLAIN);
    let document = get(served.address, "/api/v1/openapi.json").expect(200).json();
    let mut names = BTreeSet::new();
    for (method, path) in documented(&document) {
        let name = document["paths"][&path][&method]["operationId"].as_str().unwrap();
        assert!(
            names.insert(name.to_owned()),
            "{method} {path}: {name} is another's name too"
        );
    }
    assert!(names.contains("get_clients_id_subscriptions"), "{names:?}");
}

#[test]
fn the_document_is_whole() {
    let served = Served::start(PLAIN);
    let document = get(served.address, "/api/v1/openapi.json").expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
    for (method, path) in documented(&document) {
        let operation = &document["paths"][&path][&method];
        assert!(
            operation["summary"]
                .as_str()
                .is_some_and(|summary| !summary.is_empty()),
            "{method} {path}"
        );
        let named: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let wanted: BTreeSet<_> = path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        assert_eq!(named, wanted, "{method} {path}");
    }
}

/// Answers have the form that the document gives them: each required property is there, and none is there that is not named.
#[test]
fn answers_have_the_documented_form() {
    let served = Served::start(PLAIN);
    let mut client = crate::support::Client::udp(served.coap[0]);
    client.observe("ps/t?clientid=form");
    let document = get(served.address, "/api/v1/openapi.json").json();
    for (path, schema) in [
        ("/api/v1/status", "/components/schemas/Status"),
        ("/api/v1/metrics", "/components/schemas/Metrics"),
        ("/api/v1/history", "/components/schemas/History"),
        ("/api/v1/self", "/components/schemas/Me"),
        (
            "/api/v1/acl/check?action=publish&topic=t",
            "/components/schemas/AclDecision",
        ),
        ("/api/v1/clients", "/components/schemas/ClientPage"),
        ("/api/v1/clients/form", "/components/schemas/ClientDetail"),
        ("/api/v1/clients/nobody", "/components/schemas/Error"),
    ] {
        let answer = get(served.address, path).json();
        check(&document, document.pointer(schema).unwrap(), &answer, path);
    }
    let listeners = get(served.address, "/api/v1/listeners").json();
    check(
        &document,
        document.pointer("/components/schemas/Listener").unwrap(),
        &listeners[0],
        "listeners",
    );
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    let (properties, required) = collect(document, schema);
    let Some(object) = value.as_object() else { return };
    if properties.is_empty() {
        return;
    }
    for name in &required {
        assert!(object.contains_key(name), "{at}: {name} is missing in {value}");
    }
    for (name, inner) in object {
        let known = properties.iter().find(|(own, _)| own == name);
        let (_, schema) = known.unwrap_or_else(|| panic!("{at}: {name} is not in the document"));
        let inner_at = format!("{at}.{name}");
        match inner {
            Value::Array(items) => {
                for item in items {
                    check(document, &schema["items"], item, &inner_at);
                }
            }
            other => check(document, schema, other, &inner_at),
        }
    }
}

type Properties = (Vec<(String, Value)>, Vec<String>);

fn collect(document: &Value, schema: &Value) -> Properties {
    if let Some(reference) = schema["$ref"].as_str() {
        return collect(
            document,
            document.pointer(reference.trim_start_matches('#')).unwrap(),
        );
    }
    let mut all: Properties = (Vec::new(), Vec::new());
    for part in ["allOf", "oneOf", "anyOf"] {
        for inner in schema[part].as_array().into_iter().flatten() {
            let (properties, required) = collect(document, inner);
            all.0.extend(properties);
            all.1.extend(required);
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        all.0.push((name.clone(), inner.clone()));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        all.1.push(name.as_str().unwrap().to_owned());
    }
    all
}
