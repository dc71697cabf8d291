//! Pods that could be created without a sidecar, and are refused with it by what only the cluster knows.

use std::collections::BTreeSet;

use axum::routing::post as on_post;
use axum::{Json, Router};
use devcluster::DevCluster;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ReplicationController, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use crate::common::operator::Operator;
use crate::common::raw::{kubectl, plugin, repository};
use crate::common::webhook::serve;
use crate::common::world::{World, condition, find, is_ready, names, reason};
use crate::common::{eventually, shared};
use crate::uninjected::{create, events, message, uids};

/// What `restricted` wants of every container.
fn compliant() -> Value {
    json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}})
}

fn app() -> Value {
    json!({"containers": [{"name": "app", "image": "app:v1", "securityContext": compliant(),
        "resources": {"limits": {"cpu": "100m"}}}]})
}

fn set(world: &World, agent: &Value, injection_strategy: Value) -> Value {
    let mut set = world.set("agent:v1", json!({"minReadySeconds": 0}));
    for (field, value) in agent.as_object().unwrap() {
        set["spec"]["containers"][0][field] = value.clone();
    }
    set["spec"]["injectionStrategy"] = injection_strategy;
    set
}

async fn label(world: &World, key: &str, value: Value) {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
    namespaces.patch(&world.name, &PatchParams::default(), &patch).await.unwrap();
}

async fn restrict(world: &World) {
    label(world, "pod-security.kubernetes.io/enforce", json!("restricted")).await;
}

fn has_agent(pod: &Pod) -> bool {
    names(&pod.spec.as_ref().unwrap().containers).contains(&"agent")
}

async fn until_not_created(world: &World) -> SidecarSet {
    world.until_set("the set says it", |set| reason(set, "InjectionReady") == "PodsNotCreated").await
}

/// The Deployment has its pods, the set says why they are without sidecars, and a set that is mended injects again.
async fn is_created_without(world: &World, bad: &Value, good: &Value, said: &str) {
    world.apply(&set(world, bad, json!({}))).await;
    world.deploy_pods(2, app()).await;
    assert!(!world.pods().await.iter().any(has_agent));
    let told = until_not_created(world).await;
    let text = find(&told, "InjectionReady").unwrap().message.clone();
    let owner = format!("ReplicaSet {}/app-", world.name);
    assert!(text.contains(&owner) && text.contains(said) && message(&told).contains(&owner), "{text}");
    assert_eq!(condition(&told, "Ready"), "True", "the pods are there");
    assert_eq!(told.status.unwrap().failed_create_owners, Some(1));
    eventually("there are Events on the set and on the Deployment", async || {
        let of_set = events(world, "default", "PodsNotCreated").await;
        let of_set = of_set.iter().any(|event| event.note.as_ref().is_some_and(|note| note.contains(&owner)));
        let of_owner = events(world, &world.name, "PodsNotCreated").await;
        let of_owner = of_owner.iter().any(|it| it.regarding.as_ref().unwrap().kind.as_deref() == Some("Deployment"));
        if of_set && of_owner { Ok(()) } else { Err((of_set, of_owner)) }
    })
    .await;
    let pod = world.pods().await.remove(0).name_any();
    let explained = plugin(shared(), &["explain", &pod, "-n", &world.name], "").await.ok();
    assert!(explained.contains("PodsNotCreated") && explained.contains(said), "{explained}");
    // What left the sidecars out on purpose is not missing.
    world.until_set("they are not counted", |set| set.status.as_ref().unwrap().uninjected_pods == Some(0)).await;

    world.apply(&set(world, good, json!({}))).await;
    let pod = world.pods().await.remove(0).name_any();
    world.api::<Pod>().delete(&pod, &DeleteParams::default()).await.unwrap();
    eventually("the next pod has the sidecar", async || {
        let pods = world.pods().await;
        if pods.len() == 2 && pods.iter().any(has_agent) && pods.iter().all(is_ready) {
            Ok(())
        } else {
            Err(pods.len())
        }
    })
    .await;
}

fn policies(world: &World) -> (Api<ValidatingAdmissionPolicy>, Api<ValidatingAdmissionPolicyBinding>) {
    (Api::all(world.client.clone()), Api::all(world.client.clone()))
}

/// No pod of the namespace may have an image `evil`. `message` is CEL.
async fn forbid_evil(world: &World, message: &str) {
    let named = |spec: Value| json!({"metadata": {"name": world.name}, "spec": spec});
    let policy = named(json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
        "validations": [{"expression": "object.spec.containers.all(c, !c.image.startsWith('evil:'))", "messageExpression": message}],
    }));
    let here = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}}});
    let binding = named(json!({"policyName": world.name, "validationActions": ["Deny"], "matchResources": here}));
    let (policies, bindings) = policies(world);
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    until_evil_is_refused(world).await;
}

async fn until_evil_is_refused(world: &World) {
    eventually("the policy is in force", async || {
        let pod = json!({"metadata": {"name": "try"}, "spec": {"containers": [{"name": "c", "image": "evil:v1"}]}});
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        match world.api::<Pod>().create(&dry_run, &serde_json::from_value(pod).unwrap()).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it takes the pod"),
        }
    })
    .await;
}

async fn allow_evil(world: &World) {
    let (policies, bindings) = policies(world);
    bindings.delete(&world.name, &DeleteParams::default()).await.unwrap();
    policies.delete(&world.name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn pods_in_a_restricted_namespace_are_created_without_a_plain_sidecar() {
    let world = World::shared("failed-restricted").await;
    restrict(&world).await;
    let said = "violates PodSecurity \"restricted:latest\"";
    is_created_without(&world, &json!({}), &json!({"securityContext": compliant()}), said).await;
    world.end().await;
}

#[tokio::test]
async fn pods_under_a_quota_are_created_without_a_sidecar_that_has_no_limit() {
    let world = World::shared("failed-quota").await;
    create::<ResourceQuota>(&world, json!({"metadata": {"name": "cpu"}, "spec": {"hard": {"limits.cpu": "1"}}})).await;
    let quotas: Api<ResourceQuota> = world.api();
    eventually("the quota is counted", async || {
        let status = quotas.get("cpu").await.unwrap().status.unwrap_or_default();
        status.used.filter(|used| !used.is_empty()).ok_or("not yet")
    })
    .await;
    let good = json!({"resources": {"limits": {"cpu": "10m"}}});
    is_created_without(&world, &json!({}), &good, "must specify limits.cpu for: agent").await;
    world.end().await;
}

#[tokio::test]
async fn pods_are_created_without_a_sidecar_whose_image_a_policy_refuses() {
    let world = World::shared("failed-policy").await;
    let message = "'no image of evil: ' + object.spec.containers.map(c, c.image).filter(i, i.startsWith('evil:'))[0]";
    forbid_evil(&world, message).await;
    is_created_without(&world, &json!({"image": "evil:v1"}), &json!({}), "no image of evil: evil:v1").await;
    allow_evil(&world).await;
    world.end().await;
}

/// `POST /`: refuses pods with an image `evil`, as image policies do.
async fn refuse_evil(Json(review): Json<Value>) -> Json<Value> {
    let request = &review["request"];
    let containers = request["object"]["spec"]["containers"].as_array().unwrap();
    let mut images = containers.iter().filter_map(|container| container["image"].as_str());
    let response = match images.find(|image| image.starts_with("evil:")) {
        Some(image) => {
            let message = format!("image {image} is not signed");
            json!({"uid": request["uid"], "allowed": false, "status": {"code": 403, "message": message}})
        }
        None => json!({"uid": request["uid"], "allowed": true}),
    };
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

#[tokio::test]
async fn pods_are_created_without_a_sidecar_whose_image_a_webhook_refuses() {
    let world = World::shared("failed-webhook").await;
    let (url, ca_bundle) = serve(Router::new().route("/", on_post(refuse_evil))).await;
    let configuration: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": world.name},
        "webhooks": [{
            "name": "images.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": {"url": format!("{url}/"), "caBundle": ca_bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    }))
    .unwrap();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    configurations.create(&PostParams::default(), &configuration).await.unwrap();
    until_evil_is_refused(&world).await;
    let said = "image evil:v1 is not signed";
    is_created_without(&world, &json!({"image": "evil:v1"}), &json!({}), said).await;
    configurations.delete(&world.name, &DeleteParams::default()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_fail_set_says_whose_pods_it_keeps_away_until_they_are_there() {
    let world = World::shared("failed-fail").await;
    restrict(&world).await;
    world.apply(&set(&world, &json!({}), json!({"failurePolicy": "Fail"}))).await;
    let template = json!({"metadata": {"labels": {"app": world.name}}, "spec": app()});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": world.name}}, "template": template});
    create::<Deployment>(&world, json!({"metadata": {"name": "app"}, "spec": spec})).await;
    let told = until_not_created(&world).await;
    let is_told = |set: &SidecarSet| reason(set, "Ready") == "PodsNotCreated" && condition(set, "Ready") == "False";
    assert!(is_told(&told) && condition(&told, "Stalled") == "False", "{:?}", told.status);
    assert!(world.pods().await.is_empty());
    label(&world, "pod-security.kubernetes.io/enforce", Value::Null).await;
    let over = world.until_set("it is over", |set| condition(set, "InjectionReady") == "True").await;
    assert_eq!(over.status.unwrap().failed_creates, None);
    assert!(world.pods().await.iter().all(has_agent));
    world.end().await;
}

#[tokio::test]
async fn every_kind_of_owner_gets_its_pods() {
    let world = World::shared("failed-kinds").await;
    restrict(&world).await;
    world.apply(&set(&world, &json!({}), json!({}))).await;
    let object = |kind: &str, fields: Value| {
        let labels = json!({"app": world.name, "kind": kind});
        let mut template = json!({"metadata": {"labels": labels}, "spec": app()});
        json_patch::merge(&mut template, fields.get("template").unwrap_or(&json!({})));
        let mut spec = fields["spec"].clone();
        spec["template"] = template;
        match kind {
            "replicationcontroller" => spec["selector"] = labels,
            "job" => {}
            _ => spec["selector"] = json!({"matchLabels": labels}),
        }
        json!({"metadata": {"name": kind}, "spec": spec})
    };
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
        "resources": {"requests": {"storage": "1Mi"}}}}]);
    create::<StatefulSet>(
        &world,
        object("statefulset", json!({"spec": {"serviceName": "s", "volumeClaimTemplates": claims}})),
    )
    .await;
    create::<DaemonSet>(&world, object("daemonset", json!({"spec": {}}))).await;
    create::<ReplicationController>(&world, object("replicationcontroller", json!({"spec": {"replicas": 1}}))).await;
    let once = json!({"spec": {"backoffLimit": 0}, "template": {"spec": {"restartPolicy": "Never"}}});
    create::<Job>(&world, object("job", once)).await;
    eventually("each has a pod", async || {
        let pods = world.pods().await;
        assert!(!pods.iter().any(has_agent));
        let kinds: BTreeSet<String> = pods.iter().filter_map(|pod| pod.labels().get("kind").cloned()).collect();
        if kinds.len() == 4 { Ok(()) } else { Err(kinds) }
    })
    .await;
    world.until_set("all are listed", |set| set.status.as_ref().unwrap().failed_create_owners == Some(4)).await;
    world.api::<ReplicationController>().delete("replicationcontroller", &DeleteParams::default()).await.unwrap();
    world.until_set("one is gone", |set| set.status.as_ref().unwrap().failed_create_owners == Some(3)).await;
    world.end().await;
}

#[tokio::test]
async fn an_owner_loses_one_pod_at_most_where_its_successors_come_without_sidecars() {
    let world = World::shared("failed-evict").await;
    restrict(&world).await;
    world.deploy_pods(3, app()).await;
    let before = uids(&world.pods().await);
    world.apply_without_waiting(&set(&world, &json!({}), json!({"existingPods": "Evict"}))).await;
    let in_vain = |set: &SidecarSet| {
        let evictions = set.status.as_ref().and_then(|status| status.evictions.as_deref()).unwrap_or_default();
        evictions.iter().any(|eviction| eviction.in_vain)
    };
    let told = world.until_set("one eviction was in vain", in_vain).await;
    assert_eq!(told.status.unwrap().failed_create_owners, Some(1));
    world.until_set("the others are not counted", |set| set.status.as_ref().unwrap().uninjected_pods == Some(0)).await;
    let after = uids(&world.pods().await);
    assert_eq!((after.len(), after.intersection(&before).count()), (3, 2));
    world.end().await;
}

/// The message names nothing: only trying tells, and nobody may try without the component.
#[tokio::test]
async fn where_the_operator_may_try_it_knows_who_is_to_blame_whatever_the_message_says() {
    let cluster = DevCluster::start().await.unwrap();
    let _operator = Operator::start(cluster.kubeconfig(), "failed-try", &[]).await;
    let world = World::new(cluster.kubeconfig(), "failed-try").await;
    let folder = repository("config/dry_run_tenants");
    kubectl(cluster.kubeconfig(), &["apply", "-k", folder.to_str().unwrap()], "").await.ok();
    forbid_evil(&world, "'no'").await;
    let as_user = async |arguments: &[&str]| {
        let user = "--as=system:serviceaccount:sidecarset-system:sidecarset-dry-run";
        let pod = ["run", "evil", "--image=good:v1", "--namespace=failed-try", user];
        kubectl(cluster.kubeconfig(), &[&pod[..], arguments].concat(), "").await
    };
    eventually("the user may try, and do no more", async || {
        let (tries, creates) = (as_user(&["--dry-run=server"]).await, as_user(&[]).await);
        if tries.success && creates.stderr.contains("may only try") { Ok(()) } else { Err((tries, creates)) }
    })
    .await;

    // Pods that are older than the set stay.
    world.deploy_pods(1, app()).await;
    let before = uids(&world.pods().await);
    world.apply(&set(&world, &json!({"image": "evil:v1"}), json!({"existingPods": "Evict"}))).await;
    let is_told = |set: &SidecarSet| message(set).contains("it cannot create pods: ValidatingAdmissionPolicy");
    let told = world.until_set("it is not evicted, and why", is_told).await;
    assert_eq!((uids(&world.pods().await), told.status.unwrap().evictions), (before, None));
    world.api::<Deployment>().delete("app", &DeleteParams::foreground()).await.unwrap();
    eventually("they are gone", async || match world.pods().await.len() {
        0 => Ok(()),
        pods => Err(pods),
    })
    .await;

    // Another set, which is not to blame.
    let mut other = set(&world, &json!({"name": "other"}), json!({}));
    other["metadata"]["name"] = json!("failed-try-other");
    world.apply(&other).await;
    world.deploy_pods(1, app()).await;
    let pods = world.pods().await;
    assert_eq!(names(&pods[0].spec.as_ref().unwrap().containers), ["other", "app"]);
    let told = until_not_created(&world).await;
    assert!(message(&told).contains("denied request: no"), "{}", message(&told));
    world.end().await;
    cluster.stop().await;
}
