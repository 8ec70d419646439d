//! One view: what is asked at one node of a group about all of them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::ToSchema;

use portcullis_group::{Group, Member};

use super::super::access::{CALLER, Caller, ROLE};
use super::super::clients::{ClientDetail, ClientPage};
use super::super::error::{ApiError, ErrorBody};
use super::super::listing::Order;
use super::super::status::{self, Status};
use super::super::{Api, scope};
use super::channel::{self, Answer};

/// Another node of the group, asked in the name of somebody.
#[derive(Clone)]
pub(in crate::api) struct Other {
    group: Group,
    member: Member,
    caller: String,
    role: &'static str,
}

impl Other {
    /// What people call it, and why it cannot be asked.
    fn silent(&self, why: &str) -> String {
        let Member {
            id, name, address, ..
        } = &self.member;
        format!("node {name} ({id}, {address}): {why}")
    }

    /// Asks it for a path below `/api/v1`.
    async fn ask(&self, method: Method, path: &str) -> Result<Answer, String> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        let uri = format!("/api/v1/{path}").parse();
        *request.uri_mut() = uri.map_err(|_| "it has no such path".to_owned())?;
        let caller = HeaderValue::from_str(&self.caller).map_err(|_| "who asks has no name".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("node"));
        headers.insert(ROLE, HeaderValue::from_static(self.role));
        headers.insert(CALLER, caller);
        channel::ask(&self.group, &self.member, request).await
    }

    /// The same, read as `T`; nothing where it has no such thing.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, String> {
        let answer = self.ask(Method::GET, path).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let read = serde_json::from_slice(&answer.body);
                read.map(Some)
                    .map_err(|_| "its answer is not understood".to_owned())
            }
            _ => Err(answer.said()),
        }
    }
}

/// The other nodes that live, by id, where what is asked is about all.
pub(in crate::api) fn others(api: &Api, caller: &Caller) -> Vec<Other> {
    let Some(group) = scope::group(api) else {
        return Vec::new();
    };
    let view = group.view();
    let name = format!("{}@{}", caller.token, api.site.config().node.name);
    let others = view
        .members
        .into_iter()
        .filter(|member| Some(member.id) != view.node);
    others
        .map(|member| Other {
            group: group.clone(),
            member,
            caller: name.clone(),
            role: caller.role.label(),
        })
        .collect()
}

/// What all of them answer, asked at once.
async fn all<T, F>(others: &[Other], ask: impl Fn(Other) -> F) -> Vec<(Other, Result<T, String>)>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for other in others {
        let (other, answer) = (other.clone(), ask(other.clone()));
        asked.spawn(async move { (other, answer.await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(other, _)| other.member.id);
    answers
}

/// Which part of a list: how many are left out before it, and how many it has at most.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Part {
    pub(in crate::api) skip: usize,
    pub(in crate::api) limit: usize,
}

/// The rest of a page of the clients of all nodes that begins with those of this one. `filter` is what stands in the query beside.
pub(in crate::api) async fn clients(
    mut page: ClientPage,
    others: &[Other],
    filter: &str,
    Part { skip, limit }: Part,
) -> ClientPage {
    let (mut left, mut total) = (skip, page.meta.count.unwrap_or_default());
    let mut last = page.meta.count;
    for other in others {
        // Where a node has more, what comes after is on a later page.
        let (Some(count), false) = (last, page.meta.hasnext) else {
            break;
        };
        left = left.saturating_sub(count);
        let room = limit.saturating_sub(page.data.len());
        let path = format!("clients?skip={left}&limit={}{filter}", room.max(1));
        match other.get::<ClientPage>(&path).await {
            Ok(more) => {
                let Some(more) = more else { continue };
                page.meta.hasnext = more.meta.hasnext || (room == 0 && !more.data.is_empty());
                page.data.extend(more.data.into_iter().take(room));
                last = more.meta.count;
                total += last.unwrap_or_default();
            }
            Err(why) => {
                page.unreachable.push(other.silent(&why));
                last = Some(0);
            }
        }
    }
    page.meta.count = (!page.meta.hasnext && page.unreachable.is_empty()).then_some(total);
    page
}

/// A page of the clients of all nodes in an order; `page` has those of this one from the first on.
pub(in crate::api) async fn clients_in_order(
    mut page: ClientPage,
    others: &[Other],
    filter: &str,
    order: Order,
    Part { skip, limit }: Part,
) -> ClientPage {
    let wanted = skip.saturating_add(limit);
    let path = format!("clients?skip=0&limit={wanted}{filter}");
    let answers = all(others, move |other| {
        let path = path.clone();
        async move { other.get::<ClientPage>(&path).await }
    });
    for (other, answer) in answers.await {
        match answer {
            Ok(more) => {
                let Some(more) = more else { continue };
                page.data.extend(more.data);
                page.meta.hasnext |= more.meta.hasnext;
                page.meta.count = page.meta.count.zip(more.meta.count).map(|(one, more)| one + more);
            }
            Err(why) => page.unreachable.push(other.silent(&why)),
        }
    }
    page.data.sort_by(|one, other| order.compare_shown(one, other));
    page.meta.hasnext |= page.data.len() > wanted;
    page.data = page.data.into_iter().skip(skip).take(limit).collect();
    page
}

/// What a node that has a client says of it; `path` is that of the client.
pub(in crate::api) async fn client(others: &[Other], path: &str) -> Result<Option<ClientDetail>, ApiError> {
    let path = path.to_owned();
    let answers = all(others, move |other| {
        let path = path.clone();
        async move { other.get::<ClientDetail>(&path).await }
    });
    let mut silent = Vec::new();
    for (other, answer) in answers.await {
        match answer {
            Ok(Some(detail)) => return Ok(Some(detail)),
            Ok(None) => {}
            Err(why) => silent.push(other.silent(&why)),
        }
    }
    unless_silent(None, &silent)
}

/// Has all other nodes kick a client; whether one of them had it.
pub(in crate::api) async fn kick(others: &[Other], path: &str) -> Result<bool, ApiError> {
    let path = path.to_owned();
    let answers = all(others, move |other| {
        let path = path.clone();
        async move {
            let answer = other.ask(Method::DELETE, &path).await?;
            match answer.status {
                StatusCode::NOT_FOUND => Ok(false),
                status if status.is_success() => Ok(true),
                _ => Err(answer.said()),
            }
        }
    });
    let (mut kicked, mut silent) = (false, Vec::new());
    for (other, answer) in answers.await {
        match answer {
            Ok(had) => kicked |= had,
            Err(why) => silent.push(other.silent(&why)),
        }
    }
    unless_silent(kicked, &silent)
}

/// An answer that holds only where all could be asked.
fn unless_silent<T>(answer: T, silent: &[String]) -> Result<T, ApiError> {
    match silent {
        [] => Ok(answer),
        silent => {
            let message = format!("not all nodes could be asked: {}", silent.join("; "));
            Err(ApiError::bad_gateway("node_unreachable", message))
        }
    }
}

/// The nodes of a group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// All that live, by id, this one among them.
    pub nodes: Vec<NodeView>,
}

/// A node of a group, as it says itself.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its id, 1 to 65535.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Where the other nodes reach it.
    pub address: String,
    /// How it is; absent where it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl NodeView {
    fn of(member: &Member, status: Result<Option<Status>, String>) -> Self {
        let nothing = || Err("it does not say how it is".to_owned());
        let status = status.and_then(|status| status.map_or_else(nothing, Ok));
        Self {
            id: member.id,
            name: member.name.clone(),
            address: member.address.to_string(),
            fault: status.as_ref().err().cloned(),
            status: status.ok(),
        }
    }
}

/// Show all nodes of the group
///
/// Each is asked how it is; one that does not answer is named.
#[utoipa::path(
    get,
    path = "/api/v1/group",
    tag = "group",
    responses(
        (status = 200, body = GroupView),
        (status = 409, body = ErrorBody, description = "This gateway is none of a group")
    )
)]
pub(in crate::api) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<GroupView>, ApiError> {
    let view = super::routes::group(&api)?.view();
    let others = others(&api, &caller);
    let asked = all(
        &others,
        |other| async move { other.get::<Status>("status").await },
    );
    let mut nodes: Vec<NodeView> = asked
        .await
        .into_iter()
        .map(|(other, answer)| NodeView::of(&other.member, answer))
        .collect();
    let own = view.members.iter().find(|member| Some(member.id) == view.node);
    if let Some(own) = own {
        let Json(status) = status::get_status(State(Arc::clone(&api))).await;
        nodes.push(NodeView::of(own, Ok(Some(status))));
    }
    nodes.sort_by_key(|node| node.id);
    Ok(Json(GroupView { nodes }))
}
