//! What injection writes on a pod about one set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The annotation `injection.sidecarset.dev/<set>`: what this set added to the pod. What the pod had itself, such as an
/// equal volume, is not in it.
///
/// ```json
/// {"containers":["agent"],"initContainers":[],"volumes":["logs"],"annotations":["example.com/agent"]}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InjectionRecord {
    /// Ordinary containers.
    pub(crate) containers: Vec<String>,
    /// Init containers.
    pub(crate) init_containers: Vec<String>,
    /// Volumes.
    pub(crate) volumes: Vec<String>,
    /// Names of pull secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) image_pull_secrets: Vec<String>,
    /// Keys of labels from `patchPodMetadata`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<String>,
    /// Keys of annotations from `patchPodMetadata`, and those that hot-upgrade twins read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) annotations: Vec<String>,
    /// The working twin by container name, for example `{"agent":"agent-1"}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) hot: BTreeMap<String, String>,
    /// Base of a canary set: its pods are the base's when the canary goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<String>,
    /// This set wrote the pod-level `spec.resources`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resources: bool,
    /// [`Template::hash_without_images`](crate::core::revision::Template::hash_without_images) of the revision that was
    /// injected. Updates in place record theirs and leave this one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hash_without_images: String,
}

impl InjectionRecord {
    /// All containers.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &String> {
        self.containers.iter().chain(&self.init_containers)
    }

    /// The annotation's value.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
