//! The pods that would be evicted at once: the steps of the controller, with the best answers.

use super::decide::Planner;
use crate::core::pod::{PodKey, PodView};
use crate::core::replace::uninjected::{Found, Group};
use crate::core::rollout::plan::evict::input::{EvictionInput, Facts};
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::plan::evict::{EvictionStep, Question, begin_step};

impl Planner {
    /// Beside the patches of the last plan, if every owner has the ready pods that it wants, new pods get the target, and
    /// no `PodDisruptionBudget` forbids it.
    pub(super) fn evictions(&mut self) -> Vec<PodKey> {
        let target = &self.rollout.target;
        let Some(compiled) = self.compiled.get(&target.set) else { return Vec::new() };
        let input = EvictionInput {
            set: &self.set,
            compiled,
            sets: &self.compiled,
            found: &found(&self.evicted),
            given: &target.revision,
            is_served: true,
            is_planned: true,
            limit: usize::MAX,
            now: self.now,
        };
        let mut memory = EvictionMemory::new(self.rollout.persisted.evictions.clone()).with_given(&target.revision);
        let mut facts = Facts::default();
        for pod in &self.evicted {
            facts.uninjected.entry(pod.key.namespace.clone()).or_default().push(pod.clone());
        }
        let mut chosen = Vec::new();
        loop {
            match begin_step(&mut self.index, &input, &mut memory, &facts) {
                EvictionStep::Read(question) => answer(question, &mut facts),
                EvictionStep::Record(records) => memory.recorded(records),
                EvictionStep::Evict(next) => {
                    let mut records = memory.without(next.supersedes.as_ref());
                    records.push(next.record);
                    memory.recorded(records);
                    chosen.push(next.pod);
                }
                EvictionStep::Rest => return chosen,
            }
        }
    }
}

fn answer(question: Question, facts: &mut Facts) {
    match question {
        Question::Replicas(_, owner) => _ = facts.replicas.insert(owner.uid, None),
        Question::Uninjected(namespace) => _ = facts.uninjected.insert(namespace, Vec::new()),
        Question::Replacement(chosen) => _ = facts.replacements.insert(chosen.record.pod_uid, None),
    }
}

/// As the controller finds them.
fn found(pods: &[PodView]) -> Found {
    let group = |pod: &PodView| {
        let (example, owner) = (pod.key.clone(), pod.owner.as_deref().cloned());
        Group { example, owner, pods: 1, why: String::new() }
    };
    Found { pods: pods.len(), older: 0, groups: pods.iter().map(group).collect() }
}
