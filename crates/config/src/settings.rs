//! From the configuration to what the core is built from.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use portcullis_dtls::contract::{DtlsSettings, StreamSettings};
use portcullis_proto::bridge::translate::Translations;
use portcullis_proto::coap::contract::CoapSettings;
use portcullis_proto::gateway::settings::{
    DtlsListenerSettings, Health, ListenerSettings, Overrides, Settings, SleepSettings,
};
use portcullis_proto::policy::authentication::IdentityRole;
use portcullis_proto::policy::authorization::Authorizer;
use portcullis_proto::policy::identity_names::{IdentityNames, NameTemplate};
use portcullis_proto::types::limits::Caps;

use super::access::{Authentication, Backend, JwtFrom, Login};
use super::listeners::{Datagrams, Handshake, Listener, NameText, Sessions};
use super::sections::{KeepQueued, LogLevel, Sleep, Unproven};
use super::translate::Translate;
use super::value::Size;
use super::{Config, Limits};

/// Bytes of an IPv6 and a UDP header, which a path's MTU counts and a datagram's length does not.
const HEADERS: u32 = 40 + 8;

impl Config {
    /// How many workers to start: as configured, else one per core; 1 to 255.
    #[must_use]
    pub fn worker_count(&self) -> u8 {
        match self.node.workers {
            0 => std::thread::available_parallelism()
                .map_or(1, NonZero::get)
                .try_into()
                .unwrap_or(u8::MAX),
            workers => workers,
        }
    }

    /// Whether requests to `listener` must be authenticated.
    #[must_use]
    pub(crate) fn asks_for_login(&self, listener: &Listener) -> bool {
        match &listener.authentication {
            Login::Inherited => self.authentication.backend != Backend::None,
            Login::Required => true,
            Login::Off => false,
            Login::Own(own) => own.backend != Backend::None,
        }
    }

    /// Whether what clients of a listener send as user name is a token of theirs.
    fn takes_token_for_username(&self, listener: &Listener) -> bool {
        let own = match &listener.authentication {
            Login::Inherited | Login::Required => &self.authentication,
            Login::Own(own) => own,
            Login::Off => return false,
        };
        own.backend == Backend::Jwt && own.jwt.from == JwtFrom::Username
    }

    /// Every `authentication` table with its dotted name: the common one, then those of listeners.
    pub fn authentications(&self) -> impl Iterator<Item = (String, &Authentication)> {
        let own = self
            .listeners
            .iter()
            .filter_map(|listener| match &listener.authentication {
                Login::Own(own) => Some((format!("{}.authentication", listener.key()), &**own)),
                Login::Inherited | Login::Required | Login::Off => None,
            });
        std::iter::once(("authentication".to_owned(), &self.authentication)).chain(own)
    }

    /// The users files that decide about logins, each once: that of `[authentication]`, then those of listeners.
    #[must_use]
    pub fn users_files(&self) -> Vec<&Path> {
        let mut files = Vec::new();
        for (_, authentication) in self.authentications() {
            if let (Backend::File, Some(file)) = (authentication.backend, &authentication.file)
                && !files.contains(&file.as_path())
            {
                files.push(file.as_path());
            }
        }
        files
    }
}

/// The settings of each worker's gateway; without the ACL, which stands in a file of its own. `available` is the memory that the
/// process may have, in bytes.
#[must_use]
pub fn to_gateway_settings(config: &Config, available: u64) -> Settings {
    let workers = config.worker_count();
    Settings {
        node: config.node.name.as_str().into(),
        workers,
        connection_required: config.coap.connection_required,
        heartbeat: Some(config.coap.heartbeat).filter(|heartbeat| !heartbeat.is_zero()),
        notify_type: config.coap.notify_type,
        publish_qos: config.coap.publish_qos,
        subscribe_qos: config.coap.subscribe_qos,
        mountpoint: config.coap.mountpoint.as_str().into(),
        observe_check: config.coap.observe_check,
        topics: config.coap.topics,
        pubsub_content_format: config.coap.pubsub_content_format,
        translations: Arc::new(Translations(
            config.translate.iter().map(Translate::rule).collect(),
        )),
        sleep: sleep_settings(&config.coap.sleep),
        coap: coap_settings(config),
        caps: Caps {
            queued_for_sleeper: to_usize(config.coap.sleep.queue_messages),
            ..caps(&config.limits, available, workers)
        },
        requests_per_second: config.limits.requests_per_second,
        unproven_datagrams_per_second: config.limits.unproven_datagrams_per_second,
        authorizer: Authorizer::default(),
        failed_logins_per_minute: config.limits.failed_logins_per_minute,
        tells_requests: matches!(config.log.level, LogLevel::Debug | LogLevel::Trace),
        listeners: config
            .listeners
            .iter()
            .map(|listener| listener_settings(listener, config, workers))
            .collect(),
    }
}

fn sleep_settings(sleep: &Sleep) -> SleepSettings {
    SleepSettings {
        max_lifetime: sleep.max_lifetime,
        queue_messages: to_usize(sleep.queue_messages),
        queue_bytes: size(sleep.queue_bytes),
        queue_age: Some(sleep.queue_age).filter(|age| !age.is_zero()),
        keep_newest: sleep.keep == KeepQueued::Newest,
    }
}

/// What a remembered exchange weighs, in bytes, its answer apart.
const EXCHANGE: usize = 256;

/// Each worker has its share of the memory: what it keeps for a peer is in no other.
fn caps(limits: &Limits, available: u64, workers: u8) -> Caps {
    let memory = match limits.memory.0 {
        0 => available / 4,
        memory => memory,
    };
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let memory = bytes(memory / u64::from(workers.max(1)));
    let defaults = Caps::default();
    Caps {
        memory,
        // Exchanges belong to nobody who could give way: all of them together leave strangers most of their quarter.
        remembered_exchanges: defaults.remembered_exchanges.min(memory / 8 / EXCHANGE),
        transfer_bytes: defaults.transfer_bytes.min(memory / 2),
        observations_per_identity: to_usize(limits.per_identity.observations),
        memory_per_identity: bytes(limits.per_identity.memory.0),
        topics: limits.topics(),
        ..defaults
    }
}

fn coap_settings(config: &Config) -> CoapSettings {
    CoapSettings {
        ack_timeout: config.coap.transmission.ack_timeout,
        max_retransmit: config.coap.transmission.max_retransmit,
        max_block_size: to_usize(config.coap.blockwise.max_block_size),
        max_body_size: usize::try_from(config.coap.blockwise.max_body_size.0).unwrap_or(usize::MAX),
        challenge_unproven: config.limits.unproven == Unproven::Echo,
    }
}

fn listener_settings(listener: &Listener, config: &Config, workers: u8) -> ListenerSettings {
    let (common, datagrams) = (&listener.common, listener.datagrams.as_ref());
    ListenerSettings {
        name: listener.name.as_str().into(),
        dtls: session_settings(listener, &config.limits, workers),
        access: common.access_rules.clone(),
        authentication: config.asks_for_login(listener),
        token_in_username: config.takes_token_for_username(listener),
        mountpoint: common.mountpoint.as_deref().map(Arc::from),
        overrides: Overrides {
            connection_required: common.connection_required,
            heartbeat: common.heartbeat,
            notify_type: datagrams.and_then(|datagrams| datagrams.notify_type),
        },
        fresh_requests: Some(common.fresh_requests).filter(|within| !within.is_zero()),
        max_peers: to_usize(listener.max_peers.div_ceil(u32::from(workers.max(1)))),
        health: datagrams
            .and_then(Datagrams::health)
            .map(|(request, reply)| Health {
                request: request.into(),
                reply: reply.into(),
            }),
    }
}

/// Sessions of DTLS, or connections over streams, which the gateway takes for sessions.
fn session_settings(listener: &Listener, limits: &Limits, workers: u8) -> Option<DtlsListenerSettings> {
    let share = |total: u32| to_usize(total.div_ceil(u32::from(workers.max(1))));
    let dtls = listener.dtls.as_ref();
    let role = dtls.map_or(IdentityRole::None, |dtls| dtls.handshake.role());
    let max_half_open = |stream: u32| share(dtls.map_or(stream, |dtls| dtls.handshake.max_half_open));
    let (transport, on_close) = match (dtls.and_then(|dtls| dtls.sessions.as_ref()), &listener.stream) {
        (Some(sessions), _) => {
            let settings = DtlsSettings {
                handshake_timeout: sessions.handshake_timeout,
                idle_timeout: sessions.idle_timeout,
                max_sessions: share(match listener.max_peers {
                    0 => sessions.max_sessions,
                    max_peers => sessions.max_sessions.min(max_peers),
                }),
                legacy_max_sessions: share(sessions.legacy_max_sessions),
                sessions_per_identity: to_usize(limits.per_identity.sessions),
                max_half_open: max_half_open(0),
                mtu: handshake_datagram(sessions),
                cid: sessions.cid,
                handshakes_per_second: limits.handshakes_per_second,
                max_handshakes_per_second: sessions.max_handshakes_per_second,
                records_per_key: u64::MAX,
                wants_identity: role != IdentityRole::None,
                stream: None,
            };
            (settings, sessions.on_close)
        }
        (None, Some(stream)) => {
            let settings = DtlsSettings {
                handshake_timeout: stream.handshake_timeout,
                idle_timeout: stream.idle_timeout,
                // They are counted where they come in.
                max_sessions: to_usize(stream.max_connections),
                legacy_max_sessions: 0,
                sessions_per_identity: to_usize(limits.per_identity.sessions),
                max_half_open: max_half_open(stream.max_connections),
                mtu: 0,
                cid: false,
                handshakes_per_second: limits.handshakes_per_second,
                max_handshakes_per_second: stream.max_handshakes_per_second,
                records_per_key: u64::MAX,
                wants_identity: role != IdentityRole::None,
                stream: Some(StreamSettings {
                    tls: dtls.is_some(),
                    web: stream.websocket.origins().is_some(),
                    max_message: size(stream.max_message_size),
                    max_queued: size(stream.max_queued),
                }),
            };
            (settings, stream.on_close)
        }
        (None, None) => return None,
    };
    Some(DtlsListenerSettings {
        transport,
        identity: role,
        names: dtls
            .map(|dtls| Arc::new(names(&dtls.handshake)))
            .unwrap_or_default(),
        on_close,
    })
}

fn size(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

/// The largest datagram of a handshake flight, in bytes of UDP payload.
pub(super) fn handshake_datagram(sessions: &Sessions) -> usize {
    to_usize(sessions.mtu.saturating_sub(HEADERS))
}

/// What the devices of a listener are called. What is wrong with a template was told when it was read.
fn names(handshake: &Handshake) -> IdentityNames {
    let template = |name: Option<NameText<'_>>| {
        let NameText { text, pattern } = name?;
        NameTemplate::new(text, handshake.cert_identity.placeholder(), pattern).ok()
    };
    IdentityNames {
        client: template(handshake.client_name()),
        username: template(handshake.user_name()),
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::parse;

    #[test]
    fn settings_carry_what_the_file_says() {
        let config = parse(
            r#"
            [node]
            name = "edge-1"
            workers = 4
            [coap]
            heartbeat = "0s"
            [coap.blockwise]
            max_block_size = 64
            [limits]
            unproven = "echo"
            handshakes_per_second = 7
            [authentication]
            backend = "file"
            [listeners.dtls.b]
            bind = "127.0.0.1:0"
            psk_file = "p"
            max_sessions = 10
            mtu = 1280
            [listeners.udp.a]
            bind = "127.0.0.1:0"
            authentication = false
            mountpoint = "a/"
            "#,
        )
        .unwrap();
        let settings = to_gateway_settings(&config, 4 << 30);
        assert_eq!((&*settings.node, settings.workers), ("edge-1", 4));
        assert_eq!(settings.heartbeat, None);
        assert_eq!(settings.coap.max_block_size, 64);
        assert!(settings.coap.challenge_unproven);
        let [dtls, udp] = &settings.listeners[..] else {
            panic!("two listeners, in the order of the file")
        };
        assert_eq!((&*dtls.name, dtls.authentication), ("b", true));
        let transport = &dtls.dtls.as_ref().unwrap().transport;
        assert_eq!(
            (
                transport.max_sessions,
                transport.mtu,
                transport.handshakes_per_second
            ),
            (3, 1232, 7)
        );
        assert_eq!(
            (&*udp.name, udp.authentication, udp.mountpoint.as_deref()),
            ("a", false, Some("a/"))
        );
        assert!(udp.dtls.is_none());
    }

    #[test]
    fn the_default_settings_are_those_of_the_contract() {
        let settings = to_gateway_settings(&parse("").unwrap(), 4 << 30);
        assert_eq!(settings.heartbeat, Some(Duration::from_secs(30)));
        assert_eq!(settings.observe_check, Duration::from_secs(86_400));
        assert!(settings.workers >= 1);
        assert!(settings.listeners.iter().all(|listener| !listener.authentication));
    }
}
