//! `spec.updateStrategy`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.selector) && has(self.partition))")
        .message("selector and partition exclude each other: remove one of them"),
    validation = Rule::new("!(has(self.steps) && self.steps.size() > 0 && has(self.partition))")
        .message("steps and partition exclude each other: remove one of them")
)]
pub struct UpdateStrategy {
    /// RollingUpdate, the default, upgrades running pods in place; NotUpdate leaves them alone.
    #[serde(rename = "type", default)]
    pub type_: UpdateType,
    /// True stops further upgrades until it is false again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Only pods that also match this are upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Number or percent of matched pods that stay on the old revision. A percentage is rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 0 : self.matches('^(100|[0-9]{1,2})%$')")
        .message("must be a number of pods, 0 or more and without quotes, or a percentage from 0% to 100%"))]
    pub partition: Option<IntOrString>,
    /// Number or percent of matched pods that an upgrade may make unavailable at once. A percentage is rounded up.
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 : self.matches('^(100|[1-9][0-9]?)%$')")
        .message("must be a number of pods, 1 or more and without quotes, or a percentage from 1% to 100%; to stop upgrades use paused: true"))]
    #[serde(default = "default_max_unavailable")]
    pub max_unavailable: IntOrString,
    /// Number or percent of one workload's pods that may be unavailable at once, whatever the reason. A percentage is rounded up. The workload is the pod's controller; for a ReplicaSet of a Deployment, the Deployment.
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 : self.matches('^(100|[1-9][0-9]?)%$')")
        .message("must be a number of pods, 1 or more and without quotes, or a percentage from 1% to 100%"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable_per_workload: Option<IntOrString>,
    /// Seconds that an upgraded sidecar must have been ready without a restart.
    #[schemars(range(min = 0, max = 86400))]
    #[serde(default = "default_min_ready_seconds")]
    pub min_ready_seconds: i32,
    /// Seconds after which an upgraded pod that is not available has failed.
    #[schemars(range(min = 1, max = 86400))]
    #[serde(default = "default_pod_update_timeout_seconds")]
    pub pod_update_timeout_seconds: i32,
    /// Seconds without progress after which the set is Stalled. Time that is spent paused does not count.
    #[schemars(range(min = 1, max = 86400))]
    #[serde(default = "default_progress_deadline_seconds")]
    pub progress_deadline_seconds: i32,
    /// Batches with pauses between them, instead of partition. After the last one the rest follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub steps: Vec<Step>,
    /// What happens when upgraded pods fail.
    #[serde(default)]
    pub failure_policy: UpdateFailurePolicy,
    /// Pull the new image on a batch's nodes before any container is stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pre_pull: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_not_in_place: Option<WhenNotInPlace>,
    /// Which pods are upgraded first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_strategy: Option<PriorityStrategy>,
    /// Labels whose pods are spread over the whole rollout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub scatter_strategy: Vec<ScatterTerm>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateType {
    #[default]
    RollingUpdate,
    NotUpdate,
}

/// One batch of a rollout.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number or percent of the pods that the rollout is for: as many are upgraded before it waits, those of the steps before included. A percentage is rounded up.
    // Not in CEL: it reckons with the largest request for each of 64 of them.
    #[schemars(extend("minimum" = 1, "pattern" = "^(100|[1-9][0-9]?)%$"))]
    pub replicas: IntOrString,
    /// Wait behind this step: `{}` until approved, or for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<StepPause>,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepPause {
    /// Seconds to wait. Absent: until approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub duration_seconds: Option<i32>,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateFailurePolicy {
    /// Number or percent of matched pods that may fail. A percentage is rounded up. When more fail, or when failed pods alone use up what may be unavailable, the action is taken.
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 0 : self.matches('^(100|[1-9][0-9]?)%$')")
        .message("must be a number of pods, 0 or more and without quotes, or a percentage from 1% to 100%"))]
    #[serde(default = "default_max_failed")]
    pub max_failed: IntOrString,
    /// What happens when more fail. Pause, the default, stops the rollout until the template changes or a retry is asked for; Rollback returns the pods to the stable revision; Ignore does nothing, and the rollout waits.
    #[serde(default)]
    pub action: FailureAction,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureAction {
    #[default]
    Pause,
    Rollback,
    Ignore,
}

/// What happens to a pod whose change cannot be made in place. Skip keeps its revision and counts it; Evict evicts it through its PodDisruptionBudgets. Absent: it is left as with Skip, but nobody has asked for that, and the set is not Ready.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenNotInPlace {
    /// The pod keeps its revision and is counted.
    Skip,
    /// The pod is evicted through its PodDisruptionBudgets.
    Evict,
}

#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.weightPriority) && self.weightPriority.size() > 0) != (has(self.orderPriority) && self.orderPriority.size() > 0)")
        .message("must have exactly one of weightPriority and orderPriority")
)]
pub struct PriorityStrategy {
    /// Pods with the larger sum of matching weights go first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub weight_priority: Vec<WeightPriority>,
    /// Pods are ordered by the values of these labels: an earlier key first, then the larger trailing number. Pods without any of the keys go last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub order_priority: Vec<OrderPriority>,
}

/// A weight for the pods that match a selector.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightPriority {
    /// 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub weight: i32,
    /// Pods that get the weight.
    pub match_selector: LabelSelector,
}

/// A label by whose values pods are ordered.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderPriority {
    /// Label whose trailing number orders the pods.
    pub ordered_key: String,
}

/// Pods with this label are spread over the whole rollout.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScatterTerm {
    /// Label key.
    pub key: String,
    /// Label value; `*` stands for each value seen.
    pub value: String,
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::Int(1)
}

fn default_min_ready_seconds() -> i32 {
    5
}

fn default_pod_update_timeout_seconds() -> i32 {
    600
}

fn default_progress_deadline_seconds() -> i32 {
    600
}

fn default_max_failed() -> IntOrString {
    IntOrString::String("10%".to_owned())
}

impl Default for UpdateFailurePolicy {
    fn default() -> Self {
        Self { max_failed: default_max_failed(), action: FailureAction::default() }
    }
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self {
            type_: UpdateType::default(),
            paused: false,
            selector: None,
            partition: None,
            max_unavailable: default_max_unavailable(),
            max_unavailable_per_workload: None,
            min_ready_seconds: default_min_ready_seconds(),
            pod_update_timeout_seconds: default_pod_update_timeout_seconds(),
            progress_deadline_seconds: default_progress_deadline_seconds(),
            steps: Vec::new(),
            failure_policy: UpdateFailurePolicy::default(),
            pre_pull: false,
            when_not_in_place: None,
            priority_strategy: None,
            scatter_strategy: Vec::new(),
        }
    }
}
