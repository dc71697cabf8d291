//! What every eviction keeps to, whether it upgrades a pod or injects one: budgets, pauses, and whose pods are spared.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{World, condition, is_ready, reason};
use crate::uninjected::{app, create, message, uids};

/// A disruption budget `strict` that allows no eviction of the world's pods, in force.
pub async fn strict_disruption_budget(world: &World, pods: i32) -> Api<PodDisruptionBudget> {
    let spec = json!({"maxUnavailable": 0, "selector": {"matchLabels": {"app": world.name}}});
    create::<PodDisruptionBudget>(world, json!({"metadata": {"name": "strict"}, "spec": spec})).await;
    let budgets: Api<PodDisruptionBudget> = world.api();
    eventually("the budget is in force", async || {
        let status = budgets.get("strict").await.unwrap().status.unwrap_or_default();
        if status.expected_pods == Some(pods) { Ok(()) } else { Err(status) }
    })
    .await;
    budgets
}

/// The world's set; a new `value` of its variable is a change that needs new pods.
fn with_env(world: &World, value: &str, mut strategy: Value) -> Value {
    strategy["minReadySeconds"] = json!(0);
    let mut set = world.set("agent:v1", strategy);
    set["spec"]["containers"][0]["env"] = json!([{"name": "MODE", "value": value}]);
    set
}

/// Deployments of one pod each, with pods that the set selects; waits until all are ready.
async fn deploy_singles(world: &World, deployments: usize) {
    for i in 0..deployments {
        let labels = json!({"app": world.name, "single": i.to_string()});
        let spec = json!({"replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": app()}});
        create::<Deployment>(world, json!({"metadata": {"name": format!("single-{i}")}, "spec": spec})).await;
    }
    until_ready(world, deployments).await;
}

async fn until_ready(world: &World, count: usize) -> Vec<Pod> {
    eventually(&format!("{count} pods are ready"), async || {
        let pods = world.pods().await;
        if pods.len() == count && pods.iter().all(is_ready) { Ok(pods) } else { Err(uids(&pods)) }
    })
    .await
}

#[tokio::test]
async fn an_owner_that_cannot_make_pods_keeps_the_slot_and_then_fails_the_rollout() {
    let world = World::shared("evictions-quota").await;
    let strategy = || json!({"whenNotInPlace": "Evict", "maxUnavailable": 1, "podUpdateTimeoutSeconds": 5});
    world.apply(&with_env(&world, "old", strategy())).await;
    deploy_singles(&world, 4).await;
    let before = uids(&world.pods().await);
    let full = json!({"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}});
    create::<ResourceQuota>(&world, full).await;
    let quotas: Api<ResourceQuota> = world.api();
    eventually("the quota is in force", async || {
        let status = quotas.get("full").await.unwrap().status.unwrap_or_default();
        if status.hard.is_some() { Ok(()) } else { Err(status) }
    })
    .await;

    world.apply(&with_env(&world, "new", strategy())).await;
    let stopped = world.until_set("the rollout fails", |set| condition(set, "Stalled") == "True").await;
    assert_eq!(reason(&stopped, "Stalled"), "FailureBudgetExceeded", "{}", message(&stopped));
    let left = uids(&world.pods().await);
    assert_eq!(before.intersection(&left).count(), 3, "one pod was evicted: {}", message(&stopped));
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_ends_by_itself_is_never_evicted() {
    let world = World::shared("evictions-task").await;
    let strategy = || json!({"whenNotInPlace": "Evict"});
    world.apply(&with_env(&world, "old", strategy())).await;
    let owner = json!({"apiVersion": "batch.example.com/v1", "kind": "TaskRun", "name": "nightly",
        "uid": "6f1f4b0e-0000-4000-8000-000000000001", "controller": true});
    let mut spec = app();
    spec["restartPolicy"] = json!("Never");
    let labels = json!({"app": world.name});
    let task = json!({"metadata": {"name": "task", "labels": labels, "ownerReferences": [owner]}, "spec": spec});
    world.create(task).await.unwrap();
    let before = uids(&until_ready(&world, 1).await);

    world.apply(&with_env(&world, "new", strategy())).await;
    let never = "never evicted: pods that are not restarted (1)";
    world.until_set(never, |set| message(set).contains(never)).await;
    let mut evicting = with_env(&world, "new", strategy());
    evicting["spec"]["injectionStrategy"] = json!({"existingPods": "Evict"});
    world.apply(&evicting).await;
    world.until_set(never, |set| message(set).contains(never)).await;
    assert_eq!(uids(&world.pods().await), before);
    world.end().await;
}

#[tokio::test]
async fn a_pod_on_its_way_out_takes_its_workloads_room() {
    let world = World::shared("evictions-workload").await;
    let labels = json!({"app": world.name});
    let spec = json!({"replicas": 1, "serviceName": "db", "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": app()}});
    create::<StatefulSet>(&world, json!({"metadata": {"name": "db"}, "spec": spec})).await;
    until_ready(&world, 1).await;
    let set = |image: &str, existing: &str| {
        let strategy = json!({"maxUnavailable": "100%", "maxUnavailablePerWorkload": 1, "minReadySeconds": 0});
        let mut set = world.set(image, strategy);
        set["spec"]["injectionStrategy"] = json!({"existingPods": existing});
        set
    };
    world.apply(&set("agent:v1", "Report")).await;
    let merge = async |body: Value| {
        let pods: Api<Pod> = world.api();
        pods.patch("db-0", &PatchParams::default(), &Patch::Merge(&body)).await.unwrap();
    };
    // In place of a long grace period.
    merge(json!({"metadata": {"finalizers": ["example.com/drain"]}})).await;
    let three = json!({"spec": {"replicas": 3}});
    let owners: Api<StatefulSet> = world.api();
    owners.patch("db", &PatchParams::default(), &Patch::Merge(&three)).await.unwrap();
    until_ready(&world, 3).await;
    world.apply(&set("agent:v1", "Evict")).await;
    world.until_pod("db-0", "it is on its way out", |pod| pod.metadata.deletion_timestamp.is_some()).await;

    world.apply(&set("agent:v2", "Evict")).await;
    let waits = |text: &str| text.contains("db-0 (it is terminating)") && text.contains("maxUnavailablePerWorkload");
    world.until_set("it is waited for", |set| waits(&message(set))).await;
    assert_eq!(world.with_image("agent:v2").await, 0, "one of three is down already");
    merge(json!({"metadata": {"finalizers": null}})).await;
    eventually("all pods are updated", async || match world.with_image("agent:v2").await {
        3 => Ok(()),
        less => Err(less),
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_pause_stops_evictions_that_have_begun() {
    let world = World::shared("evictions-pause").await;
    deploy_singles(&world, 9).await;
    let _slow = slow_evictions(&world).await;
    let before = uids(&world.pods().await);
    let set = |paused: bool| {
        let mut set = world.set("agent:v1", json!({"maxUnavailable": "100%", "paused": paused}));
        set["spec"]["injectionStrategy"] = json!({"existingPods": "Evict"});
        set
    };
    let left = async || before.intersection(&uids(&world.pods().await)).count();
    world.apply(&set(false)).await;
    eventually("two pods are evicted", async || match left().await {
        ..=7 => Ok(()),
        more => Err(more),
    })
    .await;
    world.apply_without_waiting(&set(true)).await;
    let paused = world.until_set("the set says so", |set| condition(set, "Paused") == "True").await;
    let at_pause = left().await;
    assert!(at_pause > 1, "too late to see anything: {at_pause} of 9 pods are left");
    // Each eviction takes a second; the one on its way may still come.
    for _ in 0..20 {
        let left = left().await;
        assert!(left + 1 >= at_pause, "{at_pause} pods were left at the pause, now {left}: {}", message(&paused));
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    world.apply_without_waiting(&set(false)).await;
    world.until_set("it goes on, and says so", |set| !message(set).contains("paused is true")).await;
    assert!(left().await > 0, "it said so when the last was evicted");
    world.end().await;
}

/// Makes each eviction in the namespace take a second: a webhook that listens and never answers, as long as the listener lives.
async fn slow_evictions(world: &World) -> tokio::net::TcpListener {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("slow-{}", world.name);
    let webhook: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": name},
        "webhooks": [{
            "name": "slow.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore", "timeoutSeconds": 1,
            "clientConfig": {"url": format!("https://{}/slow", listener.local_addr().unwrap())},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods/eviction"]}],
        }],
    }))
    .unwrap();
    let api: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    api.create(&PostParams::default(), &webhook).await.unwrap();
    listener
}
