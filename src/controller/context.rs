//! What the parts of the controller share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::PatchParams;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::cache::Cache;
use super::error::Error;
use super::failures::Told;
use super::prepull::Prepull;
use super::uninjected::Uninjected;
use crate::api::keys;
use crate::core::pod::PodKey;
use crate::core::rollout::state::cluster::Index;
use crate::runtime::client::Clients;
use crate::runtime::events::Events;
use crate::runtime::leader::Leadership;
use crate::runtime::metrics::Metrics;
use crate::runtime::namespaces::Namespaces;

/// Longest wait for one write.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The caches that a plan is made from.
pub(super) const CACHES: [&str; 5] = ["sidecarsets", "controllerrevisions", "namespaces", "nodes", "pods"];

/// See the module.
pub struct Context {
    /// Clients of the cluster.
    pub clients: Clients,
    /// The right to write.
    pub leadership: Leadership,
    /// Namespace of the operator's own objects.
    pub namespace: String,
    /// Namespaces besides [`keys::EXCLUDED_NAMESPACES`] that no set reaches.
    pub excluded: Arc<[String]>,
    /// Pods written at the same time.
    pub write_concurrency: usize,
    /// Metrics.
    pub metrics: Metrics,
    /// Events.
    pub events: Events,
    /// Labels of namespaces, shared with the webhook.
    pub namespaces: Namespaces,
    /// Version of the sets that the webhook registration stands for; 0 while there is none.
    pub registered: watch::Receiver<u64>,
    /// Sets and revisions.
    pub cache: Cache,
    /// Sets to reconcile.
    pub dirty: Dirty,
    pub(super) index: Mutex<Index>,
    /// One per pod that is written, whatever the set.
    pub(super) writes: Semaphore,
    /// Caches whose first list is not complete.
    pub(super) cold: watch::Sender<BTreeSet<&'static str>>,
    /// Open once a new leader has read all pods.
    pub(super) may_plan: AtomicBool,
    /// Pods by set whose last patch has an unknown outcome.
    pub(super) uncertain: Mutex<HashMap<String, HashSet<PodKey>>>,
    /// When the status of a set was last written.
    pub(super) reported: Mutex<HashMap<String, Instant>>,
    /// Pods without sidecars, by set.
    pub(super) uninjected: Uninjected,
    /// Failed pods that have got their event, by set.
    pub(super) told: Mutex<HashMap<String, Told>>,
    /// Where evictions for upgrades stand, in words, by set.
    pub(super) eviction_news: Mutex<HashMap<String, String>>,
    /// Pulls that plans wait for, by set.
    pub(super) prepull: Prepull,
}

impl Context {
    /// A context with nothing known yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            clients,
            leadership,
            namespace,
            excluded,
            write_concurrency,
            metrics,
            events,
            namespaces,
            registered,
            cache,
            can_resize,
        } = parts;
        let mut index = Index::default();
        index.set_can_resize(can_resize);
        Arc::new(Self {
            clients,
            leadership,
            namespace,
            excluded,
            write_concurrency,
            metrics,
            events,
            namespaces,
            registered,
            cache,
            dirty: Dirty::default(),
            index: Mutex::new(index),
            writes: Semaphore::new(write_concurrency),
            cold: watch::Sender::new(CACHES.into()),
            may_plan: AtomicBool::new(false),
            uncertain: Mutex::default(),
            reported: Mutex::default(),
            uninjected: Uninjected::default(),
            told: Mutex::default(),
            eviction_news: Mutex::default(),
            prepull: Prepull::default(),
        })
    }

    /// The index; never held across an await.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Runs one write: only while this replica leads, and ending before another may.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        object: impl FnOnce() -> String,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let lease_ends = self.leadership.write_deadline().ok_or(Error::NotLeader)?;
        let deadline = lease_ends.min(Instant::now() + WRITE_TIMEOUT);
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(Error::Api { action, object: object(), source: Box::new(source) }),
            Err(_) => Err(Error::Timeout { action, object: object() }),
        }
    }

    /// The first list of a cache is complete.
    pub(super) fn mark_warm(&self, cache: &'static str) {
        self.cold.send_if_modified(|cold| cold.remove(cache));
    }

    /// Waits until every cache has been listed once.
    pub(super) async fn warm(&self) {
        // The sender lives as long as the context.
        let _ = self.cold.subscribe().wait_for(BTreeSet::is_empty).await;
    }

    /// Forgets what is kept about a set that is gone.
    pub(super) fn forget(&self, set: &str) {
        lock(&self.uncertain).remove(set);
        lock(&self.reported).remove(set);
        lock(&self.told).remove(set);
        self.uninjected.forget(set);
        lock(&self.eviction_news).remove(set);
        self.prepull.want(set, Vec::new());
    }

    pub(super) fn may_plan(&self) -> bool {
        self.may_plan.load(Ordering::SeqCst) && self.leadership.is_leader()
    }
}

/// What a [`Context`] is made of.
#[allow(missing_docs)] // the fields of Context
pub struct Parts {
    pub clients: Clients,
    pub leadership: Leadership,
    pub namespace: String,
    pub excluded: Arc<[String]>,
    pub write_concurrency: usize,
    pub metrics: Metrics,
    pub events: Events,
    pub namespaces: Namespaces,
    pub registered: watch::Receiver<u64>,
    pub cache: Cache,
    /// The apiserver lets resources of running pods be changed.
    pub can_resize: bool,
}

/// Names of sets that want to be reconciled; marking one twice is marking it once.
#[derive(Debug, Default)]
pub struct Dirty {
    sets: Mutex<BTreeSet<String>>,
    notify: Notify,
}

impl Dirty {
    /// Marks sets.
    pub fn mark(&self, names: impl IntoIterator<Item = String>) {
        let mut sets = lock(&self.sets);
        let before = sets.len();
        sets.extend(names);
        if sets.len() > before {
            self.notify.notify_one();
        }
    }

    /// Waits for marked sets and takes them. Marks within `collect` come together: a thousand pod events are one
    /// reconcile.
    pub async fn take(&self, collect: Duration) -> BTreeSet<String> {
        loop {
            self.notify.notified().await;
            tokio::time::sleep(collect).await;
            let sets = std::mem::take(&mut *lock(&self.sets));
            if !sets.is_empty() {
                return sets;
            }
        }
    }
}

/// Data behind these locks is whole after any panic, so poisoning is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock, read here and handed to the pure core.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

pub(super) fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(keys::MANAGER.to_owned()), ..PatchParams::default() }
}
