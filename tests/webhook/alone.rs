//! The webhook on pods without an API server: only what is cached is known, which is the namespace `default` and the sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use kube::{Client, Config};
use sidecarset::core::inject::Served;
use sidecarset::runtime::events::Events;
use sidecarset::runtime::metrics::Metrics;
use sidecarset::runtime::namespaces::Namespaces;
use sidecarset::webhook::pod::{Large, Pods};
use sidecarset::webhook::provisional::{InVain, channel};
use sidecarset::webhook::set::Sets;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the webhook needs.
pub fn pods(served: watch::Receiver<Arc<Served>>) -> Pods {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let namespaces = Namespaces::default();
    namespaces.set("default", Some(BTreeMap::new()));
    Pods {
        served,
        namespaces,
        excluded: Arc::from([]),
        client: client.clone(),
        metrics: Metrics::new(),
        events: Events::start(client, "test".to_owned(), CancellationToken::new()),
        large: Large::default(),
        in_vain: InVain::default(),
    }
}

/// The routes of both webhooks.
pub fn router(pods: Pods) -> Router {
    let (served, client, announcer) = (pods.served.clone(), pods.client.clone(), channel().0);
    sidecarset::webhook::router(pods, Sets { served, client, announcer })
}
