//! What a reload cannot change: threads and stores that stand already.

use crate::config::Config;

/// Gives `new` the values of `old` where they cannot change while the process runs.
pub(super) fn keep_fixed(old: &Config, new: &mut Config) {
    new.node.clone_from(&old.node);
    new.broker.clone_from(&old.broker);
    new.metrics.clone_from(&old.metrics);
    new.admin.bind.clone_from(&old.admin.bind);
    new.log.format = old.log.format;
}
