//! How many more pods of a set may be evicted now.

use k8s_openapi::jiff::Timestamp;

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::rollout::budget::limits::share_left;
use crate::core::rollout::budget::steps::gate;
use crate::core::rollout::plan::claims::eviction_claims;
use crate::core::rollout::plan::snapshot::Snapshot;
use crate::core::rollout::state::index::Index;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EvictionQuota {
    /// Hash of the revision that replacements are to have.
    pub(crate) revision: String,
    /// Slots of maxUnavailable that are free.
    pub(crate) slots: usize,
    /// Places that are free under the cap of pods that are not ready.
    pub(crate) unready: usize,
    /// Pods that partition and steps let go because their change cannot be made in place.
    pub(crate) upgrades: usize,
}

impl EvictionQuota {
    /// Whether a place is left for this eviction.
    pub(crate) fn has_place(&self, eviction: &Eviction) -> bool {
        let place = if eviction.unready { self.unready } else { self.slots };
        place > 0 && (eviction.cause == EvictionCause::NoSidecars || self.upgrades > 0)
    }
}

/// See the module; `None` for a set that was never planned. `uninjected` pods are selected too, and are not in the index.
pub(crate) fn quota(all: &Index, set: &str, uninjected: usize, now: Timestamp) -> Option<EvictionQuota> {
    let (state, in_flight) = (all.set(set)?, all.in_flight(set)?);
    let (target, counts) = (&state.target, state.counts());
    let claims = eviction_claims(all, state, &in_flight.persisted, now);
    let counts = &claims.added_to(counts);
    let matched = counts.matched + uninjected;
    let free = |limit: usize, taken: usize| limit.saturating_sub(taken + in_flight.planned.len());
    let gate = gate(target, &in_flight.persisted, counts, now);
    let may_move = share_left(target, counts, &gate, &claims).saturating_sub(in_flight.planned.len());
    let waiting = counts.evictable.saturating_sub(claims.leaving);
    let is_halted = Snapshot::take(all, set, &in_flight.persisted, now)?.is_halted();
    Some(EvictionQuota {
        revision: target.revision.clone(),
        slots: free(target.max_unavailable(matched), counts.slots + claims.slots),
        unready: free(target.max_unready(matched), counts.capped + claims.capped),
        upgrades: if is_halted { 0 } else { may_move.min(waiting) },
    })
}
