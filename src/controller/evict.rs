//! Has owners replace their pods, by eviction: those without sidecars, and those whose change cannot be made in place.
//! Within the set's budgets, and through the Eviction API, so that `PodDisruptionBudgets` decide.
//!
//! The record of an eviction is in the status before the request is sent. This task is the only writer of these records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::SignedDuration;
use kube::api::Patch;
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::context::{Context, now, patch_params};
use super::error::Error;
use super::eviction::{Answer, evict as send};
use super::owners::{replicas, siblings};
use super::state::EvictionMessages;
use super::uninjected::{raw_pod, why};
use crate::api::reasons::Reason;
use crate::api::v1beta1::{Eviction, EvictionCause, ExistingPods, WhenNotInPlace};
use crate::api::{SidecarSet, SidecarSetStatus};
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::pod::Owner;
use crate::core::replace;
use crate::core::replace::uninjected::Found;
use crate::core::replace::{MAX_KEPT, Next, Patience, Sibling, Verdict, words};
use crate::core::rollout::plan::evict::{Candidate, Leave};
use crate::runtime::events::Note;

/// How often open evictions are judged and new ones begun: a pod takes seconds to be replaced.
const EVERY: Duration = Duration::from_secs(2);

/// Owners of one set that are looked at in one round; each costs up to four requests.
const TRIED: usize = 20;

/// An owner whose pod could not be evicted is left alone for this long, then twice as long, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// Every replica of the webhook reads from the status which revision new pods get: it must have said so for this long.
const FOLLOW: Duration = Duration::from_secs(1);

/// What is kept about a set while this replica leads.
#[derive(Default)]
struct Memory {
    /// UID of the set.
    set: String,
    evictions: Vec<Eviction>,
    /// What open ones wait for, by UID of the evicted pod.
    lacking: BTreeMap<String, String>,
    /// By owner UID.
    waiting: HashMap<String, Waiting>,
    /// The revision that new pods get, and since when that is known here.
    given: Option<(String, Instant)>,
}

/// An owner whose pod is not evicted now.
struct Waiting {
    cause: EvictionCause,
    /// The owner, and why.
    text: String,
    delay: Duration,
    until: Instant,
}

/// A set in one round.
struct Round<'a> {
    context: &'a Context,
    term: u64,
    name: String,
    set: &'a SidecarSet,
    sets: &'a CompiledSets,
    compiled: &'a CompiledSet,
    found: Arc<Found>,
}

pub(super) async fn run(context: Arc<Context>) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memories: HashMap<String, Memory> = HashMap::new();
    let mut last_term = None;
    loop {
        every.tick().await;
        let term = context.writer.term().filter(|_| context.cache.is_complete());
        if term != last_term {
            // Another leader may have written meanwhile: what is remembered would be stale.
            memories.clear();
            last_term = term;
        }
        let Some(term) = term else { continue };
        let sets = context.cache.compiled();
        for name in context.cache.names() {
            let Some(set) = context.cache.set(&name) else { continue };
            if let Err(error) = look_after(&context, term, &set, &sets, &mut memories).await {
                tracing::warn!(set = name, %error, "evictions are left for the next round");
            }
        }
        memories.retain(|name, _| sets.get(name).is_some());
    }
}

async fn look_after(
    context: &Context,
    term: u64,
    set: &SidecarSet,
    sets: &CompiledSets,
    memories: &mut HashMap<String, Memory>,
) -> Result<(), Error> {
    let name = set.name_any();
    let Some(compiled) = sets.get(&name) else { return Ok(()) };
    let uid = set.uid().unwrap_or_default();
    if memories.get(&name).is_none_or(|memory| memory.set != uid) {
        let recorded = |status: &Option<SidecarSetStatus>| status.as_ref().and_then(|status| status.evictions.clone());
        if !wanted(set) && recorded(&set.status).is_none() {
            return Ok(());
        }
        // Not from the cache, which may lag behind the last leader's writes.
        let live = context.sets_api().get_opt(&name).await;
        let live = live.map_err(Error::api("get", format!("SidecarSet {name}")))?;
        let Some(live) = live.filter(|live| live.uid().as_ref() == Some(&uid)) else { return Ok(()) };
        let evictions = recorded(&live.status).unwrap_or_default();
        memories.insert(name.clone(), Memory { set: uid, evictions, ..Memory::default() });
    }
    let Some(memory) = memories.get_mut(&name) else { return Ok(()) };
    let found = context.state().set_mut(&name).uninjected.clone().unwrap_or_default();
    context.state().index.set_evictions(&name, &memory.evictions);
    let round = Round { context, term, name, set, sets, compiled, found };
    round.settle(memory).await?;
    let begun = round.begin(memory).await;
    round.publish(memory);
    begun
}

/// Evictions for this cause are asked for.
fn wants(set: &SidecarSet, cause: EvictionCause) -> bool {
    match cause {
        EvictionCause::NoSidecars => set.spec.injection_strategy.existing_pods == ExistingPods::Evict,
        EvictionCause::NotInPlace => set.spec.update_strategy.when_not_in_place == Some(WhenNotInPlace::Evict),
    }
}

fn wanted(set: &SidecarSet) -> bool {
    wants(set, EvictionCause::NoSidecars) || wants(set, EvictionCause::NotInPlace)
}

impl Round<'_> {
    /// Judges what is open, and forgets what was in vain for another revision.
    async fn settle(&self, memory: &mut Memory) -> Result<(), Error> {
        let strategy = &self.set.spec.update_strategy;
        let seconds = |seconds: i32| SignedDuration::from_secs(seconds.into());
        let (min_ready, timeout) = (strategy.min_ready_seconds, strategy.pod_update_timeout_seconds);
        let patience = Patience { min_ready: seconds(min_ready), timeout: seconds(timeout) };
        // Until the set is planned nobody knows what was in vain.
        let Some(Leave { revision: target, .. }) = self.leave() else { return Ok(()) };
        let mut kept = Vec::new();
        memory.lacking.clear();
        for eviction in &memory.evictions {
            let verdict = if eviction.in_vain {
                Verdict::InVain
            } else {
                let owner = replace::owner(eviction);
                let pods = siblings(self.context, self.compiled, self.sets, &eviction.namespace, &owner).await?;
                let replicas = replicas(self.context, &eviction.namespace, &owner).await?;
                memory.lacking.insert(eviction.pod_uid.clone(), words::lacks(eviction, &pods, replicas));
                let verdict = replace::judge(eviction, &pods, replicas, &target, patience, now());
                if self.context.state().index.has_seen(eviction, &pods) { verdict } else { Verdict::Open }
            };
            let current = match eviction.cause {
                EvictionCause::NoSidecars => self.compiled.revision(),
                EvictionCause::NotInPlace => &target,
            };
            match verdict {
                Verdict::Open => kept.push(eviction.clone()),
                Verdict::Failed => kept.push(Eviction { failed: true, ..eviction.clone() }),
                Verdict::InVain if eviction.revision == current => {
                    kept.push(Eviction { in_vain: true, ..eviction.clone() });
                }
                Verdict::InVain | Verdict::Done => {}
            }
        }
        if kept != memory.evictions {
            self.save(memory, kept).await?;
            self.context.shared.look.notify_one();
        }
        Ok(())
    }

    fn leave(&self) -> Option<Leave> {
        self.context.state().index.leave(&self.name, self.found.pods, now())
    }

    /// Why nothing is evicted for this cause.
    fn hold(&self, cause: EvictionCause) -> Option<&'static str> {
        let strategy = &self.set.spec;
        match () {
            () if !wants(self.set, cause) => Some(""),
            () if strategy.update_strategy.paused => Some("updateStrategy.paused is true"),
            () if strategy.injection_strategy.paused => Some("injectionStrategy.paused is true"),
            () if !self.context.cache.is_registered(&self.name) => Some("the webhook does not serve the set yet"),
            () => None,
        }
    }

    /// Why no pod is evicted for an upgrade: its replacement would not be at the target for sure.
    fn hold_upgrades(&self, memory: &mut Memory, leave: &Leave) -> Option<&'static str> {
        let given = self.compiled.revision();
        if memory.given.as_ref().is_none_or(|(revision, _)| revision != given) {
            memory.given = Some((given.to_owned(), Instant::now()));
        }
        let known = memory.given.as_ref().is_some_and(|(_, since)| since.elapsed() >= FOLLOW);
        let planned = self.set.status.as_ref().and_then(|status| status.observed_generation);
        match self.hold(EvictionCause::NotInPlace) {
            Some(why) => Some(why),
            None if planned != self.set.metadata.generation || leave.upgrades == 0 || !known => Some(""),
            None if given != leave.revision => Some("new pods do not get the new revision yet"),
            None => None,
        }
    }

    /// Evicts as many pods as there is room for.
    async fn begin(&self, memory: &mut Memory) -> Result<(), Error> {
        let Some(leave) = self.leave() else { return Ok(()) };
        let uninjected = self.hold(EvictionCause::NoSidecars).is_none();
        let upgrades = self.hold_upgrades(memory, &leave).is_none();
        let owners: BTreeSet<&str> = self.uninjected_owners().map(|(owner, _)| owner.uid.as_str()).collect();
        memory.waiting.retain(|owner, waiting| match waiting.cause {
            EvictionCause::NoSidecars => uninjected && owners.contains(owner.as_str()),
            EvictionCause::NotInPlace => upgrades && self.context.state().index.has_candidate(&self.name, owner),
        });
        for Candidate { namespace, owner } in self.candidates(memory, &leave, uninjected, upgrades) {
            let Some(left) = self.leave() else { break };
            let used_up = (leave.slots > 0 && left.slots == 0) || (left.upgrades == 0 && !uninjected);
            if used_up || memory.evictions.len() >= MAX_KEPT {
                break;
            }
            let wants = |cause| match cause {
                EvictionCause::NoSidecars => uninjected,
                EvictionCause::NotInPlace => upgrades,
            };
            match self.replace_one(memory, &namespace, &owner, wants).await? {
                Some((cause, why)) => memory.wait(cause, &owner, &namespace, &why),
                None => drop(memory.waiting.remove(&owner.uid)),
            }
        }
        Ok(())
    }

    fn uninjected_owners(&self) -> impl Iterator<Item = (&Owner, &String)> {
        let groups =
            self.found.groups.iter().filter_map(|group| Some((group.owner.as_ref()?, &group.example.namespace)));
        groups.filter(|(owner, _)| replace::exempt(Some(owner)).is_none())
    }

    /// Owners that are not left alone now and may give up a pod.
    fn candidates(&self, memory: &Memory, leave: &Leave, uninjected: bool, upgrades: bool) -> Vec<Candidate> {
        let current = [self.compiled.revision(), leave.revision.as_str()];
        let skip = |owner: &Owner| {
            let waits = memory.waiting.get(&owner.uid).is_some_and(|waiting| Instant::now() < waiting.until);
            waits || replace::is_blocked(&memory.evictions, owner, &current)
        };
        let uninjected = self.uninjected_owners().filter(|(owner, _)| uninjected && leave.slots > 0 && !skip(owner));
        let uninjected =
            uninjected.map(|(owner, namespace)| Candidate { namespace: namespace.clone(), owner: owner.clone() });
        let mut candidates: Vec<Candidate> = uninjected.take(TRIED).collect();
        if upgrades {
            let known = |owner: &Owner| candidates.iter().any(|candidate| candidate.owner == *owner);
            let skip = |owner: &Owner| known(owner) || skip(owner);
            let more = self.context.state().index.candidates(&self.name, leave.slots == 0, skip, TRIED);
            candidates.extend(more);
        }
        candidates
    }

    /// Evicts one pod of an owner, or says why not.
    async fn replace_one(
        &self,
        memory: &mut Memory,
        namespace: &str,
        owner: &Owner,
        wants: impl Fn(EvictionCause) -> bool,
    ) -> Result<Option<(EvictionCause, String)>, Error> {
        let pods = siblings(self.context, self.compiled, self.sets, namespace, owner).await?;
        let replicas = replicas(self.context, namespace, owner).await?;
        let pod = match replace::next(&pods, &wants, replicas) {
            Next::Evict(pod) => pod,
            Next::Wait(cause, why) => return Ok(Some((cause, why))),
            Next::Nothing => {
                self.context.shared.look.notify_one();
                return Ok(None);
            }
        };
        let Some(cause) = pod.behind else { return Ok(None) };
        let Some(revision) = self.revision(cause) else { return Ok(None) };
        if let Some(obstacle) = self.obstacle(pod, cause, &revision).await? {
            return Ok(Some((cause, obstacle)));
        }
        let superseded = replace::superseded(&memory.evictions, owner).cloned();
        if superseded.is_some() && pod.ready {
            return Ok(Some((cause, "the last eviction is not over".to_owned())));
        }
        let mut record = replace::record(pod, &pods, cause, owner, &revision, now());
        record.unready = superseded.as_ref().map_or(record.unready, |open| open.unready);
        let held = pod.held || superseded.is_some();
        if !self.context.state().index.reserve(&self.name, &record, held, self.found.pods, now()) {
            return Ok(None);
        }
        let mut others = memory.evictions.clone();
        others.retain(|eviction| superseded.as_ref() != Some(eviction));
        self.save(memory, [others.as_slice(), &[record]].concat()).await?;
        let answer = send(self.context, pod).await?;
        self.context.metrics.eviction(&self.name, answer.label());
        match answer {
            Answer::Evicted => {
                tracing::info!(set = self.name, pod = %pod.key, ?cause, revision, "evicted a pod");
                self.tell(namespace, owner, cause, &revision);
                return Ok(None);
            }
            // It may have been evicted: it holds its slot until the owner's pods say what became of it.
            Answer::Unknown(why) => return Ok(Some((cause, why))),
            Answer::Gone | Answer::Blocked(_) | Answer::Refused(_) => {}
        }
        others.extend(superseded);
        self.save(memory, others).await?;
        Ok(answer.why().map(|why| (cause, why)))
    }

    /// Hash of the revision that a replacement is to get.
    fn revision(&self, cause: EvictionCause) -> Option<String> {
        match cause {
            EvictionCause::NoSidecars => Some(self.compiled.revision().to_owned()),
            EvictionCause::NotInPlace => Some(self.leave()?.revision),
        }
    }

    /// Why the replacement would not be better.
    async fn obstacle(&self, pod: &Sibling, cause: EvictionCause, revision: &str) -> Result<Option<String>, Error> {
        let Some(raw) = raw_pod(self.context, &pod.key).await? else { return Ok(Some("the pod is gone".to_owned())) };
        if let Some(obstacle) = why(self.context, self.sets, &self.name, &raw) {
            return Ok(Some(obstacle));
        }
        let labels = serde_json::from_value(raw["metadata"]["labels"].clone()).unwrap_or_default();
        let given = self.compiled.revision_for(&labels);
        let other = cause == EvictionCause::NotInPlace && given != Ok(revision);
        Ok(other.then(|| format!("a new pod would get revision {}", given.unwrap_or("of nobody"))))
    }

    /// Writes the records; what is remembered changes only with them.
    async fn save(&self, memory: &mut Memory, evictions: Vec<Eviction>) -> Result<(), Error> {
        // Another leader may have written records since.
        if self.context.writer.term() != Some(self.term) {
            return Err(Error::NotLeader);
        }
        let name = &self.name;
        let recorded = Some(&evictions).filter(|evictions| !evictions.is_empty());
        // The UID: not into the status of a later set of that name.
        let patch = json!({"metadata": {"uid": memory.set}, "status": {"evictions": recorded}});
        let (api, params, patch) = (self.context.sets_api(), patch_params(), Patch::Merge(&patch));
        let call = api.patch_status(name, &params, &patch);
        let written = self.context.write("patch status of", || format!("SidecarSet {name}"), call).await?;
        self.context.cache.apply_answer(written);
        self.context.state().index.set_evictions(name, &evictions);
        self.context.enqueue([name.clone()]);
        memory.evictions = evictions;
        Ok(())
    }

    fn tell(&self, namespace: &str, owner: &Owner, cause: EvictionCause, revision: &str) {
        let about = ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        };
        let message = match cause {
            EvictionCause::NoSidecars => "a pod without its sidecars is replaced".to_owned(),
            EvictionCause::NotInPlace => {
                format!(
                    "a pod is replaced to upgrade its sidecars to revision {revision}, which cannot be done in place"
                )
            }
        };
        self.context.events.publish_to_top_owner(Note {
            about,
            related: Some(self.set.object_ref(&())),
            warning: false,
            reason: Reason::EvictedForSidecars,
            action: "Evict",
            message: format!("SidecarSet {:?}: {message}", self.name),
        });
    }

    /// Says where evictions stand; a reconcile puts it into the status.
    fn publish(&self, memory: &mut Memory) {
        let uninjected = self.uninjected_news(memory);
        let upgrades = self.upgrade_news(memory);
        let messages = EvictionMessages { uninjected, upgrades };
        let before = std::mem::replace(&mut self.context.state().set_mut(&self.name).evictions, messages.clone());
        if before != messages {
            self.context.enqueue([self.name.clone()]);
        }
    }

    fn uninjected_news(&self, memory: &Memory) -> String {
        let cause = EvictionCause::NoSidecars;
        let mut waiting = memory.waiting_for(cause);
        let mut exempt = BTreeSet::new();
        if wants(self.set, cause) && self.found.pods > 0 {
            exempt.extend(self.found.groups.iter().filter_map(|group| replace::exempt(group.owner.as_ref())));
            let none_free = || self.leave().is_some_and(|leave| leave.slots == 0);
            if let Some(hold) = self.hold(cause) {
                waiting = vec![hold.to_owned()];
            } else if waiting.is_empty() && memory.evictions.is_empty() && none_free() {
                waiting = vec!["an upgrade uses up updateStrategy.maxUnavailable".to_owned()];
            }
        }
        let parts = [words::news(cause, &memory.evictions, &memory.lacking, &waiting), words::never(exempt)];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }

    fn upgrade_news(&self, memory: &mut Memory) -> String {
        let cause = EvictionCause::NotInPlace;
        let mut waiting = memory.waiting_for(cause);
        if let Some(hold) = self.leave().and_then(|leave| self.hold_upgrades(memory, &leave)) {
            waiting.extend(Some(hold.to_owned()).filter(|hold| !hold.is_empty()));
        }
        words::news(cause, &memory.evictions, &memory.lacking, &waiting)
    }
}

impl Memory {
    fn wait(&mut self, cause: EvictionCause, owner: &Owner, namespace: &str, why: &str) {
        let (first, longest) = BACKOFF;
        let delay = self.waiting.get(&owner.uid).map_or(first, |last| (last.delay * 2).min(longest));
        let text = format!("{} {namespace}/{} ({why})", owner.kind, owner.name);
        self.waiting.insert(owner.uid.clone(), Waiting { cause, text, delay, until: Instant::now() + delay });
    }

    fn waiting_for(&self, cause: EvictionCause) -> Vec<String> {
        let waiting = self.waiting.values().filter(|waiting| waiting.cause == cause);
        let mut texts: Vec<String> = waiting.map(|waiting| waiting.text.clone()).collect();
        texts.sort();
        texts
    }
}
