//! Injection beyond placing containers: order, sharing, twins, metadata, revisions, canaries, conflicts.

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::raw::{SETS, post};
use crate::common::world::{World, condition, container, container_image, lists};

fn app() -> Value {
    json!({"containers": [{"name": "app", "image": "app:v1"}]})
}

/// A second set on the same pods.
fn second(world: &World, spec: Value) -> Value {
    let mut set = world.set("unused", json!({}));
    set["metadata"]["name"] = json!(format!("{}-2", world.name));
    set["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    set
}

async fn dry_run(world: &World, spec: &Value) -> (Pod, Vec<String>) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "dry", "labels": {"app": world.name}}, "spec": spec});
    let answer = post(&world.client, &format!("/api/v1/namespaces/{}/pods?dryRun=All", world.name), &pod).await;
    let warnings = answer.warnings.clone();
    (serde_json::from_value(answer.accepted()).unwrap(), warnings)
}

#[tokio::test]
async fn sidecars_of_several_sets_start_in_the_order_that_they_depend_on_each_other() {
    let world = World::shared("feature-order").await;
    let native = |name: &str, depends_on: Value| {
        json!({"name": name, "image": "native:v1", "restartPolicy": "Always", "dependsOn": depends_on,
            "startupProbe": {"tcpSocket": {"port": 3306}}})
    };
    let mut first = world.set("agent:v1", json!({}));
    first["spec"]["containers"] = json!([{"name": "post", "image": "post:v1", "dependsOn": ["app"]}]);
    first["spec"]["initContainers"] = json!([native("mysql-client", json!(["proxy"]))]);
    let unknown = post(&world.client, &format!("{SETS}?dryRun=All"), &first).await;
    assert!(unknown.refusal().contains("spec.initContainers[0].dependsOn: \"proxy\" is neither app"), "{unknown:?}");

    world.apply(&second(&world, json!({"containers": [], "initContainers": [native("proxy", json!([]))]}))).await;
    world.apply(&first).await;
    let (pod, _) = dry_run(&world, &app()).await;
    assert_eq!(lists(&pod), (vec!["app", "post"], vec!["proxy", "mysql-client"]));

    let circle =
        second(&world, json!({"containers": [], "initContainers": [native("proxy", json!(["mysql-client"]))]}));
    let answer = crate::common::raw::merge(&world.client, &format!("{SETS}/{}-2", world.name), &circle).await;
    assert!(answer.refusal().contains("goes in a circle"), "{answer:?}");
    world.remove_set(&format!("{}-2", world.name)).await;
    world.end().await;
}

#[tokio::test]
async fn mounts_devices_and_variables_are_taken_over_from_the_application() {
    let world = World::shared("feature-share").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["containers"] = json!([{"name": "agent", "image": "agent:v1",
    "shareVolumePolicy": {"type": "enabled"}, "shareVolumeDevicePolicy": {"type": "enabled"},
    "transferEnv": [
        {"sourceContainerName": "app", "envNames": ["MODE", "SECRET"]},
        {"sourceContainerNameFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}, "envName": "MODE"},
    ]}]);
    world.apply(&set).await;
    let spec = json!({
        "containers": [{"name": "app", "image": "app:v1",
            "env": [{"name": "MODE", "value": "fast"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data", "subPathExpr": "$(POD)"}],
            "volumeDevices": [{"name": "disk", "devicePath": "/dev/disk"}]}],
        "initContainers": [{"name": "init", "image": "init:v1", "volumeMounts": [{"name": "seed", "mountPath": "/seed"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "seed", "emptyDir": {}},
            {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
    });
    let (pod, warnings) = dry_run(&world, &spec).await;
    let agent = container(&pod, "agent");
    let paths: Vec<&str> = agent.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    assert!(paths.contains(&"/data") && paths.contains(&"/seed"), "{paths:?}");
    assert_eq!(agent.volume_devices.as_ref().unwrap()[0].device_path, "/dev/disk");
    let of_app = |name: &str| -> EnvVar {
        container(&pod, "app").env.iter().flatten().find(|e| e.name == name).unwrap().clone()
    };
    for name in ["MODE", "SECRET", "POD"] {
        assert!(agent.env.as_ref().unwrap().contains(&of_app(name)), "{name} in {:?}", agent.env);
    }
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(
        warning.contains("the pod has no container \"feature-share\" to take environment variables from"),
        "{warning}"
    );
    world.end().await;
}

#[tokio::test]
async fn a_hot_upgrade_sidecar_runs_as_two_twins_and_the_rollout_is_done() {
    let world = World::shared("feature-hot").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["containers"] = json!([{"name": "mesh", "image": "mesh:v1",
        "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:v1"}}]);
    world.apply(&set).await;
    world.deploy(2).await;
    for pod in world.pods().await {
        assert_eq!(lists(&pod).0, ["mesh-1", "mesh-2", "app"]);
        assert_eq!(
            (container_image(&pod, "mesh-1"), container_image(&pod, "mesh-2")),
            ("mesh:v1".into(), "empty:v1".into())
        );
        assert_eq!(pod.annotations()["version.sidecarset.dev/mesh-1"], "1");
    }
    let done = |set: &sidecarset::api::SidecarSet| set.status.as_ref().is_some_and(|s| s.updated_ready_pods == 2);
    world.until_set("the twins count as updated", done).await;
    world.end().await;
}

#[tokio::test]
async fn labels_and_json_annotations_are_patched() {
    let world = World::shared("feature-metadata").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["patchPodMetadata"] = json!([
        {"labels": {"example.com/team": "platform"}},
        {"annotations": {"example.com/oom": "{\"agent\":1}"}, "patchPolicy": "MergePatchJson"},
    ]);
    world.apply(&set).await;
    let pod = json!({"metadata": {"name": "own", "labels": {"app": world.name, "example.com/team": "mine"},
        "annotations": {"example.com/oom": "{\"app\":2}"}}, "spec": app()});
    let pod = world.create(pod).await.unwrap();
    assert_eq!(pod.labels()["example.com/team"], "mine");
    let merged: Value = serde_json::from_str(&pod.annotations()["example.com/oom"]).unwrap();
    assert_eq!(merged, json!({"app": 2, "agent": 1}));
    assert_eq!(world.pod("other", app()).await.unwrap().labels()["example.com/team"], "platform");
    set["spec"]["patchPodMetadata"] = json!([{"labels": {"pod-template-hash": "x"}}]);
    let refused = post(&world.client, &format!("{SETS}?dryRun=All"), &second(&world, set["spec"].clone())).await;
    assert!(refused.refusal().contains("by which Kubernetes' controllers find their pods"), "{refused:?}");
    world.end().await;
}

#[tokio::test]
async fn with_all_defaults_an_env_change_reaches_the_pods_of_a_restart_and_an_image_is_rolled_out_first() {
    let world = World::shared("feature-new-pods").await;
    let mut set = world.set("agent:v1", json!({}));
    world.apply(&set).await;
    world.deploy(3).await;
    world.until_set("v1 is stable", |set| set.status.as_ref().unwrap().stable_revision.is_some()).await;

    // A bad image: the first pod fails, and new pods get the stable revision.
    set["spec"]["containers"][0]["image"] = json!("agent:nopull");
    // Not given up, or newPods would not matter.
    set["spec"]["updateStrategy"] = json!({"podUpdateTimeoutSeconds": 3600, "failurePolicy": {"action": "Ignore"}});
    world.apply(&set).await;
    world.until_set("one pod has failed", |set| set.status.as_ref().unwrap().failed_pods == 1).await;
    let (pod, _) = dry_run(&world, &app()).await;
    assert_eq!(container_image(&pod, "agent"), "agent:v1");
    set["spec"]["injectionStrategy"] = json!({"newPods": "Latest"});
    world.apply(&set).await;
    assert_eq!(container_image(&dry_run(&world, &app()).await.0, "agent"), "agent:nopull");

    set["spec"]["injectionStrategy"] = json!({});
    set["spec"]["containers"][0] =
        json!({"name": "agent", "image": "agent:v1", "env": [{"name": "NEW", "value": "1"}]});
    world.apply(&set).await;
    world.until_set("nothing can be done in place", |set| set.status.as_ref().unwrap().not_in_place_pods == 3).await;
    let restart =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}});
    let deployments: Api<Deployment> = world.api();
    deployments.patch("app", &PatchParams::default(), &Patch::Merge(&restart)).await.unwrap();
    let all_new = |set: &sidecarset::api::SidecarSet| {
        set.status.as_ref().is_some_and(|s| (s.updated_pods, s.not_in_place_pods) == (s.matched_pods, 0))
    };
    world.until_set("the restarted pods have the new revision", all_new).await;
    world.end().await;
}

#[tokio::test]
async fn a_pinned_revision_is_what_new_pods_get() {
    let world = World::shared("feature-pinned").await;
    let mut set = world.set("agent:v1", json!({"type": "NotUpdate"}));
    set["spec"]["customVersion"] = json!("one");
    world.apply(&set).await;
    world.until_set("its revision exists", |set| set.status.as_ref().unwrap().latest_revision.is_some()).await;
    set["spec"]["customVersion"] = json!("two");
    set["spec"]["containers"][0]["image"] = json!("agent:v2");
    world.apply(&set).await;
    assert_eq!(container_image(&dry_run(&world, &app()).await.0, "agent"), "agent:v2");
    set["spec"]["injectionStrategy"] = json!({"revision": {"customVersion": "one"}});
    world.apply(&set).await;
    assert_eq!(container_image(&dry_run(&world, &app()).await.0, "agent"), "agent:v1");
    set["spec"]["injectionStrategy"] = json!({"revision": {"customVersion": "three"}});
    let refused = crate::common::raw::merge(&world.client, &format!("{SETS}/{}", world.name), &set).await;
    assert!(refused.refusal().contains("customVersion \"three\" is not in the history"), "{refused:?}");
    world.end().await;
}

#[tokio::test]
async fn a_canary_takes_its_bases_place_and_its_pods_come_back_to_the_base() {
    let world = World::shared("feature-canary").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    let name = format!("{}-2", world.name);
    let labels = json!({"app": world.name, "stage": "canary"});
    let mut canary = second(&world, json!({"selector": {"matchLabels": labels}}));
    canary["metadata"]["annotations"] = json!({"sidecarset.dev/canary": "true", "sidecarset.dev/base": world.name});
    canary["spec"]["containers"] = json!([{"name": "agent", "image": "agent:v2"}]);
    world.apply(&canary).await;
    let pod = world.create(json!({"metadata": {"name": "chosen", "labels": labels}, "spec": app()})).await.unwrap();
    assert_eq!(container_image(&pod, "agent"), "agent:v2");
    assert_eq!(container_image(&world.pod("usual", app()).await.unwrap(), "agent"), "agent:v1");
    let key = |set: &str| format!("revision.sidecarset.dev/{set}");
    assert!(pod.labels().contains_key(&key(&name)) && !pod.labels().contains_key(&key(&world.name)));
    // An update of the base is not refused because of its canary.
    let mut base = world.set("agent:v1", json!({"paused": false}));
    base["spec"]["customVersion"] = json!("3");
    world.apply(&base).await;
    let revision = world.until_named(&name, "the canary has a revision", |set| {
        set.status.as_ref().is_some_and(|status| status.update_revision.is_some())
    });
    let hash = revision.await.status.unwrap().update_revision.unwrap();
    let revisions: Api<ControllerRevision> = Api::namespaced(world.client.clone(), "sidecarset-system");
    eventually("the base knows the canary's revision", async || revisions.get(&format!("{}-{hash}", world.name)).await)
        .await;

    world.remove_set(&name).await;
    let pods: Api<Pod> = world.api();
    eventually("the pod belongs to the base", async || {
        let labels = pods.get("chosen").await.unwrap().labels().clone();
        if labels.contains_key(&key(&world.name)) && !labels.contains_key(&key(&name)) { Ok(()) } else { Err(labels) }
    })
    .await;
    assert_eq!(pods.get("chosen").await.unwrap().labels()["sidecarset.dev/injected"], "true");
    eventually("the base brings it back to its own image", async || {
        let image = container_image(&pods.get("chosen").await.unwrap(), "agent");
        if image == "agent:v1" { Ok(()) } else { Err(image) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn sets_that_conflict_in_spite_of_admission_both_say_so() {
    let world = World::shared("feature-conflict").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    let clashing = second(
        &world,
        json!({"containers": [{"name": "agent", "image": "other:v1"}],
        "selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}),
    );
    let refused = post(&world.client, SETS, &clashing).await;
    assert!(refused.refusal().contains("has a container \"agent\""), "{refused:?}");
    let mut paused = clashing.clone();
    paused["spec"]["updateStrategy"] = json!({"paused": true});
    world.apply_unchecked(&paused).await;
    let name = format!("{}-2", world.name);
    world.until_named(&name, "the second says so", |set| condition(set, "Conflicting") == "True").await;
    world.until_set("the first says so", |set| condition(set, "Conflicting") == "True").await;
    let (pod, warnings) = dry_run(&world, &app()).await;
    assert_eq!(container_image(&pod, "agent"), "agent:v1");
    assert!(warnings[0].contains(&format!("SidecarSet \"{name}\" is not injected")), "{warnings:?}");
    world.remove_set(&name).await;
    world.until_set("the first has no conflict any more", |set| condition(set, "Conflicting") == "False").await;
    world.end().await;
}
