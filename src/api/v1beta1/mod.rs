//! `sidecarset.dev/v1beta1`, kind `SidecarSet`.
//!
//! Field names and meanings follow OpenKruise's v1beta1 wherever it has the field. Doc comments here become the
//! descriptions in the CRD.

// The comments become descriptions in the CRD, where backticks would be noise. An enum that is optional has one on each
// variant: without them the schema would allow null.
#![allow(clippy::doc_markdown)]

mod container;
mod injection;
mod status;
mod update;

use std::collections::BTreeMap;

pub use container::*;
pub use injection::*;
use k8s_openapi::api::core::v1::{LocalObjectReference, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use status::*;
pub use update::*;

/// What an administrator wants: which pods get which sidecars, and how running ones are upgraded.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sidecarset.dev",
    version = "v1beta1",
    kind = "SidecarSet",
    plural = "sidecarsets",
    shortname = "scs",
    status = "SidecarSetStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(name = "Matched", type_ = "integer", json_path = ".status.matchedPods"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updatedPods"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyPods"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failedPods"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.updateRevision", priority = 1),
    printcolumn(name = "Step", type_ = "integer", json_path = ".status.currentStep", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must have at most 63 characters: it becomes part of a label key on pods")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.containers) && self.containers.size() > 0) || (has(self.initContainers) && self.initContainers.size() > 0)")
        .message("at least one entry in containers or initContainers is required"),
    validation = Rule::new("!has(self.containers) || !has(self.initContainers) || self.containers.all(c, !self.initContainers.exists(i, i.name == c.name))")
        .message("a name is used in both containers and initContainers: names must be unique over both lists")
)]
pub struct SidecarSetSpec {
    /// Pods that get the sidecars. Required and not empty.
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)")
        .message("must not be empty: an empty selector would select every pod; write matchLabels or matchExpressions"))]
    pub selector: LabelSelector,

    /// Namespaces whose pods are considered. Absent: every namespace but the excluded ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)")
        .message("must not be empty: leave namespaceSelector out to select every namespace"))]
    pub namespace_selector: Option<LabelSelector>,

    /// Init containers to inject. restartPolicy Always makes one a native sidecar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub init_containers: Vec<SidecarContainer>,

    /// Containers to inject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub containers: Vec<SidecarContainer>,

    /// Volumes for the sidecars. Only those that an injected container mounts reach a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub volumes: Vec<Volume>,

    /// Volumes that pods declare themselves and sidecars may mount by name, for example the claim of a StatefulSet. If volumes has one of that name, pods without their own get it; else they get no sidecars.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub pod_volumes: Vec<PodVolume>,

    /// Pull secrets added to the pod, once per name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Labels and annotations that injection sets on the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub patch_pod_metadata: Vec<PatchPodMetadata>,

    /// How the sidecars' resources relate to the application's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<SetResources>,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_pods: Option<JobPods>,

    /// A human name for this revision, for example a release number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub custom_version: Option<String>,

    /// How many old revisions are kept. A revision in use is never removed.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 1, max = 1000))]
    pub revision_history_limit: i32,

    /// How new pods are treated.
    #[serde(default)]
    pub injection_strategy: InjectionStrategy,

    /// How running pods are upgraded.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
}

/// A volume that the pod declares.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodVolume {
    /// Name in the pod's spec.volumes.
    pub name: String,
}

/// Metadata that injection sets on the pod.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PatchPodMetadata {
    /// Labels to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_policy: Option<PatchPolicy>,
}

/// What happens where the pod has the key already. Retain, the default, keeps the pod's value; Overwrite writes the set's over an annotation, and over a label only if this set wrote it; MergePatchJson merges the two as JSON (RFC 7386), the set's winning.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchPolicy {
    /// The pod's value stays.
    Retain,
    /// The set's value wins.
    Overwrite,
    /// Both values are JSON and are merged (RFC 7386), the set's winning.
    MergePatchJson,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetResources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ResourcesMode>,
    /// A Guaranteed pod stays Guaranteed or is not injected.
    #[serde(rename = "preserveQoS", default, skip_serializing_if = "Option::is_none")]
    pub preserve_qos: Option<bool>,
}

/// Additive, the default, puts the sidecars' resources on top of the application's; SharedWithPod gives application and sidecars one pod-level budget.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourcesMode {
    /// The sidecars' requests come on top of the application's.
    Additive,
    /// Application and sidecars share one pod-level budget.
    SharedWithPod,
}

/// What containers are in pods of Jobs, where an ordinary sidecar runs on, and the Job does not complete. Warn, the default, injects them as they are, with a warning; Native makes native sidecars of them, which end with the Job.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobPods {
    /// As in other pods, with a warning.
    Warn,
    /// Native sidecars.
    Native,
}

fn default_history_limit() -> i32 {
    10
}
