//! A proxy that forwards traffic: for how long an upgrade in place interrupts it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{World, condition, container_image, is_ready};
use crate::place::{application, status, world};
use crate::programs::{PROXY, running, set_with};
use crate::requests::{Client, Interruption};

/// How long the registry takes for an image below `slow/`.
const PULL: Duration = Duration::from_secs(5);

fn strategy() -> Value {
    json!({"maxUnavailable": 1, "minReadySeconds": 1, "podUpdateTimeoutSeconds": 60})
}

async fn apply(world: &World, list: &str, image: &str, strategy: &Value) {
    world.apply(&set_with(world, list, running(PROXY, "proxy", image, 8081), strategy.clone())).await;
}

/// Upgrades the proxy of one pod to this image under traffic, and returns for how long requests through it failed. Nothing
/// fails before and after that, nor does the application itself.
async fn interruption(world: &World, list: &str, image: &str, strategy: Value) -> Duration {
    apply(world, list, "sidecar:v1", &strategy).await;
    world.pod("web", application()).await.unwrap();
    let pod = eventually("the pod is ready", async || {
        let pod = world.pods().await.remove(0);
        if is_ready(&pod) { Ok(pod) } else { Err(pod.status) }
    })
    .await;
    let (through, direct) = (Client::start(&pod, 8081, "ready"), Client::start(&pod, 8080, "ready"));
    through.asks(20).await;
    let begin = Instant::now();
    apply(world, list, image, &strategy).await;
    let done = async || {
        let pod = world.api().get("web").await.unwrap();
        let proxy = status(&pod, "proxy");
        if proxy.restart_count == 1 && is_ready(&pod) { Ok(pod) } else { Err(proxy) }
    };
    let after = eventually("the proxy is replaced", done).await;
    world.until_set("the rollout ends", |set| condition(set, "Ready") == "True").await;
    let end = Instant::now();
    through.asks(20).await;

    assert_eq!(container_image(&after, "proxy"), format!("devcluster.test/{image}"));
    assert_eq!(status(&after, "app"), status(&pod, "app"));
    direct.without_failure();
    let seen = through.seen();
    let gap = Interruption::of(&seen).expect("the old proxy ends before the new one begins");
    assert!(begin < gap.begin && gap.end < end, "requests failed before or after the upgrade");
    let time = gap.end - gap.begin;
    println!("{}: {time:.2?} without the proxy, {} of {} requests failed", world.name, gap.failed, seen.len());
    time
}

async fn recovers(name: &str, list: &str) {
    let Some(world) = world(name).await else { return };
    let time = interruption(&world, list, "sidecar:v2", strategy()).await;
    assert!(time < Duration::from_secs(20), "{time:?}");
    world.end().await;
}

#[tokio::test]
async fn an_upgrade_of_an_ordinary_proxy_interrupts_its_traffic_only_between_two_containers() {
    recovers("traffic-ordinary", "containers").await;
}

#[tokio::test]
async fn an_upgrade_of_a_native_proxy_interrupts_its_traffic_only_between_two_containers() {
    recovers("traffic-native", "initContainers").await;
}

#[tokio::test]
async fn a_pull_is_part_of_the_interruption() {
    let Some(world) = world("traffic-pull").await else { return };
    let time = interruption(&world, "containers", "slow/sidecar:v1", strategy()).await;
    assert!(time > PULL, "{time:?}");
    world.end().await;
}

#[tokio::test]
async fn a_pull_before_the_upgrade_is_not() {
    let Some(world) = world("traffic-prepull").await else { return };
    let mut strategy = strategy();
    strategy["prePull"] = json!(true);
    let time = interruption(&world, "containers", "slow/sidecar:v2", strategy).await;
    assert!(time < PULL, "{time:?}");
    world.end().await;
}
