//! Which pods are patched now, within the budgets, and what the rest waits for.

use k8s_openapi::jiff::Timestamp;

use super::budget;
use super::entry::{Obstacle, State};
use super::evictions::Held;
use super::index::Index;
use super::patch::{PodPatch, pod_patch};
use super::rollout::{Mode, Rollout};
use super::set_index::{Counts, SetIndex};
use super::steps::{Gate, Remembered, Wait, gate};
use crate::core::pod::PodKey;

/// Pods and workloads named in a message; the rest is counted.
const NAMED_PODS: usize = 3;

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Requests to send, most urgent first.
    pub patches: Vec<PodPatch>,
    /// What the status says, as if the requests had not been sent.
    pub summary: Summary,
    /// When to plan again even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

/// Where a rollout stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Numbers of pods.
    pub counts: Counts,
    /// Pods that partition keeps on the old revision.
    pub keep_old: usize,
    /// maxUnavailable in pods.
    pub max_unavailable: usize,
    /// Pods that partition and steps let move, in place or by eviction, now or later.
    pub remaining: usize,
    /// Pods that wait for an eviction, whether or not partition and steps let it happen.
    pub evictable: usize,
    /// Evictions for the target that are under way.
    pub evicting: usize,
    /// Pods that would be evicted if they were others, by kind.
    pub exempt: Vec<(&'static str, usize)>,
    /// Where evictions stand, in words; empty if there is nothing to say. The plan does not know.
    pub eviction_news: String,
    /// At least one of them could be patched now.
    pub movable: bool,
    /// Some of the pods that hold a slot, and why: `default/web-1 (not ready)`.
    pub slot_holders: Vec<String>,
    /// Workloads whose ready pods wait because maxUnavailablePerWorkload leaves no room in them.
    pub blocked_workloads: usize,
    /// Some of these: `Deployment default/web (1 of 1 unavailable)`.
    pub blocked: Vec<String>,
    /// Some of the failed pods, and why: `default/web-1 (agent: ImagePullBackOff)`.
    pub failed: Vec<String>,
    /// Why pods cannot be patched, and how many.
    pub not_in_place: Vec<(Obstacle, usize)>,
    /// Where the rollout stands among its steps.
    pub gate: Gate,
    /// Too many pods have failed: the revision is to be given up.
    pub exceeded: bool,
}

impl Index {
    /// Plans one set. At most `limit` requests are planned at a time, so that a change of mind comes through soon.
    pub fn plan(&mut self, set: &str, remembered: &Remembered, now: Timestamp, limit: usize) -> Plan {
        self.advance(set, now);
        let Some(index) = self.set(set) else { return Plan::default() };
        let gate = gate(&index.rollout, remembered, &index.counts, now);
        let held = self.held(set, index, remembered);
        let keys = choose(index, &held, &gate, limit);
        let patches: Vec<PodPatch> =
            keys.iter().filter_map(|key| pod_patch(&*self.get(key)?, &index.rollout, now)).collect();
        let pause_ends = match &gate.wait {
            Some(Wait::Until(until)) => Some(*until),
            _ => None,
        };
        let wake_at = index.next_due().into_iter().chain(pause_ends).min();
        let summary = summary(index, &held, gate);
        let desk = self.desk_mut(set);
        (desk.planned, desk.remembered) = (patches.len(), remembered.clone());
        Plan { patches, summary, wake_at }
    }
}

/// The pods to patch now.
fn choose(index: &SetIndex, held: &Held, gate: &Gate, limit: usize) -> Vec<PodKey> {
    let (rollout, counts) = (&index.rollout, &index.counts);
    let stands = rollout.strategy.paused || !rollout.strategy.enabled || rollout.mode == Mode::Stopped;
    if stands || budget::is_exceeded(rollout, counts) {
        return Vec::new();
    }
    let allowed = share_left(rollout, counts, gate, held).min(limit);
    let free_slots = rollout.max_unavailable(counts.matched).saturating_sub(counts.slots + held.slots);
    let free_cap = rollout.max_unready(counts.matched).saturating_sub(counts.capped + held.capped);
    index.queues.choose(free_slots, free_cap, allowed).into_iter().cloned().collect()
}

/// Pods behind the target that partition and steps let move, in place or by eviction. Every pod behind counts as kept,
/// also one that neither is a way for. A pod that was evicted counts as behind until its eviction is over, whether or
/// not its replacement is there: for a moment fewer may move.
pub(super) fn share_left(rollout: &Rollout, counts: &Counts, gate: &Gate, held: &Held) -> usize {
    let behind = (counts.matched - counts.updated).saturating_sub(held.leaving);
    let moved = counts.selected_updated + held.moving();
    let by_step = gate.allowed.map_or(usize::MAX, |allowed| allowed.saturating_sub(moved));
    behind.saturating_sub(rollout.keep_old(counts.matched + held.gone)).min(by_step)
}

fn summary(index: &SetIndex, held: &Held, gate: Gate) -> Summary {
    let counts = index.counts.clone();
    let evictable = counts.evictable.saturating_sub(held.leaving + held.left_alone);
    let movable = counts.outdated + evictable;
    Summary {
        keep_old: index.rollout.keep_old(counts.matched),
        max_unavailable: index.rollout.max_unavailable(counts.matched),
        remaining: share_left(&index.rollout, &counts, &gate, held).min(movable),
        evictable,
        evicting: held.moving(),
        exempt: index.waiting.exempt.iter().map(|(kind, pods)| (*kind, *pods)).collect(),
        eviction_news: String::new(),
        movable: !choose(index, held, &gate, 1).is_empty(),
        slot_holders: index.slot_holders.iter().take(NAMED_PODS).map(|key| named(index, key)).collect(),
        blocked_workloads: index.queues.blocked(),
        blocked: index.queues.blocked_workloads().take(NAMED_PODS).collect(),
        failed: index.failed.iter().take(NAMED_PODS).map(|key| named(index, key)).collect(),
        not_in_place: index.not_in_place.iter().map(|(obstacle, pods)| (obstacle.clone(), *pods)).collect(),
        exceeded: budget::is_exceeded(&index.rollout, &counts),
        gate,
        counts,
    }
}

fn named(index: &SetIndex, key: &PodKey) -> String {
    let why = match index.entry(key) {
        Some(entry) => match &entry.state {
            State::Failed(reason) => reason.clone(),
            State::Refused(message) => format!("PatchRefused: {message}"),
            _ if !entry.ready => "not ready".to_owned(),
            _ => "updating".to_owned(),
        },
        None => "gone".to_owned(),
    };
    format!("{key} ({why})")
}
