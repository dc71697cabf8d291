//! Which pods are upgraded first, and how many of one workload.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::common::budget::BudgetWatcher;
use crate::common::world::{World, condition, container_image};

#[tokio::test]
async fn at_most_one_pod_of_each_deployment_is_unavailable() {
    let world = World::shared("order-workloads").await;
    let strategy = json!({"maxUnavailable": "100%", "maxUnavailablePerWorkload": 1, "minReadySeconds": 0});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    for name in ["web", "api"] {
        deployment(&world, name, 4).await;
    }
    world.until_set("all pods are available", |set| set.status.as_ref().unwrap().updated_ready_pods == 8).await;
    let [web, api, all] = ["part=web", "part=api", ""].map(|labels| BudgetWatcher::of(world.api(), labels));

    world.apply(&world.set("agent:v2", strategy)).await;
    world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 8).await;
    assert_eq!(world.with_image("agent:v2").await, 8);
    assert_eq!((web.worst(), api.worst(), all.worst()), (1, 1, 2), "one of each, and both at once");
    world.end().await;
}

#[tokio::test]
async fn pods_are_upgraded_in_the_order_of_a_label() {
    let world = World::shared("order-label").await;
    let strategy = json!({
        "maxUnavailable": 1, "minReadySeconds": 0,
        "priorityStrategy": {"orderPriority": [{"orderedKey": "rank"}]},
    });
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    for (name, rank) in [("a", Some("db-1")), ("b", Some("db-30")), ("c", None), ("d", Some("db-4"))] {
        let mut pod = pod(&world, name);
        if let Some(rank) = rank {
            pod["metadata"]["labels"]["rank"] = json!(rank);
        }
        world.create(pod).await.unwrap();
    }
    world.until_set("all pods are available", |set| set.status.as_ref().unwrap().updated_ready_pods == 4).await;
    world.apply(&world.set("agent:v2", strategy)).await;
    world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 4).await;

    let pods = world.pods().await;
    let mut patched: Vec<(String, String)> = pods.iter().map(|pod| (patched_at(pod), pod.name_any())).collect();
    patched.sort();
    let names: Vec<String> = patched.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["b", "d", "a", "c"]);
    world.end().await;
}

#[tokio::test]
async fn a_workload_without_room_is_named_in_the_status() {
    let world = World::shared("order-blocked").await;
    let strategy = json!({"maxUnavailable": "100%", "maxUnavailablePerWorkload": 1, "minReadySeconds": 0});
    let group: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "group"}})).unwrap();
    let group = world.api().create(&PostParams::default(), &group).await.unwrap();
    let owner = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "group", "uid": group.uid().unwrap(), "controller": true,
    }]);
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    for name in ["ready", "gated"] {
        let mut pod = pod(&world, name);
        pod["metadata"]["ownerReferences"] = owner.clone();
        if name == "gated" {
            pod["spec"]["schedulingGates"] = json!([{"name": "example.com/never"}]);
        }
        world.create(pod).await.unwrap();
    }
    world.create(pod(&world, "alone")).await.unwrap();
    world.until_set("the pods are ready", |set| set.status.as_ref().unwrap().ready_pods == 2).await;

    world.apply(&world.set("agent:v2", strategy)).await;
    let set = world
        .until_set("the rest is updated", |set| {
            let status = set.status.as_ref().unwrap();
            (status.updated_pods, status.updated_ready_pods) == (2, 1)
        })
        .await;
    assert_eq!(condition(&set, "Reconciling"), "True");
    let message = set.status.unwrap().message.unwrap();
    let expected = "maxUnavailablePerWorkload leaves no room in ConfigMap order-blocked/group (1 of 1 unavailable)";
    assert!(message.contains(expected), "{message}");
    let left = world.pods().await.into_iter().find(|pod| pod.name_any() == "ready").unwrap();
    assert_eq!(container_image(&left, "agent"), "agent:v1");
    world.end().await;
}

async fn deployment(world: &World, name: &str, replicas: usize) {
    let labels = json!({"app": world.name, "part": name});
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "app:v1"}]}}},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &deployment).await.unwrap();
}

fn pod(world: &World, name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": world.name}},
        "spec": {"containers": [{"name": "app", "image": "app:v1"}]},
    })
}

/// When the operator last patched the pod, as it wrote it there.
fn patched_at(pod: &Pod) -> String {
    let update = pod.annotations().iter().find(|(key, _)| key.starts_with("update.sidecarset.dev/"));
    let update: Value = serde_json::from_str(update.unwrap().1).unwrap();
    update["at"].as_str().unwrap().to_owned()
}
