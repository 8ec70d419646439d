//! What a reload cannot change: threads and stores that stand already.

use crate::config::{Config, Listener};

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
}

/// No listener can begin to ask for logins in a process that was started without backends. Such a one stays as it was, or away,
/// and is named.
pub(super) fn keep_open(old: &Config, new: &mut Config) -> Vec<String> {
    let mut named = Vec::new();
    let all_new = |listener: &Listener| !old.listeners.iter().any(|old| old.key() == listener.key());
    if new
        .listeners
        .iter()
        .all(|listener| listener.authentication == Some(true) && all_new(listener))
    {
        // Nothing would be left to serve.
        named.extend(new.listeners.iter().map(Listener::key));
        new.listeners.clone_from(&old.listeners);
        return named;
    }
    new.listeners.retain_mut(|listener| {
        if listener.authentication != Some(true) {
            return true;
        }
        let key = listener.key();
        named.push(format!("{key}.authentication"));
        let was = old.listeners.iter().find(|old| old.key() == key);
        if let Some(was) = was {
            listener.authentication = was.authentication;
        }
        was.is_some()
    });
    named
}
