//! Which pods are patched now, within the budgets, and what the rest waits for.

pub mod evict;
pub mod prepull;
mod preview;
pub mod pullers;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::PodKey;
use crate::core::rollout::assess::{Entry, Obstacle, State};
use crate::core::rollout::budget::failure;
use crate::core::rollout::budget::steps::{Gate, Remembered, Wait, gate};
use crate::core::rollout::order::queue::{Cost, cost};
use crate::core::rollout::plan::evict::Held;
use crate::core::rollout::plan::prepull::{Blocked, Door, Pull, Pulling, SCANNED};
use crate::core::rollout::request::patch::{PodPatch, pod_patch};
use crate::core::rollout::state::cluster::Index;
use crate::core::rollout::state::set::{Counts, SetIndex};
use crate::core::rollout::target::Rollout;

/// Pods and workloads named in a message; the rest is counted.
const NAMED_PODS: usize = 3;

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Requests to send, most urgent first.
    pub patches: Vec<PodPatch>,
    /// What nodes have to pull before the pods of the next batch can be patched.
    pub pulls: Vec<Pull>,
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
    /// Some of the pods that are updated and not ready.
    pub unready: Vec<String>,
    /// Some of the failed pods, and why: `default/web-1 (agent: ImagePullBackOff)`.
    pub failed: Vec<String>,
    /// Why pods cannot be patched, and how many.
    pub not_in_place: Vec<(Obstacle, usize)>,
    /// Where the rollout stands among its steps.
    pub gate: Gate,
    /// Too many pods have failed: the revision is to be given up.
    pub exceeded: bool,
    /// Images that the next batch waits for.
    pub pulling: Pulling,
}

impl Index {
    /// Plans one set. At most `limit` requests are planned at a time, so that a change of mind comes through soon.
    pub fn plan(&mut self, set: &str, remembered: &Remembered, now: Timestamp, limit: usize) -> Plan {
        self.advance(set, now);
        self.renew_pulls(set);
        let Some(index) = self.set(set) else { return Plan::default() };
        let situation = Situation::new(self, index, remembered, now);
        let keys = situation.choose(limit);
        let patches: Vec<PodPatch> =
            keys.iter().filter_map(|key| pod_patch(&*self.get(key)?, &index.rollout, now)).collect();
        let pulls = situation.pulls();
        let (summary, wake_at) = (situation.summary(&pulls), situation.wake_at(now));
        let desk = self.desk_mut(set);
        (desk.planned, desk.remembered) = (patches.len(), remembered.clone());
        Plan { patches, pulls, summary, wake_at }
    }
}

/// What is left of the budgets.
struct Free {
    slots: usize,
    cap: usize,
}

impl Free {
    /// Takes what patching a pod costs; false if it is not left.
    fn take(&mut self, entry: &Entry) -> bool {
        let left = match cost(entry) {
            Cost::Held => return true,
            Cost::Unready => &mut self.cap,
            Cost::Ready => &mut self.slots,
        };
        let is_left = *left > 0;
        *left = left.saturating_sub(1);
        is_left
    }
}

/// One set at one moment: all that a plan is made from.
struct Situation<'a> {
    all: &'a Index,
    index: &'a SetIndex,
    /// With what failed pulls and failed replacements add.
    counts: Counts,
    held: Held,
    gate: Gate,
    door: Door<'a>,
    blocked: Blocked,
}

impl<'a> Situation<'a> {
    fn new(all: &'a Index, index: &'a SetIndex, remembered: &Remembered, now: Timestamp) -> Self {
        let door = Door::new(all, index, now);
        let blocked = door.blocked(index.queues.waiting());
        let held = all.held(&index.rollout.set, index, remembered, now);
        let counts = held.added_to(blocked.added_to(&index.counts));
        let gate = gate(&index.rollout, remembered, &counts, now);
        Self { all, index, counts, held, gate, door, blocked }
    }

    /// The pods to patch now.
    fn choose(&self, limit: usize) -> Vec<PodKey> {
        if failure::stands(&self.index.rollout, &self.counts) {
            return Vec::new();
        }
        let (rollout, counts, held) = (&self.index.rollout, &self.counts, &self.held);
        let mut free = Free {
            slots: rollout.max_unavailable(counts.matched).saturating_sub(counts.slots + held.slots),
            cap: rollout.max_unready(counts.matched).saturating_sub(counts.capped + held.capped),
        };
        // Partition and steps do not count resets: they end what was begun.
        let resets: Vec<&PodKey> =
            self.index.resets().filter(|(_, entry)| free.take(entry)).map(|(key, _)| key).take(limit).collect();
        let allowed = self.share_left().min(limit - resets.len());
        let may_patch = |key: &PodKey| self.door.lets(key);
        let upgrades = self.index.queues.choose(free.slots, free.cap, allowed, &may_patch);
        resets.into_iter().chain(upgrades).cloned().collect()
    }

    fn share_left(&self) -> usize {
        share_left(&self.index.rollout, &self.counts, &self.gate, &self.held)
    }

    /// What the next batch waits for. It is of pods that can go when all slots are free: nodes pull for them while the
    /// batch before is open.
    fn pulls(&self) -> Vec<Pull> {
        let batch = self.next_batch();
        if batch == 0 || !self.door.is_used() {
            return Vec::new();
        }
        let candidates = self.index.queues.choose(usize::MAX, usize::MAX, SCANNED, &|_| true);
        self.door.pulls(candidates.into_iter(), batch)
    }

    fn next_batch(&self) -> usize {
        if failure::stands(&self.index.rollout, &self.counts) {
            return 0;
        }
        self.share_left().min(self.counts.outdated).min(self.index.rollout.max_unavailable(self.counts.matched))
    }

    fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let pause_ends = match &self.gate.wait {
            Some(Wait::Until(until)) => Some(*until),
            _ => None,
        };
        // Nodes that failed are tried again.
        let again_at = self.blocked.again_at.filter(|_| self.next_batch() > 0);
        // Replacements that had failed before a retry fail again.
        let retry_ends = self.index.rollout.retry_ends().filter(|end| now < *end);
        self.index.next_due().into_iter().chain(pause_ends).chain(again_at).chain(retry_ends).min()
    }

    fn summary(&self, pulls: &[Pull]) -> Summary {
        let Self { index, counts, held, gate, .. } = self;
        let evictable = counts.evictable.saturating_sub(held.leaving);
        let movable = counts.outdated.saturating_sub(counts.blocked) + evictable;
        let max_unavailable = index.rollout.max_unavailable(counts.matched);
        let is_full = counts.slots + held.slots >= max_unavailable;
        let pods = index.failed.iter().take(NAMED_PODS).map(|key| named(index, key));
        let replaced = self.all.failed_evictions(&index.rollout.set);
        let nodes = self.blocked.nodes.iter().map(|(node, why)| format!("node {node} ({why})"));
        Summary {
            keep_old: index.rollout.keep_old(counts.matched),
            max_unavailable,
            remaining: self.share_left().min(movable),
            evictable,
            evicting: held.moving(),
            exempt: index.waiting.exempt.iter().map(|(kind, pods)| (*kind, *pods)).collect(),
            eviction_news: String::new(),
            movable: !self.choose(1).is_empty(),
            slot_holders: index.slot_holders.iter().take(NAMED_PODS).map(|key| named(index, key)).collect(),
            unready: index.unready.iter().take(NAMED_PODS).map(ToString::to_string).collect(),
            blocked_workloads: if is_full { 0 } else { index.queues.blocked() },
            blocked: index.queues.blocked_workloads().take(NAMED_PODS).collect(),
            failed: pods.chain(replaced).chain(nodes).take(NAMED_PODS).collect(),
            not_in_place: index.not_in_place.iter().map(|(obstacle, pods)| (obstacle.clone(), *pods)).collect(),
            exceeded: failure::is_exceeded(&index.rollout, counts),
            pulling: self.door.pulling(pulls),
            gate: gate.clone(),
            counts: counts.clone(),
        }
    }
}

/// Pods behind the target that partition and steps let move, in place or by eviction. Every pod behind counts as kept,
/// also one that neither is a way for. A pod that was evicted counts as behind until its eviction is over, whether or
/// not its replacement is there: for a moment fewer may move.
pub(crate) fn share_left(rollout: &Rollout, counts: &Counts, gate: &Gate, held: &Held) -> usize {
    let behind = (counts.matched - counts.updated).saturating_sub(held.leaving);
    let moved = counts.selected_updated + held.moving();
    let by_step = gate.allowed.map_or(usize::MAX, |allowed| allowed.saturating_sub(moved));
    behind.saturating_sub(rollout.keep_old(counts.matched + held.gone)).min(by_step)
}

fn named(index: &SetIndex, key: &PodKey) -> String {
    let why = match index.entry(key) {
        Some(entry) => match &entry.state {
            State::Failed(reason) => reason.clone(),
            State::Refused(message) => format!("PatchRefused: {message}"),
            State::Unanswered(message) => message.clone(),
            State::ResetDue => "a twin is to be reset".to_owned(),
            _ if let Some(text) = &entry.waits_for => text.clone(),
            _ if !entry.ready => "not ready".to_owned(),
            _ => "updating".to_owned(),
        },
        None => "gone".to_owned(),
    };
    format!("{key} ({why})")
}
