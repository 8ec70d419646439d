//! Walking through the clients of all workers in steps that are short for the workers.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::Instant;

use serde::Deserialize;
use utoipa::ToSchema;

use portcullis_proto::gateway::contract::{ClientInfo, ControlAnswer, ControlRequest, Cursor};
use portcullis_proto::gateway::traffic::Traffic;
use portcullis_proto::policy::connections::Presence;
use portcullis_proto::types::{ClientId, Transport, WorkerId};

use super::clients::{Client, ClientTraffic};
use super::error::ApiError;
use super::{Api, ask};

/// Places that a worker looks at in one go.
const PLACES: usize = 256;

/// Which clients are meant; what is `None` does not matter.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) client: Option<ClientId>,
    pub(super) like_client: Option<String>,
    pub(super) username: Option<String>,
    /// Only clients of the listener with this name.
    pub(super) listener: Option<String>,
    pub(super) transport: Option<Transport>,
    pub(super) state: Option<Presence>,
    /// In lower case: what is in the client id, the user name, the identity or the address.
    pub(super) part: Option<String>,
    /// Only who is at this address and port, as it is shown.
    pub(super) address: Option<String>,
    /// What is in the user name.
    pub(super) like_username: Option<String>,
    /// Only who is at this address, whatever the port.
    pub(super) ip: Option<IpAddr>,
    /// Only who can be reached now, or only who cannot.
    pub(super) online: Option<bool>,
    /// Only who was first seen from one moment on, and up to another.
    pub(super) since: (Option<Instant>, Option<Instant>),
}

/// What a list of clients can be in the order of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SortBy {
    Clientid,
    Username,
    Identity,
    Listener,
    Address,
    CreatedAt,
    SeenAt,
    Subscriptions,
    Retransmissions,
    MessagesReceived,
    MessagesSent,
    BytesReceived,
    BytesSent,
}

/// Which way an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    #[default]
    Asc,
    Desc,
}

/// An order of clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) by: SortBy,
    pub(super) direction: Direction,
}

impl Order {
    /// The same of clients as they are shown, those of several nodes together.
    pub(super) fn compare_shown(self, a: &Client, b: &Client) -> Ordering {
        let turned = |order: Ordering| match self.direction {
            Direction::Asc => order,
            Direction::Desc => order.reverse(),
        };
        let text = |of: fn(&Client) -> Option<&str>| match (of(a), of(b)) {
            (Some(a), Some(b)) => turned(a.cmp(b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        let number = |of: fn(&Client) -> u64| turned(of(a).cmp(&of(b)));
        let count = |of: fn(&ClientTraffic) -> u64| {
            let value = |client: &Client| client.traffic.as_ref().map_or(0, of);
            turned(value(a).cmp(&value(b)))
        };
        let order = match self.by {
            SortBy::Clientid => text(|client| client.clientid.as_deref()),
            SortBy::Username => text(|client| client.username.as_deref()),
            SortBy::Identity => {
                text(|client| client.identity.as_ref().map(|identity| identity.name.as_str()))
            }
            SortBy::Listener => turned((&a.transport, &a.listener).cmp(&(&b.transport, &b.listener))),
            SortBy::Address => text(|client| client.address.as_deref()),
            SortBy::CreatedAt => turned(a.created_at.cmp(&b.created_at)),
            SortBy::SeenAt => turned(a.seen_at.cmp(&b.seen_at)),
            SortBy::Subscriptions => turned(a.subscriptions.cmp(&b.subscriptions)),
            SortBy::Retransmissions => number(|client| client.retransmissions),
            SortBy::MessagesReceived => count(|traffic| traffic.messages_received),
            SortBy::MessagesSent => count(|traffic| traffic.messages_sent),
            SortBy::BytesReceived => count(|traffic| traffic.bytes_received),
            SortBy::BytesSent => count(|traffic| traffic.bytes_sent),
        };
        order
            .then_with(|| a.clientid.cmp(&b.clientid))
            .then_with(|| a.node.cmp(&b.node))
    }

    fn compare(self, a: &ClientInfo, b: &ClientInfo) -> Ordering {
        let turned = |order: Ordering| match self.direction {
            Direction::Asc => order,
            Direction::Desc => order.reverse(),
        };
        let name = |client: &ClientInfo| client.client.clone();
        let traffic = |of: fn(&Traffic) -> u64| {
            let value = |client: &ClientInfo| client.traffic.as_ref().map_or(0, of);
            turned(value(a).cmp(&value(b)))
        };
        // Who has no such name comes last, either way.
        let text = |of: fn(&ClientInfo) -> Option<&str>| match (of(a), of(b)) {
            (Some(a), Some(b)) => turned(a.cmp(b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        let order = match self.by {
            SortBy::Clientid => text(|client| client.client.as_ref().map(ClientId::as_str)),
            SortBy::Username => text(|client| client.username.as_deref()),
            SortBy::Identity => text(|client| client.identity.as_ref().map(|identity| &*identity.name)),
            SortBy::Listener => {
                turned((a.transport.label(), a.listener).cmp(&(b.transport.label(), b.listener)))
            }
            SortBy::Address => turned(a.address.cmp(&b.address)),
            SortBy::CreatedAt => turned(a.since.cmp(&b.since)),
            SortBy::SeenAt => turned(a.seen_at.cmp(&b.seen_at)),
            SortBy::Subscriptions => turned(a.observations.cmp(&b.observations)),
            SortBy::Retransmissions => turned(a.retransmissions.cmp(&b.retransmissions)),
            SortBy::MessagesReceived => traffic(|traffic| traffic.messages_received),
            SortBy::MessagesSent => traffic(|traffic| traffic.messages_sent),
            SortBy::BytesReceived => traffic(|traffic| traffic.bytes_received),
            SortBy::BytesSent => traffic(|traffic| traffic.bytes_sent),
        };
        // The same order on every page.
        order
            .then_with(|| name(a).cmp(&name(b)))
            .then_with(|| a.address.cmp(&b.address))
    }
}

/// A part of the list.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) clients: Vec<ClientInfo>,
    /// Whether there are more.
    pub(super) more: bool,
    /// How many there are in all, where the walk came to the end.
    pub(super) total: Option<usize>,
}

impl Filter {
    fn fits(&self, client: &ClientInfo, listeners: &[String]) -> bool {
        let id = client.client.as_ref();
        self.client.as_ref().is_none_or(|wanted| id == Some(wanted))
            && self
                .like_client
                .as_ref()
                .is_none_or(|part| id.is_some_and(|id| id.as_str().contains(part.as_str())))
            && self
                .username
                .as_ref()
                .is_none_or(|wanted| client.username.as_deref() == Some(wanted.as_str()))
            && self.transport.is_none_or(|wanted| client.transport == wanted)
            && self.state.is_none_or(|wanted| client.presence == wanted)
            && self.address.as_ref().is_none_or(|wanted| {
                client
                    .address
                    .is_some_and(|address| address.to_string() == *wanted)
            })
            && self.like_username.as_ref().is_none_or(|part| {
                let name = client.username.as_deref();
                name.is_some_and(|name| name.contains(part.as_str()))
            })
            && self.ip.is_none_or(|wanted| {
                let ip = client.address.map(|address| address.ip().to_canonical());
                ip == Some(wanted.to_canonical())
            })
            && self
                .online
                .is_none_or(|wanted| client.address.is_some() == wanted)
            && self.since.0.is_none_or(|from| client.since >= from)
            && self.since.1.is_none_or(|to| client.since <= to)
            && self.part.as_ref().is_none_or(|part| has_part(client, part))
            && self.listener.as_ref().is_none_or(|wanted| {
                listeners
                    .get(usize::from(client.listener.0))
                    .is_some_and(|name| name == wanted)
            })
    }
}

fn has_part(client: &ClientInfo, part: &str) -> bool {
    let names = [
        client.client.as_ref().map(ClientId::as_str),
        client.username.as_deref(),
        client.identity.as_ref().map(|identity| &*identity.name),
    ];
    names
        .into_iter()
        .flatten()
        .any(|name| name.to_lowercase().contains(part))
        || client
            .address
            .is_some_and(|address| address.to_string().contains(part))
}

/// The clients that fit, in order: skips some and takes up to `take` after them. The walk goes through all of them, and no more
/// than twice as many as there are up to the end of the page are held meanwhile.
pub(super) async fn find_in_order(
    api: &Api,
    filter: &Filter,
    order: Order,
    skip: usize,
    take: usize,
) -> Result<Found, ApiError> {
    let wanted = skip.saturating_add(take);
    let mut kept: Vec<ClientInfo> = Vec::new();
    let total = walk(api, filter, |client| {
        kept.push(client);
        if kept.len() > wanted.saturating_mul(2) {
            kept.select_nth_unstable_by(wanted, |a, b| order.compare(a, b));
            kept.truncate(wanted);
        }
        true
    })
    .await?;
    kept.sort_unstable_by(|a, b| order.compare(a, b));
    kept.truncate(wanted);
    Ok(Found {
        clients: kept.split_off(skip.min(kept.len())),
        more: total > wanted,
        total: Some(total),
    })
}

/// The first client that fits.
pub(super) async fn find_one(api: &Api, filter: &Filter) -> Result<Option<ClientInfo>, ApiError> {
    let mut found = None;
    walk(api, filter, |client| {
        found = Some(client);
        false
    })
    .await?;
    Ok(found)
}

/// Skips some clients that fit and takes up to `take` after them.
pub(super) async fn find(api: &Api, filter: &Filter, skip: usize, take: usize) -> Result<Found, ApiError> {
    let mut found = Found::default();
    let mut seen = 0;
    walk(api, filter, |client| {
        if seen >= skip && found.clients.len() == take {
            found.more = true;
            return false;
        }
        if seen >= skip {
            found.clients.push(client);
        }
        seen += 1;
        true
    })
    .await?;
    found.total = (!found.more).then_some(seen);
    Ok(found)
}

/// Hands each client that fits to `take`, for as long as that wants more, and says how many it was handed.
async fn walk(
    api: &Api,
    filter: &Filter,
    mut take: impl FnMut(ClientInfo) -> bool,
) -> Result<usize, ApiError> {
    // One walk at a time: more of them would only take longer each, and take the workers' time together.
    let _one_at_a_time = api.walks.acquire().await;
    let listeners: Vec<String> = api
        .site
        .listeners()
        .into_iter()
        .map(|listener| listener.name)
        .collect();
    let mut handed = 0;
    for worker in (0..api.site.workers()).map(WorkerId) {
        let mut cursor = Some(Cursor::Connections(None));
        while let Some(from) = cursor {
            let (clients, next) = step(api, worker, from, filter).await?;
            for client in clients {
                if !filter.fits(&client, &listeners) {
                    continue;
                }
                handed += 1;
                if !take(client) {
                    return Ok(handed);
                }
            }
            cursor = next;
        }
    }
    Ok(handed)
}

async fn step(
    api: &Api,
    worker: WorkerId,
    from: Cursor,
    filter: &Filter,
) -> Result<(Vec<ClientInfo>, Option<Cursor>), ApiError> {
    // A client that is named is looked up, however many others there are.
    if let Some(client) = filter.client.clone() {
        return match ask(api, worker, ControlRequest::Show { client }).await? {
            ControlAnswer::Client(info, _) => Ok((vec![*info], None)),
            _ => Ok((Vec::new(), None)),
        };
    }
    match ask(api, worker, ControlRequest::Page { from, places: PLACES }).await? {
        ControlAnswer::Page { clients, next } => Ok((clients, next)),
        _ => Ok((Vec::new(), None)),
    }
}
