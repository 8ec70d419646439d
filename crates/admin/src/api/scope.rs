//! For whom a request changes something: for all nodes of a group, or for this one alone.

use axum::http::{Extensions, HeaderMap};
use portcullis_group::Group;

use super::Api;
use crate::server::Peer;

/// The header of requests that are for this node alone; its value is `local`.
const HEADER: &str = "portcullis-scope";

tokio::task_local! {
    static IS_LOCAL: bool;
}

/// Whether a request is for this node alone: so are those of other nodes, which ask all themselves.
pub(super) fn is_local(headers: &HeaderMap, extensions: &Extensions) -> bool {
    let by_node = matches!(extensions.get(), Some(Peer::Node(_)));
    by_node
        || headers
            .get(HEADER)
            .is_some_and(|scope| scope.as_bytes().eq_ignore_ascii_case(b"local"))
}

/// Answers a request of this scope.
pub(super) async fn within<T>(is_local: bool, answering: impl Future<Output = T>) -> T {
    IS_LOCAL.scope(is_local, answering).await
}

/// The group that what is being answered is for; none where the node is alone, or the request for it alone.
pub(super) fn group(api: &Api) -> Option<&Group> {
    let is_local = IS_LOCAL.try_with(|is_local| *is_local).unwrap_or(false);
    api.site.group().filter(|_| !is_local)
}
