//! Laws over arbitrary raw pods.

use proptest::prelude::*;

use super::*;

/// Strings with everything that paths must escape.
fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/b", "x~y", "~1", "app", "agent", "logs", "init", ""]).prop_map(str::to_owned)
}

fn json_map() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        prop::collection::btree_map(text(), text(), 0..4).prop_map(|map| json!(map)),
        Just(
            json!({"injection.sidecarset.dev/s": r#"{"containers":["agent","app"],"volumes":["logs"]}"#, "update.sidecarset.dev/s": "x"})
        ),
        Just(
            json!({"revision.sidecarset.dev/s": "old", "revision.sidecarset.dev/gone": "x", "sidecarset.dev/injected": "true"})
        ),
    ]
}

fn json_list() -> impl Strategy<Value = Value> {
    let extra = prop_oneof![
        Just(json!({})),
        Just(json!({"env": null})),
        Just(json!({"env": [], "future": [1, {"x": null}]})),
        Just(json!({"emptyDir": {}})),
        Just(
            json!({"env": [{"name": "V", "value": "1"}], "volumeMounts": [{"name": "logs", "mountPath": "/l/"}, {"name": "logs", "mountPath": "/m", "subPathExpr": "$(V)/$(W)"}]})
        )
    ];
    let element = (text(), extra).prop_map(|(name, mut element)| {
        element["name"] = json!(name);
        element
    });
    prop_oneof![Just(Value::Null), prop::collection::vec(element, 0..4).prop_map(|list| json!(list))]
}

fn raw_pod() -> impl Strategy<Value = Value> {
    let lists = (json_list(), json_list(), json_list(), json_list());
    (json_map(), json_map(), lists, prop::collection::vec(any::<bool>(), 6)).prop_map(|(labels, annotations, lists, absent)| {
        let mut pod = json!({"metadata": {"labels": labels, "annotations": annotations},
            "spec": {"containers": lists.0, "initContainers": lists.1, "volumes": lists.2, "imagePullSecrets": lists.3}});
        if pod["metadata"]["labels"].is_object() {
            pod["metadata"]["labels"]["app"] = json!("web");
        }
        for (i, (parent, field)) in [("metadata", "labels"), ("metadata", "annotations"), ("spec", "initContainers"), ("spec", "volumes"), ("spec", "imagePullSecrets")].into_iter().enumerate() {
            if absent[i] {
                pod[parent].as_object_mut().unwrap().remove(field);
            }
        }
        pod
    })
}

fn spec_of(name: &str) -> Value {
    let everything = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
    match name {
        "s" => json!({"selector": everything,
            "containers": [{"name": "agent", "image": "a:1", "tty": false, "args": [], "volumeMounts": [{"name": "logs", "mountPath": "/l", "readOnly": false}]},
                {"name": "late", "image": "l", "podInjectPolicy": "AfterAppContainer"}],
            "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always", "shareVolumePolicy": {"type": "enabled"}}],
            "volumes": [{"name": "logs", "emptyDir": {}}], "imagePullSecrets": [{"name": "a/b"}],
            "patchPodMetadata": [{"annotations": {"a/b": "1"}, "patchPolicy": "Overwrite"}, {"annotations": {"x~y": "1"}, "labels": {"a/b": "z", "app": "y"}},
                {"annotations": {"a": "{\"k\":1,\"gone\":null}"}, "patchPolicy": "MergePatchJson"}]}),
        _ => {
            json!({"containers": [{"name": "other", "image": "o", "dependsOn": ["late"], "volumeMounts": [{"name": "a", "mountPath": "/a"}], "shareVolumePolicy": {"type": "enabled"},
                    "transferEnv": [{"sourceContainerName": "a", "envNames": ["V", "W"]}, {"sourceContainerNameFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a']"}}, "envName": "V"}]},
                {"name": "hot", "image": "h", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e"}}],
                "podVolumes": [{"name": "logs"}, {"name": "a"}], "volumes": [{"name": "a", "emptyDir": {"medium": "Memory"}}],
                "patchPodMetadata": [{"annotations": {"a/b": "2"}, "labels": {"x~y": "1"}, "patchPolicy": "Overwrite"}]})
        }
    }
}

/// A pod without marks, and without what nobody can take back: annotations that are overwritten, and mounts of a volume
/// that only a set defines.
fn plain_pod() -> impl Strategy<Value = Value> {
    raw_pod().prop_map(|mut pod| {
        pod["metadata"] = json!({"labels": {"app": "web", "x~y": "own"}});
        let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        if pod.to_string().contains("/l/") && volumes.iter().all(|volume| volume["name"] != "logs") {
            pod["spec"]["volumes"] = volumes.into_iter().chain([json!({"name": "logs", "emptyDir": {}})]).collect();
        }
        pod
    })
}

fn all_sets() -> CompiledSets {
    sets(["s", "t"].map(|name| compile(name, spec_of(name))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn injecting_twice_changes_nothing_more(pod in raw_pod()) {
        let sets = all_sets();
        let once = injected(&sets, &pod);
        let twice = run(&sets, &once);
        prop_assert!(twice.patch.is_empty(), "{:?}", twice.patch);
    }

    #[test]
    fn a_copy_becomes_what_a_new_pod_becomes(pod in plain_pod(), new_s in any::<bool>(), new_t in any::<bool>()) {
        let (before, after) = (all_sets(), later_sets(new_s, new_t));
        let copy = injected(&before, &pod);
        let updated = injected(&after, &copy);
        prop_assert!(run(&after, &updated).patch.is_empty());
        prop_assert_eq!(without_empty(updated), without_empty(injected(&after, &pod)));
    }

    #[test]
    fn the_pods_own_containers_stay_as_they_are(pod in raw_pod()) {
        let sets = all_sets();
        let after = injected(&sets, &pod);
        let sidecars = ["agent", "late", "init", "other", "hot-1", "hot-2"];
        for list in ["containers", "initContainers"] {
            let own = |pod: &Value| pod["spec"][list].as_array().into_iter().flatten()
                .filter(|c| !sidecars.contains(&c["name"].as_str().unwrap())).map(ToString::to_string).collect::<Vec<_>>();
            prop_assert_eq!(own(&after), own(&pod));
        }
    }

    #[test]
    fn no_input_makes_it_panic(labels in json_map(), spec in prop_oneof![Just(json!(null)), Just(json!("x")), Just(json!({"containers": "x", "volumes": [1], "initContainers": {}}))]) {
        for pod in [json!({"metadata": {"labels": labels}, "spec": spec}), json!(null), json!([]), json!({"metadata": 1, "spec": {}})] {
            run(&all_sets(), &pod);
        }
    }
}

/// A later state of [`all_sets`]: another revision of `s`, the same of `t`, or none of them.
fn later_sets(new_s: bool, new_t: bool) -> CompiledSets {
    let everything = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
    let before = |name: &str| spec_of(name);
    let s = json!({"selector": everything,
        "containers": [{"name": "late", "image": "l:2", "podInjectPolicy": "AfterAppContainer"},
            {"name": "agent", "image": "a:2", "volumeMounts": [{"name": "tmp", "mountPath": "/t"}]}],
        "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always"}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "patchPodMetadata": [{"annotations": {"x~y": "2"}, "labels": {"a/b": "w"}}]});
    let t = json!({"containers": [{"name": "other", "image": "o:2", "dependsOn": ["late"]}],
        "patchPodMetadata": [{"annotations": {"a/b": "3"}}]});
    let of = |name: &str, spec: Value| compile_with(name, spec, &[Template::of(&set(name, before(name)).spec)]);
    sets([of("s", if new_s { s } else { before("s") }), of("t", if new_t { t } else { before("t") })])
}

/// Lists and maps that are empty are as good as absent.
fn without_empty(mut pod: Value) -> Value {
    // Their order means nothing, and a volume that stays keeps its place.
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut() {
        volumes.sort_by_key(|volume| volume["name"].to_string());
    }
    for (parent, field) in [
        ("metadata", "labels"),
        ("metadata", "annotations"),
        ("spec", "initContainers"),
        ("spec", "volumes"),
        ("spec", "imagePullSecrets"),
    ] {
        let empty = match &pod[parent][field] {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if empty {
            pod[parent].as_object_mut().unwrap().remove(field);
        }
    }
    pod
}
