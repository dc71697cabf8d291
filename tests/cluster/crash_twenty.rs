//! The operator dies twenty times in one rollout, wherever it stands.

use devcluster::DevCluster;
use kube::ResourceExt;
use serde_json::json;

use crate::common::budget::BudgetWatcher;
use crate::common::operator::Operator;
use crate::common::world::{World, condition, identities};

/// A short lease, so that a successor need not be waited for long; taken over at once by the same identity.
const SHORT_LEASE: [&str; 1] = ["--lease-duration-seconds=3"];

/// Times that the operator is killed.
const DEATHS: u64 = 20;

#[tokio::test]
async fn an_operator_killed_twenty_times_patches_every_pod_once_within_the_budget() {
    let cluster = DevCluster::start().await.unwrap();
    let mut operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    let world = World::new(cluster.kubeconfig(), "twenty").await;
    let set = |image: &str| world.set(image, json!({"maxUnavailable": 2, "minReadySeconds": 0}));
    world.apply(&set("agent:v1")).await;
    world.deploy(24).await;
    world.until_set("all pods are counted", |set| set.status.as_ref().unwrap().updated_ready_pods == 24).await;
    let before = identities(&world.pods().await, "agent");
    let generations = |pods: &[k8s_openapi::api::core::v1::Pod]| -> std::collections::BTreeMap<String, i64> {
        pods.iter().map(|pod| (pod.name_any(), pod.metadata.generation.unwrap())).collect()
    };
    let first = generations(&world.pods().await);
    let budget = BudgetWatcher::start(world.api());
    world.apply_without_waiting(&set("agent:v2")).await;
    for death in 0..DEATHS {
        // From before its first write to in the middle of a batch: the moment differs each time.
        tokio::time::sleep(std::time::Duration::from_millis(40 * death)).await;
        operator.kill();
        operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    }
    world
        .until_set("the rollout ends", |set| {
            condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == 24
        })
        .await;
    let pods = world.pods().await;
    assert_eq!(world.with_image("agent:v2").await, 24);
    assert_eq!(identities(&pods, "agent"), before, "no pod and no app container was replaced");
    let once = first.into_iter().map(|(pod, generation)| (pod, generation + 1)).collect();
    assert_eq!(generations(&pods), once, "every pod is patched once");
    let worst = budget.worst();
    assert!((1..=2).contains(&worst), "{worst} pods were unavailable at once");
    assert!(operator.terminate());
    cluster.stop().await;
}
