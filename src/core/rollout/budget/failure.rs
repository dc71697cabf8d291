//! The failure budget: when a revision is given up. And what else keeps a rollout from touching any pod.

use crate::api::v1beta1::FailureAction;
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::target::{Direction, Target};

/// Somebody has said that no pod is touched, neither patched nor evicted.
pub(crate) fn is_held(target: &Target) -> bool {
    target.strategy.paused || !target.strategy.is_enabled() || target.direction == Direction::Halted
}

/// The revision is to be given up: more pods have failed than `failurePolicy.maxFailed`, or nothing can go on because of
/// those that have, however few (`is_stuck`). While a set is paused nothing is decided.
pub(crate) fn is_exceeded(target: &Target, counts: &Counts, is_stuck: impl FnOnce() -> bool) -> bool {
    let is_asked = target.is_rolling() && target.strategy.failure_policy.action != FailureAction::Ignore;
    // From a set's first revision there is nothing that new pods could get instead.
    let failed = if target.stable.is_none() { counts.failed - counts.failed_new } else { counts.failed };
    if target.direction != Direction::Forward || is_held(target) || !is_asked || failed == 0 {
        return false;
    }
    failed > target.max_failed(counts.counted) || is_stuck()
}
