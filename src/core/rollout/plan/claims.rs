//! What the evictions of a set take of its budgets.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::pod::workload::Workload;
use crate::core::pod::{PodKey, PodView};
use crate::core::replace::owner;
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::budget::counts::EvictionClaims;
use crate::core::rollout::budget::workloads::is_unavailable;
use crate::core::rollout::order::cost::needs_room;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::set::RolloutState;
use crate::core::rollout::target::rollout::PersistedProgress;

/// What an owner made after an eviction, with the revision of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replacement {
    Missing,
    /// It counts as updated.
    There,
    /// It is among the failed pods.
    Broken,
}

/// What evictions hold, recorded or about to be.
pub(crate) fn eviction_claims(
    all: &Index,
    set: &RolloutState,
    persisted: &PersistedProgress,
    now: Timestamp,
) -> EvictionClaims {
    let target = &set.target;
    let evictions = recorded(all, &target.set, persisted);
    let is_retried = target.retry_ends().is_some_and(|end| now < end);
    let mut claims = EvictionClaims::default();
    for eviction in evictions.iter().filter(|eviction| !eviction.in_vain) {
        let name = format!("{}/{}", eviction.namespace, eviction.pod);
        let why = if eviction.failed { "evicted, no ready replacement" } else { "evicted" };
        let holders = if eviction.unready { &mut claims.capped } else { &mut claims.slots };
        holders.push(format!("{name} ({why})"));
        if eviction.revision != target.revision {
            continue;
        }
        let replacement = replacement(all, set, eviction);
        if eviction.cause == EvictionCause::NotInPlace {
            match replacement {
                Replacement::Broken => {}
                Replacement::There if eviction.failed => {}
                Replacement::Missing if eviction.failed => claims.lost += 1,
                _ if has(all, eviction) => claims.leaving += 1,
                _ => claims.gone += 1,
            }
        }
        let why = match replacement {
            Replacement::Broken => None,
            Replacement::There => Some("its replacement is not ready"),
            Replacement::Missing => Some("it has no ready replacement"),
        };
        if (eviction.failed || why.is_none()) && !is_retried {
            let failed = if eviction.unready { &mut claims.failed_capped } else { &mut claims.failed_slots };
            *failed += 1;
            claims.failed.extend(why.map(|why| format!("{name} ({why})")));
        }
    }
    let in_vain = evictions.iter().filter(|eviction| eviction.in_vain && eviction.revision == target.revision);
    let owners: BTreeSet<&String> = in_vain.map(|eviction| &eviction.owner_uid).collect();
    claims.left_alone = owners.into_iter().filter_map(|owner| set.evictable.get(owner)).map(|owner| owner.pods).sum();
    claims
}

/// The records of this process, and those of the status that it does not know yet.
fn recorded<'a>(all: &'a Index, set: &str, persisted: &'a PersistedProgress) -> Vec<&'a Eviction> {
    let known = all.in_flight(set).map(|in_flight| in_flight.evictions.as_slice()).unwrap_or_default();
    let is_new = |eviction: &&Eviction| known.iter().all(|known| known.pod_uid != eviction.pod_uid);
    known.iter().chain(persisted.evictions.iter().filter(is_new)).collect()
}

fn replacement(all: &Index, set: &RolloutState, eviction: &Eviction) -> Replacement {
    let mut found = Replacement::Missing;
    for pod in all.pods.of_owner(&eviction.owner_uid) {
        let Some(mark) = pod.marks.get(&set.target.set) else { continue };
        if !is_newer(pod, eviction) || mark.revision != set.target.revision {
            continue;
        }
        let state = set.assessment(&pod.key).map(|assessment| &assessment.state);
        if mark.update.is_none() && matches!(state, Some(PodState::Failed(_))) {
            return Replacement::Broken;
        }
        found = Replacement::There;
    }
    found
}

fn is_newer(pod: &PodView, eviction: &Eviction) -> bool {
    pod.is_active() && pod.created > eviction.pod_created.0
}

fn has(all: &Index, eviction: &Eviction) -> bool {
    let key = PodKey { namespace: eviction.namespace.clone(), name: eviction.pod.clone() };
    all.get(&key).is_some_and(|pod| pod.uid == eviction.pod_uid && pod.is_active())
}

/// Pods of a workload that may become unavailable now, whatever is under way: updates, requests, evictions.
pub(crate) fn workload_room(all: &Index, set: &str, workload: &Workload) -> usize {
    let (Some(state), Some(in_flight)) = (all.set(set), all.in_flight(set)) else { return 0 };
    let is_taken = |key: &&PodKey| {
        all.get(key).is_some_and(|pod| Workload::of(&pod) == *workload) && state.assessment(key).is_some_and(needs_room)
    };
    let planned = in_flight.planned.iter().filter(is_taken).count();
    let evicting = evicting(all, state, &in_flight.persisted).get(workload).copied().unwrap_or(0);
    state.workloads.room(workload).saturating_sub(planned + evicting)
}

/// What evictions take of the room of workloads: one each, until the owner has its pods back.
pub(crate) fn evicting(all: &Index, set: &RolloutState, persisted: &PersistedProgress) -> BTreeMap<Workload, usize> {
    let mut rooms = BTreeMap::new();
    if set.target.strategy.max_unavailable_per_workload.is_none() {
        return rooms;
    }
    let evictions = recorded(all, &set.target.set, persisted);
    for eviction in evictions.into_iter().filter(|eviction| !eviction.in_vain) {
        // Where it, or what came for it, is known not to be available, that is counted already.
        let mut pods = all.pods.of_owner(&eviction.owner_uid);
        let is_its = |pod: &PodView| pod.uid == eviction.pod_uid || is_newer(pod, eviction);
        let is_counted = |pod: &PodView| set.assessment(&pod.key).is_some_and(is_unavailable);
        if !pods.any(|pod| is_its(pod) && is_counted(pod)) {
            *rooms.entry(workload_of(all, set, eviction)).or_default() += 1;
        }
    }
    rooms
}

fn workload_of(all: &Index, set: &RolloutState, eviction: &Eviction) -> Workload {
    match all.pods.of_owner(&eviction.owner_uid).next() {
        Some(pod) => Workload::of(pod),
        None => Workload::of_owner(&eviction.namespace, &owner(eviction), |workload| set.workloads.has(workload)),
    }
}
