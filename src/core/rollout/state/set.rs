//! The pods of one set, sorted by what can be done with them, with running counters: the cost of a pod event does not
//! grow with the number of pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::{Entry, Obstacle, Rank, State, Surroundings, entry};
use crate::core::rollout::order::queue::Queues;
use crate::core::rollout::plan::evict::{Fate, Waiting};
use crate::core::rollout::target::Rollout;

/// Numbers of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that belong to the set.
    pub matched: usize,
    /// At the target.
    pub updated: usize,
    /// Ready, wherever they stand.
    pub ready: usize,
    /// At the target and available.
    pub updated_ready: usize,
    /// Update failed, or the patch was refused.
    pub failed: usize,
    /// At the target, update undecided; also with a reset due, or a patch that may still be carried out.
    pub undecided: usize,
    /// Of these, with a reset of a hot sidecar's twin due.
    pub resets_due: usize,
    /// Cannot be patched.
    pub not_in_place: usize,
    /// Outdated or evictable, but outside `updateStrategy.selector`.
    pub outside: usize,
    /// Outdated and selected: the candidates.
    pub outdated: usize,
    /// Cost one of maxUnavailable each.
    pub slots: usize,
    /// At the target and done with their update, which took their readiness, or made with the target: they have until a
    /// deadline to become ready.
    pub recovering: usize,
    /// Of these, failed.
    pub failed_slots: usize,
    /// Were unready when patched, and are undecided or failed.
    pub capped: usize,
    /// Of these, failed.
    pub failed_capped: usize,
    /// Matched by `updateStrategy.selector` too: the pods that the rollout is for.
    pub selected: usize,
    /// Of these, at the target.
    pub selected_updated: usize,
    /// Of these, available or failed, or done and not ready for reasons that are older than the update.
    pub selected_decided: usize,
    /// Selected pods that cannot be patched.
    pub selected_not_in_place: usize,
    /// Of these, those that may be evicted for it.
    pub evictable: usize,
    /// Candidates in workloads whose room of `maxUnavailablePerWorkload` failed pods fill alone.
    pub locked_out: usize,
    /// Candidates on nodes that could not pull the new images. Each such node is one of `failed`.
    pub blocked: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SetIndex {
    pub(crate) rollout: Arc<Rollout>,
    pub(crate) counts: Counts,
    entries: HashMap<PodKey, Entry>,
    pub(crate) queues: Queues,
    /// Pods with a reset due.
    resets: BTreeSet<(Rank, PodKey)>,
    pub(crate) slot_holders: BTreeSet<PodKey>,
    pub(crate) failed: BTreeSet<PodKey>,
    pub(crate) unready: BTreeSet<PodKey>,
    pub(crate) not_in_place: BTreeMap<Obstacle, usize>,
    pub(crate) waiting: Waiting,
    timers: BTreeSet<(Timestamp, PodKey)>,
}

impl SetIndex {
    pub(crate) fn new(rollout: Arc<Rollout>) -> Self {
        Self {
            queues: Queues::new(rollout.strategy.max_unavailable_per_workload.clone()),
            rollout,
            counts: Counts::default(),
            entries: HashMap::new(),
            resets: BTreeSet::new(),
            slot_holders: BTreeSet::new(),
            failed: BTreeSet::new(),
            unready: BTreeSet::new(),
            not_in_place: BTreeMap::new(),
            waiting: Waiting::default(),
            timers: BTreeSet::new(),
        }
    }

    /// Takes note of a pod, or of its absence. True if that changed anything here.
    pub(crate) fn update(&mut self, key: &PodKey, pod: Option<&PodView>, around: &Surroundings<'_>) -> bool {
        let entry = pod.and_then(|pod| entry(pod, &self.rollout, around));
        if self.entries.get(key) == entry.as_ref() {
            return false;
        }
        if let Some(old) = self.entries.remove(key) {
            self.account(key, &old, false);
        }
        if let Some(entry) = entry {
            self.account(key, &entry, true);
            self.entries.insert(key.clone(), entry);
        }
        true
    }

    pub(crate) fn entry(&self, key: &PodKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Failed pods, and why.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (&PodKey, &str)> {
        self.failed.iter().filter_map(|key| match &self.entries.get(key)?.state {
            State::Failed(why) | State::Refused(why) => Some((key, why.as_str())),
            _ => None,
        })
    }

    /// Pods with a reset due, first to go first.
    pub(crate) fn resets(&self) -> impl Iterator<Item = (&PodKey, &Entry)> {
        self.resets.iter().filter_map(|(_, key)| Some((key, self.entries.get(key)?)))
    }

    /// Pods whose state may have changed with time alone.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<PodKey> {
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect()
    }

    /// When the next pod is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn account(&mut self, key: &PodKey, entry: &Entry, add: bool) {
        let count = |field: &mut usize, on: bool| {
            if on {
                *field = if add { *field + 1 } else { *field - 1 };
            }
        };
        let counts = &mut self.counts;
        let state = &entry.state;
        let behind = matches!(state, State::Outdated | State::NotInPlace(_) | State::Refused(_) | State::Unanswered(_));
        let failed = matches!(state, State::Failed(_) | State::Refused(_));
        count(&mut counts.matched, true);
        count(&mut counts.updated, !behind);
        count(&mut counts.ready, entry.ready);
        count(&mut counts.updated_ready, *state == State::Available);
        count(&mut counts.failed, failed);
        count(&mut counts.undecided, matches!(state, State::Undecided | State::ResetDue | State::Unanswered(_)));
        count(&mut counts.resets_due, *state == State::ResetDue);
        count(&mut counts.not_in_place, matches!(state, State::NotInPlace(_)));
        let evictable = matches!(entry.fate, Some(Fate::Evictable(_)));
        count(&mut counts.outside, (*state == State::Outdated || evictable) && !entry.selected);
        count(&mut counts.outdated, *state == State::Outdated && entry.selected);
        count(&mut counts.slots, entry.holds_slot);
        count(&mut counts.recovering, *state == State::Unready && entry.check_at.is_some());
        count(&mut counts.failed_slots, entry.holds_slot && failed);
        count(&mut counts.capped, entry.fills_cap);
        count(&mut counts.failed_capped, entry.fills_cap && failed);
        count(&mut counts.selected, entry.selected);
        count(&mut counts.selected_updated, entry.selected && !behind);
        let unready_anyway = *state == State::Unready && !entry.holds_slot && entry.check_at.is_none();
        let decided = failed || *state == State::Available || unready_anyway;
        count(&mut counts.selected_decided, entry.selected && decided);
        count(&mut counts.selected_not_in_place, entry.selected && matches!(state, State::NotInPlace(_)));
        count(&mut counts.evictable, entry.selected && evictable);
        self.waiting.account(key, entry, add);
        if let State::NotInPlace(obstacle) = state {
            let pods = self.not_in_place.entry(obstacle.clone()).or_default();
            count(pods, true);
            if *pods == 0 {
                self.not_in_place.remove(obstacle);
            }
        }
        self.queues.account(key, entry, behind, add);
        self.counts.locked_out = self.queues.locked_out();
        if *state == State::ResetDue {
            set_member(&mut self.resets, (entry.rank, key.clone()), add);
        }
        if entry.holds_slot {
            set_member(&mut self.slot_holders, key.clone(), add);
        }
        if *state == State::Unready {
            set_member(&mut self.unready, key.clone(), add);
        }
        if failed {
            set_member(&mut self.failed, key.clone(), add);
        }
        if let Some(at) = entry.check_at {
            set_member(&mut self.timers, (at, key.clone()), add);
        }
    }
}

fn set_member<T: Ord>(set: &mut BTreeSet<T>, member: T, add: bool) {
    if add {
        set.insert(member);
    } else {
        set.remove(&member);
    }
}
