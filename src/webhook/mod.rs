//! The admission webhooks: pods are injected, sets are validated, and both are registered.

pub mod pod;
pub(crate) mod registration;
mod set;
pub mod tls;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use tokio::sync::watch;

use crate::core::inject::Served;
use crate::core::registration::{POD_PATH, SET_PATH};

/// Largest review that is read. etcd refuses objects over 1.5 MiB by default; escaping and the old object make it more.
const MAX_REVIEW: usize = 16 * 1024 * 1024;

/// The routes of both webhooks.
pub fn router(pods: pod::Pods, served: watch::Receiver<Arc<Served>>) -> Router {
    let sets = set::Sets { served, client: pods.client.clone() };
    Router::new()
        .route(&format!("{POD_PATH}/{{version}}"), post(pod::mutate).with_state(pods))
        .route(SET_PATH, post(set::check).with_state(sets))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
}

#[cfg(test)]
mod tests;
