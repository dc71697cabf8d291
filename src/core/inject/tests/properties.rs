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

fn all_sets() -> CompiledSets {
    let everything = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
    sets([
        compile(
            "s",
            json!({"selector": everything,
            "containers": [{"name": "agent", "image": "a:1", "tty": false, "args": [], "volumeMounts": [{"name": "logs", "mountPath": "/l", "readOnly": false}]},
                {"name": "late", "image": "l", "podInjectPolicy": "AfterAppContainer"}],
            "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always", "shareVolumePolicy": {"type": "enabled"}}],
            "volumes": [{"name": "logs", "emptyDir": {}}], "imagePullSecrets": [{"name": "a/b"}],
            "patchPodMetadata": [{"annotations": {"a/b": "1"}, "patchPolicy": "Overwrite"}, {"annotations": {"x~y": "1"}, "labels": {"a/b": "z", "app": "y"}},
                {"annotations": {"a": "{\"k\":1,\"gone\":null}"}, "patchPolicy": "MergePatchJson"}]}),
        ),
        compile(
            "t",
            json!({"containers": [{"name": "other", "image": "o", "dependsOn": ["late"], "shareVolumePolicy": {"type": "enabled"},
                    "transferEnv": [{"sourceContainerName": "a", "envNames": ["V", "W"]}, {"sourceContainerNameFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a']"}}, "envName": "V"}]},
                {"name": "hot", "image": "h", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e"}}],
                "patchPodMetadata": [{"annotations": {"a/b": "2"}, "labels": {"x~y": "1"}, "patchPolicy": "Overwrite"}]}),
        ),
    ])
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
