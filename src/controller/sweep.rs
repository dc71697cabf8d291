//! When a set is gone its sidecars run on; only the marks are removed, so that a later set of that name does not take
//! the pods for its own. The pods of a canary become its base's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Patch;
use serde_json::{Value, json};

use super::context::{Context, patch_params};
use super::error::Error;
use crate::api::keys;
use crate::core::pod::{InjectionRecord, PodView};

/// How often marks without a set are looked for.
const EVERY: Duration = Duration::from_secs(10);

/// Pods per live check that no set of that name exists.
const BATCH: usize = 100;

pub(super) async fn run(context: Arc<Context>) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        // Before the first complete list every set would look deleted.
        if !context.is_active_leader() || !context.cache.is_complete() {
            continue;
        }
        let sets = context.state().index.marked_sets();
        for set in sets.into_iter().filter(|set| context.cache.set(set).is_none()) {
            if let Err(error) = sweep(&context, &set).await {
                tracing::warn!(%set, %error, "marks of a deleted set are left for the next sweep");
            }
        }
    }
}

async fn sweep(context: &Arc<Context>, set: &str) -> Result<(), Error> {
    let pods: Vec<Arc<PodView>> =
        context.state().index.pods().filter(|pod| pod.marks.contains_key(set)).take(BATCH).cloned().collect();
    let live = context.sets_api().get_opt(set).await;
    let live = live.map_err(Error::api("get", format!("SidecarSet {set}")))?;
    if live.is_some() {
        return Ok(());
    }
    tracing::info!(set, pods = pods.len(), "removing the marks of a deleted set");
    let patches = pods.into_iter().map(|pod| async move { unmark(context, set, &pod).await });
    let results: Vec<Result<(), Error>> =
        futures::stream::iter(patches).buffer_unordered(context.settings.write_concurrency).collect().await;
    results.into_iter().collect()
}

async fn unmark(context: &Arc<Context>, set: &str, pod: &PodView) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), &pod.key.namespace);
    let base = pod.marks.get(set).and_then(|mark| mark.canary.as_ref()?.base.clone());
    let heir =
        base.filter(|base| context.cache.set(base).is_some_and(|base| base.metadata.deletion_timestamp.is_none()));
    let (params, patch) = (patch_params(), Patch::Merge(marks_removed(set, heir.as_deref(), pod)));
    let call = api.patch(&pod.key.name, &params, &patch);
    match context.write("unmark", || format!("pod {}", pod.key), call).await {
        // Changed or gone meanwhile: the next sweep sees what it is now.
        Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.is_conflict() || status.is_not_found()) => {
            Ok(())
        }
        result => result.map(drop),
    }
}

/// A merge patch that applies only to this version of the pod. `heir`: the set that the sidecars belong to now.
fn marks_removed(set: &str, heir: Option<&str>, pod: &PodView) -> Value {
    let mut labels = BTreeMap::from([(keys::revision_label(set), Value::Null)]);
    let mut annotations =
        BTreeMap::from([keys::injection_annotation(set), keys::update_annotation(set)].map(|key| (key, Value::Null)));
    match (heir, pod.marks.get(set).and_then(|mark| Some((mark, mark.canary.as_ref()?)))) {
        (Some(heir), Some((mark, canary))) => {
            // The record of updates goes, and with it whether all of its resizes were made.
            let open = mark.update.as_ref().is_some_and(|update| !update.resizes.is_empty());
            let hash_without_images = if open { String::new() } else { mark.hash_without_images.clone() };
            let inherited = InjectionRecord { base: None, hash_without_images, ..(**canary).clone() };
            labels.insert(keys::revision_label(heir), json!(mark.revision));
            annotations.insert(keys::injection_annotation(heir), json!(inherited.to_json()));
        }
        _ if pod.marks.len() == 1 => {
            labels.insert(keys::INJECTED.to_owned(), Value::Null);
        }
        _ => {}
    }
    json!({"metadata": {
        "resourceVersion": pod.resource_version.to_string(),
        "labels": labels,
        "annotations": annotations,
    }})
}
