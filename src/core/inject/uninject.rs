//! Taking an injection back: what the marks list goes, and with it what only injection can have made.
//!
//! Law: `uninject(inject(pod))` is the pod again, if its lists and maps were absent or not empty.

use std::collections::{BTreeMap, BTreeSet};

use json_patch::Patch;
use serde_json::Value;

use super::cleanup::{remove_marks, take_back};
use super::patch::{PULL_SECRETS, PatchBuilder, VOLUMES, elements, path, strings};
use super::volumes::is_claim;
use crate::api::keys;
use crate::core::base::lists::List;
use crate::core::base::pointer::pointer;
use crate::core::pod::{InjectionRecord, suffixed};

/// The marks on a pod, by set, as its author may have written them. One that cannot be read lists nothing.
pub(crate) fn marks(pod: &Value) -> BTreeMap<String, InjectionRecord> {
    let annotations = strings(&pod["metadata"]["annotations"]);
    let records = suffixed(&annotations, keys::INJECTION_PREFIX);
    records.map(|(set, record)| (set.to_owned(), serde_json::from_str(record).unwrap_or_default())).collect()
}

/// RFC 6902 operations that take every set's injection back; empty if the pod carries no marks.
pub(crate) fn uninject(pod: &Value) -> Patch {
    let mut patch = PatchBuilder::new(pod);
    let mut added = marks(pod);
    let claims: BTreeSet<&str> = elements(pod, &VOLUMES)
        .filter(|volume| is_claim(volume))
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    for InjectionRecord { volumes, claims: ours, .. } in added.values_mut() {
        volumes.retain(|name| ours.contains(name) || !claims.contains(name.as_str()));
    }
    take_back(&mut patch, &added.values().collect::<Vec<_>>());
    remove_marks(&mut patch, &BTreeSet::new());
    remove_emptied(&mut patch, pod);
    patch.into_patch()
}

/// Removes the lists and maps that are empty now and were not before.
fn remove_emptied(patch: &mut PatchBuilder, before: &Value) {
    let init: &[&str] = &path(List::Init);
    for path in [init, &VOLUMES, &PULL_SECRETS, &["metadata", "labels"], &["metadata", "annotations"], &["metadata"]] {
        let is_empty = |pod: &Value| match pod.pointer(&pointer(path)) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            _ => false,
        };
        if is_empty(patch.pod()) && !is_empty(before) {
            patch.remove(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::SidecarSet;
    use crate::api::validate::validate;
    use crate::core::inject::{CompiledSet, CompiledSets, Request, inject};
    use crate::core::revision::History;

    fn compile(name: &str, mut spec: Value) -> Arc<CompiledSet> {
        spec["selector"] = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
        let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec});
        let set: SidecarSet = serde_json::from_value(set).unwrap();
        Arc::new(CompiledSet::new(&validate(&set).unwrap(), &History::new()))
    }

    /// Everything that a set can add to a pod, and a second set beside it.
    fn sets() -> CompiledSets {
        let mounts = json!([{"name": "logs", "mountPath": "/l"}, {"name": "own", "mountPath": "/o"}]);
        CompiledSets::new([
            compile(
                "s",
                json!({"containers": [{"name": "agent", "image": "a", "volumeMounts": mounts},
                        {"name": "late", "image": "l", "podInjectPolicy": "AfterAppContainer"}],
                    "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always"}],
                    "volumes": [{"name": "logs", "persistentVolumeClaim": {"claimName": "all-logs"}}, {"name": "own", "emptyDir": {}}],
                    "resources": {"mode": "SharedWithPod"},
                    "patchPodMetadata": [{"annotations": {"example.com/added": "1"}, "labels": {"x/y": "1", "team": "a"}},
                        {"annotations": {"note": "2"}, "patchPolicy": "Overwrite"},
                        {"annotations": {"merged": "{\"y\":{}}"}, "patchPolicy": "MergePatchJson"}]}),
            ),
            compile(
                "t",
                json!({"containers": [{"name": "other", "image": "o"}, {"name": "hot", "image": "h",
                        "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e"}}],
                    "imagePullSecrets": [{"name": "pull"}]}),
            ),
        ])
    }

    fn injected(pod: &Value) -> Value {
        let request = Request { pod, namespace: "default", namespace_labels: &BTreeMap::new(), excluded: &[] };
        let mut result = pod.clone();
        json_patch::patch(&mut result, &inject(&sets(), &request).patch).unwrap();
        result
    }

    fn uninjected(pod: &Value) -> Value {
        let mut result = pod.clone();
        json_patch::patch(&mut result, &uninject(pod)).unwrap();
        result
    }

    fn names(list: Vec<&'static str>) -> impl Strategy<Value = Option<Vec<&'static str>>> {
        let len = list.len();
        prop::option::of(prop::sample::subsequence(list, 1..=len))
    }

    fn raw_pod() -> impl Strategy<Value = Value> {
        let lists = (
            names(vec!["app", "sidekick"]),
            names(vec!["migrate", "wait"]),
            names(vec!["own", "data"]),
            names(vec!["mine", "pull"]),
        );
        let maps = (
            names(vec!["app", "x/y", "x~y"]),
            names(vec!["note", "example.com/added", "a/b~c", "merged", keys::DEFAULT_CONTAINER]),
        );
        (lists, maps, any::<bool>()).prop_map(|((containers, init, volumes, secrets), (labels, annotations), mounts)| {
            let mounts = mounts && volumes.iter().flatten().any(|volume| *volume == "own");
            let mount = if mounts { json!([{"name": "own", "mountPath": "/x"}]) } else { json!([]) };
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "volumeMounts": mount}]}});
            for name in containers.into_iter().flatten() {
                pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": name, "future": {"x": 1}}));
            }
            for (field, names) in [("initContainers", init), ("imagePullSecrets", secrets)] {
                if let Some(names) = names {
                    pod["spec"][field] = names.into_iter().map(|name| json!({"name": name})).collect();
                }
            }
            if let Some(names) = volumes {
                pod["spec"]["volumes"] = names.into_iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
            }
            for (field, keys, value) in [("labels", labels, "v"), ("annotations", annotations, "{\"x\": 1}")] {
                if let Some(keys) = keys {
                    pod["metadata"][field] = keys.into_iter().map(|key| (key.to_owned(), json!(value))).collect();
                }
            }
            pod
        })
    }

    proptest! {
        #[test]
        fn what_was_injected_can_be_taken_back(pod in raw_pod()) {
            let injected = injected(&pod);
            prop_assert_ne!(&injected, &pod);
            prop_assert_eq!(uninjected(&injected), pod);
        }
    }

    #[test]
    fn a_default_container_that_the_user_named_stays() {
        let mut pod = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "main"}},
            "spec": {"containers": [{"name": "main"}, {"name": "second"}]}});
        for name in ["main", "second"] {
            pod["metadata"]["annotations"][keys::DEFAULT_CONTAINER] = json!(name);
            let once = injected(&pod);
            assert_eq!(uninjected(&once), pod);
            assert_eq!(injected(&once), once);
        }
        pod["metadata"].as_object_mut().unwrap().clear();
        let once = injected(&pod);
        assert_eq!(once["metadata"]["annotations"][keys::DEFAULT_CONTAINER], "main");
        assert_eq!(injected(&once), once, "the mark still lists it");
        pod.as_object_mut().unwrap().remove("metadata");
        assert_eq!(uninjected(&once), pod);
    }

    #[test]
    fn everything_that_a_mark_lists_goes() {
        let mark = r#"{"containers":["c-1","c-2"],"initContainers":["i"],"volumes":["v","used"],"imagePullSecrets":["p"],
            "labels":["l"],"annotations":["a","kubectl.kubernetes.io/default-container"],"replaced":{"b":"own","gone":"own"},"hot":{"c":"c-1"},"base":"b","resources":true,"future":1}"#;
        let pod = json!({
            "metadata": {"labels": {"app": "web", "l": "x", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/s": "1"},
                "annotations": {"a": "x", "b": "ours", "injection.sidecarset.dev/s": mark, "update.sidecarset.dev/s": "{}",
                    "kubectl.kubernetes.io/default-container": "app"}},
            "spec": {"containers": [{"name": "c-1"}, {"name": "c-2"},
                    {"name": "app", "volumeMounts": [{"name": "used", "mountPath": "/u"}]}],
                "initContainers": [{"name": "i"}], "volumes": [{"name": "v"}, {"name": "used"}],
                "imagePullSecrets": [{"name": "p"}], "resources": {"limits": {"cpu": "1"}}},
        });
        assert_eq!(
            uninjected(&pod),
            json!({"metadata": {"labels": {"app": "web"}, "annotations": {"b": "own"}},
                "spec": {"containers": [{"name": "app", "volumeMounts": [{"name": "used", "mountPath": "/u"}]}],
                    "volumes": [{"name": "used"}]}})
        );
    }

    #[test]
    fn a_claim_goes_only_if_the_mark_says_that_a_claim_was_added() {
        for (mark, volumes) in [
            (r#"{"volumes":["data"]}"#, json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}])),
            (r#"{"volumes":["data"],"claims":["data"]}"#, Value::Null),
        ] {
            let pod = json!({"metadata": {"annotations": {"injection.sidecarset.dev/s": mark}}, "spec": {
                "containers": [{"name": "app"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]}});
            assert_eq!(uninjected(&pod)["spec"]["volumes"], volumes, "{mark}");
        }
    }

    #[test]
    fn a_pod_without_marks_stays_as_it_is() {
        let pod = json!({"metadata": {"labels": {}, "annotations": {"kubectl.kubernetes.io/default-container": "app"}},
            "spec": {"containers": [{"name": "app"}], "volumes": []}});
        assert!(uninject(&pod).is_empty());
        for odd in [json!(null), json!({"metadata": {"annotations": {"injection.sidecarset.dev/s": "no json"}}})] {
            uninject(&odd);
        }
    }
}
