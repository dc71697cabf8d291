//! Reasons and condition types: what conditions, events, metrics and admission answers say.

/// Condition: everything that should be updated is updated and ready.
pub const READY: &str = "Ready";
/// Condition (kstatus): a rollout is moving, or waits for a person.
pub const RECONCILING: &str = "Reconciling";
/// Condition (kstatus): the rollout cannot move without help.
pub const STALLED: &str = "Stalled";
/// Condition: `updateStrategy.paused` is true.
pub const PAUSED: &str = "Paused";
/// Condition: the webhook serves this set.
pub const INJECTION_READY: &str = "InjectionReady";
/// Condition: another set on the same pods wants a name, volume or key that this one wants too.
pub const CONFLICTING: &str = "Conflicting";

/// Reasons of conditions; also the reasons of the events on a set.
pub mod reason {
    /// Nothing to say: an abnormal condition is False.
    pub const AS_EXPECTED: &str = "AsExpected";
    /// The spec was refused.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// No pod carries the sidecars.
    pub const NO_PODS: &str = "NoPods";
    /// `updateStrategy.type` is `NotUpdate`.
    pub const NOT_UPDATE: &str = "NotUpdate";
    /// Pods are being upgraded.
    pub const ROLLING_UPDATE: &str = "RollingUpdate";
    /// `updateStrategy.paused` is true.
    pub const PAUSED: &str = "Paused";
    /// A step is reached, and the next one waits for a person.
    pub const WAITING_FOR_APPROVAL: &str = "WaitingForApproval";
    /// A step is reached, and its timed pause is not over.
    pub const STEP_PAUSE: &str = "StepPause";
    /// Nothing has moved for `progressDeadlineSeconds`.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// The revision was given up, and the pods return to the stable one.
    pub const ROLLING_BACK: &str = "RollingBack";
    /// The revision was given up, and the pods are back on the stable one.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// Too many pods have failed: the revision was given up.
    pub const FAILURE_BUDGET_EXCEEDED: &str = "FailureBudgetExceeded";
    /// Nothing is left to patch, and some pods have failed.
    pub const PODS_FAILED: &str = "PodsFailed";
    /// Everything is updated, and some pods are not ready.
    pub const PODS_NOT_READY: &str = "PodsNotReady";
    /// As many pods are updated as partition allows.
    pub const PARTITION_REACHED: &str = "PartitionReached";
    /// The rest cannot be updated in place.
    pub const NOT_IN_PLACE: &str = "NotInPlace";
    /// All pods that `updateStrategy.selector` selects are updated.
    pub const SELECTOR_REACHED: &str = "SelectorReached";
    /// Everything is updated and ready.
    pub const UP_TO_DATE: &str = "UpToDate";
    /// The webhook configuration contains this generation of the set.
    pub const REGISTERED: &str = "Registered";
    /// The webhook configuration does not contain it yet.
    pub const NOT_REGISTERED: &str = "NotRegistered";
    /// `injectionStrategy.revision` names a revision that is not in the history.
    pub const REVISION_NOT_FOUND: &str = "RevisionNotFound";
    /// See [`super::CONFLICTING`].
    pub const CONFLICT: &str = "Conflict";
    /// `injectionStrategy.paused` is true.
    pub const INJECTION_PAUSED: &str = "InjectionPaused";
    /// Event on a set: there are selected pods without its sidecars, and there were none before.
    pub const UNINJECTED_PODS: &str = "UninjectedPods";
    /// Event on a pod whose upgrade failed.
    pub const UPGRADE_FAILED: &str = "SidecarUpgradeFailed";
    /// Event on a set: images could not be pulled before a batch, and its pods are patched without.
    pub const PRE_PULL_SKIPPED: &str = "PrePullSkipped";
    /// Event on the owner of a pod that was evicted because it had no sidecars, or could not be upgraded in place.
    pub const EVICTED: &str = "EvictedForSidecars";
}

/// Why a set did or did not inject into a pod: the `reason` of warnings, audit annotations, metrics and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InjectionReason {
    /// The sidecars were added or brought up to date.
    Injected,
    /// Nothing differs from what the set wants.
    AlreadyInjected,
    /// The sidecars of a set that does not match any more were removed.
    Removed,
    /// The pod carries `sidecarset.dev/inject: "false"`.
    OptedOut,
    /// The namespace is excluded, or carries `sidecarset.dev/inject: "false"`.
    NamespaceExcluded,
    /// A static pod's mirror is never touched.
    MirrorPod,
    /// `injectionStrategy.paused` is true.
    Paused,
    /// A container name is taken by one of the pod's own, or by another set.
    NameConflict,
    /// The pod has another volume of that name.
    VolumeConflict,
    /// `dependsOn` of several sets goes in a circle.
    OrderConflict,
    /// `injectionStrategy.revision` names a revision that is not in the history.
    RevisionNotFound,
    /// `resourcesPolicy` finds no container of the application to compute from.
    NoTarget,
    /// The pod's resources leave no room for the sidecars'.
    ResourcesConflict,
    /// `preserveQoS`: the pod is Guaranteed and would not stay so.
    QosLost,
    /// A canary of the set injects in its place.
    ReplacedByCanary,
}

impl InjectionReason {
    /// The name as users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "Injected",
            Self::AlreadyInjected => "AlreadyInjected",
            Self::Removed => "Removed",
            Self::OptedOut => "OptedOut",
            Self::NamespaceExcluded => "NamespaceExcluded",
            Self::MirrorPod => "MirrorPod",
            Self::Paused => "Paused",
            Self::NameConflict => "NameConflict",
            Self::VolumeConflict => "VolumeConflict",
            Self::OrderConflict => "OrderConflict",
            Self::RevisionNotFound => "RevisionNotFound",
            Self::NoTarget => "NoTarget",
            Self::ResourcesConflict => "ResourcesConflict",
            Self::QosLost => "QosLost",
            Self::ReplacedByCanary => "ReplacedByCanary",
        }
    }

    /// True if the set wanted to inject and could not.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::NameConflict
                | Self::VolumeConflict
                | Self::OrderConflict
                | Self::RevisionNotFound
                | Self::NoTarget
                | Self::ResourcesConflict
                | Self::QosLost
        )
    }
}
