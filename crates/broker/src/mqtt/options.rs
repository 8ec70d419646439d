//! From settings to rumqttc's options: credentials, TLS through OpenSSL, the will.

use std::path::Path;
use std::time::Duration;

use openssl::pkey::PKey;
use rumqttc::tokio_native_tls::native_tls::{Certificate, Identity, Protocol as TlsVersion, TlsConnector};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use zeroize::Zeroizing;

use crate::settings::{MqttSettings, Protocol};

use super::wire::{Link, MAX_IN_FLIGHT};
use super::{MAX_PACKET, v4, v5};

const CONNECT_SECONDS: u64 = 10;
/// How long the broker keeps a session that lost its connection (MQTT 5).
const SESSION_SECONDS: u32 = 300;
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the broker announces should we vanish.
#[derive(Debug, Clone)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: String,
}

/// Begins a connection for the lane with this index.
///
/// # Errors
/// When a file cannot be used; the text names it.
pub(super) fn connect(
    settings: &MqttSettings,
    lane: usize,
    clean_start: bool,
    will: Option<Will>,
) -> Result<Link, String> {
    let address = &settings.address;
    let keep_alive = settings.keep_alive.max(MIN_KEEP_ALIVE);
    let patience = keep_alive * 2 + Duration::from_secs(CONNECT_SECONDS);
    let client_id = match lane {
        0 => settings.client_id.clone(),
        lane => format!("{}-{lane}", settings.client_id),
    };
    let transport = match address.tls {
        true => Transport::Tls(TlsConfiguration::NativeConnector(connector(settings)?)),
        false => Transport::Tcp,
    };
    let password = password(settings)?;
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_SECONDS);
    match settings.protocol {
        Protocol::V5 => {
            let mut options = rumqttc::v5::MqttOptions::new(client_id, &address.host, address.port);
            options
                .set_transport(transport)
                .set_keep_alive(keep_alive)
                .set_clean_start(clean_start)
                .set_connection_timeout(CONNECT_SECONDS)
                .set_network_options(network)
                .set_session_expiry_interval(Some(SESSION_SECONDS))
                .set_max_packet_size(Some(u32::try_from(MAX_PACKET).unwrap_or(u32::MAX)))
                .set_outgoing_inflight_upper_limit(MAX_IN_FLIGHT);
            if !settings.username.is_empty() {
                options.set_credentials(&settings.username, password.as_str());
            }
            if let Some(will) = will {
                use rumqttc::v5::mqttbytes::{QoS, v5::LastWill};
                options.set_last_will(LastWill::new(
                    will.topic,
                    will.payload,
                    QoS::AtLeastOnce,
                    true,
                    None,
                ));
            }
            Ok(v5::connect(options, patience))
        }
        Protocol::V4 => {
            let mut options = rumqttc::MqttOptions::new(client_id, &address.host, address.port);
            options
                .set_transport(transport)
                .set_keep_alive(keep_alive)
                .set_clean_session(true)
                .set_max_packet_size(MAX_PACKET, MAX_PACKET)
                .set_inflight(MAX_IN_FLIGHT);
            if !settings.username.is_empty() {
                options.set_credentials(&settings.username, password.as_str());
            }
            if let Some(will) = will {
                use rumqttc::{LastWill, QoS};
                options.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true));
            }
            Ok(v4::connect(options, network, patience))
        }
    }
}

/// Whether all files that the settings name can be used.
///
/// # Errors
/// When one cannot; the text names it.
pub(crate) fn check_files(settings: &MqttSettings) -> Result<(), String> {
    password(settings)?;
    if settings.address.tls {
        connector(settings)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn password(settings: &MqttSettings) -> Result<Zeroizing<String>, String> {
    let Some(path) = &settings.password_file else {
        return Ok(Zeroizing::default());
    };
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().into()))
}

fn connector(settings: &MqttSettings) -> Result<TlsConnector, String> {
    let mut builder = TlsConnector::builder();
    builder.min_protocol_version(Some(TlsVersion::Tlsv12));
    if let Some(path) = &settings.ca_file {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let anchors = openssl::x509::X509::stack_from_pem(&read(path)?).map_err(|error| fail(&error))?;
        if anchors.is_empty() {
            return Err(fail(&"holds no certificate"));
        }
        builder.disable_built_in_roots(true);
        for anchor in anchors {
            let der = anchor.to_der().map_err(|error| fail(&error))?;
            builder.add_root_certificate(Certificate::from_der(&der).map_err(|error| fail(&error))?);
        }
    }
    if let Some(path) = &settings.cert_file {
        let key_path = settings.key_file.as_ref().unwrap_or(path);
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", key_path.display());
        let key =
            PKey::private_key_from_pem_callback(&read(key_path)?, |_| Ok(0)).map_err(|error| fail(&error))?;
        let key = Zeroizing::new(key.private_key_to_pem_pkcs8().map_err(|error| fail(&error))?);
        let identity = Identity::from_pkcs8(&read(path)?, &key)
            .map_err(|error| format!("{} with {}: {error}", path.display(), key_path.display()))?;
        builder.identity(identity);
    }
    builder.build().map_err(|error| format!("TLS: {error}"))
}
