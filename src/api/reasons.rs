//! Condition types and reasons: what conditions, Events, metrics, admission answers and the CLI say.

/// Types of the conditions of a set.
pub mod condition {
    /// Everything that should be updated is updated and ready.
    pub const READY: &str = "Ready";
    /// kstatus: a rollout is moving, or waits for a person.
    pub(crate) const RECONCILING: &str = "Reconciling";
    /// kstatus: the rollout cannot move without help.
    pub(crate) const STALLED: &str = "Stalled";
    /// `updateStrategy.paused` is true.
    pub(crate) const PAUSED: &str = "Paused";
    /// The webhook serves this set.
    pub(crate) const INJECTION_READY: &str = "InjectionReady";
    /// Another set on the same pods wants a name, volume or key that this one wants too.
    pub(crate) const CONFLICTING: &str = "Conflicting";
}

/// How an Event with a reason is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventKind {
    Normal,
    /// A trouble: somebody should look.
    Warning,
    /// The same, of a set that wanted to inject and could not.
    FailedInjection,
}

/// Makes [`Reason`] of the list below: a reason is published by the name of its variant. Its [`EventKind`] is Normal where none is named.
macro_rules! reasons {
    (@kind) => { EventKind::Normal };
    (@kind $kind:ident) => { EventKind::$kind };
    ($($(#[$doc:meta])* $name:ident $(: $kind:ident)?,)+) => {
        /// Why: every CamelCase reason that is published. Events and conditions take nothing else.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// As users see it.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            fn kind(self) -> EventKind {
                match self {
                    $(Self::$name => reasons!(@kind $($kind)?),)+
                }
            }

            /// The reason that was published under this name.
            pub(crate) fn named(name: &str) -> Option<Self> {
                [$(Self::$name,)+].into_iter().find(|reason| reason.as_str() == name)
            }
        }
    };
}

reasons! {
    // Conditions, and the Events on a set when the reason of `Ready` changes.
    /// Nothing to say: an abnormal condition is False.
    #[default]
    AsExpected,
    /// The spec was refused.
    InvalidSpec: Warning,
    /// No pod carries the sidecars.
    NoPods,
    /// `updateStrategy.type` is `NotUpdate`.
    NotUpdate,
    /// Pods are being upgraded.
    RollingUpdate,
    /// `updateStrategy.paused` is true; of a pod: `injectionStrategy.paused` is true.
    Paused,
    /// A step is reached, and the next one waits for a person.
    WaitingForApproval,
    /// A step is reached, and its timed pause is not over.
    StepPause,
    /// Nothing has moved for `progressDeadlineSeconds`.
    ProgressDeadlineExceeded: Warning,
    /// The revision was given up, and the pods return to the stable one.
    RollingBack: Warning,
    /// The revision was given up, and the pods are back on the stable one.
    RolledBack: Warning,
    /// Too many pods have failed: the revision was given up.
    FailureBudgetExceeded: Warning,
    /// Nothing is left to patch, and some pods have failed.
    PodsFailed: Warning,
    /// Everything is updated, and some pods are not ready.
    PodsNotReady: Warning,
    /// As many pods are updated as partition allows.
    PartitionReached,
    /// The rest cannot be updated in place.
    NotInPlace,
    /// The rest is to be evicted, and a `PodDisruptionBudget` does not allow it, or its owner cannot create pods.
    EvictionBlocked: Warning,
    /// All pods that `updateStrategy.selector` selects are updated.
    SelectorReached,
    /// Everything is updated and ready.
    UpToDate,
    /// The webhook configuration contains this generation of the set.
    Registered,
    /// The webhook configuration does not contain it yet.
    NotRegistered,
    /// `injectionStrategy.revision` names a revision that is not in the history.
    RevisionNotFound: FailedInjection,
    /// See `condition::CONFLICTING`.
    Conflict,
    /// Owners could have created their pods without the sidecars, and could not with them; of a pod: its owner is one of these.
    PodsNotCreated: FailedInjection,
    /// `injectionStrategy.paused` is true.
    InjectionPaused,

    // Of one pod, in messages.
    /// The API server does not accept the patch of the pod.
    PatchRefused,
    /// The pod's revision is not in the set's history, and it differs in more than images.
    RevisionUnknown,

    // Events about one thing.
    /// Event on a set: there are selected pods without its sidecars, and there were none before.
    UninjectedPods: Warning,
    /// Event on a pod whose upgrade failed.
    SidecarUpgradeFailed: Warning,
    /// Event on a set: images could not be pulled before a batch, and its pods are patched without.
    PrePullSkipped: Warning,
    /// Event on the owner of a pod that was evicted because it had no sidecars, or could not be upgraded in place.
    EvictedForSidecars,
    /// Event on a pod: its label was removed while it carries sidecars, and is set again.
    LabelRestored: Warning,

    // What the webhook decided for a set and a pod: warnings, audit annotations, metrics, Events.
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
    /// A container name is taken by one of the pod's own, or by another set.
    NameConflict: FailedInjection,
    /// The pod has another volume of that name.
    VolumeConflict: FailedInjection,
    /// The pod has no volume of a name in `podVolumes`, and the set has none in its place.
    VolumeNotFound: FailedInjection,
    /// What the pod says elsewhere does not go with a sidecar: the pod would be refused or not start.
    PodConflict: FailedInjection,
    /// `dependsOn` of several sets goes in a circle.
    OrderConflict: FailedInjection,
    /// `resourcesPolicy` finds no container of the application to compute from.
    NoTarget: FailedInjection,
    /// The pod's resources leave no room for the sidecars'.
    ResourcesConflict: FailedInjection,
    /// `preserveQoS`: the pod is Guaranteed and would not stay so.
    QosLost: FailedInjection,
    /// A canary of the set injects in its place.
    ReplacedByCanary,

    // `kubectl sidecarset explain`, besides those of the webhook.
    /// Selected, nothing speaks against it, and not injected.
    Uninjected,
    /// The set does not select the pod.
    NotSelected,
    /// Another set refuses the pod before this one is asked.
    PodRefused,
}

impl Reason {
    /// True if the set wanted to inject and could not.
    pub(crate) fn is_failed_injection(self) -> bool {
        self.kind() == EventKind::FailedInjection
    }

    /// True if an Event with it is a warning.
    pub(crate) fn is_warning(self) -> bool {
        self.kind() != EventKind::Normal
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
