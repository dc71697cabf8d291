//! `sidecarset.dev/v1beta1`, kind `SidecarSet`.
//!
//! Field names and meanings follow OpenKruise's v1beta1 wherever it has the field. Doc comments here become the
//! descriptions in the CRD. A field that is refused as "not supported yet" is named in [`super::validate`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, LocalObjectReference, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// A core/v1 container, and what this program wants to know about it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarContainer {
    /// Every field of core/v1 `Container`.
    #[serde(flatten)]
    pub container: Container,

    /// Where the container is placed. Default: BeforeAppContainer in containers, AfterAppContainer in initContainers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_inject_policy: Option<PodInjectPolicy>,

    /// How the container's image is changed. Default ColdUpgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_strategy: Option<ContainerUpgradeStrategy>,

    /// Whether the container gets the volume mounts of the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_volume_policy: Option<SharePolicy>,

    /// Whether the container gets the volume devices of the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_volume_device_policy: Option<SharePolicy>,

    /// Environment variables copied from application containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub transfer_env: Vec<TransferEnv>,

    /// Resources computed from those of the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources_policy: Option<ResourcesPolicy>,

    /// Names of sidecars, or `app`, that start before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub depends_on: Vec<String>,
}

/// Position of an injected container.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)] // OpenKruise's values
pub enum PodInjectPolicy {
    /// In front of the pod's own containers of the same list.
    BeforeAppContainer,
    /// Behind the pod's own containers of the same list.
    AfterAppContainer,
}

/// How one container's image is changed.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerUpgradeStrategy {
    /// ColdUpgrade replaces the container; HotUpgrade hands over to a twin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_type: Option<UpgradeType>,
    /// Image of the idle twin of a hot upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_upgrade_empty_image: Option<String>,
}

/// See [`ContainerUpgradeStrategy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)] // OpenKruise's values
pub enum UpgradeType {
    /// The container is stopped and started with the new image.
    ColdUpgrade,
    /// A twin container takes over before the old one stops.
    HotUpgrade,
}

/// Switch for sharing volume mounts or devices.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharePolicy {
    /// enabled or disabled.
    #[serde(rename = "type")]
    pub type_: ShareType,
}

/// See [`SharePolicy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareType {
    /// The application's mounts are shared.
    Enabled,
    /// They are not.
    Disabled,
}

/// Environment variables copied from one application container.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferEnv {
    /// Name of the container to copy from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_container_name: Option<String>,
    /// Where the name of the container to copy from is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_container_name_from: Option<SourceContainerNameFrom>,
    /// One variable to copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_name: Option<String>,
    /// Several variables to copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
}

/// A pod field that holds a container name.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceContainerNameFrom {
    /// A label or annotation of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<k8s_openapi::api::core::v1::ObjectFieldSelector>,
}

/// Resources of a sidecar as expressions over those of the application's containers.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesPolicy {
    /// How the targets' values are combined.
    pub target_containers_mode: TargetContainersMode,
    /// Regular expression on container names. Default: every application container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_containers_name_regex: Option<String>,
    /// The expressions.
    pub resources_expr: ResourcesExpr,
}

/// See [`ResourcesPolicy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetContainersMode {
    /// The sum over the targets.
    Sum,
    /// The largest of the targets.
    Max,
}

/// See [`ResourcesPolicy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourcesExpr {
    /// Expressions for limits, by resource name (`cpu`, `memory`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// Expressions for requests, by resource name (`cpu`, `memory`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
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
    /// What happens where the pod has the key already. Default Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_policy: Option<PatchPolicy>,
}

/// See [`PatchPodMetadata`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchPolicy {
    /// The pod's value stays.
    Retain,
    /// The set's value wins.
    Overwrite,
    /// Both values are JSON and are merged (RFC 7386), the set's winning.
    MergePatchJson,
}

/// How the sidecars' resources relate to the application's.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetResources {
    /// Additive: on top of the application's. SharedWithPod: one pod-level budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ResourcesMode>,
    /// A Guaranteed pod stays Guaranteed or is not injected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_qos: Option<bool>,
}

/// See [`SetResources`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourcesMode {
    /// The sidecars' requests come on top of the application's.
    Additive,
    /// Application and sidecars share one pod-level budget.
    SharedWithPod,
}

/// How new pods are treated.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionStrategy {
    /// True: new pods get no sidecars from this set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// What happens to a new pod when the sidecars cannot be injected. Fail refuses the pod; Ignore, the default, lets it pass without them.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Which revision a pod gets that is born during a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_pods: Option<NewPods>,
    /// A fixed revision for new pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<InjectionRevision>,
    /// What happens to matching pods without the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_pods: Option<ExistingPods>,
}

/// See [`InjectionStrategy`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailurePolicy {
    /// The pod is created without the sidecars.
    #[default]
    Ignore,
    /// The pod is refused.
    Fail,
}

/// See [`InjectionStrategy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewPods {
    /// Always the newest revision.
    Latest,
    /// The newest only while the rollout may still update more pods.
    FollowRollout,
}

/// See [`InjectionStrategy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionRevision {
    /// Name of the `ControllerRevision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// customVersion of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_version: Option<String>,
    /// Always: every new pod. Partial: those that the update strategy keeps on the old revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RevisionPolicy>,
}

/// See [`InjectionRevision`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevisionPolicy {
    /// Every new pod.
    Always,
    /// Only pods outside the update strategy's selector and partition.
    Partial,
}

/// See [`InjectionStrategy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExistingPods {
    /// Nothing.
    Ignore,
    /// They are counted and named.
    Report,
    /// They are evicted through their PodDisruptionBudgets.
    Evict,
}

/// How running pods are upgraded.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.selector) && has(self.partition))")
        .message("selector and partition exclude each other: remove one of them"),
    validation = Rule::new("!(has(self.steps) && has(self.partition))")
        .message("steps and partition exclude each other: remove one of them")
)]
pub struct UpdateStrategy {
    /// RollingUpdate upgrades running pods in place; NotUpdate leaves them alone.
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
        .message("must be a number of pods, 0 or more, or a percentage from 0% to 100%"))]
    pub partition: Option<IntOrString>,
    /// Number or percent of matched pods that an upgrade may make unavailable at once. A percentage is rounded up.
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 : self.matches('^(100|[1-9][0-9]?)%$')")
        .message("must be a number of pods, 1 or more, or a percentage from 1% to 100%; to stop upgrades use paused: true"))]
    #[serde(default = "default_max_unavailable")]
    pub max_unavailable: IntOrString,
    /// Number or percent of one owner's pods that may be unavailable at once.
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
    /// Seconds without progress after which the set is stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub progress_deadline_seconds: Option<i32>,
    /// Batches with pauses between them, instead of partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub steps: Vec<Step>,
    /// What happens when upgraded pods fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<UpdateFailurePolicy>,
    /// Pull the new image on a batch's nodes before any container is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_pull: Option<bool>,
    /// What happens to a pod whose change cannot be made in place.
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

/// See [`UpdateStrategy`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateType {
    /// Running pods are upgraded in place.
    #[default]
    RollingUpdate,
    /// Running pods are left alone.
    NotUpdate,
}

/// One batch of a rollout.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Cumulative number or percent of pods.
    pub replicas: IntOrString,
    /// Wait behind this step: `{}` until approved, or for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<StepPause>,
}

/// See [`Step`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepPause {
    /// Seconds to wait. Absent: until approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub duration_seconds: Option<i32>,
}

/// See [`UpdateStrategy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateFailurePolicy {
    /// Number or percent of matched pods that may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failed: Option<IntOrString>,
    /// What happens when more fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<FailureAction>,
}

/// See [`UpdateFailurePolicy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureAction {
    /// The rollout stops.
    Pause,
    /// The pods return to the stable revision.
    Rollback,
    /// Nothing; the rollout waits.
    Ignore,
}

/// See [`UpdateStrategy`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenNotInPlace {
    /// The pod keeps its revision and is counted.
    Skip,
    /// The pod is evicted through its PodDisruptionBudgets.
    Evict,
}

/// See [`UpdateStrategy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriorityStrategy {
    /// Pods with the larger sum of matching weights go first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weight_priority: Vec<WeightPriority>,
    /// Pods are ordered by the values of these labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order_priority: Vec<OrderPriority>,
}

/// See [`PriorityStrategy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightPriority {
    /// 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub weight: i32,
    /// Pods that get the weight.
    pub match_selector: LabelSelector,
}

/// See [`PriorityStrategy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderPriority {
    /// Label whose trailing number orders the pods.
    pub ordered_key: String,
}

/// See [`UpdateStrategy`].
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScatterTerm {
    /// Label key.
    pub key: String,
    /// Label value; `*` stands for each value seen.
    pub value: String,
}

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
    /// Selected pods without the sidecars.
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
    /// When a pod last became available on updateRevision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<Time>,
    /// Number of revision names that were taken by other data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Step of the rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<i32>,
    /// When the step was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_reached_at: Option<Time>,
    /// One line: what happens, and what is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Ready, Reconciling, Stalled, Paused, InjectionReady.
    pub conditions: Vec<Condition>,
}

fn default_history_limit() -> i32 {
    10
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
            progress_deadline_seconds: None,
            steps: Vec::new(),
            failure_policy: None,
            pre_pull: None,
            when_not_in_place: None,
            priority_strategy: None,
            scatter_strategy: Vec::new(),
        }
    }
}
