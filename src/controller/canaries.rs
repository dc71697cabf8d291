//! The pods of a deleted canary become its base's. The marks of every other deleted set stay: a set of that name that
//! comes again adopts its pods.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use serde_json::{Value, json};

use super::context::Context;
use crate::api::keys;
use crate::core::pod::{InjectionRecord, PodView};
use crate::runtime::call::CallError;

const EVERY: Duration = Duration::from_secs(10);

/// Pods per live check that the canary does not exist.
const BATCH: usize = 100;

/// A pod of a deleted canary, and the base that it passes to.
type Left = (Arc<PodView>, String);

pub(super) async fn run(context: Arc<Context>) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        // Before the first complete list every set would look deleted.
        if !context.is_active_leader() || !context.cache.is_complete() {
            continue;
        }
        for (canary, pods) in left_behind(&context) {
            if let Err(error) = pass_to_base(&context, &canary, &pods).await {
                tracing::warn!(%canary, %error, "pods of a deleted canary do not belong to its base yet");
            }
        }
    }
}

/// The pods of deleted canaries whose base exists, by canary.
fn left_behind(context: &Context) -> Vec<(String, Vec<Left>)> {
    let marked: Vec<String> = context.state().index.pods.marked_sets().cloned().collect();
    let gone = marked.into_iter().filter(|set| context.cache.set(set).is_none());
    let with_pods = gone.map(|canary| {
        let left = |pod: &Arc<PodView>| Some((Arc::clone(pod), base_of(pod, &canary)?));
        let mut pods: Vec<Left> = context.state().index.pods().filter_map(left).collect();
        pods.retain(|(_, base)| lives(context, base));
        (canary, pods)
    });
    with_pods.collect()
}

fn base_of(pod: &PodView, canary: &str) -> Option<String> {
    pod.marks.get(canary)?.canary.as_ref()?.base.clone()
}

fn lives(context: &Context, set: &str) -> bool {
    context.cache.set(set).is_some_and(|set| set.metadata.deletion_timestamp.is_none())
}

async fn pass_to_base(context: &Context, canary: &str, pods: &[Left]) -> Result<(), CallError> {
    let mut result = Ok(());
    for batch in pods.chunks(BATCH) {
        if context.live_set(canary).await?.is_some() {
            return Ok(());
        }
        tracing::info!(canary, pods = batch.len(), "pods of a deleted canary pass to its base");
        let patches = batch.iter().cloned().map(|(pod, base)| async move {
            let Some(marks) = marks_of_base(canary, &base, &pod) else { return Ok(()) };
            context.patch_metadata("mark", &pod.key, marks).await
        });
        let answers = futures::stream::iter(patches).buffer_unordered(context.settings.write_concurrency);
        // Changed or gone meanwhile: the next look sees what it is now. One that cannot be patched does not keep the
        // others from it.
        let answers = answers.filter(|answer| ready(!answer.as_ref().is_err_and(CallError::is_stale)));
        result = answers.fold(result, |result, answer| ready(result.and(answer))).await;
    }
    result
}

/// Metadata of a merge patch that applies only to this version of the pod.
fn marks_of_base(canary: &str, base: &str, pod: &PodView) -> Option<Value> {
    let mark = pod.marks.get(canary)?;
    // The record of updates goes, and with it whether all of its resizes were made.
    let open = mark.update.as_ref().is_some_and(|update| !update.resizes.is_empty());
    let hash_without_images = if open { String::new() } else { mark.hash_without_images.clone() };
    let injection = InjectionRecord { base: None, hash_without_images, ..mark.canary.as_deref()?.clone() };
    Some(json!({
        "resourceVersion": pod.resource_version.to_string(),
        "labels": {
            (keys::revision_label(canary)): null,
            (keys::revision_label(base)): mark.revision,
        },
        "annotations": {
            (keys::injection_annotation(canary)): null,
            (keys::update_annotation(canary)): null,
            (keys::injection_annotation(base)): injection.to_json(),
        },
    }))
}
