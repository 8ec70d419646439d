//! `clients`: list, show, kick.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use portcullis_proto::coap::contract::PeerId;
use portcullis_proto::gateway::contract::{ClientInfo, ControlAnswer, ControlRequest, ObservationInfo};
use portcullis_proto::gateway::traffic::Traffic;
use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::policy::connections::Presence;
use portcullis_proto::types::reason::Label as _;
use portcullis_proto::types::{ClientId, Transport, WorkerId};

use super::access::Caller;
use super::error::{ApiError, ErrorBody};
use super::extract::{Params, Path};
use super::group::view::{self, Part};
use super::handle::{ListenerState, Moment};
use super::listing::{self, Direction, Filter, Order, SortBy};
use super::subscriptions::Subscription;
use super::{Api, ask, rfc3339};

/// Most clients on one page.
pub(super) const MAX_LIMIT: usize = 10_000;

/// How far a list in order is told: so many clients are held until the walk through all is over.
pub(super) const MAX_SORTED: usize = 50_000;

/// A client: a connection, or a peer without one.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Client {
    /// The node of the group that it is at; absent where a gateway is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its client id; none for a peer that never named or proved one.
    pub clientid: Option<String>,
    /// The user name that it was authenticated with.
    pub username: Option<String>,
    /// The listener it came to.
    pub listener: String,
    /// `udp`, `dtls`, `tcp` or `tls`.
    pub transport: String,
    /// Its address and port; none while its DTLS session is gone.
    pub address: Option<String>,
    /// Whether it has a connection (connection mode).
    pub connection: bool,
    /// Whether it has an address or session that it can be reached at.
    pub online: bool,
    /// `online`; `asleep`: its DTLS session is gone, or it did not acknowledge what was sent to it; `lost`: it was silent for longer than
    /// its heartbeat or lifetime.
    #[serde(default)]
    pub state: String,
    /// How long it may be silent, in seconds, where it said so itself (`lifetime`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
    /// What its DTLS handshake proved.
    pub identity: Option<ProvedIdentity>,
    /// What else is known of it, by its login, key or certificate.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The DTLS session that it is on now; none over plain UDP, and while it is away.
    pub dtls: Option<DtlsSession>,
    /// When it was first seen (RFC 3339).
    pub created_at: String,
    /// How long ago that was.
    pub age_seconds: u64,
    /// When it was last heard of (RFC 3339).
    pub seen_at: String,
    /// How long ago that was.
    pub idle_seconds: u64,
    /// How many observations it has.
    pub subscriptions: usize,
    /// How often something was sent to it again because it was not acknowledged, since it is at this address or on this DTLS
    /// session.
    #[serde(default)]
    pub retransmissions: u64,
    /// What was exchanged with it at its address or on its DTLS session; in a list none while another worker has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<ClientTraffic>,
}

/// What was exchanged with a client since it is at its address, or on its DTLS session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClientTraffic {
    /// CoAP messages that came from it.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// CoAP messages that were sent to it, again or not.
    pub messages_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Publishes that it asked for.
    pub publishes_received: u64,
    /// Notifications for it.
    pub publishes_sent: u64,
    /// The topic that it published to last, without the mountpoint; its first 128 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_topic: Option<String>,
}

impl From<&Traffic> for ClientTraffic {
    fn from(traffic: &Traffic) -> Self {
        Self {
            messages_received: traffic.messages_received,
            bytes_received: traffic.bytes_received,
            messages_sent: traffic.messages_sent,
            bytes_sent: traffic.bytes_sent,
            publishes_received: traffic.publishes_received,
            publishes_sent: traffic.publishes_sent,
            last_topic: Some(traffic.last_topic.clone()).filter(|topic| !topic.is_empty()),
        }
    }
}

/// An identity and how it was proved.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProvedIdentity {
    /// The PSK identity, or the name in the certificate.
    pub name: String,
    /// What it was proved with: `psk` or `certificate`.
    pub proof: String,
}

/// What was agreed on in a handshake, and when.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DtlsSession {
    /// The cipher suite, by its name at IANA.
    pub cipher: String,
    /// Whether it has a Connection ID (RFC 9146).
    pub cid: bool,
    /// Whether it was resumed by ticket.
    pub resumed: bool,
    /// When its handshake ended (RFC 3339).
    pub established_at: String,
    /// How long ago that was.
    pub age_seconds: u64,
}

/// A client with its observations.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ClientDetail {
    /// Who it is, where it is, and since when.
    #[serde(flatten)]
    pub client: Client,
    /// What it observes now, in no order.
    pub observations: Vec<Subscription>,
}

/// A page of clients.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ClientPage {
    /// At most `meta.limit` clients.
    pub data: Vec<Client>,
    /// Where in the list they stand.
    pub meta: PageMeta,
    /// Nodes of the group whose clients are missing, because they could not be asked, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
}

/// Where in a list a page stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PageMeta {
    /// Which page, from 1.
    pub page: usize,
    /// Most clients on one page, 1 to 10000.
    pub limit: usize,
    /// Clients in all that fit; only on the last page, because counting takes a walk through all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Whether there is another page.
    pub hasnext: bool,
}

/// Which clients, and which part of the list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// How many are left out before the first page.
    #[serde(default)]
    #[param(default = 0, minimum = 0)]
    skip: usize,
    /// Which page, from 1.
    #[serde(default = "one")]
    #[param(default = 1, minimum = 1)]
    page: usize,
    /// Clients per page, 1 to 10000.
    #[serde(default = "hundred")]
    #[param(default = 100, minimum = 1, maximum = 10_000)]
    limit: usize,
    /// Only this client id.
    clientid: Option<String>,
    /// Only client ids with this in them.
    like_clientid: Option<String>,
    /// Only this user name.
    username: Option<String>,
    /// Only this listener, by name.
    listener: Option<String>,
    /// Only `udp`, `dtls`, `tcp` or `tls`.
    transport: Option<String>,
    /// Only who is `online`, `asleep` or `lost`.
    state: Option<String>,
    /// Only who has this in client id, user name, identity or address, in upper or lower case.
    search: Option<String>,
    /// What the list is in the order of, up to the 50000th client; else it is in none. `meta.count` is then on every page.
    #[param(inline)]
    sort: Option<SortBy>,
    /// Which way it goes.
    #[serde(default)]
    #[param(inline)]
    order: Direction,
}

pub(super) const fn one() -> usize {
    1
}

pub(super) const fn hundred() -> usize {
    100
}

impl ListQuery {
    fn filter(self) -> Result<Filter, ApiError> {
        let client = match &self.clientid {
            Some(id) => Some(client_id(id)?),
            None => None,
        };
        let transport = match self.transport.as_deref() {
            None => None,
            Some(word) => Some(transport(word).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "transport is `udp`, `dtls`, `tcp` or `tls`, not {word:?}"
                ))
            })?),
        };
        let state = match self.state.as_deref() {
            None => None,
            Some(word) => Some(presence(word).ok_or_else(|| {
                ApiError::bad_request(format!("state is `online`, `asleep` or `lost`, not {word:?}"))
            })?),
        };
        Ok(Filter {
            client,
            state,
            like_client: self.like_clientid,
            username: self.username,
            listener: self.listener,
            transport,
            part: self.search.map(|part| part.to_lowercase()),
            ..Filter::default()
        })
    }
}

pub(super) fn transport(word: &str) -> Option<Transport> {
    Transport::ALL
        .into_iter()
        .find(|transport| transport.label() == word)
}

fn presence(word: &str) -> Option<Presence> {
    Presence::ALL.iter().copied().find(|state| state.label() == word)
}

pub(super) fn client_id(text: &str) -> Result<ClientId, ApiError> {
    ClientId::new(text).ok_or_else(|| {
        ApiError::bad_request("a client id is 1 to 128 bytes of UTF-8 without control characters")
    })
}

/// List clients
///
/// Of a group of gateways those of all nodes, one node after the other or in the order that is asked for; of this one alone with the header
/// `Portcullis-Scope: local`.
#[utoipa::path(
    get,
    path = "/api/v1/clients",
    tag = "clients",
    params(ListQuery),
    responses((status = 200, body = ClientPage), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    RawQuery(raw): RawQuery,
    Params(query): Params<ListQuery>,
) -> Result<Json<ClientPage>, ApiError> {
    let (page, limit) = (query.page, query.limit);
    if page == 0 || !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "page counts from 1, and limit is 1 to {MAX_LIMIT}"
        )));
    }
    let skip = (page - 1).saturating_mul(limit).saturating_add(query.skip);
    let part = Part { skip, limit };
    let others = view::others(&api, &caller);
    if others.is_empty() {
        return Ok(Json(page_of(&api, query, part).await?));
    }
    let rest = rest_of(raw.as_deref().unwrap_or_default());
    let order = query.sort.map(|by| Order {
        by,
        direction: query.order,
    });
    let mut shown = match order {
        None => view::clients(page_of(&api, query, part).await?, &others, &rest, part).await,
        // Each node is asked for all of its own up to the end of the page.
        Some(_) if skip.saturating_add(limit) > MAX_LIMIT => {
            return Err(ApiError::bad_request(format!(
                "a list of several nodes in order is told up to its client {MAX_LIMIT}: narrow it down"
            )));
        }
        Some(order) => {
            let all = Part {
                skip: 0,
                limit: skip.saturating_add(limit),
            };
            view::clients_in_order(page_of(&api, query, all).await?, &others, &rest, order, part).await
        }
    };
    (shown.meta.page, shown.meta.limit) = (page, limit);
    Ok(Json(shown))
}

/// What stands in a query beside which part of the list is wanted.
fn rest_of(query: &str) -> String {
    let is_part =
        |piece: &str| ["page", "limit", "skip"].contains(&piece.split('=').next().unwrap_or_default());
    let rest = query
        .split('&')
        .filter(|piece| !piece.is_empty() && !is_part(piece));
    rest.map(|piece| format!("&{piece}")).collect()
}

/// Of this node's clients those of a part of the list.
async fn page_of(api: &Api, query: ListQuery, part: Part) -> Result<ClientPage, ApiError> {
    let Part { skip, limit } = part;
    let page = query.page;
    let (sort, direction) = (query.sort, query.order);
    let filter = query.filter()?;
    let found = match sort {
        None => listing::find(api, &filter, skip, limit).await?,
        Some(by) if skip.saturating_add(limit) <= MAX_SORTED => {
            listing::find_in_order(api, &filter, Order { by, direction }, skip, limit).await?
        }
        Some(_) => {
            return Err(ApiError::bad_request(format!(
                "a list in order is told up to its client {MAX_SORTED}: narrow it down"
            )));
        }
    };
    let (now, listeners) = (api.site.now(), api.site.listeners());
    let node = node_of(api);
    let shown = |client| Client {
        node: node.clone(),
        ..Client::of(client, &now, &listeners)
    };
    Ok(ClientPage {
        data: found.clients.iter().map(shown).collect(),
        meta: PageMeta {
            page,
            limit,
            count: found.total,
            hasnext: found.more,
        },
        unreachable: Vec::new(),
    })
}

/// The name of this node, where it is one of a group.
fn node_of(api: &Api) -> Option<String> {
    api.site.group().map(|_| api.site.config().node.name.clone())
}

/// Show one client
#[utoipa::path(
    get,
    path = "/api/v1/clients/{id}",
    tag = "clients",
    params(("id" = String, Path, description = "The client id; of one without any the address and port")),
    responses((status = 200, body = ClientDetail), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<Json<ClientDetail>, ApiError> {
    let own = show_own(&api, &id).await;
    match own {
        Err(error) if error.is_not_found() => {
            let elsewhere = view::client(&view::others(&api, &caller), path_of(&uri)).await?;
            elsewhere.map(Json).ok_or(error)
        }
        own => own.map(Json),
    }
}

/// The path below `/api/v1`, as it came.
fn path_of(uri: &Uri) -> &str {
    uri.path().trim_start_matches("/api/v1/")
}

/// What the workers of this node know of a client.
pub(super) async fn show_own(api: &Api, id: &str) -> Result<ClientDetail, ApiError> {
    let (mut info, observations) = match locate(api, &client_id(id)?).await {
        Ok((_, info, observations)) => (info, observations),
        Err(error) if error.is_not_found() => {
            let peer = peer_at(api, id).await?.ok_or(error)?;
            let request = ControlRequest::ShowPeer { peer };
            match ask(api, WorkerId::of(peer.0), request).await? {
                ControlAnswer::Client(info, observations) => (*info, observations),
                _ => return Err(ApiError::not_found(format!("nobody is at {id}"))),
            }
        }
        Err(error) => return Err(error),
    };
    if let (None, Some(peer)) = (&info.traffic, info.peer) {
        // It speaks from a peer of another worker than the one that has its connection.
        let asked = ask(api, WorkerId::of(peer.0), ControlRequest::Traffic { peer }).await?;
        if let ControlAnswer::Traffic(traffic) = asked {
            info.traffic = Some(*traffic);
        }
    }
    let (now, listeners) = (api.site.now(), api.site.listeners());
    Ok(ClientDetail {
        client: Client {
            node: node_of(api),
            ..Client::of(&info, &now, &listeners)
        },
        observations: observations
            .iter()
            .map(|observation| Subscription::of(observation, &now))
            .collect(),
    })
}

/// Kick a client
///
/// Ends its connection and its DTLS session, with close_notify, and all of its observations, at all nodes of a group.
#[utoipa::path(
    delete,
    path = "/api/v1/clients/{id}",
    tag = "clients",
    params(("id" = String, Path, description = "The client id; of one without any the address and port")),
    responses((status = 204), (status = 404, body = ErrorBody))
)]
pub(super) async fn kick(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let own = kick_own(&api, &id).await;
    let elsewhere = view::kick(&view::others(&api, &caller), path_of(&uri)).await?;
    match own {
        Err(error) if error.is_not_found() && elsewhere => Ok(StatusCode::NO_CONTENT),
        own => own,
    }
}

/// Has the workers of this node kick a client.
pub(super) async fn kick_own(api: &Api, id: &str) -> Result<StatusCode, ApiError> {
    let client = client_id(id)?;
    let mut kicked = false;
    for worker in (0..api.site.workers()).map(WorkerId) {
        let request = ControlRequest::Kick {
            client: client.clone(),
        };
        kicked |= matches!(ask(api, worker, request).await?, ControlAnswer::Done);
    }
    if !kicked && let Some(peer) = peer_at(api, id).await? {
        let request = ControlRequest::KickPeer { peer };
        kicked = matches!(
            ask(api, WorkerId::of(peer.0), request).await?,
            ControlAnswer::Done
        );
    }
    if kicked {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_client(&client))
    }
}

/// The peer without a client id at an address and port. One that has a name is asked for by that.
async fn peer_at(api: &Api, address: &str) -> Result<Option<PeerId>, ApiError> {
    if address.parse::<SocketAddr>().is_err() {
        return Ok(None);
    }
    let filter = Filter {
        address: Some(address.to_owned()),
        ..Filter::default()
    };
    let found = listing::find_one(api, &filter).await?;
    Ok(found
        .filter(|client| client.client.is_none())
        .and_then(|client| client.peer))
}

/// The worker that has a client, and what it knows of it. A worker that can reach it comes before one that cannot.
pub(super) async fn locate(
    api: &Api,
    client: &ClientId,
) -> Result<(WorkerId, ClientInfo, Vec<ObservationInfo>), ApiError> {
    let mut found = None;
    for worker in (0..api.site.workers()).map(WorkerId) {
        let request = ControlRequest::Show {
            client: client.clone(),
        };
        if let ControlAnswer::Client(info, observations) = ask(api, worker, request).await? {
            let reachable = info.address.is_some();
            if reachable || found.is_none() {
                found = Some((worker, *info, observations));
            }
            if reachable {
                break;
            }
        }
    }
    found.ok_or_else(|| no_client(client))
}

pub(super) fn no_client(client: &ClientId) -> ApiError {
    ApiError::not_found(format!("there is no client {:?}", client.as_str()))
}

/// Attributes as the API tells them.
pub(super) fn named(attributes: &Attributes) -> BTreeMap<String, String> {
    let all = attributes.iter();
    all.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

impl Client {
    pub(super) fn of(info: &ClientInfo, now: &Moment, listeners: &[ListenerState]) -> Self {
        let listener = listeners.get(usize::from(info.listener.0));
        Self {
            node: None,
            clientid: info.client.as_ref().map(ToString::to_string),
            username: info.username.as_deref().map(str::to_owned),
            listener: listener.map(|listener| listener.name.clone()).unwrap_or_default(),
            transport: info.transport.label().to_owned(),
            address: info.address.map(|address| address.to_string()),
            connection: info.connected,
            online: info.address.is_some(),
            state: info.presence.label().to_owned(),
            lifetime_seconds: info.lifetime.map(|lifetime| lifetime.as_secs()),
            identity: info.identity.as_ref().map(|identity| ProvedIdentity {
                name: identity.name.to_string(),
                proof: identity.proof.label().to_owned(),
            }),
            attributes: named(&info.attributes),
            dtls: info.session.as_ref().map(|session| DtlsSession {
                cipher: session.suite.to_owned(),
                cid: session.cid,
                resumed: session.resumed,
                established_at: rfc3339(now.wall_of(session.established_at)),
                age_seconds: now.since(session.established_at).as_secs(),
            }),
            created_at: rfc3339(now.wall_of(info.since)),
            age_seconds: now.since(info.since).as_secs(),
            seen_at: rfc3339(now.wall_of(info.seen_at)),
            idle_seconds: now.since(info.seen_at).as_secs(),
            subscriptions: info.observations,
            retransmissions: info.retransmissions,
            traffic: info.traffic.as_ref().map(ClientTraffic::from),
        }
    }
}
