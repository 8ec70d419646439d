//! The configuration as a whole: what a file gives and what a wrong one is told.

mod exposure;
mod keys;
mod listeners;

use std::collections::BTreeSet;

use portcullis_proto::policy::authentication::IdentityRole;

use super::testing::parse;
use super::*;

const SAMPLE: &str = include_str!("../../../config/portcullis.toml");
const LAB: &str = include_str!("../../../config/lab.toml");

/// The sample of the interface page, as it stands there.
const CONTRACT: &str = include_str!("testdata/contract.toml");

#[test]
fn the_sample_of_the_contract_is_the_defaults() {
    assert_eq!(
        parse(CONTRACT).map_err(|problems| problems.to_string()),
        parse("").map_err(|_| String::new())
    );
}

#[test]
fn the_shipped_sample_is_closed_else_the_defaults_and_names_every_key() {
    let mut closed = parse("").unwrap();
    closed.authentication.backend = Backend::File;
    let dtls = closed
        .listeners
        .iter_mut()
        .find_map(|listener| listener.dtls.as_mut());
    dtls.unwrap().handshake.identity = IdentityRole::Username;
    assert_eq!(parse(SAMPLE).map_err(|problems| problems.to_string()), Ok(closed));
    for key in reference() {
        let mention = format!("{} = ", key.name);
        assert!(SAMPLE.contains(&mention), "{} is not in the sample", key.name);
    }
    let uncommented: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    parse(
        &uncommented
            .replace("jwt.pem", "")
            .replace("\nidentity = \"username\"", "\n# "),
    )
    .unwrap();
}

#[test]
fn the_lab_configuration_is_right() {
    let config = parse(LAB).unwrap();
    let names: Vec<_> = config.listeners.iter().map(Listener::key).collect();
    assert_eq!(
        names,
        [
            "listeners.udp.default",
            "listeners.udp.v6",
            "listeners.dtls.default",
            "listeners.dtls.devices"
        ]
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let problems = parse(
        "[node]\nnme = \"x\"\nworkers = -1\n[coap]\nheartbeat = 30\n[listeners.udp.a]\nbind = \"x\"\nmtu = 3\n[nodes]\n",
    )
    .unwrap_err();
    let at: Vec<_> = problems
        .iter()
        .map(|problem| {
            let place = problem.place.as_ref().unwrap();
            (place.line, place.column, problem.key.as_str())
        })
        .collect();
    assert_eq!(
        at,
        [
            (2, 1, "node.nme"),
            (3, 11, "node.workers"),
            (5, 13, "coap.heartbeat"),
            (7, 8, "listeners.udp.a.bind"),
            (8, 1, "listeners.udp.a.mtu"),
            (9, 2, "nodes"),
        ]
    );
    let text = problems.to_string();
    assert!(text.contains("did you mean `name`?"), "{text}");
    assert!(text.contains("did you mean `node`?"), "{text}");
    assert!(text.contains("it belongs in [listeners.dtls.*]"), "{text}");
}

#[test]
fn every_syntax_error_is_said_at_once() {
    let problems = parse("[node]\nname = \nworkers = = 1\n").unwrap_err();
    let lines: BTreeSet<_> = problems
        .iter()
        .map(|problem| problem.place.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, BTreeSet::from([2, 3]), "{problems}");
}

#[test]
fn a_repeated_key_is_an_error() {
    let problems = parse("[node]\nname = \"a\"\nname = \"b\"\n").unwrap_err();
    assert_eq!(problems.0[0].place.as_ref().unwrap().line, 3);
}

#[test]
fn a_section_that_is_no_table_is_an_error() {
    let problems = parse("coap = 1\nlisteners = \"x\"\n").unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(problems.to_string().contains("write `[coap]`"));
}
