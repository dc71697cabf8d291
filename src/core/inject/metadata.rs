//! `patchPodMetadata`: labels and annotations that sets write on the pod.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::draft::{Draft, strings};
use super::marks::Marks;
use super::sets::CompiledSets;
use crate::api::v1beta1::{PatchPodMetadata, PatchPolicy};
use crate::core::pod::InjectionRecord;

/// One set's wishes.
pub(super) struct Wishes<'a> {
    pub(super) set: &'a str,
    pub(super) patches: &'a [PatchPodMetadata],
}

/// What a set added, and what it wanted and did not get.
#[derive(Default)]
pub(super) struct Written {
    pub(super) labels: Vec<String>,
    pub(super) annotations: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Writes labels and annotations, all sets by name. Of several that write one key (which admission refuses) the result
/// is the same however often it is done.
pub(super) fn write<'a>(
    draft: &mut Draft,
    marks: &Marks,
    all: &CompiledSets,
    wishes: &[Wishes<'a>],
) -> BTreeMap<&'a str, Written> {
    let mut written: BTreeMap<&str, Written> = wishes.iter().map(|wish| (wish.set, Written::default())).collect();
    for map in [Map::Labels, Map::Annotations] {
        let before = strings(&draft.pod()["metadata"][map.field()]);
        let mut after = before.clone();
        let mut added = BTreeSet::new();
        let keys = wishes.iter().flat_map(|wish| wish.patches.iter().map(|patch| (wish.set, patch)));
        for (set, key, value, policy) in keys.flat_map(|(set, patch)| {
            map.values(patch).iter().map(move |(key, value)| (set, key, value, patch.patch_policy))
        }) {
            let Some(written) = written.get_mut(set) else { continue };
            let ours = marks.lists(set, key, |mark| map.keys(mark));
            let result = match map {
                Map::Labels if all.select_by(key) => {
                    Err(format!("label {key} is not set: a SidecarSet selects pods by it"))
                }
                _ => Wish { map, key, value, policy, ours }.value(after.get(key)),
            };
            match result {
                Ok(Some(value)) => {
                    after.insert(key.clone(), value);
                }
                Ok(None) => {}
                Err(note) => written.notes.push(note),
            }
            if (ours || !before.contains_key(key)) && after.contains_key(key) && added.insert(key) {
                match map {
                    Map::Labels => written.labels.push(key.clone()),
                    Map::Annotations => written.annotations.push(key.clone()),
                }
            }
        }
        for (key, value) in after {
            draft.set(&["metadata", map.field(), &key], &Value::from(value));
        }
    }
    written
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    Labels,
    Annotations,
}

impl Map {
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    pub(super) fn values(self, patch: &PatchPodMetadata) -> &BTreeMap<String, String> {
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

    pub(super) fn keys_mut(self, mark: &mut InjectionRecord) -> &mut Vec<String> {
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
    /// The set wrote the key before: the pod is a copy, or is reviewed again.
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
