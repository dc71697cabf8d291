//! `status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator found and does.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSetStatus {
    /// Generation of the spec that this status describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that carry the sidecars and are selected.
    pub matched_pods: i32,
    /// Matched pods that carry updateRevision.
    pub updated_pods: i32,
    /// Matched pods that are Ready.
    pub ready_pods: i32,
    /// Updated pods that are available.
    pub updated_ready_pods: i32,
    /// Pods whose upgrade failed in this rollout.
    pub failed_pods: i32,
    /// Pods whose change cannot be made in place.
    pub not_in_place_pods: i32,
    /// Selected pods without the sidecars, as of the last look; absent with injectionStrategy.existingPods Ignore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uninjected_pods: Option<i32>,
    /// Hash of the newest revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// Hash of the last revision that every matched pod ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// Name of the newest ControllerRevision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<String>,
    /// Hash of the revision that new pods get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injection_revision: Option<String>,
    /// Hash of a revision that was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_revision: Option<String>,
    /// Why it was given up: pods that had failed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_because: Option<String>,
    /// The last value of the annotation sidecarset.dev/retry that was seen: another one is another retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handled_retry: Option<String>,
    /// When a retry was last begun: pods that had failed before get podUpdateTimeoutSeconds more from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<Time>,
    /// When updateRevision was first seen: the pods that existed then decide whether new pods get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_started_at: Option<Time>,
    /// When they had decided, and new pods began to get it: it is stable when the pods that existed by then have decided, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_pods_since: Option<Time>,
    /// When the rollout last made progress: a pod became available, a step was reached. Time that is spent paused is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<Time>,
    /// Number of revision names that were taken by other data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// How many of updateStrategy.steps the rollout has reached; absent without steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<i32>,
    /// When the last of them was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_reached_at: Option<Time>,
    /// Evictions that are under way, or whose replacement was no better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evictions: Option<Vec<Eviction>>,
    /// Owners of selected pods that cannot create them with the sidecars, and namespaces where more than 100 owners cannot: with failurePolicy Ignore their pods come without. An entry ends when the owner's template or the revision changes, or the owner is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_creates: Option<Vec<FailedCreate>>,
    /// How many entries failedCreates has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_create_owners: Option<i32>,
    /// One line: what happens, and what is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Ready, Reconciling, Stalled, Paused, InjectionReady, Conflicting.
    pub conditions: Vec<Condition>,
}

/// An owner that could have created its pods without the sidecars, and could not with them.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedCreate {
    /// Namespace of owner and pods.
    pub namespace: String,
    /// The owner; absent where the entry stands for every owner in the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FailedOwner>,
    /// Hash of the revision that its pods would get.
    pub revision: String,
    /// What the API server, or a webhook, said.
    pub message: String,
    /// When the entry was made.
    pub at: Time,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedOwner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    /// Hash of its pod template.
    pub template_hash: String,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvictionCause {
    #[default]
    NoSidecars,
    NotInPlace,
}

/// One pod that was evicted to get its owner to make a better one.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Eviction {
    /// Namespace of pod and owner.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// When the youngest pod of the owner was created that should be replaced: a younger one that should be, too, is a replacement that came no better.
    pub pod_created: Time,
    /// Why the pod was evicted: NoSidecars, it was made without the sidecars (injectionStrategy.existingPods Evict); NotInPlace, what changed cannot be changed in a running pod (updateStrategy.whenNotInPlace Evict).
    #[serde(default)]
    pub cause: EvictionCause,
    /// True if the pod was not available anyway, so that its eviction costs no slot of maxUnavailable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unready: bool,
    /// apiVersion of the pod's controller.
    pub owner_api_version: String,
    /// Kind of the pod's controller.
    pub owner_kind: String,
    /// Name of the pod's controller.
    pub owner_name: String,
    /// UID of the pod's controller.
    pub owner_uid: String,
    /// Hash of the revision that the replacement should get.
    pub revision: String,
    /// When the eviction was requested.
    pub at: Time,
    /// True when the owner did not have a ready replacement by podUpdateTimeoutSeconds: it counts as a failed pod of that revision, and keeps its slot until the owner has its pods back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// True when the replacement was no better. The owner's pods are then left alone until the set has another revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_vain: bool,
}
