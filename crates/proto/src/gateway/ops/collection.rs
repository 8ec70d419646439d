//! The topic collection: topics created, found, changed and deleted (draft-ietf-core-coap-pubsub-21, 2.4 and 2.5).

use std::collections::VecDeque;

use bytes::Bytes;

use super::NextStep;
use crate::bridge::collection::properties::{self, BadProperties, MAX_BYTES, Properties, Property};
use crate::bridge::collection::topic::{self, Topic};
use crate::bridge::content;
use crate::bridge::discovery::{self, Attributes, LINK_FORMAT, Link};
use crate::coap::contract::{Code, Response};
use crate::gateway::agenda::Cx;
use crate::gateway::answers::{bad_request, not_acceptable, not_found, other_format, unavailable};
use crate::gateway::asker::Asker;
use crate::gateway::context::{CollectionOperation, RequestContext};
use crate::gateway::guard::{authorize, decide};
use crate::gateway::metrics::CollectionResult;
use crate::gateway::pending_requests::PendingRequests;
use crate::gateway::topics::{self, Change, Topics};
use crate::policy::authorization::{Access, Action};
use crate::types::Message;
use crate::types::reason::Limit;

/// Does what is asked of the collection.
///
/// # Errors
/// With the answer that refuses it.
pub(in crate::gateway) fn collection(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    topics: &mut Topics,
    context: &RequestContext,
    operation: &CollectionOperation,
    asker: &Asker,
) -> Result<NextStep, Response> {
    let result = topics.loaded().and_then(|()| match operation {
        CollectionOperation::List => list(cx, topics, context, asker, None),
        CollectionOperation::Filter => {
            let filter = read(cx, context)?;
            list(cx, topics, context, asker, Some(&filter))
        }
        CollectionOperation::Create => create(cx, pending, topics, context, asker),
        CollectionOperation::Read(id) => {
            let topic = seen(cx, topics, asker, id)?;
            represent(cx, context, topic, |_| true)
        }
        CollectionOperation::ReadPart(id) => {
            let topic = seen(cx, topics, asker, id)?;
            if !matches!(context.content_format, None | Some(content::CBOR)) {
                return Err(other_format("Content-Format 60 only"));
            }
            let wanted = properties::wanted(whole(context)?).map_err(bad)?;
            represent(cx, context, topic, |property| wanted.contains(&property))
        }
        CollectionOperation::Replace(id) => {
            let topic = owned(cx, topics, context, asker, id)?.clone();
            update(cx, pending, topics, context, &topic, Properties::replaced)
        }
        CollectionOperation::Patch(id) => {
            let topic = owned(cx, topics, context, asker, id)?.clone();
            update(cx, pending, topics, context, &topic, Properties::patched)
        }
        CollectionOperation::Delete(id) => {
            let topic = owned(cx, topics, context, asker, id)?;
            let change = topics::deletion(cx, topic, Some(context.reply), CollectionResult::Deleted);
            topics.change(cx, pending, change).map(|()| NextStep::Wait)
        }
    });
    match &result {
        Ok(NextStep::Answer(_)) => cx.metrics.collection.inc(CollectionResult::Read),
        Ok(NextStep::Wait) => {}
        Err(_) => cx.metrics.collection.inc(CollectionResult::Refused),
    }
    result
}

/// What is here, for everybody (RFC 6690): created topics only where everybody may see them.
pub(in crate::gateway) fn discover(
    cx: &Cx<'_>,
    topics: &Topics,
    context: &RequestContext,
    asker: Option<&Asker>,
) -> Response {
    let found = asker.map(|asker| visible(cx, topics, asker));
    let links = found
        .iter()
        .flatten()
        .flat_map(|topic| [Link::configuration(topic), Link::data(topic)]);
    let query = context.resource.query();
    links_of(discovery::document(
        discovery::fixed().chain(links),
        query,
        Attributes::Shown,
    ))
}

fn links_of(document: String) -> Response {
    Response {
        payload: document.into(),
        content_format: Some(LINK_FORMAT),
        ..Response::new(Code::CONTENT)
    }
}

fn bad(error: BadProperties) -> Response {
    bad_request(error.0)
}

/// The payload of a request, where it is no longer than a topic may be.
fn whole(context: &RequestContext) -> Result<&[u8], Response> {
    if context.payload.len() > MAX_BYTES {
        return Err(Response::new(Code::REQUEST_ENTITY_TOO_LARGE));
    }
    Ok(&context.payload)
}

/// The properties that a request brings.
fn read(cx: &Cx<'_>, context: &RequestContext) -> Result<Properties, Response> {
    let format = cx.settings.pubsub_content_format;
    if context.content_format.is_some_and(|of| of != format) {
        return Err(other_format(&format!("Content-Format {format} only")));
    }
    Properties::parse(whole(context)?).map_err(bad)
}

/// Whether a client may know of a topic: whoever may create it, publish to it or be sent its data.
fn may_see(cx: &Cx<'_>, asker: &Asker, topic: &Topic) -> bool {
    let may = |action| decide(cx, asker, &Access::new(action, topic.text())).allowed;
    topic.prefix() == asker.prefix
        && [Action::Receive, Action::Publish, Action::Create]
            .into_iter()
            .any(may)
}

fn visible<'t>(cx: &Cx<'_>, topics: &'t Topics, asker: &Asker) -> Vec<&'t Topic> {
    let all = topics.collection().iter();
    all.filter(|topic| may_see(cx, asker, topic)).collect()
}

/// A topic that a client may know of.
fn seen<'t>(cx: &Cx<'_>, topics: &'t Topics, asker: &Asker, id: &str) -> Result<&'t Topic, Response> {
    let found = topics.collection().get(id);
    found
        .filter(|topic| may_see(cx, asker, topic))
        .ok_or_else(|| not_found("no such topic"))
}

/// A topic that a client may change.
fn owned<'t>(
    cx: &mut Cx<'_>,
    topics: &'t Topics,
    context: &RequestContext,
    asker: &Asker,
    id: &str,
) -> Result<&'t Topic, Response> {
    let topic = seen(cx, topics, asker, id)?;
    authorize(cx, context, asker, &Access::new(Action::Create, topic.text()))?;
    Ok(topic)
}

fn list(
    cx: &Cx<'_>,
    topics: &Topics,
    context: &RequestContext,
    asker: &Asker,
    filter: Option<&Properties>,
) -> Result<NextStep, Response> {
    if context.accept.is_some_and(|accept| accept != LINK_FORMAT) {
        return Err(not_acceptable("Content-Format 40 only"));
    }
    let mut found = visible(cx, topics, asker);
    if let Some(filter) = filter {
        found.retain(|topic| topic.properties().match_all(filter));
    }
    let query = discovery::filters(context.resource.query());
    // A link without attributes stands for a configuration, unless the query says what is looked for.
    let with_data = query.clone().next().is_some();
    let links = found.into_iter().flat_map(|topic| {
        let data = with_data.then(|| Link::data(topic));
        std::iter::once(Link::configuration(topic)).chain(data)
    });
    let document = discovery::document(links, query, Attributes::Elided);
    Ok(NextStep::Answer(links_of(document)))
}

fn representation(cx: &Cx<'_>, code: Code, topic: &Topic, wanted: impl Fn(Property) -> bool) -> Response {
    Response {
        payload: topic.represent(wanted).into(),
        content_format: Some(cx.settings.pubsub_content_format),
        ..Response::new(code)
    }
}

fn check_accept(cx: &Cx<'_>, context: &RequestContext) -> Result<(), Response> {
    let format = cx.settings.pubsub_content_format;
    match context.accept {
        Some(accept) if accept != format => Err(not_acceptable(&format!("Content-Format {format} only"))),
        _ => Ok(()),
    }
}

fn represent(
    cx: &Cx<'_>,
    context: &RequestContext,
    topic: &Topic,
    wanted: impl Fn(Property) -> bool,
) -> Result<NextStep, Response> {
    check_accept(cx, context)?;
    Ok(NextStep::Answer(representation(cx, Code::CONTENT, topic, wanted)))
}

fn create(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    topics: &mut Topics,
    context: &RequestContext,
    asker: &Asker,
) -> Result<NextStep, Response> {
    check_accept(cx, context)?;
    let properties = read(cx, context)?;
    properties.check(cx.shared.wall()).map_err(bad)?;
    let name = properties.require().map_err(bad)?;
    let text = match properties.data.as_deref() {
        Some(reference) => topic::topic_of(reference)
            .ok_or_else(|| bad_request("topic-data is /ps/ and a topic, percent-encoded, or left out"))?,
        None => name.to_owned(),
    };
    let at = asker.topic_to_publish(cx, &text)?;
    authorize(cx, context, asker, &Access::new(Action::Create, &text))?;
    if properties.initialize.is_some() {
        let first = Access {
            retain: true,
            ..Access::new(Action::Publish, &text)
        };
        authorize(cx, context, asker, &first)?;
    }
    let mut topic = Topic::new(at, asker.prefix.len(), properties);
    if topics.is_taken(&topic) {
        return Err(bad_request("topic-name or topic-data is in use"));
    }
    if !topics.has_room(context.from.standing) {
        cx.metrics.limits.inc(Limit::Collection);
        return Err(unavailable());
    }
    topic.is_full = topic.properties().initialize.is_some();
    let mut messages: VecDeque<Message> = first_data(&topic).into_iter().collect();
    messages.extend(topics::record(cx, topic.id(), Bytes::from(topic.record())));
    let change = Change {
        reply: Some(context.reply),
        id: topic.id().into(),
        messages,
        result: CollectionResult::Created,
        response: Response {
            location: vec!["ps-conf".into(), topic.id().into()],
            ..representation(cx, Code::CREATED, &topic, |_| true)
        },
        topic: Some(topic),
    };
    topics.change(cx, pending, change).map(|()| NextStep::Wait)
}

/// The data that a topic begins with.
fn first_data(topic: &Topic) -> Option<Message> {
    let properties = topic.properties();
    let data = Bytes::copy_from_slice(properties.initialize.as_deref()?);
    Some(Message {
        content_type: properties.content_format.map(content::content_type),
        ..topics::retained(topic.topic().clone(), data)
    })
}

fn update(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    topics: &mut Topics,
    context: &RequestContext,
    topic: &Topic,
    change: impl FnOnce(&Properties, &Properties) -> Properties,
) -> Result<NextStep, Response> {
    check_accept(cx, context)?;
    let changes = read(cx, context)?;
    topic.properties().check_changes(&changes).map_err(bad)?;
    let properties = change(topic.properties(), &changes);
    properties.check(cx.shared.wall()).map_err(bad)?;
    let topic = topic.with(properties);
    let change = Change {
        reply: Some(context.reply),
        id: topic.id().into(),
        messages: topics::record(cx, topic.id(), Bytes::from(topic.record()))
            .into_iter()
            .collect(),
        result: CollectionResult::Changed,
        response: representation(cx, Code::CHANGED, &topic, |_| true),
        topic: Some(topic),
    };
    topics.change(cx, pending, change).map(|()| NextStep::Wait)
}
