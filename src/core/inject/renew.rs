//! `patchPodMetadata` of another revision on a pod that has been injected already: the rules of injection, after what
//! the old revision added has been taken back.

use serde_json::{Value, json};

use super::draft::{Draft, strings};
use super::marks::Marks;
use super::metadata::{Map, Wishes, write};
use super::sets::CompiledSets;
use crate::api::keys;
use crate::api::v1beta1::{PatchPodMetadata, PatchPolicy};
use crate::core::pod::InjectionRecord;

/// Labels and annotations of a pod, its marks among them, as they are with the metadata of another revision.
///
/// `metadata` is the pod's. A key that the old revision names and the mark lists is taken back before the rules of
/// injection are applied; so a key that the new one does not set is gone, and every other is as in a new pod. Left as
/// it is, and in the mark:
/// - a label that some set selects by: removing it would change which sets reach the pod;
/// - a value that `MergePatchJson` made and that others have written into since: nobody can tell whose the members are.
///
/// Not in the mark and so never undone: values that `Overwrite` replaced, members merged into a value of the pod's own.
pub(crate) fn renew(
    sets: &CompiledSets,
    metadata: &Value,
    set: &str,
    before: &[PatchPodMetadata],
    after: &[PatchPodMetadata],
) -> Value {
    let pod = json!({"metadata": {"labels": metadata["labels"], "annotations": metadata["annotations"]}});
    let annotation = keys::injection_annotation(set);
    let mut mark: InjectionRecord = pod["metadata"]["annotations"][&annotation]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut draft = Draft::new(&pod);
    let mut marks = Marks::read(&pod, sets);
    let alone = alone(set, before);
    for map in [Map::Labels, Map::Annotations] {
        let undone = |key: &String| {
            let selected = map == Map::Labels && sets.select_by(key);
            let values = [&pod, &alone].map(|pod| pod["metadata"][map.field()][key].as_str());
            !selected && is_undone(before, map, key, values)
        };
        let Some(listed) = marks.by_set.get_mut(set).map(|mark| map.keys_mut(mark)) else { continue };
        for key in listed.extract_if(.., |key| undone(key)) {
            draft.remove(&["metadata", map.field(), &key]);
        }
    }
    let written = write(&mut draft, &marks, sets, &[Wishes { set, patches: after }]).remove(set).unwrap_or_default();
    for (map, written) in [(Map::Labels, written.labels), (Map::Annotations, written.annotations)] {
        let there = strings(&draft.pod()["metadata"][map.field()]);
        let listed = std::mem::take(map.keys_mut(&mut mark));
        let kept = listed.into_iter().filter(|key| there.contains_key(key) && !written.contains(key));
        *map.keys_mut(&mut mark) = written.iter().cloned().chain(kept).collect();
    }
    draft.set(&["metadata", "annotations", &annotation], &Value::from(mark.to_json()));
    draft.pod()["metadata"].clone()
}

/// What the old revision made of a pod that had no metadata.
fn alone(set: &str, before: &[PatchPodMetadata]) -> Value {
    let mut draft = Draft::new(&json!({}));
    write(&mut draft, &Marks::default(), &CompiledSets::default(), &[Wishes { set, patches: before }]);
    draft.pod().clone()
}

/// Whether a key that the mark lists goes, or is set anew. `current`: its value, `alone`: what the set made of nothing.
fn is_undone(before: &[PatchPodMetadata], map: Map, key: &String, [current, alone]: [Option<&str>; 2]) -> bool {
    let naming = || before.iter().filter(|patch| map.values(patch).contains_key(key));
    let json = |text: Option<&str>| text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let merged = naming().any(|patch| patch.patch_policy == Some(PatchPolicy::MergePatchJson));
    naming().next().is_some() && (!merged || json(current) == json(alone))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::api::SidecarSet;
    use crate::api::validate::validate;
    use crate::core::inject::uninject::uninject;
    use crate::core::inject::{CompiledSet, Request, inject};
    use crate::core::revision::{History, Revision, Template};
    use crate::core::rollout::testing::remove_hash_without_images;

    fn set(patches: &Value) -> SidecarSet {
        let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "s"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": "a"}],
                "patchPodMetadata": patches}});
        serde_json::from_value(set).unwrap()
    }

    /// The set with these patches, in whose history are those.
    fn sets(patches: &Value, before: &Value) -> CompiledSets {
        let template = Template::of(&set(before).spec);
        let old = Revision { template, number: 1, owner: None, custom_version: None };
        let history: History = [(old.template.hash(0), old)].into();
        CompiledSets::new([Arc::new(CompiledSet::new(&validate(&set(patches)).unwrap(), &history))])
    }

    fn injected(sets: &CompiledSets, pod: &Value) -> Value {
        let request = Request { pod, namespace: "default", namespace_labels: &BTreeMap::new(), excluded: &[] };
        let mut result = pod.clone();
        json_patch::patch(&mut result, &inject(sets, &request).patch).unwrap();
        result
    }

    fn pod(annotations: &Value) -> Value {
        json!({"metadata": {"labels": {"app": "web", "own": "1"}, "annotations": annotations},
            "spec": {"containers": [{"name": "app"}]}})
    }

    fn renewed(pod: &Value, before: &Value, after: &Value) -> Value {
        let mut pod = pod.clone();
        let patches = |value: &Value| set(value).spec.patch_pod_metadata;
        pod["metadata"] = renew(&sets(after, before), &pod["metadata"], "s", &patches(before), &patches(after));
        pod
    }

    /// Labels, annotations and mark as in a pod that is injected anew; only the revision is for others to set.
    fn is_as_new(own: &Value, before: &Value, after: &Value) {
        let mut result = renewed(&injected(&sets(before, before), &pod(own)), before, after);
        let mut anew = injected(&sets(after, before), &pod(own));
        for pod in [&mut result, &mut anew] {
            pod["metadata"]["labels"].as_object_mut().unwrap().remove("revision.sidecarset.dev/s");
            remove_hash_without_images(&mut pod["metadata"], "s");
        }
        assert_eq!(result["metadata"], anew["metadata"], "{own}: {before} -> {after}");
        let taken_back = {
            let mut pod = result.clone();
            json_patch::patch(&mut pod, &uninject(&result)).unwrap();
            pod
        };
        assert_eq!(taken_back, pod(own), "{before} -> {after}");
    }

    #[test]
    fn a_renewed_pod_is_like_a_new_one() {
        let revisions = [
            json!([]),
            json!([{"annotations": {"a": "1"}}]),
            json!([{"annotations": {"a": "2", "b": "1"}, "labels": {"l": "1"}}]),
            json!([{"labels": {"l": "2", "own": "2"}, "patchPolicy": "Overwrite"}]),
            json!([{"annotations": {"j": "{\"x\":1}"}, "patchPolicy": "MergePatchJson"}]),
            json!([{"annotations": {"j": "{\"y\":{\"z\":1}}"}, "patchPolicy": "MergePatchJson"}, {"annotations": {"a": "1"}}]),
        ];
        for before in &revisions {
            for after in &revisions {
                is_as_new(&json!({"note": "own"}), before, after);
            }
        }
        for after in &revisions[..3] {
            is_as_new(&json!({"a": "own"}), &revisions[1], after);
        }
    }

    #[test]
    fn what_was_overwritten_does_not_come_back() {
        let before = json!([{"annotations": {"a": "1"}, "patchPolicy": "Overwrite"}]);
        let own = injected(&sets(&before, &before), &pod(&json!({"a": "own"})));
        assert_eq!(renewed(&own, &before, &json!([]))["metadata"]["annotations"]["a"], "1");
    }

    #[test]
    fn members_that_others_merged_stay_and_so_does_the_mark() {
        let before = json!([{"annotations": {"j": "{\"x\":1}"}, "patchPolicy": "MergePatchJson"}]);
        let mut shared = injected(&sets(&before, &before), &pod(&json!({"note": "own"})));
        shared["metadata"]["annotations"]["j"] = json!("{\"x\":1,\"theirs\":2}");
        let after = renewed(&shared, &before, &json!([]));
        assert_eq!(after["metadata"], shared["metadata"]);
    }

    #[test]
    fn a_label_that_a_set_selects_by_now_stays() {
        let before = json!([{"labels": {"l": "1"}}]);
        let pod = injected(&sets(&before, &before), &pod(&json!({"note": "own"})));
        let patches = set(&before).spec.patch_pod_metadata;
        let mut selecting = set(&json!([]));
        selecting.spec.selector = serde_json::from_value(json!({"matchLabels": {"l": "1"}})).unwrap();
        let history: History = [(
            "h".to_owned(),
            Revision { template: Template::of(&set(&before).spec), number: 1, owner: None, custom_version: None },
        )]
        .into();
        let all = CompiledSets::new([Arc::new(CompiledSet::new(&validate(&selecting).unwrap(), &history))]);
        assert_eq!(renew(&all, &pod["metadata"], "s", &patches, &[]), pod["metadata"]);
    }

    #[test]
    fn a_forged_mark_takes_nothing_away() {
        let before = json!([{"annotations": {"a": "1"}}]);
        let mut forged = injected(&sets(&before, &before), &pod(&json!({"note": "own"})));
        let mark = json!({"containers": ["agent"], "labels": ["own", "app"], "annotations": ["a", "note"]});
        forged["metadata"]["annotations"]["injection.sidecarset.dev/s"] = json!(mark.to_string());
        let after = renewed(&forged, &before, &json!([]));
        assert_eq!(after["metadata"]["labels"], forged["metadata"]["labels"]);
        assert_eq!(after["metadata"]["annotations"]["note"], "own");
        assert_eq!(after["metadata"]["annotations"].get("a"), None);
    }
}
