//! The pods of one owner, of the index and of a list of those that are not labelled as injected.

use crate::api::v1beta1::EvictionCause;
use crate::core::pod::{Owner, PodView};
use crate::core::replace::OwnedPod;
use crate::core::replace::uninjected::has_no_mark;
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Claim;
use crate::core::rollout::plan::evict::input::{EvictionInput, Facts};
use crate::core::rollout::state::index::Index;

/// The pods of an owner that the set selects, as far as they are known.
pub(crate) fn owned_pods(
    index: &Index,
    input: &EvictionInput<'_>,
    facts: &Facts,
    namespace: &str,
    owner: &Owner,
) -> Vec<OwnedPod> {
    let is_selected = |pod: &&PodView| input.compiled.selector.matches(&pod.labels);
    let listed = facts.uninjected.get(namespace).into_iter().flatten();
    let listed = listed.filter(|pod| pod.owner.as_deref() == Some(owner));
    let listed = listed.filter(|pod| index.get(&pod.key).is_none_or(|known| known.uid != pod.uid));
    index
        .pods_of(&owner.uid)
        .into_iter()
        .chain(listed)
        .filter(is_selected)
        .map(|pod| owned_pod(index, input, pod))
        .collect()
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
