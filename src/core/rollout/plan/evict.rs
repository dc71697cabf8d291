//! Pods that cannot be upgraded in place and may be evicted for it: which they are, how many may go, and what it costs.
//!
//! Patches are planned by one task and evictions by another. Both take their places in the budgets here, under the lock
//! of the index, before they send anything.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::pod::{Owner, PodKey, PodView};
use crate::core::replace::{Sibling, exempt};
use crate::core::rollout::assess::{Entry, ObstacleKind, State};
use crate::core::rollout::budget::failure;
use crate::core::rollout::budget::steps::{Remembered, gate};
use crate::core::rollout::order::queue::{Cost, cost};
use crate::core::rollout::plan::share_left;
use crate::core::rollout::state::cluster::Index;
use crate::core::rollout::state::set::{Counts, SetIndex};
use crate::core::rollout::target::Rollout;

/// What eviction could do for a pod that cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// This owner would make a better one.
    Evictable(Box<Owner>),
    /// It is never evicted; the text says which pods are not.
    Exempt(&'static str),
}

/// `None`: eviction is not asked for, or is no remedy.
pub(crate) fn fate(pod: &PodView, state: &State, rollout: &Rollout) -> Option<Fate> {
    let State::NotInPlace(obstacle) = state else { return None };
    if !rollout.strategy.evicts || obstacle.kind == ObstacleKind::Passing {
        return None;
    }
    match (exempt(pod.owner.as_deref()), &pod.owner) {
        (None, Some(owner)) => Some(Fate::Evictable(owner.clone())),
        (why, _) => Some(Fate::Exempt(why.unwrap_or_default())),
    }
}

/// The pods of one set that wait for an eviction, by the UID of their owner.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    owners: BTreeMap<String, Behind>,
    /// Pods that are never evicted, by kind.
    pub(crate) exempt: BTreeMap<&'static str, usize>,
}

/// Pods of one owner.
#[derive(Debug)]
struct Behind {
    owner: Owner,
    pods: BTreeSet<PodKey>,
    /// Of these, those whose eviction costs no slot.
    cheap: usize,
}

impl Waiting {
    pub(crate) fn account(&mut self, key: &PodKey, entry: &Entry, add: bool) {
        match &entry.fate {
            Some(Fate::Evictable(owner)) if entry.selected => self.account_owned(key, owner, cost(entry), add),
            Some(Fate::Exempt(kind)) => {
                let pods = self.exempt.entry(kind).or_default();
                *pods = if add { *pods + 1 } else { *pods - 1 };
                if *pods == 0 {
                    self.exempt.remove(kind);
                }
            }
            _ => {}
        }
    }

    fn account_owned(&mut self, key: &PodKey, owner: &Owner, cost: Cost, add: bool) {
        let none = || Behind { owner: owner.clone(), pods: BTreeSet::new(), cheap: 0 };
        let behind = self.owners.entry(owner.uid.clone()).or_insert_with(none);
        let cheap = usize::from(cost != Cost::Ready);
        if add {
            behind.pods.insert(key.clone());
            behind.cheap += cheap;
        } else {
            behind.pods.remove(key);
            behind.cheap -= cheap;
        }
        if behind.pods.is_empty() {
            self.owners.remove(&owner.uid);
        }
    }

    /// Pods of these owners.
    fn of<'a>(&self, owners: impl Iterator<Item = &'a str>) -> usize {
        let owners: BTreeSet<&str> = owners.collect();
        owners.iter().filter_map(|owner| self.owners.get(*owner)).map(|behind| behind.pods.len()).sum()
    }
}

/// What the two tasks know of each other's plans for one set.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Requests of the last plan, which may be on their way: the next plan, made when they are answered, sets it anew.
    pub(crate) planned: usize,
    /// What the last plan knew.
    pub(crate) remembered: Remembered,
    /// Evictions that are about to be recorded in the status, or are already.
    reserved: Vec<Eviction>,
}

/// What evictions hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Slots of maxUnavailable.
    pub(crate) slots: usize,
    /// Places under the cap of unready pods.
    pub(crate) capped: usize,
    /// Evictions for the target whose pod is still among the matched.
    pub(crate) leaving: usize,
    /// Those whose pod is not: its replacement may be there or not.
    pub(crate) gone: usize,
    /// Pods of owners whose replacement was no better.
    pub(crate) left_alone: usize,
    /// Those of `slots` whose replacement for the target is broken, or does not become ready.
    pub(crate) failed_slots: usize,
    /// The same of `capped`.
    pub(crate) failed_capped: usize,
    /// Of both, those whose replacement is not among the failed pods.
    pub(crate) failed: usize,
}

impl Held {
    /// Evictions for the target.
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

/// The replacement is among the failed pods: it counts there, and the eviction's slot with it.
fn is_broken(broken: &BTreeMap<&str, Timestamp>, eviction: &Eviction) -> bool {
    broken.get(eviction.owner_uid.as_str()).is_some_and(|created| *created > eviction.pod_created.0)
}

/// How many more pods of a set may be evicted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Hash of the revision that replacements are to have.
    pub revision: String,
    /// Slots of maxUnavailable that are free.
    pub slots: usize,
    /// Places that are free under the cap of pods that are not ready.
    pub unready: usize,
    /// Pods that partition and steps let go because their change cannot be made in place.
    pub upgrades: usize,
}

/// An owner with pods that wait for an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Namespace of owner and pods.
    pub namespace: String,
    /// The owner.
    pub owner: Owner,
}

impl Index {
    /// What evictions hold, recorded or about to be.
    pub(crate) fn held(&self, set: &str, index: &SetIndex, remembered: &Remembered, now: Timestamp) -> Held {
        let reserved = self.desk(set).map(|desk| desk.reserved.as_slice()).unwrap_or_default();
        let known = |eviction: &&Eviction| reserved.iter().all(|reserved| reserved.pod_uid != eviction.pod_uid);
        let all = || reserved.iter().chain(remembered.evictions.iter().filter(known));
        let revision = &index.rollout.revision;
        let mut held = Held::default();
        let broken = if all().next().is_some() { self.broken(set) } else { BTreeMap::new() };
        let is_retried = index.rollout.retry_ends().is_some_and(|end| now < end);
        for eviction in all().filter(|eviction| !eviction.in_vain) {
            let place = if eviction.unready { &mut held.capped } else { &mut held.slots };
            *place += 1;
            if eviction.cause == EvictionCause::NotInPlace && eviction.revision == *revision {
                let broken = is_broken(&broken, eviction);
                // What it brought is there, and counts as updated.
                if !eviction.failed && !broken {
                    let there = if self.has(eviction) { &mut held.leaving } else { &mut held.gone };
                    *there += 1;
                }
                if (eviction.failed || broken) && !is_retried {
                    let failed = if eviction.unready { &mut held.failed_capped } else { &mut held.failed_slots };
                    *failed += 1;
                    held.failed += usize::from(!broken);
                }
            }
        }
        let in_vain = all().filter(|eviction| eviction.in_vain && eviction.revision == *revision);
        held.left_alone = index.waiting.of(in_vain.map(|eviction| eviction.owner_uid.as_str()));
        held
    }

    /// By UID of their owner: when the youngest pod was made that was born broken.
    fn broken(&self, set: &str) -> BTreeMap<&str, Timestamp> {
        let mut broken = BTreeMap::new();
        let is_born = |pod: &PodView| pod.marks.get(set).is_some_and(|mark| mark.update.is_none());
        let is_failed = |pod: &PodView| matches!(self.state(set, &pod.key), Some(State::Failed(_)));
        for (pod, _) in self.failed(set).filter(|(pod, _)| is_born(pod) && is_failed(pod)) {
            if let Some(owner) = &pod.owner {
                let youngest = broken.entry(owner.uid.as_str()).or_insert(pod.created);
                *youngest = pod.created.max(*youngest);
            }
        }
        broken
    }

    fn has(&self, eviction: &Eviction) -> bool {
        let key = PodKey { namespace: eviction.namespace.clone(), name: eviction.pod.clone() };
        self.get(&key).is_some_and(|pod| pod.uid == eviction.pod_uid && pod.is_active())
    }

    /// Pods whose replacement does not become ready, for messages: `default/web-1 (its replacement is not ready)`. Not
    /// those whose replacement is named itself.
    pub(crate) fn failed_evictions(&self, set: &str) -> Vec<String> {
        let reserved = self.desk(set).map(|desk| desk.reserved.as_slice()).unwrap_or_default();
        let target = self.set(set).map(|index| &index.rollout.revision);
        let is_failed =
            |eviction: &&Eviction| eviction.failed && !eviction.in_vain && Some(&eviction.revision) == target;
        let failed: Vec<&Eviction> = reserved.iter().filter(is_failed).collect();
        let broken = if failed.is_empty() { BTreeMap::new() } else { self.broken(set) };
        let unnamed = failed.into_iter().filter(|eviction| !is_broken(&broken, eviction));
        unnamed
            .map(|eviction| format!("{}/{} (its replacement is not ready)", eviction.namespace, eviction.pod))
            .collect()
    }

    /// The evictions of a set as they are recorded.
    pub fn set_evictions(&mut self, set: &str, evictions: &[Eviction]) {
        self.desk_mut(set).reserved = evictions.to_vec();
    }

    /// Takes the place that an eviction needs, before it is recorded; false if there is none. `uninjected` pods match
    /// too, and are not in the index. `held`: the pod has its place already.
    pub fn reserve(&mut self, set: &str, eviction: &Eviction, held: bool, uninjected: usize, now: Timestamp) -> bool {
        let Some(leave) = self.leave(set, uninjected, now) else { return false };
        let place = if eviction.unready { leave.unready } else { leave.slots };
        let allowed =
            eviction.cause == EvictionCause::NoSidecars || (leave.upgrades > 0 && leave.revision == eviction.revision);
        if !allowed || (place == 0 && !held) {
            return false;
        }
        self.desk_mut(set).reserved.push(eviction.clone());
        true
    }

    /// See [`Leave`]; `None` for a set that was never planned.
    pub fn leave(&self, set: &str, uninjected: usize, now: Timestamp) -> Option<Leave> {
        let (index, desk) = (self.set(set)?, self.desk(set)?);
        let (rollout, counts) = (&index.rollout, &index.counts);
        let held = self.held(set, index, &desk.remembered, now);
        let counts = &held.added_to(counts.clone());
        let matched = counts.matched + uninjected;
        let free = |all: usize, taken: usize| all.saturating_sub(taken + desk.planned);
        let gate = gate(rollout, &desk.remembered, counts, now);
        let may_move = free(share_left(rollout, counts, &gate, &held), 0);
        let waiting = counts.evictable.saturating_sub(held.leaving);
        Some(Leave {
            revision: rollout.revision.clone(),
            slots: free(rollout.max_unavailable(matched), counts.slots + held.slots),
            unready: free(rollout.max_unready(matched), counts.capped + held.capped),
            upgrades: if failure::stands(rollout, counts) { 0 } else { may_move.min(waiting) },
        })
    }

    /// Up to `limit` owners with pods that wait for an eviction, but for those that `skip` names. `only_cheap`: owners
    /// with a pod whose eviction costs no slot.
    pub fn candidates(
        &self,
        set: &str,
        only_cheap: bool,
        skip: impl Fn(&Owner) -> bool,
        limit: usize,
    ) -> Vec<Candidate> {
        let owners = self.set(set).into_iter().flat_map(|index| index.waiting.owners.values());
        let suitable = owners.filter(|behind| (behind.cheap > 0 || !only_cheap) && !skip(&behind.owner));
        let candidate = |behind: &Behind| {
            let namespace = behind.pods.first()?.namespace.clone();
            Some(Candidate { namespace, owner: behind.owner.clone() })
        };
        suitable.filter_map(candidate).take(limit).collect()
    }

    /// The watch has told what a fresh read of an owner's pods says: the evicted one is gone if it is, and those that are
    /// there are known. Before that a plan would count neither the eviction nor what it brought.
    pub fn has_seen(&self, eviction: &Eviction, siblings: &[Sibling]) -> bool {
        let key = PodKey { namespace: eviction.namespace.clone(), name: eviction.pod.clone() };
        let known = |key: &PodKey, uid: &str| self.get(key).is_some_and(|pod| pod.uid == uid);
        let mut watched = siblings.iter().filter(|pod| pod.active && pod.watched);
        let lives = siblings.iter().any(|pod| pod.uid == eviction.pod_uid);
        (lives || !known(&key, &eviction.pod_uid)) && watched.all(|pod| known(&pod.key, &pod.uid))
    }

    /// True if pods of this owner wait for an eviction.
    pub fn has_candidate(&self, set: &str, owner: &str) -> bool {
        self.set(set).is_some_and(|index| index.waiting.owners.contains_key(owner))
    }

    /// A pod as one of its owner's, with what it needs an eviction for: to be upgraded, or nothing.
    pub fn sibling(&self, set: &str, pod: PodView, now: Timestamp) -> Sibling {
        let entry = self.judge(set, &pod, now);
        let evictable = entry.filter(|entry| entry.selected && matches!(entry.fate, Some(Fate::Evictable(_))));
        match evictable {
            Some(entry) => Sibling {
                held: cost(&entry) == Cost::Held,
                counts: entry.counts_as_ready() || entry.holds_slot,
                ..Sibling::new(pod, Some(EvictionCause::NotInPlace))
            },
            None => Sibling::new(pod, None),
        }
    }
}
