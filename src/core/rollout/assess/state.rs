//! The states of a pod in a rollout, why one cannot be patched, and what it takes of the budgets.

use std::sync::Arc;

use crate::core::pod::Owner;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodState {
    /// Behind the target, and can be patched.
    Outdated,
    /// Behind the target, and cannot be patched.
    NotInPlace(Obstacle),
    /// At the target, its update neither done nor failed.
    Updating,
    /// At the target, and of a hot sidecar's twins the one that has handed over is to be reset.
    ResetDue,
    /// At the target and done, but the pod is not ready, or was made just now.
    NotReady,
    /// At the target, done, and the pod is ready.
    Available,
    /// At the target, and its update failed; the text says why.
    Failed(String),
    /// Behind the target, and the apiserver refused the patch; the text is its answer.
    Refused(String),
    /// A patch got no clear answer and may still be carried out; the text is what was heard.
    Unconfirmed(String),
}

/// Why a pod cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Obstacle {
    /// Whether something can be done about it.
    pub(crate) kind: ObstacleKind,
    /// For people, for example `containers[agent].env changed`.
    pub(crate) text: String,
}

/// What a pod that cannot be patched suffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ObstacleKind {
    /// The revisions differ in what no running pod can change: new pods are the only way.
    Template,
    /// The pod itself, for example its `restartPolicy` or its node's kubelet.
    Pod,
    /// It passes by itself.
    Passing,
}

impl Obstacle {
    pub fn new(kind: ObstacleKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// What a pod takes of the budgets. Ordered: who holds more holds less, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Claim {
    #[default]
    None,
    /// A place under the cap of pods that were not ready anyway.
    Unready,
    /// One of `maxUnavailable`.
    Disruption,
}

/// What eviction could do for a pod that cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Evictability {
    /// This owner would make a better one.
    Evictable(Arc<Owner>),
    /// It is never evicted; the text says which pods are not.
    Exempt(&'static str),
}
