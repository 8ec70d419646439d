//! Whether a device may do this now: connections and tokens, authentication, ACL, rates, quotas.

pub mod acl;
pub mod attributes;
pub mod authentication;
pub mod authorization;
pub mod bans;
pub mod connections;
pub mod extra_acl;
pub mod failures;
pub mod identity_names;
pub mod ledger;
pub mod overload;
pub mod pattern;
pub mod rate;
pub mod shares;
pub mod verdict_cache;
