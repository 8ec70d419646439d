//! CoAP resource to MQTT topic and back: publish, subscribe, retained messages, notifications.

pub mod backlog;
pub mod collection;
pub mod conditions;
pub mod content;
pub mod contract;
pub mod discovery;
pub mod login;
pub mod mountpoint;
pub mod receipt;
pub mod sample;
pub mod subscriptions;
pub mod translate;
pub mod uri;
