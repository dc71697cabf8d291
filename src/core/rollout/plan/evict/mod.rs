//! Evictions of one set, step by step: the open ones are judged, then the next pod is chosen. A step asks for what it has to
//! know; the controller reads and performs, and `kubectl sidecarset plan` calls the same steps.

pub mod input;
pub mod memory;
pub mod owned;
pub mod quota;

use std::collections::BTreeSet;

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
use crate::core::replace::{EvictionTimeouts, MAX_KEPT, Next, OwnedPod, Verdict};
use crate::core::rollout::plan::claims::workload_room;
use crate::core::rollout::plan::evict::input::{EvictionInput, Facts};
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::plan::evict::owned::{has_all, owned_pods};
use crate::core::rollout::plan::evict::quota::{EvictionQuota, quota};
use crate::core::rollout::state::evictable::Evictable;
use crate::core::rollout::state::index::Index;

/// Every replica of the webhook reads from the status which revision new pods get: it must have said so for this long.
const FOLLOW: SignedDuration = SignedDuration::from_secs(1);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// To know this, and ask again.
    Read(Question),
    /// To write these records into the status.
    Record(Vec<Eviction>),
    /// To write this record, and to send the request.
    Evict(Box<Chosen>),
    /// Nothing now.
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

/// A pod to evict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The pod.
    pub(crate) pod: PodKey,
    /// Its record.
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
) -> Step {
    let step = step(index, input, memory, facts);
    if let Step::Evict(chosen) = &step {
        let mut evictions = memory.without(chosen.supersedes.as_ref());
        evictions.push(chosen.record.clone());
        index.set_evictions(&input.compiled.name, &evictions);
    }
    step
}

fn step(index: &Index, input: &EvictionInput<'_>, memory: &mut EvictionMemory, facts: &Facts) -> Step {
    // Until the set is planned nobody knows its target.
    let Some(quota) = quota(index, &input.compiled.name, input.found.pods, input.now) else { return Step::Rest };
    let run = Run { index, input, facts, quota };
    run.settle(memory).or_else(|| run.choose(memory)).unwrap_or(Step::Rest)
}

/// Something that is not known.
enum Gap {
    /// It has to be read.
    Ask(Box<Question>),
    /// It could not be read: what depends on it waits for the next round.
    Unreadable,
}

/// An owner that may give up a pod.
struct Candidate {
    owner: Owner,
    namespace: String,
    cause: EvictionCause,
}

/// One step of one set.
struct Run<'a> {
    index: &'a Index,
    input: &'a EvictionInput<'a>,
    facts: &'a Facts,
    quota: EvictionQuota,
}

impl Run<'_> {
    /// Judges what is open, and forgets what was in vain for another revision.
    fn settle(&self, memory: &mut EvictionMemory) -> Option<Step> {
        let mut kept = Vec::new();
        for eviction in memory.records.clone() {
            let verdict = match self.judge(memory, &eviction) {
                Ok(verdict) => verdict,
                Err(Gap::Ask(question)) => return Some(Step::Read(*question)),
                Err(Gap::Unreadable) => Verdict::Open,
            };
            match verdict {
                Verdict::Open => kept.push(eviction),
                Verdict::Failed => kept.push(Eviction { failed: true, ..eviction }),
                Verdict::InVain if eviction.revision == self.revision(eviction.cause) => {
                    kept.push(Eviction { in_vain: true, ..eviction });
                }
                Verdict::InVain | Verdict::Done => {}
            }
        }
        (kept != memory.records).then_some(Step::Record(kept))
    }

    fn judge(&self, memory: &mut EvictionMemory, eviction: &Eviction) -> Result<Verdict, Gap> {
        if eviction.in_vain {
            return Ok(Verdict::InVain);
        }
        let owner = replace::owner(eviction);
        let replicas = self.replicas(&eviction.namespace, &owner)?;
        // Only a list says whether a pod that was never in the index is gone.
        let is_known = |pods: &[OwnedPod]| {
            let is_there = pods.iter().any(|pod| pod.uid == eviction.pod_uid);
            is_there || (eviction.cause == EvictionCause::NotInPlace && has_all(pods, replicas))
        };
        let pods = self.pods(&eviction.namespace, &owner, is_known)?;
        memory.lacks.insert(eviction.pod_uid.clone(), Lack::of(eviction, &pods, replicas));
        if pods.iter().any(|pod| pod.uid == eviction.pod_uid) {
            memory.gone.remove(&eviction.pod_uid);
            if memory.evicted.contains(&eviction.pod_uid) {
                return Ok(Verdict::Open);
            }
        } else {
            memory.gone.entry(eviction.pod_uid.clone()).or_insert(self.input.now);
        }
        let strategy = &self.input.set.spec.update_strategy;
        let timeouts = EvictionTimeouts {
            min_ready: seconds(strategy.min_ready_seconds),
            timeout: seconds(strategy.pod_update_timeout_seconds),
        };
        let gone_at = memory.gone.get(&eviction.pod_uid).copied();
        let verdict = replace::judge(eviction, &pods, replicas, gone_at, timeouts, self.input.now);
        // Nothing says whether an owner of an unknown kind is still there: a change of the set ends the wait for it.
        let is_forgotten = replicas.is_none() && pods.is_empty() && eviction.revision != self.revision(eviction.cause);
        Ok(if verdict == Verdict::Failed && is_forgotten { Verdict::Done } else { verdict })
    }

    /// Hash of the revision that a replacement is to get.
    fn revision(&self, cause: EvictionCause) -> &str {
        match cause {
            EvictionCause::NoSidecars => self.input.given,
            EvictionCause::NotInPlace => &self.quota.revision,
        }
    }

    fn replicas(&self, namespace: &str, owner: &Owner) -> Result<Option<usize>, Gap> {
        if self.facts.unreadable.contains(&owner.uid) {
            return Err(Gap::Unreadable);
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
            return Err(Gap::Unreadable);
        }
        Err(Gap::Ask(Box::new(Question::Uninjected(namespace.to_owned()))))
    }

    /// The next pod that is evicted.
    fn choose(&self, memory: &mut EvictionMemory) -> Option<Step> {
        let holds = [EvictionCause::NoSidecars, EvictionCause::NotInPlace].map(|cause| self.hold(memory, cause));
        memory.holds = holds;
        let wants = |cause| holds[usize::from(cause == EvictionCause::NotInPlace)].is_none();
        memory.forget_old(self.input.now);
        let uninjected: BTreeSet<&str> = self.uninjected().map(|(owner, _)| owner.uid.as_str()).collect();
        memory.waiting.retain(|owner, waiting| {
            wants(waiting.cause)
                && match waiting.cause {
                    EvictionCause::NoSidecars => uninjected.contains(owner.as_str()),
                    EvictionCause::NotInPlace => self.evictable().is_some_and(|all| all.owners.contains_key(owner)),
                }
        });
        if memory.records.len() >= MAX_KEPT {
            return None;
        }
        for candidate in self.candidates(memory, wants) {
            match self.try_owner(memory, &candidate, wants) {
                Ok(None) | Err(Gap::Unreadable) => {}
                Ok(Some(chosen)) => return Some(Step::Evict(Box::new(chosen))),
                Err(Gap::Ask(question)) => return Some(Step::Read(*question)),
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
            return (is_full && memory.waiting.is_empty()).then_some(Hold::NoSlot);
        }
        let is_settled = memory.given_for(input.given, input.now) >= FOLLOW;
        if !input.is_planned || self.quota.upgrades == 0 || !is_settled {
            return Some(Hold::Idle);
        }
        (input.given != self.quota.revision).then_some(Hold::NotGiven)
    }

    /// Owners of pods without sidecars.
    fn uninjected(&self) -> impl Iterator<Item = (&Owner, &String)> {
        let groups = self.input.found.groups.iter();
        let owners = groups.filter_map(|group| Some((group.owner.as_ref()?, &group.example.namespace)));
        owners.filter(|(owner, _)| replace::exempt(Some(owner), true).is_none())
    }

    fn evictable(&self) -> Option<&Evictable> {
        self.index.set(&self.input.compiled.name).map(|set| &set.evictable)
    }

    /// Owners of pods that cannot be upgraded in place.
    fn owners_behind(&self) -> impl Iterator<Item = (&Owner, &String)> {
        let owners = self.evictable().into_iter().flat_map(|evictable| evictable.owners.values());
        // Where no slot is left, only those with a pod that costs none.
        let owners = owners.filter(|owner| owner.cheap > 0 || self.quota.slots > 0);
        owners.filter_map(|owned| Some((&owned.owner, &owned.pods.first()?.namespace)))
    }

    /// Owners that are not left alone now and may give up a pod.
    fn candidates(&self, memory: &EvictionMemory, wants: impl Fn(EvictionCause) -> bool) -> Vec<Candidate> {
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
        let (none, behind) = (EvictionCause::NoSidecars, EvictionCause::NotInPlace);
        let uninjected = self.uninjected().filter(|(owner, _)| wants(none) && has_slot(owner) && may(owner));
        let behind = self.owners_behind().filter(|(owner, _)| wants(behind) && may(owner)).map(|owner| (owner, behind));
        let candidates = uninjected.map(|owner| (owner, none)).chain(behind);
        let candidate = |((owner, namespace), cause): ((&Owner, &String), EvictionCause)| Candidate {
            owner: owner.clone(),
            namespace: namespace.clone(),
            cause,
        };
        candidates.take(self.input.limit).map(candidate).collect()
    }

    /// Chooses a pod of an owner, or remembers why none.
    fn try_owner(
        &self,
        memory: &mut EvictionMemory,
        candidate: &Candidate,
        wants: impl Fn(EvictionCause) -> bool,
    ) -> Result<Option<Chosen>, Gap> {
        let (now, Candidate { owner, namespace, .. }) = (self.input.now, candidate);
        let replicas = self.replicas(namespace, owner)?;
        let is_known = |pods: &[OwnedPod]| candidate.cause == EvictionCause::NotInPlace && has_all(pods, replicas);
        let pods = self.pods(namespace, owner, is_known)?;
        let pod = match replace::next(&pods, wants, replicas) {
            Next::Evict(pod) => pod,
            Next::Wait(cause, why) => {
                memory.wait(cause, namespace, owner, why, now);
                return Ok(None);
            }
            Next::Nothing => {
                match pods.iter().find_map(|pod| pod.exempt) {
                    Some(kind) => memory.wait(candidate.cause, namespace, owner, Wait::Exempt(kind), now),
                    None => memory.found_is_stale |= candidate.cause == EvictionCause::NoSidecars,
                }
                return Ok(None);
            }
        };
        let Some(cause) = pod.behind else { return Ok(None) };
        let supersedes = replace::superseded(&memory.records, owner).cloned();
        if let Some(why) = self.obstacle(pod, supersedes.as_ref()) {
            memory.wait(cause, namespace, owner, why, now);
            return Ok(None);
        }
        let mut record = replace::record(pod, &pods, cause, owner, self.revision(cause), now);
        record.unready = supersedes.as_ref().map_or(record.unready, |open| open.unready);
        let is_held = pod.held || supersedes.is_some();
        if !is_held && !self.quota.has_place(&record) {
            return Ok(None);
        }
        let chosen = Chosen { pod: pod.key.clone(), record, supersedes };
        match self.facts.replacements.get(&pod.uid) {
            None => Err(Gap::Ask(Box::new(Question::Replacement(Box::new(chosen))))),
            Some(None) => Ok(Some(chosen)),
            Some(Some(why)) => {
                memory.wait(cause, namespace, owner, why.clone(), now);
                Ok(None)
            }
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
