//! What eviction could do for a pod that cannot be patched.

use std::sync::Arc;

use crate::core::pod::{Owner, PodView};
use crate::core::replace::exempt;
use crate::core::rollout::assess::state::{ObstacleKind, State};
use crate::core::rollout::target::Target;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Evictability {
    /// This owner would make a better one.
    Evictable(Arc<Owner>),
    /// It is never evicted; the text says which pods are not.
    Exempt(&'static str),
}

/// `None`: eviction is not asked for, or is no remedy.
pub(crate) fn evictability(pod: &PodView, state: &State, target: &Target) -> Option<Evictability> {
    let State::NotInPlace(obstacle) = state else { return None };
    if !target.strategy.evicts || obstacle.kind == ObstacleKind::Passing {
        return None;
    }
    match (exempt(pod.owner.as_deref(), pod.restarts_always), &pod.owner) {
        (None, Some(owner)) => Some(Evictability::Evictable(owner.clone())),
        (why, _) => Some(Evictability::Exempt(why.unwrap_or_default())),
    }
}
