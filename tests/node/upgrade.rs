//! Upgrades in place that succeed: what is restarted, and what is not.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{container_image, identities, reason};
use crate::place::{NATIVE, ORDINARY, agent, fleet, started_at, status, until_done, untouched};

fn strategy() -> Value {
    json!({"maxUnavailable": 1, "minReadySeconds": 1})
}

/// Container ID and restart count of the sidecar.
fn agents(pods: &[Pod]) -> Vec<(Option<String>, i32)> {
    let one = |status: k8s_openapi::api::core::v1::ContainerStatus| (status.container_id, status.restart_count);
    pods.iter().map(|pod| one(status(pod, "agent"))).collect()
}

async fn only_the_sidecar_is_replaced(name: &str, list: &str) {
    let Some(world) = fleet(name, list, 3, &strategy()).await else { return };
    let before = world.pods().await;
    world.apply(&agent(&world, list, "sidecar:v2", &strategy())).await;
    until_done(&world, 3).await;
    let after = world.pods().await;
    assert_eq!(untouched(&after), untouched(&before));
    for (before, after) in before.iter().zip(&after) {
        let [old, new] = [before, after].map(|pod| status(pod, "agent"));
        assert_ne!(new.container_id, old.container_id);
        assert_eq!((new.restart_count, new.ready), (1, true));
        assert!(started_at(after, "agent") > started_at(before, "agent"));
        assert_eq!(container_image(after, "agent"), "devcluster.test/sidecar:v2");
    }
    world.end().await;
}

#[tokio::test]
async fn a_new_image_restarts_the_ordinary_sidecar_and_nothing_else() {
    only_the_sidecar_is_replaced("upgrade-ordinary", ORDINARY).await;
}

#[tokio::test]
async fn a_new_image_restarts_the_native_sidecar_and_nothing_else() {
    only_the_sidecar_is_replaced("upgrade-native", NATIVE).await;
}

#[tokio::test]
async fn a_paused_rollout_goes_on_where_it_was() {
    let Some(world) = fleet("pause", ORDINARY, 4, &strategy()).await else { return };
    let before = world.pods().await;
    // With a slow image there is time to pause before the next pod's turn.
    let slow = |paused: bool| {
        let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 1, "paused": paused});
        agent(&world, ORDINARY, "sidecar:slowstart", &strategy)
    };
    world.apply(&slow(false)).await;
    eventually("the first pod is patched", async || {
        match world.with_image("devcluster.test/sidecar:slowstart").await {
            0 => Err(0),
            some => Ok(some),
        }
    })
    .await;
    world.apply(&slow(true)).await;
    world
        .until_set("it is paused, and what was begun is finished", |set| {
            reason(set, "Ready") == "Paused" && set.status.as_ref().unwrap().updated_ready_pods == 1
        })
        .await;
    assert_eq!(world.with_image("devcluster.test/sidecar:slowstart").await, 1);
    world.apply(&slow(false)).await;
    until_done(&world, 4).await;
    let after = world.pods().await;
    assert_eq!(untouched(&after), untouched(&before));
    assert!(agents(&after).iter().all(|(_, restarts)| *restarts == 1), "{:?}", agents(&after));
    world.end().await;
}

#[tokio::test]
async fn another_tag_of_the_same_digest_is_rolled_out() {
    let Some(world) = fleet("retag", ORDINARY, 2, &strategy()).await else { return };
    let before = world.pods().await;
    world.apply(&agent(&world, ORDINARY, "sidecar:same", &strategy())).await;
    until_done(&world, 2).await;
    let after = world.pods().await;
    assert_eq!(untouched(&after), untouched(&before));
    for (before, after) in before.iter().zip(&after) {
        let [old, new] = [before, after].map(|pod| status(pod, "agent"));
        assert_eq!(new.image_id, old.image_id, "else this shows nothing");
        assert_ne!(new.container_id, old.container_id);
    }
    world.end().await;
}

#[tokio::test]
async fn three_changes_in_a_burst_end_with_the_last_image_on_every_pod() {
    let Some(world) = fleet("burst", ORDINARY, 4, &json!({"maxUnavailable": "100%", "minReadySeconds": 1})).await
    else {
        return;
    };
    let before = world.pods().await;
    for image in ["sidecar:v2", "sidecar:slowstart", "sidecar:same"] {
        let strategy = json!({"maxUnavailable": "100%", "minReadySeconds": 1});
        world.apply_without_waiting(&agent(&world, ORDINARY, image, &strategy)).await;
    }
    until_done(&world, 4).await;
    let after = world.pods().await;
    assert_eq!(untouched(&after), untouched(&before));
    for pod in &after {
        assert_eq!(container_image(pod, "agent"), "devcluster.test/sidecar:same");
        // The image's program says what it was started as.
        let status = status(pod, "agent");
        assert!(status.ready && (1..=3).contains(&status.restart_count), "{status:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn resources_change_while_the_containers_run_on() {
    let sized = |world: &_, cpu: &str| {
        let mut set = agent(world, ORDINARY, "sidecar:v1", &strategy());
        let both = json!({"cpu": cpu, "memory": "32Mi"});
        set["spec"][ORDINARY][0]["resources"] = json!({"requests": both, "limits": both});
        set
    };
    let Some(world) = crate::place::world("resize").await else { return };
    world.apply(&sized(&world, "50m")).await;
    world.deploy_pods(2, crate::place::application()).await;
    until_done(&world, 2).await;
    let before = identities(&world.pods().await, "");
    world.apply(&sized(&world, "100m")).await;
    until_done(&world, 2).await;
    let after = world.pods().await;
    for pod in &after {
        // What the cgroup has, as the runtime reports it.
        let limits = status(pod, "agent").resources.unwrap().limits.unwrap();
        assert_eq!(limits["cpu"].0, "100m");
    }
    assert_eq!(identities(&after, ""), before);
    world.end().await;
}
