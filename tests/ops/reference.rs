//! The pages that are made of the code: configuration, routes, metrics, reasons. `UPDATE_DOCS=1` writes them. And the commands,
//! which are written by hand, but all of them.

use std::fmt::Write as _;

use portcullis::types::reason::Label;

use crate::scrape::{busy_gateway, families};
use crate::{conformance, repository, text_of};

const BEGIN: &str = "<!-- made of the code: UPDATE_DOCS=1 cargo test --test ops reference -->\n";
const END: &str = "<!-- end -->\n";

/// Compares what stands between the two marks of a page with what should, or writes it.
#[track_caller]
fn page(path: &str, wanted: &str) {
    let text = text_of(path);
    let (head, rest) = text
        .split_once(BEGIN)
        .unwrap_or_else(|| panic!("{path} has no {BEGIN}"));
    let (have, tail) = rest
        .split_once(END)
        .unwrap_or_else(|| panic!("{path} has no {END}"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(repository(path), format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
    } else {
        assert!(
            have == wanted,
            "{path} is out of date: UPDATE_DOCS=1 cargo test --test ops reference\n{}",
            difference(have, wanted)
        );
    }
}

fn difference(have: &str, wanted: &str) -> String {
    let missing = wanted
        .lines()
        .filter(|line| !have.lines().any(|other| other == *line));
    let stale = have
        .lines()
        .filter(|line| !wanted.lines().any(|other| other == *line));
    let mut text = String::new();
    missing.for_each(|line| writeln!(text, "+ {line}").unwrap());
    stale.for_each(|line| writeln!(text, "- {line}").unwrap());
    text
}

/// Text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_numbers_of_the_conformance_page_are_those_of_its_rows() {
    page(conformance::PAGE, &conformance::numbers());
}

#[test]
fn the_configuration_page_is_that_of_the_code() {
    let mut text = String::new();
    let mut section = String::new();
    for key in portcullis::config::reference() {
        if key.section != section {
            section.clone_from(&key.section);
            let heading = section.replace(".*", ".NAME");
            write!(
                text,
                "\n## [{heading}]\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
            )
            .unwrap();
        }
        writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            key.name,
            cell(key.kind),
            match key.default {
                "unset" => "none".to_owned(),
                // A long one is broken into lines where it stands in the source.
                default => format!(
                    "`{}`",
                    cell(&default.split_whitespace().collect::<Vec<_>>().join(" "))
                ),
            },
            cell(&key.about)
        )
        .unwrap();
    }
    text.push('\n');
    page("docs/configuration.md", &text);
}

#[test]
fn the_metrics_page_is_that_of_a_live_scrape() {
    let gateway = busy_gateway();
    let mut text = String::from("\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, family) in families(&gateway.metrics()) {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(
            text,
            "| `{name}` | {} | {} | {} |",
            family.kind,
            labels.join(", "),
            cell(&family.help)
        )
        .unwrap();
    }
    text.push('\n');
    page("docs/metrics.md", &text);
}

fn reasons<L: Label>(text: &mut String, title: &str, metric: &str) {
    write!(
        text,
        "\n## {title}\n\n`{metric}`\n\n| value | meaning |\n|---|---|\n"
    )
    .unwrap();
    for label in L::ALL {
        writeln!(text, "| `{}` | {} |", label.label(), cell(&label.about())).unwrap();
    }
}

/// What sockets, DTLS and caps say.
fn reasons_of_transports(out: &mut String) {
    use portcullis::dtls::contract::CloseReason;
    use portcullis::dtls::metrics::{Alert, HandshakeResult, NotKept, RecordDrop, RestoreResult};
    use portcullis::dtls::suite::Suite;
    use portcullis::net::errno::SendError;
    use portcullis::stream::metrics::Refusal;
    use portcullis::types::reason::DropReason;

    reasons::<DropReason>(
        out,
        "Datagrams that went no further",
        "portcullis_datagrams_dropped_total{reason}",
    );
    reasons::<RecordDrop>(
        out,
        "DTLS records that went no further",
        "portcullis_dtls_records_dropped_total{reason}",
    );
    reasons::<HandshakeResult>(out, "DTLS handshakes", "portcullis_dtls_handshakes_total{result}");
    reasons::<RestoreResult>(
        out,
        "DTLS sessions of before a restart",
        "portcullis_sessions_restored_total{result}",
    );
    reasons::<NotKept>(
        out,
        "DTLS sessions that a restart ends",
        "portcullis_sessions_not_kept_total{reason}",
    );
    reasons::<CloseReason>(
        out,
        "Ends of DTLS sessions and streams",
        "portcullis_dtls_sessions_closed_total{reason}`, `portcullis_stream_closed_total{reason}",
    );
    reasons::<Refusal>(
        out,
        "Connections that were closed as soon as they came",
        "portcullis_stream_refused_total{reason}",
    );
    reasons::<Alert>(out, "DTLS alerts", "portcullis_dtls_alerts_total{description}");
    reasons::<Suite>(out, "Cipher suites", "portcullis_dtls_negotiated_total{cipher}");
    reasons::<SendError>(
        out,
        "Datagrams that could not be sent",
        "portcullis_udp_send_errors_total{error}",
    );
}

/// What gateways of a group say.
fn reasons_of_groups(out: &mut String) {
    use portcullis::group::Sent;
    use portcullis::group::metrics::{ChangeResult, LeaseState, LookUp, Received, TicketResult};

    reasons::<LeaseState>(
        out,
        "Leases of the nodes of a group",
        "portcullis_group_lease{state}",
    );
    reasons::<Sent>(
        out,
        "Datagrams to other nodes of a group",
        "portcullis_group_records_forwarded_total{result}`, `portcullis_group_answers_returned_total{result}",
    );
    reasons::<Received>(
        out,
        "Datagrams of other nodes of a group",
        "portcullis_group_datagrams_received_total{result}",
    );
    reasons::<ChangeResult>(
        out,
        "Changes of the configuration of a group",
        "portcullis_group_changes_total{result}",
    );
    reasons::<TicketResult>(
        out,
        "Keys of session tickets of a group",
        "portcullis_group_ticket_keys_total{result}",
    );
    reasons::<LookUp>(
        out,
        "Looks for the sessions of nodes of a group that are gone",
        "portcullis_group_lookups_total{result}",
    );
}

/// What is said of clients, above them.
fn reasons_of_clients(out: &mut String) {
    use portcullis::admin::expose::mqtt_requests::MqttRequestResult;
    use portcullis::auth::metrics::{AuthResult, Backend};
    use portcullis::gateway::events::EventKind;
    use portcullis::gateway::metrics::ConnectionEvent;
    use portcullis::policy::authentication::DenyReason;
    use portcullis::policy::authorization::{Action, Reason};
    use portcullis::policy::bans::BanKind;
    use portcullis::policy::connections::Presence;
    use portcullis::types::reason::Limit;

    reasons::<Limit>(out, "Caps and rates", "portcullis_limits_rejected_total{limit}");
    reasons::<ConnectionEvent>(out, "Connections", "portcullis_connections_total{result}");
    reasons::<Presence>(
        out,
        "Whether clients can be reached",
        "portcullis_connection_states{state}",
    );
    reasons::<EventKind>(out, "Events", "kind=");
    reasons::<Backend>(
        out,
        "Who decides about logins",
        "portcullis_authentications_total{backend}",
    );
    reasons::<AuthResult>(out, "Logins", "portcullis_authentications_total{result}");
    reasons::<DenyReason>(out, "Refused logins, in the log as `login refused`", "reason=");
    reasons::<Action>(
        out,
        "Access rules: what was wanted",
        "portcullis_authorizations_total{action}",
    );
    reasons::<Reason>(
        out,
        "Access rules: what decided, in `portcullis acl check`",
        "reason",
    );
    reasons::<BanKind>(out, "Bans", "portcullis_bans_enforced_total{kind}");
    reasons::<MqttRequestResult>(
        out,
        "Requests to devices over MQTT",
        "portcullis_mqtt_requests_total{result}",
    );
}

/// What is said of messages and the broker.
fn reasons_of_messages(out: &mut String) {
    use portcullis::broker::{ConnectResult, DroppedReason, RefusedReason};
    use portcullis::coap::metrics::{NotificationResult, TransferResult};
    use portcullis::gateway::metrics::{
        CollectionResult, ConditionResult, DeviceRequestResult, PublishResult, QueueResult, TranslationResult,
    };
    use portcullis::policy::overload::Step;

    reasons::<PublishResult>(out, "Publishes", "portcullis_publishes_total{result}");
    reasons::<NotificationResult>(out, "Notifications", "portcullis_notifications_total{result}");
    reasons::<QueueResult>(
        out,
        "Notifications for clients that are away or asleep",
        "portcullis_queue_notifications_total{result}",
    );
    reasons::<DeviceRequestResult>(
        out,
        "Requests to devices that may wait for them",
        "portcullis_queue_requests_total{result}",
    );
    reasons::<CollectionResult>(
        out,
        "The topic collection",
        "portcullis_collection_requests_total{result}",
    );
    reasons::<ConditionResult>(
        out,
        "Messages for observers with conditions",
        "portcullis_observe_conditions_total{result}",
    );
    reasons::<TranslationResult>(
        out,
        "Payloads that were to be translated",
        "portcullis_translations_total{result}",
    );
    reasons::<TransferResult>(
        out,
        "Block-wise transfers",
        "portcullis_block_transfers_total{result}",
    );
    reasons::<ConnectResult>(
        out,
        "Attempts to reach the broker",
        "portcullis_broker_connects_total{result}",
    );
    reasons::<RefusedReason>(
        out,
        "Refused publishes and filters",
        "portcullis_broker_refused_total{reason}",
    );
    reasons::<DroppedReason>(
        out,
        "Acknowledged messages that were lost",
        "portcullis_spool_dropped_total{reason}",
    );
    reasons::<Step>(
        out,
        "Steps against overload",
        "portcullis_overload_active{action}",
    );
}

#[test]
fn the_reasons_page_is_that_of_the_code() {
    let mut text = String::new();
    reasons_of_transports(&mut text);
    reasons_of_groups(&mut text);
    reasons_of_clients(&mut text);
    reasons_of_messages(&mut text);
    text.push('\n');
    page("docs/reasons.md", &text);

    // A closed list that a metric shows must be on the page: its values are those of the scrape.
    let scrape = busy_gateway().metrics();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        for label in ["reason", "limit", "result", "error"] {
            if let Some((_, rest)) = line.split_once(&format!("{label}=\"")) {
                let (value, _) = rest.split_once('"').unwrap();
                let known = text.contains(&format!("| `{value}` |"))
                    || line.starts_with("portcullis_config_reloads_total");
                assert!(known, "{label}=\"{value}\" is not in docs/reasons.md: {line}");
            }
        }
    }
}

#[test]
fn the_table_of_routes_is_that_of_the_code() {
    let document = serde_json::to_value(portcullis::admin::api::openapi()).unwrap();
    let mut text = String::from("\n| route | what it does | role |\n|---|---|---|\n");
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "delete"] {
            let Some(operation) = item.get(method) else {
                continue;
            };
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{method} {path} says nothing about itself");
            let role = if method == "get" { "readonly" } else { "admin" };
            let path = path.strip_prefix("/api/v1/").unwrap();
            writeln!(
                text,
                "| `{} {path}` | {} | {role} |",
                method.to_uppercase(),
                cell(summary)
            )
            .unwrap();
        }
    }
    text.push('\n');
    page("docs/management.md", &text);
}

/// The commands and their subcommands, as `--help` lists them.
fn commands(of: &[&str]) -> Vec<String> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(of)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let Some((_, list)) = help.split_once("Commands:\n") else {
        return vec![of.join(" ")];
    };
    let names = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    names
        .flat_map(|name| {
            let mut path = of.to_vec();
            path.push(name);
            commands(&path)
        })
        .collect()
}

#[test]
fn every_command_is_on_some_page() {
    let all = commands(&[]);
    assert!(all.len() > 15, "{all:?}");
    let pages: String = ["README.md"]
        .into_iter()
        .map(str::to_owned)
        .chain(std::fs::read_dir(repository("docs")).unwrap().map(|entry| {
            let name = entry.unwrap().file_name();
            format!("docs/{}", name.to_string_lossy())
        }))
        .filter(|path| path.ends_with(".md"))
        .map(|path| text_of(&path))
        .collect();
    let missing: Vec<_> = all
        .iter()
        .filter(|command| !pages.contains(&format!("portcullis {command}")))
        .collect();
    assert!(missing.is_empty(), "on no page: {missing:?}");
}
