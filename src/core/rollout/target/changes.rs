//! What changes besides images between two revisions, of what a running pod can be given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::api::v1beta1::PatchPodMetadata;
use crate::core::base::lists::List;
use crate::core::base::resources::Resources;
use crate::core::revision::Template;

/// What a running pod is given besides images.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NonImageChange {
    pub(crate) metadata: Option<Arc<MetadataChange>>,
    /// Containers whose resources differ, by name in a pod.
    pub(crate) resized: BTreeSet<String>,
}

impl NonImageChange {
    pub(crate) fn between(set: &str, from: &Template, to: &Template) -> Option<Self> {
        let metadata = MetadataChange::between(set, from, to).map(Arc::new);
        let change = Self { metadata, resized: resized(from, to) };
        (change != Self::default()).then_some(change)
    }
}

/// From the metadata of one revision of a set to that of another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MetadataChange {
    pub(crate) set: String,
    pub(crate) before: Vec<PatchPodMetadata>,
    pub(crate) after: Vec<PatchPodMetadata>,
}

impl MetadataChange {
    /// `None` if the two revisions have the same.
    pub(crate) fn between(set: &str, from: &Template, to: &Template) -> Option<Self> {
        let patches = |template: &Template| {
            let entries = template.entries("patchPodMetadata");
            entries.filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect()
        };
        let change = || Self { set: set.to_owned(), before: patches(from), after: patches(to) };
        from.differs_in("patchPodMetadata", to).then(change)
    }
}

/// The resources that containers of a pod get from a template, by name: those that can be resized.
pub(crate) fn resizable(template: &Template) -> BTreeMap<String, Resources> {
    if template.field("resources")["mode"] == "SharedWithPod" {
        return BTreeMap::new();
    }
    entries(template).flat_map(|(name, entry)| name.into_iter().map(move |n| (n, Resources::of_entry(entry)))).collect()
}

/// Names of the containers in a pod whose resources two templates name differently.
fn resized(from: &Template, to: &Template) -> BTreeSet<String> {
    let (from, to) = (resizable(from), resizable(to));
    to.into_iter().filter(|(name, wanted)| from.get(name) != Some(wanted)).map(|(name, _)| name).collect()
}

/// Long-running sidecars of a template, each with the names of its containers in a pod. Those whose resources come from
/// the application's are left out.
fn entries(template: &Template) -> impl Iterator<Item = (Vec<String>, &Value)> {
    let sidecars = template.sidecars().zip(List::ALL.into_iter().flat_map(|list| template.entries(list.field())));
    let fit = sidecars.filter(|(sidecar, entry)| sidecar.long_running && entry["resourcesPolicy"].is_null());
    fit.map(|(sidecar, entry)| (sidecar.container_names(), entry))
}
