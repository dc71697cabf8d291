//! All injected pods, by set. The only mutable state of the upgrade side; everything in it can be rebuilt from the API.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::v1beta1::Eviction;
use crate::core::base::lists::List;
use crate::core::base::text::bounded;
use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::context::{PodContext, Refusal};
use crate::core::rollout::assess::{Assessment, assess};
use crate::core::rollout::inflight::InFlight;
use crate::core::rollout::state::pods::Pods;
use crate::core::rollout::state::pulls::{Pull, PullResult, PullResults};
use crate::core::rollout::state::set::RolloutState;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;

/// A pod whose patch got no clear answer is left alone for this long. The client has given the request up by then, and
/// the apiserver ends what it does for a client that is gone.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    pub(crate) pods: Pods,
    sets: BTreeMap<String, RolloutState>,
    beside: Beside,
    reading: Option<Reading>,
    in_flight: HashMap<String, InFlight>,
    assessments: u64,
}

/// What the state of pods depends on besides them and their sets.
#[derive(Debug, Default)]
struct Beside {
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// Whether the node's kubelet restarts native sidecars for a new image.
    nodes: HashMap<String, bool>,
    /// The apiserver does not let resources of running pods be changed.
    cannot_resize: bool,
}

impl Beside {
    fn context<'a>(&'a self, pod: &PodView, refused: Option<&'a Refusal>, now: Timestamp) -> PodContext<'a> {
        PodContext {
            namespace_labels: self.namespaces.get(&pod.key.namespace),
            restarts_native_sidecars: pod.node.as_deref().and_then(|node| self.nodes.get(node)).copied(),
            can_resize: !self.cannot_resize,
            refused,
            now,
        }
    }
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
    pub fn apply(&mut self, mut pod: PodView, now: Timestamp) -> Vec<String> {
        let known = self.pods.get(&pod.key);
        if known.is_some_and(|known| known.resource_version > pod.resource_version) {
            return Vec::new();
        }
        pod.set_clock(known.map(Arc::as_ref), now);
        let (key, old) = self.pods.insert(pod);
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
        let gone = self.pods.iter().filter(|pod| !listed.contains(&pod.uid));
        unwatched.into_iter().chain(gone.map(|pod| (pod.key.clone(), pod.uid.clone()))).collect()
    }

    /// Takes note that a pod is gone. A later pod of the same name stays.
    pub fn remove(&mut self, key: &PodKey, uid: &str, now: Timestamp) -> Vec<String> {
        if self.pods.get(key).is_none_or(|pod| pod.uid != uid) {
            return Vec::new();
        }
        if let Some(reading) = &mut self.reading {
            reading.removed.insert(uid.to_owned());
        }
        match self.pods.remove(key) {
            Some((key, old)) => self.touch(&key, Some(&old), now),
            None => Vec::new(),
        }
    }

    /// The pod as last seen.
    pub fn get(&self, key: &PodKey) -> Option<Arc<PodView>> {
        self.pods.get(key).cloned()
    }

    /// The failed pods of a set, and why.
    pub(crate) fn failed(&self, set: &str) -> impl Iterator<Item = (&PodView, &str)> {
        let index = self.sets.get(set).into_iter();
        index.flat_map(|index| index.failed().filter_map(|(key, why)| Some((self.pods.get(key)?.as_ref(), why))))
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.iter()
    }

    /// Takes note of what a set wants. All its pods are due if that concerns them; see [`Index::assess_due`]. Then what was
    /// known of them is returned: freeing a row per pod takes long, so the caller does it after the lock.
    pub(crate) fn set_target(&mut self, target: Target) -> Option<RolloutState> {
        let Some(set) = self.sets.get_mut(&target.set) else {
            self.sets.insert(target.set.clone(), RolloutState::new(Arc::new(target), PullResults::default()));
            return None;
        };
        if *set.target == target {
            return None;
        }
        if set.target.says_the_same_of_pods(&target) {
            set.target = Arc::new(target);
            return None;
        }
        Some(set.restart(target))
    }

    /// The same, and all pods of the set are assessed at once.
    pub fn configure(&mut self, target: Target, now: Timestamp) {
        let name = target.set.clone();
        self.set_target(target);
        self.assess_due(&name, now, usize::MAX);
    }

    /// Assesses at most `limit` of the pods that are due: all those of a set that wants something else now, and those of a
    /// node or namespace that changed. True if none is left: before that nothing is planned for the set.
    pub(crate) fn assess_due(&mut self, set: &str, now: Timestamp, limit: usize) -> bool {
        let Some(state) = self.sets.get_mut(set) else { return true };
        let due = state.due.take(limit, |behind, limit| self.pods.of_set(set, behind, limit));
        for key in due {
            self.update_set(set, &key, now);
        }
        self.set(set).is_some()
    }

    /// Forgets a set that is gone. Returns what was known of its pods, as [`Self::set_target`] does.
    pub(crate) fn forget(&mut self, set: &str) -> Option<RolloutState> {
        self.in_flight.remove(set);
        self.sets.remove(set)
    }

    /// Takes note of a namespace's labels, `None` when it is gone. Returns the sets to reconcile: those of which pods are
    /// due.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) -> Vec<String> {
        let namespaces = &mut self.beside.namespaces;
        let old = match &labels {
            Some(labels) => namespaces.insert(name.to_owned(), labels.clone()),
            None => namespaces.remove(name),
        };
        let selected = |target: &Target, labels: Option<&_>| target.in_namespace(labels);
        make_due(&mut self.sets, self.pods.of_namespace(name), |set, _| {
            selected(&set.target, old.as_ref()) != selected(&set.target, labels.as_ref())
        })
    }

    /// Takes note of a node's kubelet. Returns the sets to reconcile: those of which pods are due.
    pub fn set_node(&mut self, name: &str, restarts_native_sidecars: Option<bool>) -> Vec<String> {
        let old = match restarts_native_sidecars {
            Some(able) => self.beside.nodes.insert(name.to_owned(), able),
            None => self.beside.nodes.remove(name),
        };
        // A node that is gone may come back without its images.
        let is_gone = restarts_native_sidecars.is_none();
        let forgets = |set: &mut RolloutState| is_gone && set.pulls.forget_node(name);
        let sets = self.sets.iter_mut().filter_map(|(of, set)| forgets(set).then(|| of.clone()));
        let forgetful: BTreeSet<String> = sets.collect();
        make_due(&mut self.sets, self.pods.of_node(name), |set, pod| {
            // For no other pods it matters what the kubelet does with native sidecars.
            let has_init_containers = pod.containers.iter().any(|container| container.list == List::Init);
            (old != restarts_native_sidecars && has_init_containers) || forgetful.contains(&set.target.set)
        })
    }

    /// Takes note of whether the apiserver has the subresource `resize` of pods (Kubernetes 1.33), which is taken as given.
    pub(crate) fn set_can_resize(&mut self, can_resize: bool) {
        self.beside.cannot_resize = !can_resize;
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
        let message = bounded(message);
        let refusal = Refusal { uid, resource_version, revision, retried_at, message, until };
        self.in_flight_mut(set).refusals.insert(pod.key.clone(), refusal);
        self.pods.key(&pod.key).cloned().map(|key| self.touch(&key, None, now)).unwrap_or_default()
    }

    /// `None` for a set that is not known, or of which pods are still due.
    pub fn set(&self, name: &str) -> Option<&RolloutState> {
        self.sets.get(name).filter(|set| set.due.is_empty())
    }

    pub(crate) fn in_flight(&self, set: &str) -> Option<&InFlight> {
        self.in_flight.get(set)
    }

    pub(crate) fn in_flight_mut(&mut self, set: &str) -> &mut InFlight {
        self.in_flight.entry(set.to_owned()).or_default()
    }

    /// Requests of a plan are about to be sent: evictions count them until the next plan, which is made when they are
    /// answered.
    pub(crate) fn sending(&mut self, set: &str, pods: Vec<PodKey>, persisted: &PersistedProgress) {
        let in_flight = self.in_flight_mut(set);
        (in_flight.planned, in_flight.persisted) = (pods, persisted.clone());
    }

    /// The evictions of a set: as they are recorded, and one that is about to be.
    pub(crate) fn set_evictions(&mut self, set: &str, evictions: &[Eviction]) {
        let in_flight = self.in_flight_mut(set);
        let before = std::mem::replace(&mut in_flight.evictions, evictions.to_vec());
        // What is over since the last plan, which knew it from the status, holds nothing any more.
        let has = |all: &[Eviction], eviction: &Eviction| all.iter().any(|other| other.pod_uid == eviction.pod_uid);
        in_flight.persisted.evictions.retain(|known| !has(&before, known) || has(evictions, known));
    }

    /// What was under way when this replica last led is not any more, or is in the status.
    pub(crate) fn forget_in_flight(&mut self) {
        for in_flight in self.in_flight.values_mut() {
            (in_flight.planned, in_flight.evictions) = (Vec::new(), Vec::new());
        }
    }

    /// What became of pulling an image on the node of `pull`.
    pub(crate) fn note_pull(&mut self, pull: &Pull, image: &str, outcome: PullResult, now: Timestamp) {
        let Some(set) = self.sets.get_mut(&pull.set) else { return };
        set.pulls.note(&set.target, pull, image, outcome, now);
        let on_node = self.pods.of_node(&pull.node).filter(|(_, pod)| pod.marks.contains_key(&pull.set));
        for key in on_node.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.update_set(&pull.set, &key, now);
        }
    }

    /// Forgets all pulls: another replica leads.
    pub(crate) fn forget_pulls(&mut self) {
        self.sets.values_mut().for_each(RolloutState::forget_pulls);
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
        let context = self.beside.context(pod, None, now);
        assess(pod, &self.sets.get(set)?.target, &context)
    }

    /// Time has passed: assesses the pods of a set whose state may have changed with it, and all that are due.
    pub(crate) fn advance(&mut self, set: &str, now: Timestamp) {
        self.assess_due(set, now, usize::MAX);
        let timed = self.sets.get(set).map(|set| set.timed_out(now)).unwrap_or_default();
        for key in timed {
            self.update_set(set, &key, now);
        }
    }

    /// How often a pod was assessed: what changes cost.
    pub fn assessments(&self) -> u64 {
        self.assessments
    }

    fn touch(&mut self, key: &Arc<PodKey>, old: Option<&PodView>, now: Timestamp) -> Vec<String> {
        let current = self.pods.get(key).into_iter().flat_map(|pod| pod.marks.keys().cloned());
        let before = old.into_iter().flat_map(|pod| pod.marks.keys().cloned());
        let sets: BTreeSet<Arc<str>> = current.chain(before).collect();
        sets.into_iter().filter(|set| self.update_set(set, key, now)).map(|set| set.to_string()).collect()
    }

    fn update_set(&mut self, set: &str, key: &Arc<PodKey>, now: Timestamp) -> bool {
        let Some(index) = self.sets.get_mut(set) else { return false };
        self.assessments += 1;
        let pod = self.pods.get(key).map(AsRef::as_ref);
        let refusals = self.in_flight.get_mut(set).map(|in_flight| &mut in_flight.refusals);
        let stands = |refusal: &Refusal| pod.is_some_and(|pod| refusal.stands(pod, &index.target, now));
        let refused = refusals.and_then(|refusals| {
            if refusals.get(key).is_some_and(|refusal| !stands(refusal)) {
                refusals.remove(key);
            }
            refusals.get(key)
        });
        index.update(key, pod.map(|pod| (pod, self.beside.context(pod, refused, now))))
    }
}

/// These pods are due in the sets that are concerned. Returns the names of those sets.
fn make_due<'a>(
    sets: &mut BTreeMap<String, RolloutState>,
    pods: impl Iterator<Item = (&'a Arc<PodKey>, &'a Arc<PodView>)>,
    is_concerned: impl Fn(&RolloutState, &PodView) -> bool,
) -> Vec<String> {
    let mut concerned = BTreeSet::new();
    for (key, pod) in pods {
        for set in pod.marks.keys() {
            if let Some(state) = sets.get_mut(&**set)
                && is_concerned(state, pod)
            {
                state.due.pods.push(key.clone());
                concerned.insert(set);
            }
        }
    }
    concerned.into_iter().map(ToString::to_string).collect()
}
