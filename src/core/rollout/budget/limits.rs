//! How many pods each field of `updateStrategy` allows, of a set's pods.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::base::percent::scaled;
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::budget::evictions::EvictionClaims;
use crate::core::rollout::budget::steps::Gate;
use crate::core::rollout::target::Target;

impl Target {
    /// False if every pod may be upgraded.
    pub fn has_partition(&self) -> bool {
        !matches!(&self.strategy.partition, IntOrString::Int(0)) && scaled(&self.strategy.partition, 100) > 0
    }

    /// Pods that must stay on the old revision: a percentage is rounded up, but below 100 % at least one of several
    /// pods moves (OpenKruise's rule).
    pub fn keep_old(&self, matched: usize) -> usize {
        let keep = scaled(&self.strategy.partition, matched).min(matched);
        let all_by_percent = matches!(&self.strategy.partition, IntOrString::String(text) if text != "100%");
        if all_by_percent && keep == matched && matched > 1 { matched - 1 } else { keep }
    }

    /// Pods that upgrades may make unavailable at once, at least 1.
    pub fn max_unavailable(&self, matched: usize) -> usize {
        scaled(&self.strategy.max_unavailable, matched).max(1)
    }

    /// Pods that were not ready anyway and may be in an undecided or failed update at once.
    pub fn max_unready(&self, matched: usize) -> usize {
        self.max_unavailable(matched).max(matched.div_ceil(10))
    }

    /// Pods whose update may fail before the rollout is aborted.
    pub fn max_failed(&self, matched: usize) -> usize {
        scaled(&self.strategy.max_failed, matched)
    }
}

/// Pods behind the target that partition and steps let move, in place or by eviction. Every pod behind counts as kept,
/// also one that neither is a way for. A pod that was evicted counts as behind until its eviction is over, whether or
/// not its replacement is there: for a moment fewer may move.
pub(crate) fn share_left(target: &Target, counts: &Counts, gate: &Gate, evictions: &EvictionClaims) -> usize {
    let behind = (counts.matched - counts.updated).saturating_sub(evictions.leaving);
    let moved = counts.selected_updated + evictions.moving();
    let by_step = gate.allowed.map_or(usize::MAX, |allowed| allowed.saturating_sub(moved));
    behind.saturating_sub(target.keep_old(counts.matched + evictions.gone)).min(by_step)
}
