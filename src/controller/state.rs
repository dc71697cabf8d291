//! What the controller keeps between events: one [`State`] behind one lock, which is never held across an await.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::core::pod::PodKey;
use crate::core::replace::report::EvictionReport;
use crate::core::replace::uninjected::Found;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::Pull;
use crate::runtime::health::Readiness;

/// What a plan is made from.
const CACHES: [&str; 6] = ["sidecarsets", "controllerrevisions", "namespaces", "nodes", "pods", UNLABELLED];

/// Pods that lost their label before the last list of injected pods.
pub(super) const UNLABELLED: &str = "pods without label";

/// How often the log says which lists are waited for.
const REMIND: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) index: Index,
    sets: BTreeMap<String, SetState>,
    /// Pods, with their UIDs, that the watch tells nothing more of, and that have to be looked at.
    pub(super) left_watch: BTreeSet<(PodKey, String)>,
    /// When the API server was last asked about a pod of a tenant, and did not say.
    pub(super) asked_in_vain: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct SetState {
    /// Pods whose last patch has an unknown outcome.
    pub(super) unconfirmed: HashSet<PodKey>,
    pub(super) status_written: Option<Instant>,
    pub(super) failure_events: FailureEvents,
    /// Pods without sidecars; `None` before the first look, or if nobody wants to know.
    pub(super) uninjected: Option<Arc<Found>>,
    /// Where evictions stand, of uninjected pods and of upgrades.
    pub(super) evictions: [EvictionReport; 2],
    /// What the last plan waits for.
    pub(super) pulls: Vec<Pull>,
    pub(super) checked: Option<Checked>,
}

/// What the API server says about the sidecars of a set.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// UID and generation.
    pub(super) of: (Option<String>, Option<i64>),
    /// What no pod may have; else why that is not known.
    pub(super) answer: Result<Option<String>, String>,
}

/// Failed pods that have their Event.
#[derive(Debug, Default)]
pub(super) struct FailureEvents {
    /// The revision, and the annotation that asked for the last retry: each try is told of.
    pub(super) attempt: (String, Option<String>),
    /// UIDs of the pods. One that fails again was told of.
    pub(super) pods: HashSet<String>,
    pub(super) last: Option<Instant>,
}

impl State {
    pub(super) fn set(&self, name: &str) -> Option<&SetState> {
        self.sets.get(name)
    }

    pub(super) fn set_mut(&mut self, name: &str) -> &mut SetState {
        self.sets.entry(name.to_owned()).or_default()
    }

    pub(super) fn split(&mut self, name: &str) -> (&mut Index, &mut SetState) {
        (&mut self.index, self.sets.entry(name.to_owned()).or_default())
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = (&String, &SetState)> {
        self.sets.iter()
    }

    /// What was kept while this replica led before is not true any more.
    pub(super) fn begin_term(&mut self) {
        self.index.forget_pulls();
        self.index.forget_in_flight();
        for set in self.sets.values_mut() {
            set.pulls.clear();
            set.checked = None;
        }
    }

    /// Sets are checked again: all, or those of which nothing is known. Returns their names.
    pub(super) fn forget_checks(&mut self, all: bool) -> Vec<String> {
        let is_forgotten = |checked: &mut Checked| all || matches!(checked.answer, Ok(Some(_)));
        let forgotten = self.sets.iter_mut().filter_map(|(name, set)| {
            set.checked.take_if(is_forgotten)?;
            Some(name.clone())
        });
        forgotten.collect()
    }

    /// Nobody wants to know of the uninjected pods of these sets any more. Returns those for which some were known.
    pub(super) fn forget_uninjected(&mut self, gone: impl Fn(&str) -> bool) -> Vec<String> {
        let mut forgotten = Vec::new();
        for (name, set) in &mut self.sets {
            if gone(name) && set.uninjected.take().is_some() {
                set.evictions[0] = EvictionReport::default();
                forgotten.push(name.clone());
            }
        }
        forgotten
    }

    /// A set is gone. What was known of it is to be dropped after the lock.
    pub(super) fn forget(&mut self, name: &str) -> impl Sized + use<> {
        (self.index.forget(name), self.sets.remove(name))
    }
}

/// The state, and what wakes those who wait for a change of it.
#[derive(Debug)]
pub(super) struct SharedState {
    state: Mutex<State>,
    pub(super) queue: WorkQueue,
    /// Pods without sidecars are to be looked for soon.
    pub(super) look: Notify,
    /// Other pulls are wanted.
    pub(super) pulls: Notify,
    /// Another pod has left the watch.
    pub(super) left_watch: Notify,
    /// Counts the lists of injected pods that the watch has made.
    pub(super) pod_lists: watch::Sender<u64>,
    /// Waits for the first lists that a plan is made from.
    lists: Readiness,
    /// Of the whole replica, which waits for some of them, too.
    readiness: Readiness,
}

impl SharedState {
    pub(super) fn new(index: Index, readiness: Readiness) -> Self {
        Self {
            state: Mutex::new(State { index, ..State::default() }),
            queue: WorkQueue::default(),
            look: Notify::new(),
            pulls: Notify::new(),
            left_watch: Notify::new(),
            pod_lists: watch::Sender::new(0),
            lists: Readiness::new(&CACHES),
            readiness,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The first list of a cache is complete.
    pub(super) fn mark_synced(&self, cache: &str) {
        self.lists.open(cache);
        self.readiness.open(cache);
    }

    /// The watch of pods has made another list.
    pub(super) fn pods_listed(&self) {
        self.lists.close(UNLABELLED);
        self.mark_synced("pods");
        self.pod_lists.send_modify(|lists| *lists += 1);
    }

    /// Waits until every cache has been listed once, and says for which it waits.
    pub(super) async fn synced(&self) {
        while timeout(REMIND, self.lists.ready()).await.is_err() {
            let missing = self.lists.waiting();
            tracing::warn!(
                ?missing,
                "nothing is upgraded before these are listed: are they allowed in the ClusterRole?"
            );
        }
    }
}

/// Names of sets to reconcile; adding one twice is adding it once.
#[derive(Debug, Default)]
pub(super) struct WorkQueue(watch::Sender<BTreeSet<String>>);

impl WorkQueue {
    pub(super) fn add(&self, names: impl IntoIterator<Item = String>) {
        self.0.send_if_modified(|sets| {
            let before = sets.len();
            sets.extend(names);
            sets.len() > before
        });
    }

    /// Waits for sets and takes them. What is added within `collect` comes together: a thousand pod events are one
    /// reconcile.
    pub(super) async fn take(&self, collect: Duration) -> BTreeSet<String> {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|sets| !sets.is_empty()).await;
        tokio::time::sleep(collect).await;
        let mut taken = BTreeSet::new();
        self.0.send_if_modified(|sets| {
            taken = std::mem::take(sets);
            false
        });
        taken
    }
}

/// Data behind these locks is whole after any panic, so poisoning is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::rollout::plan::begin_batch;
    use crate::core::rollout::target::rollout::PersistedProgress;
    use crate::core::rollout::testing::{SET, TestPod, at, target};

    #[test]
    fn an_eviction_of_a_former_term_holds_no_slot() {
        let mut state = State::default();
        state.index.apply(TestPod::new("web").view(), at(0));
        state.index.configure(target("v2", json!({"maxUnavailable": 1})), at(0));
        let eviction = serde_json::from_value(json!({
            "namespace": "default", "pod": "gone", "podUid": "uid-gone", "podCreated": at(-1000).to_string(),
            "ownerApiVersion": "apps/v1", "ownerKind": "ReplicaSet", "ownerName": "web", "ownerUid": "uid-owner",
            "cause": "NoSidecars", "revision": "r", "at": at(0).to_string(),
        }))
        .unwrap();
        state.index.set_evictions(SET, &[eviction]);
        state.set_mut(SET);
        let patches =
            |state: &mut State| begin_batch(&mut state.index, SET, &PersistedProgress::default(), at(1), 10).len();
        assert_eq!(patches(&mut state), 0);
        state.begin_term();
        assert_eq!(patches(&mut state), 1);
    }

    #[test]
    fn nothing_is_kept_of_a_set_that_is_gone() {
        let mut state = State::default();
        state.set_mut(SET).evictions[1].in_vain.push("web".to_owned());
        drop(state.forget(SET));
        assert_eq!(state.sets().count(), 0);
    }
}
