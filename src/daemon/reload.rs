//! What a reload cannot change: sockets, threads and stores that stand already.

use crate::config::Config;

/// Gives `new` the values of `old` where they cannot change while the process runs.
pub(super) fn keep_fixed(old: &Config, new: &mut Config) {
    new.node.clone_from(&old.node);
    new.broker.clone_from(&old.broker);
    new.metrics.clone_from(&old.metrics);
    new.admin.bind.clone_from(&old.admin.bind);
    new.log.clone_from(&old.log);
    // Whether there are backends at all decides what the workers were given.
    let logs_in = |config: &Config| config.authentication.backend != crate::config::Backend::None;
    if logs_in(old) != logs_in(new) {
        new.authentication.clone_from(&old.authentication);
    }
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
