//! Looks for pods without the sidecars of a set that selects them, and keeps what was found for the status.
//!
//! The watch sees injected pods only, so this is a listing: of metadata, in pages, for all sets at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::{Api, Resource};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::context::{Context, NOT_LEADER};
use crate::api::reasons::Reason;
use crate::api::{SidecarSet, keys};
use crate::core::inject::{CompiledSet, CompiledSets, Request};
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::replace::report::NAMED;
use crate::core::replace::uninjected::{Finder, Found, inject_anew, obstacle};
use crate::runtime::call::CallError;
use crate::runtime::events::Note;
use crate::runtime::pages::{self, Pages};

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

/// An injected pod of these sets is new or has changed: it may replace one that was found without sidecars.
pub(super) fn expect_fewer(context: &Context, sets: &[String]) {
    let state = context.state();
    let has_some = |name: &String| state.set(name)?.uninjected.as_ref().map(|found| found.pods > 0);
    if sets.iter().any(|name| has_some(name) == Some(true)) {
        context.shared.look.notify_one();
    }
}

pub(super) async fn run(context: Arc<Context>) {
    let mut registered = context.cache.registered.clone();
    loop {
        if !context.is_active_leader() || !context.cache.is_complete() {
            sleep(NOT_LEADER).await;
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
            () = context.shared.look.notified() => sleep(FOLLOW).await,
            Ok(()) = registered.changed() => sleep(FOLLOW).await,
        }
    }
}

async fn look(context: &Context) -> Result<(), CallError> {
    let sets = context.cache.compiled();
    let names = context.cache.names();
    let specs: Vec<Arc<SidecarSet>> = names.iter().filter_map(|name| context.cache.set(name)).collect();
    let mut finder = Finder::new(&sets, specs.iter().map(AsRef::as_ref), &context.settings.excluded);
    if !finder.is_idle() {
        list(context, &mut finder).await?;
    }
    let mut found = finder.finish();
    explain(context, &sets, &mut found).await;
    publish(context, found);
    Ok(())
}

async fn list(context: &Context, finder: &mut Finder<'_>) -> Result<(), CallError> {
    let api: &Api<Pod> = &Api::all(context.clients.watch.clone());
    let params = ListParams::default()
        .labels(&format!("{}!=false", keys::INJECT))
        .fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut pages = Pages::new(params, PAGE);
    while let Some(page) = pages
        .next(|params| async move { api.list_metadata(&params).await })
        .await
        .map_err(CallError::api("list", "pods"))?
    {
        for PartialObjectMeta { metadata, .. } in page {
            // A namespace that is not known yet is known at the next look.
            if let Some(labels) = context.cache.namespaces.get(metadata.namespace.as_deref().unwrap_or_default()) {
                finder.look(&metadata, &labels);
            }
        }
    }
    Ok(())
}

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
    let Some(namespace_labels) = context.cache.namespaces.get(namespace) else {
        return Some(format!("namespace {namespace} is not known yet"));
    };
    let request = Request { pod, namespace, namespace_labels: &namespace_labels, excluded: &context.settings.excluded };
    obstacle(&inject_anew(sets, &request), set)
}

/// A pod as the webhook would see it, every field included.
pub(super) async fn raw_pod(context: &Context, key: &PodKey) -> Result<Option<Value>, CallError> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.clients.call.clone(), &key.namespace, &resource);
    let pod = api.get_opt(&key.name).await.map_err(CallError::api("get", format!("pod {key}")))?;
    Ok(pod.and_then(|pod| serde_json::to_value(pod).ok()))
}

/// The pods of a namespace that the set selects and the watch of pods does not see.
pub(super) async fn uninjected_pods(
    context: &Context,
    set: &CompiledSet,
    namespace: &str,
) -> Result<Vec<PodView>, CallError> {
    let api: &Api<SlimPod> = &Api::namespaced(context.clients.call.clone(), namespace);
    let selector: kube::core::Selector = set.selector.requirements().iter().cloned().collect();
    let selector = format!("{selector},{}!=true", keys::INJECTED);
    let params = ListParams::default().labels(selector.trim_start_matches(','));
    let mut pages = Pages::new(params, pages::PAGE);
    let failed = || CallError::api("list", format!("pods in {namespace}"));
    let mut pods = Vec::new();
    while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await.map_err(failed())? {
        pods.extend(page.into_iter().map(PodView::new));
    }
    Ok(pods)
}

/// Keeps what was found, and has the sets reconciled for which it is new.
fn publish(context: &Context, found: BTreeMap<String, Found>) {
    let mut changed = context.state().forget_uninjected(|set| !found.contains_key(set));
    for set in &changed {
        context.metrics.forget_pods(set, &POD_STATES);
    }
    for (set, found) in found {
        for (state, count) in POD_STATES.into_iter().zip([found.pods, found.older]) {
            context.metrics.set_pods(&set, state, i64::try_from(count).unwrap_or(i64::MAX));
        }
        let found = Arc::new(found);
        let before = context.state().set_mut(&set).uninjected.replace(Arc::clone(&found));
        tell(context, &set, before.as_ref().map(|before| before.pods), &found);
        if before.as_ref() != Some(&found) {
            changed.push(set);
        }
    }
    context.enqueue(changed);
}

/// An event when there are uninjected pods and were none. Before this replica's first look the status says how many.
fn tell(context: &Context, name: &str, before: Option<usize>, found: &Found) {
    let Some(set) = context.cache.set(name) else { return };
    let reported = || set.status.as_ref().and_then(|status| status.uninjected_pods).is_some_and(|pods| pods > 0);
    if found.pods == 0 || before.map_or_else(reported, |before| before > 0) {
        return;
    }
    tracing::info!(set = name, pods = found.pods, older = found.older, "pods without sidecars");
    context.events.publish(Note::new(set.object_ref(&()), Reason::UninjectedPods, "List", found.summary()));
}
