//! What a reload cannot change: sockets, threads and stores that stand already.

use crate::config::Config;

/// Gives `new` the values of `old` where they cannot change while the process runs, and names the keys that differed.
pub(super) fn keep_fixed(old: &Config, new: &mut Config) -> Vec<String> {
    let mut kept = Vec::new();
    let mut keep = |key: &str, same: bool| {
        if !same {
            kept.push(key.to_owned());
        }
        !same
    };
    if keep("node", old.node == new.node) {
        new.node = old.node.clone();
    }
    if keep("broker", old.broker == new.broker) {
        new.broker = old.broker.clone();
    }
    if keep("metrics", old.metrics == new.metrics) {
        new.metrics = old.metrics.clone();
    }
    if keep("admin", old.admin == new.admin) {
        new.admin = old.admin.clone();
    }
    if keep("log", old.log == new.log) {
        new.log = old.log.clone();
    }
    if keep(
        "authentication.backend",
        old.authentication.backend == new.authentication.backend,
    ) {
        new.authentication = old.authentication.clone();
    }
    let shape = |config: &Config| {
        let shape = config
            .listeners
            .iter()
            .map(|listener| (listener.key(), listener.bind));
        shape.collect::<Vec<_>>()
    };
    if keep("listeners (names and addresses)", shape(old) == shape(new)) {
        new.listeners.clone_from(&old.listeners);
    }
    kept
}
