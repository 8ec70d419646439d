//! The broker behind the gateway: embedded, or any MQTT broker.
