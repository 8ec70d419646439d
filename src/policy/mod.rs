//! Whether a device may do this now: connections and tokens, authentication, ACL, rates, quotas.

pub mod connections;
