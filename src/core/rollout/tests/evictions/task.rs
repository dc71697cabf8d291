//! The task that evicts, without its requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::SidecarSet;
use crate::api::v1beta1::Eviction;
use crate::api::validate::validate;
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::pod::{PodKey, PodView};
use crate::core::replace;
use crate::core::replace::report::Wait;
use crate::core::replace::uninjected::{Found, Group};
use crate::core::revision::History;
use crate::core::rollout::plan::evict::input::{EvictionInput, Facts};
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::plan::evict::{Chosen, EvictionStep, Question, begin_step};
use crate::core::rollout::testing;
use crate::core::rollout::testing::{SET, TestPod, at, hash};
use crate::core::rollout::tests::Fleet;

/// See the module.
pub(super) struct Task {
    pub(super) set: SidecarSet,
    sets: CompiledSets,
    found: Found,
    pub(super) memory: EvictionMemory,
    /// Pods that are not labelled as injected.
    uninjected: Vec<PodView>,
    /// By name of the owner; others are of a kind that is not read.
    pub(super) replicas: BTreeMap<String, usize>,
    /// Names of owners that cannot create pods.
    pub(super) failing: Vec<String>,
    /// Namespaces that were listed.
    pub(super) lists: usize,
    /// Owners that are looked at in one round.
    pub(super) limit: usize,
}

impl Task {
    pub(super) fn new(strategy: &Value) -> Self {
        let mut strategy = strategy.clone();
        strategy["whenNotInPlace"] = json!("Evict");
        let set = testing::set("v2", strategy);
        let compiled = CompiledSet::new(&validate(&set).unwrap(), &History::new());
        Self {
            sets: CompiledSets::new([Arc::new(compiled)]),
            set,
            found: Found::default(),
            memory: EvictionMemory::default().with_given(&hash("v2")),
            uninjected: Vec::new(),
            replicas: BTreeMap::new(),
            failing: Vec::new(),
            lists: 0,
            limit: 99,
        }
    }

    /// The set is to blame that this owner cannot create pods.
    pub(super) fn with_failed_create(mut self, owner: &str, revision: &str) -> Self {
        let entry = json!({"namespace": "default", "revision": revision, "message": "no", "at": at(0).to_string(),
            "owner": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": format!("uid-{owner}"), "templateHash": "t"}});
        self.set.status = serde_json::from_value(json!({"failedCreates": [entry]})).unwrap();
        let compiled = CompiledSet::new(&validate(&self.set).unwrap(), &History::new());
        self.sets = CompiledSets::new([Arc::new(compiled)]);
        self
    }

    /// Such pods have no sidecars, and are to be evicted.
    pub(super) fn with_uninjected(mut self, pods: &[TestPod]) -> Self {
        self.set.spec.injection_strategy.existing_pods = crate::api::v1beta1::ExistingPods::Evict;
        self.uninjected = pods.iter().map(TestPod::view).collect();
        let group = |pod: &PodView| Group {
            example: pod.key.clone(),
            owner: pod.owner.as_deref().cloned(),
            pods: 1,
            why: String::new(),
        };
        self.found = Found { pods: pods.len(), older: 0, groups: self.uninjected.iter().map(group).collect() };
        self
    }

    /// The pod is gone.
    pub(super) fn without_pod(mut self, gone: &PodKey) -> Self {
        self.uninjected.retain(|pod| pod.key != *gone);
        self
    }

    pub(super) fn input<'a>(&'a self, given: &'a str, now: Timestamp) -> EvictionInput<'a> {
        EvictionInput {
            set: &self.set,
            compiled: self.sets.get(SET).unwrap(),
            sets: &self.sets,
            found: &self.found,
            given,
            is_served: true,
            is_planned: true,
            limit: self.limit,
            now,
        }
    }

    /// The next pod of a round, while new pods get the target.
    pub(super) fn next(&mut self, fleet: &mut Fleet) -> Option<Chosen> {
        self.run(fleet, &hash("v2"))
    }

    /// The next pod of a round; its record is written.
    pub(super) fn run(&mut self, fleet: &mut Fleet, given: &str) -> Option<Chosen> {
        let mut facts = Facts::default();
        loop {
            let mut memory = std::mem::take(&mut self.memory);
            let step = begin_step(&mut fleet.index, &self.input(given, at(fleet.now)), &mut memory, &facts);
            self.memory = memory;
            match step {
                EvictionStep::Read(question) => self.answer(question, &mut facts),
                EvictionStep::Record(records) => self.record(fleet, records),
                EvictionStep::Evict(chosen) => {
                    let others = self.memory.without(chosen.supersedes.as_ref());
                    self.record(fleet, [others.as_slice(), std::slice::from_ref(&chosen.record)].concat());
                    self.memory.note_evicted(&chosen.record.pod_uid);
                    return Some(*chosen);
                }
                EvictionStep::Rest => return None,
            }
        }
    }

    /// A round in which a `PodDisruptionBudget` allows nothing; the owners that were asked.
    pub(super) fn blocked_round(&mut self, fleet: &mut Fleet) -> Vec<String> {
        let (mut facts, mut asked, given) = (Facts::default(), Vec::new(), hash("v2"));
        loop {
            let mut memory = std::mem::take(&mut self.memory);
            let step = begin_step(&mut fleet.index, &self.input(&given, at(fleet.now)), &mut memory, &facts);
            self.memory = memory;
            match step {
                EvictionStep::Read(question) => self.answer(question, &mut facts),
                EvictionStep::Record(records) => self.record(fleet, records),
                EvictionStep::Evict(chosen) => {
                    let owner = replace::owner(&chosen.record);
                    fleet.index.set_evictions(SET, &self.memory.records);
                    facts.tried.insert(owner.uid.clone());
                    let why = Wait::Budget("it would violate the budget".to_owned());
                    self.memory.wait(chosen.record.cause, "default", &owner, why, at(fleet.now));
                    asked.push(owner.name);
                }
                EvictionStep::Rest => return asked,
            }
        }
    }

    fn answer(&mut self, question: Question, facts: &mut Facts) {
        match question {
            Question::Replicas(_, owner) => {
                if self.failing.contains(&owner.name) {
                    facts.failing.insert(owner.uid.clone(), "exceeded quota".to_owned());
                }
                facts.replicas.insert(owner.uid, self.replicas.get(&owner.name).copied());
            }
            Question::Uninjected(namespace) => {
                self.lists += 1;
                facts.uninjected.insert(namespace, self.uninjected.clone());
            }
            Question::Replacement(chosen) => {
                facts.replacements.insert(chosen.record.pod_uid, None);
            }
        }
    }

    fn record(&mut self, fleet: &mut Fleet, records: Vec<Eviction>) {
        fleet.index.set_evictions(SET, &records);
        self.memory.recorded(records);
    }
}
