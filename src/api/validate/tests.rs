use serde_json::{Value, json};

use super::*;
use crate::api::v1beta1::SidecarSetStatus;

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

fn problems(set: &SidecarSet) -> Problems {
    check(set, &Allowed::default()).1
}

fn valid(set: &SidecarSet) -> ValidSidecarSet {
    validate(set).unwrap()
}

fn paths(set: &SidecarSet) -> Vec<String> {
    problems(set).errors.into_iter().map(|e| e.path).collect()
}

#[test]
fn a_plain_set_is_valid_without_warnings() {
    assert_eq!(problems(&serde_json::from_value(base()).unwrap()), Problems::default());
}

fn agent(field: &str, value: Value) -> (String, Value) {
    (format!("/spec/containers/0/{field}"), value)
}

fn refused<const N: usize>(cases: [((String, Value), &str); N]) {
    for ((pointer, value), path) in cases {
        assert_eq!(paths(&with(&pointer, value.clone())), [path], "{pointer} = {value}");
    }
}

#[test]
fn each_rule_names_the_field_it_refuses() {
    let cases = [
        (agent("name", json!("Agent")), "spec.containers[0].name"),
        (agent("image", json!(" agent")), "spec.containers[0].image"),
        (agent("restartPolicy", json!("Always")), "spec.containers[0].restartPolicy"),
        (agent("env", json!([{"name": "A=B"}])), "spec.containers[0].env[0].name"),
        (agent("env", json!([{"name": "A", "value": "1", "valueFrom": {}}])), "spec.containers[0].env[0]"),
        (
            agent(
                "env",
                json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "w", "path": "p", "key": "k"}}}]),
            ),
            "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName",
        ),
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
        (("/spec/podVolumes".into(), json!([{"name": "a b"}])), "spec.podVolumes[0].name"),
        (("/spec/podVolumes".into(), json!([{"name": "v"}, {"name": "v"}])), "spec.podVolumes[1].name"),
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
        (("/spec/patchPodMetadata".into(), json!([{"annotations": {}}])), "spec.patchPodMetadata[0]"),
        (("/spec/customVersion".into(), json!("a b")), "spec.customVersion"),
    ];
    refused(cases);
}

#[test]
fn each_rule_about_our_own_fields_names_the_field_it_refuses() {
    let cases = [
        (
            ("/spec/patchPodMetadata".into(), json!([{"labels": {"pod-template-hash": "x"}}])),
            "spec.patchPodMetadata[0].labels[pod-template-hash]",
        ),
        (
            (
                "/spec/patchPodMetadata".into(),
                json!([{"annotations": {"container.apparmor.security.beta.kubernetes.io/app": "unconfined"}}]),
            ),
            "spec.patchPodMetadata[0].annotations[container.apparmor.security.beta.kubernetes.io/app]",
        ),
        (("/spec/patchPodMetadata".into(), json!([{"labels": {"app": "x"}}])), "spec.patchPodMetadata[0].labels[app]"),
        (("/spec/patchPodMetadata".into(), json!([{"labels": {"a": "x y"}}])), "spec.patchPodMetadata[0].labels[a]"),
        (
            ("/spec/patchPodMetadata".into(), json!([{"annotations": {"a": "x"}, "patchPolicy": "MergePatchJson"}])),
            "spec.patchPodMetadata[0].annotations[a]",
        ),
        (agent("transferEnv", json!([{"envName": "A"}])), "spec.containers[0].transferEnv[0]"),
        (agent("transferEnv", json!([{"sourceContainerName": "app"}])), "spec.containers[0].transferEnv[0]"),
        (
            agent(
                "transferEnv",
                json!([{"envName": "A", "sourceContainerNameFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]),
            ),
            "spec.containers[0].transferEnv[0].sourceContainerNameFrom.fieldRef.fieldPath",
        ),
        (
            agent("upgradeStrategy", json!({"upgradeType": "HotUpgrade"})),
            "spec.containers[0].upgradeStrategy.hotUpgradeEmptyImage",
        ),
        (
            agent("upgradeStrategy", json!({"hotUpgradeEmptyImage": "e"})),
            "spec.containers[0].upgradeStrategy.hotUpgradeEmptyImage",
        ),
        (
            (
                "/spec/containers/-".into(),
                json!({"name": "agent-1", "image": "i", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": ""}}),
            ),
            "spec.containers[1].upgradeStrategy.hotUpgradeEmptyImage",
        ),
        (agent("dependsOn", json!(["agent"])), "spec.containers[0].dependsOn"),
        (("/spec/injectionStrategy".into(), json!({"revision": {}})), "spec.injectionStrategy.revision"),
        (
            ("/metadata/annotations".into(), json!({"sidecarset.dev/canary": "true"})),
            "metadata.annotations[sidecarset.dev/base]",
        ),
        (
            ("/metadata/annotations".into(), json!({"sidecarset.dev/canary": "true", "sidecarset.dev/base": "logs"})),
            "metadata.annotations[sidecarset.dev/base]",
        ),
    ];
    refused(cases);
}

#[test]
fn an_update_strategy_that_means_nothing_is_refused() {
    let cases = [
        (json!({"steps": [{"replicas": 5}, {"replicas": 4}]}), "spec.updateStrategy.steps[1].replicas"),
        (json!({"steps": [{"replicas": "50%"}, {"replicas": "5%"}]}), "spec.updateStrategy.steps[1].replicas"),
        (
            json!({"priorityStrategy": {"weightPriority": [{"weight": 1, "matchSelector": {}}]}}),
            "spec.updateStrategy.priorityStrategy.weightPriority[0].matchSelector",
        ),
        (
            json!({"priorityStrategy": {"orderPriority": [{"orderedKey": "not a key"}]}}),
            "spec.updateStrategy.priorityStrategy.orderPriority[0].orderedKey",
        ),
        (json!({"scatterStrategy": [{"key": "a/b/c", "value": "*"}]}), "spec.updateStrategy.scatterStrategy[0].key"),
        (json!({"scatterStrategy": [{"key": "a", "value": "**"}]}), "spec.updateStrategy.scatterStrategy[0].value"),
        (
            json!({"scatterStrategy": [{"key": "a", "value": "b"}, {"key": "a", "value": "b"}]}),
            "spec.updateStrategy.scatterStrategy[1]",
        ),
    ];
    for (value, path) in cases {
        assert_eq!(paths(&with("/spec/updateStrategy", value)), [path]);
    }
    let fine = json!({"steps": [{"replicas": 5}, {"replicas": "1%"}, {"replicas": "1%", "pause": {}}],
        "scatterStrategy": [{"key": "a", "value": "b"}, {"key": "a", "value": "*"}]});
    assert_eq!(paths(&with("/spec/updateStrategy", fine)), [""; 0]);
}

#[test]
fn risky_but_legal_input_is_warned_about() {
    let set = with("/spec/volumes/-", json!({"name": "unused", "emptyDir": {}}));
    assert_eq!(valid(&set).warnings().len(), 1);
    let set = with("/spec/podVolumes", json!([{"name": "unused"}, {"name": "v"}]));
    assert_eq!(valid(&set).warnings(), ["spec.podVolumes[0]: no container mounts volume \"unused\""]);
    let set = with("/spec/selector", json!({"matchExpressions": [{"key": "job-name", "operator": "Exists"}]}));
    assert_eq!(valid(&set).warnings().len(), 1);
    let set = with("/spec/updateStrategy", json!({"minReadySeconds": 600}));
    assert!(valid(&set).warnings()[0].starts_with("spec.updateStrategy.progressDeadlineSeconds: "));
}

#[test]
fn sets_on_the_same_pods_must_not_share_names() {
    let set: SidecarSet = serde_json::from_value(base()).unwrap();
    let mut other = with("/spec/selector", json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}));
    other.metadata.name = Some("other".into());
    let found: Vec<_> = conflicts(&valid(&set), [&valid(&other)]).into_iter().map(|e| e.path).collect();
    assert_eq!(found, ["spec.containers[0].name"]);

    let mut elsewhere = with("/spec/selector", json!({"matchLabels": {"app": "db"}}));
    elsewhere.metadata.name = Some("elsewhere".into());
    assert_eq!(conflicts(&valid(&set), [&valid(&set), &valid(&elsewhere)]), []);
}

/// A set with one container on the pods of the base, and something else.
fn named(name: &str, container: &str, extra: Value) -> SidecarSet {
    let mut set = base();
    set["metadata"]["name"] = json!(name);
    set["spec"]["containers"] = json!([{"name": container, "image": "i"}]);
    set["spec"].as_object_mut().unwrap().remove("volumes");
    for (pointer, value) in extra.as_object().unwrap() {
        let op = json!([{"op": "add", "path": pointer, "value": value}]);
        json_patch::patch(&mut set, &serde_json::from_value::<json_patch::Patch>(op).unwrap()).unwrap();
    }
    serde_json::from_value(set).unwrap()
}

fn conflict_paths(set: &SidecarSet, others: &[&SidecarSet]) -> Vec<String> {
    let others: Vec<ValidSidecarSet> = others.iter().map(|other| valid(other)).collect();
    conflicts(&valid(set), &others).into_iter().map(|e| e.path).collect()
}

#[test]
fn twins_of_a_hot_upgrade_count_as_names() {
    let hot = json!({"/spec/containers/0/upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e"}});
    let (a, b) = (named("a", "x", hot), named("b", "x-2", json!({})));
    assert_eq!(conflict_paths(&a, &[&b]), ["spec.containers[0].name"]);
    assert_eq!(conflict_paths(&b, &[&a]), ["spec.containers[0].name"]);
}

#[test]
fn metadata_keys_conflict_when_one_side_overwrites_or_selects_by_them() {
    let patch = |policy: &str, map: &str, key: &str| json!({"/spec/patchPodMetadata": [{map: {key: "{}"}, "patchPolicy": policy}]});
    let set = |name: &str, policy: &str| named(name, name, patch(policy, "annotations", "k"));
    let refused = "spec.patchPodMetadata[0].annotations[k]";
    for (a, b, expected) in [
        ("Retain", "Retain", vec![]),
        ("MergePatchJson", "MergePatchJson", vec![]),
        ("Overwrite", "Retain", vec![refused]),
        ("Retain", "Overwrite", vec![refused]),
    ] {
        assert_eq!(conflict_paths(&set("a", a), &[&set("b", b)]), expected, "{a} {b}");
    }
    let tier = json!({"/spec/selector": {"matchLabels": {"tier": "x"}}});
    let writes = named("a", "a", json!({"/spec/patchPodMetadata": [{"labels": {"tier": "x"}}]}));
    assert_eq!(conflict_paths(&writes, &[&named("b", "b", tier)]), ["spec.patchPodMetadata[0].labels[tier]"]);
}

#[test]
fn equal_volumes_of_two_sets_may_be_written_differently() {
    let volume = |name: &str, source: Value| named(name, name, json!({"/spec/volumes": [source]}));
    let token = |seconds: i64| json!({"serviceAccountToken": {"path": "t", "expirationSeconds": seconds}});
    for (a, b, same) in [
        (json!({"emptyDir": {"sizeLimit": "1Gi"}}), json!({"emptyDir": {"sizeLimit": "1024Mi", "medium": ""}}), true),
        (json!({"secret": {"secretName": "s"}}), json!({"secret": {"secretName": "s", "defaultMode": 420}}), true),
        (
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
            json!({"projected": {"sources": [token(3600)]}}),
            true,
        ),
        (json!({"projected": {"sources": [token(600)]}}), json!({"projected": {"sources": [token(3600)]}}), false),
        (json!({"emptyDir": {"sizeLimit": "1Gi"}}), json!({"emptyDir": {}}), false),
    ] {
        let [a, b] = [("a", a), ("b", b)].map(|(name, mut source)| {
            source["name"] = json!("v");
            volume(name, source)
        });
        let expected: &[&str] = if same { &[] } else { &["spec.volumes[0].name"] };
        assert_eq!(conflict_paths(&a, &[&b]), expected, "{:?} {:?}", a.spec.volumes, b.spec.volumes);
    }
}

#[test]
fn depends_on_is_checked_over_all_sets_on_the_same_pods() {
    let on = |names: Value| json!({"/spec/containers/0/dependsOn": names});
    let (a, b) = (named("a", "x", on(json!(["y"]))), named("b", "y", json!({})));
    assert_eq!(conflict_paths(&a, &[]), ["spec.containers[0].dependsOn"], "unknown");
    assert_eq!(conflict_paths(&a, &[&b]), Vec::<String>::new());
    let back = named("b", "y", on(json!(["x"])));
    assert_eq!(conflict_paths(&back, &[&a]), ["spec.containers[0].dependsOn"], "a circle");
}

#[test]
fn what_a_native_sidecar_cannot_do_is_refused_with_job_pods() {
    let with = |agent: Value| {
        let mut set = serde_json::to_value(named("a", "x", json!({"/spec/jobPods": "Native"}))).unwrap();
        json_patch::merge(&mut set["spec"]["containers"][0], &agent);
        serde_json::from_value::<SidecarSet>(set).unwrap()
    };
    let probe = json!({"exec": {"command": ["true"]}});
    let all = json!({"livenessProbe": probe, "startupProbe": probe, "lifecycle": {"preStop": probe}, "podInjectPolicy": "BeforeAppContainer"});
    assert_eq!(problems(&with(all)), Problems::default());
    assert_eq!(paths(&with(json!({"dependsOn": ["app"]}))), ["spec.containers[0].dependsOn"]);
    let after = problems(&with(json!({"podInjectPolicy": "AfterAppContainer"})));
    assert!(
        after.errors.is_empty() && after.warnings[0].starts_with("spec.containers[0].podInjectPolicy: "),
        "{after:?}"
    );

    let other = named("b", "y", json!({}));
    let behind = with(json!({"dependsOn": ["y"]}));
    let native = named("b", "y", json!({"/spec/jobPods": "Native"}));
    assert_eq!(conflict_paths(&behind, &[&other]), ["spec.containers[0].dependsOn"], "it is ordinary in pods of Jobs");
    assert_eq!(conflict_paths(&behind, &[&native]), Vec::<String>::new());
}

#[test]
fn a_canary_does_not_conflict_with_its_base() {
    let annotations = json!({"/metadata/annotations": {"sidecarset.dev/canary": "true", "sidecarset.dev/base": "a"}});
    let (base, canary) = (named("a", "x", json!({})), named("c", "x", annotations.clone()));
    assert_eq!(conflict_paths(&base, &[&canary]), Vec::<String>::new());
    assert_eq!(conflict_paths(&canary, &[&base]), Vec::<String>::new());
    assert_eq!(conflict_paths(&canary, &[]), ["metadata.annotations[sidecarset.dev/base]"], "no base");
    let second = named("d", "x", annotations);
    assert_eq!(conflict_paths(&second, &[&base, &canary]), ["spec.containers[0].name"], "two canaries on one pod");
}

#[test]
fn an_edge_that_only_orders_is_warned_about() {
    let warnings = |extra: Value| problems(&named("a", "x", extra)).warnings;
    assert!(warnings(json!({"/spec/containers/0/dependsOn": ["app"]}))[0].contains("OrderOnly"));
    let native = |probe: Value| {
        json!({"/spec/containers/0/dependsOn": ["p"],
        "/spec/initContainers": [{"name": "p", "image": "p", "restartPolicy": "Always", "startupProbe": probe}]})
    };
    assert_eq!(warnings(native(json!(null))).len(), 1);
    assert_eq!(warnings(native(json!({"exec": {"command": ["true"]}}))), Vec::<String>::new());
}

#[test]
fn only_allowed_metadata_keys_may_be_written() {
    let set = named(
        "a",
        "x",
        json!({"/spec/patchPodMetadata": [{"annotations": {"example.com/a": "1", "other.org/b": "1"}}]}),
    );
    let allowed = Allowed { metadata_keys: AllowedKeys::new(["example.com/*".to_owned()]), ..Allowed::default() };
    let errors = validate_with(Arc::new(set), &allowed).unwrap_err().errors;
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].path, "spec.patchPodMetadata[0].annotations[other.org/b]");
    assert!(errors[0].message.contains("example.com/*"), "{}", errors[0]);
}

#[test]
fn a_shared_budget_needs_a_cluster_that_has_it() {
    let set = with("/spec/resources", json!({"mode": "SharedWithPod"}));
    assert_eq!(problems(&set).errors, []);
    let old = Allowed { pod_level_resources: false, ..Allowed::default() };
    assert_eq!(check(&set, &old).1.errors[0].path, "spec.resources.mode");
    assert_eq!(check(&with("/spec/resources", json!({"preserveQoS": true})), &old).1.errors, []);
}

#[test]
fn a_valid_set_has_every_selector_parsed() {
    let app = |value: &str| json!({"matchLabels": {"app": value}});
    let set = named(
        "a",
        "x",
        json!({
            "/spec/namespaceSelector": app("namespaces"),
            "/spec/updateStrategy": {
                "selector": app("upgraded"),
                "priorityStrategy": {"weightPriority": [{"weight": 7, "matchSelector": app("urgent")}]},
            },
        }),
    );
    let parsed = |value: &str| Selector::parse(&serde_json::from_value(app(value)).unwrap()).unwrap();
    let expected = Selectors {
        pods: parsed("web"),
        namespaces: Some(parsed("namespaces")),
        upgraded: Some(parsed("upgraded")),
        weights: vec![(7, parsed("urgent"))],
    };
    assert_eq!(valid(&set).selectors(), &expected);
}

#[test]
fn a_set_stays_valid_until_something_changes_that_validation_looks_at() {
    let edited = |edit: &dyn Fn(&mut SidecarSet)| {
        let mut set = named("a", "x", json!({}));
        edit(&mut set);
        Arc::new(set)
    };
    let annotated =
        |key: &str| edited(&|set| set.metadata.annotations = Some([(key.to_owned(), "a".to_owned())].into()));
    let known = valid(&named("a", "x", json!({})));
    let (with_status, approved) =
        (edited(&|set| set.status = Some(SidecarSetStatus::default())), annotated(keys::APPROVE));
    for same in [with_status, approved] {
        assert_eq!(known.renewed(Arc::clone(&same)).unwrap().set(), &same);
    }
    assert_eq!(known.renewed(edited(&|set| set.spec.revision_history_limit += 1)), None);
    assert_eq!(known.renewed(annotated(keys::BASE)), None);
    assert_eq!(known.renewed(annotated(keys::CANARY)), None);
    assert_eq!(known.renewed(edited(&|set| set.metadata.name = Some("b".to_owned()))), None, "a canary names others");
}
