//! CoAP resource to MQTT topic and back: publish, subscribe, retained messages, notifications.

pub mod contract;
