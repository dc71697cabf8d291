//! All injected pods, by set. The only mutable state of the upgrade side; everything in it can be rebuilt from the API.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::context::PodContext;
use crate::core::rollout::assess::refusal::Refusal;
use crate::core::rollout::assess::state::State;
use crate::core::rollout::assess::{Assessment, assess};
use crate::core::rollout::inflight::InFlight;
use crate::core::rollout::state::pulls::{Outcome, Pull, PullResults};
use crate::core::rollout::state::set::SetState;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;

/// A pod whose patch got no clear answer is left alone for this long. The client has given the request up by then, and
/// the apiserver ends what it does for a client that is gone.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    pods: HashMap<PodKey, Arc<PodView>>,
    sets: BTreeMap<String, SetState>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// Whether the node's kubelet restarts native sidecars for a new image.
    nodes: HashMap<String, bool>,
    /// The apiserver does not let resources of running pods be changed.
    cannot_resize: bool,
    reading: Option<Reading>,
    /// Number of pods by set and revision, whether or not the set is known.
    revisions: BTreeMap<String, BTreeMap<String, usize>>,
    /// Sets whose pods must be looked at again because a namespace or node changed.
    stale: BTreeSet<String>,
    in_flight: HashMap<String, InFlight>,
    /// What came of pulling images before pods are patched, by set.
    pulls: HashMap<String, PullResults>,
    assessments: u64,
}

/// A read of all pods that is under way.
#[derive(Debug, Default)]
struct Reading {
    /// UIDs of what it has named so far.
    listed: HashSet<String>,
    /// UIDs of pods that were removed meanwhile; it may still name them.
    removed: HashSet<String>,
    /// Of the named, those that the watch may say nothing of.
    unwatched: Vec<(PodKey, String)>,
}

impl Index {
    /// Takes note of a pod, from the watch or from the answer to a patch. An older version than the known one is
    /// ignored. Returns the sets for which something changed.
    pub fn apply(&mut self, pod: PodView, now: Timestamp) -> Vec<String> {
        if let Some(known) = self.pods.get(&pod.key)
            && known.resource_version > pod.resource_version
        {
            return Vec::new();
        }
        let key = pod.key.clone();
        let pod = Arc::new(pod);
        self.count_revisions(&pod, true);
        let old = self.pods.insert(key.clone(), pod);
        if let Some(old) = &old {
            self.count_revisions(old, false);
        }
        self.touch(&key, old.as_deref(), now)
    }

    /// Takes note of the answer to a request about a pod. It may be older than the news of the pod's end: a pod that is
    /// not known any more stays unknown.
    pub fn apply_answer(&mut self, pod: PodView, now: Timestamp) -> Vec<String> {
        if self.pods.get(&pod.key).is_some_and(|known| known.uid == pod.uid) {
            self.apply(pod, now)
        } else {
            Vec::new()
        }
    }

    /// A complete read of all pods begins, beside the watch: it ends with [`Index::end_list`].
    pub fn start_list(&mut self) {
        self.reading = Some(Reading::default());
    }

    /// Takes note of a pod from a list that may be older than what the watch has said since: what it saw go stays away.
    pub fn apply_listed(&mut self, pod: PodView, now: Timestamp) -> Vec<String> {
        let is_known = self.pods.get(&pod.key).is_some_and(|known| known.uid == pod.uid);
        if let Some(reading) = &mut self.reading {
            if reading.removed.contains(&pod.uid) {
                return Vec::new();
            }
            if !is_known || !pod.is_labelled() {
                reading.unwatched.push((pod.key.clone(), pod.uid.clone()));
            }
            reading.listed.insert(pod.uid.clone());
        }
        self.apply(pod, now)
    }

    /// The pods, with their UIDs, that the watch may say nothing of, as long as it did not tell the operator before: the
    /// list does not name them, or they have no label for the watch, or they were not known before. The latter may have
    /// come and gone while the watch was broken.
    pub fn end_list(&mut self) -> Vec<(PodKey, String)> {
        let Reading { listed, unwatched, .. } = self.reading.take().unwrap_or_default();
        let gone = self.pods.values().filter(|pod| !listed.contains(&pod.uid));
        unwatched.into_iter().chain(gone.map(|pod| (pod.key.clone(), pod.uid.clone()))).collect()
    }

    /// Takes note that a pod is gone. A later pod of the same name stays.
    pub fn remove(&mut self, key: &PodKey, uid: &str, now: Timestamp) -> Vec<String> {
        if self.pods.get(key).is_none_or(|pod| pod.uid != uid) {
            return Vec::new();
        }
        let old = self.pods.remove(key);
        if let Some(old) = &old {
            self.count_revisions(old, false);
        }
        if let Some(reading) = &mut self.reading {
            reading.removed.insert(uid.to_owned());
        }
        self.touch(key, old.as_deref(), now)
    }

    /// The pod as last seen.
    pub fn get(&self, key: &PodKey) -> Option<Arc<PodView>> {
        self.pods.get(key).cloned()
    }

    /// Where a pod stands in the rollout of a set; `None` if it does not belong to the set.
    pub fn state(&self, set: &str, pod: &PodKey) -> Option<&State> {
        Some(&self.sets.get(set)?.assessment(pod)?.state)
    }

    /// The failed pods of a set, and why.
    pub fn failed(&self, set: &str) -> impl Iterator<Item = (&PodView, &str)> {
        let index = self.sets.get(set).into_iter();
        index.flat_map(|index| index.failed().filter_map(|(key, why)| Some((self.pods.get(key)?.as_ref(), why))))
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.values()
    }

    /// Revisions that pods of a set carry.
    pub fn revisions_in_use(&self, set: &str) -> BTreeSet<String> {
        self.revisions.get(set).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Sets that pods carry marks of, whether or not they exist.
    pub fn marked_sets(&self) -> Vec<String> {
        self.revisions.keys().cloned().collect()
    }

    fn count_revisions(&mut self, pod: &PodView, add: bool) {
        for (set, mark) in &pod.marks {
            let revisions = self.revisions.entry(set.clone()).or_default();
            let pods = revisions.entry(mark.revision.clone()).or_default();
            *pods = if add { *pods + 1 } else { *pods - 1 };
            if *pods == 0 {
                revisions.remove(&mark.revision);
            }
            if revisions.is_empty() {
                self.revisions.remove(set);
            }
        }
    }

    /// Takes note of what a set wants. Its pods are counted again only if that changed.
    pub fn configure(&mut self, target: Target, now: Timestamp) {
        let name = target.set.clone();
        if self.sets.get(&name).is_none_or(|set| *set.target != target) || self.stale.remove(&name) {
            self.stale.remove(&name);
            self.rebuild(Arc::new(target), now);
        }
    }

    /// Forgets a set that is gone.
    pub fn forget(&mut self, set: &str) {
        self.sets.remove(set);
        self.stale.remove(set);
        self.in_flight.remove(set);
        self.pulls.remove(set);
    }

    /// Takes note of a namespace's labels, `None` when it is gone. Returns the sets to reconcile.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) -> Vec<String> {
        let old = self.namespaces.get(name);
        if old == labels.as_ref() {
            return Vec::new();
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        let selecting = self.sets.values().filter(|set| set.target.namespace_selector.is_some());
        let names: Vec<String> = selecting.map(|set| set.target.set.clone()).collect();
        self.stale.extend(names.iter().cloned());
        names
    }

    /// Takes note of a node's kubelet. Returns the sets to reconcile.
    pub fn set_node(&mut self, name: &str, restarts_native_sidecars: Option<bool>) -> Vec<String> {
        if self.nodes.get(name).copied() == restarts_native_sidecars {
            return Vec::new();
        }
        match restarts_native_sidecars {
            Some(able) => self.nodes.insert(name.to_owned(), able),
            None => self.nodes.remove(name),
        };
        if restarts_native_sidecars.is_none() {
            // It may come back without its images.
            self.pulls.values_mut().for_each(|pulls| drop(pulls.nodes.remove(name)));
        }
        let names: Vec<String> = self.sets.keys().cloned().collect();
        self.stale.extend(names.iter().cloned());
        names
    }

    /// Takes note of whether the apiserver has the subresource `resize` of pods (Kubernetes 1.33), which is taken as given.
    pub fn set_can_resize(&mut self, can_resize: bool) {
        self.cannot_resize = !can_resize;
    }

    /// Takes note that a patch of exactly this version of a pod, to the set's target, was not accepted. It counts as
    /// failed, and is not repeated before the pod or the target changes, or a retry is asked for. With `until` it got no clear answer: it holds its
    /// place in the budget until then, and is tried again after.
    pub fn refuse(
        &mut self,
        set: &str,
        pod: &PodView,
        message: String,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Vec<String> {
        let Some(target) = self.sets.get(set).map(|index| &index.target) else { return Vec::new() };
        let (uid, resource_version) = (pod.uid.clone(), pod.resource_version);
        let (revision, retried_at) = (target.revision.clone(), target.retried_at.map(Timestamp::as_second));
        let refusal = Refusal { uid, resource_version, revision, retried_at, message, until };
        self.in_flight_mut(set).refusals.insert(pod.key.clone(), refusal);
        self.touch(&pod.key, None, now)
    }

    pub(crate) fn set(&self, name: &str) -> Option<&SetState> {
        self.sets.get(name)
    }

    pub(crate) fn in_flight(&self, set: &str) -> Option<&InFlight> {
        self.in_flight.get(set)
    }

    pub(crate) fn in_flight_mut(&mut self, set: &str) -> &mut InFlight {
        self.in_flight.entry(set.to_owned()).or_default()
    }

    /// Requests of a plan are about to be sent: evictions count them until the next plan, which is made when they are
    /// answered.
    pub fn sending(&mut self, set: &str, requests: usize, persisted: &PersistedProgress) {
        let in_flight = self.in_flight_mut(set);
        (in_flight.planned, in_flight.persisted) = (requests, persisted.clone());
    }

    pub(crate) fn pulls(&self, set: &str) -> Option<&PullResults> {
        self.pulls.get(set)
    }

    /// What became of pulling an image on the node of `pull`.
    pub fn note_pull(&mut self, pull: &Pull, image: &str, outcome: Outcome, now: Timestamp) {
        if let Some(set) = self.sets.get(&pull.set) {
            self.pulls.entry(pull.set.clone()).or_default().note(&set.target, pull, image, outcome, now);
        }
    }

    /// Forgets all pulls: another replica leads.
    pub fn forget_pulls(&mut self) {
        self.pulls.clear();
    }

    /// A patch got no clear answer, and may still be carried out: as long as the pod is not at the target it keeps a place
    /// in the budget for a while, and others go first.
    pub fn unanswered(&mut self, set: &str, key: &PodKey, error: &str, now: Timestamp) {
        if let Some(pod) = self.get(key) {
            let until = now.checked_add(TRY_AGAIN).ok();
            self.refuse(set, &pod, format!("no clear answer to its patch: {error}"), until, now);
        }
    }

    /// Where a pod stands that was just read, whatever is known of it.
    pub(crate) fn judge(&self, set: &str, pod: &PodView, now: Timestamp) -> Option<Assessment> {
        let node = pod.node.as_deref();
        let context = PodContext {
            namespace_labels: self.namespaces.get(&pod.key.namespace),
            restarts_native_sidecars: node.and_then(|node| self.nodes.get(node)).copied(),
            refused: None,
            can_resize: !self.cannot_resize,
            now,
        };
        assess(pod, &self.sets.get(set)?.target, &context)
    }

    /// Time has passed: looks again at the pods of a set whose state may have changed with it.
    pub fn advance(&mut self, set: &str, now: Timestamp) {
        let due = self.sets.get(set).map(|set| set.due(now)).unwrap_or_default();
        for key in due {
            self.update_set(set, &key, now);
        }
        if let (Some(index), Some(pulls)) = (self.sets.get(set), self.pulls.get_mut(set)) {
            pulls.renew(&index.target);
        }
    }

    /// How often a pod was assessed: what changes cost.
    pub fn assessments(&self) -> u64 {
        self.assessments
    }

    fn touch(&mut self, key: &PodKey, old: Option<&PodView>, now: Timestamp) -> Vec<String> {
        let current = self.pods.get(key).into_iter().flat_map(|pod| pod.marks.keys().cloned());
        let before = old.into_iter().flat_map(|pod| pod.marks.keys().cloned());
        let sets: BTreeSet<String> = current.chain(before).collect();
        sets.into_iter().filter(|set| self.update_set(set, key, now)).collect()
    }

    fn update_set(&mut self, set: &str, key: &PodKey, now: Timestamp) -> bool {
        let Some(index) = self.sets.get_mut(set) else { return false };
        self.assessments += 1;
        let pod = self.pods.get(key).map(AsRef::as_ref);
        let node = pod.and_then(|pod| pod.node.as_deref());
        let refusals = self.in_flight.get_mut(set).map(|in_flight| &mut in_flight.refusals);
        let stands = |refusal: &Refusal| pod.is_some_and(|pod| refusal.stands(pod, &index.target, now));
        let refused = refusals.and_then(|refusals| {
            if refusals.get(key).is_some_and(|refusal| !stands(refusal)) {
                refusals.remove(key);
            }
            refusals.get(key)
        });
        let context = PodContext {
            namespace_labels: self.namespaces.get(&key.namespace),
            restarts_native_sidecars: node.and_then(|node| self.nodes.get(node)).copied(),
            can_resize: !self.cannot_resize,
            refused,
            now,
        };
        index.update(key, pod, &context)
    }

    fn rebuild(&mut self, target: Arc<Target>, now: Timestamp) {
        let name = target.set.clone();
        self.sets.insert(name.clone(), SetState::new(target));
        let marked = self.pods.values().filter(|pod| pod.marks.contains_key(&name));
        let keys: Vec<PodKey> = marked.map(|pod| pod.key.clone()).collect();
        for key in keys {
            self.update_set(&name, &key, now);
        }
    }
}
