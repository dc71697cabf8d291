//! One set at one moment: all that a plan is made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::replace::report::EvictionReport;
use crate::core::rollout::assess::state::{Claim, PodState};
use crate::core::rollout::budget::counts::{Counts, EvictionClaims, PodKind};
use crate::core::rollout::budget::failure;
use crate::core::rollout::budget::limits::share_left;
use crate::core::rollout::budget::steps::{StepGate, StepWait, gate};
use crate::core::rollout::order::cost::{Cost, Free};
use crate::core::rollout::order::queue::WorkloadRoom;
use crate::core::rollout::plan::claims::{evicting, eviction_claims};
use crate::core::rollout::plan::summary::{NAMED_PODS, Pulling, Summary, named};
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::{Pull, PullState, images_to_pull, is_used};
use crate::core::rollout::state::set::RolloutState;
use crate::core::rollout::target::rollout::PersistedProgress;

/// Nodes that pull for one set at the same time, whatever the size of its batches.
pub(crate) const MOST_AT_ONCE: usize = 32;

/// Pods of the next batch that are looked at, to find these nodes.
const LOOKED_AHEAD: usize = 2000;

pub(crate) struct Snapshot<'a> {
    all: &'a Index,
    pub(crate) set: &'a RolloutState,
    /// With what failed pulls and failed replacements add.
    pub(crate) counts: Counts,
    pub(crate) evictions: EvictionClaims,
    /// What evictions take of the room of workloads.
    evicting: BTreeMap<Workload, usize>,
    gate: StepGate,
    now: Timestamp,
    /// The revision is to be given up.
    pub(crate) exceeded: bool,
}

impl<'a> Snapshot<'a> {
    /// `None` for a set that is not known yet.
    pub(crate) fn take(all: &'a Index, set: &str, persisted: &PersistedProgress, now: Timestamp) -> Option<Self> {
        let set = all.set(set)?;
        let evictions = eviction_claims(all, set, persisted, now);
        let counts = evictions.added_to(set.counts());
        let gate = gate(&set.target, persisted, &counts, now);
        let evicting = evicting(all, set, persisted);
        let mut snapshot = Self { all, set, counts, evictions, evicting, gate, now, exceeded: false };
        snapshot.exceeded = failure::is_exceeded(&set.target, &snapshot.counts, || snapshot.is_stuck());
        Some(snapshot)
    }

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
        let room = |workload: &Workload| self.room(workload);
        let (mut free, mut room) = (self.free(0), WorkloadRoom::new(&room));
        let mut chosen = Vec::new();
        // Partition and steps have counted these already.
        for (key, pod, workload) in self.set.to_complete() {
            let is_pulled = self.set.pull_state(key) == PullState::Done;
            if chosen.len() < limit && room.is_left(workload) && is_pulled && free.take(Cost::of(pod)) {
                room.take(workload);
                chosen.push(key.clone());
            }
        }
        let allowed = self.share_left().min(limit - chosen.len());
        chosen.extend(self.set.candidates.choose(free, room, false).take(allowed).cloned());
        chosen
    }

    /// `uninjected`: pods of the set that are not in the index.
    pub(crate) fn free(&self, uninjected: usize) -> Free {
        let Self { set: RolloutState { target, .. }, counts, evictions, .. } = self;
        let pods = counts.counted + uninjected;
        Free {
            slots: target.max_unavailable(pods).saturating_sub(self.slots()),
            cap: target.max_unready(pods).saturating_sub(counts.capped + evictions.capped.len()),
        }
    }

    /// Nothing is open, and nothing can begin although pods are left that could move; or none is left, and those that
    /// were updated have all failed. Pods on nodes that cannot pull are left alone as long as others prove it.
    fn is_stuck(&self) -> bool {
        let Self { counts, evictions, .. } = self;
        let blocked = if counts.updated_ready > 0 { counts.blocked } else { 0 };
        let evictable = counts.evictable.saturating_sub(evictions.leaving);
        let movable = counts.outdated.saturating_sub(blocked) + evictable;
        let open_slots = self.slots().saturating_sub(counts.failed_slots);
        let open_cap = (counts.capped + evictions.capped.len()).saturating_sub(counts.failed_capped);
        if open_slots + open_cap > 0 {
            return false;
        }
        if movable == 0 || self.share_left() == 0 {
            return counts.updated_ready == 0 && counts.failed_slots + counts.failed_capped > 0;
        }
        let can_evict = evictable > 0 && self.free(0).slots > 0;
        !can_evict && self.pulls().is_empty() && self.next(1).is_empty()
    }

    fn room(&self, workload: &Workload) -> usize {
        let evicting = self.evicting.get(workload).copied().unwrap_or(0);
        self.set.workloads.room(workload).saturating_sub(evicting)
    }

    /// For people, for example `Deployment default/web (1 of 1 unavailable)`.
    fn describe(&self, workload: &Workload) -> String {
        self.set.workloads.describe(workload, self.evicting.get(workload).copied().unwrap_or(0))
    }

    /// Pods that partition and steps still let move.
    pub(crate) fn share_left(&self) -> usize {
        share_left(&self.set.target, &self.counts, &self.gate, &self.evictions)
    }

    /// What nodes have to pull for the next batch, one pull for each. It is of pods that can go when all budgets are free: nodes pull for them while the
    /// batch before is open.
    pub(crate) fn pulls(&self) -> Vec<Pull> {
        let target = &self.set.target;
        if !is_used(target) || self.is_halted() {
            return Vec::new();
        }
        let counted = self.counts.counted;
        let free = Free { slots: target.max_unavailable(counted), cap: target.max_unready(counted) };
        let room = |workload: &Workload| self.room(workload);
        let upgrades = self.set.candidates.choose(free, WorkloadRoom::new(&room), true);
        let upgrades = upgrades.take(self.share_left().min(LOOKED_AHEAD));
        let batch = self.set.to_complete().into_iter().map(|(key, ..)| key).chain(upgrades);
        let mut pulls: Vec<Pull> = Vec::new();
        for pod in batch.filter(|key| self.set.pull_state(key).must_pull()).filter_map(|key| self.all.get(key)) {
            if pulls.len() == free.slots.min(MOST_AT_ONCE) {
                break;
            }
            let node = pod.node.as_deref().filter(|node| pulls.iter().all(|pull| pull.node != *node));
            pulls.extend(node.map(|node| Pull {
                set: target.set.clone(),
                revision: target.revision.clone(),
                node: node.to_owned(),
                images: images_to_pull(&pod, target, self.now),
                pod: pod.key.clone(),
                uid: pod.uid.clone(),
                timeout_seconds: target.strategy.pod_update_timeout_seconds,
            }));
        }
        pulls
    }

    /// Places of maxUnavailable that are taken, by updates and by evictions.
    pub(crate) fn slots(&self) -> usize {
        self.counts.slots + self.evictions.slots.len()
    }

    /// Some of those that take them, and why.
    pub(crate) fn slot_holders(&self) -> Vec<String> {
        let pods = self.set.table.oldest(NAMED_PODS, |kind| kind.claim == Claim::Disruption).into_iter();
        let pods = pods.map(|key| named(self.set, key)).chain(self.evictions.slots.iter().cloned());
        pods.take(NAMED_PODS).collect()
    }

    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        let pause_ends = match &self.gate.wait {
            Some(StepWait::Until(until)) => Some(*until),
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
        let remaining = self.share_left().min(movable) + counts.to_complete;
        // Nothing but the room of workloads keeps pods from going.
        let lacks_room = remaining > 0 && self.free(0).slots > 0 && self.choose(1).is_empty();
        let full = set.candidates.workloads().filter(|workload| lacks_room && self.room(workload) == 0);
        let full: Vec<&Arc<Workload>> = full.collect();
        let oldest = |is: &dyn Fn(&PodKind) -> bool| set.table.oldest(NAMED_PODS, is).into_iter();
        let named = |key: &Arc<PodKey>| named(set, key);
        let nodes = set.blocked_nodes.keys().map(|node| format!("node {node} ({})", set.pulls.why_failed(node)));
        let failed = oldest(&PodKind::is_failed).map(named).chain(evictions.failed.iter().cloned()).chain(nodes);
        let capped = oldest(&|kind| kind.claim == Claim::Unready).map(named).chain(evictions.capped.iter().cloned());
        let obstacle = |kind: &PodKind| match &kind.state {
            PodState::NotInPlace(obstacle) => Some(obstacle.clone()),
            _ => None,
        };
        Summary {
            keep_old: set.target.keep_old(counts.counted),
            max_unavailable: set.target.max_unavailable(counts.counted),
            max_unready: set.target.max_unready(counts.counted),
            remaining,
            evictable,
            evicting: evictions.moving(),
            owners_to_evict: set.evictable.len(),
            exempt: set.table.by(|kind| kind.exempt).into_iter().collect(),
            evictions: EvictionReport::default(),
            slots: self.slots(),
            slot_holders: self.slot_holders(),
            awaited: oldest(&|kind| kind.is_undecided() && kind.claim != Claim::Disruption).map(named).collect(),
            capped: counts.capped + evictions.capped.len(),
            cap_holders: capped.take(NAMED_PODS).collect(),
            unready: oldest(&|kind| kind.state == PodState::NotReady).map(named).collect(),
            blocked_workloads: full.len(),
            blocked: full.iter().take(NAMED_PODS).map(|workload| self.describe(workload)).collect(),
            failed: failed.take(NAMED_PODS).collect(),
            not_in_place: set.table.by(obstacle).into_iter().collect(),
            exceeded: self.exceeded,
            pulling: Pulling {
                images: pulls.iter().flat_map(|pull| pull.images.keys()).cloned().collect(),
                nodes: pulls.iter().map(|pull| pull.node.clone()).collect(),
                skipped: set.pulls.skipped().into_iter().map(|(why, nodes)| (why.to_owned(), nodes)).collect(),
            },
            gate: gate.clone(),
            counts: counts.clone(),
        }
    }
}
