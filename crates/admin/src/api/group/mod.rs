//! The gateways that this one is one of, and the configuration that they share.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use portcullis_group::{Group, Member, View};

use super::Api;

mod channel;
pub(super) mod routes;
pub(super) mod share;
pub(super) mod view;

/// How often is tried again to put in force what could not be.
const AGAIN: Duration = Duration::from_secs(5);

/// The code of an answer after which nobody knows whether something was changed.
pub const GROUP_UNKNOWN: &str = "group_unknown";

/// What is told of a group as events.
pub(super) const KINDS: [&str; 4] = [JOINED, LEFT, FAULT, MENDED];

const JOINED: &str = "node_joined";
const LEFT: &str = "node_left";
const FAULT: &str = "group_fault";
const MENDED: &str = "group_mended";

/// The gateways that this one is one of.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// The id of this node, while it has a lease.
    pub node_id: Option<u16>,
    /// Whether the engine that all share answers.
    pub connected: bool,
    /// What somebody has to mend, with the key of the configuration to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The nodes that lived when the engine answered last, by id; this one among them.
    pub nodes: Vec<GroupMember>,
    /// The version of the configuration that the group has; 0 while it has none.
    pub config_version: u64,
    /// The version of it that is in force here.
    pub applied_version: u64,
    /// How many parts of it were changed for this node alone.
    pub drift: u64,
}

/// A node of a group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupMember {
    /// Its id, 1 to 65535.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Where the other nodes reach it.
    pub address: String,
}

impl GroupMember {
    fn of(member: &Member) -> Self {
        Self {
            id: member.id,
            name: member.name.clone(),
            address: member.address.to_string(),
        }
    }
}

impl GroupStatus {
    pub(super) fn of(group: &Group) -> Self {
        let (view, metrics) = (group.view(), group.metrics());
        Self {
            node_id: view.node,
            connected: view.connected,
            fault: view.fault.as_ref().map(ToString::to_string),
            nodes: view.members.iter().map(GroupMember::of).collect(),
            config_version: view.version,
            applied_version: metrics.applied.get(),
            drift: metrics.drift.get(),
        }
    }
}

/// Tells of nodes that come and go, and of faults, as events, and takes what the group has of its configuration.
pub(super) async fn follow(api: Arc<Api>) {
    let Some(group) = api.site.group() else { return };
    let mut seen = group.watch();
    let mut before = View::default();
    loop {
        let now = seen.borrow_and_update().clone();
        tell(&api, &before, &now);
        let applied = group.metrics().applied.get();
        if now.node.is_some() && (now.version == 0 || now.version != applied) {
            share::catch_up(&api, group).await;
        }
        before = now;
        // What cannot be in force here is tried again now and then.
        if let Ok(Err(_)) = timeout(AGAIN, seen.changed()).await {
            return;
        }
    }
}

fn tell(api: &Api, before: &View, now: &View) {
    let (events, at) = (api.site.events(), api.site.now().wall);
    let known = |view: &View, member: &Member| view.members.iter().any(|other| other.boot == member.boot);
    let node = |kind, member: &Member| {
        let detail = format!("{} (node {})", member.name, member.id);
        events.tell_group(at, kind, Some(member.address.to_string()), detail);
    };
    now.members
        .iter()
        .filter(|it| !known(before, it))
        .for_each(|it| node(JOINED, it));
    before
        .members
        .iter()
        .filter(|it| !known(now, it))
        .for_each(|it| node(LEFT, it));
    match (&before.fault, &now.fault) {
        (before, Some(fault)) if before.as_ref() != Some(fault) => {
            events.tell_group(at, FAULT, None, fault.to_string());
        }
        (Some(fault), None) => events.tell_group(at, MENDED, None, fault.to_string()),
        _ => {}
    }
}
