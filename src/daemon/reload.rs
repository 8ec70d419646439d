//! What a reload cannot change: sockets, threads and stores that stand already.

use crate::config::Config;

/// Gives `new` the values of `old` where they cannot change while the process runs.
pub(super) fn keep_fixed(old: &Config, new: &mut Config) {
    new.node.clone_from(&old.node);
    new.broker.clone_from(&old.broker);
    new.metrics.clone_from(&old.metrics);
    new.admin.bind.clone_from(&old.admin.bind);
    new.log.clone_from(&old.log);
    let shape = |config: &Config| -> Vec<_> {
        config
            .listeners
            .iter()
            .map(|listener| (listener.key(), listener.bind))
            .collect()
    };
    if shape(old) != shape(new) {
        new.listeners.clone_from(&old.listeners);
    }
}
