//! What injection leaves on a pod to say what it added, and how that is believed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::draft::{elements, strings};
use super::sets::CompiledSets;
use crate::api::keys;

/// The annotation `injection.sidecarset.dev/<set>`: what this set added to the pod. What the pod had itself, such as an
/// equal volume, is not in it.
///
/// ```json
/// {"containers":["agent"],"initContainers":[],"volumes":["logs"],"annotations":["example.com/agent"]}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mark {
    /// Ordinary containers.
    pub containers: Vec<String>,
    /// Init containers.
    pub init_containers: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
    /// Names of pull secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Keys of labels from `patchPodMetadata`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Keys of annotations from `patchPodMetadata`, and those that hot-upgrade twins read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<String>,
    /// The working twin by container name, for example `{"agent":"agent-1"}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hot: BTreeMap<String, String>,
    /// Base of a canary set: its pods are the base's when the canary goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// This set wrote the pod-level `spec.resources`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resources: bool,
    /// [`Template::hash_without_images`](crate::core::revision::Template::hash_without_images) of the revision that was
    /// injected. Updates in place record theirs and leave this one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash_without_images: String,
}

impl Mark {
    /// All containers.
    pub fn all_containers(&self) -> impl Iterator<Item = &String> {
        self.containers.iter().chain(&self.init_containers)
    }

    /// The annotation's value.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The marks on a pod as it came, by set. A pod's author can write anything there, so names and keys are believed only if
/// a revision of that set knows them: a webhook that removed `pod-template-hash` would tear the pod from its owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) by_set: BTreeMap<String, Mark>,
    /// Revision by set, from the labels.
    pub(super) revisions: BTreeMap<String, String>,
    /// Volumes of sets that are gone from the pod, which other containers still mount.
    pub(super) orphans: BTreeSet<String>,
}

impl Marks {
    pub(super) fn read(pod: &Value, sets: &CompiledSets) -> Self {
        let mut by_set = BTreeMap::new();
        for (name, text) in suffixed(&strings(&pod["metadata"]["annotations"]), keys::INJECTION_PREFIX) {
            let (Some(set), Ok(mut mark)) = (sets.get(&name), serde_json::from_str::<Mark>(&text)) else { continue };
            for (listed, known) in [
                (&mut mark.containers, &set.known.names),
                (&mut mark.init_containers, &set.known.names),
                (&mut mark.volumes, &set.known.names),
                (&mut mark.image_pull_secrets, &set.known.pull_secrets),
                (&mut mark.labels, &set.known.labels),
                (&mut mark.annotations, &set.known.annotations),
            ] {
                listed.retain(|name| known.contains(name));
            }
            mark.resources &= set.known.resources;
            by_set.insert(name, mark);
        }
        let revisions = suffixed(&strings(&pod["metadata"]["labels"]), keys::REVISION_PREFIX);
        Self { by_set, revisions, orphans: BTreeSet::new() }
    }

    /// The set that injected a container.
    pub(super) fn owner(&self, container: &str) -> Option<&str> {
        let of = |mark: &Mark| mark.all_containers().any(|name| name == container);
        self.by_set.iter().find(|(_, mark)| of(mark)).map(|(set, _)| set.as_str())
    }

    /// Whether a set's mark lists a name.
    pub(super) fn lists(&self, set: &str, name: &str, names: impl Fn(&Mark) -> &Vec<String>) -> bool {
        self.by_set.get(set).is_some_and(|mark| names(mark).iter().any(|listed| listed == name))
    }
}

/// Whether a container says that it was injected: by this program, or by OpenKruise, which says the same.
pub fn is_injected(container: &Value) -> bool {
    elements(container, &["env"]).any(|e| e["name"] == keys::IS_INJECTED && e["value"] == "true")
}

/// Members of a map whose keys have a prefix, without it.
pub(super) fn suffixed(map: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    map.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone()))).collect()
}
