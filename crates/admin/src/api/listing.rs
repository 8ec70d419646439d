//! Walking through the clients of all workers in steps that are short for the workers.

use portcullis_proto::gateway::contract::{ClientInfo, ControlAnswer, ControlRequest, Cursor};
use portcullis_proto::types::{ClientId, Transport, WorkerId};

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
            && self.listener.as_ref().is_none_or(|wanted| {
                listeners
                    .get(usize::from(client.listener.0))
                    .is_some_and(|name| name == wanted)
            })
    }
}

/// Skips some clients that fit and takes up to `take` after them.
pub(super) async fn find(api: &Api, filter: &Filter, skip: usize, take: usize) -> Result<Found, ApiError> {
    // One walk at a time: more of them would only take longer each, and take the workers' time together.
    let _one_at_a_time = api.walks.acquire().await;
    let listeners: Vec<String> = api
        .site
        .listeners()
        .into_iter()
        .map(|listener| listener.name)
        .collect();
    let mut found = Found::default();
    let mut seen = 0;
    for worker in (0..api.site.workers()).map(WorkerId) {
        let mut cursor = Some(Cursor::Connections(None));
        while let Some(from) = cursor {
            let (clients, next) = step(api, worker, from, filter).await?;
            for client in clients {
                if !filter.fits(&client, &listeners) {
                    continue;
                }
                if seen >= skip && found.clients.len() < take {
                    found.clients.push(client);
                } else if seen >= skip {
                    found.more = true;
                    return Ok(found);
                }
                seen += 1;
            }
            cursor = next;
        }
    }
    found.total = Some(seen);
    Ok(found)
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
