//! Who asks, as far as topics, no-local and authorisation care.

use std::sync::Arc;

use super::agenda::Cx;
use super::answers::{bad_request, unauthorized};
use super::context::RequestContext;
use super::metrics::GatewayMetrics;
use super::settings::Settings;
use crate::bridge::mountpoint::{self, Misfit, Values};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::Response;
use crate::policy::connections::{Connection, Grant};
use crate::types::reason::Limit;
use crate::types::topic::TopicError;
use crate::types::topic::is_below;
use crate::types::{ClientId, TopicFilter, TopicName};

/// Who asks: a peer by itself, or a connection.
pub(super) struct Asker {
    pub(super) holder: AccountHolder,
    pub(super) client: Option<ClientId>,
    pub(super) username: Option<Arc<str>>,
    pub(super) identity: Option<Arc<str>>,
    pub(super) grant: Grant,
    /// The mountpoint, filled in.
    pub(super) prefix: String,
}

impl Asker {
    /// The peer of a request, let in with what its login granted.
    ///
    /// # Errors
    /// 4.00 when a name does not go into the mountpoint, 4.01 when it needs an attribute that is not known.
    pub(super) fn peer(
        settings: &Settings,
        context: &RequestContext,
        grant: Grant,
    ) -> Result<Self, Response> {
        let holder = AccountHolder::Peer(context.from.id);
        let (client, username) = (context.client.clone(), context.username.clone());
        Self::new(settings, context, holder, client, username, grant)
    }

    /// The connection that a request uses, with the rights of that connection.
    ///
    /// # Errors
    /// 4.00 when a name does not go into the mountpoint, 4.01 when it needs an attribute that is not known.
    pub(super) fn connection(
        settings: &Settings,
        context: &RequestContext,
        connection: &Connection,
    ) -> Result<Self, Response> {
        let holder = AccountHolder::Connection(connection.key);
        let (client, username) = (Some(connection.client.clone()), connection.username.clone());
        Self::new(
            settings,
            context,
            holder,
            client,
            username,
            connection.grant.clone(),
        )
    }

    fn new(
        settings: &Settings,
        context: &RequestContext,
        holder: AccountHolder,
        client: Option<ClientId>,
        username: Option<Arc<str>>,
        grant: Grant,
    ) -> Result<Self, Response> {
        let identity = context.from.identity().map(|identity| Arc::clone(&identity.name));
        let listener = settings.listener(context.from.listener);
        let template = listener
            .and_then(|listener| listener.mountpoint.as_deref())
            .unwrap_or(&settings.mountpoint);
        let values = Values {
            client: client.as_ref().map(ClientId::as_str),
            username: username.as_deref(),
            identity: identity.as_deref(),
            listener: listener.map_or("", |listener| &listener.name),
            attributes: Some(&grant.attributes),
        };
        let prefix = mountpoint::expand(template, values).map_err(|misfit| match misfit {
            Misfit::Unsafe(name) => bad_request(format!(
                "a {name} with + # / or a control character, or that begins with $, cannot be used here"
            )),
            Misfit::Missing => unauthorized("nothing is known of the client that its topics need"),
        })?;
        Ok(Self {
            holder,
            client,
            username,
            identity,
            grant,
            prefix,
        })
    }

    /// Whose share of what the gateway keeps it is counted in, when its credentials were checked.
    pub(super) fn principal(&self) -> Option<Arc<str>> {
        let client = || self.client.as_ref().map(ClientId::text);
        self.identity
            .clone()
            .or_else(|| self.username.clone())
            .or_else(client)
    }

    fn mounted(&self, text: &str) -> String {
        [&*self.prefix, text].concat()
    }

    /// The topic at the broker.
    ///
    /// # Errors
    /// 4.00 when it is none.
    pub(super) fn topic(&self, cx: &Cx<'_>, text: &str) -> Result<TopicName, Response> {
        let topic = cx.settings.caps.topics.name(&self.mounted(text));
        let topic = topic.map_err(|error| bad_topic(cx.metrics, error))?;
        self.stays_outside(cx, topic.as_str()).map(|()| topic)
    }

    /// The filter at the broker.
    ///
    /// # Errors
    /// 4.00 when it is none.
    pub(super) fn filter(&self, cx: &Cx<'_>, text: &str) -> Result<TopicFilter, Response> {
        let filter = cx.settings.caps.topics.filter(&self.mounted(text));
        let filter = filter.map_err(|error| bad_topic(cx.metrics, error))?;
        self.stays_outside(cx, filter.as_str()).map(|()| filter)
    }

    /// Whether a mountpoint leads somewhere else than to where the gateway is at home: rules are about topics without it.
    fn stays_outside(&self, cx: &Cx<'_>, mounted: &str) -> Result<(), Response> {
        if !self.prefix.is_empty() && cx.settings.authorizer.is_of_gateway(mounted) {
            return Err(unauthorized("topics of the gateway are not for clients"));
        }
        Ok(())
    }

    /// The topic of a publish. What the broker and the gateway themselves publish is not for clients.
    ///
    /// # Errors
    /// 4.00 when it is none, 4.01 when it is not for clients.
    pub(super) fn topic_to_publish(&self, cx: &Cx<'_>, text: &str) -> Result<TopicName, Response> {
        let named = TopicName::new(text).map_err(|error| bad_topic(cx.metrics, error))?;
        let topic = self.topic(cx, text)?;
        let prefix = cx.settings.authorizer.events_prefix();
        if named.is_reserved() || topic.is_reserved() || is_below(topic.as_str(), prefix) {
            return Err(unauthorized(
                "topics of the broker are not for clients to publish to",
            ));
        }
        Ok(topic)
    }
}

/// 4.00 that says what is wrong with a topic or filter.
pub(super) fn bad_topic(metrics: &GatewayMetrics, error: TopicError) -> Response {
    if matches!(error, TopicError::TooLong(_) | TopicError::TooDeep(_)) {
        metrics.limits.inc(Limit::Topics);
    }
    bad_request(error.to_string())
}
