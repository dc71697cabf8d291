//! `config/default`, and the operator with exactly the permissions that it gives.

use std::path::{Path, PathBuf};

use devcluster::DevCluster;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::raw::{documents, kubectl, post, repository, until_crd_is_served};
use crate::common::world::{World, condition, container_image, is_ready, names};

const NAMESPACE: &str = "sidecarset-system";
const ACCOUNT: &str = "system:serviceaccount:sidecarset-system:sidecarset-operator";

/// A kubeconfig whose user is the operator's service account.
async fn service_account(admin: &Path) -> PathBuf {
    let arguments = ["create", "token", "sidecarset-operator", "--namespace", NAMESPACE, "--duration=1h"];
    let token = kubectl(admin, &arguments, "").await.ok();
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(admin).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let path = admin.with_file_name("service-account.kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

async fn install(cluster: &DevCluster) {
    let folder = repository("config/default");
    let rendered = kubectl(cluster.kubeconfig(), &["kustomize", folder.to_str().unwrap()], "").await.ok();
    kubectl(cluster.kubeconfig(), &["apply", "-f", "-"], &rendered).await.ok();
    until_crd_is_served(cluster.kubeconfig()).await;
}

/// The whole way of one set, without the webhook: nothing routes to a Service here.
#[tokio::test]
async fn the_operator_needs_no_more_than_its_service_account_may() {
    let cluster = DevCluster::start().await.unwrap();
    install(&cluster).await;
    let account = service_account(cluster.kubeconfig()).await;
    let addresses = ["--webhook-address=127.0.0.1:0", "--health-address=127.0.0.1:0"];
    let arguments = [&["run", "--namespace", NAMESPACE, "--identity=in-cluster"], &addresses[..]].concat();
    let mut operator = Operator::spawn(&account, "in-cluster", &arguments);
    operator.wait_for_log("operator is ready").await;
    operator.wait_for_log("this replica leads").await;
    let world = World::new(cluster.kubeconfig(), "in-cluster").await;

    let leases: Api<Lease> = Api::namespaced(world.client.clone(), NAMESPACE);
    let lease = leases.get("sidecarset-operator").await.unwrap();
    assert!(lease.spec.unwrap().holder_identity.unwrap().starts_with("in-cluster_"));

    world.apply(&world.set("agent:v1", json!({"minReadySeconds": 0}))).await;
    registered(&world).await;
    let set = world.until_set("it has a revision", |set| set.status.as_ref().unwrap().update_revision.is_some()).await;
    let revision = set.status.unwrap().update_revision.unwrap();
    let revisions: Api<ControllerRevision> = Api::namespaced(world.client.clone(), NAMESPACE);
    assert!(revisions.get_opt(&format!("in-cluster-{revision}")).await.unwrap().is_some());

    announced(&world, &operator).await;

    // As the webhook would have made it.
    let injected = json!({
        "metadata": {
            "name": "app",
            "labels": {"app": "in-cluster", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/in-cluster": revision},
            "annotations": {"injection.sidecarset.dev/in-cluster": json!({"containers": ["agent"]}).to_string()},
        },
        "spec": {"containers": [
            {"name": "agent", "image": "agent:v1", "env": [{"name": "IS_INJECTED", "value": "true"}]},
            {"name": "app", "image": "app:v1"},
        ]},
    });
    let pod = world.create(injected).await.unwrap();
    assert_eq!(names(&pod.spec.as_ref().unwrap().containers), ["agent", "app"]);
    let pods: Api<Pod> = world.api();
    eventually("the pod is ready", async || {
        let pod = pods.get("app").await.unwrap();
        if is_ready(&pod) { Ok(()) } else { Err(pod.status) }
    })
    .await;
    world.apply(&world.set("agent:v2", json!({"minReadySeconds": 0, "prePull": true}))).await;
    let set = world
        .until_set("the pod is upgraded", |set| {
            condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == 1
        })
        .await;
    assert_ne!(set.status.unwrap().update_revision.unwrap(), revision);
    let provisional: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    eventually("what was announced is registered", async || {
        match provisional.get_opt("sidecarset-pods-provisional").await.unwrap() {
            None => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(container_image(&pods.get("app").await.unwrap(), "agent"), "agent:v2");

    // History beyond its limit is removed.
    let mut short = world.set("agent:v3", json!({"minReadySeconds": 0}));
    short["spec"]["revisionHistoryLimit"] = json!(1);
    world.apply(&short).await;
    eventually("history is truncated", async || {
        let items = revisions.list(&ListParams::default()).await.unwrap().items;
        if items.len() == 2 { Ok(()) } else { Err(items.len()) }
    })
    .await;
    // Back to a revision that exists: it is renewed, not made.
    world.apply(&world.set("agent:v2", json!({"minReadySeconds": 0}))).await;
    world.until_set("the old image is back", |set| condition(set, "Ready") == "True").await;
    assert_eq!(container_image(&pods.get("app").await.unwrap(), "agent"), "agent:v2");
    let events: Api<Event> = Api::all(world.client.clone());
    eventually("an event about the set", async || {
        let items = events.list(&ListParams::default()).await.unwrap().items;
        let about =
            |event: &&Event| event.regarding.as_ref().and_then(|about| about.kind.as_deref()) == Some("SidecarSet");
        if items.iter().any(|event| about(&event)) { Ok(()) } else { Err(items.len()) }
    })
    .await;

    an_eviction(&world).await;
    an_owner_without_pods(&world).await;

    let first = operator.logged();
    assert!(tokio::task::spawn_blocking(move || operator.terminate()).await.unwrap());
    // A rolling update takes no webhook away. The next replica reads the Secret that this one made.
    registered(&world).await;
    let mut second = Operator::spawn(&account, "in-cluster-again", &arguments);
    second.wait_for_log("this replica leads").await;
    second.wait_for_log("operator is ready").await;
    world.remove_set(&world.name).await;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    eventually("no webhook on pods without a set", async || match webhooks.get_opt("sidecarset-pods").await.unwrap() {
        None => Ok(()),
        Some(left) => Err(left.metadata),
    })
    .await;
    let log = first + &second.logged();
    let refusals = ["forbidden", "code: 403", "may not create"];
    let is_refusal = |line: &&str| refusals.iter().any(|refusal| line.to_lowercase().contains(refusal));
    let forbidden: Vec<&str> = log.lines().filter(is_refusal).collect();
    assert!(forbidden.is_empty(), "{}", forbidden.join("\n"));
    drop(second);
    limits(cluster.kubeconfig()).await;
    cluster.stop().await;
}

/// Nothing routes to the webhook here, so a pod that is evicted for its sidecars gets a replacement without.
async fn an_eviction(world: &World) {
    world.deploy(1).await;
    let mut evicting = world.set("agent:v2", json!({"minReadySeconds": 0}));
    evicting["spec"]["injectionStrategy"] = json!({"existingPods": "Evict"});
    world.apply(&evicting).await;
    world
        .until_set("a pod was evicted in vain", |set| {
            let evictions = set.status.as_ref().and_then(|status| status.evictions.as_deref()).unwrap_or_default();
            evictions.iter().any(|eviction| eviction.in_vain)
        })
        .await;
    let owners: Api<Event> = world.api();
    eventually("an event about the Deployment, which was found by its ReplicaSet", async || {
        let items = owners.list(&ListParams::default()).await.unwrap().items;
        let about: Vec<_> = items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some("EvictedForSidecars"))
            .filter_map(|event| event.regarding?.kind)
            .collect();
        if about == ["Deployment"] { Ok(()) } else { Err(about) }
    })
    .await;
}

/// Nobody may be asked here, so the message decides. The webhook has not had the pod: the message is our own.
async fn an_owner_without_pods(world: &World) {
    let labels = json!({"app": "in-cluster", "of": "daemons"});
    let never = json!({"containers": [{"name": "app", "image": "app:v1"}], "serviceAccountName": "nobody"});
    let template = json!({"metadata": {"labels": labels}, "spec": never});
    let daemons =
        json!({"metadata": {"name": "daemons"}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    let daemons: DaemonSet =
        world.api().create(&PostParams::default(), &serde_json::from_value(daemons).unwrap()).await.unwrap();
    let events: Api<k8s_openapi::api::core::v1::Event> = world.api();
    eventually("the set is blamed", async || {
        let event = json!({"metadata": {"generateName": "daemons."}, "type": "Warning", "reason": "FailedCreate",
            "involvedObject": {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "daemons", "namespace": world.name, "uid": daemons.uid()},
            "message": "Error creating: pods \"daemons-x\" is forbidden: failed quota: q: must specify limits.cpu for: agent",
            "lastTimestamp": k8s_openapi::jiff::Timestamp::now().to_string()});
        events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
        let status = world.sets().get(&world.name).await.unwrap().status.unwrap();
        if status.failed_create_owners == Some(1) { Ok(()) } else { Err(status) }
    })
    .await;
}

/// Both configurations stand, point at the Service and go with the Namespace.
async fn registered(world: &World) {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let namespace = namespaces.get(NAMESPACE).await.unwrap().metadata;
    let pods: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let sets: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    let pods = serde_json::to_value(pods.get("sidecarset-pods").await.unwrap()).unwrap();
    let sets = serde_json::to_value(sets.get("sidecarset-sets").await.unwrap()).unwrap();
    for (configuration, path) in [(pods, "/mutate-pods/"), (sets, "/validate-sidecarsets")] {
        let owner = &configuration["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["name"]), (&json!("Namespace"), &json!(NAMESPACE)));
        assert_eq!(owner["uid"].as_str(), namespace.uid.as_deref());
        let client = &configuration["webhooks"][0]["clientConfig"];
        assert_eq!(
            (&client["service"]["name"], &client["service"]["namespace"]),
            (&json!("sidecarset-webhook"), &json!(NAMESPACE))
        );
        assert!(client["service"]["path"].as_str().unwrap().starts_with(path), "{client}");
        assert!(client["url"].is_null() && client["caBundle"].is_string(), "{client}");
    }
}

/// The webhook on sets is asked about the set as if it were new.
async fn announced(world: &World, operator: &Operator) {
    let set = world.sets().get(&world.name).await.unwrap();
    let review = json!({"request": {"uid": "u", "operation": "CREATE", "object": set}});
    let answer = post(&operator.webhook(), "/validate-sidecarsets", &review).await.accepted();
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let configuration = json!(configurations.get("sidecarset-pods-provisional").await.unwrap());
    assert_eq!(configuration["metadata"]["ownerReferences"][0]["name"], json!(NAMESPACE));
    let service = &configuration["webhooks"][0]["clientConfig"]["service"];
    let path = service["path"].as_str().unwrap();
    assert!(path.starts_with("/mutate-pods/provisional/in-cluster/") && service["port"] == 443, "{service}");
}

/// Least privilege.
async fn limits(admin: &Path) {
    let may = async |arguments: &[&str]| {
        let all = [&["auth", "can-i", "--as", ACCOUNT], arguments].concat();
        kubectl(admin, &all, "").await.stdout.trim() == "yes"
    };
    let system = ["--namespace", NAMESPACE];
    assert!(may(&["patch", "pods", "--namespace", "default"]).await, "can-i answers");
    // For prePull; a role of its own, which can be left out.
    assert!(may(&["create", "pods", "--namespace", "default"]).await);
    assert!(may(&["delete", "pods", "--namespace", "default"]).await);
    assert!(may(&[&["get", "secrets/sidecarset-webhook-tls"], &system[..]].concat()).await);
    // Owners that cannot create pods, and what they say.
    for owner in ["replicasets", "statefulsets", "daemonsets", "replicationcontrollers", "jobs"] {
        assert!(may(&["get", owner, "--namespace", "default"]).await, "{owner}");
    }
    assert!(may(&["list", "events", "-A"]).await && may(&["watch", "events", "-A"]).await);
    for refused in [
        &["create", "pods", "--subresource=exec", "--namespace", "default"][..],
        &["deletecollection", "pods", "--namespace", "default"],
        &["patch", "replicasets", "--namespace", "default"],
        &["list", "replicasets", "--namespace", "default"],
        &["get", "deployments", "--namespace", "default"],
        &["get", "secrets", "--namespace", "default"],
        &["list", "secrets", "--namespace", NAMESPACE],
        &["get", "secrets/another", "--namespace", NAMESPACE],
        &["patch", "sidecarsets"],
        &["update", "sidecarsets"],
        &["delete", "sidecarsets"],
        &["patch", "mutatingwebhookconfigurations/another"],
        &["delete", "validatingwebhookconfigurations/another"],
        &["patch", "customresourcedefinitions"],
        &["create", "clusterrolebindings"],
        // config/dry_run_tenants lets it, and is not installed.
        &["impersonate", "serviceaccounts/sidecarset-dry-run", "--namespace", NAMESPACE],
        &["create", "controllerrevisions", "--namespace", "default"],
        &["update", "leases/another", "--namespace", NAMESPACE],
    ] {
        assert!(!may(refused).await, "the operator may {}", refused.join(" "));
    }
}

#[test]
fn the_deployment_is_hardened() {
    let yaml = std::fs::read_to_string(repository("config/manager/deployment.yaml")).unwrap();
    let deployment = documents(&yaml).remove(0);
    assert_eq!(deployment["spec"]["replicas"], 2);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["serviceAccountName"], "sidecarset-operator");
    assert_eq!(pod["priorityClassName"], "sidecarset-operator");
    let container = &pod["containers"][0];
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert!(container["resources"]["limits"]["memory"].is_string());
}
