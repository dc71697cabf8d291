//! Sets with `failurePolicy: Ignore` that select the pods of [`super::pod`].

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::containers::{Kind, container, fit_volumes};
use super::values::{
    Any, Member, always, either, elements, elements_mut, flag, list, object, often, one_of, rarely, remove, retain,
    sometimes, unique,
};
use super::volumes;

const SIDECARS: [&str; 8] = [
    "agent",
    "fluentd",
    "proxy",
    "mesh",
    "log",
    "1",
    "web",
    "s23456789-123456789-123456789-123456789-123456789-123456789-1",
];

/// A set of one of these names.
pub fn set(names: &[&'static str]) -> Any {
    let metadata = object(vec![always("name", one_of(names.iter().copied()))]);
    (metadata, spec())
        .prop_map(|(metadata, spec)| {
            let spec = settled(spec);
            json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": metadata, "spec": spec})
        })
        .sboxed()
}

fn spec() -> Any {
    let init = either([
        container(Kind::Init, &SIDECARS, sharing()),
        container(Kind::Native, &SIDECARS, sharing()),
        container(Kind::Native, &SIDECARS, sharing()),
    ]);
    object(vec![
        always(
            "selector",
            one_of([
                json!({"matchLabels": {"app": "web"}}),
                json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]}),
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}),
            ]),
        ),
        always("containers", list(container(Kind::Ordinary, &SIDECARS, of_ordinary()), 0..3)),
        ("initContainers", 0.4, list(init, 0..3)),
        ("volumes", 0.8, list(volumes::volume(), 0..5)),
        ("podVolumes", 0.3, list(object(vec![always("name", one_of(volumes::NAMES))]), 1..4)),
        sometimes("imagePullSecrets", one_of([json!([{"name": "registry"}]), json!([{"name": "a"}, {"name": "own"}])])),
        sometimes("patchPodMetadata", list(metadata(), 1..3)),
        sometimes(
            "resources",
            object(vec![often("mode", one_of(["Additive", "SharedWithPod"])), sometimes("preserveQoS", flag())]),
        ),
        sometimes("jobPods", one_of(["Native", "Warn"])),
        sometimes("injectionStrategy", one_of([json!({"failurePolicy": "Ignore"}), json!({"newPods": "Latest"})])),
    ])
}

/// What containers of both lists may have.
fn sharing() -> Vec<Member> {
    let share = || one_of([json!({"type": "enabled"}), json!({"type": "enabled"}), json!({"type": "disabled"})]);
    vec![
        ("shareVolumePolicy", 0.4, share()),
        ("shareVolumeDevicePolicy", 0.3, share()),
        ("transferEnv", 0.3, list(transfer(), 0..3)),
        sometimes("resourcesPolicy", resources_policy()),
        rarely("dependsOn", list(one_of(["agent", "proxy", "app", "other"]), 1..2)),
    ]
}

fn of_ordinary() -> Vec<Member> {
    let more = vec![
        sometimes("podInjectPolicy", one_of(["BeforeAppContainer", "AfterAppContainer"])),
        (
            "upgradeStrategy",
            0.1,
            one_of([
                json!({"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:v1"}),
                json!({"upgradeType": "ColdUpgrade"}),
            ]),
        ),
    ];
    sharing().into_iter().chain(more).collect()
}

fn transfer() -> Any {
    let names = || list(one_of(["A", "REGION", "LOG_DIR", "POD_NAME", "a.b-c", "odd name!"]), 1..3);
    either([
        object(vec![always("sourceContainerName", one_of(["app", "web", "none"])), always("envNames", names())]),
        object(vec![always("sourceContainerName", one_of(["app", "agent"])), always("envName", one_of(["A", "TEAM"]))]),
        object(vec![
            always("sourceContainerNameFrom", one_of([json!({"fieldRef": {"fieldPath": "metadata.labels['main']"}})])),
            always("envNames", names()),
        ]),
    ])
}

fn resources_policy() -> Any {
    let amounts = || {
        object(vec![
            often("cpu", one_of(["cpu*50%", "cpu * 200%", "max(cpu*50%, 50m)", "cpu", "100m", "min(cpu, 1)"])),
            often("memory", one_of(["memory*50%", "max(memory, 1Gi)", "64Mi", "memory * 300%"])),
        ])
    };
    let both = || object(vec![always("limits", amounts()), always("requests", amounts())]);
    object(vec![
        always("targetContainersMode", one_of(["sum", "max"])),
        sometimes("targetContainersNameRegex", one_of(["^app$", ".*", "none"])),
        always(
            "resourcesExpr",
            either([both(), both(), object(vec![always("limits", one_of([json!({"cpu": "cpu*50%"})]))])]),
        ),
    ])
}

fn metadata() -> Any {
    object(vec![
        often(
            "labels",
            object(vec![often("team", one_of(["a", "", "B_c.d"])), rarely("pod-template-hash-2", one_of(["x"]))]),
        ),
        often(
            "annotations",
            object(vec![
                often("a/b", one_of(["2", "{\"b\": 2}"])),
                sometimes("team/config", one_of(["{\"a\": null}", "[1]"])),
                sometimes(
                    "container.apparmor.security.beta.kubernetes.io/app",
                    one_of(["runtime/default", "unconfined"]),
                ),
                sometimes("container.seccomp.security.alpha.kubernetes.io/app", one_of(["runtime/default"])),
                sometimes("seccomp.security.alpha.kubernetes.io/pod", one_of(["unconfined", "docker/default"])),
                rarely("controller.kubernetes.io/pod-deletion-cost", one_of(["100"])),
                sometimes("example.com/large", one_of(["y".repeat(1_000)])),
            ]),
        ),
        often("patchPolicy", one_of(["Retain", "Overwrite", "MergePatchJson"])),
    ])
}

/// Without most of what the schema and `validate` refuse.
fn settled(mut spec: Value) -> Value {
    unique(&mut spec, "volumes", "name");
    unique(&mut spec, "podVolumes", "name");
    // Of the pod's own volumes some can be a device.
    let claim = |volume: &Value| json!({"name": volume["name"], "persistentVolumeClaim": {"claimName": "claim"}});
    let of_pods = elements(&spec, "podVolumes").map(claim);
    let volumes: Vec<Value> = elements(&spec, "volumes").cloned().chain(of_pods).collect();
    let mut names = BTreeSet::new();
    let shared = spec["resources"]["mode"] == "SharedWithPod";
    for list in ["initContainers", "containers"] {
        retain(&mut spec, list, |container| names.insert(container["name"].to_string()));
        for container in elements_mut(&mut spec, list) {
            fit_volumes(container, &volumes);
            unique(container, "env", "name");
            let own = container["name"].clone();
            // An init container starts after others of its kind only.
            let later = |name: &Value| list == "initContainers" && !names.contains(&name.to_string());
            retain(container, "dependsOn", |name| *name != own && !later(name));
            let ends = list == "initContainers" && container["restartPolicy"].is_null();
            let expressions = &container["resourcesPolicy"]["resourcesExpr"];
            if ends || shared || expressions.to_string().len() < 30 {
                remove(container, "", &["resourcesPolicy"]);
            }
            if shared || container["resourcesPolicy"].is_object() {
                remove(container, "/resources", &["requests", "limits"]);
            }
            if list == "containers" {
                remove(container, "", &["restartPolicy", "restartPolicyRules"]);
            }
        }
    }
    if names.is_empty() {
        spec["containers"] = json!([{"name": "agent", "image": "agent:v1"}]);
    }
    settle_metadata(&mut spec);
    spec
}

/// A key is set once, and JSON is merged into annotations only.
fn settle_metadata(spec: &mut Value) {
    let mut seen = BTreeSet::new();
    for patch in elements_mut(spec, "patchPodMetadata") {
        if patch["patchPolicy"] == "MergePatchJson" {
            remove(patch, "", &["labels"]);
        }
        let merges = patch["patchPolicy"] == "MergePatchJson";
        for map in ["labels", "annotations"] {
            if let Some(map) = patch.get_mut(map).and_then(Value::as_object_mut) {
                map.retain(|key, value| {
                    let is_json = || value.as_str().is_some_and(|text| serde_json::from_str::<Value>(text).is_ok());
                    (!merges || is_json()) && seen.insert(key.clone())
                });
            }
        }
    }
    let is_empty = |map: &Value| map.as_object().is_none_or(serde_json::Map::is_empty);
    retain(spec, "patchPodMetadata", |patch| !is_empty(&patch["labels"]) || !is_empty(&patch["annotations"]));
}
