//! What manual pages and help say beside the definitions: examples, exit codes, files, and where the documentation is.

use crate::config;

use super::exit;

/// Where the package puts the documentation.
pub(super) const DOCUMENTATION: &str =
    "Documentation: /usr/share/doc/portcullis/docs/README.md, and `man portcullis.toml`";

/// Command lines by command, each with what it is for.
pub(super) const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("portcullis run", "Serve on loopback, without a configuration"),
            (
                "portcullis run --config /etc/portcullis/portcullis.toml",
                "Serve as a file says",
            ),
            ("portcullis doctor", "Say what keeps it from serving well"),
        ],
    ),
    (
        "run",
        &[
            (
                "portcullis run",
                "Serve on loopback, with a key made at the first start",
            ),
            (
                "portcullis run --config /etc/portcullis/portcullis.toml",
                "Serve as a file says",
            ),
        ],
    ),
    (
        "check-config",
        &[(
            "portcullis check-config --config portcullis.toml",
            "Say all that is wrong with a file and with those that it names",
        )],
    ),
    (
        "psk",
        &[("portcullis psk add meter-17", "Make a key for a device")],
    ),
    (
        "psk add",
        &[
            (
                "portcullis psk add meter-17",
                "Make a key, and print lines to try it with",
            ),
            ("portcullis psk add meter-17 --replace", "Give it another"),
        ],
    ),
    (
        "psk remove",
        &[(
            "portcullis psk remove meter-17",
            "Keep a device out from the next reload on",
        )],
    ),
    (
        "psk import",
        &[(
            "portcullis psk import keys.csv",
            "Add the keys of a file with the columns identity and key",
        )],
    ),
    (
        "psk list",
        &[("portcullis psk list --json", "List identities for a program")],
    ),
    (
        "user",
        &[(
            "portcullis user add ann",
            "Add a user, whose password is asked for",
        )],
    ),
    (
        "user add",
        &[(
            "portcullis user add ann",
            "Add a user, whose password is asked for",
        )],
    ),
    (
        "group",
        &[(
            "portcullis group import",
            "Give what was changed by hand to all nodes",
        )],
    ),
    (
        "group status",
        &[("portcullis group status", "Show how all nodes of the group are")],
    ),
    (
        "group import",
        &[(
            "portcullis group import",
            "Give what was changed by hand to all nodes",
        )],
    ),
    (
        "group restore",
        &[(
            "portcullis group restore",
            "Have on this node what all nodes share",
        )],
    ),
    ("user remove", &[("portcullis user remove ann", "Remove a user")]),
    (
        "user import",
        &[(
            "portcullis user import users.csv --algorithm sha256",
            "Add users whose hashes another gateway made",
        )],
    ),
    (
        "user list",
        &[(
            "portcullis user list",
            "List users and how their passwords are hashed",
        )],
    ),
    (
        "acl",
        &[(
            "portcullis acl check ann publish plant/1/level",
            "Ask what the rules say",
        )],
    ),
    (
        "acl check",
        &[
            (
                "portcullis acl check ann publish plant/1/level",
                "Ask about a user",
            ),
            (
                "portcullis acl check - subscribe dev/m1/cmd --client m1",
                "Ask about a client without a user name",
            ),
        ],
    ),
    ("token", &[("portcullis token list", "List who may use the API")]),
    (
        "token add",
        &[(
            "portcullis token add grafana --expires 90d",
            "Let somebody read for a season",
        )],
    ),
    (
        "token remove",
        &[("portcullis token remove grafana", "Take a token back")],
    ),
    (
        "token list",
        &[("portcullis token list", "List names, roles and ends")],
    ),
    (
        "certs",
        &[("portcullis certs dev --dir certs", "Make certificates for trials")],
    ),
    (
        "certs dev",
        &[(
            "portcullis certs dev --dir certs --host gw.example.net",
            "Make certificates for trials, for another name too",
        )],
    ),
    ("ban", &[("portcullis ban list", "List who is kept out")]),
    (
        "ban add",
        &[
            (
                "portcullis ban add clientid meter-99 --for 2h",
                "Keep a client out for a while",
            ),
            (
                "portcullis ban add address 203.0.113.0/24",
                "Keep a network out for good",
            ),
        ],
    ),
    (
        "ban remove",
        &[("portcullis ban remove clientid meter-99", "Let a client in again")],
    ),
    (
        "ban list",
        &[("portcullis ban list", "List who is kept out, until when and why")],
    ),
    ("clients", &[("portcullis clients list", "List clients")]),
    (
        "clients list",
        &[(
            "portcullis clients list --like meter --transport dtls",
            "List some clients",
        )],
    ),
    (
        "clients show",
        &[(
            "portcullis clients show meter-17",
            "Show a client with its observations",
        )],
    ),
    (
        "clients kick",
        &[(
            "portcullis clients kick meter-17",
            "End its connection, session and observations",
        )],
    ),
    (
        "clients watch",
        &[(
            "portcullis clients watch --kind connected,disconnected --last 20",
            "Follow who comes and goes",
        )],
    ),
    (
        "drain",
        &[("portcullis drain", "Say goodbye to every device and end")],
    ),
    (
        "status",
        &[(
            "portcullis status --json",
            "Show for a program how the gateway is",
        )],
    ),
    (
        "top",
        &[("portcullis top --interval 5", "Follow rates and latencies")],
    ),
    (
        "trace",
        &[
            ("portcullis trace meter-17", "Follow one device until Ctrl-C"),
            (
                "portcullis trace 192.0.2.7 --for 60 --no-payload",
                "Follow an address for a minute",
            ),
        ],
    ),
    (
        "reload",
        &[(
            "portcullis reload",
            "Put configuration and files in force that were changed",
        )],
    ),
    (
        "config",
        &[(
            "portcullis config show --changed",
            "Show what differs from the defaults",
        )],
    ),
    (
        "config show",
        &[(
            "portcullis config show --changed",
            "Show what differs from the defaults, and where it comes from",
        )],
    ),
    (
        "pub",
        &[(
            "portcullis pub plant/announce noon --retain",
            "Publish past the devices",
        )],
    ),
    (
        "sub",
        &[("portcullis sub 'plant/#' --count 10", "Print ten messages")],
    ),
    (
        "doctor",
        &[("portcullis doctor", "Say what is wrong, and which key mends it")],
    ),
    (
        "bugreport",
        &[(
            "portcullis bugreport --output report.tar",
            "Collect what is needed to help, without secrets",
        )],
    ),
    (
        "bench",
        &[
            (
                "portcullis bench --clients 100 --duration 30s",
                "Publish as fast as it goes",
            ),
            (
                "portcullis bench coaps://gw.example.net --key-file psk.txt --rate 500 --json",
                "Measure another machine at a rate",
            ),
        ],
    ),
    (
        "migrate",
        &[(
            "portcullis migrate /etc/emqx/emqx.conf --output portcullis.toml",
            "Make a configuration of EMQX's",
        )],
    ),
    (
        "completions",
        &[("portcullis completions bash", "Print what bash is to load")],
    ),
    ("man", &[("portcullis man --dir man", "Write all manual pages")]),
];

/// Codes of sysexits(3), and what they mean here.
const CODES: &[(u8, &str)] = &[
    (exit::OK, "It was done."),
    (exit::USAGE, "The command line is wrong."),
    (exit::DATA_ERROR, "The input is wrong, or says what cannot be."),
    (exit::NO_INPUT, "A file is not there or cannot be read."),
    (exit::NO_USER, "There is no such client, identity or user."),
    (
        exit::UNAVAILABLE,
        "No gateway answers, or it does not serve; a port is taken.",
    ),
    (exit::SOFTWARE, "What must not happen did."),
    (71, "The system refused something: threads, memory, a full disk."),
    (exit::CANNOT_CREATE, "A file cannot be made."),
    (exit::IO_ERROR, "Reading or writing failed."),
    (
        exit::NO_PERMISSION,
        "There is no token, or it may not do this; others can read a file with secrets.",
    ),
    (
        exit::CONFIG,
        "The configuration is wrong; doctor found a problem.",
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        config::DEFAULT_FILE,
        "The configuration, where --config names none.",
    ),
    (
        "/var/lib/portcullis",
        "State: retained messages, spool, tokens (node.state_dir).",
    ),
    (
        "/run/portcullis/admin.sock",
        "The socket of the running service, for its owner and the group portcullis.",
    ),
    ("/usr/share/doc/portcullis/docs", "The documentation."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PORTCULLIS_STATE_DIR",
        "Where the quick start keeps key, certificates and state; else $XDG_STATE_HOME/portcullis, else ~/.local/state/portcullis.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "Of the service manager: a relative path in the configuration that names a file in there is that file.",
    ),
    (
        "RUNTIME_DIRECTORY",
        "Of the service manager: where the socket for the command line is made.",
    ),
];

/// The examples of a command, for its help.
pub(super) fn examples(path: &str) -> Option<&'static [(&'static str, &'static str)]> {
    EXAMPLES
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, examples)| *examples)
}

/// Text that means nothing else to troff.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let line = |line: &str| match line.chars().next() {
        Some('.' | '\'') => format!("\\&{line}"),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn terms(heading: &str, terms: &[(String, &str)]) -> String {
    let mut text = format!(".SH {heading}\n");
    for (term, meaning) in terms {
        text.push_str(&format!(".TP\n{}\n{}\n", escaped(term), escaped(meaning)));
    }
    text
}

/// The sections behind the options of the page of a command.
pub(super) fn sections(path: &str, related: &[String]) -> String {
    let mut text = ".SH EXAMPLES\n".to_owned();
    for (line, what) in examples(path).unwrap_or_default() {
        text.push_str(&format!(
            "{}:\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n.PP\n",
            escaped(what),
            escaped(line)
        ));
    }
    let of = |all: &'static [(&'static str, &'static str)]| {
        all.iter()
            .map(|(name, meaning)| ((*name).to_owned(), *meaning))
            .collect::<Vec<_>>()
    };
    let denied = (path == "acl check").then_some(("1".to_owned(), "It is denied."));
    let codes = CODES.iter().map(|(code, meaning)| (code.to_string(), *meaning));
    let codes: Vec<_> = codes.chain(denied).collect();
    text.push_str(&terms("\"EXIT STATUS\"", &codes));
    text.push_str(&terms("FILES", &of(FILES)));
    text.push_str(&terms("ENVIRONMENT", &of(ENVIRONMENT)));
    text.push_str(&format!(
        ".SH \"SEE ALSO\"\n{}\n.PP\n{}\n",
        escaped(&related.join(", ")),
        escaped(DOCUMENTATION)
    ));
    text
}

/// `portcullis.toml(5)`, out of the keys that the configuration has.
pub(super) fn configuration() -> String {
    let mut text = format!(
        ".TH portcullis.toml 5 \"\" \"portcullis {}\"\n.SH NAME\nportcullis.toml \\- configuration of portcullis(1)\n.SH DESCRIPTION\n{}\n",
        env!("CARGO_PKG_VERSION"),
        escaped(
            "A TOML file. Unknown keys are refused, and `portcullis check-config` says all that is wrong at once. Durations are \"500ms\", \"30s\", \
             \"5m\", sizes \"512KiB\", \"4MiB\", paths relative to the file. No secret stands in it, only the paths of files that hold \
             them, which must be readable by their owner alone. NAME in a section is free."
        )
    );
    let mut section = String::new();
    for key in config::reference() {
        if key.section != section {
            text.push_str(&format!(
                ".SH \"{}\"\n",
                escaped(&key.section.replace('*', "NAME"))
            ));
            section = key.section;
        }
        let head = format!(
            "{} ({}, default {})",
            key.name,
            key.kind.replace('`', ""),
            key.default
        );
        text.push_str(&format!(".TP\n{}\n{}\n", escaped(&head), escaped(&key.about)));
    }
    text.push_str(".SH EXAMPLES\n.nf\n");
    text.push_str(&escaped("[listeners.udp.default]\nbind = \"127.0.0.1:5683\"\n\n[listeners.dtls.default]\nbind = \"[::]:5684\"\npsk_file = \"psk.txt\""));
    text.push_str(&format!(
        "\n.fi\n{}",
        terms(
            "FILES",
            &[(
                config::DEFAULT_FILE.to_owned(),
                "Where it is when nothing else is said."
            )]
        )
    ));
    text.push_str(&format!(
        ".SH \"SEE ALSO\"\n{}\n.PP\n{}\n",
        escaped("portcullis(1), portcullis-check-config(1)"),
        escaped(DOCUMENTATION)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_page_of_the_configuration() {
        let page = configuration();
        for key in config::reference() {
            assert!(
                page.contains(&format!(".TP\n{} (", escaped(key.name))),
                "{}",
                key.name
            );
        }
        assert!(page.lines().all(|line| !line.starts_with('\'')));
    }
}
