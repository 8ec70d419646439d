//! `gateway.coap` and its listeners.

use toml_edit::{Array, Value};
use zeroize::Zeroizing;

use crate::config::psk_file;
use crate::dtls::suite::Suite;
use crate::types::reason::Label as _;

use super::hocon::{Node, Object};
use super::material::{self, Homes};
use super::sheet::Kind::{Boolean, Duration, Number, Size, Text};
use super::sheet::{Carried, Sheet};
use super::{logins, nothing};

/// The file of pre-shared keys of all listeners.
const PSK_FILE: &str = "psk.txt";

/// Keys of the gateway that go to `[coap]`.
const COAP: &[Carried] = &[
    ("connection_required", Boolean, "connection_required"),
    ("heartbeat", Duration, "heartbeat"),
    ("notify_type", Text, "notify_type"),
    ("subscribe_qos", Text, "subscribe_qos"),
    ("publish_qos", Text, "publish_qos"),
];

const BLOCKWISE: &[Carried] = &[
    ("max_block_size", Number, "max_block_size"),
    ("max_body_size", Size, "max_body_size"),
];

const SOCKET: &[Carried] = &[
    ("udp_options.recbuf", Size, "receive_buffer"),
    ("udp_options.sndbuf", Size, "send_buffer"),
    ("health_check.request", Text, "health_request"),
    ("health_check.reply", Text, "health_reply"),
];

const DTLS: &[Carried] = &[
    ("depth", Number, "verify_depth"),
    ("handshake_timeout", Duration, "handshake_timeout"),
];

/// Moves `gateway.coap`, `psk_authentication` and what of the rest concerns the gateway.
pub(super) fn run(all: &mut Object, homes: &Homes, sheet: &mut Sheet) {
    let path = "gateway.coap";
    let mut gateway = all.take_object(path);
    if gateway.is_empty() {
        sheet.note(
            path,
            None,
            "is not there: what follows has the listeners that EMQX gives it",
        );
    }
    if let Some(node) = gateway.take("enable")
        && node.boolean() == Some(false)
    {
        sheet.note(
            "gateway.coap.enable",
            Some(&node.place),
            "is false there; here it serves as soon as it runs",
        );
    }
    sheet.carry(&mut gateway, path, COAP, &["coap"]);
    let mut blockwise = gateway.take_object("blockwise");
    let blocks = format!("{path}.blockwise");
    sheet.carry(&mut blockwise, &blocks, BLOCKWISE, &["coap", "blockwise"]);
    nothing::tell(sheet, &blockwise, &blocks);
    mountpoint(sheet, &mut gateway, path, &["coap"]);

    let keys = keys(all, homes, sheet);
    let own = gateway.take("authentication").map(|node| (node, path));
    let login = own.or_else(|| all.take("authentication").map(|node| (node, "")));
    let mut listeners = gateway.take_object("listeners");
    let asks = login.is_some_and(|(node, prefix)| {
        if prefix.is_empty() {
            sheet.note(
                "authentication",
                Some(&node.place),
                "EMQX asks it for MQTT alone; here it is asked for CoAP too, as gateway.coap has none of its own",
            );
        }
        let path = if prefix.is_empty() {
            "authentication".to_owned()
        } else {
            format!("{prefix}.authentication")
        };
        logins::run(sheet, homes, node, &path, &["authentication"], "")
    });
    if !asks {
        sheet.set(&["authentication"], "backend", "none");
        sheet.note(
            "gateway.coap.authentication",
            None,
            "nobody is asked there, so everybody is let in here too: authentication.backend = \"none\"; choose one",
        );
    }
    let mut served = false;
    for kind in ["udp", "dtls"] {
        for (name, node) in listeners.take_object(kind).into_entries() {
            let super::hocon::Value::Object(listener) = node.value else {
                continue;
            };
            let path = format!("{path}.listeners.{kind}.{name}");
            served |= one_listener(sheet, homes, listener, [kind, &name, &path], keys);
        }
    }
    if !served {
        sheet.set(&["listeners", "udp", "default"], "bind", "[::]:5683");
        sheet.note(
            "gateway.coap.listeners",
            None,
            "none is switched on: a listener for UDP at 5683 is written, as EMQX has it",
        );
    }
    for (key, place) in listeners.leaves(&format!("{path}.listeners")) {
        sheet.note(
            &key,
            Some(&place),
            "no counterpart: there are listeners of udp and dtls",
        );
    }
    authorization(all, sheet);
    nothing::tell(sheet, &gateway, path);
}

/// The topic prefix, unless it has parts that are not known here.
fn mountpoint(sheet: &mut Sheet, from: &mut Object, path: &str, table: &[&str]) {
    let Some(node) = from.take("mountpoint") else {
        return;
    };
    let text = node.text().unwrap_or_default();
    let unknown = text.split("${").skip(1).any(|part| {
        let name = part.split('}').next().unwrap_or_default();
        !matches!(name, "clientid" | "username")
            && !name.starts_with("client_attrs.")
            && !name.starts_with("attr.")
    });
    if unknown {
        let words = "no counterpart: ${clientid}, ${username}, ${client_attrs.X}, ${identity} and ${listener} are known here; topics have no prefix until \
                     mountpoint is set";
        sheet.note(&format!("{path}.mountpoint"), Some(&node.place), words);
    } else if !text.is_empty() {
        sheet.set(table, "mountpoint", text);
    }
}

/// Moves the pre-shared keys; whether there are any for DTLS listeners.
fn keys(all: &mut Object, homes: &Homes, sheet: &mut Sheet) -> bool {
    let path = "psk_authentication";
    let mut psk = all.take_object(path);
    let enabled = psk.take("enable").and_then(|node| node.boolean()) == Some(true);
    let (file, separator) = (psk.take("init_file"), psk.take("separator"));
    drop(psk.take("chunk_size"));
    nothing::tell(sheet, &psk, path);
    if !enabled {
        return false;
    }
    let separator = separator.as_ref().and_then(Node::text).unwrap_or(":");
    let mut text = Zeroizing::new("# identity:hexkey\n".to_owned());
    if let Some(node) = &file {
        let key = format!("{path}.init_file");
        match homes.read(node.text().unwrap_or_default()) {
            Ok(content) => {
                let (lines, wrong) = hexadecimal(&String::from_utf8_lossy(&content), separator);
                text = lines;
                for line in wrong {
                    let words = format!("its line {line} is no identity and secret, and is left out");
                    sheet.note(&key, Some(&node.place), words);
                }
            }
            Err(why) => sheet.note(
                &key,
                Some(&node.place),
                format!("{why}: `portcullis psk import FILE` takes it, until then nobody has a key"),
            ),
        }
    }
    sheet.secret(PSK_FILE, Zeroizing::new(text.as_bytes().to_vec()));
    true
}

/// Lines `identity:hexkey` of lines with a secret in characters, and the numbers of those that are none.
fn hexadecimal(text: &str, separator: &str) -> (Zeroizing<String>, Vec<usize>) {
    let mut lines = Zeroizing::new(String::with_capacity(text.len() * 3));
    let mut wrong = Vec::new();
    let mut known = std::collections::HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(separator).and_then(|(identity, secret)| {
            let identity = psk_file::canonical_identity(identity).ok()?;
            let key = Zeroizing::new(hex::encode(secret.as_bytes()));
            psk_file::check_key(&key).ok()?;
            let line = Zeroizing::new(format!("{identity}:{}\n", key.as_str()));
            let is_new = known.insert(identity);
            (is_new && psk_file::parse(line.as_bytes()).is_ok()).then_some(line)
        });
        match entry {
            Some(line) => lines.push_str(&line),
            None => wrong.push(index + 1),
        }
    }
    (lines, wrong)
}

/// Moves a listener; whether it serves.
fn one_listener(
    sheet: &mut Sheet,
    homes: &Homes,
    mut from: Object,
    [kind, name, path]: [&str; 3],
    keys: bool,
) -> bool {
    if let Some(node) = from.take("enable").or_else(|| from.take("enabled"))
        && node.boolean() == Some(false)
    {
        sheet.note(
            path,
            Some(&node.place),
            "is switched off there, so it is left out",
        );
        return false;
    }
    let table = ["listeners", kind, name];
    let port = if kind == "udp" { 5683 } else { 5684 };
    let bind = from.take("bind");
    let address = bind
        .as_ref()
        .and_then(Node::text)
        .map_or_else(|| Some(format!("[::]:{port}")), |text| address_of(text.trim()));
    match address {
        Some(address) => sheet.set(&table, "bind", address),
        None => {
            sheet.set(&table, "bind", format!("127.0.0.1:{port}"));
            let place = bind.as_ref().map(|node| &node.place);
            sheet.note(
                &format!("{path}.bind"),
                place,
                "not carried over: expected a port, or an address with one; it is bound to loopback",
            );
        }
    }
    sheet.carry(&mut from, path, SOCKET, &table);
    mountpoint(sheet, &mut from, path, &table);
    if let Some(node) = from.take("access_rules") {
        let rules: Option<Array> = node.texts().map(|rules| rules.into_iter().collect());
        match rules {
            Some(rules) => sheet.set(&table, "access_rules", rules),
            None => sheet.note(
                &format!("{path}.access_rules"),
                Some(&node.place),
                "not carried over: expected a list",
            ),
        }
    }
    if let Some(node) = from.take("max_connections")
        && let Some(most) = node.text().and_then(|text| text.trim().parse::<i64>().ok())
    {
        let key = if kind == "udp" {
            "max_peers"
        } else {
            "max_sessions"
        };
        sheet.set(&table, key, most);
    }
    if kind == "dtls" {
        // A number, or one with `/s`.
        if let Some(node) = from.take("max_conn_rate")
            && let Some(rate) = node
                .text()
                .and_then(|text| text.trim_end_matches("/s").trim().parse::<i64>().ok())
        {
            sheet.set(&table, "max_handshakes_per_second", rate);
        }
        dtls(sheet, homes, from.take_object("dtls_options"), &table, path, keys);
    }
    let asked = from.take("enable_authn").and_then(|node| node.boolean());
    let own = from.take("authentication");
    let place = [&table[..], &["authentication"]].concat();
    if asked == Some(false) {
        sheet.set(&place, "backend", "none");
        sheet.note(
            &format!("{path}.enable_authn"),
            None,
            "nobody is asked there, and here neither",
        );
    } else if let Some(node) = own {
        let path = format!("{path}.authentication");
        if !logins::run(sheet, homes, node, &path, &place, &format!("{kind}-{name}-")) {
            sheet.set(&place, "backend", "none");
        }
    }
    nothing::tell(sheet, &from, path);
    true
}

/// An address with its port.
fn address_of(text: &str) -> Option<String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if port.parse::<u16>().is_ok() {
        return Some(format!("[::]:{port}"));
    }
    let address: std::net::SocketAddr = text.parse().ok()?;
    Some(address.to_string())
}

fn dtls(
    sheet: &mut Sheet,
    homes: &Homes,
    mut from: Object,
    table: &[&str; 3],
    listener: &str,
    has_keys: bool,
) {
    let path = format!("{listener}.dtls_options");
    let stem = format!("dtls-{}", table[2]);
    sheet.carry(&mut from, &path, DTLS, table);
    let mut pair = material::take(sheet, homes, &mut from, &path, &stem);
    let verifies = from
        .take("verify")
        .is_some_and(|node| node.text() == Some("verify_peer"));
    let required = from
        .take("fail_if_no_peer_cert")
        .is_some_and(|node| node.boolean() == Some(true));
    if verifies && !pair.anchors {
        // Without anchors nobody could be verified, and a certificate alone would let in who is not.
        pair.own = false;
        sheet.note(
            &format!("{path}.verify"),
            None,
            "clients are verified there; without the file of cacertfile the listener has no certificate here either",
        );
    }
    if has_keys || !pair.own {
        sheet.set_file(table, "psk_file", PSK_FILE);
        sheet.secret(PSK_FILE, Zeroizing::new(b"# identity:hexkey\n".to_vec()));
    }
    if pair.own {
        sheet.set_file(table, "cert_file", &format!("{stem}.pem"));
        sheet.set_file(table, "key_file", &format!("{stem}.key"));
        if sheet
            .files
            .iter()
            .any(|file| file.name == format!("{stem}.password"))
        {
            sheet.set_file(table, "key_password_file", &format!("{stem}.password"));
        }
        if verifies {
            sheet.set_file(table, "ca_file", &format!("{stem}-ca.pem"));
            sheet.set(table, "verify", if required { "required" } else { "optional" });
        }
    } else if !has_keys {
        sheet.note(
            listener,
            None,
            format!("has neither certificate nor keys yet: nobody gets in until `portcullis psk add ID` fills {PSK_FILE}, or cert_file and key_file are set"),
        );
    }
    if let Some(node) = from.take("ciphers") {
        ciphers(sheet, &node, &format!("{path}.ciphers"), table);
    }
    nothing::tell(sheet, &from, &path);
}

/// Cipher suites by OpenSSL's names or IANA's.
fn ciphers(sheet: &mut Sheet, node: &Node, key: &str, table: &[&str]) {
    let wanted = node.texts().unwrap_or_default();
    let wanted: Vec<&str> = wanted
        .iter()
        .flat_map(|text| text.split([':', ' ']))
        .filter(|name| !name.is_empty())
        .collect();
    let known = |name: &&str| {
        let names = |suite: &&Suite| suite.openssl_name() == *name || suite.label() == *name;
        Suite::ALL.iter().find(names).copied()
    };
    let suites: Vec<Suite> = wanted.iter().filter_map(known).collect();
    let lost: Vec<&str> = wanted
        .iter()
        .filter(|name| known(name).is_none())
        .copied()
        .collect();
    if !lost.is_empty() {
        let words = format!("not spoken here: {}", lost.join(", "));
        sheet.note(key, Some(&node.place), words);
    }
    if suites.iter().any(|suite| suite.is_legacy()) {
        sheet.set(table, "legacy_cbc", Value::from(true));
        sheet.note(
            key,
            Some(&node.place),
            "there are suites of CBC among them: legacy_cbc = true",
        );
    }
    if !suites.is_empty() {
        let names: Vec<&str> = suites.iter().map(|suite| suite.openssl_name()).collect();
        sheet.set(table, "ciphers", names.join(":"));
    }
}

/// Access rules stand in files and databases of their own: what holds without one is carried over, the rules are the operator's.
fn authorization(all: &mut Object, sheet: &mut Sheet) {
    let mut from = all.take_object("authorization");
    let (sources, no_match) = (from.take("sources"), from.take("no_match"));
    if let Some(sources) = sources {
        let table = ["authorization"];
        sheet.set_file(&table, "acl_file", "acl.txt");
        sheet.public(
            "acl.txt",
            b"# user NAME, topic read|write|readwrite FILTER, pattern with %c and %u\n".to_vec(),
        );
        let no_match = no_match.as_ref().and_then(Node::text).unwrap_or("allow");
        sheet.set(&table, "no_match", no_match);
        sheet.note(
            "authorization.sources",
            Some(&sources.place),
            format!("its rules are not carried over: write them into acl.txt; until then no_match = \"{no_match}\" decides about everything"),
        );
    }
    nothing::tell(sheet, &from, "authorization");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_characters_become_keys_and_what_is_none_is_counted() {
        let (lines, wrong) = hexadecimal("a:x:y\n\n# c\nb\na:again\nd:\n", ":");
        assert_eq!(lines.as_str(), "a:783a79\n");
        assert_eq!(wrong, [4, 5, 6]);
        assert_eq!(hexadecimal("a=b=c", "=").0.as_str(), "a:623d63\n");
    }

    #[test]
    fn a_port_alone_is_one_of_all_addresses() {
        assert_eq!(address_of("5683").as_deref(), Some("[::]:5683"));
        assert_eq!(address_of(":5683").as_deref(), Some("[::]:5683"));
        assert_eq!(address_of("192.0.2.1:7").as_deref(), Some("192.0.2.1:7"));
        assert_eq!(address_of("[::1]:7").as_deref(), Some("[::1]:7"));
        assert_eq!(address_of("host:7"), None);
    }
}
