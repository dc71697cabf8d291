//! Pods that the watch of injected pods does not tell of: gone, or without the label that it selects by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Resource};
use serde_json::json;
use tokio::time::{interval, sleep};

use super::context::{Context, now};
use super::state::UNLABELLED;
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::rollout::request::answer::{Lost, lost};
use crate::runtime::events::Note;
use crate::runtime::pages::{PAGE, Pages};

/// Wait before a pod that left the watch is looked at once more.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Pods looked at at the same time: they share connections with the writes, whose timeout runs while they wait for one.
const AT_ONCE: usize = 8;

/// A selector watch reports a pod as deleted also when it merely loses the label. Its slot is freed only when it is
/// certain that it is gone.
pub(super) fn vanished(context: &Context, key: &PodKey, uid: &str, certain: bool) {
    if certain {
        gone(context, key, uid);
    } else {
        context.state().left_watch.insert((key.clone(), uid.to_owned()));
        context.shared.left_watch.notify_one();
    }
}

/// Reads pods of which no watch tells, before anything is planned: they may hold a slot.
pub(super) async fn look_at_all(context: &Context, pods: Vec<(PodKey, String)>) {
    let looks = pods.into_iter().map(|(key, uid)| async move {
        while look(context, &key, &uid).await.is_none() {
            sleep(LOOK_AGAIN).await;
        }
        // Perhaps to be labelled again.
        vanished(context, &key, &uid, false);
    });
    futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Looks at the pods that left the watch, until it is known of each what became of it.
pub(super) async fn run(context: Arc<Context>) {
    let mut every = interval(LOOK_AGAIN);
    let mut unsettled = BTreeSet::new();
    loop {
        tokio::select! {
            () = context.shared.left_watch.notified() => {}
            _ = every.tick() => context.state().left_watch.append(&mut unsettled),
        }
        let (context, pods) = (&*context, std::mem::take(&mut context.state().left_watch));
        let looks = pods.into_iter().map(|(key, uid)| async move {
            let is_settled = is_settled(context, &key, &uid).await;
            (!is_settled).then_some((key, uid))
        });
        let left = futures::stream::iter(looks).buffer_unordered(AT_ONCE).filter_map(futures::future::ready);
        unsettled.extend(left.collect::<Vec<_>>().await);
    }
}

/// After each list of the watch: finds pods that lost their label before it, of which no watch tells. Every replica does,
/// so that a new leader need not: it knows them, and of those that lose their label later the watch has told it.
pub(super) async fn search(context: Arc<Context>) {
    let mut lists = context.shared.pod_lists.subscribe();
    let mut searched = 0;
    while let Ok(list) = lists.wait_for(|list| *list > searched).await.map(|list| *list) {
        look_at_all(&context, unlabelled(&context).await).await;
        searched = list;
        if *lists.borrow() == searched {
            context.shared.mark_synced(UNLABELLED);
        }
    }
}

/// Pods without our label that carry the mark of a set: somebody took it away. Usually there are none.
async fn unlabelled(context: &Context) -> Vec<(PodKey, String)> {
    let api: &Api<Pod> = &Api::all(context.clients.watch.clone());
    let params = ListParams::default()
        .labels(&format!("{}!=true", keys::INJECTED))
        .fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut pages = Pages::new(params, PAGE);
    let mut found = Vec::new();
    while let Some(page) =
        pages.next_at_last("pods without label", |params| async move { api.list_metadata(&params).await }).await
    {
        found.extend(page.into_iter().filter_map(marked));
    }
    found
}

fn marked(pod: PartialObjectMeta<Pod>) -> Option<(PodKey, String)> {
    let has_mark = pod.metadata.labels?.keys().any(|label| label.starts_with(keys::REVISION_PREFIX));
    let key = PodKey { namespace: pod.metadata.namespace?, name: pod.metadata.name? };
    has_mark.then_some((key, pod.metadata.uid?))
}

/// False while it is not known what became of a pod, or while it has to be labelled, perhaps by another replica.
async fn is_settled(context: &Context, key: &PodKey, uid: &str) -> bool {
    match look(context, key, uid).await {
        Some(Some(pod)) => label_again(context, pod, key, uid).await,
        Some(None) => true,
        None => false,
    }
}

/// Reads a pod, and takes note of what it is. `None`: it cannot be read. A living one without our label is returned.
async fn look(context: &Context, key: &PodKey, uid: &str) -> Option<Option<ObjectReference>> {
    let api: Api<SlimPod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await;
    let found =
        found.inspect_err(|error| tracing::warn!(pod = %key, %error, "cannot tell whether a pod is gone")).ok()?;
    let about = found.as_ref().map(|pod| pod.object_ref(&()));
    let found = found.map(PodView::new);
    match (lost(found.as_ref(), uid), found) {
        (Lost::Labelled, Some(pod)) => {
            let sets = context.state().index.apply_answer(pod, now());
            context.enqueue(sets);
            Some(None)
        }
        (Lost::Unlabelled, Some(pod)) => {
            let sets = context.state().index.apply(pod, now());
            context.enqueue(sets);
            Some(about)
        }
        _ => {
            gone(context, key, uid);
            Some(None)
        }
    }
}

fn gone(context: &Context, key: &PodKey, uid: &str) {
    let sets = context.state().index.remove(key, uid, now());
    context.enqueue(sets);
}

/// Gives a pod our label back, and tells somebody. False while it has not got it.
async fn label_again(context: &Context, about: ObjectReference, key: &PodKey, uid: &str) -> bool {
    let label = json!({"uid": uid, "labels": {keys::INJECTED: "true"}});
    if let Err(error) = context.patch_metadata("label", key, label).await {
        tracing::debug!(pod = %key, %error, "an injected pod lost its label");
        return false;
    }
    let message = format!("the label {} was removed from an injected pod and is set again", keys::INJECTED);
    context.events.publish(Note::new(about, Reason::LabelRestored, "Label", message));
    true
}
