//! Sends the planned requests: concurrently, each only while this replica leads and the set still wants it.

use futures::StreamExt;
use json_patch::Patch as Operations;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{GetParams, Patch};
use tokio::time::Instant;

use super::context::{Context, Error, WRITE_TIMEOUT, now, patch_params};
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::rollout::request::PodPatch;
use crate::core::rollout::request::answer::{PatchAnswer, answer};
use crate::core::round::{Answers, Planned};
use crate::runtime::call::{CallError, Cause, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Patched,
    /// The set changed, the lease was lost, or the plan has grown old: not sent.
    Withdrawn,
    /// A `test` failed or the pod is gone: it was looked at again.
    Stale,
    /// The apiserver refused it for good.
    Refused,
    /// No answer, or one that says nothing about the pod.
    Unknown,
}

impl Sent {
    fn label(self) -> &'static str {
        match self {
            Self::Patched => "ok",
            Self::Withdrawn => "withdrawn",
            Self::Stale => "conflict",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

pub(super) async fn apply(context: &Context, planned: &mut Planned) -> Result<Answers, Error> {
    let requests = planned.take_requests();
    let planned = &*planned;
    let set = &planned.rollout.target.set;
    let planned_at = Instant::now();
    let requests = requests.into_iter().map(|patch| async move {
        // Shared by all sets; the time of a request begins when it may be sent.
        let _permit = context.writer.permits.acquire().await;
        let may_send = planned.may_send(context.cache.set(set).as_deref(), planned_at.elapsed());
        if !may_send || !context.is_active_leader() {
            return Sent::Withdrawn;
        }
        let outcome = send(context, set, &patch).await;
        context.metrics.pod_patch(set, outcome.label());
        outcome
    });
    let outcomes: Vec<Sent> =
        futures::stream::iter(requests).buffer_unordered(context.settings.write_concurrency).collect().await;
    if outcomes.contains(&Sent::Withdrawn) && !context.is_active_leader() {
        return Err(Error::NotLeader);
    }
    let patched = outcomes.iter().filter(|outcome| **outcome == Sent::Patched).count();
    Ok(Answers { patched, unconfirmed: confirm(context, set).await })
}

/// Looks at the pods whose last request has an unknown outcome. Returns how many of them cannot be read.
pub(super) async fn confirm(context: &Context, set: &str) -> usize {
    let open: Vec<PodKey> = context.state().set_mut(set).unconfirmed.iter().cloned().collect();
    let looks = open.into_iter().map(|key| async move { look_again(context, set, &key).await });
    let known = futures::stream::iter(looks).buffer_unordered(context.settings.write_concurrency);
    known.filter(|known| futures::future::ready(!known)).count().await
}

async fn send(context: &Context, set: &str, request: &PodPatch) -> Sent {
    let PodPatch { key, .. } = request;
    let Some(patch) = complete(context, request).await else {
        check(context, set, key).await;
        return Sent::Stale;
    };
    let api: Api<SlimPod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    let (params, patch) = (patch_params(), Patch::Json::<()>(patch));
    let before = context.state().index.get(key).map_or(0, |pod| pod.resource_version);
    let result = if request.resizes {
        let call = api.patch_subresource("resize", &key.name, &params, &patch);
        context.write("resize", || format!("pod {key}"), call).await
    } else {
        context.write("patch", || format!("pod {key}"), api.patch(&key.name, &params, &patch)).await
    };
    match result {
        Ok(pod) => answered(context, set, request, before, PodView::new(pod)),
        Err(CallError { cause: Cause::NotLeader, .. }) => Sent::Withdrawn,
        Err(CallError { cause, .. }) => match cause.status().map_or(PatchAnswer::Unknown, answer) {
            PatchAnswer::LookAgain => {
                check(context, set, key).await;
                Sent::Stale
            }
            PatchAnswer::Refused(message) => {
                tracing::warn!(pod = %key, message, "the apiserver refuses to patch a pod");
                refuse(context, set, key, message);
                Sent::Refused
            }
            PatchAnswer::Unknown => {
                // It may or may not have been carried out.
                tracing::warn!(pod = %key, error = %cause, "a pod's patch has an unknown outcome");
                context.state().index.unanswered(set, key, &cause.to_string(), now());
                check(context, set, key).await;
                Sent::Unknown
            }
        },
    }
}

/// The operations to send. Metadata is completed from the pod as it is now; `None` if it cannot be read, or has changed
/// under the plan.
async fn complete(context: &Context, request: &PodPatch) -> Option<Operations> {
    let PodPatch { key, patch, metadata, .. } = request;
    let Some(change) = metadata else { return Some(patch.clone()) };
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    // From the apiserver's cache: the patch tests what was read.
    let cached = GetParams::any();
    let read = until(Instant::now() + WRITE_TIMEOUT, api.get_metadata_with(&key.name, &cached)).await;
    let read = read.inspect_err(|error| tracing::debug!(pod = %key, %error, "cannot read a pod's metadata")).ok()?;
    let live = serde_json::to_value(read.metadata).ok()?;
    change.complete(patch, &live, &context.cache.compiled())
}

/// The apiserver accepted the request for a pod that was known in version `before`. Resources that a webhook put back at once would be asked for without end.
fn answered(context: &Context, set: &str, request: &PodPatch, before: u64, pod: PodView) -> Sent {
    let (key, version) = (&request.key, pod.resource_version);
    context.state().index.apply_answer(pod, now());
    if request.resizes && version <= before {
        let message = "the apiserver accepted new resources and did not set them".to_owned();
        refuse(context, set, key, message);
        return Sent::Refused;
    }
    Sent::Patched
}

/// Reads a pod whose request may have changed it; it is unconfirmed until that works.
async fn check(context: &Context, set: &str, key: &PodKey) {
    context.state().set_mut(set).unconfirmed.insert(key.clone());
    look_again(context, set, key).await;
}

/// Reads a pod afresh; false if that failed.
async fn look_again(context: &Context, set: &str, key: &PodKey) -> bool {
    let api: Api<SlimPod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    match api.get_opt(&key.name).await {
        Ok(Some(pod)) => _ = context.state().index.apply_answer(PodView::new(pod), now()),
        Ok(None) => {
            let index = &mut context.state().index;
            if let Some(pod) = index.get(key) {
                index.remove(key, &pod.uid, now());
            }
        }
        Err(error) => {
            tracing::warn!(pod = %key, %error, "cannot read a pod");
            return false;
        }
    }
    context.state().set_mut(set).unconfirmed.remove(key);
    true
}

fn refuse(context: &Context, set: &str, key: &PodKey, message: String) {
    let index = &mut context.state().index;
    if let Some(pod) = index.get(key) {
        index.refuse(set, &pod, message, None, now());
    }
}
