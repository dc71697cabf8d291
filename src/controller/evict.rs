//! Has owners replace their pods without sidecars, by eviction: within the set's budget, and through the Eviction API, so
//! that `PodDisruptionBudgets` decide.
//!
//! The record of an eviction is in the status before the request is sent. This task is the only writer of these records.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::jiff::SignedDuration;
use kube::api::{Patch, PostParams};
use kube::core::Status;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::context::{Context, now, patch_params};
use super::error::Error;
use super::naked::{raw_pod, why};
use super::owners::{replicas, siblings};
use super::sets_api;
use crate::api::reasons::reason;
use crate::api::v1beta1::{Eviction, ExistingPods};
use crate::api::{SidecarSet, SidecarSetStatus};
use crate::core::evict::{self, Next, Sibling, Verdict};
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::naked::{Found, Group};
use crate::core::pod::Owner;
use crate::core::upgrade::Remembered;
use crate::core::upgrade::rollout::share;
use crate::runtime::events::Note;

/// How often open evictions are judged and new ones begun: a pod takes seconds to be replaced.
const EVERY: Duration = Duration::from_secs(2);

/// Owners of one set that are looked at in one round; each costs up to four requests.
const TRIED: usize = 20;

/// An owner whose pod could not be evicted is left alone for this long, then twice as long, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// What is kept about a set while this replica leads.
#[derive(Default)]
struct Memory {
    /// UID of the set.
    set: String,
    evictions: Vec<Eviction>,
    /// By owner UID.
    waiting: HashMap<String, Waiting>,
}

/// An owner whose pod is not evicted now.
struct Waiting {
    /// The owner, and why.
    text: String,
    delay: Duration,
    until: Instant,
}

/// A set in one round.
struct Round<'a> {
    context: &'a Context,
    set: &'a SidecarSet,
    sets: &'a CompiledSets,
    compiled: &'a CompiledSet,
}

pub(super) async fn run(context: Arc<Context>) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memories: HashMap<String, Memory> = HashMap::new();
    loop {
        every.tick().await;
        if !context.may_plan() || !context.cache.is_complete() {
            // Another leader may write now: what is remembered would be stale.
            memories.clear();
            continue;
        }
        let sets = context.cache.compiled();
        for name in context.cache.names() {
            let Some(set) = context.cache.set(&name) else { continue };
            if let Err(error) = look_after(&context, &set, &sets, &mut memories).await {
                tracing::warn!(set = name, %error, "evictions are left for the next round");
            }
        }
        memories.retain(|name, _| sets.get(name).is_some());
    }
}

async fn look_after(
    context: &Context,
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
        let live = sets_api(context).get_opt(&name).await.map_err(|source| Error::Api {
            action: "get",
            object: format!("SidecarSet {name}"),
            source: Box::new(source),
        })?;
        let Some(live) = live.filter(|live| live.uid().as_ref() == Some(&uid)) else { return Ok(()) };
        let evictions = recorded(&live.status).unwrap_or_default();
        memories.insert(name.clone(), Memory { set: uid, evictions, ..Memory::default() });
    }
    let Some(memory) = memories.get_mut(&name) else { return Ok(()) };
    let round = Round { context, set, sets, compiled };
    round.settle(memory).await?;
    let found = context.naked.found(&name).unwrap_or_default();
    let begun = round.begin(memory, &found).await;
    if context.naked.note_evictions(&name, round.summary(memory, &found)) {
        context.dirty.mark([name]);
    }
    begun
}

fn wanted(set: &SidecarSet) -> bool {
    set.spec.injection_strategy.existing_pods == ExistingPods::Evict
}

impl Round<'_> {
    /// Judges what is open, and forgets what was in vain for another revision.
    async fn settle(&self, memory: &mut Memory) -> Result<(), Error> {
        let timeout = SignedDuration::from_secs(self.set.spec.update_strategy.pod_update_timeout_seconds.into());
        let mut kept = Vec::new();
        for eviction in &memory.evictions {
            let verdict = if eviction.in_vain {
                Verdict::InVain
            } else {
                let owner = evict::owner(eviction);
                let pods = siblings(self.context, self.compiled, self.sets, &eviction.namespace, &owner).await?;
                let replicas = replicas(self.context, &eviction.namespace, &owner).await?;
                evict::judge(eviction, &pods, replicas, timeout, now())
            };
            match verdict {
                Verdict::Open => kept.push(eviction.clone()),
                Verdict::InVain if eviction.revision == self.compiled.revision() => {
                    kept.push(Eviction { in_vain: true, ..eviction.clone() });
                }
                Verdict::InVain | Verdict::Done => {}
            }
        }
        if kept != memory.evictions {
            self.save(memory, kept).await?;
            self.context.naked.look_soon();
        }
        Ok(())
    }

    /// Why nothing is evicted at all.
    fn hold(&self) -> Option<&'static str> {
        let strategy = &self.set.spec;
        let version = self.context.cache.spec_version(&self.set.name_any());
        let registered = *self.context.registered.borrow();
        match () {
            () if strategy.update_strategy.paused => Some("updateStrategy.paused is true"),
            () if strategy.injection_strategy.paused => Some("injectionStrategy.paused is true"),
            () if version.is_none_or(|version| registered < version) => Some("the webhook does not serve the set yet"),
            () => None,
        }
    }

    /// Pods that may be evicted now. Upgrades in place and evictions share maxUnavailable.
    fn room(&self, memory: &Memory, found: &Found) -> usize {
        let counts = self.context.index().plan(&self.set.name_any(), &Remembered::default(), now(), 0).summary.counts;
        let max = share(&self.set.spec.update_strategy.max_unavailable, counts.matched + found.pods).max(1);
        evict::room(max, counts.slots, &memory.evictions)
    }

    /// Evicts as many pods as there is room for.
    async fn begin(&self, memory: &mut Memory, found: &Found) -> Result<(), Error> {
        if !wanted(self.set) || self.hold().is_some() {
            memory.waiting.clear();
            return Ok(());
        }
        let naked: BTreeSet<&str> =
            found.groups.iter().filter_map(|group| group.owner.as_ref()).map(|owner| owner.uid.as_str()).collect();
        memory.waiting.retain(|owner, _| naked.contains(owner.as_str()));
        let mut tried = 0;
        for group in &found.groups {
            let Some(owner) = group.owner.as_ref().filter(|owner| evict::exempt(Some(owner)).is_none()) else {
                continue;
            };
            let waits = memory.waiting.get(&owner.uid).is_some_and(|waiting| Instant::now() < waiting.until);
            if waits || evict::is_blocked(&memory.evictions, owner, self.compiled.revision()) {
                continue;
            }
            if tried == TRIED || self.room(memory, found) == 0 {
                return Ok(());
            }
            tried += 1;
            match self.replace_one(memory, group, owner).await? {
                Some(why) => memory.wait(owner, &group.example.namespace, &why),
                None => drop(memory.waiting.remove(&owner.uid)),
            }
        }
        Ok(())
    }

    /// Evicts one pod of an owner, or says why not.
    async fn replace_one(&self, memory: &mut Memory, group: &Group, owner: &Owner) -> Result<Option<String>, Error> {
        let namespace = &group.example.namespace;
        let pods = siblings(self.context, self.compiled, self.sets, namespace, owner).await?;
        let replicas = replicas(self.context, namespace, owner).await?;
        let pod = match evict::next(&pods, replicas) {
            Next::Evict(pod) => pod,
            Next::Wait(why) => return Ok(Some(why)),
            Next::Nothing => {
                self.context.naked.look_soon();
                return Ok(None);
            }
        };
        let Some(raw) = raw_pod(self.context, &pod.key).await? else { return Ok(None) };
        if let Some(obstacle) = why(self.context, self.sets, &self.compiled.name, &raw) {
            return Ok(Some(obstacle));
        }
        let record = evict::record(pod, owner, self.compiled.revision(), now());
        self.save(memory, [memory.evictions.as_slice(), &[record]].concat()).await?;
        let answer = self.evict(pod).await?;
        self.context.metrics.eviction(&self.compiled.name, answer.label());
        match answer {
            Answer::Evicted => {
                tracing::info!(set = self.compiled.name, pod = %pod.key, "evicted a pod without sidecars");
                self.tell(namespace, owner);
                return Ok(None);
            }
            // It may have been evicted: it holds its slot until the owner's pods say what became of it.
            Answer::Unknown(why) => return Ok(Some(why)),
            Answer::Gone | Answer::Blocked(_) | Answer::Refused(_) => {}
        }
        let others = memory.evictions.iter().filter(|eviction| eviction.pod_uid != pod.uid).cloned().collect();
        self.save(memory, others).await?;
        Ok(answer.why())
    }

    async fn evict(&self, pod: &Sibling) -> Result<Answer, Error> {
        // Not `Api::evict`: it misspells deleteOptions, and the apiserver would evict a later pod of that name.
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod.key.name, "namespace": pod.key.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        });
        let api: Api<Pod> = Api::namespaced(self.context.clients.call.clone(), &pod.key.namespace);
        let params = PostParams::default();
        let call = api.create_subresource::<_, Status>("eviction", &pod.key.name, &params, &body);
        match self.context.write("evict", || format!("pod {}", pod.key), call).await {
            Ok(_) => Ok(Answer::Evicted),
            Err(Error::Api { source, .. }) => Ok(verdict(&source)),
            Err(Error::NotLeader) => Err(Error::NotLeader),
            Err(error) => Ok(Answer::Unknown(error.to_string())),
        }
    }

    /// Writes the records; what is remembered changes only with them.
    async fn save(&self, memory: &mut Memory, evictions: Vec<Eviction>) -> Result<(), Error> {
        let name = self.set.name_any();
        let recorded = Some(&evictions).filter(|evictions| !evictions.is_empty());
        // The UID: not into the status of a later set of that name.
        let patch = json!({"metadata": {"uid": memory.set}, "status": {"evictions": recorded}});
        let (api, params, patch) = (sets_api(self.context), patch_params(), Patch::Merge(&patch));
        let call = api.patch_status(&name, &params, &patch);
        let written = self.context.write("patch status of", || format!("SidecarSet {name}"), call).await?;
        self.context.cache.apply_answer(written);
        memory.evictions = evictions;
        Ok(())
    }

    fn tell(&self, namespace: &str, owner: &Owner) {
        let about = ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        };
        self.context.events.publish_to_top_owner(Note {
            about,
            related: Some(self.set.object_ref(&())),
            warning: false,
            reason: reason::EVICTED.to_owned(),
            action: "Evict",
            message: format!("SidecarSet {:?}: a pod without its sidecars is replaced", self.compiled.name),
        });
    }

    fn summary(&self, memory: &Memory, found: &Found) -> String {
        let mut waiting: Vec<String> = memory.waiting.values().map(|waiting| waiting.text.clone()).collect();
        waiting.sort();
        let exempt: BTreeSet<&str> =
            found.groups.iter().filter_map(|group| evict::exempt(group.owner.as_ref())).collect();
        if wanted(self.set) && found.pods > 0 {
            if let Some(hold) = self.hold() {
                waiting = vec![hold.to_owned()];
            } else if waiting.is_empty() && memory.evictions.is_empty() && self.room(memory, found) == 0 {
                waiting = vec!["an upgrade uses up updateStrategy.maxUnavailable".to_owned()];
            }
        }
        evict::summary(&memory.evictions, &waiting, exempt.into_iter().filter(|_| wanted(self.set)))
    }
}

impl Memory {
    fn wait(&mut self, owner: &Owner, namespace: &str, why: &str) {
        let (first, longest) = BACKOFF;
        let delay = self.waiting.get(&owner.uid).map_or(first, |last| (last.delay * 2).min(longest));
        let text = format!("{} {namespace}/{} ({why})", owner.kind, owner.name);
        self.waiting.insert(owner.uid.clone(), Waiting { text, delay, until: Instant::now() + delay });
    }
}

/// What the apiserver said to a request to evict a pod.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
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

impl Answer {
    fn label(&self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Gone => "gone",
            Self::Blocked(_) => "blocked",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    fn why(self) -> Option<String> {
        match self {
            Self::Evicted | Self::Gone => None,
            Self::Blocked(why) | Self::Refused(why) | Self::Unknown(why) => Some(why),
        }
    }
}

fn verdict(error: &kube::Error) -> Answer {
    let kube::Error::Api(status) = error else { return Answer::Unknown(error.to_string()) };
    // The budget is named in the causes.
    let causes = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.message.as_str());
    let text = std::iter::once(status.message.as_str()).chain(causes).collect::<Vec<_>>().join(" ");
    match status.code {
        404 | 409 => Answer::Gone,
        429 => Answer::Blocked(text),
        // 500 is the answer where two budgets select one pod.
        503 | 504 => Answer::Unknown(text),
        _ => Answer::Refused(text),
    }
}
