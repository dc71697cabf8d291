use super::*;
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "logs"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": "agent:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }
    })
}

/// The base set with `value` put at a JSON pointer; `-` appends.
fn with(pointer: &str, value: Value) -> SidecarSet {
    let mut set = base();
    let op = json!([{"op": "add", "path": pointer, "value": value}]);
    let patch: json_patch::Patch = serde_json::from_value(op).unwrap();
    json_patch::patch(&mut set, &patch).unwrap();
    serde_json::from_value(set).unwrap()
}

fn paths(set: &SidecarSet) -> Vec<String> {
    validate(set).errors.into_iter().map(|e| e.path).collect()
}

#[test]
fn a_plain_set_is_valid_without_warnings() {
    assert_eq!(validate(&serde_json::from_value(base()).unwrap()), Report::default());
}

#[test]
fn each_rule_names_the_field_it_refuses() {
    let agent = |field: &str, value: Value| (format!("/spec/containers/0/{field}"), value);
    let cases = [
        (agent("name", json!("Agent")), "spec.containers[0].name"),
        (agent("image", json!(" agent")), "spec.containers[0].image"),
        (agent("restartPolicy", json!("Always")), "spec.containers[0].restartPolicy"),
        (agent("env", json!([{"name": "A=B"}])), "spec.containers[0].env[0].name"),
        (agent("env", json!([{"name": "A", "value": "1", "valueFrom": {}}])), "spec.containers[0].env[0]"),
        (agent("ports", json!([{"containerPort": 70000}])), "spec.containers[0].ports[0].containerPort"),
        (agent("ports", json!([{"containerPort": 1, "protocol": "tcp"}])), "spec.containers[0].ports[0].protocol"),
        (agent("resources", json!({"limits": {"cpu": "10foo"}})), "spec.containers[0].resources.limits.cpu"),
        (agent("resources", json!({"limits": {"cpu": "-1"}})), "spec.containers[0].resources.limits.cpu"),
        (
            agent("resources", json!({"limits": {"cpu": 1}, "requests": {"cpu": "1001m"}})),
            "spec.containers[0].resources.requests.cpu",
        ),
        (agent("readinessProbe", json!({})), "spec.containers[0].readinessProbe"),
        (agent("env", json!([{"name": "A", "valueFrom": {}}])), "spec.containers[0].env[0].valueFrom"),
        (agent("envFrom", json!([{"prefix": "A"}])), "spec.containers[0].envFrom[0]"),
        (agent("lifecycle", json!({"preStop": {}})), "spec.containers[0].lifecycle.preStop"),
        (
            agent("ports", json!([{"containerPort": 1, "name": "more-than-fifteen"}])),
            "spec.containers[0].ports[0].name",
        ),
        (
            agent("livenessProbe", json!({"exec": {}, "successThreshold": 2})),
            "spec.containers[0].livenessProbe.successThreshold",
        ),
        (
            agent("volumeMounts", json!([{"name": "v", "mountPath": "/x", "subPath": "a/../b"}])),
            "spec.containers[0].volumeMounts[0].subPath",
        ),
        (agent("volumeMounts", json!([{"name": "x", "mountPath": "/x"}])), "spec.containers[0].volumeMounts[0].name"),
        (
            agent("volumeMounts", json!([{"name": "v", "mountPath": "/x", "subPath": "a", "subPathExpr": "b"}])),
            "spec.containers[0].volumeMounts[0]",
        ),
        (("/spec/volumes".into(), json!([{"name": "v"}])), "spec.volumes[0]"),
        (("/spec/volumes/-".into(), json!({"name": "v", "emptyDir": {}})), "spec.volumes[1].name"),
        (
            ("/spec/initContainers".into(), json!([{"name": "i", "image": "i", "restartPolicy": "Never"}])),
            "spec.initContainers[0].restartPolicy",
        ),
        (
            ("/spec/initContainers".into(), json!([{"name": "i", "image": "i", "startupProbe": {"exec": {}}}])),
            "spec.initContainers[0].startupProbe",
        ),
        (("/spec/initContainers".into(), json!([{"name": "agent", "image": "i"}])), "spec.containers[0].name"),
        (("/spec/selector".into(), json!({"matchLabels": {"a b": "c"}})), "spec.selector.matchLabels[a b]"),
        (
            ("/spec/selector".into(), json!({"matchExpressions": [{"key": "a", "operator": "Is"}]})),
            "spec.selector.matchExpressions[0].operator",
        ),
        (
            ("/spec/namespaceSelector".into(), json!({"matchLabels": {"a": "b c"}})),
            "spec.namespaceSelector.matchLabels[a]",
        ),
        (
            ("/spec/patchPodMetadata".into(), json!([{"annotations": {"sidecarset.dev/x": "1"}}])),
            "spec.patchPodMetadata[0].annotations[sidecarset.dev/x]",
        ),
        (("/spec/patchPodMetadata".into(), json!([{"annotations": {}}])), "spec.patchPodMetadata[0].annotations"),
        (("/spec/customVersion".into(), json!("a b")), "spec.customVersion"),
    ];
    for ((pointer, value), path) in cases {
        assert_eq!(paths(&with(&pointer, value.clone())), [path], "{pointer} = {value}");
    }
}

#[test]
fn what_is_not_built_yet_is_refused() {
    let cases = [
        ("/spec/resources", json!({"mode": "SharedWithPod"}), "spec.resources"),
        ("/spec/containers/0/dependsOn", json!(["app"]), "spec.containers[0].dependsOn"),
        ("/spec/containers/0/transferEnv", json!([{"envName": "A"}]), "spec.containers[0].transferEnv"),
        ("/spec/containers/0/shareVolumePolicy", json!({"type": "enabled"}), "spec.containers[0].shareVolumePolicy"),
        (
            "/spec/containers/0/upgradeStrategy",
            json!({"upgradeType": "HotUpgrade"}),
            "spec.containers[0].upgradeStrategy HotUpgrade",
        ),
        ("/spec/injectionStrategy", json!({"newPods": "Latest"}), "spec.injectionStrategy.newPods"),
        ("/spec/injectionStrategy", json!({"revision": {"revisionName": "x"}}), "spec.injectionStrategy.revision"),
        ("/spec/updateStrategy", json!({"steps": [{"replicas": 1}]}), "spec.updateStrategy.steps"),
        ("/spec/updateStrategy", json!({"failurePolicy": {}}), "spec.updateStrategy.failurePolicy"),
        ("/spec/updateStrategy", json!({"prePull": true}), "spec.updateStrategy.prePull"),
        ("/spec/updateStrategy", json!({"whenNotInPlace": "Evict"}), "spec.updateStrategy.whenNotInPlace"),
        ("/spec/updateStrategy", json!({"progressDeadlineSeconds": 1}), "spec.updateStrategy.progressDeadlineSeconds"),
        (
            "/spec/updateStrategy",
            json!({"maxUnavailablePerWorkload": 1}),
            "spec.updateStrategy.maxUnavailablePerWorkload",
        ),
        (
            "/metadata/annotations",
            json!({"sidecarset.dev/canary": "true"}),
            "metadata.annotations[sidecarset.dev/canary]",
        ),
    ];
    for (pointer, value, path) in cases {
        assert_eq!(paths(&with(pointer, value)), [path], "{pointer}");
    }
}

#[test]
fn values_that_mean_the_default_of_an_unsupported_field_are_accepted() {
    for (field, value) in
        [("shareVolumePolicy", json!({"type": "disabled"})), ("upgradeStrategy", json!({"upgradeType": "ColdUpgrade"}))]
    {
        assert_eq!(paths(&with(&format!("/spec/containers/0/{field}"), value)), Vec::<String>::new(), "{field}");
    }
}

#[test]
fn risky_but_legal_input_is_warned_about() {
    let set = with("/spec/volumes/-", json!({"name": "unused", "emptyDir": {}}));
    assert_eq!(validate(&set).warnings.len(), 1);
    let set = with("/spec/selector", json!({"matchExpressions": [{"key": "job-name", "operator": "Exists"}]}));
    assert_eq!(validate(&set).warnings.len(), 1);
}

#[test]
fn sets_on_the_same_pods_must_not_share_names() {
    let set: SidecarSet = serde_json::from_value(base()).unwrap();
    let mut other = with("/spec/selector", json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}));
    other.metadata.name = Some("other".into());
    let found: Vec<_> = conflicts(&set, [&other]).into_iter().map(|e| e.path).collect();
    assert_eq!(found, ["spec.containers[0].name"]);

    let mut elsewhere = with("/spec/selector", json!({"matchLabels": {"app": "db"}}));
    elsewhere.metadata.name = Some("elsewhere".into());
    assert_eq!(conflicts(&set, [&set, &elsewhere]), []);
}
