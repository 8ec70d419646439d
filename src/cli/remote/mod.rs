//! The commands that talk to the running gateway over its management interface.

pub(super) mod args;
pub(super) mod bans;
pub(super) mod clients;
pub(super) mod config;
pub(super) mod http;
pub(super) mod messages;
pub(super) mod reload;
pub(super) mod status;
pub(super) mod table;
pub(super) mod top;
pub(super) mod trace;
