//! The kubelet or the operator dies in the middle of a rollout. Each test has a cluster of its own, as the others need both.

use devcluster::{DevCluster, node};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::common::budget::BudgetWatcher;
use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::world::{World, container_image, identities};
use crate::place::{ORDINARY, agent, application, status, until_done};

const PODS: usize = 6;
const MAX_UNAVAILABLE: usize = 2;
/// Leases of three seconds, so that a successor need not be waited for long.
const SHORT_LEASE: [&str; 1] = ["--lease-duration-seconds=3"];

/// When something dies: when so many pods …
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// … are patched, and their nodes pull.
    Pulling(usize),
    /// … are patched.
    Patched(usize),
    /// … are patched, and all of those run the new container.
    Replaced(usize),
}

impl Moment {
    async fn comes(self, world: &World) {
        let events: Api<Event> = world.api();
        eventually("so many pods are updated", async || {
            let pods = world.pods().await;
            let pulls = events.list(&ListParams::default().fields("reason=Pulling")).await.unwrap().items.len();
            let patched = pods.iter().filter(|pod| !container_image(pod, "agent").ends_with("/sidecar:v1")).count();
            let replaced = pods.iter().filter(|pod| status(pod, "agent").restart_count > 0).count();
            let is_now = match self {
                Self::Pulling(count) => pulls >= count,
                Self::Patched(count) => patched >= count,
                Self::Replaced(count) => replaced >= count && replaced == patched,
            };
            if is_now { Ok(()) } else { Err((patched, replaced, pulls)) }
        })
        .await;
    }
}

fn set(world: &World, image: &str) -> Value {
    let strategy = json!({"maxUnavailable": MAX_UNAVAILABLE, "minReadySeconds": 2});
    agent(world, ORDINARY, image, &strategy)
}

/// Rolls out another image to some pods, and calls `strike` at each of the moments. Within the budget every pod is patched once,
/// its sidecar is restarted once, and nothing else is.
async fn rolls_out(world: &World, image: &str, moments: &[Moment], mut strike: impl AsyncFnMut()) {
    world.apply(&set(world, "sidecar:v1")).await;
    let mut pods = application();
    // Long enough for the operator to see what a kubelet says that was restarted, until this probe answers.
    pods["containers"][0]["readinessProbe"]["periodSeconds"] = json!(5);
    world.deploy_pods(PODS, pods).await;
    until_done(world, PODS).await;
    let before = world.pods().await;
    // Not of pods that are not ready: for a while, those of a restarted kubelet are not.
    let budget = BudgetWatcher::of_updates(world.api());
    world.apply_without_waiting(&set(world, image)).await;
    for moment in moments {
        moment.comes(world).await;
        strike().await;
    }
    until_done(world, PODS).await;
    let after = world.pods().await;
    assert_eq!(world.with_image(&format!("devcluster.test/{image}")).await, PODS);
    assert_eq!(identities(&after, "agent"), identities(&before, "agent"));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.metadata.generation, before.metadata.generation.map(|it| it + 1), "patched once");
        assert_eq!(["agent", "app"].map(|name| status(after, name).restart_count), [1, 0]);
    }
    let worst = budget.worst();
    assert!((1..=MAX_UNAVAILABLE).contains(&worst), "{worst} pods were updated at once");
}

async fn cluster() -> Option<DevCluster> {
    node::or_skip(DevCluster::builder().nodes(0).real_node().start().await).unwrap()
}

#[tokio::test]
async fn a_rollout_goes_on_over_restarts_of_the_kubelet() {
    let Some(cluster) = cluster().await else { return };
    let operator = Operator::start(cluster.kubeconfig(), "kubelet", &[]).await;
    let world = World::new(cluster.kubeconfig(), "kubelet").await;
    // Not while it starts a container, of which it would make another (`restartCount` + 2).
    let moments = [Moment::Pulling(MAX_UNAVAILABLE), Moment::Replaced(3), Moment::Replaced(5)];
    rolls_out(&world, "slow/sidecar:v2", &moments, async || cluster.restart_kubelet().await.unwrap()).await;
    assert!(operator.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollout_is_finished_by_the_successor_of_an_operator_that_is_killed() {
    let Some(cluster) = cluster().await else { return };
    let start = async || Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    let mut operator = Some(start().await);
    let world = World::new(cluster.kubeconfig(), "operator").await;
    rolls_out(&world, "sidecar:v2", &[Moment::Patched(3)], async || {
        operator.take().unwrap().kill();
        operator = Some(start().await);
    })
    .await;
    assert!(operator.unwrap().terminate());
    cluster.stop().await;
}
