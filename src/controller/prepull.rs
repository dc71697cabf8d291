//! Has nodes pull images before pods are patched: makes the pods that pull, follows them, and deletes them.
//!
//! What is wanted comes from the plans, what is there from a watch by label. Nothing is watched while no set uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::context::{Context, NOT_LEADER, now};
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::pod::PodKey;
use crate::core::rollout::plan::pullers::{PullerStep, Pullers, puller, refusal};
use crate::core::rollout::request::answer::is_refusal;
use crate::core::rollout::state::pulls::{Pull, PullResult};
use crate::runtime::events::Note;

/// How often pullers are looked at while there are any.
const EVERY: Duration = Duration::from_secs(1);

/// Reasons for one revision that are told; some name a node, and there may be thousands.
const MAX_REASONS: usize = 20;

/// Replaces what a set wants; nothing for a set that waits for no pull.
pub(super) fn want(context: &Context, set: &str, pulls: Vec<Pull>) {
    let mut state = context.state();
    let known = &mut state.set_mut(set).pulls;
    if *known != pulls {
        *known = pulls;
        context.shared.pulls.notify_one();
    }
}

/// What sets want that are still served: an invalid or deleted one has no plans that would say otherwise.
fn wanted(context: &Context) -> Vec<Pull> {
    let served = context.cache.compiled();
    let state = context.state();
    let wanting = state.sets().filter(|(name, _)| served.get(name).is_some());
    wanting.flat_map(|(_, set)| set.pulls.iter().cloned()).collect()
}

/// All pods that pull, for as long as this lives.
struct Watch {
    pods: Store<Pod>,
    _task: JoinSet<()>,
}

impl Watch {
    /// Each event starts a round.
    fn begin(context: &Arc<Context>) -> Self {
        let api: Api<Pod> = Api::all(context.clients.watch.clone());
        // From the apiserver's cache, as a label is no index for etcd.
        let ours = watcher::Config::default().labels(keys::PULLS_FOR).any_semantic();
        let (pods, writer) = reflector::store();
        let events = watcher(api, ours).default_backoff().reflect(writer);
        let context = Arc::clone(context);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(_) => context.shared.pulls.notify_one(),
                    Err(error) => tracing::warn!(%error, "the watch of pods that pull is interrupted and tried again"),
                }
            }
        });
        Self { pods, _task: task }
    }

    /// `None` while the apiserver does not answer.
    async fn list(&self) -> Option<Vec<Pod>> {
        timeout(EVERY, self.pods.wait_until_ready()).await.ok()?.ok()?;
        Some(self.pods.state().iter().map(|pod| Pod::clone(pod)).collect())
    }
}

/// What is kept while this replica leads.
#[derive(Default)]
struct Memory {
    term: Option<u64>,
    pullers: Pullers,
    watch: Option<Watch>,
    /// No puller was left at the last look. A new leader has to look for those of the one before.
    is_clean: bool,
    /// Revision and reasons of pulls that were skipped, by set, so that each is told once.
    skipped: BTreeMap<String, (String, BTreeSet<String>)>,
}

impl Memory {
    /// Nothing was told yet of a pull of this revision that is skipped for this reason.
    fn is_new(&mut self, pull: &Pull, why: &str) -> bool {
        let (revision, reasons) = self.skipped.entry(pull.set.clone()).or_default();
        if *revision != pull.revision {
            (*revision, *reasons) = (pull.revision.clone(), BTreeSet::new());
        }
        reasons.len() < MAX_REASONS && reasons.insert(why.to_owned())
    }
}

pub(super) async fn run(context: Arc<Context>) {
    let mut memory = Memory::default();
    loop {
        let term = context.writer.term();
        if memory.term != term {
            // Another leader may have made pullers, and knows nothing of these.
            memory = Memory { term, ..Memory::default() };
        }
        if term.is_none() {
            sleep(NOT_LEADER).await;
            continue;
        }
        let wanted = wanted(&context);
        memory.skipped.retain(|set, _| context.cache.compiled_set(set).is_some());
        if memory.is_clean && wanted.is_empty() && memory.pullers.is_empty() {
            memory.watch = None;
        } else {
            round(&context, &mut memory, &wanted).await;
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            () = context.shared.pulls.notified() => {}
        }
    }
}

async fn round(context: &Arc<Context>, memory: &mut Memory, wanted: &[Pull]) {
    let watch = memory.watch.get_or_insert_with(|| Watch::begin(context));
    let Some(listed) = watch.list().await else { return };
    let PullerStep { results, create, delete } = memory.pullers.step(wanted, &listed, now());
    // A lost answer to a creation leaves a puller that only a list can find.
    memory.is_clean = listed.is_empty() && create.is_empty();
    let mut news: BTreeSet<String> = BTreeSet::new();
    for (pull, image, outcome) in results {
        note(context, memory, &pull, &image, outcome);
        news.insert(pull.set);
    }
    let creations = create.into_iter().map(|pull| async move { (make(context, &pull).await, pull) });
    let answers = futures::stream::iter(creations).buffer_unordered(context.settings.write_concurrency);
    for (answer, pull) in answers.collect::<Vec<_>>().await {
        match answer {
            Ok(Some(uid)) => memory.pullers.created(pull, uid, now()),
            Ok(None) => {}
            Err(why) => {
                for image in pull.images.keys() {
                    note(context, memory, &pull, image, PullResult::Skipped(why.clone()));
                }
                news.insert(pull.set);
            }
        }
    }
    context.enqueue(news);
    let deletions = delete.into_iter().map(|(key, uid)| async move { remove(context, &key, uid).await });
    futures::stream::iter(deletions).buffer_unordered(context.settings.write_concurrency).collect::<()>().await;
}

/// Keeps a result, and tells of the first of many pulls that are skipped for one reason.
fn note(context: &Context, memory: &mut Memory, pull: &Pull, image: &str, outcome: PullResult) {
    tracing::debug!(set = pull.set, node = pull.node, image, ?outcome, "pulled before a batch");
    if let PullResult::Skipped(why) = &outcome {
        let first = memory.is_new(pull, why);
        if first {
            tracing::warn!(set = pull.set, node = pull.node, image, why, "nobody can pull the image before a batch");
        }
        if let Some(set) = context.cache.set(&pull.set).filter(|_| first) {
            let message = format!("pods on node {} are updated without pulling {image} first: {why}", pull.node);
            context.events.publish(Note::new(set.object_ref(&()), Reason::PrePullSkipped, "PrePull", message));
        }
    }
    context.state().index.note_pull(pull, image, outcome, now());
}

/// Makes a puller, and returns its UID. `None`: the pod is gone, or there is no clear answer, and the next round sees what
/// is wanted then. An error is final, and says why.
async fn make(context: &Context, pull: &Pull) -> Result<Option<String>, String> {
    let _permit = context.writer.permits.acquire().await;
    let namespace = &pull.pod.namespace;
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), namespace);
    let read = api.get_opt(&pull.pod.name).await.inspect_err(|error| {
        tracing::warn!(pod = %pull.pod, %error, "cannot read a pod whose node is to pull images");
    });
    let is_same = |pod: &Pod| pod.metadata.uid.as_ref() == Some(&pull.uid) && pod.metadata.deletion_timestamp.is_none();
    let Some(pod) = read.ok().flatten().filter(is_same) else { return Ok(None) };
    let puller = puller(pull, &pod)?;
    let params = PostParams { field_manager: Some(keys::MANAGER.to_owned()), ..PostParams::default() };
    let call = api.create(&params, &puller);
    match context.write("create", || format!("a pod that pulls images on node {}", pull.node), call).await {
        Ok(created) => Ok(Some(created.uid().unwrap_or_default())),
        Err(error) => {
            if let Some(status) = error.status().filter(|status| is_refusal(status)) {
                return Err(refusal(&status.message, namespace));
            }
            tracing::warn!(%error, "images are not pulled yet");
            Ok(None)
        }
    }
}

async fn remove(context: &Context, key: &PodKey, uid: String) {
    let _permit = context.writer.permits.acquire().await;
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), &key.namespace);
    let preconditions = Preconditions { uid: Some(uid), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match context.write("delete", || format!("pod {key}"), api.delete(&key.name, &params)).await {
        // Listed again in the next round; its deadline and its owner end it anyway.
        Err(error) if !error.is_stale() => {
            tracing::warn!(%error, "a pod that pulled images is left for the next round");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(revision: &str) -> Pull {
        Pull {
            set: "logs".to_owned(),
            revision: revision.to_owned(),
            node: "node".to_owned(),
            images: BTreeMap::new(),
            pod: PodKey { namespace: "default".to_owned(), name: "web".to_owned() },
            uid: String::new(),
            timeout_seconds: 600,
        }
    }

    #[test]
    fn each_reason_is_told_once_per_revision_and_no_more_than_some() {
        let mut memory = Memory::default();
        assert!(memory.is_new(&pull("v1"), "quota"));
        assert!(!memory.is_new(&pull("v1"), "quota"));
        assert!(memory.is_new(&pull("v2"), "quota"));
        let told = (0..1000).filter(|node| memory.is_new(&pull("v2"), &format!("node {node}"))).count();
        assert_eq!(told, MAX_REASONS - 1);
        assert_eq!(memory.skipped.len(), 1);
    }
}
