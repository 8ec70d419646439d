//! What the broker keeps of this node being there: the status, and the will that takes it back.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Greeting, Will};
use super::session::Ending;
use crate::metrics::ConnectResult;
use crate::settings::{MqttSettings, Protocol};
use portcullis_proto::types::TopicName;
use portcullis_proto::types::message::{Message, Qos};

/// The status, and what it goes without since the broker does not take it.
#[derive(Debug)]
pub(super) struct Presence {
    /// Where it is told; nothing for a connection that tells none.
    topic: Option<TopicName>,
    node: Arc<str>,
    protocol: Protocol,
    without_qos: bool,
    without_retain: bool,
    /// How often in a row the broker hung up while nothing but the status was under way.
    hung_up: u8,
}

impl Presence {
    /// For the connection of this index: the first one tells it.
    pub(super) fn new(settings: &MqttSettings, index: usize, node: &Arc<str>) -> Self {
        let tells = index == 0 && settings.publish_status;
        let topic = || TopicName::new(&format!("{}/{node}/status", settings.events_prefix)).ok();
        Self {
            topic: tells.then(topic).flatten(),
            node: Arc::clone(node),
            protocol: settings.protocol,
            without_qos: false,
            without_retain: false,
            hung_up: 0,
        }
    }

    fn qos(&self) -> Qos {
        match self.without_qos {
            true => Qos::AtMostOnce,
            false => Qos::AtLeastOnce,
        }
    }

    fn payload(&self, status: &str) -> String {
        serde_json::json!({ "node": &*self.node, "status": status }).to_string()
    }

    /// What the broker says when this node does not.
    pub(super) fn will(&self) -> Option<Will> {
        Some(Will {
            topic: self.topic.as_ref()?.to_string(),
            payload: self.payload("offline"),
            qos: self.qos(),
            retain: !self.without_retain,
        })
    }

    /// The message that tells `status`.
    pub(super) fn message(&self, status: &str) -> Option<Message> {
        Some(Message {
            retain: !self.without_retain,
            content_type: Some("application/json".into()),
            ..Message::new(self.topic.clone()?, Bytes::from(self.payload(status)), self.qos())
        })
    }

    /// The broker took the will. What MQTT 3.1.1 does not say of it that tells.
    pub(super) fn connected(&mut self, greeting: &mut Greeting) {
        if self.without_qos {
            greeting.max_qos = Qos::AtMostOnce;
        }
        greeting.retain &= !self.without_retain;
        self.without_qos = greeting.max_qos == Qos::AtMostOnce;
        self.without_retain = !greeting.retain;
    }

    /// Whether the next attempt makes do with less, because that may be what the broker does not take: it ended a connection that
    /// `stood`, or an attempt at one, `over_status` when nothing else was under way. By MQTT 3.1.1 it says nothing and hangs up, so
    /// less is tried step by step.
    pub(super) fn asks_for_less(&mut self, ending: &Ending, stood: bool, over_status: bool) -> bool {
        let before = (self.without_qos, self.without_retain);
        match (self.protocol, ending.reason) {
            (Protocol::V5, Some(0x9A)) if !stood => self.without_retain = true,
            (Protocol::V5, Some(0x9B)) if !stood => self.without_qos = true,
            (Protocol::V4, None) if self.topic.is_some() => {
                let silent = !stood && ending.result == ConnectResult::Protocol;
                // A broker that restarts just then looks the same, but not twice in a row.
                self.hung_up = if over_status { self.hung_up + 1 } else { 0 };
                if silent || self.hung_up > 1 {
                    self.hung_up = 0;
                    (self.without_qos, self.without_retain) = match before {
                        (false, false) => (true, false),
                        (true, false) => (false, true),
                        (false, true) => (true, true),
                        (true, true) => (false, false),
                    };
                    return before != (true, true);
                }
                if stood {
                    (self.without_qos, self.without_retain) = (false, false);
                }
                return false;
            }
            _ => {}
        }
        before != (self.without_qos, self.without_retain)
    }
}
