//! Who came and who went, and who sleeps, told on `$portcullis/{node}/clients/{clientid}/connected|disconnected|asleep|lost|awake`
//! (interface 5).

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::agenda::Cx;
use super::context::PeerFacts;
use super::settings::Settings;
use crate::bridge::contract::BrokerRequest;
use crate::policy::attributes::Attributes;
use crate::policy::connections::Presence;
use crate::types::message::Qos;
use crate::types::{ClientId, Identity, Message, TopicName};

/// What is told of a client.
pub(super) enum News {
    /// It connected.
    Connected,
    /// It disconnected, and why.
    Disconnected(&'static str),
    /// Whether it can be reached changed, and how long it had been silent.
    Presence(Presence, Duration),
}

impl News {
    const fn level(&self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected(_) => "disconnected",
            Self::Presence(Presence::Online, _) => "awake",
            Self::Presence(Presence::Asleep, _) => "asleep",
            Self::Presence(Presence::Lost, _) => "lost",
        }
    }
}

/// Publishes news of a client. At QoS 1, so that the spool keeps it while the broker is away. `from` is where it is; `None` while its
/// DTLS session is gone.
pub(super) fn announce(
    cx: &mut Cx<'_>,
    client: &ClientId,
    (username, attributes): (Option<&str>, Option<&Attributes>),
    from: Option<&PeerFacts>,
    news: News,
) {
    let topic = format!(
        "{}/{}/clients/{}/{}",
        cx.settings.authorizer.events_prefix(),
        cx.settings.node,
        level(client.as_str()),
        news.level()
    );
    // Where the node's name makes no topic there is no news.
    let Ok(topic) = TopicName::new(&topic) else { return };
    let payload = describe(cx.settings, client, (username, attributes), from, &news);
    let message = Message {
        content_type: Some("application/json".into()),
        ..Message::new(topic, payload.to_string().into(), Qos::AtLeastOnce)
    };
    // Nobody waits for the answer.
    let ticket = cx.agenda.ticket();
    cx.agenda.broker(BrokerRequest::Publish {
        ticket,
        message: Arc::new(message),
    });
}

fn describe(
    settings: &Settings,
    client: &ClientId,
    (username, attributes): (Option<&str>, Option<&Attributes>),
    from: Option<&PeerFacts>,
    news: &News,
) -> serde_json::Value {
    let mut payload = json!({ "node": &*settings.node, "clientid": client.as_str() });
    let Some(fields) = payload.as_object_mut() else {
        return payload;
    };
    if let Some(username) = username {
        fields.insert("username".into(), username.into());
    }
    if let Some(attributes) = attributes.filter(|attributes| !attributes.is_empty()) {
        let all = attributes
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()));
        fields.insert("attributes".into(), serde_json::Value::Object(all.collect()));
    }
    match news {
        News::Connected => {}
        News::Disconnected(reason) => {
            fields.insert("reason".into(), (*reason).into());
        }
        News::Presence(_, silent) => {
            fields.insert("idle_seconds".into(), silent.as_secs().into());
        }
    }
    if let Some(from) = from {
        fields.insert(
            "transport".into(),
            settings.transport(from.listener).label().into(),
        );
        fields.insert("address".into(), from.address.to_string().into());
        if let Some(listener) = settings.listener(from.listener) {
            fields.insert("listener".into(), (&*listener.name).into());
        }
        if let Some(Identity { name, .. }) = from.identity() {
            fields.insert("identity".into(), (&**name).into());
        }
    }
    payload
}

/// A client id as one topic level: what would make several levels or a filter of it is percent-encoded.
#[must_use]
pub fn level(client: &str) -> String {
    let mut level = String::with_capacity(client.len());
    for c in client.chars() {
        if matches!(c, '/' | '+' | '#' | '%') {
            level.extend(utf8_percent_encode(c.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC));
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
        assert_eq!(level("a/b+#%"), "a%2Fb%2B%23%25");
        assert_eq!(level("zähler"), "zähler");
    }
}
