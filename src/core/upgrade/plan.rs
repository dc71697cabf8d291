//! Which pods are patched now, within the budgets, and what the rest waits for.

use k8s_openapi::jiff::Timestamp;

use super::budget;
use super::entry::{Obstacle, State};
use super::index::Index;
use super::patch::{PodPatch, pod_patch};
use super::rollout::{Mode, Rollout};
use super::set_index::{Counts, SetIndex};
use super::steps::{Gate, Remembered, Wait, gate};
use crate::core::pod::PodKey;

/// Pods named in a message; the rest is counted.
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
    /// Outdated pods that may still be patched, now or later.
    pub remaining: usize,
    /// At least one of them could be patched now.
    pub movable: bool,
    /// Some of the pods that hold a slot, and why: `default/web-1 (not ready)`.
    pub slot_holders: Vec<String>,
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
        let keys = choose(index, remembered, &gate, limit);
        let patches = keys.iter().filter_map(|key| pod_patch(&*self.get(key)?, &index.rollout, now)).collect();
        let pause_ends = match &gate.wait {
            Some(Wait::Until(until)) => Some(*until),
            _ => None,
        };
        let wake_at = index.next_due().into_iter().chain(pause_ends).min();
        Plan { patches, summary: summary(index, remembered, gate), wake_at }
    }
}

/// The pods to patch now.
fn choose(index: &SetIndex, remembered: &Remembered, gate: &Gate, limit: usize) -> Vec<PodKey> {
    let (rollout, counts) = (&index.rollout, &index.counts);
    let held = rollout.strategy.paused || !rollout.strategy.enabled || rollout.mode == Mode::Stopped;
    if held || budget::is_exceeded(rollout, counts) {
        return Vec::new();
    }
    let allowed = remaining(rollout, counts, gate).min(limit);
    let free_slots = rollout.max_unavailable(counts.matched).saturating_sub(counts.slots + remembered.evictions);
    let free_cap = rollout.max_unready(counts.matched).saturating_sub(counts.capped);
    index.queues.choose(free_slots, free_cap).take(allowed).cloned().collect()
}

/// Candidates that partition and steps let move. Every pod behind the target counts as kept, also one that cannot be
/// patched.
fn remaining(rollout: &Rollout, counts: &Counts, gate: &Gate) -> usize {
    let behind = counts.matched - counts.updated;
    let by_step = gate.allowed.map_or(usize::MAX, |allowed| allowed.saturating_sub(counts.selected_updated));
    behind.saturating_sub(rollout.keep_old(counts.matched)).min(by_step).min(counts.outdated)
}

fn summary(index: &SetIndex, remembered: &Remembered, gate: Gate) -> Summary {
    let counts = index.counts.clone();
    Summary {
        keep_old: index.rollout.keep_old(counts.matched),
        max_unavailable: index.rollout.max_unavailable(counts.matched),
        remaining: remaining(&index.rollout, &counts, &gate),
        movable: !choose(index, remembered, &gate, 1).is_empty(),
        slot_holders: index.slot_holders.iter().take(NAMED_PODS).map(|key| named(index, key)).collect(),
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
            _ if let Some(text) = &entry.waits_for => text.clone(),
            _ if !entry.ready => "not ready".to_owned(),
            _ => "updating".to_owned(),
        },
        None => "gone".to_owned(),
    };
    format!("{key} ({why})")
}
