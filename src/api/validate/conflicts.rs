//! What two sets on the same pods both want.

use k8s_openapi::api::core::v1::Volume;
use kube::ResourceExt;

use super::metadata::selector_keys;
use super::{At, FieldError, ValidSidecarSet, sidecars};
use crate::api::canonical::same;
use crate::api::selector::Selector;
use crate::api::v1beta1::{PatchPodMetadata, PatchPolicy, SidecarSet};
use crate::api::{canary_base, keys};

/// What of `set` conflicts with other sets on the same pods. `others` may contain an older version of the set itself.
pub(crate) fn conflicts<'a>(
    valid: &ValidSidecarSet,
    others: impl IntoIterator<Item = &'a ValidSidecarSet>,
) -> Vec<FieldError> {
    let (set, mut errors) = (valid.set(), Vec::new());
    let others: Vec<&ValidSidecarSet> = others.into_iter().filter(|other| other.name() != valid.name()).collect();
    if let Some(base) = canary_base(set) {
        check_base(base, &others, &mut errors);
    }
    let meeting = others.into_iter().filter(|other| valid.reach().meets(other.reach()));
    let meeting: Vec<&SidecarSet> = meeting.map(|other| other.set().as_ref()).collect();
    errors.extend(meeting.iter().flat_map(|other| clashes(set, other)));
    sidecars::order_with(set, &meeting, &mut errors);
    errors
}

fn check_base(base: &str, others: &[&ValidSidecarSet], errors: &mut Vec<FieldError>) {
    let mut at = At::new(format!("metadata.annotations[{}]", keys::BASE), errors);
    match others.iter().find(|other| other.name() == base) {
        None => at.refuse(format!("there is no SidecarSet {base:?}: correct the name, or create it first")),
        Some(other) if canary_base(other.set()).is_some() => {
            at.refuse(format!("SidecarSet {base:?} is a canary itself: name its base instead"));
        }
        Some(_) => {}
    }
}

/// The pods that a set wants, with parsed selectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    /// Name of the set.
    pub(crate) name: &'a str,
    /// For a canary, the set whose place it takes.
    pub(crate) base: Option<&'a str>,
    /// `spec.selector`.
    pub(crate) selector: &'a Selector,
    /// `spec.namespaceSelector`; `None` for all namespaces.
    pub(crate) namespaces: Option<&'a Selector>,
}

impl Reach<'_> {
    /// Whether both can inject into one pod. Of a canary and its base only one does.
    pub(crate) fn meets(self, other: Reach<'_>) -> bool {
        let in_one_namespace = match (self.namespaces, other.namespaces) {
            (Some(a), Some(b)) => a.overlaps(b),
            _ => true,
        };
        in_one_namespace
            && self.selector.overlaps(other.selector)
            && self.base != Some(other.name)
            && other.base != Some(self.name)
    }
}

impl ValidSidecarSet {
    /// The pods that it wants.
    fn reach(&self) -> Reach<'_> {
        let selectors = self.selectors();
        let (selector, namespaces) = (&selectors.pods, selectors.namespaces.as_ref());
        Reach { name: self.name(), base: canary_base(self.set()), selector, namespaces }
    }
}

/// What both sets want, if they select some of the same pods.
pub(crate) fn clashes(set: &SidecarSet, other: &SidecarSet) -> Vec<FieldError> {
    let (name, mut errors) = (other.name_any(), Vec::new());
    let taken: Vec<String> =
        sidecars::all(&other.spec).flat_map(|(_, _, sidecar)| sidecars::container_names(sidecar)).collect();
    for (list, i, sidecar) in sidecars::all(&set.spec) {
        for container in sidecars::container_names(sidecar).iter().filter(|name| taken.contains(name)) {
            At::new(format!("spec.{list}[{i}].name"), &mut errors).refuse(format!(
                "SidecarSet {name:?} may select the same pods and has a container {container:?}: choose another name, or \
                 selectors of which no pod can match both"
            ));
        }
    }
    let value = |volume: &Volume| serde_json::to_value(volume).unwrap_or_default();
    let is_same = |a: &Volume, b: &Volume| same("volumes", &value(a), &value(b));
    for (i, volume) in set.spec.volumes.iter().enumerate() {
        if other.spec.volumes.iter().any(|theirs| theirs.name == volume.name && !is_same(theirs, volume)) {
            At::new(format!("spec.volumes[{i}].name"), &mut errors).refuse(format!(
                "SidecarSet {name:?} may select the same pods and has another volume {:?}: choose another name, or make \
                 the two equal",
                volume.name
            ));
        }
    }
    metadata(set, other, &mut errors);
    errors
}

/// A key may be written by several sets unless one of them overwrites it; a label that the other set selects by must
/// not be written at all.
fn metadata(set: &SidecarSet, other: &SidecarSet, errors: &mut Vec<FieldError>) {
    let (name, selected) = (other.name_any(), selector_keys(&other.spec));
    let overwrites = |patch: &PatchPodMetadata| patch.patch_policy == Some(PatchPolicy::Overwrite);
    for (i, patch) in set.spec.patch_pod_metadata.iter().enumerate() {
        let labels = patch.labels.keys().map(|key| ("labels", key));
        for (map, key) in labels.chain(patch.annotations.keys().map(|key| ("annotations", key))) {
            let mut at = At::new(format!("spec.patchPodMetadata[{i}].{map}[{key}]"), errors);
            let theirs = other.spec.patch_pod_metadata.iter().find(|theirs| {
                if map == "labels" { theirs.labels.contains_key(key) } else { theirs.annotations.contains_key(key) }
            });
            if theirs.is_some_and(|theirs| overwrites(theirs) || overwrites(patch)) {
                at.refuse(format!(
                    "SidecarSet {name:?} writes it too, and one of the two overwrites: choose another key, or Retain in both"
                ));
            }
            if map == "labels" && selected.contains(key) {
                at.refuse(format!("SidecarSet {name:?} selects pods by this label: choose another key"));
            }
        }
    }
}
