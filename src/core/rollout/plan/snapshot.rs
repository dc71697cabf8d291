//! One set at one moment: all that a plan is made from.

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::budget::evictions::EvictionClaims;
use crate::core::rollout::budget::failure;
use crate::core::rollout::budget::limits::share_left;
use crate::core::rollout::budget::steps::{Gate, Wait, gate};
use crate::core::rollout::order::cost::{Cost, Free};
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
    pub(crate) set: &'a SetState,
    /// With what failed pulls and failed replacements add.
    counts: Counts,
    evictions: EvictionClaims,
    gate: Gate,
    now: Timestamp,
}

impl<'a> Snapshot<'a> {
    /// `None` for a set that is not known yet.
    pub(crate) fn take(all: &'a Index, set: &str, persisted: &PersistedProgress, now: Timestamp) -> Option<Self> {
        let set = all.set(set)?;
        let evictions = all.held(&set.target.set, set, persisted, now);
        let counts = evictions.added_to(set.counts());
        let gate = gate(&set.target, persisted, &counts, now);
        Some(Self { all, set, counts, evictions, gate, now })
    }

    /// The pods to patch now.
    pub(crate) fn choose(&self, limit: usize) -> Vec<PodKey> {
        if failure::stands(&self.set.target, &self.counts) {
            return Vec::new();
        }
        let (target, counts, evictions) = (&self.set.target, &self.counts, &self.evictions);
        let mut free = Free {
            slots: target.max_unavailable(counts.matched).saturating_sub(counts.slots + evictions.slots),
            cap: target.max_unready(counts.matched).saturating_sub(counts.capped + evictions.capped),
        };
        // Partition and steps do not count resets: they end what was begun.
        let resets: Vec<&PodKey> =
            self.set.resets().filter(|(_, pod)| free.take(Cost::of(pod))).map(|(key, _)| key).take(limit).collect();
        let allowed = self.share_left().min(limit - resets.len());
        let room = |workload: &Workload| self.set.workloads.room(workload);
        let upgrades = self.set.candidates.choose(free, &room).take(allowed);
        resets.into_iter().chain(upgrades).cloned().collect()
    }

    fn share_left(&self) -> usize {
        share_left(&self.set.target, &self.counts, &self.gate, &self.evictions)
    }

    /// What the next batch waits for. It is of pods that can go when all budgets are free: nodes pull for them while the
    /// batch before is open.
    pub(crate) fn pulls(&self) -> Vec<Pull> {
        let target = &self.set.target;
        if !is_used(target) || failure::stands(target, &self.counts) {
            return Vec::new();
        }
        let matched = self.counts.matched;
        let free = Free { slots: target.max_unavailable(matched), cap: target.max_unready(matched) };
        let room = |workload: &Workload| self.set.workloads.room(workload);
        let batch = self.set.candidates.choose_before_pulls(free, &room).take(self.share_left().min(LOOKED_AHEAD));
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
        let movable = counts.outdated.saturating_sub(counts.blocked) + evictable;
        let max_unavailable = set.target.max_unavailable(counts.matched);
        let is_full = counts.slots + evictions.slots >= max_unavailable;
        let pods = set.failed.iter().take(NAMED_PODS).map(|key| named(set, key));
        let replaced = self.all.failed_evictions(&set.target.set);
        let nodes = set.nodes.blocking().map(|node| format!("node {node} ({})", set.pulls.why_failed(node)));
        Summary {
            keep_old: set.target.keep_old(counts.matched),
            max_unavailable,
            remaining: self.share_left().min(movable),
            evictable,
            evicting: evictions.moving(),
            exempt: set.evictable.exempt.iter().map(|(kind, pods)| (*kind, *pods)).collect(),
            eviction_news: String::new(),
            movable: !self.choose(1).is_empty(),
            slot_holders: set.slot_holders.iter().take(NAMED_PODS).map(|key| named(set, key)).collect(),
            unready: set.unready.iter().take(NAMED_PODS).map(ToString::to_string).collect(),
            blocked_workloads: if is_full { 0 } else { set.blocked() },
            blocked: set.blocked_workloads().take(NAMED_PODS).collect(),
            failed: pods.chain(replaced).chain(nodes).take(NAMED_PODS).collect(),
            not_in_place: set.not_in_place.iter().map(|(obstacle, pods)| (obstacle.clone(), *pods)).collect(),
            exceeded: failure::is_exceeded(&set.target, counts),
            pulling: prepull::pulling(set, pulls),
            gate: gate.clone(),
            counts: counts.clone(),
        }
    }
}
