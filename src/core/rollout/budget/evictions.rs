//! What evictions take of the budgets.

use crate::core::rollout::budget::counts::Counts;

/// What evictions hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EvictionClaims {
    /// Slots of maxUnavailable.
    pub(crate) slots: usize,
    /// Places under the cap of unready pods.
    pub(crate) capped: usize,
    /// Evictions for the target whose pod is still among the matched.
    pub(crate) leaving: usize,
    /// Those whose pod is not: its replacement may be there or not.
    pub(crate) gone: usize,
    /// Those that have failed without a replacement: they have moved, too.
    pub(crate) lost: usize,
    /// Pods of owners whose replacement was no better.
    pub(crate) left_alone: usize,
    /// Those of `slots` whose replacement for the target is broken, missing, or does not become ready.
    pub(crate) failed_slots: usize,
    /// The same of `capped`.
    pub(crate) failed_capped: usize,
    /// Of both, those whose replacement is not among the failed pods.
    pub(crate) failed: usize,
}

impl EvictionClaims {
    /// Evictions for the target that are under way.
    pub(crate) fn moving(&self) -> usize {
        self.leaving + self.gone
    }

    /// The set's counters with the replacements that have failed: as failed updates in place do, they may use up the
    /// budgets alone. And without the pods that are left alone.
    pub(crate) fn added_to(&self, counts: Counts) -> Counts {
        Counts {
            failed: counts.failed + self.failed,
            evictable: counts.evictable.saturating_sub(self.left_alone),
            failed_slots: counts.failed_slots + self.failed_slots,
            failed_capped: counts.failed_capped + self.failed_capped,
            ..counts
        }
    }
}
