//! Which pods are patched now, within the budgets, and what the rest waits for.

use k8s_openapi::jiff::Timestamp;

use super::index::Index;
use super::patch::{PodPatch, pod_patch};
use super::rollout::Rollout;
use super::set_index::{Counts, Queue, SetIndex, State};
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
    pub not_in_place: Vec<(String, usize)>,
}

impl Index {
    /// Plans one set. At most `limit` requests are planned at a time, so that a change of mind comes through soon.
    pub fn plan(&mut self, set: &str, now: Timestamp, limit: usize) -> Plan {
        self.advance(set, now);
        let Some(index) = self.set(set) else { return Plan::default() };
        let keys = choose(index, limit);
        let patches = keys.iter().filter_map(|key| pod_patch(&*self.get(key)?, &index.rollout, now)).collect();
        Plan { patches, summary: summary(index), wake_at: index.next_due() }
    }
}

/// The pods to patch now.
fn choose(index: &SetIndex, limit: usize) -> Vec<PodKey> {
    let rollout = &index.rollout;
    if rollout.strategy.paused || !rollout.strategy.enabled {
        return Vec::new();
    }
    let counts = &index.counts;
    let allowed = remaining(rollout, counts).min(limit);
    let free_slots = rollout.max_unavailable(counts.matched).saturating_sub(counts.slots + rollout.evictions);
    let free_cap = rollout.max_unready(counts.matched).saturating_sub(counts.capped);
    let queues = [(Queue::Held, usize::MAX), (Queue::Unready, free_cap), (Queue::Ready, free_slots)];
    queues.into_iter().flat_map(|(queue, free)| index.queue(queue).take(free)).take(allowed).cloned().collect()
}

/// Candidates that partition lets move. Every pod behind the target counts as kept, also one that cannot be patched.
fn remaining(rollout: &Rollout, counts: &Counts) -> usize {
    let behind = counts.matched - counts.updated;
    behind.saturating_sub(rollout.keep_old(counts.matched)).min(counts.outdated)
}

fn summary(index: &SetIndex) -> Summary {
    let counts = index.counts.clone();
    Summary {
        keep_old: index.rollout.keep_old(counts.matched),
        max_unavailable: index.rollout.max_unavailable(counts.matched),
        remaining: remaining(&index.rollout, &counts),
        movable: !choose(index, 1).is_empty(),
        slot_holders: index.slot_holders.iter().take(NAMED_PODS).map(|key| named(index, key)).collect(),
        failed: index.failed.iter().take(NAMED_PODS).map(|key| named(index, key)).collect(),
        not_in_place: index.not_in_place.iter().map(|(reason, pods)| (reason.clone(), *pods)).collect(),
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
