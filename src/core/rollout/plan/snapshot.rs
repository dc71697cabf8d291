//! One set at one moment: all that a plan is made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::replace::report::EvictionReport;
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::budget::evictions::EvictionClaims;
use crate::core::rollout::budget::failure;
use crate::core::rollout::budget::limits::share_left;
use crate::core::rollout::budget::steps::{Gate, Wait, gate};
use crate::core::rollout::order::cost::{Cost, Free};
use crate::core::rollout::plan::claims::{evicted_holders, evicting, eviction_claims, failed_evictions};
use crate::core::rollout::plan::prepull::{self, MOST_AT_ONCE};
use crate::core::rollout::plan::summary::{NAMED_PODS, Summary, named};
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::{Pull, is_used};
use crate::core::rollout::state::set::SetState;
use crate::core::rollout::target::rollout::PersistedProgress;

/// Pods of the next batch that are looked at, to find the nodes that have to pull.
const LOOKED_AHEAD: usize = 2000;

/// See the module.
pub(crate) struct Snapshot<'a> {
    all: &'a Index,
    persisted: &'a PersistedProgress,
    pub(crate) set: &'a SetState,
    /// With what failed pulls and failed replacements add.
    counts: Counts,
    evictions: EvictionClaims,
    /// What evictions take of the room of workloads.
    evicting: BTreeMap<Workload, usize>,
    gate: Gate,
    now: Timestamp,
    /// The revision is to be given up.
    pub(crate) exceeded: bool,
}

impl<'a> Snapshot<'a> {
    /// `None` for a set that is not known yet.
    pub(crate) fn take(all: &'a Index, set: &str, persisted: &'a PersistedProgress, now: Timestamp) -> Option<Self> {
        let set = all.set(set)?;
        let evictions = eviction_claims(all, set, persisted, now);
        let counts = evictions.added_to(set.counts());
        let gate = gate(&set.target, persisted, &counts, now);
        let evicting = evicting(all, set, persisted);
        let mut snapshot = Self { all, persisted, set, counts, evictions, evicting, gate, now, exceeded: false };
        snapshot.exceeded = failure::is_exceeded(&set.target, &snapshot.counts, || snapshot.is_stuck());
        Some(snapshot)
    }

    /// The pods to patch now.
    pub(crate) fn choose(&self, limit: usize) -> Vec<PodKey> {
        if self.is_halted() {
            return Vec::new();
        }
        self.next(limit)
    }

    /// Nobody is touched.
    pub(crate) fn is_halted(&self) -> bool {
        failure::is_held(&self.set.target) || self.exceeded
    }

    /// The pods that are next, within the budgets.
    fn next(&self, limit: usize) -> Vec<PodKey> {
        let mut free = self.free();
        let mut taken: BTreeMap<&Workload, usize> = BTreeMap::new();
        let mut chosen = Vec::new();
        // Partition and steps have counted these already.
        for (key, pod, workload) in self.set.to_complete() {
            let room = workload.map(|workload| (self.room(workload), taken.entry(workload).or_default()));
            let has_room = room.as_ref().is_none_or(|(room, taken)| *room > **taken);
            if chosen.len() < limit && has_room && self.set.has_pulled(key) && free.take(Cost::of(pod)) {
                if let Some((_, taken)) = room {
                    *taken += 1;
                }
                chosen.push(key.clone());
            }
        }
        let allowed = self.share_left().min(limit - chosen.len());
        let room = |workload: &Workload| self.room(workload).saturating_sub(taken.get(workload).copied().unwrap_or(0));
        let upgrades = self.set.candidates.choose(free, &room).take(allowed);
        chosen.into_iter().chain(upgrades.cloned()).collect()
    }

    fn free(&self) -> Free {
        let Self { set, counts, evictions, .. } = self;
        Free {
            slots: set.target.max_unavailable(counts.counted).saturating_sub(counts.slots + evictions.slots),
            cap: set.target.max_unready(counts.counted).saturating_sub(counts.capped + evictions.capped),
        }
    }

    /// Nothing is open, and nothing can begin although pods are left that could move; or none is left, and those that
    /// were updated have all failed. Pods on nodes that cannot pull are left alone as long as others prove it.
    fn is_stuck(&self) -> bool {
        let Self { counts, evictions, .. } = self;
        let blocked = if counts.updated_ready > 0 { counts.blocked } else { 0 };
        let evictable = counts.evictable.saturating_sub(evictions.leaving);
        let movable = counts.outdated.saturating_sub(blocked) + evictable;
        let open_slots = (counts.slots + evictions.slots).saturating_sub(counts.failed_slots);
        let open_cap = (counts.capped + evictions.capped).saturating_sub(counts.failed_capped);
        if open_slots + open_cap > 0 {
            return false;
        }
        if movable == 0 || self.share_left() == 0 {
            return counts.updated_ready == 0 && counts.failed_slots + counts.failed_capped > 0;
        }
        let can_evict = evictable > 0 && self.free().slots > 0;
        !can_evict && self.pulls().is_empty() && self.next(1).is_empty()
    }

    fn room(&self, workload: &Workload) -> usize {
        let evicting = self.evicting.get(workload).copied().unwrap_or(0);
        self.set.workloads.room(workload).saturating_sub(evicting)
    }

    /// Those whose ready pods wait only for room, which evictions take, too.
    fn blocked_workloads(&self) -> Vec<&Workload> {
        let set = self.set;
        let blocks = |workload: &&Workload| set.workloads.has_room(workload) && self.room(workload) == 0;
        let has_ready = |workload: &&Workload| set.candidates.has_ready(&Arc::new((*workload).clone()));
        set.blocked_workloads().chain(self.evicting.keys().filter(blocks).filter(has_ready)).collect()
    }

    /// For people, for example `Deployment default/web (1 of 1 unavailable)`.
    fn describe(&self, workload: &Workload) -> String {
        self.set.workloads.describe(workload, self.evicting.get(workload).copied().unwrap_or(0))
    }

    fn share_left(&self) -> usize {
        share_left(&self.set.target, &self.counts, &self.gate, &self.evictions)
    }

    /// What the next batch waits for. It is of pods that can go when all budgets are free: nodes pull for them while the
    /// batch before is open.
    pub(crate) fn pulls(&self) -> Vec<Pull> {
        let target = &self.set.target;
        if !is_used(target) || self.is_halted() {
            return Vec::new();
        }
        let counted = self.counts.counted;
        let free = Free { slots: target.max_unavailable(counted), cap: target.max_unready(counted) };
        let room = |workload: &Workload| self.room(workload);
        let upgrades = self.set.candidates.choose_before_pulls(free, &room).take(self.share_left().min(LOOKED_AHEAD));
        let batch = self.set.to_complete().map(|(key, ..)| key).chain(upgrades);
        prepull::pulls(self.all, self.set, batch, free.slots.min(MOST_AT_ONCE), self.now)
    }

    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        let pause_ends = match &self.gate.wait {
            Some(Wait::Until(until)) => Some(*until),
            _ => None,
        };
        // Replacements that had failed before a retry fail again.
        let retry_ends = self.set.target.retry_ends().filter(|end| self.now < *end);
        self.set.next_due().into_iter().chain(pause_ends).chain(retry_ends).min()
    }

    pub(crate) fn summary(&self, pulls: &[Pull]) -> Summary {
        let Self { set, counts, evictions, gate, .. } = self;
        let evictable = counts.evictable.saturating_sub(evictions.leaving);
        let begun = counts.to_complete.saturating_sub(counts.resets_due);
        let movable = counts.outdated.saturating_sub(begun + counts.blocked) + evictable;
        let max_unavailable = set.target.max_unavailable(counts.counted);
        let is_full = counts.slots + evictions.slots >= max_unavailable;
        let pods = set.failed.iter().take(NAMED_PODS).map(|key| named(set, key));
        let replaced = failed_evictions(self.all, set, self.persisted);
        let nodes = set.nodes.blocking().map(|node| format!("node {node} ({})", set.pulls.why_failed(node)));
        let holders = set.slot_holders.iter().take(NAMED_PODS).map(|key| named(set, key));
        let holders = holders.chain(evicted_holders(self.all, set, self.persisted));
        let blocked = self.blocked_workloads();
        Summary {
            keep_old: set.target.keep_old(counts.counted),
            max_unavailable,
            remaining: self.share_left().min(movable) + counts.to_complete,
            evictable,
            evicting: evictions.moving(),
            owners_to_evict: set.evictable.owners.len(),
            exempt: set.evictable.exempt.iter().map(|(kind, pods)| (*kind, *pods)).collect(),
            evictions: EvictionReport::default(),
            movable: !self.choose(1).is_empty(),
            slots: counts.slots + evictions.slots,
            slot_holders: holders.take(NAMED_PODS).collect(),
            unready: set.unready.iter().take(NAMED_PODS).map(ToString::to_string).collect(),
            blocked_workloads: if is_full { 0 } else { blocked.len() },
            blocked: blocked.into_iter().take(NAMED_PODS).map(|workload| self.describe(workload)).collect(),
            failed: pods.chain(replaced).chain(nodes).take(NAMED_PODS).collect(),
            not_in_place: set.not_in_place.iter().map(|(obstacle, pods)| (obstacle.clone(), *pods)).collect(),
            exceeded: self.exceeded,
            pulling: prepull::pulling(set, pulls),
            gate: gate.clone(),
            counts: counts.clone(),
        }
    }
}
