//! What a changed configuration changes only after a restart.

use portcullis_config::Config;

/// Dotted keys, or tables, that differ and that a reload does not touch. Listeners come and go at run time; where that fails it
/// is noticed there.
#[must_use]
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut note = |differs: bool, key: &str| {
        if differs {
            keys.push(key.to_owned());
        }
    };
    note(old.node.name != new.node.name, "node.name");
    note(old.node.state_dir != new.node.state_dir, "node.state_dir");
    note(old.worker_count() != new.worker_count(), "node.workers");
    note(old.broker != new.broker, "broker");
    note(old.metrics.bind != new.metrics.bind, "metrics.bind");
    note(old.admin.bind != new.admin.bind, "admin.bind");
    note(old.admin.socket != new.admin.socket, "admin.socket");
    note(old.state != new.state, "state");
    note(old.group != new.group, "group");
    note(old.log.format != new.log.format, "log.format");
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use portcullis_config::{PathBase, parse};

    fn config(text: &str) -> Config {
        parse(text, Path::new("t.toml"), &PathBase::of_file(Path::new("t.toml"))).unwrap()
    }

    #[test]
    fn what_a_reload_does_is_not_named() {
        let old = config("[coap]\nheartbeat = \"30s\"\n[listeners.udp.a]\nbind = \"127.0.0.1:1\"\n");
        let new = config(
            "[coap]\nheartbeat = \"10s\"\n[limits]\nrequests_per_second = 5\n[log]\nlevel = \"debug\"\n[listeners.udp.a]\nbind = \"127.0.0.1:1\"\nmountpoint = \"m/\"\n",
        );
        assert!(needs_restart(&old, &new).is_empty());
    }

    #[test]
    fn threads_and_the_broker_are_named() {
        let old =
            config("[listeners.udp.a]\nbind = \"127.0.0.1:1\"\n[listeners.udp.b]\nbind = \"127.0.0.1:2\"\n");
        let new = config(
            "[node]\nname = \"n\"\nworkers = 3\n[listeners.udp.a]\nbind = \"127.0.0.1:9\"\n[listeners.udp.c]\nbind = \"127.0.0.1:2\"\n\
             [broker]\nurl = \"mqtt://x\"\n[log]\nformat = \"json\"\n",
        );
        let mut old = old;
        old.node.workers = 2;
        assert_eq!(
            needs_restart(&old, &new),
            ["node.name", "node.workers", "broker", "log.format"]
        );
    }
}
