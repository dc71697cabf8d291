//! Sets and pods that are written in the same moment, as `kubectl apply` of one file does.

use std::time::{Duration, Instant};

use devcluster::DevCluster;
use futures::{StreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::common::operator::Operator;
use crate::common::raw::{SETS, kubectl, post};
use crate::common::world::{World, condition, lists};
use crate::common::{client, eventually, shared};

const CONFIGURATION: &str = "sidecarset-pods-provisional-local";

/// A set of this name for pods with that label.
fn set(world: &World, name: &str, failure_policy: &str, label: &str) -> Value {
    let mut set = world.set("agent:v1", json!({}));
    set["metadata"]["name"] = json!(name);
    set["spec"]["selector"] = json!({"matchLabels": {"app": label}});
    set["spec"]["injectionStrategy"] = json!({"failurePolicy": failure_policy});
    // In Jobs, too.
    set["spec"]["containers"][0]["restartPolicy"] = json!("Always");
    set["spec"]["initContainers"] = set["spec"]["containers"].take();
    set["spec"].as_object_mut().unwrap().remove("containers");
    set
}

/// A workload of so many pods with this label.
fn workload(kind: &str, name: &str) -> (Value, usize) {
    let labels = json!({"app": name});
    let spec = json!({"containers": [{"name": "app", "image": "app:v1"}]});
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    let mut object = match kind {
        "Pod" => json!({"apiVersion": "v1", "metadata": {"labels": labels}, "spec": spec}),
        "Job" => json!({"apiVersion": "batch/v1", "spec": {"completions": 2, "parallelism": 2, "template": template}}),
        _ => json!({"apiVersion": "apps/v1",
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}}),
    };
    if kind == "Job" {
        object["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    }
    object["kind"] = json!(kind);
    object["metadata"]["name"] = json!(name);
    (object, if kind == "Pod" { 1 } else { 2 })
}

/// Writes all in one `kubectl apply`; returns what it printed.
async fn apply(world: &World, objects: &[&Value]) -> String {
    apply_with(world, "--server-side=false", objects).await
}

async fn apply_with(world: &World, option: &str, objects: &[&Value]) -> String {
    let input = objects.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let printed = kubectl(shared(), &["apply", option, "--namespace", &world.name, "-f", "-"], &input).await;
    assert!(printed.success, "{printed:?}");
    printed.stderr
}

/// The pods with this label, when there are so many.
async fn pods(world: &World, label: &str, count: usize) -> Vec<Pod> {
    let labels = ListParams::default().labels(&format!("app={label}"));
    eventually("the pods are there", async || {
        let pods = world.api::<Pod>().list(&labels).await.unwrap().items;
        if pods.len() == count { Ok(pods) } else { Err(pods.len()) }
    })
    .await
}

/// The names of those that miss the sidecar.
async fn without_sidecar(world: &World, label: &str, count: usize) -> Vec<String> {
    let pods = pods(world, label, count).await;
    pods.iter().filter(|pod| lists(pod).1 != ["agent"]).map(ResourceExt::name_any).collect()
}

/// The entry for the pods of a set that may not have been stored yet.
async fn provisional(client: &Client, set: &str) -> Option<MutatingWebhook> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = api.get_opt(CONFIGURATION).await.unwrap();
    let mut webhooks = configuration.and_then(|it| it.webhooks).unwrap_or_default().into_iter();
    let path = format!("/provisional/{set}/");
    webhooks.find(|webhook| webhook.client_config.url.as_ref().is_some_and(|url| url.contains(&path)))
}

/// The workload goes, so that fifty of them do not load the cluster.
async fn remove(world: &World, kind: &str, name: &str) {
    let arguments = ["delete", kind, name, "--namespace", &world.name, "--wait=false"];
    kubectl(shared(), &arguments, "").await.ok();
    world.remove_set(name).await;
}

#[tokio::test]
async fn pods_that_are_applied_with_their_set_have_its_sidecars() {
    let world = World::shared("together").await;
    let one = async |i: usize| {
        let name = format!("together-{i}");
        let kind = ["Deployment", "Job", "Pod"][i % 3];
        let set = set(&world, &name, ["Ignore", "Fail"][i / 3 % 2], &name);
        let (workload, count) = workload(kind, &name);
        let option = format!("--server-side={}", i / 6 % 2 == 1);
        let printed = apply_with(&world, &option, &[&set, &workload]).await;
        let missed = without_sidecar(&world, &name, count).await;
        remove(&world, kind, &name).await;
        (!missed.is_empty()).then(|| format!("{kind} {name}: {missed:?} {printed}"))
    };
    // One after the other, and as a tool does that applies several files at a time.
    let serial = stream::iter(0..20).then(one).collect::<Vec<_>>().await;
    let parallel = stream::iter(20..50).map(one).buffer_unordered(5).collect::<Vec<_>>().await;
    let missed: Vec<String> = serial.into_iter().chain(parallel).flatten().collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    world.end().await;
}

#[tokio::test]
async fn pods_that_are_applied_with_a_change_of_whom_the_set_selects_have_its_sidecars() {
    let world = World::shared("together-changed").await;
    let mut missed = Vec::new();
    for i in 0..10 {
        let name = format!("together-changed-{i}");
        let mut before = set(&world, &name, ["Ignore", "Fail"][i % 2], &name);
        let after = before.clone();
        match i / 2 % 3 {
            0 => before["spec"]["selector"] = json!({"matchLabels": {"app": "nobody"}}),
            1 => before["spec"]["injectionStrategy"]["paused"] = json!(true),
            _ => before["spec"]["namespaceSelector"] = json!({"matchLabels": {"team": "nobody"}}),
        }
        apply(&world, &[&before]).await;
        world.until_named(&name, "it is seen", |set| !condition(set, "InjectionReady").is_empty()).await;
        let kind = ["Deployment", "Pod"][i / 2 % 2];
        let (workload, count) = workload(kind, &name);
        let printed = apply(&world, &[&after, &workload]).await;
        let pods = without_sidecar(&world, &name, count).await;
        missed.extend((!pods.is_empty()).then(|| format!("{name}: {pods:?} {printed}")));
        remove(&world, kind, &name).await;
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    world.end().await;
}

#[tokio::test]
async fn an_entry_ends_when_the_registration_stands() {
    let world = World::shared("together-ends").await;
    let started = Instant::now();
    world.apply(&world.set("agent:v1", json!({}))).await;
    eventually("the entry is gone", async || match provisional(&world.client, &world.name).await {
        None => Ok(()),
        left => Err(left),
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(25), "not because it is old: {:?}", started.elapsed());
    world.end().await;
}

#[tokio::test]
async fn what_is_not_written_or_selects_nobody_else_is_not_registered() {
    let world = World::shared("together-none").await;
    let fine = world.set("agent:v1", json!({}));
    post(&world.client, &format!("{SETS}?dryRun=All"), &fine).await.accepted();
    assert_eq!(provisional(&world.client, &world.name).await, None, "a dry run");
    let mut refused = fine.clone();
    refused["spec"]["containers"][0]["terminationMessagePolicy"] = json!("file");
    assert_eq!(post(&world.client, SETS, &refused).await.code, 422);
    assert_eq!(provisional(&world.client, &world.name).await, None, "a set that is refused");
    let mut paused = fine.clone();
    paused["spec"]["injectionStrategy"] = json!({"paused": true});
    post(&world.client, SETS, &paused).await.accepted();
    assert_eq!(provisional(&world.client, &world.name).await, None, "a set that does not inject");
    world.end().await;
}

#[tokio::test]
async fn replicas_that_are_asked_at_once_lose_no_entry_and_have_no_more_than_there_is_room_for() {
    let cluster = DevCluster::builder().without_kwok().start().await.unwrap();
    let replicas = [
        Operator::start(cluster.kubeconfig(), "together-a", &[]).await,
        Operator::start(cluster.kubeconfig(), "together-b", &[]).await,
    ];
    let client = client(cluster.kubeconfig()).await;
    let review = async |i: usize| {
        let (name, webhook) = (format!("set-{i}"), replicas[i % 2].webhook());
        let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": name, "uid": format!("uid-{i}"), "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": name}}, "containers": [{"name": "agent", "image": "agent:v1"}]}});
        let review = json!({"request": {"uid": "u", "operation": "CREATE", "object": set}});
        let answer = post(&webhook, "/validate-sidecarsets", &review).await.accepted();
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        answer["response"]["warnings"].as_array().unwrap().is_empty().then_some(name)
    };
    let accepted: Vec<String> =
        stream::iter(0..100).map(review).buffer_unordered(100).filter_map(async |name| name).collect().await;
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = api.get(CONFIGURATION).await.unwrap().webhooks.unwrap();
    // Their probe is one more.
    assert!(webhooks.len() <= 16, "{}", webhooks.len());
    assert!(accepted.len() > 1, "{accepted:?}");
    for name in accepted {
        assert!(provisional(&client, &name).await.is_some(), "{name}");
    }
    cluster.stop().await;
}

/// Has every set of this name refused after the webhook on sets has been asked.
async fn refuse(world: &World) {
    let webhook = json!({
        "name": "refuse.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "clientConfig": {"url": "https://127.0.0.1:1/", "caBundle": null},
        "matchConditions": [{"name": "name", "expression": format!("object.metadata.name == {:?}", world.name)}],
        "rules": [{"apiGroups": ["sidecarset.dev"], "apiVersions": ["*"], "resources": ["sidecarsets"], "operations": ["CREATE"]}],
    });
    let configuration = json!({"metadata": {"name": world.name}, "webhooks": [webhook]});
    let api: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(configuration).unwrap()).await.unwrap();
    eventually("sets of this name are refused", async || {
        let answer = post(&world.client, &format!("{SETS}?dryRun=All"), &world.set("agent:v1", json!({}))).await;
        if answer.code >= 400 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn a_set_that_is_never_stored_keeps_no_pod_from_being_created() {
    let world = World::shared("together-never").await;
    refuse(&world).await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["injectionStrategy"] = json!({"failurePolicy": "Fail"});
    let announced = Instant::now();
    assert!(post(&world.client, SETS, &set).await.refusal().contains("refuse.example.com"));
    let entry = provisional(&world.client, &world.name).await.unwrap();
    assert_eq!(entry.failure_policy.as_deref(), Some("Ignore"));

    let (pod, _) = workload("Pod", &world.name);
    let started = Instant::now();
    let answer = post(&world.client, &format!("/api/v1/namespaces/{}/pods", world.name), &pod).await;
    let took = started.elapsed();
    let warning = format!("SidecarSet {:?} is not injected as it was announced: it is not stored", world.name);
    assert_eq!((answer.code, answer.warnings), (201, vec![warning]));
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");

    eventually("the entry is gone", async || match provisional(&world.client, &world.name).await {
        None => Ok(()),
        left => Err(left),
    })
    .await;
    let lived = announced.elapsed();
    // 30 s, or 5 s where other tests need the room.
    assert!(lived > Duration::from_secs(4) && lived < Duration::from_mins(1), "{lived:?}");
    let api: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    api.delete(&world.name, &DeleteParams::default()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_paused_set_is_asked_about_when_it_is_made_and_not_when_it_is_changed() {
    let world = World::shared("together-paused").await;
    let mut set = world.set("agent:v1", json!({"paused": true}));
    let mut refused = set.clone();
    refused["spec"]["containers"][0]["terminationMessagePolicy"] = json!("file");
    assert_eq!(post(&world.client, SETS, &refused).await.code, 422);
    let (pod, count) = workload("Pod", &world.name);
    apply(&world, &[&set, &pod]).await;
    assert_eq!(lists(&pods(&world, &world.name, count).await[0]).0, ["agent", "app"]);
    set["spec"]["containers"] = refused["spec"]["containers"].take();
    let params = PatchParams::apply("test").force();
    world.sets().patch(&world.name, &params, &Patch::Apply(&set)).await.unwrap();
    world.end().await;
}
