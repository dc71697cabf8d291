//! The Secret of the webhook's certificates on a real API server.

// clippy.toml allows it in test functions only; these are their helpers.
#![allow(clippy::expect_used)]

use devcluster::DevCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use sidecarset::runtime::metrics::SecondsGauge;
use sidecarset::webhook::tls::{CertificateSource, SelfSigned, TlsState};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "default";
const SECRET: &str = "sidecarset-webhook-tls";

async fn start(client: &Client, service: &str, shutdown: &CancellationToken) -> TlsState {
    let names = SelfSigned::names_of_service(service, NAMESPACE);
    let source = SelfSigned::new(client.clone(), NAMESPACE, SECRET, names);
    let source = CertificateSource::SelfSigned(Box::new(source));
    source.start(None, SecondsGauge::default(), shutdown.clone()).await.expect("certificates").0
}

async fn part(client: &Client, key: &str) -> Vec<u8> {
    let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE).get(SECRET).await.expect("the secret");
    secret.data.and_then(|mut data| data.remove(key)).expect("the key").0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_ca_and_repair_what_is_damaged() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = DevCluster::start().await.expect("a cluster");
    let client = cluster.client();
    let shutdown = CancellationToken::new();

    // Three replicas start at once: one creates, the others use what it made.
    let replica = || start(&client, "hook", &shutdown);
    let (a, b, c) = tokio::join!(replica(), replica(), replica());
    let bundle = part(&client, "ca-bundle.crt").await;
    for state in [&a, &b, &c] {
        assert_eq!(*state.ca_bundle.borrow(), bundle);
    }
    let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    assert_eq!(secret.get(SECRET).await.expect("the secret").type_.as_deref(), Some("Opaque"));

    // Another name: the same CA, another leaf.
    let leaf = part(&client, "tls.crt").await;
    start(&client, "hook2", &shutdown).await;
    assert_ne!(part(&client, "tls.crt").await, leaf);
    assert_eq!(part(&client, "ca-bundle.crt").await, bundle);

    // Damage: new keys; the old CA stays trusted, and so do keys of others in the Secret.
    let damage = serde_json::json!({"stringData": {"ca.key": "x", "tls.key": "x", "foreign": "kept"}});
    secret.patch(SECRET, &PatchParams::default(), &Patch::Merge(damage)).await.expect("damaged");
    let state = start(&client, "hook2", &shutdown).await;
    let repaired = state.ca_bundle.borrow().clone();
    assert!(repaired.len() > bundle.len() && repaired.ends_with(&bundle));
    assert_eq!(part(&client, "foreign").await, b"kept");
    cluster.stop().await;
}
