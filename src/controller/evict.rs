//! Performs evictions: reads what a step of [`crate::core::rollout::plan::evict`] asks for, writes the record into the
//! status, and then sends the request. This task is the only writer of these records.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::Status;
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::context::{Context, Error, now};
use super::tenants;
use super::uninjected::{raw_pod, uninjected_pods, why};
use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::base::text::bounded;
use crate::core::inject::failed_creates::replica_failure;
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::pod::{Owner, PodKey};
use crate::core::replace;
use crate::core::replace::report::Wait;
use crate::core::replace::uninjected::Found;
use crate::core::rollout::plan::evict::input::{EvictionInput, Facts};
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::plan::evict::{
    Chosen, EvictionStep, Question, begin_step, is_asked, replacement_obstacle, reports,
};
use crate::core::rollout::target::rollout::still_wanted;
use crate::runtime::call::{CallError, Cause};
use crate::runtime::events::Note;

/// How often open evictions are judged and new ones begun: a pod takes seconds to be replaced.
const EVERY: Duration = Duration::from_secs(2);

/// Owners of one set that are looked at in one round, besides those of open evictions; each costs up to four requests.
const TRIED: usize = 20;

/// Sets that are worked on at the same time.
const SETS_AT_ONCE: usize = 8;

/// What is kept about a set while this replica leads.
struct Kept {
    term: u64,
    uid: String,
    memory: EvictionMemory,
}

/// Starts a round for each set every two seconds, unless its last is still under way.
pub(super) async fn run(context: Arc<Context>) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let permits = Semaphore::new(SETS_AT_ONCE);
    let mut kept: HashMap<String, Kept> = HashMap::new();
    let mut busy = BTreeSet::new();
    let mut rounds = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            Some((name, after)) = rounds.next() => {
                busy.remove(&name);
                kept.extend(Option::map(after, |after| (name, after)));
                continue;
            }
        }
        let Some(term) = context.writer.term().filter(|_| context.cache.is_complete()) else { continue };
        let names: Vec<String> = context.cache.names();
        kept.retain(|name, _| names.contains(name));
        for name in names.into_iter().filter(|name| !busy.contains(name)).collect::<Vec<_>>() {
            // Another leader may have written since another term: what is remembered would be stale.
            let before = kept.remove(&name).filter(|before| before.term == term);
            busy.insert(name.clone());
            let (context, permits) = (&context, &permits);
            rounds.push(async move {
                let _permit = permits.acquire().await;
                let after = look_after(context, term, &name, before).await;
                (name, after)
            });
        }
    }
}

/// One round of a set. An error leaves the rest to the next one.
async fn look_after(context: &Context, term: u64, name: &str, kept: Option<Kept>) -> Option<Kept> {
    let set = context.cache.set(name)?;
    let loaded = load(context, term, &set, kept).await;
    let mut kept =
        loaded.inspect_err(|error| tracing::warn!(set = name, %error, "evictions cannot be read")).ok()??;
    context.state().index.set_evictions(name, &kept.memory.records);
    let mut round = EvictionRound { context, name, kept: &mut kept, facts: Facts::default() };
    if let Err(error) = round.run().await {
        tracing::warn!(set = name, %error, "evictions are left for the next round");
    }
    round.publish();
    Some(kept)
}

/// What is known of a set; `None` if there is nothing to do for it.
async fn load(context: &Context, term: u64, set: &SidecarSet, kept: Option<Kept>) -> Result<Option<Kept>, CallError> {
    let (name, uid) = (set.name_any(), set.uid().unwrap_or_default());
    if let Some(kept) = kept.filter(|kept| kept.uid == uid) {
        return Ok(Some(kept));
    }
    let recorded = |set: &SidecarSet| set.status.as_ref().and_then(|status| status.evictions.clone());
    let is_asked = [EvictionCause::NoSidecars, EvictionCause::NotInPlace].iter().any(|cause| is_asked(set, *cause));
    if !is_asked && recorded(set).is_none() {
        return Ok(None);
    }
    let live = context.live_set(&name).await?.filter(|live| live.uid().as_ref() == Some(&uid));
    let memory = |live: SidecarSet| EvictionMemory::new(recorded(&live).unwrap_or_default());
    Ok(live.map(|live| Kept { term, uid, memory: memory(live) }))
}

struct EvictionRound<'a> {
    context: &'a Context,
    name: &'a str,
    kept: &'a mut Kept,
    facts: Facts,
}

struct Moment {
    set: Arc<SidecarSet>,
    sets: Arc<CompiledSets>,
    compiled: Arc<CompiledSet>,
    found: Arc<Found>,
    is_served: bool,
    limit: usize,
}

impl Moment {
    fn now(context: &Context, name: &str, limit: usize) -> Option<Self> {
        let (sets, set) = (context.cache.compiled(), context.cache.set(name)?);
        Some(Self {
            compiled: Arc::clone(sets.get(name)?),
            sets,
            found: context.state().set_mut(name).uninjected.clone().unwrap_or_default(),
            is_served: context.cache.is_registered(name) && set.refusal().is_none(),
            limit,
            set,
        })
    }

    fn input(&self) -> EvictionInput<'_> {
        let planned = self.set.status.as_ref().and_then(|status| status.observed_generation);
        EvictionInput {
            set: &self.set,
            compiled: &self.compiled,
            sets: &self.sets,
            found: &self.found,
            given: self.compiled.revision(),
            is_served: self.is_served,
            is_planned: planned == self.set.metadata.generation,
            limit: self.limit,
            now: now(),
        }
    }
}

impl EvictionRound<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        self.kept.memory.found_is_stale = false;
        let limit = TRIED + self.kept.memory.records.len();
        loop {
            // Each step is of the set as it is now: a pause stops the next eviction.
            let Some(moment) = Moment::now(self.context, self.name, limit) else { return Ok(()) };
            let step = {
                let index = &mut self.context.state().index;
                begin_step(index, &moment.input(), &mut self.kept.memory, &self.facts)
            };
            match step {
                EvictionStep::Read(question) => self.read(&moment, question).await,
                EvictionStep::Record(records) => {
                    self.save(records).await?;
                    self.context.shared.look.notify_one();
                }
                EvictionStep::Evict(chosen) => {
                    // Each may take as long as the API server lets it: what held them before is not told until the last.
                    self.publish();
                    let evicted = self.evict(&moment, &chosen).await;
                    // What it has taken, and is not recorded, is free again.
                    self.context.state().index.set_evictions(self.name, &self.kept.memory.records);
                    evicted?;
                }
                EvictionStep::Rest => return Ok(()),
            }
        }
    }

    /// What cannot be read is left alone in this round.
    async fn read(&mut self, moment: &Moment, question: Question) {
        let (context, facts) = (self.context, &mut self.facts);
        let (left_alone, error) = match question {
            Question::Replicas(namespace, owner) => match replicas(context, &namespace, &owner).await {
                Ok(Wanted { replicas, failing }) => {
                    facts.failing.extend(failing.map(|why| (owner.uid.clone(), why)));
                    facts.replicas.insert(owner.uid, replicas);
                    return;
                }
                Err(error) => (owner.uid, error),
            },
            Question::Uninjected(namespace) => match uninjected_pods(context, &moment.compiled, &namespace).await {
                Ok(pods) => return drop(facts.uninjected.insert(namespace, pods)),
                Err(error) => (namespace, error),
            },
            Question::Replacement(chosen) => {
                let why = match raw_pod(context, &chosen.pod).await {
                    Ok(raw) => obstacle(context, moment, &chosen, raw).await,
                    Err(error) => Some(Wait::because(error.to_string())),
                };
                return drop(facts.replacements.insert(chosen.record.pod_uid.clone(), why));
            }
        };
        tracing::warn!(set = self.name, left_alone, %error, "evictions of this owner or namespace wait for the next round");
        facts.unreadable.insert(left_alone);
    }

    async fn evict(&mut self, moment: &Moment, chosen: &Chosen) -> Result<(), Error> {
        let others = self.kept.memory.without(chosen.supersedes.as_ref());
        let before = self.kept.memory.records.clone();
        self.save([others.as_slice(), std::slice::from_ref(&chosen.record)].concat()).await?;
        let newest = self.context.cache.set(self.name);
        if !newest.is_some_and(|newest| still_wanted(&moment.set, &newest)) {
            return self.save(before).await;
        }
        let answer = send(self.context, &chosen.pod, &chosen.record.pod_uid).await?;
        self.context.metrics.eviction(self.name, answer.label());
        let (owner, memory) = (replace::owner(&chosen.record), &mut self.kept.memory);
        self.facts.tried.insert(owner.uid.clone());
        if answer == EvictionAnswer::Evicted {
            memory.note_evicted(&chosen.record.pod_uid);
            tell(self.context, &moment.set, &chosen.record);
        }
        let stands = matches!(answer, EvictionAnswer::Evicted | EvictionAnswer::Unknown(_));
        match answer.why() {
            Some(why) => {
                let Eviction { cause, namespace, .. } = &chosen.record;
                memory.wait(*cause, namespace, &owner, why, now());
            }
            None => memory.forget_wait(&owner.uid),
        }
        // With no clear answer it may have been evicted: its slot is held until the owner's pods say what became of it.
        if stands { Ok(()) } else { self.save(before).await }
    }

    /// Writes the records; what is remembered changes only with them.
    async fn save(&mut self, evictions: Vec<Eviction>) -> Result<(), Error> {
        // Another leader may have written records since.
        if self.context.writer.term() != Some(self.kept.term) {
            return Err(Error::NotLeader);
        }
        let name = self.name;
        let recorded = Some(&evictions).filter(|evictions| !evictions.is_empty());
        // The UID: not into the status of a later set of that name.
        let patch = json!({"metadata": {"uid": self.kept.uid}, "status": {"evictions": recorded}});
        self.context.patch_status(name, patch).await?;
        self.context.state().index.set_evictions(name, &evictions);
        self.context.enqueue([name.to_owned()]);
        self.kept.memory.recorded(evictions);
        Ok(())
    }

    /// Says where evictions stand; a reconcile puts it into the status.
    fn publish(&self) {
        if self.kept.memory.found_is_stale {
            self.context.shared.look.notify_one();
        }
        let Some(moment) = Moment::now(self.context, self.name, 0) else { return };
        let reports = reports(&moment.input(), &self.kept.memory);
        let before = std::mem::replace(&mut self.context.state().set_mut(self.name).evictions, reports.clone());
        if before != reports {
            self.context.enqueue([self.name.to_owned()]);
        }
    }
}

/// What an owner says of its pods.
#[derive(Default)]
struct Wanted {
    /// How many it should have: none if it is gone, `None` if its kind is not one that is read.
    replicas: Option<usize>,
    /// What keeps it from creating them.
    failing: Option<String>,
}

async fn replicas(context: &Context, namespace: &str, owner: &Owner) -> Result<Wanted, CallError> {
    let known = [ApiResource::erase::<ReplicaSet>(&()), ApiResource::erase::<StatefulSet>(&())];
    let is_owner = |kind: &&ApiResource| kind.api_version == owner.api_version && kind.kind == owner.kind;
    let Some(kind) = known.iter().find(is_owner) else { return Ok(Wanted::default()) };
    let api: Api<DynamicObject> = Api::namespaced_with(context.clients.call.clone(), namespace, kind);
    let failed = CallError::api("get", format!("{} {namespace}/{}", owner.kind, owner.name));
    let object = api.get_opt(&owner.name).await.map_err(failed)?;
    let living = object.filter(|object| object.metadata.uid.as_ref() == Some(&owner.uid));
    let replicas = living.as_ref().map_or(0, |object| object.data["spec"]["replicas"].as_u64().unwrap_or(1));
    let failing = living.as_ref().and_then(|object| replica_failure(&object.data));
    Ok(Wanted { replicas: Some(usize::try_from(replicas).unwrap_or(usize::MAX)), failing })
}

/// Why the replacement would not be better.
async fn obstacle(context: &Context, moment: &Moment, chosen: &Chosen, raw: Option<Value>) -> Option<Wait> {
    let Some(raw) = raw else { return Some(Wait::because("the pod is gone".to_owned())) };
    if let Some(why) = why(context, &moment.sets, &moment.compiled.name, &raw) {
        return Some(Wait::because(why));
    }
    let obstacle = replacement_obstacle(&moment.input(), &chosen.record, &raw);
    if obstacle.is_some() {
        return obstacle;
    }
    tenants::refusal(context, &moment.sets, &raw).await.map(|why| Wait::NotCreated(bounded(why)))
}

/// Through the Eviction API, so that `PodDisruptionBudgets` decide.
async fn send(context: &Context, pod: &PodKey, uid: &str) -> Result<EvictionAnswer, Error> {
    // Not `Api::evict`: it misspells deleteOptions, and the apiserver would evict a later pod of that name.
    let body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    });
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), &pod.namespace);
    let params = PostParams::default();
    let call = api.create_subresource::<_, Status>("eviction", &pod.name, &params, &body);
    match context.write("evict", || format!("pod {pod}"), call).await {
        Ok(_) => Ok(EvictionAnswer::Evicted),
        Err(CallError { cause: Cause::NotLeader, .. }) => Err(Error::NotLeader),
        Err(error) => Ok(error.status().map_or_else(|| EvictionAnswer::Unknown(error.to_string()), verdict)),
    }
}

/// What the apiserver said to a request to evict a pod.
#[derive(Debug, PartialEq, Eq)]
enum EvictionAnswer {
    Evicted,
    /// The pod is gone, or another one has its name.
    Gone,
    /// A `PodDisruptionBudget` does not allow it now.
    Blocked(String),
    /// It will not be evicted.
    Refused(String),
    /// It may have been evicted.
    Unknown(String),
}

impl EvictionAnswer {
    fn label(&self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Gone => "gone",
            Self::Blocked(_) => "blocked",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    fn why(self) -> Option<Wait> {
        match self {
            Self::Evicted | Self::Gone => None,
            Self::Blocked(why) => Some(Wait::Budget(bounded(why))),
            Self::Refused(why) | Self::Unknown(why) => Some(Wait::because(why)),
        }
    }
}

fn verdict(status: &Status) -> EvictionAnswer {
    // The budget is named in the causes.
    let causes = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.message.as_str());
    let text = std::iter::once(status.message.as_str()).chain(causes).collect::<Vec<_>>().join(" ");
    match status.code {
        404 | 409 => EvictionAnswer::Gone,
        429 => EvictionAnswer::Blocked(text),
        // 500 is the answer where two budgets select one pod.
        503 | 504 => EvictionAnswer::Unknown(text),
        _ => EvictionAnswer::Refused(text),
    }
}

fn tell(context: &Context, set: &SidecarSet, record: &Eviction) {
    let Eviction { cause, revision, namespace, pod, .. } = record;
    tracing::info!(set = set.name_any(), pod = %format!("{namespace}/{pod}"), ?cause, revision, "evicted a pod");
    let about = ObjectReference {
        api_version: Some(record.owner_api_version.clone()),
        kind: Some(record.owner_kind.clone()),
        name: Some(record.owner_name.clone()),
        uid: Some(record.owner_uid.clone()),
        namespace: Some(namespace.clone()),
        ..ObjectReference::default()
    };
    let message = match cause {
        EvictionCause::NoSidecars => "a pod without its sidecars is replaced".to_owned(),
        EvictionCause::NotInPlace => {
            format!("a pod is replaced to upgrade its sidecars to revision {revision}, which cannot be done in place")
        }
    };
    let message = format!("SidecarSet {:?}: {message}", set.name_any());
    context.events.publish(Note {
        to_top_owner: true,
        related: Some(set.object_ref(&())),
        ..Note::new(about, Reason::EvictedForSidecars, "Evict", message)
    });
}
