//! Sends the planned requests: concurrently, each only while this replica leads and the set still wants it.

use std::sync::Arc;

use futures::StreamExt;
use kube::Api;
use kube::api::Patch;

use super::context::{Context, lock, now, patch_params};
use super::error::Error;
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::upgrade::answer::{Answer, answer};
use crate::core::upgrade::patch::PodPatch;

/// What became of one request; also its metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Patched,
    /// The set changed or the lease was lost: not sent.
    Withdrawn,
    /// A `test` failed or the pod is gone: it was looked at again.
    Stale,
    /// The apiserver refused it for good.
    Refused,
    /// No answer, or one that says nothing about the pod.
    Unknown,
}

/// Sends the requests, and returns how many pods were patched. `wanted` is asked before each: a pause stops what has not been sent yet.
pub(super) async fn apply(
    context: &Arc<Context>,
    set: &str,
    patches: Vec<PodPatch>,
    wanted: impl Fn() -> bool + Copy,
) -> Result<usize, Error> {
    let requests = patches.into_iter().map(|patch| async move {
        // Shared by all sets; the time of a request begins when it may be sent.
        let _permit = context.writes.acquire().await;
        if !wanted() || !context.may_plan() {
            return Outcome::Withdrawn;
        }
        let outcome = send(context, set, &patch).await;
        context.metrics.pod_patch(set, label(outcome));
        outcome
    });
    let outcomes: Vec<Outcome> =
        futures::stream::iter(requests).buffer_unordered(context.write_concurrency).collect().await;
    if outcomes.contains(&Outcome::Withdrawn) && !context.may_plan() {
        return Err(Error::NotLeader);
    }
    settle(context, set).await?;
    Ok(outcomes.iter().filter(|outcome| **outcome == Outcome::Patched).count())
}

/// Looks at the pods whose last request has an unknown outcome. Nothing is planned while one of them cannot be read: it
/// may hold a slot that nobody counts.
pub(super) async fn settle(context: &Arc<Context>, set: &str) -> Result<(), Error> {
    let open: Vec<PodKey> = lock(&context.uncertain).get(set).into_iter().flatten().cloned().collect();
    let looks = open.into_iter().map(|key| async move { look_again(context, set, &key).await });
    let failed = futures::stream::iter(looks)
        .buffer_unordered(context.write_concurrency)
        .filter(|known| futures::future::ready(!known))
        .count()
        .await;
    if failed > 0 { Err(Error::Uncertain(failed)) } else { Ok(()) }
}

async fn send(context: &Arc<Context>, set: &str, request: &PodPatch) -> Outcome {
    let PodPatch { key, uid: _, patch } = request;
    let api: Api<SlimPod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    let (params, patch) = (patch_params(), Patch::Json::<()>(patch.clone()));
    let result = context.write("patch", || format!("pod {key}"), api.patch(&key.name, &params, &patch)).await;
    match result {
        Ok(pod) => {
            context.index().apply_answer(PodView::new(pod), now());
            return Outcome::Patched;
        }
        Err(Error::NotLeader) => return Outcome::Withdrawn,
        Err(Error::Api { source, .. }) => match verdict(&source) {
            Answer::LookAgain => {
                uncertain(context, set, key);
                look_again(context, set, key).await;
                return Outcome::Stale;
            }
            Answer::Refused(message) => {
                tracing::warn!(pod = %key, message, "the apiserver refuses to patch a pod");
                refuse(context, set, key, message);
                return Outcome::Refused;
            }
            Answer::Unknown => doubtful(context, set, key, &source.to_string()).await,
        },
        Err(error) => doubtful(context, set, key, &error.to_string()).await,
    }
    Outcome::Unknown
}

/// The request may or may not have been carried out. If the pod is as it was, others go first for a while.
async fn doubtful(context: &Arc<Context>, set: &str, key: &PodKey, error: &str) {
    tracing::warn!(pod = %key, error, "a pod's patch has an unknown outcome");
    uncertain(context, set, key);
    let before = context.index().version(key);
    if look_again(context, set, key).await {
        context.index().unanswered(set, key, before, error, now());
    }
}

fn uncertain(context: &Context, set: &str, key: &PodKey) {
    lock(&context.uncertain).entry(set.to_owned()).or_default().insert(key.clone());
}

/// Reads a pod afresh; false if that failed.
async fn look_again(context: &Context, set: &str, key: &PodKey) -> bool {
    let api: Api<SlimPod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    match api.get_opt(&key.name).await {
        Ok(Some(pod)) => {
            context.index().apply_answer(PodView::new(pod), now());
        }
        Ok(None) => {
            let mut index = context.index();
            if let Some(pod) = index.get(key) {
                index.remove(key, &pod.uid, now());
            }
        }
        Err(error) => {
            tracing::warn!(pod = %key, %error, "cannot read a pod");
            return false;
        }
    }
    if let Some(open) = lock(&context.uncertain).get_mut(set) {
        open.remove(key);
    }
    true
}

fn refuse(context: &Context, set: &str, key: &PodKey, message: String) {
    let mut index = context.index();
    if let Some(pod) = index.get(key) {
        index.refuse(set, &pod, message, None, now());
    }
}

fn verdict(error: &kube::Error) -> Answer {
    let kube::Error::Api(status) = error else { return Answer::Unknown };
    answer(status)
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Patched => "ok",
        Outcome::Withdrawn => "withdrawn",
        Outcome::Stale => "conflict",
        Outcome::Refused => "refused",
        Outcome::Unknown => "unknown",
    }
}
