//! Looks for pods without the sidecars of a set that selects them, and keeps what was found for the status.
//!
//! The watch sees injected pods only, so this is a listing: of metadata, in pages, for all sets at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::WARM_UP;
use super::context::{Context, lock};
use super::error::Error;
use crate::api::reasons::reason;
use crate::api::v1beta1::ExistingPods;
use crate::api::{SidecarSet, keys};
use crate::core::inject::{CompiledSets, Request};
use crate::core::pod::PodKey;
use crate::core::replace::uninjected::{Finder, Found, NAMED, inject_anew, obstacle, wants};
use crate::core::status::InjectionState;
use crate::runtime::events::Note;

/// How often pods are listed without a reason.
const EVERY: Duration = Duration::from_mins(1);

/// Shortest time between two listings, whatever the reasons.
const AT_LEAST: Duration = Duration::from_secs(5);

/// A listing is followed by a pause of so many times its own length: at most a twentieth of the time is spent listing,
/// however large the cluster is (100,000 pods are 500 pages).
const PAUSE: u32 = 19;

/// Pods per page. Metadata of one pod is some kilobytes, most of it managed fields: small pages keep the operator small.
const PAGE: u32 = 200;

/// After a registration has changed, apiservers need a moment to follow it; owners need one to replace a pod.
const FOLLOW: Duration = Duration::from_secs(1);

/// Pods that are read in full after one listing, to say why they have no sidecars.
const EXPLAINED: usize = 30;

/// States of the gauge `sidecarset_pods` that come from here.
pub(super) const POD_STATES: [&str; 2] = ["uninjected", "uninjected_older"];

/// What was last found, by set.
#[derive(Debug, Default)]
pub(super) struct Uninjected {
    sets: Mutex<HashMap<String, Known>>,
    look: Notify,
}

#[derive(Debug, Default)]
struct Known {
    found: Arc<Found>,
    /// Where evictions stand, in words.
    evictions: String,
}

impl Uninjected {
    /// What was last found for a set; `None` before the first look, or if nobody wants to know.
    pub(super) fn found(&self, set: &str) -> Option<Arc<Found>> {
        lock(&self.sets).get(set).map(|known| Arc::clone(&known.found))
    }

    /// Notes where evictions stand; true if that is new.
    pub(super) fn note_evictions(&self, set: &str, evictions: String) -> bool {
        let mut sets = lock(&self.sets);
        let Some(known) = sets.get_mut(set) else { return false };
        std::mem::replace(&mut known.evictions, evictions.clone()) != evictions
    }

    /// Asks for a listing soon.
    pub(super) fn look_soon(&self) {
        self.look.notify_one();
    }

    /// An injected pod of these sets is new or has changed: it may replace one that was found without sidecars.
    pub(super) fn expect_fewer<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        let sets = lock(&self.sets);
        if names.into_iter().any(|name| sets.get(name).is_some_and(|known| known.found.pods > 0)) {
            self.look_soon();
        }
    }

    pub(super) fn forget(&self, set: &str) {
        lock(&self.sets).remove(set);
    }
}

pub(super) async fn run(context: Arc<Context>) {
    let mut registered = context.registered.clone();
    loop {
        if !context.may_plan() || !context.cache.is_complete() {
            sleep(WARM_UP).await;
            continue;
        }
        let started = Instant::now();
        // What is registered now is looked at now.
        registered.mark_unchanged();
        if let Err(error) = look(&context).await {
            tracing::warn!(%error, "cannot look for pods without sidecars");
        }
        let pause = AT_LEAST.max(started.elapsed() * PAUSE);
        sleep(pause).await;
        tokio::select! {
            () = sleep(EVERY.saturating_sub(pause)) => {}
            // The pod that is replaced goes a moment after the new one is ready.
            () = context.uninjected.look.notified() => sleep(FOLLOW).await,
            Ok(()) = registered.changed() => sleep(FOLLOW).await,
        }
    }
}

async fn look(context: &Context) -> Result<(), Error> {
    let sets = context.cache.compiled();
    let names = context.cache.names();
    let specs: Vec<Arc<SidecarSet>> = names.iter().filter_map(|name| context.cache.set(name)).collect();
    let mut finder = Finder::new(&sets, specs.iter().map(AsRef::as_ref), &context.excluded);
    if !finder.is_idle() {
        list(context, &mut finder).await?;
    }
    let mut found = finder.finish();
    explain(context, &sets, &mut found).await;
    publish(context, found);
    Ok(())
}

/// One listing, page by page. Without a resourceVersion: with "0" the apiserver ignores the limit and sends all at once.
async fn list(context: &Context, finder: &mut Finder<'_>) -> Result<(), Error> {
    let api: Api<Pod> = Api::all(context.clients.watch.clone());
    let opted_in = format!("{}!=false", keys::INJECT);
    let mut params =
        ListParams::default().labels(&opted_in).fields("status.phase!=Succeeded,status.phase!=Failed").limit(PAGE);
    loop {
        let page = api.list_metadata(&params).await.map_err(|source| Error::Api {
            action: "list",
            object: "pods".to_owned(),
            source: Box::new(source),
        })?;
        for PartialObjectMeta { metadata, .. } in &page.items {
            // A namespace that is not known yet is known at the next look.
            if let Some(labels) = context.namespaces.get(metadata.namespace.as_deref().unwrap_or_default()) {
                finder.look(metadata, &labels);
            }
        }
        let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { return Ok(()) };
        params = params.continue_token(&token);
    }
}

/// Says of a few pods why they would come without the sidecars again.
async fn explain(context: &Context, sets: &CompiledSets, found: &mut BTreeMap<String, Found>) {
    let mut left = EXPLAINED;
    for (set, found) in found {
        for group in found.groups.iter_mut().take(NAMED.min(left)) {
            left -= 1;
            match raw_pod(context, &group.example).await {
                Ok(Some(pod)) => group.why = why(context, sets, set, &pod).unwrap_or_default(),
                Ok(None) => {}
                Err(error) => return tracing::debug!(%error, "pods without sidecars are not explained"),
            }
        }
    }
}

/// Why a pod like this one would come without the sidecars of the set again; `None` if it would have them.
pub(super) fn why(context: &Context, sets: &CompiledSets, set: &str, pod: &Value) -> Option<String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let Some(namespace_labels) = context.namespaces.get(namespace) else {
        return Some(format!("namespace {namespace} is not known yet"));
    };
    let request = Request { pod, namespace, namespace_labels: &namespace_labels, excluded: &context.excluded };
    obstacle(&inject_anew(sets, &request), set)
}

/// A pod as the webhook would see it, every field included.
pub(super) async fn raw_pod(context: &Context, key: &PodKey) -> Result<Option<Value>, Error> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.clients.call.clone(), &key.namespace, &resource);
    let error = |source| Error::Api { action: "get", object: format!("pod {key}"), source: Box::new(source) };
    let pod = api.get_opt(&key.name).await.map_err(error)?;
    Ok(pod.and_then(|pod| serde_json::to_value(pod).ok()))
}

/// Keeps what was found, and tells those who wait for it.
fn publish(context: &Context, found: BTreeMap<String, Found>) {
    let mut news = Vec::new();
    {
        let mut sets = lock(&context.uninjected.sets);
        let gone: Vec<String> = sets.keys().filter(|set| !found.contains_key(*set)).cloned().collect();
        for set in gone {
            sets.remove(&set);
            context.metrics.forget_pods(&set, &POD_STATES);
            news.push(set);
        }
        for (set, found) in found {
            for (state, count) in POD_STATES.into_iter().zip([found.pods, found.older]) {
                context.metrics.set_pods(&set, state, i64::try_from(count).unwrap_or(i64::MAX));
            }
            let before = sets.get(&set).map(|known| known.found.pods);
            tell(context, &set, before, &found);
            let known = sets.entry(set.clone()).or_default();
            if before.is_none() || *known.found != found {
                known.found = Arc::new(found);
                news.push(set);
            }
        }
    }
    context.dirty.mark(news);
}

/// An event when there are uninjected pods and were none. Before this replica's first look the status says how many.
fn tell(context: &Context, name: &str, before: Option<usize>, found: &Found) {
    let Some(set) = context.cache.set(name) else { return };
    let reported = || set.status.as_ref().and_then(|status| status.uninjected_pods).is_some_and(|pods| pods > 0);
    if found.pods == 0 || before.map_or_else(reported, |before| before > 0) {
        return;
    }
    tracing::info!(set = name, pods = found.pods, older = found.older, "pods without sidecars");
    context.events.publish(Note {
        about: set.object_ref(&()),
        related: None,
        warning: true,
        reason: reason::UNINJECTED_PODS.to_owned(),
        action: "List",
        message: found.summary(),
    });
}

/// The state of injection, with the pods that it has missed.
pub(super) fn noted(context: &Context, set: &SidecarSet, injection: InjectionState) -> InjectionState {
    if !wants(set) {
        return injection;
    }
    let sets = lock(&context.uninjected.sets);
    let Some(Known { found, evictions }) = sets.get(&set.name_any()) else {
        // Not looked yet: the last number stands.
        let uninjected = set.status.as_ref().and_then(|status| status.uninjected_pods);
        return InjectionState { uninjected, ..injection };
    };
    let advice = match set.spec.injection_strategy.existing_pods {
        ExistingPods::Report if found.pods > 0 => {
            "restart their workloads, or set injectionStrategy.existingPods to Evict"
        }
        _ => "",
    };
    let parts = [found.summary().as_str(), evictions, advice].map(str::to_owned);
    let uninjected_message = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    InjectionState { uninjected: Some(i32::try_from(found.pods).unwrap_or(i32::MAX)), uninjected_message, ..injection }
}
