//! The pods that would be evicted at once: the steps of the controller, with the best answers.

use k8s_openapi::jiff::Timestamp;

use crate::api::SidecarSet;
use crate::core::inject::CompiledSets;
use crate::core::pod::{PodKey, PodView};
use crate::core::replace::uninjected::{Found, Group};
use crate::core::rollout::plan::evict::input::{EvictionInput, Facts};
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::plan::evict::{Question, Step, begin_step};
use crate::core::rollout::state::index::Index;
use crate::core::rollout::target::rollout::Rollout;

/// Beside the patches of the last plan, if every owner has the ready pods that it wants, new pods get the target, and no
/// `PodDisruptionBudget` forbids it. `uninjected` are the pods that are to be evicted because they have no sidecars.
pub(super) fn evictions(
    index: &mut Index,
    set: &SidecarSet,
    sets: &CompiledSets,
    rollout: &Rollout,
    uninjected: &[PodView],
    now: Timestamp,
) -> Vec<PodKey> {
    let target = &rollout.target;
    let Some(compiled) = sets.get(&target.set) else { return Vec::new() };
    let found = found(uninjected);
    let input = EvictionInput {
        set,
        compiled,
        sets,
        found: &found,
        given: &target.revision,
        is_served: true,
        is_planned: true,
        limit: usize::MAX,
        now,
    };
    let mut memory = EvictionMemory::new(rollout.persisted.evictions.clone()).with_given(&target.revision);
    let mut facts = Facts::default();
    for pod in uninjected {
        facts.uninjected.entry(pod.key.namespace.clone()).or_default().push(pod.clone());
    }
    let mut chosen = Vec::new();
    loop {
        match begin_step(index, &input, &mut memory, &facts) {
            Step::Read(question) => answer(question, &mut facts),
            Step::Record(records) => memory.recorded(records),
            Step::Evict(next) => {
                let mut records = memory.without(next.supersedes.as_ref());
                records.push(next.record);
                memory.recorded(records);
                chosen.push(next.pod);
            }
            Step::Rest => return chosen,
        }
    }
}

fn answer(question: Question, facts: &mut Facts) {
    match question {
        Question::Replicas(_, owner) => {
            facts.replicas.insert(owner.uid, None);
        }
        Question::Uninjected(namespace) => {
            facts.uninjected.insert(namespace, Vec::new());
        }
        Question::Replacement(chosen) => {
            facts.replacements.insert(chosen.record.pod_uid, None);
        }
    }
}

/// As the controller finds them.
fn found(pods: &[PodView]) -> Found {
    let group = |pod: &PodView| Group {
        example: pod.key.clone(),
        owner: pod.owner.as_deref().cloned(),
        pods: 1,
        why: String::new(),
    };
    Found { pods: pods.len(), older: 0, groups: pods.iter().map(group).collect() }
}
