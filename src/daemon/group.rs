//! This node's part in its group, made from `[group]`.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::group::EngineKind;
use crate::config::secrets::read_secret;
use crate::config::{self, Config};
use crate::group::{self, EngineSettings, Fault, Group, GroupKey, GroupMetrics, Member};
use crate::redis::Kind;

use super::assembly::{ExitReason, StartError};
use super::clock;

/// Joins the group that the configuration names; none where the node is alone.
pub(super) fn join(config: &Config, metrics: &Arc<GroupMetrics>) -> Result<Option<Group>, StartError> {
    let Some(group) = &config.group else {
        return Ok(None);
    };
    let wrong = |fault: Fault| StartError::new(ExitReason::Config, fault.to_string());
    let settings = group::Settings {
        engine: engine(group).map_err(wrong)?,
        key: Arc::new(key(group).map_err(wrong)?),
        name: config.node.name.clone(),
        address: group.bind,
        node: group.node,
        lease: group.lease,
        state_dir: config.node.state_dir.clone(),
        clock: clock::now,
    };
    Group::start(settings, Arc::clone(metrics))
        .map(Some)
        .map_err(|error| StartError::new(ExitReason::System, format!("no thread for the group: {error}")))
}

/// Asks the engine whether it lets this node in; the nodes that live.
///
/// # Errors
/// What is to be mended.
pub(super) async fn probe(group: &config::Group) -> Result<Vec<Member>, Fault> {
    group::probe(&engine(group)?, &key(group)?).await
}

fn key(group: &config::Group) -> Result<GroupKey, Fault> {
    let wrong = |why: String| Fault::new("group.key_file", why);
    let content = read_secret(&group.key_file).map_err(|error| wrong(error.to_string()))?;
    GroupKey::parse(&content).map_err(|why| wrong(format!("{}: {why}", group.key_file.display())))
}

fn engine(group: &config::Group) -> Result<EngineSettings, Fault> {
    let password = group.password_file.as_deref().map(|path| {
        let content =
            read_secret(path).map_err(|error| Fault::new("group.password_file", error.to_string()))?;
        let text = String::from_utf8_lossy(content.trim_ascii_end()).into_owned();
        Ok::<_, Fault>(Zeroizing::new(text))
    });
    let url = &group.url;
    Ok(EngineSettings {
        kind: match &url.kind {
            EngineKind::Single => Kind::Single,
            EngineKind::Sentinel(master) => Kind::Sentinel(master.clone()),
            EngineKind::Cluster => Kind::Cluster,
        },
        nodes: url.nodes.clone(),
        username: url.username.clone(),
        password: password.transpose()?,
        database: url.database,
        tls: url.tls,
        ca_file: group.ca_file.clone(),
    })
}
