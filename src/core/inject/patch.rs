//! A pod being edited: every edit is recorded as an RFC 6902 operation and applied to a working copy, so that paths are
//! always those of the pod as the apiserver will see it at that point.

use std::collections::{BTreeMap, BTreeSet};

use json_patch::Patch;
use serde_json::{Map, Value, json};

use crate::core::base::lists::List;
use crate::core::base::pointer::pointer;

pub(super) const VOLUMES: [&str; 2] = ["spec", "volumes"];
pub(super) const PULL_SECRETS: [&str; 2] = ["spec", "imagePullSecrets"];

pub(super) fn path(list: List) -> [&'static str; 2] {
    ["spec", list.field()]
}

#[derive(Clone)]
pub(super) struct PatchBuilder {
    pod: Value,
    operations: Vec<Value>,
    /// The set for which edits are made, by its position; none while the pod is cleaned up.
    set: Option<usize>,
    changed: BTreeSet<usize>,
}

impl PatchBuilder {
    pub(super) fn new(pod: &Value) -> Self {
        Self { pod: pod.clone(), operations: Vec::new(), set: None, changed: BTreeSet::new() }
    }

    /// The pod as edited so far.
    pub(super) fn pod(&self) -> &Value {
        &self.pod
    }

    /// The edits that follow are made for this set.
    pub(super) fn edit_for(&mut self, set: usize) {
        self.set = Some(set);
    }

    /// Whether an edit was made for this set.
    pub(super) fn has_changed(&self, set: usize) -> bool {
        self.changed.contains(&set)
    }

    pub(super) fn into_patch(self) -> Patch {
        serde_json::from_value(Value::Array(self.operations)).unwrap_or_default()
    }

    /// Sets a member of an object; absent or null parents are made.
    pub(super) fn set(&mut self, path: &[&str], value: &Value) {
        let Some((key, parents)) = path.split_last() else { return };
        if let Some(object) = self.parent(parents, &Value::Object(Map::new())).and_then(Value::as_object_mut) {
            let op = if object.contains_key(*key) { "replace" } else { "add" };
            if object.get(*key) != Some(value) {
                object.insert((*key).to_owned(), value.clone());
                self.record(json!({"op": op, "path": pointer(path), "value": value}));
            }
        }
    }

    /// Inserts into a list, at its end if `index` is beyond it; an absent or null list is made.
    pub(super) fn insert(&mut self, path: &[&str], index: usize, value: &Value) {
        if let Some(list) = self.parent(path, &Value::Array(Vec::new())).and_then(Value::as_array_mut) {
            let index = index.min(list.len());
            list.insert(index, value.clone());
            let path = format!("{}/{index}", pointer(path));
            self.record(json!({"op": "add", "path": path, "value": value}));
        }
    }

    /// Replaces an element of a list.
    pub(super) fn replace(&mut self, path: &[&str], index: usize, value: &Value) {
        let path = format!("{}/{index}", pointer(path));
        if let Some(element) = self.pod.pointer_mut(&path) {
            *element = value.clone();
            self.record(json!({"op": "replace", "path": path, "value": value}));
        }
    }

    /// Removes a member of an object, if it is there.
    pub(super) fn remove(&mut self, path: &[&str]) {
        let Some((key, parents)) = path.split_last() else { return };
        let parent = self.pod.pointer_mut(&pointer(parents)).and_then(Value::as_object_mut);
        if parent.and_then(|object| object.remove(*key)).is_some() {
            self.record(json!({"op": "remove", "path": pointer(path)}));
        }
    }

    /// Removes the elements of a list that have this name.
    pub(super) fn remove_named(&mut self, path: &[&str], name: &str) {
        while let Some(index) = self.position(path, name) {
            if let Some(list) = self.pod.pointer_mut(&pointer(path)).and_then(Value::as_array_mut) {
                list.remove(index);
                self.record(json!({"op": "remove", "path": format!("{}/{index}", pointer(path))}));
            }
        }
    }

    /// Where in a list the element of this name stands.
    pub(super) fn position(&self, path: &[&str], name: &str) -> Option<usize> {
        elements(&self.pod, path).position(|element| element["name"] == name)
    }

    /// The value at a path; an absent or null one is first set to `empty`, and so are its parents to `{}`.
    fn parent(&mut self, path: &[&str], empty: &Value) -> Option<&mut Value> {
        for depth in 1..=path.len() {
            let here = pointer(&path[..depth]);
            if self.pod.pointer(&here).is_none_or(Value::is_null) {
                let value = if depth == path.len() { empty.clone() } else { json!({}) };
                let (key, above) = path[..depth].split_last()?;
                let above = self.pod.pointer_mut(&pointer(above))?.as_object_mut()?;
                above.insert((*key).to_owned(), value.clone());
                self.record(json!({"op": "add", "path": here, "value": value}));
            }
        }
        self.pod.pointer_mut(&pointer(path))
    }

    fn record(&mut self, operation: Value) {
        self.operations.push(operation);
        self.changed.extend(self.set);
    }
}

/// Elements of a list in a pod; none if it is absent, null or no list.
pub(super) fn elements<'a>(pod: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> + use<'a> {
    pod.pointer(&pointer(path)).and_then(Value::as_array).into_iter().flatten()
}

/// All containers of a pod, in the order in which they start.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = (List, &Value)> {
    List::ALL.into_iter().flat_map(|list| elements(pod, &path(list)).map(move |container| (list, container)))
}

/// A map of strings, such as labels; empty if it is absent or null.
pub(super) fn strings(value: &Value) -> BTreeMap<String, String> {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
