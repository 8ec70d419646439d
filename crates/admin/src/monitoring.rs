//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{TEXT_FORMAT, TextEncoder};

use super::expose::process::Process;
use super::server::seated;
use portcullis_proto::types::metrics::Exposes;

use super::{Exposition, Health};

/// What a scrape shows, and how the process is.
pub struct Monitoring {
    /// Every part that has numbers.
    pub exposes: Vec<Box<dyn Exposes>>,
    /// Whether it lives and serves.
    pub health: Arc<Health>,
    /// Whether what it depends on is there, beyond [`Monitoring::health`]; the error says what is missing.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Memory, CPU and descriptors, as the kernel tells them.
    pub process: Process,
}

impl Monitoring {
    /// All families as text.
    ///
    /// # Errors
    /// A family without samples or name: a mistake in the code.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut exposition = Exposition::default();
        for part in &self.exposes {
            part.expose(&[], &mut exposition);
        }
        let mut families = exposition.into_families();
        families.extend(self.process.families());
        TextEncoder::new().encode_to_string(&families)
    }

    /// `/metrics`, `/healthz` and `/readyz`.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self)
            .layer(from_fn(seated))
    }
}

async fn metrics(State(monitoring): State<Arc<Monitoring>>) -> Response {
    match monitoring.render() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(monitoring): State<Arc<Monitoring>>) -> Response {
    verdict(monitoring.health.live())
}

async fn readyz(State(monitoring): State<Arc<Monitoring>>) -> Response {
    verdict(monitoring.health.ready().and_then(|()| (monitoring.ready)()))
}

fn verdict(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
