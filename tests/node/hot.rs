//! Hot upgrades of a program that really hands over, under traffic.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::common::world::{World, container_image};
use crate::place::{NATIVE, ORDINARY, real, set_with, settled, status, world};
use crate::programs::{FRONT, TWIN, running};
use crate::requests::Client;

const IDLE: &str = "idle:v1";

/// The twins and the application share the volume `hand-over`, which the set brings.
async fn apply(world: &World, list: &str, image: &str) {
    let mut mesh = running(TWIN, "mesh", image, 8081);
    mesh["upgradeStrategy"] =
        json!({"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": format!("devcluster.test/{IDLE}")});
    mesh["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/www/ready"]}, "periodSeconds": 1});
    mesh["volumeMounts"] = json!([{"name": "hand-over", "mountPath": "/hand-over"}]);
    let mut set = set_with(world, list, mesh, &json!({"minReadySeconds": 2}));
    set["spec"]["volumes"] = json!([{"name": "hand-over", "emptyDir": {}}]);
    world.apply(&set).await;
}

fn application() -> Value {
    let mut app = running(FRONT, "app", "app:v1", 8080);
    app["volumeMounts"] = json!([{"name": "hand-over", "mountPath": "/hand-over"}]);
    real(json!({"containers": [app]}))
}

fn images(pod: &Pod) -> [String; 2] {
    ["mesh-1", "mesh-2"].map(|twin| container_image(pod, twin).replace("devcluster.test/", ""))
}

fn restarts(pod: &Pod) -> [i32; 3] {
    ["mesh-1", "mesh-2", "app"].map(|name| status(pod, name).restart_count)
}

async fn no_request_fails(name: &str, list: &str) {
    let Some(world) = world(name).await else { return };
    apply(&world, list, "sidecar:v1").await;
    world.pod("web", application()).await.unwrap();
    let pod = settled(&world, "web").await;
    assert_eq!(images(&pod), ["sidecar:v1", IDLE]);
    let client = Client::start(&pod, 8080, "");
    client.asks(20).await;
    apply(&world, list, "sidecar:v2").await;
    let pod = settled(&world, "web").await;
    assert_eq!(images(&pod), [IDLE, "sidecar:v2"]);
    assert_eq!(restarts(&pod), [1, 1, 0], "one restart of each twin, none of the application");
    client.asks(20).await;
    apply(&world, list, "sidecar:v1").await;
    let pod = settled(&world, "web").await;
    assert_eq!(images(&pod), ["sidecar:v1", IDLE], "the next one goes the other way");
    assert_eq!(restarts(&pod), [2, 2, 0]);
    client.asks(20).await;

    let seen = client.without_failure();
    let mut served: Vec<_> = seen.iter().map(|asked| asked.answer.as_ref().unwrap().trim()).collect();
    served.dedup();
    assert_eq!(served, ["sidecar:v1", "sidecar:v2", "sidecar:v1"]);
    println!("{name}: {} requests, none failed", seen.len());
    world.end().await;
}

#[tokio::test]
async fn no_request_fails_while_ordinary_twins_hand_over() {
    no_request_fails("hot-ordinary", ORDINARY).await;
}

#[tokio::test]
async fn no_request_fails_while_native_twins_hand_over() {
    no_request_fails("hot-native", NATIVE).await;
}
