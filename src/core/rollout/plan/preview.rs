//! Which pods would be evicted first: for who asks before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use crate::api::v1beta1::EvictionCause;
use crate::core::pod::{Owner, PodKey, PodView};
use crate::core::replace;
use crate::core::replace::{MAX_KEPT, Next, Sibling};
use crate::core::rollout::state::index::Index;

impl Index {
    /// The pods that would be evicted at once, beside the patches of the last plan, if every owner has the ready pods that
    /// it wants and no `PodDisruptionBudget` forbids it: one pod of each owner, uninjected ones first. `uninjected` are
    /// the pods that are to be evicted because they have none. As when they are evicted, they take places in the budgets.
    pub fn evict_first(&mut self, set: &str, uninjected: &[(Owner, Sibling)], now: Timestamp) -> Vec<PodKey> {
        let Some(leave) = self.leave(set, uninjected.len(), now) else { return Vec::new() };
        let open = self.in_flight(set).map(|desk| desk.persisted.evictions.clone()).unwrap_or_default();
        let skip = |owner: &Owner| replace::is_blocked(&open, owner, &[&leave.revision]);
        let bare = uninjected.iter().map(|(owner, _)| owner).filter(|owner| leave.slots > 0 && !skip(owner)).cloned();
        let behind = self.candidates(set, leave.slots == 0, skip, usize::MAX).into_iter().map(|waits| waits.owner);
        let mut seen = BTreeSet::new();
        let owners: Vec<Owner> =
            bare.chain(behind.filter(|_| leave.upgrades > 0)).filter(|owner| seen.insert(owner.uid.clone())).collect();
        let siblings = self.siblings(set, uninjected, now);
        let mut first = Vec::new();
        for owner in owners {
            if open.len() + first.len() >= MAX_KEPT {
                break;
            }
            let pods = siblings.get(&owner.uid).map(Vec::as_slice).unwrap_or_default();
            let wanted = |cause| cause == EvictionCause::NoSidecars || leave.upgrades > 0;
            let Next::Evict(pod) = replace::next(pods, wanted, None) else { continue };
            let (Some(cause), superseded) = (pod.behind, replace::superseded(&open, &owner)) else { continue };
            if superseded.is_some() && pod.ready {
                continue;
            }
            let record = replace::record(pod, pods, cause, &owner, &leave.revision, now);
            if self.reserve(set, &record, pod.held || superseded.is_some(), uninjected.len(), now) {
                first.push(pod.key.clone());
            }
        }
        first
    }

    /// The pods of each owner, by its UID.
    fn siblings(&self, set: &str, uninjected: &[(Owner, Sibling)], now: Timestamp) -> BTreeMap<String, Vec<Sibling>> {
        let mut siblings: BTreeMap<String, Vec<Sibling>> = BTreeMap::new();
        for (owner, pod) in uninjected {
            siblings.entry(owner.uid.clone()).or_default().push(pod.clone());
        }
        for pod in self.pods() {
            let Some(owner) = &pod.owner else { continue };
            let sibling = self.sibling(set, PodView::clone(pod), now);
            siblings.entry(owner.uid.clone()).or_default().push(sibling);
        }
        siblings
    }
}
