//! A proxy that forwards traffic: for how long an upgrade in place interrupts it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::world::{World, container_image};
use crate::place::{NATIVE, ORDINARY, application, set_with, settled, status, world};
use crate::programs::{PROXY, running};
use crate::requests::{Client, Interruption};

/// How long the registry takes for an image below `slow/`. No other test pulls those of these tests.
const PULL: Duration = Duration::from_secs(5);

fn strategy() -> Value {
    json!({"maxUnavailable": 1, "minReadySeconds": 1, "podUpdateTimeoutSeconds": 60})
}

async fn apply(world: &World, list: &str, image: &str, strategy: &Value) {
    world.apply(&set_with(world, list, running(PROXY, "proxy", image, 8081), strategy)).await;
}

/// Upgrades the proxy of one pod to this image under traffic, and returns for how long requests through it failed. Nothing
/// fails before and after that, nor does the application itself.
async fn interruption(world: &World, list: &str, image: &str, strategy: Value) -> Duration {
    apply(world, list, "sidecar:v1", &strategy).await;
    world.pod("web", application()).await.unwrap();
    let pod = settled(world, "web").await;
    let (through, direct) = (Client::start(&pod, 8081, "ready"), Client::start(&pod, 8080, "ready"));
    through.asks(20).await;
    let begin = Instant::now();
    apply(world, list, image, &strategy).await;
    let after = settled(world, "web").await;
    let end = Instant::now();
    through.asks(20).await;

    assert_eq!(container_image(&after, "proxy"), format!("devcluster.test/{image}"));
    assert_eq!(status(&after, "proxy").restart_count, 1);
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
    recovers("traffic-ordinary", ORDINARY).await;
}

#[tokio::test]
async fn an_upgrade_of_a_native_proxy_interrupts_its_traffic_only_between_two_containers() {
    recovers("traffic-native", NATIVE).await;
}

#[tokio::test]
async fn a_pull_is_part_of_the_interruption() {
    let Some(world) = world("traffic-pull").await else { return };
    let time = interruption(&world, ORDINARY, "slow/sidecar:slowstart", strategy()).await;
    assert!(time > PULL, "{time:?}");
    world.end().await;
}

#[tokio::test]
async fn a_pull_before_the_upgrade_is_not() {
    let Some(world) = world("traffic-prepull").await else { return };
    let mut strategy = strategy();
    strategy["prePull"] = json!(true);
    let time = interruption(&world, ORDINARY, "slow/sidecar:same", strategy).await;
    assert!(time < PULL, "{time:?}");
    world.end().await;
}
