//! The kubelet or the operator dies in the middle of a rollout. Each test has a cluster of its own, as the others need both.

use devcluster::{DevCluster, node};
use serde_json::{Value, json};

use crate::common::budget::BudgetWatcher;
use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::world::{World, identities};
use crate::place::{ORDINARY, container, real, set_with, status, until_done};

const PODS: usize = 6;
const MAX_UNAVAILABLE: usize = 2;
/// Leases of three seconds, so that a successor need not be waited for long.
const SHORT_LEASE: [&str; 1] = ["--lease-duration-seconds=3"];

/// Without probes: until the first answer to a probe, a kubelet that was restarted takes running containers for not ready, and
/// pods that are not ready may be upgraded beside the budget.
fn unprobed(name: &str, image: &str, port: u16) -> Value {
    let mut container = container(name, image, port);
    container.as_object_mut().unwrap().remove("readinessProbe");
    container
}

fn set(world: &World, image: &str) -> Value {
    let strategy = json!({"maxUnavailable": MAX_UNAVAILABLE, "minReadySeconds": 1, "podUpdateTimeoutSeconds": 60});
    set_with(world, ORDINARY, unprobed("agent", image, 8081), &strategy)
}

/// Rolls out v2 to some pods, and calls `strike` each time that so many of them are patched. Within the budget every pod is patched once, and only
/// sidecars are restarted; returns how often.
async fn rolls_out(world: &World, moments: &[usize], mut strike: impl AsyncFnMut()) -> Vec<i32> {
    world.apply(&set(world, "sidecar:v1")).await;
    world.deploy_pods(PODS, real(json!({"containers": [unprobed("app", "app:v1", 8080)]}))).await;
    until_done(world, PODS).await;
    let before = world.pods().await;
    let budget = BudgetWatcher::start(world.api());
    world.apply_without_waiting(&set(world, "sidecar:v2")).await;
    for &moment in moments {
        let updated = eventually("so many pods are patched", async || {
            let updated = world.with_image("devcluster.test/sidecar:v2").await;
            if updated >= moment { Ok(updated) } else { Err(updated) }
        })
        .await;
        println!("{}: strike with {updated} pods patched", world.name);
        strike().await;
    }
    until_done(world, PODS).await;
    let after = world.pods().await;
    assert_eq!(world.with_image("devcluster.test/sidecar:v2").await, PODS);
    assert_eq!(identities(&after, "agent"), identities(&before, "agent"));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.metadata.generation, before.metadata.generation.map(|it| it + 1), "patched once");
        assert_eq!(status(after, "app").restart_count, 0);
    }
    let worst = budget.worst();
    println!("{}: {worst} pods were unavailable at once", world.name);
    assert!((1..=MAX_UNAVAILABLE).contains(&worst));
    after.iter().map(|pod| status(pod, "agent").restart_count).collect()
}

async fn cluster() -> Option<DevCluster> {
    node::or_skip(DevCluster::builder().nodes(0).real_node().start().await).unwrap()
}

#[tokio::test]
async fn a_rollout_goes_on_over_restarts_of_the_kubelet() {
    let Some(cluster) = cluster().await else { return };
    let operator = Operator::start(cluster.kubeconfig(), "kubelet", &[]).await;
    let world = World::new(cluster.kubeconfig(), "kubelet").await;
    let restarts = rolls_out(&world, &[1, 3, 5], async || cluster.restart_kubelet().await.unwrap()).await;
    // A container that the old kubelet has created, but not started, is made anew by the next one, and counted twice.
    assert!(restarts.iter().all(|count| (1..=2).contains(count)), "{restarts:?}");
    assert!(operator.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollout_is_finished_by_the_successor_of_an_operator_that_is_killed() {
    let Some(cluster) = cluster().await else { return };
    let start = async || Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    let mut operator = Some(start().await);
    let world = World::new(cluster.kubeconfig(), "operator").await;
    let restarts = rolls_out(&world, &[3], async || {
        operator.take().unwrap().kill();
        operator = Some(start().await);
    })
    .await;
    assert_eq!(restarts, [1; PODS]);
    assert!(operator.unwrap().terminate());
    cluster.stop().await;
}
