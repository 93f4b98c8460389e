//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// Why the node takes no requests now, for a person.
pub type NotReady = String;

/// Where the answers come from. The closures are called from the HTTP runtime and must not block.
pub struct Health {
    /// Whether requests are taken: all shards serve, the log takes entries, no drain is under way.
    pub ready: Box<dyn Fn() -> Result<(), NotReady> + Send + Sync>,
    /// What a person should look at though requests are taken; none: nothing.
    pub warning: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// All metrics, in Prometheus' text exposition format 0.0.4.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Health")
    }
}

/// The routes: `/healthz` says that the process runs, `/readyz` whether it takes requests (200, or 503 and why),
/// `/metrics` what Prometheus scrapes.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(health))
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    match (health.ready)() {
        Ok(()) => match (health.warning)() {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(warning) => (StatusCode::OK, format!("ready\nwarning: {warning}\n")),
        },
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (health.metrics)())
}
