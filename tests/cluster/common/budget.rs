//! Whether a rollout keeps its budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::world::{container_image, is_ready};

/// Watches the pods of a world and keeps the largest number that were unavailable at once: those whose agent is not
/// ready, or has an update that the operator cannot have seen done.
pub struct BudgetWatcher {
    worst: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl BudgetWatcher {
    pub fn start(pods: Api<Pod>) -> Self {
        Self::of(pods, "")
    }

    /// The same for the pods with these labels only.
    pub fn of(pods: Api<Pod>, labels: &str) -> Self {
        Self::count(pods, labels, |pod| !is_ready(pod) || update_is_open(pod))
    }

    /// Counts only updates that cannot be done: other reasons make pods unready, too.
    pub fn of_updates(pods: Api<Pod>) -> Self {
        Self::count(pods, "", update_is_open)
    }

    fn count(pods: Api<Pod>, labels: &str, is_unavailable: impl Fn(&Pod) -> bool + Send + 'static) -> Self {
        let config = watcher::Config::default().labels(labels);
        let worst = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&worst);
        let task = tokio::spawn(async move {
            let mut unavailable = std::collections::BTreeSet::new();
            let mut events = watcher(pods, config).default_backoff().applied_objects().boxed();
            while let Some(event) = events.next().await {
                // The watch tries again by itself, and lists what it has missed.
                let Ok(pod) = event.inspect_err(|error| println!("the budget's watch: {error}")) else { continue };
                if is_unavailable(&pod) {
                    unavailable.insert(pod.name_any());
                } else {
                    unavailable.remove(&pod.name_any());
                }
                seen.fetch_max(unavailable.len(), Ordering::SeqCst);
            }
        });
        Self { worst, task }
    }

    pub fn worst(self) -> usize {
        self.task.abort();
        self.worst.load(Ordering::SeqCst)
    }
}

/// The container that the annotation says was replaced is still the one that runs.
fn update_is_open(pod: &Pod) -> bool {
    let annotation = pod.annotations().iter().find(|(key, _)| key.starts_with("update.sidecarset.dev/"));
    let Some((_, text)) = annotation else { return false };
    let update: Value = serde_json::from_str(text).unwrap();
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running: Vec<_> = statuses.map(|status| (status.name.clone(), status.container_id.clone())).collect();
    update["containers"].as_object().unwrap().iter().any(|(name, old)| {
        old["image"] != container_image(pod, name).as_str()
            && running.iter().any(|(running, id)| running == name && id.as_deref() == old["id"].as_str())
    })
}
