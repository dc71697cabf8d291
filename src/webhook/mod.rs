//! The admission webhooks: pods are injected, sets are validated, and both are registered.

mod limits;
pub mod pod;
pub mod provisional;
mod raw_pod;
pub(crate) mod registration;
pub mod set;
pub mod tls;

use axum::Router;
use axum::routing::post;

use crate::core::registration::provisional::{PROBE_PATH, Provisional};
use crate::core::registration::{POD_PATH, SET_PATH};

/// The routes of both webhooks.
pub fn router(pods: pod::Pods, sets: set::Sets) -> Router {
    let router = Router::new()
        .route(&format!("{POD_PATH}/{{version}}"), post(pod::mutate).with_state(pods.clone()))
        .route(&Provisional::route(), post(pod::mutate_provisionally).with_state(pods))
        .route(PROBE_PATH, post(pod::probe))
        .route(SET_PATH, post(set::check).with_state(sets));
    limits::limited(router)
}

#[cfg(test)]
mod tests;
