//! Pods that cannot be upgraded in place and may be evicted for it: which they are, how many may go, and what it costs.
//!
//! Patches are planned by one task and evictions by another. Both take their places in the budgets here, under the lock
//! of the index, before they send anything.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::pod::{Owner, PodKey, PodView};
use crate::core::replace::Sibling;
use crate::core::rollout::assess::claim::Claim;
use crate::core::rollout::assess::eviction::Evictability;
use crate::core::rollout::assess::state::State;
use crate::core::rollout::budget::evictions::EvictionClaims;
use crate::core::rollout::budget::limits::share_left;
use crate::core::rollout::budget::steps::gate;
use crate::core::rollout::plan::snapshot::Snapshot;
use crate::core::rollout::state::evictable::OwnedPods;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::set::SetState;
use crate::core::rollout::target::rollout::PersistedProgress;

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
    pub(crate) fn held(
        &self,
        set: &str,
        state: &SetState,
        persisted: &PersistedProgress,
        now: Timestamp,
    ) -> EvictionClaims {
        let reserved = self.in_flight(set).map(|desk| desk.evictions.as_slice()).unwrap_or_default();
        let known = |eviction: &&Eviction| reserved.iter().all(|reserved| reserved.pod_uid != eviction.pod_uid);
        let all = || reserved.iter().chain(persisted.evictions.iter().filter(known));
        let revision = &state.target.revision;
        let mut held = EvictionClaims::default();
        let broken = if all().next().is_some() { self.broken(set) } else { BTreeMap::new() };
        let is_retried = state.target.retry_ends().is_some_and(|end| now < end);
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
        held.left_alone = state.evictable.of(in_vain.map(|eviction| eviction.owner_uid.as_str()));
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
        let reserved = self.in_flight(set).map(|desk| desk.evictions.as_slice()).unwrap_or_default();
        let target = self.set(set).map(|index| &index.target.revision);
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
        self.in_flight_mut(set).evictions = evictions.to_vec();
    }

    /// Takes the place that an eviction needs, before it is recorded; false if there is none. `uninjected` pods are selected
    /// too, and are not in the index. `held`: the pod has its place already.
    pub fn reserve(&mut self, set: &str, eviction: &Eviction, held: bool, uninjected: usize, now: Timestamp) -> bool {
        let Some(leave) = self.leave(set, uninjected, now) else { return false };
        let place = if eviction.unready { leave.unready } else { leave.slots };
        let allowed =
            eviction.cause == EvictionCause::NoSidecars || (leave.upgrades > 0 && leave.revision == eviction.revision);
        if !allowed || (place == 0 && !held) {
            return false;
        }
        self.in_flight_mut(set).evictions.push(eviction.clone());
        true
    }

    /// See [`Leave`]; `None` for a set that was never planned.
    pub fn leave(&self, set: &str, uninjected: usize, now: Timestamp) -> Option<Leave> {
        let (index, desk) = (self.set(set)?, self.in_flight(set)?);
        let (target, counts) = (&index.target, index.counts());
        let held = self.held(set, index, &desk.persisted, now);
        let counts = &held.added_to(counts);
        let matched = counts.matched + uninjected;
        let free = |all: usize, taken: usize| all.saturating_sub(taken + desk.planned);
        let gate = gate(target, &desk.persisted, counts, now);
        let may_move = free(share_left(target, counts, &gate, &held), 0);
        let waiting = counts.evictable.saturating_sub(held.leaving);
        Some(Leave {
            revision: target.revision.clone(),
            slots: free(target.max_unavailable(matched), counts.slots + held.slots),
            unready: free(target.max_unready(matched), counts.capped + held.capped),
            upgrades: if Snapshot::take(self, set, &desk.persisted, now)?.is_halted() {
                0
            } else {
                may_move.min(waiting)
            },
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
        let owners = self.set(set).into_iter().flat_map(|index| index.evictable.owners.values());
        let suitable = owners.filter(|behind| (behind.cheap > 0 || !only_cheap) && !skip(&behind.owner));
        let candidate = |behind: &OwnedPods| {
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
        self.set(set).is_some_and(|index| index.evictable.owners.contains_key(owner))
    }

    /// A pod as one of its owner's, with what it needs an eviction for: to be upgraded, or nothing.
    pub fn sibling(&self, set: &str, pod: PodView, now: Timestamp) -> Sibling {
        let entry = self.judge(set, &pod, now);
        let evictable =
            entry.filter(|entry| entry.selected && matches!(entry.evictability, Some(Evictability::Evictable(_))));
        match evictable {
            Some(entry) => Sibling {
                held: entry.is_held(),
                counts: entry.counts_as_ready || entry.claim == Claim::Disruption,
                ..Sibling::new(pod, Some(EvictionCause::NotInPlace))
            },
            None => Sibling::new(pod, None),
        }
    }
}
