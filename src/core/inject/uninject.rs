//! Taking an injection back: what the marks list goes, and with it what only injection can have made.
//!
//! Law: `uninject(inject(pod))` is the pod again, if its lists and maps were absent or not empty.

use std::collections::{BTreeMap, BTreeSet};

use json_patch::Patch;
use serde_json::Value;

use super::draft::{Draft, PULL_SECRETS, VOLUMES, elements, path, strings};
use super::volumes::is_mounted;
use crate::api::keys;
use crate::core::base::lists::List;
use crate::core::pod::InjectionRecord;

/// The marks on a pod, by set, as its author may have written them. One that cannot be read lists nothing.
pub(crate) fn marks(pod: &Value) -> BTreeMap<String, InjectionRecord> {
    let annotations = strings(&pod["metadata"]["annotations"]);
    let marks = annotations.into_iter().filter_map(|(key, mark)| {
        let set = key.strip_prefix(keys::INJECTION_PREFIX)?.to_owned();
        Some((set, serde_json::from_str(&mark).unwrap_or_default()))
    });
    marks.collect()
}

/// RFC 6902 operations that take every set's injection back; empty if the pod carries no marks.
pub(crate) fn uninject(pod: &Value) -> Patch {
    let mut draft = Draft::new(pod);
    let added = marks(pod);
    let first_was_sidecar = {
        let first = elements(pod, &path(List::Ordinary)).next().and_then(|container| container["name"].as_str());
        first.is_some_and(|first| added.values().any(|added| added.containers.iter().any(|name| name == first)))
    };
    for added in added.values() {
        remove_all(&mut draft, &path(List::Ordinary), &added.containers);
        remove_all(&mut draft, &path(List::Init), &added.init_containers);
        remove_all(&mut draft, &PULL_SECRETS, &added.image_pull_secrets);
        if added.resources {
            draft.remove(&["spec", "resources"]);
        }
    }
    let volumes: BTreeSet<&String> = added.values().flat_map(|added| &added.volumes).collect();
    let unused: Vec<&String> = volumes.into_iter().filter(|volume| !is_mounted(draft.pod(), volume)).collect();
    remove_all(&mut draft, &VOLUMES, unused);
    remove_metadata(&mut draft, &added);
    if first_was_sidecar {
        remove_default_container(&mut draft);
    }
    remove_emptied(&mut draft, pod);
    draft.into_patch()
}

fn remove_all<'a>(draft: &mut Draft, path: &[&str], names: impl IntoIterator<Item = &'a String>) {
    for name in names {
        draft.remove_named(path, name);
    }
}

fn remove_metadata(draft: &mut Draft, added: &BTreeMap<String, InjectionRecord>) {
    let labels: Vec<&String> = added.values().flat_map(|added| &added.labels).collect();
    let annotations: Vec<&String> = added.values().flat_map(|added| &added.annotations).collect();
    let is_mark = |key: &str| {
        key == keys::INJECTED
            || [keys::REVISION_PREFIX, keys::INJECTION_PREFIX, keys::UPDATE_PREFIX].iter().any(|p| key.starts_with(p))
    };
    for (map, listed) in [("labels", labels), ("annotations", annotations)] {
        for key in strings(&draft.pod()["metadata"][map]).into_keys() {
            if is_mark(&key) || listed.contains(&&key) {
                draft.remove(&["metadata", map, &key]);
            }
        }
    }
}

/// Injection names the application's container where a sidecar stands in front of it; now it is the first again.
fn remove_default_container(draft: &mut Draft) {
    let default = &draft.pod()["metadata"]["annotations"][keys::DEFAULT_CONTAINER];
    let first = elements(draft.pod(), &path(List::Ordinary)).next().map(|container| &container["name"]);
    if Some(default) == first {
        draft.remove(&["metadata", "annotations", keys::DEFAULT_CONTAINER]);
    }
}

/// Removes the lists and maps that are empty now and were not before.
fn remove_emptied(draft: &mut Draft, before: &Value) {
    let init: &[&str] = &path(List::Init);
    for path in [init, &VOLUMES, &PULL_SECRETS, &["metadata", "labels"], &["metadata", "annotations"], &["metadata"]] {
        let pointer = format!("/{}", path.join("/"));
        let is_empty = |pod: &Value| match pod.pointer(&pointer) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            _ => false,
        };
        if is_empty(draft.pod()) && !is_empty(before) {
            draft.remove(path);
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
                    "volumes": [{"name": "logs", "emptyDir": {}}, {"name": "own", "emptyDir": {}}],
                    "resources": {"mode": "SharedWithPod"},
                    "patchPodMetadata": [{"annotations": {"example.com/added": "1"}, "labels": {"x/y": "1", "team": "a"}}]}),
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
        let maps = (names(vec!["app", "x/y", "x~y"]), names(vec!["note", "example.com/added", "a/b~c"]));
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
            for (field, keys) in [("labels", labels), ("annotations", annotations)] {
                if let Some(keys) = keys {
                    pod["metadata"][field] = keys.into_iter().map(|key| (key.to_owned(), json!("v"))).collect();
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
    fn everything_that_a_mark_lists_goes() {
        let mark = r#"{"containers":["c-1","c-2"],"initContainers":["i"],"volumes":["v","used"],"imagePullSecrets":["p"],
            "labels":["l"],"annotations":["a"],"hot":{"c":"c-1"},"base":"b","resources":true,"future":1}"#;
        let pod = json!({
            "metadata": {"labels": {"app": "web", "l": "x", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/s": "1"},
                "annotations": {"a": "x", "injection.sidecarset.dev/s": mark, "update.sidecarset.dev/s": "{}",
                    "kubectl.kubernetes.io/default-container": "app"}},
            "spec": {"containers": [{"name": "c-1"}, {"name": "c-2"},
                    {"name": "app", "volumeMounts": [{"name": "used", "mountPath": "/u"}]}],
                "initContainers": [{"name": "i"}], "volumes": [{"name": "v"}, {"name": "used"}],
                "imagePullSecrets": [{"name": "p"}], "resources": {"limits": {"cpu": "1"}}},
        });
        assert_eq!(
            uninjected(&pod),
            json!({"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "app", "volumeMounts": [{"name": "used", "mountPath": "/u"}]}],
                    "volumes": [{"name": "used"}]}})
        );
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
