//! Pods that the watch of injected pods does not tell of: gone, or without the label that it selects by.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::ListParams;
use kube::{Api, Resource};

use super::context::{Context, now, patch_params};
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::rollout::request::answer::{Lost, lost};
use crate::runtime::events::Note;

/// Wait before a pod that left the watch is looked at once more.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Pods without our label that carry the mark of a set: somebody took it away. Usually there are none.
pub(super) async fn unlabelled(context: &Context) -> Result<Vec<PodView>, kube::Error> {
    let api: &Api<SlimPod> = &Api::all(context.clients.watch.clone());
    let lists = context.cache.names().into_iter().map(|set| async move {
        let selector = format!("{},{}!=true", keys::revision_label(&set), keys::INJECTED);
        api.list(&ListParams::default().labels(&selector)).await
    });
    let lists = futures::stream::iter(lists).buffer_unordered(context.settings.write_concurrency);
    let pods: Vec<_> = lists.try_collect().await?;
    Ok(pods.into_iter().flatten().map(PodView::new).collect())
}

/// Looks for pods that lost their label while the watch was broken, which it never tells of.
pub(super) fn search(context: &Arc<Context>) {
    let context = Arc::clone(context);
    tokio::spawn(async move {
        // A new leader searches by itself.
        while context.is_active_leader() {
            match unlabelled(&context).await {
                Ok(pods) => return pods.iter().for_each(|pod| vanished(&context, &pod.key, &pod.uid, false)),
                Err(error) => tracing::warn!(%error, "cannot tell whether pods have lost their label"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
}

/// A selector watch reports a pod as deleted also when it merely loses the label. Its slot is freed only when it is
/// certain that it is gone.
pub(super) fn vanished(context: &Arc<Context>, key: &PodKey, uid: &str, certain: bool) {
    if certain {
        let sets = context.state().index.remove(key, uid, now());
        context.enqueue(sets);
        return;
    }
    let (context, key, uid) = (Arc::clone(context), key.clone(), uid.to_owned());
    tokio::spawn(async move {
        let api: Api<SlimPod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
        loop {
            match api.get_opt(&key.name).await {
                Ok(found) => {
                    if settled(&context, found, &key, &uid).await {
                        return;
                    }
                }
                Err(error) => tracing::warn!(pod = %key, %error, "cannot tell whether a pod is gone"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
}

/// Takes note of what became of a pod. A living one that lost our label gets it back, and somebody is told. False while
/// it has not, for example because another replica has to do it.
async fn settled(context: &Context, found: Option<SlimPod>, key: &PodKey, uid: &str) -> bool {
    let about = found.as_ref().map(|pod| pod.object_ref(&())).unwrap_or_default();
    let found = found.map(PodView::new);
    match (lost(found.as_ref(), uid), found) {
        (Lost::Labelled, Some(pod)) => {
            let sets = context.state().index.apply_answer(pod, now());
            context.enqueue(sets);
            true
        }
        (Lost::Unlabelled, Some(_)) => label_again(context, about, key, uid).await,
        _ => {
            let sets = context.state().index.remove(key, uid, now());
            context.enqueue(sets);
            true
        }
    }
}

async fn label_again(context: &Context, about: ObjectReference, key: &PodKey, uid: &str) -> bool {
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    let label = serde_json::json!({"metadata": {"uid": uid, "labels": {keys::INJECTED: "true"}}});
    let patch = kube::api::Patch::Merge(&label);
    let params = patch_params();
    let call = api.patch(&key.name, &params, &patch);
    if let Err(error) = context.write("label", || format!("pod {key}"), call).await {
        tracing::debug!(pod = %key, %error, "an injected pod lost its label");
        return false;
    }
    context.events.publish(Note {
        about,
        related: None,
        warning: true,
        reason: Reason::LabelRestored,
        action: "Label",
        message: format!("the label {} was removed from an injected pod and is set again", keys::INJECTED),
    });
    true
}
