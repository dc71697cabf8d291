//! What becomes of a pod that is created.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Path as Segment;
use axum::routing::post as on_post;
use axum::{Json, Router};
use devcluster::DevCluster;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::raw::{kubectl, post};
use crate::common::webhook::serve;
use crate::common::world::{World, condition, container, lists};

fn app() -> Value {
    json!({"containers": [{"name": "app", "image": "app:v1"}]})
}

fn env(container: &Container) -> BTreeMap<&str, &str> {
    let all = container.env.iter().flatten();
    all.map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default())).collect()
}

fn pods_path(namespace: &str, query: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods{query}")
}

/// A pod that the world's set selects, as JSON.
fn selected(world: &World, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": world.name}}, "spec": spec})
}

fn is_untouched(pod: &Pod) -> bool {
    let keys = pod.labels().keys().chain(pod.annotations().keys());
    pod.spec.as_ref().unwrap().containers.len() == 1 && keys.into_iter().all(|key| !key.contains("sidecarset.dev/"))
}

#[tokio::test]
async fn everything_that_a_set_holds_arrives_where_it_belongs() {
    let world = World::shared("inject-all").await;
    let mut set = world.set("agent:v1", json!({}));
    let spec = &mut set["spec"];
    spec["containers"] = json!([
        {"name": "first", "image": "first:v1", "volumeMounts": [{"name": "logs", "mountPath": "/logs"}]},
        {"name": "last", "image": "last:v1", "podInjectPolicy": "AfterAppContainer", "env": [{"name": "A", "value": "b"}]},
    ]);
    spec["initContainers"] = json!([
        {"name": "plain", "image": "plain:v1"},
        {"name": "native", "image": "native:v1", "restartPolicy": "Always", "podInjectPolicy": "BeforeAppContainer"},
    ]);
    spec["volumes"] = json!([{"name": "logs", "emptyDir": {}}, {"name": "unused", "emptyDir": {}}]);
    spec["imagePullSecrets"] = json!([{"name": "registry"}, {"name": "own"}]);
    spec["patchPodMetadata"] = json!([{"annotations": {"example.com/agent": "yes"}}]);
    world.apply(&set).await;
    let set = world.until_set("it has a revision", |set| set.status.as_ref().unwrap().update_revision.is_some()).await;
    let revision = set.status.unwrap().update_revision.unwrap();

    let spec = json!({
        "containers": [{"name": "app", "image": "app:v1"}], "initContainers": [{"name": "migrate", "image": "migrate:v1"}],
        "imagePullSecrets": [{"name": "own"}],
    });
    let pod = world.pod("app", spec).await.unwrap();
    assert_eq!(lists(&pod), (vec!["first", "app", "last"], vec!["native", "migrate", "plain"]));
    for name in ["first", "last", "native", "plain"] {
        assert_eq!(env(container(&pod, name))["IS_INJECTED"], "true", "{name}");
    }
    assert_eq!(env(container(&pod, "last"))["A"], "b");
    assert!(container(&pod, "app").env.is_none(), "the application's container is not touched");
    assert_eq!(container(&pod, "native").restart_policy.as_deref(), Some("Always"));
    let spec = pod.spec.as_ref().unwrap();
    let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    assert!(volumes.contains(&"logs") && !volumes.contains(&"unused"), "{volumes:?}");
    let secrets: Vec<&str> = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect();
    assert_eq!(secrets, ["own", "registry"]);

    assert_eq!(pod.labels()["sidecarset.dev/injected"], "true");
    assert_eq!(pod.labels()["revision.sidecarset.dev/inject-all"], revision);
    assert_eq!(pod.annotations()["example.com/agent"], "yes");
    assert_eq!(pod.annotations()["kubectl.kubernetes.io/default-container"], "app");
    let mark: Value = serde_json::from_str(&pod.annotations()["injection.sidecarset.dev/inject-all"]).unwrap();
    assert_eq!(mark["containers"], json!(["first", "last"]));
    assert_eq!(mark["initContainers"], json!(["plain", "native"]));
    world.end().await;
}

#[tokio::test]
async fn pods_and_namespaces_can_opt_out() {
    let world = World::shared("inject-opt-out").await;
    let mut set = world.set("agent:v1", json!({}));
    // Every namespace, so that only the exclusion keeps it out of kube-system.
    set["spec"].as_object_mut().unwrap().remove("namespaceSelector");
    world.apply(&set).await;
    let mut opted_out = selected(&world, "opted-out", &app());
    opted_out["metadata"]["labels"]["sidecarset.dev/inject"] = json!("false");
    let pod = world.create(opted_out).await.unwrap();
    assert_eq!(lists(&pod).0, ["app"]);
    let unlabelled = json!({"metadata": {"name": "unlabelled"}, "spec": app()});
    assert!(is_untouched(&world.create(unlabelled).await.unwrap()));
    assert_eq!(lists(&world.pod("injected", app()).await.unwrap()).0, ["agent", "app"]);

    let system = post(&world.client, &pods_path("kube-system", "?dryRun=All"), &selected(&world, "app", &app())).await;
    // Service accounts of kube-system exist in any cluster with a controller manager.
    let system: Pod = serde_json::from_value(system.accepted()).unwrap();
    assert!(is_untouched(&system));

    let label = json!({"metadata": {"labels": {"sidecarset.dev/inject": "false"}}});
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces.patch(&world.name, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    // The apiserver's own cache of namespaces may be a moment behind.
    eventually("the namespace has opted out", async || {
        let answer =
            post(&world.client, &pods_path(&world.name, "?dryRun=All"), &selected(&world, "late", &app())).await;
        let pod: Pod = serde_json::from_value(answer.accepted()).unwrap();
        if is_untouched(&pod) { Ok(()) } else { Err(lists(&pod).0.join(",")) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_paused_injection_leaves_new_pods_alone() {
    let world = World::shared("inject-paused").await;
    let mut set = world.set("agent:v1", json!({}));
    world.apply(&set).await;
    set["spec"]["injectionStrategy"] = json!({"paused": true});
    world.sets().patch(&world.name, &PatchParams::apply("test").force(), &Patch::Apply(&set)).await.unwrap();
    world.until_set("it says so", |set| crate::common::world::reason(set, "InjectionReady") == "InjectionPaused").await;
    assert!(is_untouched(&world.pod("paused", app()).await.unwrap()));
    set["spec"]["injectionStrategy"] = json!({"paused": false});
    world.apply(&set).await;
    assert_eq!(lists(&world.pod("resumed", app()).await.unwrap()).0, ["agent", "app"]);
    world.end().await;
}

async fn events(world: &World, reason: &str) -> Vec<Event> {
    let items = world.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    items.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
}

#[tokio::test]
async fn a_taken_name_leaves_the_pod_as_it_is_and_tells_its_owner() {
    let world = World::shared("inject-conflict").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    let taken = json!({"containers": [{"name": "agent", "image": "my-agent:v1"}]});

    let answer = post(&world.client, &pods_path(&world.name, "?dryRun=All"), &selected(&world, "dry", &taken)).await;
    let [warning] = answer.warnings.as_slice() else { panic!("{answer:?}") };
    let parts =
        ["SidecarSet \"inject-conflict\" is not injected", "container name \"agent\" is taken", "(NameConflict)"];
    assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
    let pod: Pod = serde_json::from_value(answer.accepted()).unwrap();
    assert!(is_untouched(&pod));

    world.deploy_pods(3, taken).await;
    let pod = world.pods().await.remove(0);
    assert!(is_untouched(&pod));
    assert_eq!(container(&pod, "agent").image.as_deref(), Some("my-agent:v1"));
    let event = eventually("an event", async || events(&world, "NameConflict").await.pop().ok_or("none")).await;
    let about = event.regarding.unwrap();
    assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Deployment"), Some("app")), "not the ReplicaSet");
    assert_eq!(event.related.unwrap().name.as_deref(), Some("inject-conflict"));
    assert!(event.note.unwrap().contains("SidecarSet \"inject-conflict\": container name \"agent\" is taken"));
    assert_eq!(events(&world, "NameConflict").await.len(), 1, "three pods of one Deployment are one event");
    world.end().await;
}

#[tokio::test]
async fn two_sets_that_leave_out_one_pod_both_tell_its_owner() {
    let world = World::shared("inject-conflicts").await;
    let mut other = world.set("other:v1", json!({}));
    other["metadata"]["name"] = json!("inject-conflicts-other");
    other["spec"]["containers"][0]["name"] = json!("other");
    world.apply(&world.set("agent:v1", json!({}))).await;
    world.apply(&other).await;
    let container = |name: &str| json!({"name": name, "image": "mine:v1"});
    world.deploy_pods(1, json!({"containers": [container("agent"), container("other")]})).await;
    eventually("an event of each set", async || {
        let mut sets: Vec<_> =
            events(&world, "NameConflict").await.into_iter().filter_map(|event| event.related?.name).collect();
        sets.sort();
        if sets == ["inject-conflicts", "inject-conflicts-other"] { Ok(()) } else { Err(sets) }
    })
    .await;
    world.remove_set("inject-conflicts-other").await;
    world.end().await;
}

#[tokio::test]
async fn a_fail_closed_set_refuses_the_pod_and_says_why() {
    let world = World::shared("inject-fail").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["injectionStrategy"] = json!({"failurePolicy": "Fail"});
    world.apply(&set).await;
    let taken = json!({"containers": [{"name": "agent", "image": "my-agent:v1"}]});
    let answer = post(&world.client, &pods_path(&world.name, ""), &selected(&world, "taken", &taken)).await;
    let message = answer.refusal();
    let parts = ["SidecarSet \"inject-fail\" cannot inject its sidecars", "container name \"agent\" is taken"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    assert_eq!(answer.code, 422);
    assert_eq!(lists(&world.pod("free", app()).await.unwrap()).0, ["agent", "app"]);
    world.end().await;
}

#[tokio::test]
async fn another_volume_of_that_name_is_a_conflict_and_an_equal_one_is_shared() {
    let world = World::shared("inject-volume").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["volumes"] = json!([{"name": "logs", "secret": {"secretName": "logs"}}]);
    set["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
    world.apply(&set).await;
    let with = |volume: Value| json!({"containers": [{"name": "app", "image": "app:v1"}], "volumes": [volume]});
    let other = selected(&world, "other", &with(json!({"name": "logs", "emptyDir": {}})));
    let answer = post(&world.client, &pods_path(&world.name, ""), &other).await;
    assert!(answer.warnings.iter().any(|warning| warning.contains("(VolumeConflict)")), "{answer:?}");
    assert!(is_untouched(&serde_json::from_value(answer.accepted()).unwrap()));

    let equal = world.pod("equal", with(json!({"name": "logs", "secret": {"secretName": "logs"}}))).await.unwrap();
    assert_eq!(lists(&equal).0, ["agent", "app"]);
    let volumes = equal.spec.unwrap().volumes.unwrap();
    assert_eq!(volumes.iter().filter(|volume| volume.name == "logs").count(), 1);
    world.end().await;
}

#[tokio::test]
async fn a_dry_run_shows_the_result_and_leaves_no_trace() {
    let world = World::shared("inject-dry-run").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    let dry_run = pods_path(&world.name, "?dryRun=All");
    let answer = post(&world.client, &dry_run, &selected(&world, "dry", &app())).await;
    let pod: Pod = serde_json::from_value(answer.accepted()).unwrap();
    assert_eq!(lists(&pod).0, ["agent", "app"]);
    assert!(world.pods().await.is_empty());

    // Events go to the owner; nobody asks whether it exists.
    let owned = |name: &str| {
        let mut pod = selected(&world, name, &json!({"containers": [{"name": "agent", "image": "my-agent:v1"}]}));
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": true}]);
        pod
    };
    post(&world.client, &dry_run, &owned("dry")).await.accepted();
    // Events of one moment come in any order, later ones behind them: the second pod's is behind any of the dry run.
    for name in ["first", "second"] {
        post(&world.client, &pods_path(&world.name, ""), &owned(name)).await.accepted();
        eventually("the event", async || {
            let all = about(&events(&world, "NameConflict").await);
            if all.contains(&name.to_owned()) { Ok(()) } else { Err(all) }
        })
        .await;
    }
    assert_eq!(about(&events(&world, "NameConflict").await), ["first", "second"]);
    world.end().await;
}

/// Names of the objects that the events are about.
fn about(events: &[Event]) -> Vec<String> {
    let mut names: Vec<String> =
        events.iter().filter_map(|event| event.regarding.as_ref().and_then(|about| about.name.clone())).collect();
    names.sort();
    names
}

/// What `kubectl get -o json | strip | create` makes of a pod.
fn copy(pod: &Pod, name: &str) -> Value {
    let mut copy = serde_json::to_value(pod).unwrap();
    copy.as_object_mut().unwrap().remove("status");
    copy["spec"].as_object_mut().unwrap().remove("nodeName");
    copy["metadata"] = json!({"name": name, "labels": pod.labels(), "annotations": pod.annotations()});
    copy
}

#[tokio::test]
async fn a_copied_pod_is_brought_up_to_date() {
    let world = World::shared("inject-copy").await;
    let mut set = world.set("agent:v1", json!({"type": "NotUpdate"}));
    set["spec"]["volumes"] = json!([{"name": "logs", "emptyDir": {}}]);
    set["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
    world.apply(&set).await;
    let original = world.pod("original", app()).await.unwrap();
    let twin = world.create(copy(&original, "twin")).await.unwrap();
    assert_eq!(
        serde_json::to_value(&twin.spec).unwrap()["containers"],
        serde_json::to_value(&original.spec).unwrap()["containers"]
    );
    assert_eq!((twin.labels(), twin.annotations()), (original.labels(), original.annotations()));

    set["spec"]["containers"][0]["image"] = json!("agent:v2");
    set["spec"]["containers"][0]["args"] = json!(["-v"]);
    world.apply(&set).await;
    let newer = world.create(copy(&original, "newer")).await.unwrap();
    assert_eq!(lists(&newer).0, ["agent", "app"]);
    assert_eq!(container(&newer, "agent").image.as_deref(), Some("agent:v2"));
    assert_eq!(container(&newer, "agent").args.as_deref(), Some(&["-v".to_owned()][..]));
    assert_ne!(
        newer.labels()["revision.sidecarset.dev/inject-copy"],
        original.labels()["revision.sidecarset.dev/inject-copy"]
    );
    world.end().await;
}

#[tokio::test]
async fn a_copy_that_its_set_no_longer_selects_loses_the_sidecar() {
    let world = World::shared("inject-stranger").await;
    let second = "inject-stranger-2";
    world.apply(&world.set("agent:v1", json!({}))).await;
    // The copy is selected by this one only: without any set that selects it a pod does not reach the webhook.
    let mut other = world.set("helper:v1", json!({}));
    other["metadata"]["name"] = json!(second);
    other["spec"]["selector"] = json!({"matchLabels": {"app": second}});
    other["spec"]["containers"] = json!([{"name": "helper", "image": "helper:v1"}]);
    world.apply(&other).await;
    let original = world.pod("original", app()).await.unwrap();
    let mut stranger = copy(&original, "stranger");
    stranger["metadata"]["labels"]["app"] = json!(second);
    let pod = world.create(stranger).await.unwrap();
    assert_eq!(lists(&pod).0, ["helper", "app"]);
    assert!(!pod.labels().contains_key("revision.sidecarset.dev/inject-stranger"), "{:?}", pod.labels());
    assert!(!pod.annotations().contains_key("injection.sidecarset.dev/inject-stranger"), "{:?}", pod.annotations());

    let mut nobody = copy(&original, "nobody");
    nobody["metadata"]["labels"]["app"] = json!("nobody");
    let pod = world.create(nobody).await.unwrap();
    assert_eq!(lists(&pod).0, ["app"], "a marked pod that no set selects reaches the webhook too");
    assert!(is_untouched(&pod), "{:?} {:?}", pod.labels(), pod.annotations());
    world.remove_set(second).await;
    world.end().await;
}

/// `POST /<name>`: adds the variable `<NAME>=1` to every container that lacks it.
async fn foreign(Segment(name): Segment<String>, Json(review): Json<Value>) -> Json<Value> {
    let request = &review["request"];
    let variable = json!({"name": name.to_uppercase(), "value": "1"});
    let mut patch = Vec::new();
    for list in ["containers", "initContainers"] {
        for (i, container) in request["object"]["spec"][list].as_array().into_iter().flatten().enumerate() {
            let env = container["env"].as_array().cloned().unwrap_or_default();
            if !env.contains(&variable) {
                let all: Vec<Value> = env.into_iter().chain([variable.clone()]).collect();
                patch.push(json!({"op": "add", "path": format!("/spec/{list}/{i}/env"), "value": all}));
            }
        }
    }
    let patch = ByteString(json!(patch).to_string().into_bytes());
    let response = json!({"uid": request["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch});
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

/// Serves [`foreign`] for this namespace: `aa` is called before the operator's webhook, `zz` after it.
async fn register_foreign(client: &Client, namespace: &str) {
    let (url, ca_bundle) = serve(Router::new().route("/{name}", on_post(foreign))).await;
    for name in ["aa", "zz"] {
        let configuration = json!({
            "metadata": {"name": format!("{name}-{namespace}")},
            "webhooks": [{
                "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
                "clientConfig": {"url": format!("{url}/{name}"), "caBundle": ca_bundle},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }],
        });
        let configuration: MutatingWebhookConfiguration = serde_json::from_value(configuration).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &configuration).await.unwrap();
    }
}

#[tokio::test]
async fn what_others_add_to_a_sidecar_stays_when_the_webhook_is_called_again() {
    let world = World::shared("inject-again").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["initContainers"] = json!([{"name": "native", "image": "native:v1", "restartPolicy": "Always"}]);
    world.apply(&set).await;
    let limits = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}}]}});
    post(&world.client, &format!("/api/v1/namespaces/{}/limitranges", world.name), &limits).await.accepted();
    register_foreign(&world.client, &world.name).await;

    let mut attempt = 0;
    let pod = eventually("both webhooks and the limits are in force", async || {
        attempt += 1;
        let pod = world.pod(&format!("app-{attempt}"), app()).await.unwrap();
        let own = container(&pod, "app");
        let in_force =
            env(own).len() == 2 && own.resources.as_ref().is_some_and(|resources| resources.limits.is_some());
        if in_force { Ok(pod) } else { Err(pod) }
    })
    .await;
    assert_eq!(lists(&pod), (vec!["agent", "app"], vec!["native"]), "each is there once");
    for name in ["agent", "native"] {
        let sidecar = container(&pod, name);
        assert_eq!(env(sidecar), BTreeMap::from([("IS_INJECTED", "true"), ("AA", "1"), ("ZZ", "1")]), "{name}");
        assert_eq!(sidecar.env.as_ref().unwrap().len(), 3, "{name}");
        let mounts: Vec<&str> = sidecar.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
        assert_eq!(mounts, ["/var/run/secrets/kubernetes.io/serviceaccount"], "{name}");
        let resources = serde_json::to_value(&sidecar.resources).unwrap();
        assert_eq!(resources, json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}), "{name}");
    }
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    for name in ["aa", "zz"] {
        configurations.delete(&format!("{name}-{}", world.name), &DeleteParams::default()).await.unwrap();
    }
    world.end().await;
}

/// Names of the webhook configurations on pods and on sets.
async fn registered(client: &Client) -> (Vec<String>, Vec<String>) {
    let pods: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let sets: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let params = ListParams::default();
    let pods = pods.list(&params).await.unwrap().items.iter().map(ResourceExt::name_any).collect();
    (pods, sets.list(&params).await.unwrap().items.iter().map(ResourceExt::name_any).collect())
}

#[tokio::test]
async fn the_webhook_on_pods_comes_with_the_first_set_and_goes_with_the_operator() {
    let cluster = DevCluster::builder().without_kwok().start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "lifetime", &[]).await;
    let world = World::new(cluster.kubeconfig(), "inject-lifetime").await;
    let until = async |what: &str, pods: &[&str], sets: &[&str]| {
        eventually(what, async || {
            let found = registered(&world.client).await;
            if found.0 == pods && found.1 == sets { Ok(()) } else { Err(found) }
        })
        .await;
    };
    until("only the webhook on sets", &[], &["sidecarset-sets-local"]).await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["injectionStrategy"] = json!({"failurePolicy": "Fail"});
    world.apply(&set).await;
    until("both", &["sidecarset-pods-local"], &["sidecarset-sets-local"]).await;
    assert_eq!(lists(&world.pod("injected", app()).await.unwrap()).0, ["agent", "app"]);

    world.remove_set(&world.name).await;
    until("none on pods without a set", &[], &["sidecarset-sets-local"]).await;
    world.apply(&set).await;
    assert!(tokio::task::spawn_blocking(move || operator.terminate()).await.unwrap(), "it ends with success");
    assert_eq!(registered(&world.client).await, (vec![], vec![]));
    // The apiserver calls a removed webhook until its cache follows.
    let mut attempt = 0;
    let started = std::time::Instant::now();
    eventually("a pod can be created", async || {
        attempt += 1;
        world.pod(&format!("free-{attempt}"), app()).await.map(|pod| assert!(is_untouched(&pod)))
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(5), "the fail-closed set blocked pods for {:?}", started.elapsed());
    kubectl(cluster.kubeconfig(), &["get", "scs", &world.name], "").await.ok();
    cluster.stop().await;
}

#[tokio::test]
async fn the_registration_asks_about_as_few_pods_as_it_can() {
    let world = World::shared("inject-tight").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let configuration = configurations.get("sidecarset-pods-local").await.unwrap();
    let condition = |webhook: &MutatingWebhook| {
        webhook.match_conditions.as_ref().map(|conditions| conditions[0].expression.clone()).unwrap_or_default()
    };
    let mut webhooks = configuration.webhooks.unwrap().into_iter();
    let ours = webhooks.find(|webhook| condition(webhook).contains("\"inject-tight,app=inject-tight\"")).unwrap();
    let selector = serde_json::to_value(&ours.namespace_selector).unwrap().to_string();
    for part in ["kube-system", "kube-node-lease", "sidecarset-system", "sidecarset.dev/inject"] {
        assert!(selector.contains(part), "{selector}");
    }
    assert_eq!((ours.failure_policy.as_deref(), ours.timeout_seconds), (Some("Ignore"), Some(2)));
    let set = world.sets().get(&world.name).await.unwrap();
    assert_eq!(condition_of(&set), "True");
    world.end().await;
}

fn condition_of(set: &sidecarset::api::SidecarSet) -> String {
    condition(set, "InjectionReady")
}
