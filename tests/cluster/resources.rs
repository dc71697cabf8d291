//! Resources of sidecars, and what becomes of the pod's `QoS` class.

use k8s_openapi::api::core::v1::{LimitRange, Pod};
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::common::raw::post;
use crate::common::world::World;

fn resources(pod: &Pod, container: &str) -> Value {
    let spec = pod.spec.as_ref().unwrap();
    let container = spec.containers.iter().find(|c| c.name == container).unwrap();
    json!(container.resources)
}

/// The class, and `spec.resources`.
fn outcome(pod: &Pod) -> (String, Value) {
    let class = pod.status.as_ref().unwrap().qos_class.clone().unwrap_or_default();
    (class, json!(pod.spec.as_ref().unwrap().resources))
}

fn app(resources: &Value) -> Value {
    json!({"containers": [{"name": "app", "image": "app:v1", "resources": resources}]})
}

fn both(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

async fn world(name: &str, resources: Value, sidecar: Value) -> World {
    let world = World::shared(name).await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["resources"] = resources;
    json_patch::merge(&mut set["spec"]["containers"][0], &sidecar);
    world.apply(&set).await;
    world
}

#[tokio::test]
async fn a_policy_computes_from_the_applications_containers() {
    let expressions = json!({
        "limits": {"cpu": "max(cpu * 50%, 50m)", "memory": "memory / 4"}, "requests": {"cpu": "cpu * 10%", "memory": "1Mi"},
    });
    let policy =
        json!({"targetContainersMode": "sum", "targetContainersNameRegex": "^app$", "resourcesExpr": expressions});
    let world = world("resources-policy", json!(null), json!({"resourcesPolicy": policy})).await;
    let limits = both("1", "1Gi");
    let pod = world.pod("limited", app(&json!({"limits": limits}))).await.unwrap();
    assert_eq!(resources(&pod, "agent"), json!({"limits": both("500m", "256Mi"), "requests": both("100m", "1Mi")}));
    let pod = world.pod("unlimited", app(&json!({"requests": {"cpu": "1"}}))).await.unwrap();
    assert_eq!(resources(&pod, "agent"), json!({"requests": both("100m", "1Mi")}));
    let stranger = json!({"containers": [{"name": "other", "image": "other:v1"}]});
    let pod = world.pod("no-target", stranger).await.unwrap();
    assert_eq!(resources(&pod, "agent"), json!({}), "an Ignore set injects without resources");
    world.end().await;
}

#[tokio::test]
async fn sharing_keeps_the_class_and_costs_nothing() {
    let world = world("resources-shared", json!({"mode": "SharedWithPod"}), json!({})).await;
    let one = both("1", "1Gi");
    let zeros = both("0", "0");
    for (name, own, class, level, limits) in [
        ("guaranteed", json!({"limits": one}), "Guaranteed", json!({"limits": one, "requests": one}), one.clone()),
        (
            "burstable",
            json!({"requests": {"cpu": "100m"}}),
            "Burstable",
            json!({"requests": both("100m", "0")}),
            json!(null),
        ),
        ("besteffort", json!({}), "BestEffort", json!({"requests": zeros}), json!(null)),
    ] {
        let pod = world.pod(name, app(&own)).await.unwrap();
        assert_eq!(outcome(&pod), (class.to_owned(), level), "{name}");
        let sidecar = resources(&pod, "agent");
        assert_eq!((&sidecar["limits"], &sidecar["requests"]), (&limits, &zeros), "{name}");
    }
    let mut own = app(&json!({"requests": {"cpu": "1"}}));
    own["resources"] = json!({"limits": both("2", "2Gi"), "requests": both("2", "2Gi")});
    let pod = world.pod("own", own.clone()).await.unwrap();
    assert_eq!(outcome(&pod), ("Guaranteed".to_owned(), own["resources"].clone()), "the pod's own value is kept");
    world.end().await;
}

#[tokio::test]
async fn sharing_stands_beside_a_limit_range() {
    let world = world("resources-range", json!({"mode": "SharedWithPod"}), json!({})).await;
    let range: LimitRange = serde_json::from_value(json!({"metadata": {"name": "range"}, "spec": {"limits": [
        {"type": "Container", "max": both("2", "2Gi"), "defaultRequest": both("50m", "64Mi")},
    ]}}))
    .unwrap();
    world.api().create(&PostParams::default(), &range).await.unwrap();
    let limits = both("1", "1Gi");
    let pod = world.pod("app", app(&json!({"limits": limits}))).await.unwrap();
    assert_eq!(outcome(&pod).0, "Guaranteed");
    assert_eq!(resources(&pod, "agent"), json!({"limits": limits, "requests": both("0", "0")}));
    world.end().await;
}

#[tokio::test]
async fn a_guaranteed_pod_is_kept_or_left_out_with_the_reason() {
    let world = world("resources-qos", json!({"preserveQoS": true}), json!({})).await;
    let pod = json!({
        "metadata": {"name": "guaranteed", "labels": {"app": world.name}}, "spec": app(&json!({"limits": both("1", "1Gi")})),
    });
    let answer = post(&world.client, &format!("/api/v1/namespaces/{}/pods", world.name), &pod).await;
    assert!(answer.warnings.iter().any(|w| w.contains(r#"container "agent" has no limits.cpu"#)), "{answer:?}");
    let created = answer.accepted();
    assert_eq!(created["status"]["qosClass"], "Guaranteed");
    assert_eq!(created["spec"]["containers"].as_array().unwrap().len(), 1);
    let burstable = world.pod("burstable", app(&json!({"requests": {"cpu": "1"}}))).await.unwrap();
    assert_eq!(burstable.spec.unwrap().containers.len(), 2);
    world.end().await;
}

/// What validation says, through the webhook.
#[tokio::test]
async fn an_expression_is_refused_at_its_place() {
    let world = World::shared("resources-refused").await;
    for (text, says) in [
        ("cpu*cpu", "spec.containers[0].resourcesPolicy.resourcesExpr.limits.cpu: at byte 3: "),
        ("10foo", "\"foo\" is no unit"),
        ("cpu / (1 - 1)", "divides by 0"),
    ] {
        let mut set = world.set("agent:v1", json!({}));
        set["spec"]["containers"][0]["resourcesPolicy"] =
            json!({"targetContainersMode": "sum", "resourcesExpr": {"limits": {"cpu": text}}});
        let path = "/apis/sidecarset.dev/v1beta1/sidecarsets?dryRun=All";
        let answer = post(&world.client, path, &set).await;
        assert!(answer.refusal().contains(says), "{text}: {answer:?}");
    }
    world.end().await;
}
