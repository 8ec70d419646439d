//! Requests to devices that came over MQTT.

use std::sync::Arc;

use portcullis_proto::types::metrics::{Exposes, Family, LabelPair, Samples};
use portcullis_proto::{labels, metrics};

labels! {
    /// What became of a request to a device that came over MQTT: `mqtt_requests_total{result}`.
    pub enum MqttRequestResult {
        /// The device answered.
        Answered = "answered",
        /// The device did not, or was not heard of in time.
        Failed = "failed",
        /// It is no request, or not one that `broker.mqtt_requests` lists.
        Refused = "refused",
        /// Too many were under way.
        Busy = "busy",
        /// Its own time was over before it was read.
        Expired = "expired",
    }
}

metrics! {
    /// One writer: the thread of the management interface.
    pub struct MqttRequestMetrics {
        /// Requests to devices that came over MQTT, by what became of them.
        pub requests: Family<MqttRequestResult> = counter "mqtt_requests_total" [] by [result],
    }
}

/// The `mqtt_requests_total` family.
pub struct ExposeMqttRequests(pub Arc<MqttRequestMetrics>);

impl Exposes for ExposeMqttRequests {
    fn expose(&self, context: &[LabelPair<'_>], out: &mut dyn Samples) {
        self.0.expose(context, out);
    }
}
