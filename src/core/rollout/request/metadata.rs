//! `patchPodMetadata` of running pods: labels and annotations change in the same request as images and marks.
//!
//! The index does not keep the annotations of pods: on 100,000 of them they would be most of its memory, and other
//! programs write any number of them. So a patch that changes metadata is completed from the pod's live metadata just
//! before it is sent, and `test`s that this is still what it was made from. That costs one read of a pod's metadata,
//! which the apiserver answers from its cache, for each pod that gets such a patch, and none for any other.

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value, json};

use crate::core::base::pointer::pointer;
use crate::core::inject::CompiledSets;
use crate::core::inject::metadata::update_metadata;
use crate::core::rollout::target::changes::MetadataChange;

impl MetadataChange {
    /// Completes the patch of a pod. `live` is the pod's `metadata` as just read. `None`: the pod is not the one that the
    /// patch was made for, and is to be looked at again.
    pub(crate) fn complete(&self, patch: &Patch, live: &Value, sets: &CompiledSets) -> Option<Patch> {
        let makes_annotations =
            |op: &PatchOperation| matches!(op, PatchOperation::Add(add) if add.path == *"/metadata/annotations");
        let has_annotations = live["annotations"].as_object().is_some_and(|annotations| !annotations.is_empty());
        if has_annotations == patch.0.iter().any(makes_annotations) {
            return None;
        }
        let renewed = update_metadata(sets, live, &self.set, &self.before, &self.after);
        let (mut tests, mut edits) = (Vec::new(), Vec::new());
        for field in ["labels", "annotations"] {
            let changes = changes(field, &live[field], &renewed[field]);
            // A key that is absent cannot be tested; the whole map can.
            if !changes.is_empty() && !live[field].is_null() {
                tests.push(json!({"op": "test", "path": format!("/metadata/{field}"), "value": live[field]}));
            }
            edits.extend(changes);
        }
        let (tests, edits): (Patch, Patch) =
            (serde_json::from_value(tests.into()).ok()?, serde_json::from_value(edits.into()).ok()?);
        Some(Patch(tests.0.into_iter().chain(patch.0.iter().cloned()).chain(edits.0).collect()))
    }
}

fn changes(field: &str, before: &Value, after: &Value) -> Vec<Value> {
    let none = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let path = |key: &str| pointer(&["metadata", field, key]);
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let set = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let removals = gone.map(|key| json!({"op": "remove", "path": path(key)}));
    removals.chain(set.map(|(key, value)| json!({"op": "add", "path": path(key), "value": value}))).collect()
}
