//! Whether the broker lets the gateway in: one connection, to the answer to CONNECT.

use std::time::{Duration, Instant};

use super::codec::Connect;
use super::options;
use super::session::Happening;
use crate::settings::MqttSettings;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the client id ends with, so that the gateway that runs is not disconnected.
const SUFFIX: &str = "-doctor";

/// Connects as the gateway does, with a client id that ends in `-doctor`, and says goodbye. `now` reads the clock.
///
/// # Errors
/// What is in the way, with the keys of `[broker]` to look at.
pub async fn probe(settings: &MqttSettings, now: fn() -> Instant) -> Result<(), String> {
    let connect = Connect {
        client_id: format!("{}{SUFFIX}", options::client_id(settings, 0)),
        clean_start: true,
        session_seconds: 0,
        keep_alive: options::keep_alive(settings),
        will: None,
    };
    let mut connection = options::connect(settings, connect, now)?;
    let connecting = async {
        loop {
            for happening in connection.next().await {
                match happening {
                    Happening::Connected(_) => return Ok(()),
                    Happening::Ended(ending) => return Err(ending.text),
                    _ => {}
                }
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, connecting).await;
    let silent = || format!("no answer within {} s", PATIENCE.as_secs());
    outcome.unwrap_or_else(|_| Err(silent()))?;
    connection.session.disconnect();
    connection.flush().await;
    Ok(())
}
