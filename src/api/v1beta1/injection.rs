//! `spec.injectionStrategy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionStrategy {
    /// True: new pods get no sidecars from this set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// What happens to a new pod when the sidecars cannot be injected. Fail refuses the pod; Ignore, the default, lets it pass without them.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Which revision a pod gets that is born during a rollout. Latest: the newest. FollowRollout, the default: the stable one, unless only a new pod can have the newest.
    #[serde(default)]
    pub new_pods: NewPods,
    /// A fixed revision for new pods, by the name of its ControllerRevision or by its customVersion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<InjectionRevision>,
    /// What happens to selected pods that have no sidecars, because they are older than the set or the webhook was away. Report, the default, counts and names them; Evict has their owners replace them, within updateStrategy.maxUnavailable and their PodDisruptionBudgets; Ignore does not look for them.
    #[serde(default)]
    pub existing_pods: ExistingPods,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailurePolicy {
    #[default]
    Ignore,
    Fail,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewPods {
    Latest,
    #[default]
    FollowRollout,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionRevision {
    /// Name of the `ControllerRevision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// customVersion of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_version: Option<String>,
    /// Always, the default: every new pod. Partial: those that the update strategy keeps on the old revision.
    #[serde(default)]
    pub policy: RevisionPolicy,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevisionPolicy {
    #[default]
    Always,
    Partial,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExistingPods {
    Ignore,
    #[default]
    Report,
    Evict,
}
