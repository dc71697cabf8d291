//! What else than images is changed in running pods.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{World, condition, container, container_image, identities, reason};

fn set(world: &World, fields: &Value) -> Value {
    let mut set = world.set("agent:v1", json!({"maxUnavailable": "100%", "minReadySeconds": 0}));
    json_patch::merge(&mut set["spec"], fields);
    set
}

fn with_resources(world: &World, resources: &Value, strategy: &Value) -> Value {
    let agent = json!({"name": "agent", "image": "agent:v1", "resources": resources});
    set(world, &json!({"containers": [agent], "updateStrategy": strategy}))
}

/// Pod UIDs, and IDs of all containers: nothing was restarted if they stay.
async fn everything_that_runs(world: &World) -> std::collections::BTreeMap<String, Vec<String>> {
    identities(&world.pods().await, "")
}

fn cpu(pod: &Pod) -> String {
    let requests = container(pod, "agent").resources.as_ref().and_then(|resources| resources.requests.clone());
    requests.unwrap_or_default()["cpu"].0.clone()
}

/// What the kubelet says that the container has.
fn actual_cpu(pod: &Pod) -> Option<String> {
    let mut statuses = pod.status.as_ref()?.container_statuses.as_ref()?.iter();
    let agent = statuses.find(|status| status.name == "agent")?;
    Some(agent.resources.as_ref()?.requests.as_ref()?.get("cpu")?.0.clone())
}

async fn is_up_to_date(world: &World, pods: i32) {
    world
        .until_set("the rollout ends", |set| {
            condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == pods
        })
        .await;
}

#[tokio::test]
async fn metadata_reaches_running_pods_without_a_restart() {
    let world = World::shared("inplace-metadata").await;
    let patches = |patches: Value| set(&world, &json!({ "patchPodMetadata": patches }));
    world.apply(&patches(json!([{"annotations": {"example.com/a": "1", "example.com/b": "1"}}]))).await;
    world.deploy(3).await;
    is_up_to_date(&world, 3).await;
    let before = everything_that_runs(&world).await;

    world.apply(&patches(json!([{"annotations": {"example.com/a": "2"}, "labels": {"example.com/l": "1"}}]))).await;
    is_up_to_date(&world, 3).await;
    for pod in world.pods().await {
        assert_eq!(pod.annotations().get("example.com/a").map(String::as_str), Some("2"));
        assert_eq!(pod.annotations().get("example.com/b"), None);
        assert_eq!(pod.labels().get("example.com/l").map(String::as_str), Some("1"));
        let mark: Value =
            serde_json::from_str(&pod.annotations()[&format!("injection.sidecarset.dev/{}", world.name)]).unwrap();
        assert_eq!(mark["annotations"], json!(["example.com/a", "kubectl.kubernetes.io/default-container"]));
    }
    assert_eq!(everything_that_runs(&world).await, before);
    world.end().await;
}

#[tokio::test]
async fn resources_reach_running_pods_without_a_restart() {
    let world = World::shared("inplace-resources").await;
    let strategy = json!({"maxUnavailable": 2, "minReadySeconds": 0});
    let resources = |cpu: &str| with_resources(&world, &json!({"requests": {"cpu": cpu}}), &strategy);
    world.apply(&resources("10m")).await;
    world.deploy(5).await;
    is_up_to_date(&world, 5).await;
    let before = everything_that_runs(&world).await;

    world.apply(&resources("20m")).await;
    is_up_to_date(&world, 5).await;
    for pod in world.pods().await {
        assert_eq!((cpu(&pod).as_str(), actual_cpu(&pod).as_deref()), ("20m", Some("20m")));
    }
    assert_eq!(everything_that_runs(&world).await, before);
    world.end().await;
}

#[tokio::test]
async fn an_infeasible_resize_is_reported_and_taken_back() {
    let world = World::shared("inplace-infeasible").await;
    let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 0});
    let resources = |cpu: &str| with_resources(&world, &json!({"requests": {"cpu": cpu}}), &strategy);
    world.apply(&resources("10m")).await;
    world.deploy(3).await;
    is_up_to_date(&world, 3).await;
    for pod in world.pods().await {
        let held = json!({"metadata": {"annotations": {"devcluster.sidecarset.dev/resize": "infeasible"}}});
        world.api::<Pod>().patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    }
    world.apply(&resources("20m")).await;
    let set = world.until_set("it is given up", |set| reason(set, "Stalled") == "FailureBudgetExceeded").await;
    let message = set.status.clone().unwrap().message.unwrap_or_default();
    assert!(message.contains("agent: resize Infeasible: Node didn't have enough capacity"), "{message}");
    let resized = world.pods().await.iter().filter(|pod| cpu(pod) == "20m").count();
    assert_eq!(resized, 1, "no more than maxUnavailable");

    world.apply(&resources("10m")).await;
    is_up_to_date(&world, 3).await;
    eventually("nothing is pending", async || {
        let pods = world.pods().await;
        if pods.iter().all(|pod| cpu(pod) == "10m") { Ok(()) } else { Err(pods) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_deferred_resize_waits_until_there_is_room() {
    let world = World::shared("inplace-deferred").await;
    let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 0});
    let resources = |cpu: &str| with_resources(&world, &json!({"requests": {"cpu": cpu}}), &strategy);
    world.apply(&resources("10m")).await;
    world.deploy(1).await;
    let hold = async |value: Value| {
        let held = json!({"metadata": {"annotations": {"devcluster.sidecarset.dev/resize": value}}});
        let name = world.pods().await[0].name_any();
        world.api::<Pod>().patch(&name, &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    };
    hold(json!("deferred")).await;
    world.apply(&resources("20m")).await;
    let text = "agent: resize Deferred: Node didn't have enough resource";
    let waits = |set: &sidecarset::api::SidecarSet| {
        set.status.as_ref().unwrap().message.clone().unwrap_or_default().contains(text)
    };
    world.until_set("the reason is shown", waits).await;
    hold(Value::Null).await;
    is_up_to_date(&world, 1).await;
    world.end().await;
}

/// It has run its course in running pods; what their spec says of it stays true.
#[tokio::test]
async fn a_plain_init_container_is_for_new_pods_only() {
    let world = World::shared("inplace-init").await;
    let with = |init: &str, agent: &str| {
        let fields = json!({"initContainers": [{"name": "prepare", "image": init}], "containers": [{"name": "agent", "image": agent}]});
        set(&world, &fields)
    };
    world.apply(&with("prepare:v1", "agent:v1")).await;
    world.deploy(2).await;
    is_up_to_date(&world, 2).await;
    let before = world.pods().await;

    world.apply(&with("prepare:v2", "agent:v1")).await;
    is_up_to_date(&world, 2).await;
    let versions = |pods: &[Pod]| pods.iter().map(ResourceExt::resource_version).collect::<Vec<_>>();
    assert_eq!(versions(&world.pods().await), versions(&before), "no pod is written");

    // As an Istio upgrade does it.
    world.apply(&with("prepare:v3", "agent:v2")).await;
    is_up_to_date(&world, 2).await;
    for pod in world.pods().await {
        let images = ["prepare", "agent"].map(|name| container_image(&pod, name));
        assert_eq!(images, ["prepare:v1", "agent:v2"]);
    }
    let new = world.pod("new", json!({"containers": [{"name": "app", "image": "app:v1"}]})).await.unwrap();
    assert_eq!(container_image(&new, "prepare"), "prepare:v3");
    world.end().await;
}
