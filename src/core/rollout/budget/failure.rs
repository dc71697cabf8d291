//! The failure budget: when a revision is given up. And what else keeps a rollout from touching any pod.

use crate::api::v1beta1::FailureAction;
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::target::{Direction, Target};

/// No pod is touched, neither patched nor evicted.
pub fn stands(target: &Target, counts: &Counts) -> bool {
    target.strategy.paused
        || !target.strategy.enabled
        || target.direction == Direction::Halted
        || is_exceeded(target, counts)
}

/// More pods have failed than `failurePolicy.maxFailed`, or failed pods alone fill maxUnavailable, the cap of unready
/// ones, or the room of every workload that is left: the rollout could not go on anyway. So it fires with
/// `maxUnavailable: 1` too.
pub fn is_exceeded(target: &Target, counts: &Counts) -> bool {
    let is_asked = target.strategy.enabled && target.strategy.action != FailureAction::Ignore;
    if target.direction != Direction::Forward || !target.is_rolling() || !is_asked {
        return false;
    }
    counts.failed > target.max_failed(counts.matched)
        || counts.failed_slots >= target.max_unavailable(counts.matched)
        || counts.failed_capped >= target.max_unready(counts.matched)
        || (counts.locked_out > 0 && counts.locked_out >= counts.outdated && counts.evictable == 0)
        // No node can pull it.
        || (counts.blocked > 0 && counts.blocked >= counts.outdated && counts.updated_ready == 0)
}
