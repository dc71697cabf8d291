//! Owners that cannot create their pods with the sidecars of a set: seen by their events `FailedCreate`, kept in the status of
//! the set. This task is the only writer of these lists.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ObjectReference, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt, discovery};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::context::{Context, Error, NOT_LEADER, now};
use super::tenants;
use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::api::v1beta1::{FailedCreate, FailedOwner, FailurePolicy};
use crate::core::base::text::bounded;
use crate::core::base::time::whole_seconds;
use crate::core::inject::Request;
use crate::core::inject::blame::{Blame, try_pod};
use crate::core::inject::failed_creates::{
    failed_owner, has_fixed_template, lacks_pods, listed, pod_of, said, tells_of, tells_of_owner, wants_pods,
    with_entry,
};
use crate::runtime::call::CallError;
use crate::runtime::events::Note;

/// How often lists are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// An owner whose pods fail is read at most this often: its controller tries several times a second at first.
const LOOK: Duration = Duration::from_secs(1);

/// How often an owner in a list is read, whose template may change; and one whose template cannot, to see whether it is there.
const READ_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(1));

/// Owners of lists that are read at a time.
const READ: usize = 20;

/// Owners that are remembered; the rest is read again.
const KEPT: usize = 10_000;

/// A controller waits this long at most before it tries again, and a bit.
const LONGEST_BACKOFF: Duration = Duration::from_mins(20);

/// An event, as far as it is needed.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Event)]
#[serde(rename_all = "camelCase")]
struct SlimEvent {
    metadata: kube::core::ObjectMeta,
    involved_object: ObjectReference,
    #[serde(default)]
    message: String,
    last_timestamp: Option<Time>,
    event_time: Option<MicroTime>,
    series: Option<Series>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    last_observed_time: Option<MicroTime>,
}

impl SlimEvent {
    /// When it happened last.
    fn at(&self) -> Option<k8s_openapi::jiff::Timestamp> {
        let series = self.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let exact = series.or(self.event_time.as_ref()).map(|time| time.0);
        exact.max(self.last_timestamp.as_ref().map(|time| time.0))
    }
}

/// What is remembered while this replica leads.
#[derive(Default)]
struct Memory {
    /// When an owner was read last because of an event, and because it is in a list, by UID.
    looked: HashMap<String, Instant>,
    read: HashMap<String, Instant>,
}

pub(super) async fn run(context: Arc<Context>) {
    loop {
        match context.writer.term().filter(|_| context.cache.is_complete()) {
            Some(term) => lead(&context, term).await,
            None => sleep(NOT_LEADER).await,
        }
    }
}

/// Until this replica leads no more. Events of the last hour are listed at first, page by page.
async fn lead(context: &Context, term: u64) {
    let api: Api<SlimEvent> = Api::all(context.clients.watch.clone());
    let config = watcher::Config::default().fields("reason=FailedCreate");
    let mut events = std::pin::pin!(watch(api, config).default_backoff());
    let mut memory = Memory::default();
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while context.writer.term() == Some(term) {
        let answer = tokio::select! {
            _ = every.tick() => look_after(context, &mut memory).await,
            event = events.next() => match event {
                Some(Ok(Event::InitApply(event) | Event::Apply(event))) => on_event(context, &mut memory, event).await,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the watch of events is interrupted and tried again");
                    Ok(())
                }
                Some(Ok(_)) | None => Ok(()),
            },
        };
        if let Err(error) = answer {
            tracing::warn!(%error, "an owner that cannot create pods is left for the next event");
        }
    }
}

/// Finds out whether a set is to blame.
async fn on_event(context: &Context, memory: &mut Memory, event: SlimEvent) -> Result<(), Error> {
    let reference = &event.involved_object;
    let (Some(uid), Some(attempt)) = (&reference.uid, event.at()) else { return Ok(()) };
    if memory.looked.get(uid).is_some_and(|at| at.elapsed() < LOOK) {
        return Ok(());
    }
    if memory.looked.len() >= KEPT {
        memory.looked.clear();
    }
    memory.looked.insert(uid.clone(), Instant::now());
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let Some(namespace_labels) = context.cache.namespaces.get(namespace) else { return Ok(()) };
    let Some(owner) = read(context, reference).await? else { return Ok(()) };
    let kind = reference.kind.as_deref().unwrap_or_default();
    let tells = has_fixed_template(kind) || tells_of_owner(&owner.metadata, attempt);
    let owner = json!(owner);
    // It may be an event of an hour ago, which is over.
    let Some(pod) = pod_of(&owner).filter(|_| tells && lacks_pods(&owner)) else { return Ok(()) };
    let sets = context.cache.compiled();
    let excluded = &context.settings.excluded;
    let request = Request { pod: &pod, namespace, namespace_labels: &namespace_labels, excluded };
    let trial = try_pod(&sets, &request);
    let known = |name: &String| context.cache.set(name);
    if !trial.sets().all(|name| known(name).is_some_and(|set| tells_of(&set, attempt))) {
        return Ok(());
    }
    let exact = if trial.is_decided() { None } else { tenants::blame(context, &sets, &trial, &request).await };
    let Blame::Sets(blamed) = exact.unwrap_or_else(|| trial.blame(&event.message)) else { return Ok(()) };
    let labels = serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
    for set in blamed.iter().filter_map(known) {
        let Some(compiled) = sets.get(&set.name_any()) else { continue };
        let revision = compiled.revision_for(&labels).unwrap_or_default().to_owned();
        let entry = FailedCreate {
            namespace: namespace.to_owned(),
            owner: Some(failed_owner(&owner)),
            revision,
            message: bounded(said(&event.message).to_owned()),
            at: Time(whole_seconds(now())),
        };
        record(context, &set, entry).await?;
    }
    Ok(())
}

/// Writes an entry, and tells of it.
async fn record(context: &Context, set: &SidecarSet, entry: FailedCreate) -> Result<(), Error> {
    let name = set.name_any();
    // The cache may lag behind what the leader before has written.
    let Some(live) = context.live_set(&name).await?.filter(|live| live.uid() == set.uid()) else { return Ok(()) };
    let Some(list) = with_entry(listed(&live), &entry) else { return Ok(()) };
    save(context, &live, &list).await?;
    let FailedCreate { namespace, owner, message, .. } = entry;
    let Some(FailedOwner { kind, name: owner, .. }) = owner else { return Ok(()) };
    tracing::info!(set = name, owner = %format!("{kind} {namespace}/{owner}"), message, "pods cannot be created");
    let effect = match set.spec.injection_strategy.failure_policy {
        FailurePolicy::Ignore => "they are created without",
        FailurePolicy::Fail => "they are not created",
    };
    let text = format!("pods of {kind} {namespace}/{owner} cannot have the sidecars, {effect}: {message}");
    context.events.publish(Note::new(set.object_ref(&()), Reason::PodsNotCreated, "Inject", text));
    Ok(())
}

async fn save(context: &Context, set: &SidecarSet, list: &[FailedCreate]) -> Result<(), Error> {
    let name = set.name_any();
    let list = Some(list).filter(|list| !list.is_empty());
    // The UID: not into the status of a later set of that name.
    let patch = json!({"metadata": {"uid": set.uid()}, "status": {"failedCreates": list}});
    context.patch_status(&name, patch).await?;
    context.enqueue([name]);
    // Pods that come without sidecars for this reason are not counted as uninjected.
    context.shared.look.notify_one();
    Ok(())
}

/// Ends entries that do not hold any more.
async fn look_after(context: &Context, memory: &mut Memory) -> Result<(), Error> {
    let mut left = READ;
    let mut named = BTreeSet::new();
    for set in context.cache.names().iter().filter_map(|name| context.cache.set(name)) {
        let Some(compiled) = context.cache.compiled_set(&set.name_any()).filter(|_| !listed(&set).is_empty()) else {
            continue;
        };
        let mut kept = Vec::new();
        for entry in listed(&set) {
            named.extend(entry.owner.as_ref().map(|owner| owner.uid.clone()));
            let holds = compiled.gives(&entry.revision) && still_fails(context, memory, &set, entry, &mut left).await;
            kept.extend(holds.then(|| entry.clone()));
        }
        if kept.len() < listed(&set).len() {
            save(context, &set, &kept).await?;
        }
    }
    memory.read.retain(|uid, _| named.contains(uid));
    Ok(())
}

/// Whether an entry holds for its owner as it is now, or as long as that is not known.
async fn still_fails(
    context: &Context,
    memory: &mut Memory,
    set: &SidecarSet,
    entry: &FailedCreate,
    left: &mut usize,
) -> bool {
    let only_tells = set.spec.injection_strategy.failure_policy == FailurePolicy::Fail;
    let Some(owner) = &entry.owner else {
        let age = Duration::try_from(now().duration_since(entry.at.0)).unwrap_or_default();
        let is_old = only_tells && age > LONGEST_BACKOFF;
        return !is_old && context.cache.namespaces.get(&entry.namespace).is_some();
    };
    let (often, seldom) = READ_AGAIN;
    let again = if has_fixed_template(&owner.kind) && !only_tells { seldom } else { often };
    let is_fresh = memory.read.get(&owner.uid).is_some_and(|at| at.elapsed() < again);
    if is_fresh || *left == 0 {
        return true;
    }
    *left -= 1;
    memory.read.insert(owner.uid.clone(), Instant::now());
    let reference = ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        uid: Some(owner.uid.clone()),
        namespace: Some(entry.namespace.clone()),
        ..ObjectReference::default()
    };
    match read(context, &reference).await {
        Ok(Some(object)) => {
            let object = json!(object);
            let is_same = failed_owner(&object).template_hash == owner.template_hash;
            is_same && wants_pods(&object) && (!only_tells || lacks_pods(&object))
        }
        Ok(None) => false,
        Err(error) => {
            tracing::debug!(%error, "an owner is not read");
            true
        }
    }
}

/// The object, if it is that very one; `None` also for a kind that may not be read.
async fn read(context: &Context, reference: &ObjectReference) -> Result<Option<DynamicObject>, CallError> {
    let (Some(version), Some(kind)) = (&reference.api_version, &reference.kind) else { return Ok(None) };
    let known = [
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<DaemonSet>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<ReplicationController>(&()),
    ];
    let client = &context.clients.call;
    let resource = match known.into_iter().find(|known| known.api_version == *version && known.kind == *kind) {
        Some(known) => known,
        None => match discovery::pinned_kind(client, &gvk(version, kind)).await {
            Ok((resource, _)) => resource,
            Err(error) => {
                tracing::debug!(%error, version, kind, "a kind of owners is not known");
                return Ok(None);
            }
        },
    };
    let (namespace, name) = (reference.namespace.as_deref(), reference.name.as_deref().unwrap_or_default());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace.unwrap_or_default(), &resource);
    let object = match api.get_opt(name).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => None,
        answer => answer.map_err(CallError::api("get", format!("{kind} {}/{name}", namespace.unwrap_or_default())))?,
    };
    let is_same =
        |object: &DynamicObject| object.metadata.uid == reference.uid && object.metadata.deletion_timestamp.is_none();
    Ok(object.filter(is_same))
}

fn gvk(version: &str, kind: &str) -> GroupVersionKind {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    GroupVersionKind::gvk(group, version, kind)
}
