//! Evictions of one set, step by step: the open ones are judged, then the next pod is chosen. A step asks for what it has to
//! know; the controller reads and performs, and `kubectl sidecarset plan` calls the same steps.

pub mod input;
pub mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::SignedDuration;
use serde_json::Value;

use crate::api::SidecarSet;
use crate::api::v1beta1::{Eviction, EvictionCause, ExistingPods, WhenNotInPlace};
use crate::core::base::time::seconds;
use crate::core::pod::workload::Workload;
use crate::core::pod::{Owner, PodKey};
use crate::core::replace;
use crate::core::replace::report::{EvictionReport, Hold, Lack, Wait};
use crate::core::replace::uninjected::is_uninjected;
use crate::core::replace::{EvictionTimeouts, EvictionVerdict, MAX_KEPT, Next, OwnedPod};
use crate::core::rollout::plan::claims::workload_room;
use crate::core::rollout::plan::evict::input::{
    EvictionInput, EvictionQuota, Facts, has_all, owned_pods, quota, slot_holders,
};
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::set::EvictableOwner;

/// Every replica of the webhook reads from the status which revision new pods get: it must have said so for this long.
const FOLLOW: SignedDuration = SignedDuration::from_secs(1);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EvictionStep {
    /// To know this, and ask again.
    Read(Question),
    /// To write these records into the status.
    Record(Vec<Eviction>),
    /// To write this record, and to send the request.
    Evict(Box<Chosen>),
    Rest,
}

/// What a step has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// How many pods should this owner, in this namespace, have?
    Replicas(String, Owner),
    /// Which pods of this namespace that the set selects are not labelled as injected?
    Uninjected(String),
    /// Would the owner of this pod make a better one?
    Replacement(Box<Chosen>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) pod: PodKey,
    pub(crate) record: Eviction,
    /// The record whose slot it takes over.
    pub(crate) supersedes: Option<Eviction>,
}

/// Evictions for this cause are asked for.
pub(crate) fn is_asked(set: &SidecarSet, cause: EvictionCause) -> bool {
    match cause {
        EvictionCause::NoSidecars => set.spec.injection_strategy.existing_pods == ExistingPods::Evict,
        EvictionCause::NotInPlace => set.spec.update_strategy.when_not_in_place == Some(WhenNotInPlace::Evict),
    }
}

/// The next step. A pod that is to be evicted takes its place in the budgets at once.
pub(crate) fn begin_step(
    index: &mut Index,
    input: &EvictionInput<'_>,
    memory: &mut EvictionMemory,
    facts: &Facts,
) -> EvictionStep {
    let step = step(index, input, memory, facts);
    if let EvictionStep::Evict(chosen) = &step {
        let mut evictions = memory.without(chosen.supersedes.as_ref());
        evictions.push(chosen.record.clone());
        index.set_evictions(&input.compiled.name, &evictions);
    }
    step
}

fn step(index: &Index, input: &EvictionInput<'_>, memory: &mut EvictionMemory, facts: &Facts) -> EvictionStep {
    // Until the set is planned nobody knows its target.
    let Some(quota) = quota(index, &input.compiled.name, input.found.pods, input.now) else {
        return EvictionStep::Rest;
    };
    let run = Run { index, input, facts, quota };
    let is_first = facts.replicas.is_empty() && facts.uninjected.is_empty();
    if is_first {
        run.forget_gone(memory);
    }
    run.settle(memory).or_else(|| run.choose(memory)).unwrap_or(EvictionStep::Rest)
}

/// Why there is no answer.
enum Gap {
    /// It depends on what has to be read.
    Ask(Box<Question>),
    /// It could not be read, or no place is left: it waits for the next round.
    Later,
    /// The owner keeps its pods for now.
    Wait(EvictionCause, Wait),
    /// The owner has no such pod.
    NoPod,
}

struct Candidate<'a> {
    owner: &'a Owner,
    namespace: &'a str,
    cause: EvictionCause,
}

struct Run<'a> {
    index: &'a Index,
    input: &'a EvictionInput<'a>,
    facts: &'a Facts,
    quota: EvictionQuota,
}

impl Run<'_> {
    /// Owners that have no pod any more that needs to be replaced wait for nothing.
    fn forget_gone(&self, memory: &mut EvictionMemory) {
        let uninjected: BTreeSet<&str> = self.uninjected().map(|(owner, _)| owner.uid.as_str()).collect();
        memory.waiting.retain(|owner, waiting| match waiting.cause {
            EvictionCause::NoSidecars => uninjected.contains(owner.as_str()),
            EvictionCause::NotInPlace => self.evictable().is_some_and(|owners| owners.contains_key(owner)),
        });
    }

    /// Judges what is open, and forgets what was in vain for another revision.
    fn settle(&self, memory: &mut EvictionMemory) -> Option<EvictionStep> {
        let mut kept = Vec::new();
        for eviction in memory.records.clone() {
            let verdict = match self.judge(memory, &eviction) {
                Ok(verdict) => verdict,
                Err(Gap::Ask(question)) => return Some(EvictionStep::Read(*question)),
                Err(_) => EvictionVerdict::Open,
            };
            match verdict {
                EvictionVerdict::Open => kept.push(eviction),
                EvictionVerdict::Failed => kept.push(Eviction { failed: true, ..eviction }),
                EvictionVerdict::InVain if eviction.revision == self.revision(eviction.cause) => {
                    kept.push(Eviction { in_vain: true, ..eviction });
                }
                EvictionVerdict::InVain | EvictionVerdict::Done => {}
            }
        }
        (kept != memory.records).then_some(EvictionStep::Record(kept))
    }

    fn judge(&self, memory: &mut EvictionMemory, eviction: &Eviction) -> Result<EvictionVerdict, Gap> {
        if eviction.in_vain {
            return Ok(EvictionVerdict::InVain);
        }
        let owner = replace::owner(eviction);
        let replicas = self.replicas(&eviction.namespace, &owner)?;
        // Only a list says whether a pod that was never in the index is gone.
        let is_known = |pods: &[OwnedPod]| {
            let is_there = pods.iter().any(|pod| pod.uid == eviction.pod_uid);
            is_there || (eviction.cause == EvictionCause::NotInPlace && has_all(pods, replicas))
        };
        let pods = self.pods(&eviction.namespace, &owner, is_known)?;
        let open = memory.open.entry(eviction.pod_uid.clone()).or_default();
        open.lack = Some(Lack::of(eviction, &pods, replicas));
        if pods.iter().any(|pod| pod.uid == eviction.pod_uid) {
            open.gone_at = None;
            if open.is_evicted {
                return Ok(EvictionVerdict::Open);
            }
        } else {
            open.gone_at.get_or_insert(self.input.now);
        }
        let gone_at = open.gone_at;
        let strategy = &self.input.set.spec.update_strategy;
        let timeouts = EvictionTimeouts {
            min_ready: seconds(strategy.min_ready_seconds),
            timeout: seconds(strategy.pod_update_timeout_seconds),
        };
        let verdict = replace::judge(eviction, &pods, replicas, gone_at, timeouts, self.input.now);
        // Nothing says whether an owner of an unknown kind is still there: a change of the set ends the wait for it.
        let is_forgotten = replicas.is_none() && pods.is_empty() && eviction.revision != self.revision(eviction.cause);
        Ok(if verdict == EvictionVerdict::Failed && is_forgotten { EvictionVerdict::Done } else { verdict })
    }

    fn revision(&self, cause: EvictionCause) -> &str {
        match cause {
            EvictionCause::NoSidecars => self.input.given,
            EvictionCause::NotInPlace => &self.quota.revision,
        }
    }

    fn replicas(&self, namespace: &str, owner: &Owner) -> Result<Option<usize>, Gap> {
        if self.facts.unreadable.contains(&owner.uid) {
            return Err(Gap::Later);
        }
        let ask = || Gap::Ask(Box::new(Question::Replicas(namespace.to_owned(), owner.clone())));
        self.facts.replicas.get(&owner.uid).copied().ok_or_else(ask)
    }

    /// The pods of an owner. `is_known`: those of the index are enough.
    fn pods(
        &self,
        namespace: &str,
        owner: &Owner,
        is_known: impl Fn(&[OwnedPod]) -> bool,
    ) -> Result<Vec<OwnedPod>, Gap> {
        let pods = owned_pods(self.index, self.input, self.facts, namespace, owner);
        if is_known(&pods) || self.facts.uninjected.contains_key(namespace) {
            return Ok(pods);
        }
        if self.facts.unreadable.contains(namespace) {
            return Err(Gap::Later);
        }
        Err(Gap::Ask(Box::new(Question::Uninjected(namespace.to_owned()))))
    }

    fn choose(&self, memory: &mut EvictionMemory) -> Option<EvictionStep> {
        let holds = [EvictionCause::NoSidecars, EvictionCause::NotInPlace].map(|cause| self.hold(memory, cause));
        let is_wanted = holds.each_ref().map(Option::is_none);
        let wants = |cause| is_wanted[cause as usize];
        memory.holds = holds;
        memory.waiting.retain(|_, waiting| wants(waiting.cause));
        if memory.records.len() >= MAX_KEPT {
            return None;
        }
        for candidate in self.candidates(memory, wants) {
            let Candidate { owner, namespace, cause } = candidate;
            match self.choose_of(&memory.records, &candidate, wants) {
                Ok(chosen) => return Some(EvictionStep::Evict(Box::new(chosen))),
                Err(Gap::Ask(question)) => return Some(EvictionStep::Read(*question)),
                Err(Gap::Wait(cause, why)) => memory.wait(cause, namespace, owner, why, self.input.now),
                Err(Gap::NoPod) => memory.found_is_stale |= cause == EvictionCause::NoSidecars,
                Err(Gap::Later) => {}
            }
        }
        None
    }

    /// Why nothing is evicted for this cause.
    fn hold(&self, memory: &mut EvictionMemory, cause: EvictionCause) -> Option<Hold> {
        let (input, spec) = (self.input, &self.input.set.spec);
        if !is_asked(input.set, cause) {
            return Some(Hold::Idle);
        }
        if spec.update_strategy.paused {
            return Some(Hold::UpdatesPaused);
        }
        if spec.injection_strategy.paused {
            return Some(Hold::InjectionPaused);
        }
        if !input.is_served {
            return Some(Hold::NotServed);
        }
        if cause == EvictionCause::NoSidecars {
            // A slot that a refused eviction has just given back may still be counted; its owner says more.
            let is_full = self.quota.slots == 0 && memory.records.is_empty() && input.found.pods > 0;
            let is_told = is_full && memory.waiting.is_empty();
            return is_told.then(|| Hold::NoSlot(slot_holders(self.index, &input.compiled.name, input.now)));
        }
        let is_settled = memory.given_for(input.given, input.now) >= FOLLOW;
        if !input.is_planned || self.quota.upgrades == 0 || !is_settled {
            return Some(Hold::Idle);
        }
        (input.given != self.quota.revision).then_some(Hold::NotGiven)
    }

    fn uninjected(&self) -> impl Iterator<Item = (&Owner, &str)> {
        let groups = self.input.found.groups.iter();
        let owners = groups.filter_map(|group| Some((group.owner.as_ref()?, group.example.namespace.as_str())));
        owners.filter(|(owner, _)| replace::exempt(Some(owner), true).is_none())
    }

    /// Owners of pods that cannot be upgraded in place, by UID.
    fn evictable(&self) -> Option<&BTreeMap<String, EvictableOwner>> {
        self.index.set(&self.input.compiled.name).map(|set| &set.evictable)
    }

    /// Those whose turn is next come first.
    fn owners_behind(&self, last: &str) -> impl Iterator<Item = (&Owner, &str)> {
        let ahead = (Bound::Excluded(last), Bound::Unbounded);
        let asked = (Bound::Unbounded, Bound::Included(last));
        let owners = self.evictable().into_iter();
        let owners = owners.flat_map(move |all| all.range::<str, _>(ahead).chain(all.range::<str, _>(asked)));
        let owners = owners.map(|(_, behind)| behind);
        // Where no slot is left, only those with a pod that costs none.
        let owners = owners.filter(|behind| behind.cheap > 0 || self.quota.slots > 0);
        owners.map(|behind| (&*behind.owner, behind.namespace.as_str()))
    }

    /// Owners that are not left alone now and may give up a pod.
    fn candidates(&self, memory: &EvictionMemory, wants: impl Fn(EvictionCause) -> bool) -> Vec<Candidate<'_>> {
        let current = [self.input.given, self.quota.revision.as_str()];
        let is_round_over = self.facts.replicas.len() >= self.input.limit;
        let may = |owner: &Owner| {
            (!is_round_over || self.facts.replicas.contains_key(&owner.uid))
                && !self.facts.tried.contains(&owner.uid)
                && !memory.is_waiting(owner, |workload| self.has_room(workload), self.input.now)
                && !replace::is_blocked(&memory.records, owner, &current)
        };
        // A slot that is held by a failed eviction is taken over.
        let has_slot = |owner: &Owner| self.quota.slots > 0 || replace::superseded(&memory.records, owner).is_some();
        let of = |cause| move |(owner, namespace)| Candidate { owner, namespace, cause };
        let uninjected = self.uninjected().filter(|(owner, _)| has_slot(owner)).map(of(EvictionCause::NoSidecars));
        let all = uninjected.chain(self.owners_behind(&memory.last_behind).map(of(EvictionCause::NotInPlace)));
        all.filter(|candidate| wants(candidate.cause) && may(candidate.owner)).take(self.input.limit).collect()
    }

    fn choose_of(
        &self,
        records: &[Eviction],
        candidate: &Candidate<'_>,
        wants: impl Fn(EvictionCause) -> bool,
    ) -> Result<Chosen, Gap> {
        let Candidate { owner, namespace, .. } = *candidate;
        let cannot = |why: &str| Gap::Wait(candidate.cause, Wait::NotCreated(why.to_owned()));
        if let Some(why) = self.input.compiled.failed_create_of(namespace, &owner.uid) {
            return Err(cannot(why));
        }
        let replicas = self.replicas(namespace, owner)?;
        if let Some(why) = self.facts.failing.get(&owner.uid) {
            return Err(cannot(why));
        }
        let is_known = |pods: &[OwnedPod]| candidate.cause == EvictionCause::NotInPlace && has_all(pods, replicas);
        let pods = self.pods(namespace, owner, is_known)?;
        let (pod, cause) = match replace::next(&pods, wants, replicas) {
            Next::Evict(pod) => (pod, pod.behind.unwrap_or(candidate.cause)),
            Next::Wait(cause, why) => return Err(Gap::Wait(cause, why)),
            Next::Nothing => {
                let exempt = pods.iter().find_map(|pod| pod.exempt);
                return Err(exempt.map_or(Gap::NoPod, |kind| Gap::Wait(candidate.cause, Wait::Exempt(kind))));
            }
        };
        let supersedes = replace::superseded(records, owner).cloned();
        if let Some(why) = self.obstacle(pod, supersedes.as_ref()) {
            return Err(Gap::Wait(cause, why));
        }
        let mut record = replace::record(pod, &pods, cause, owner, self.revision(cause), self.input.now);
        record.unready = supersedes.as_ref().map_or(record.unready, |open| open.unready);
        if !pod.held && supersedes.is_none() && !self.quota.has_place(&record) {
            return Err(Gap::Later);
        }
        let chosen = Chosen { pod: pod.key.clone(), record, supersedes };
        match self.facts.replacements.get(&pod.uid) {
            None => Err(Gap::Ask(Box::new(Question::Replacement(Box::new(chosen))))),
            Some(None) => Ok(chosen),
            Some(Some(why)) => Err(Gap::Wait(cause, why.clone())),
        }
    }

    /// Why this pod is not evicted now, besides the budgets of the set.
    fn obstacle(&self, pod: &OwnedPod, supersedes: Option<&Eviction>) -> Option<Wait> {
        if pod.ready && supersedes.is_some() {
            return Some(Wait::LastIsOpen);
        }
        let takes_room = pod.ready && !pod.held;
        (takes_room && !self.has_room(&pod.workload)).then(|| Wait::NoRoom(pod.workload.clone()))
    }

    fn has_room(&self, workload: &Workload) -> bool {
        workload_room(self.index, &self.input.compiled.name, workload) > 0
    }
}

/// Where evictions stand after a round: of pods without sidecars, and of upgrades.
pub(crate) fn reports(input: &EvictionInput<'_>, memory: &EvictionMemory) -> [EvictionReport; 2] {
    let mut reports = [EvictionCause::NoSidecars, EvictionCause::NotInPlace].map(|cause| memory.report(cause));
    let [uninjected, _] = &mut reports;
    if is_asked(input.set, EvictionCause::NoSidecars) && input.found.pods > 0 {
        let owners = input.found.groups.iter().map(|group| group.owner.as_ref());
        uninjected.exempt.extend(owners.filter_map(|owner| replace::exempt(owner, true)));
    } else {
        uninjected.hold = Some(Hold::Idle);
    }
    reports
}

/// Why an eviction would not have its pod, as the API has it now, replaced by one of the record's revision.
pub(crate) fn replacement_obstacle(input: &EvictionInput<'_>, record: &Eviction, raw: &Value) -> Option<Wait> {
    let always = raw["spec"]["restartPolicy"].as_str().is_none_or(|policy| policy == "Always");
    if let Some(kind) = replace::exempt(Some(&replace::owner(record)), always) {
        return Some(Wait::Exempt(kind));
    }
    let metadata: ObjectMeta = serde_json::from_value(raw["metadata"].clone()).unwrap_or_default();
    if record.cause == EvictionCause::NoSidecars && !is_uninjected(&metadata, input.compiled, input.sets) {
        return Some(Wait::because("it has marks of the set".to_owned()));
    }
    let given = input.compiled.revision_for(&metadata.labels.unwrap_or_default());
    let is_other = record.cause == EvictionCause::NotInPlace && given != Ok(record.revision.as_str());
    is_other.then(|| Wait::OtherRevision(given.ok().map(str::to_owned)))
}
