//! Who came and who went, told on `$portcullis/{node}/clients/{clientid}/connected|disconnected` (interface 5).

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use super::Gateway;
use super::contract::Output;
use super::peers::Peer;
use super::settings::IdentityUse;
use crate::bridge::contract::BrokerRequest;
use crate::types::message::Qos;
use crate::types::{ClientId, Identity, Message, TopicName, Transport};

/// What is told of a client.
pub(super) struct Told<'a> {
    pub(super) client: &'a ClientId,
    pub(super) username: Option<&'a str>,
    /// Where it is; `None` while its DTLS session is gone.
    pub(super) peer: Option<&'a Peer>,
}

impl Gateway {
    /// The message that a client connected, or with a reason that it disconnected. At QoS 1, so that the spool keeps it while
    /// the broker is away. `None` where a node name makes no topic.
    pub(super) fn news(&self, told: &Told<'_>, reason: Option<&'static str>) -> Option<Message> {
        let what = if reason.is_some() {
            "disconnected"
        } else {
            "connected"
        };
        let topic = format!(
            "$portcullis/{}/clients/{}/{what}",
            self.settings.node,
            level(told.client.as_str())
        );
        let payload = self.describe(told, reason);
        Some(Message {
            topic: TopicName::new(&topic).ok()?,
            payload: payload.to_string().into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            content_type: Some("application/json".into()),
            expires_at: None,
            origin: None,
        })
    }

    /// Publishes news.
    pub(super) fn announce(&mut self, news: Option<Message>) {
        let Some(message) = news else { return };
        // Nobody waits for the answer.
        let ticket = self.ticket();
        let request = BrokerRequest::Publish {
            ticket,
            message: Arc::new(message),
        };
        self.outputs.push_back(Output::Broker(request));
    }

    fn describe(&self, told: &Told<'_>, reason: Option<&'static str>) -> serde_json::Value {
        let mut payload = json!({ "node": &*self.settings.node, "clientid": told.client.as_str() });
        let Some(fields) = payload.as_object_mut() else {
            return payload;
        };
        if let Some(username) = told.username {
            fields.insert("username".into(), username.into());
        }
        if let Some(reason) = reason {
            fields.insert("reason".into(), reason.into());
        }
        if let Some(peer) = told.peer {
            let transport = if peer.session.is_some() {
                Transport::Dtls
            } else {
                Transport::Udp
            };
            fields.insert("transport".into(), transport.label().into());
            fields.insert("address".into(), peer.address.to_string().into());
            if let Some(listener) = self.listener_settings(peer.listener) {
                fields.insert("listener".into(), (&*listener.name).into());
            }
            if let Some(Identity { name, .. }) = &peer.identity {
                fields.insert("identity".into(), (&**name).into());
            }
        }
        payload
    }

    /// The client that a DTLS session is by itself: connectionless, with an identity that is the client id.
    pub(super) fn client_of_session(&self, peer: &Peer) -> Option<ClientId> {
        if self.settings.connection_required {
            return None;
        }
        let dtls = self.listener_settings(peer.listener)?.dtls.as_ref()?;
        let identity = peer
            .identity
            .as_ref()
            .filter(|_| dtls.identity == IdentityUse::ClientId)?;
        ClientId::new(&identity.name)
    }
}

/// A client id as one topic level: what would make several levels, a filter or no text of it is percent-encoded.
fn level(client: &str) -> String {
    let mut level = String::with_capacity(client.len());
    for c in client.chars() {
        if matches!(c, '/' | '+' | '#' | '%') || c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _infallible = write!(level, "%{byte:02X}");
            }
        } else {
            level.push(c);
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn a_client_id_is_one_level_whatever_is_in_it() {
        assert_eq!(level("meter-1"), "meter-1");
        assert_eq!(level("a/b+#%\n"), "a%2Fb%2B%23%25%0A");
        assert_eq!(level("zähler"), "zähler");
    }
}
