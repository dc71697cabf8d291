//! `patchPodMetadata`: labels and annotations that sets write on the pod.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::marks::Marks;
use super::patch::{PatchBuilder, strings};
use super::sets::CompiledSets;
use crate::api::keys;
use crate::api::v1beta1::{PatchPodMetadata, PatchPolicy};
use crate::core::pod::InjectionRecord;

/// Most bytes of what annotations were before that one mark keeps.
const MAX_REPLACED: usize = 16 * 1024;

pub(super) struct Wishes<'a> {
    /// Its position.
    pub(super) set: usize,
    pub(super) patches: &'a [PatchPodMetadata],
    /// What the set wrote before: the pod is a copy, or is reviewed again.
    pub(super) before: Option<&'a InjectionRecord>,
    /// Gets the keys that the set added.
    pub(super) record: &'a mut InjectionRecord,
    /// Gets what it wanted and did not get.
    pub(super) notes: &'a mut Vec<String>,
}

/// Writes labels and annotations, all sets by name. Of several that write one key (which admission refuses) the result
/// is the same however often it is done.
pub(super) fn write(patch: &mut PatchBuilder, all: &CompiledSets, wishes: &mut [Wishes<'_>]) {
    for map in [Map::Labels, Map::Annotations] {
        let before = strings(&patch.pod()["metadata"][map.field()]);
        // By key: the last set that writes it, and its value.
        let mut after: BTreeMap<&str, (usize, String)> = BTreeMap::new();
        let mut added = BTreeSet::new();
        for Wishes { set, patches, before: recorded, record, notes } in &mut *wishes {
            let mut room = MAX_REPLACED;
            for (key, value, policy) in patches.iter().flat_map(|patch| {
                map.values(patch).iter().map(|(key, value)| (key.as_str(), value, patch.patch_policy))
            }) {
                let ours = recorded.is_some_and(|recorded| map.keys(recorded).iter().any(|listed| listed == key));
                let current = after.get(key).map(|(_, value)| value).or(before.get(key));
                let result = match map {
                    Map::Labels if all.select_by(key) => {
                        Err(format!("label {key} is not set: a SidecarSet selects pods by it"))
                    }
                    _ => Wish { map, key, value, policy, ours }.value(current),
                };
                let is_written = matches!(result, Ok(Some(_)));
                let is_there = current.is_some() || is_written;
                let own = before.get(key).filter(|_| is_written && !ours);
                let own = recorded.and_then(|recorded| recorded.replaced.get(key)).or(own);
                match result {
                    Ok(Some(value)) => {
                        after.insert(key, (*set, value));
                    }
                    Ok(None) => {}
                    Err(note) => notes.push(note),
                }
                if (ours || !before.contains_key(key)) && is_there && added.insert(key) {
                    map.keys_mut(record).push(key.to_owned());
                } else if let Some(own) = own.filter(|_| map == Map::Annotations && added.insert(key)) {
                    match room.checked_sub(own.len()) {
                        Some(left) => {
                            room = left;
                            record.replaced.insert(key.to_owned(), own.clone());
                        }
                        None => notes.push(format!(
                            "annotation {key} is changed for good: marks keep {MAX_REPLACED} bytes of what annotations were before"
                        )),
                    }
                }
            }
        }
        for (key, (set, value)) in after {
            patch.edit_for(set);
            patch.set(&["metadata", map.field(), key], &Value::from(value));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Map {
    Labels,
    Annotations,
}

impl Map {
    fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    fn values(self, patch: &PatchPodMetadata) -> &BTreeMap<String, String> {
        match self {
            Self::Labels => &patch.labels,
            Self::Annotations => &patch.annotations,
        }
    }

    fn keys(self, mark: &InjectionRecord) -> &Vec<String> {
        match self {
            Self::Labels => &mark.labels,
            Self::Annotations => &mark.annotations,
        }
    }

    fn keys_mut(self, mark: &mut InjectionRecord) -> &mut Vec<String> {
        match self {
            Self::Labels => &mut mark.labels,
            Self::Annotations => &mut mark.annotations,
        }
    }
}

/// One key that a set wants to write.
struct Wish<'a> {
    map: Map,
    key: &'a str,
    value: &'a str,
    policy: Option<PatchPolicy>,
    /// The set wrote the key before.
    ours: bool,
}

impl Wish<'_> {
    /// The new value; `None` leaves the pod's.
    fn value(&self, current: Option<&String>) -> Result<Option<String>, String> {
        if self.policy == Some(PatchPolicy::MergePatchJson) {
            return merged(self.key, current.map_or("", String::as_str), self.value);
        }
        let Some(current) = current else { return Ok(Some(self.value.to_owned())) };
        match self.policy {
            _ if current == self.value => Ok(None),
            None | Some(PatchPolicy::Retain) => Ok(self.ours.then(|| self.value.to_owned())),
            // Services and controllers find pods by their labels: one that the pod came with stays.
            Some(PatchPolicy::Overwrite) if self.map == Map::Labels && !self.ours => {
                Err(format!("label {} is not set: the pod has it already", self.key))
            }
            Some(_) => Ok(Some(self.value.to_owned())),
        }
    }
}

/// RFC 7386; an empty value is none. `None` if the pod's value says the same already, however it is written.
fn merged(key: &str, current: &str, patch: &str) -> Result<Option<String>, String> {
    let parse = |text: &str| if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str::<Value>(text) };
    let (Ok(before), Ok(patch)) = (parse(current), parse(patch)) else {
        return Err(format!("annotation {key} is not merged: the pod's value is not JSON"));
    };
    let mut after = before.clone();
    json_patch::merge(&mut after, &patch);
    Ok((after != before).then(|| after.to_string()))
}

/// Labels and annotations of a pod, its marks among them, as they are with the metadata of another revision.
///
/// `metadata` is the pod's. A key that the old revision names and the mark lists is taken back before the rules of
/// injection are applied; so a key that the new one does not set is gone, and every other is as in a new pod. Left as
/// it is, and in the mark:
/// - a label that some set selects by: removing it would change which sets reach the pod;
/// - a value that `MergePatchJson` made and that others have written into since: nobody can tell whose the members are.
///
/// An annotation of the pod's own that the old revision changed is what it was before, unless the mark had no room for it.
pub(crate) fn update_metadata(
    sets: &CompiledSets,
    metadata: &Value,
    set: &str,
    before: &[PatchPodMetadata],
    after: &[PatchPodMetadata],
) -> Value {
    let pod = json!({"metadata": {"labels": metadata["labels"], "annotations": metadata["annotations"]}});
    let annotation = keys::injection_annotation(set);
    let mut record: InjectionRecord = pod["metadata"]["annotations"][&annotation]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut believed = Marks::read(&pod, sets).records.remove(set).unwrap_or_default();
    let mut patch = PatchBuilder::new(&pod);
    let alone = alone(before, &believed.replaced);
    let undone = |map: Map, key: &String| {
        let selected = map == Map::Labels && sets.select_by(key);
        let values = [&pod, &alone].map(|pod| pod["metadata"][map.field()][key].as_str());
        !selected && is_undone(before, map, key, values)
    };
    for map in [Map::Labels, Map::Annotations] {
        for key in map.keys_mut(&mut believed).extract_if(.., |key| undone(map, key)) {
            patch.remove(&["metadata", map.field(), &key]);
        }
    }
    for (key, own) in believed.replaced.extract_if(.., |key, _| undone(Map::Annotations, key)) {
        patch.set(&["metadata", "annotations", &key], &own.into());
        record.replaced.remove(&key);
    }
    let mut added = InjectionRecord::default();
    write_alone(&mut patch, sets, after, Some(&believed), &mut added);
    for map in [Map::Labels, Map::Annotations] {
        let there = strings(&patch.pod()["metadata"][map.field()]);
        let added = map.keys(&added);
        let listed = map.keys_mut(&mut record);
        listed.retain(|key| there.contains_key(key) && !added.contains(key));
        listed.splice(..0, added.iter().cloned());
    }
    record.replaced.extend(added.replaced);
    patch.set(&["metadata", "annotations", &annotation], &Value::from(record.to_json()));
    patch.pod()["metadata"].clone()
}

fn write_alone(
    patch: &mut PatchBuilder,
    all: &CompiledSets,
    patches: &[PatchPodMetadata],
    before: Option<&InjectionRecord>,
    record: &mut InjectionRecord,
) {
    write(patch, all, &mut [Wishes { set: 0, patches, before, record, notes: &mut Vec::new() }]);
}

/// What the old revision made of a pod that had no other metadata than this.
fn alone(before: &[PatchPodMetadata], own: &BTreeMap<String, String>) -> Value {
    let mut patch = PatchBuilder::new(&json!({"metadata": {"annotations": own}}));
    write_alone(&mut patch, &CompiledSets::default(), before, None, &mut InjectionRecord::default());
    patch.pod().clone()
}

/// Whether a key that the mark lists goes, or is set anew. `current`: its value, `alone`: what the set made of the
/// pod's own alone.
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
        pod["metadata"] =
            update_metadata(&sets(after, before), &pod["metadata"], "s", &patches(before), &patches(after));
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
            json!([{"annotations": {"a": "3", "j": "{}"}, "patchPolicy": "Overwrite"}]),
        ];
        for before in &revisions {
            for after in &revisions {
                for own in [json!({"note": "own"}), json!({"a": "own", "j": "{\"own\": 1}"})] {
                    is_as_new(&own, before, after);
                }
            }
        }
        for after in &revisions[..3] {
            is_as_new(&json!({"a": "own"}), &revisions[1], after);
        }
    }

    #[test]
    fn what_was_overwritten_comes_back_unless_the_mark_has_no_room_for_it() {
        let before = json!([{"annotations": {"a": "1"}, "patchPolicy": "Overwrite"}]);
        for (own, expected) in [("own".to_owned(), "own"), ("x".repeat(MAX_REPLACED + 1), "1")] {
            let injected = injected(&sets(&before, &before), &pod(&json!({"a": own})));
            let mark = injected["metadata"]["annotations"]["injection.sidecarset.dev/s"].as_str().unwrap();
            assert!(mark.len() < MAX_REPLACED, "{mark}");
            assert_eq!(renewed(&injected, &before, &json!([]))["metadata"]["annotations"]["a"], expected);
        }
    }

    #[test]
    fn members_that_others_merged_stay_and_so_does_the_mark() {
        let before = json!([{"annotations": {"j": "{\"x\":1}"}, "patchPolicy": "MergePatchJson"}]);
        for own in [json!({"note": "own"}), json!({"j": "{\"own\":1}"})] {
            let mut shared = injected(&sets(&before, &before), &pod(&own));
            shared["metadata"]["annotations"]["j"] = json!("{\"x\":1,\"own\":1,\"theirs\":2}");
            let after = renewed(&shared, &before, &json!([]));
            assert_eq!(after["metadata"], shared["metadata"]);
        }
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
        assert_eq!(update_metadata(&all, &pod["metadata"], "s", &patches, &[]), pod["metadata"]);
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
