//! Whether what the gateway depends on lets it in: asked with the same code, without a gateway that runs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use crate::auth;
use crate::auth::settings::{AuthCaps, AuthSettings};
use crate::broker::{self, BrokerKind};
use crate::config::access::Backend;
use crate::config::{Authentication, Config};
use crate::group::{Fault, Member};
use crate::policy::authentication::{AuthRequest, IdentityRole, Password};
use crate::types::{ClientId, ListenerId, PeerAddr};

use super::{clock, from_config, group, node};

/// Whom backends are asked about.
const NOBODY: &str = "portcullis-doctor";

/// Connects to the broker as the gateway does; nothing where that is embedded.
pub async fn broker(config: &Config) -> Option<Result<(), String>> {
    match node::broker_settings(config, 0).kind {
        BrokerKind::Embedded(_) => None,
        BrokerKind::Mqtt(settings) => Some(broker::probe(&settings, clock::now).await),
    }
}

/// Asks the engine of the group who lives; nothing where the node is alone.
pub async fn group(config: &Config) -> Option<Result<Vec<Member>, Fault>> {
    Some(group::probe(config.group.as_ref()?).await)
}

/// Asks each backend that is asked over the network, by the key of its table, about somebody whom it does not know.
pub async fn logins(config: &Config) -> Vec<(String, Result<(), String>)> {
    let mut all = Vec::new();
    for (key, authentication) in config.authentications() {
        let table = match authentication.backend {
            Backend::None | Backend::File => continue,
            Backend::Http => "http",
            Backend::Jwt => "jwt",
            _ => authentication
                .database()
                .map_or("", |database| database.server().table),
        };
        all.push((format!("{key}.{table}"), login(authentication).await));
    }
    all
}

async fn login(authentication: &Authentication) -> Result<(), String> {
    let settings = AuthSettings {
        backend: from_config::backend(authentication)?,
        per_listener: BTreeMap::new(),
        key_sources: BTreeMap::new(),
        listeners: vec!["doctor".into()],
        caps: AuthCaps::default(),
        cache: from_config::VERDICT_CACHE,
        clock: clock::wall,
    };
    let started = auth::start(&settings, tokio::runtime::Handle::current());
    let handle = started.map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })?;
    let Some(peer) = PeerAddr::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 5683))) else {
        return Ok(());
    };
    let somebody = AuthRequest {
        ticket: 0,
        clientid: ClientId::new(NOBODY),
        username: Some(NOBODY.into()),
        password: Some(Password::new(NOBODY.as_bytes())),
        identity: None,
        identity_role: IdentityRole::None,
        peer,
        listener: ListenerId(0),
    };
    handle.probe(&somebody).await
}
