//! What a step of evictions looks at: what is known of the set, what was read, the pods of an owner, and what is left of
//! the budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::api::SidecarSet;
use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::pod::{Owner, PodKey, PodView};
use crate::core::replace::OwnedPod;
use crate::core::replace::report::{Wait, listed};
use crate::core::replace::uninjected::{Found, has_no_mark};
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Claim;
use crate::core::rollout::plan::snapshot::Snapshot;
use crate::core::rollout::plan::summary::{NAMED_PODS, named};
use crate::core::rollout::state::index::Index;

#[derive(Clone, Copy, Debug)]
pub(crate) struct EvictionInput<'a> {
    /// The newest version of the set.
    pub(crate) set: &'a SidecarSet,
    /// The same as the webhook serves it.
    pub(crate) compiled: &'a CompiledSet,
    pub(crate) sets: &'a CompiledSets,
    pub(crate) found: &'a Found,
    pub(crate) given: &'a str,
    pub(crate) is_served: bool,
    /// The index follows its newest spec.
    pub(crate) is_planned: bool,
    /// Owners that are looked at in one round.
    pub(crate) limit: usize,
    pub(crate) now: Timestamp,
}

/// What was read in this round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// How many pods an owner should have, by its UID: none if it is gone, `None` if its kind is not one that is read.
    pub(crate) replicas: BTreeMap<String, Option<usize>>,
    /// What keeps an owner from creating pods, whoever is to blame, by its UID.
    pub(crate) failing: BTreeMap<String, String>,
    /// The pods that the set selects and that are not labelled as injected, by namespace.
    pub(crate) uninjected: BTreeMap<String, Vec<PodView>>,
    /// Namespaces, and UIDs of owners, that could not be read.
    pub(crate) unreadable: BTreeSet<String>,
    /// Why an owner would not make a better one than this pod, by the pod's UID.
    pub(crate) replacements: BTreeMap<String, Option<Wait>>,
    /// UIDs of owners that a request was sent for: one in a round.
    pub(crate) tried: BTreeSet<String>,
}

/// The pods of an owner that the set selects, as far as they are known.
pub(crate) fn owned_pods(
    index: &Index,
    input: &EvictionInput<'_>,
    facts: &Facts,
    namespace: &str,
    owner: &Owner,
) -> Vec<OwnedPod> {
    let listed = facts.uninjected.get(namespace).into_iter().flatten();
    let listed = listed.filter(|pod| pod.owner.as_deref() == Some(owner));
    let listed = listed.filter(|pod| index.get(&pod.key).is_none_or(|known| known.uid != pod.uid));
    let pods = index.pods.of_owner(&owner.uid).map(Arc::as_ref).chain(listed);
    pods.filter(|pod| input.compiled.selector.matches(&pod.labels)).map(|pod| owned_pod(index, input, pod)).collect()
}

/// A pod with what it needs an eviction for, whether or not the set asks for it.
fn owned_pod(index: &Index, input: &EvictionInput<'_>, pod: &PodView) -> OwnedPod {
    if has_no_mark(&pod.labels, input.compiled, input.sets) {
        return OwnedPod::new(pod, Some(EvictionCause::NoSidecars));
    }
    match index.judge(&input.compiled.name, pod, input.now).filter(Assessment::is_evictable) {
        Some(assessed) => OwnedPod {
            held: assessed.is_held(),
            counts: assessed.counts_as_ready || assessed.claim == Claim::Disruption,
            ..OwnedPod::new(pod, Some(EvictionCause::NotInPlace))
        },
        None => OwnedPod::new(pod, None),
    }
}

/// The index knows as many as the owner should have.
pub(super) fn has_all(pods: &[OwnedPod], replicas: Option<usize>) -> bool {
    replicas.is_some_and(|replicas| pods.iter().filter(|pod| pod.active).count() >= replicas)
}

/// The pods that take the places of `maxUnavailable`, and why, those of requests under way included.
pub(super) fn slot_holders(all: &Index, set: &str, now: Timestamp) -> String {
    let Some(in_flight) = all.in_flight(set) else { return String::new() };
    let Some(snapshot) = Snapshot::take(all, set, &in_flight.persisted, now) else { return String::new() };
    let holds =
        |key: &&PodKey| snapshot.set.assessment(key).is_some_and(|assessed| assessed.claim == Claim::Disruption);
    let planned = in_flight.planned.iter().filter(|key| !holds(key));
    let total = snapshot.slots() + planned.clone().count();
    let named = snapshot.slot_holders().into_iter().chain(planned.map(|key| named(snapshot.set, key)));
    listed(&named.take(NAMED_PODS).collect::<Vec<_>>(), total)
}

/// How many more pods of a set may be evicted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EvictionQuota {
    /// Hash of the revision that replacements are to have.
    pub(crate) revision: String,
    pub(crate) slots: usize,
    /// Places that are free under the cap of pods that are not ready.
    pub(crate) unready: usize,
    /// Pods that partition and steps let go because their change cannot be made in place.
    pub(crate) upgrades: usize,
}

impl EvictionQuota {
    pub(crate) fn has_place(&self, eviction: &Eviction) -> bool {
        let place = if eviction.unready { self.unready } else { self.slots };
        place > 0 && (eviction.cause == EvictionCause::NoSidecars || self.upgrades > 0)
    }
}

/// `None` for a set that was never planned. `uninjected` pods are selected too, and are not in the index.
pub(crate) fn quota(all: &Index, set: &str, uninjected: usize, now: Timestamp) -> Option<EvictionQuota> {
    let in_flight = all.in_flight(set)?;
    let snapshot = Snapshot::take(all, set, &in_flight.persisted, now)?;
    // What was planned may be on its way.
    let left = |places: usize| places.saturating_sub(in_flight.planned.len());
    let free = snapshot.free(uninjected);
    let waiting = snapshot.counts.evictable.saturating_sub(snapshot.evictions.leaving);
    let upgrades = left(snapshot.share_left()).min(waiting);
    Some(EvictionQuota {
        revision: snapshot.set.target.revision.clone(),
        slots: left(free.slots),
        unready: left(free.cap),
        upgrades: if snapshot.is_halted() { 0 } else { upgrades },
    })
}
