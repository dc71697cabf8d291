//! How many pods each field of `updateStrategy` allows. Percentages are of the set's pods that a kubelet has, or that take
//! something of the budgets: a pod without a node can be made by anybody, and counts for none.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::base::percent::scaled;
use crate::core::rollout::budget::counts::{Counts, EvictionClaims};
use crate::core::rollout::budget::steps::StepGate;
use crate::core::rollout::target::Target;

impl Target {
    /// False if every pod may be upgraded.
    pub(crate) fn has_partition(&self) -> bool {
        let kept_back = self.strategy.kept_back();
        kept_back != IntOrString::Int(0) && scaled(&kept_back, 100) > 0
    }

    /// Pods that must stay on the old revision: a percentage is rounded up, but below 100 % at least one of several
    /// pods moves (OpenKruise's rule).
    pub(crate) fn keep_old(&self, pods: usize) -> usize {
        let kept_back = self.strategy.kept_back();
        let keep = scaled(&kept_back, pods).min(pods);
        let all_by_percent = matches!(&kept_back, IntOrString::String(text) if text != "100%");
        if all_by_percent && keep == pods && pods > 1 { pods - 1 } else { keep }
    }

    /// Pods that upgrades may make unavailable at once, at least 1.
    pub(crate) fn max_unavailable(&self, pods: usize) -> usize {
        scaled(&self.strategy.max_unavailable, pods).max(1)
    }

    /// Pods that were not ready anyway and may be in an undecided or failed update at once.
    pub(crate) fn max_unready(&self, pods: usize) -> usize {
        self.max_unavailable(pods).max(pods.div_ceil(10))
    }

    /// Pods whose update may fail before the rollout is aborted.
    pub(crate) fn max_failed(&self, pods: usize) -> usize {
        scaled(&self.strategy.failure_policy.max_failed, pods)
    }
}

/// Pods that partition and steps still let move, in place or by eviction. A pod that was evicted counts as moved from
/// then on, whether or not its replacement is there.
pub(crate) fn share_left(target: &Target, counts: &Counts, gate: &StepGate, evictions: &EvictionClaims) -> usize {
    let pods = counts.counted + evictions.gone + evictions.lost;
    let moved = evictions.moving() + evictions.lost;
    let by_partition = if target.has_partition() {
        (pods - target.keep_old(pods)).saturating_sub(counts.moved + moved)
    } else {
        // Every pod, also one that counts for no percentage.
        usize::MAX
    };
    let by_step = gate.allowed.map_or(usize::MAX, |allowed| allowed.saturating_sub(counts.selected_moved + moved));
    by_partition.min(by_step)
}
