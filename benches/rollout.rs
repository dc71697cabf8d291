//! How long it takes to patch 1,000 pods, compared with a bare client that sends the same patches, 32 at once, in the
//! same run; and the operator's memory at that size. `cargo bench --bench rollout`, or `make bench`.
//!
//! Exits non-zero if the operator needs more than 1.5 times as long, or more than 60 MB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../tests/cluster/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::eventually;
use common::operator::Operator;
use common::world::World;
use devcluster::DevCluster;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

const PODS: usize = 1000;
const CONCURRENCY: usize = 32;
const LARGEST_RATIO: f64 = 1.5;
const LARGEST_MEMORY_MB: u64 = 60;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fine = runtime.block_on(run());
    std::process::exit(i32::from(!fine));
}

async fn run() -> bool {
    let cluster = DevCluster::start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "bench", &[]).await;
    let world = World::new(cluster.kubeconfig(), "bench").await;
    let strategy = json!({"maxUnavailable": "100%", "minReadySeconds": 0});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(PODS).await;
    settled(&world).await;

    // In turns, so that both see the same machine: client, operator, client, operator.
    let mut rounds = Vec::new();
    for (client_image, operator_image) in [("agent:c1", "agent:v2"), ("agent:c2", "agent:v3")] {
        world.apply(&world.set("agent:v1", json!({"type": "NotUpdate"}))).await;
        let bare = bare_client(&world, client_image).await;
        quiet(&world, client_image).await;
        let started = Instant::now();
        world.apply_without_waiting(&world.set(operator_image, strategy.clone())).await;
        until_patched(&operator, PODS * (rounds.len() + 1)).await;
        let ours = started.elapsed();
        assert_eq!(world.with_image(operator_image).await, PODS);
        settled(&world).await;
        rounds.push((bare, ours));
        println!("patches of {PODS} pods: bare client {bare:?}, operator {ours:?}");
    }
    let total = |pick: fn(&(Duration, Duration)) -> Duration| rounds.iter().map(pick).sum::<Duration>().as_secs_f64();
    let ratio = total(|round| round.1) / total(|round| round.0);
    let memory = operator.memory() / 1024;
    println!("ratio {ratio:.2} (at most {LARGEST_RATIO}); operator memory {memory} MB (at most {LARGEST_MEMORY_MB})");
    assert!(operator.terminate());
    cluster.stop().await;
    ratio <= LARGEST_RATIO && memory <= LARGEST_MEMORY_MB
}

/// The same kind of request as the operator's: a JSON Patch with tests, the image, a label and an annotation.
async fn bare_client(world: &World, image: &str) -> Duration {
    let pods = world.pods().await;
    let api: Api<Pod> = world.api();
    let started = Instant::now();
    let patches = pods.iter().map(|pod| {
        let index = pod.spec.as_ref().unwrap().containers.iter().position(|c| c.name == "agent").unwrap();
        let image_path = format!("/spec/containers/{index}/image");
        let patch: json_patch::Patch = serde_json::from_value(json!([
            {"op": "test", "path": "/metadata/uid", "value": pod.uid()},
            {"op": "test", "path": image_path, "value": common::world::container_image(pod, "agent")},
            {"op": "replace", "path": image_path, "value": image},
            {"op": "add", "path": "/metadata/annotations/bench", "value": image},
            {"op": "add", "path": "/metadata/labels/bench", "value": image.replace(':', "-")},
        ]))
        .unwrap();
        let api = &api;
        async move {
            api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Json::<()>(patch)).await.unwrap();
        }
    });
    futures::stream::iter(patches).buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await;
    started.elapsed()
}

/// Waits until the operator has had so many patches accepted: its metric costs the API server nothing, where listing a
/// thousand pods again and again would slow down what is measured.
async fn until_patched(operator: &Operator, total: usize) {
    let counted = format!("sidecarset_pod_patch_total{{set=\"bench\",result=\"ok\"}} {total}\n");
    eventually("all pods are patched", async || {
        if operator.metrics().await.contains(&counted) { Ok(()) } else { Err("not yet") }
    })
    .await;
}

/// The kubelets are done with an image, so that they do not disturb the next measurement.
async fn quiet(world: &World, image: &str) {
    eventually("the kubelets replaced all containers", async || {
        let done = world.pods().await.iter().filter(|pod| runs(pod, image)).count();
        if done == PODS { Ok(()) } else { Err(done) }
    })
    .await;
}

fn runs(pod: &Pod, image: &str) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses
        .into_iter()
        .any(|s| s.name == "agent" && s.ready && s.container_id.as_ref().is_some_and(|id| id.ends_with(image)))
}

async fn settled(world: &World) {
    world
        .until_set("all pods are available", |set| {
            let status = set.status.as_ref().unwrap();
            usize::try_from(status.updated_ready_pods) == Ok(PODS)
        })
        .await;
}
