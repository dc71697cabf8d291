//! Upgrades in place that succeed: what is restarted, and what is not.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use crate::common::world::{World, condition, container_image};
use crate::place::{application, container, started_at, status, world};

const V1: &str = "devcluster.test/sidecar:v1";
const V2: &str = "devcluster.test/sidecar:v2";

fn strategy() -> Value {
    json!({"maxUnavailable": 1, "minReadySeconds": 1, "podUpdateTimeoutSeconds": 30})
}

/// A set with the sidecar `agent` in one of the two lists.
fn set(world: &World, list: &str, image: &str, strategy: Value) -> Value {
    let mut set = world.set("", strategy);
    let mut agent = container("agent", image.trim_start_matches("devcluster.test/"), 8081);
    if list == "initContainers" {
        agent["restartPolicy"] = json!("Always");
    }
    set["spec"]["containers"] = json!([]);
    set["spec"][list] = json!([agent]);
    set
}

fn is_done(set: &SidecarSet, pods: i32) -> bool {
    condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == pods
}

/// Everything of the pod but the sidecar `agent` that an upgrade must leave alone.
fn untouched(pod: &Pod) -> Value {
    let app = status(pod, "app");
    let status = pod.status.as_ref().unwrap();
    json!([pod.metadata.uid, status.pod_ip, status.start_time, app.container_id, app.restart_count, app.state])
}

async fn only_the_sidecar_is_replaced(name: &str, list: &str) {
    let Some(world) = world(name).await else { return };
    world.apply(&set(&world, list, V1, strategy())).await;
    world.deploy_pods(3, application()).await;
    world.until_set("all pods are available", |set| is_done(set, 3)).await;
    let before = world.pods().await;
    world.apply(&set(&world, list, V2, strategy())).await;
    world.until_set("the rollout ends", |set| is_done(set, 3)).await;
    for (before, after) in before.iter().zip(world.pods().await) {
        assert_eq!(untouched(&after), untouched(before));
        let [old, new] = [before, &after].map(|pod| status(pod, "agent"));
        assert_ne!(new.container_id, old.container_id);
        assert_eq!((new.restart_count, new.ready), (1, true));
        assert!(started_at(&after, "agent") > started_at(before, "agent"));
        assert_eq!(container_image(&after, "agent"), V2);
    }
    world.end().await;
}

#[tokio::test]
async fn a_new_image_restarts_the_ordinary_sidecar_and_nothing_else() {
    only_the_sidecar_is_replaced("upgrade-ordinary", "containers").await;
}

#[tokio::test]
async fn a_new_image_restarts_the_native_sidecar_and_nothing_else() {
    only_the_sidecar_is_replaced("upgrade-native", "initContainers").await;
}
