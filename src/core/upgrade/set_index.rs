//! The pods of one set, sorted by what can be done with them, with running counters: the cost of a pod event does not
//! grow with the number of pods.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::progress::{Progress, after, deadline, progress};
use super::rollout::Rollout;
use crate::core::pod::{Mark, PodKey, PodView, Update};
use crate::core::revision::{Change, List, Sidecar};

/// Where a pod stands in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Behind the target, and can be patched.
    Outdated,
    /// Behind the target, and cannot be patched; the text says why.
    NotInPlace(String),
    /// At the target, its update neither done nor failed.
    Undecided,
    /// At the target and done, but the pod is not ready.
    Unready,
    /// At the target, done, and the pod is ready.
    Available,
    /// At the target, and its update failed; the text says why.
    Failed(String),
    /// Behind the target, and the apiserver refused the patch; the text is its answer.
    Refused(String),
}

/// A pod that still has another image right after our patch is left alone for this long: an admission webhook that
/// rewrites images would otherwise be fought without end.
const REWRITTEN: SignedDuration = SignedDuration::from_secs(60);

/// Order of upgrades within a queue, Kubernetes' `ActivePods` rank: pods that cost least go first.
type Rank = (bool, u8, Reverse<Timestamp>, Reverse<i32>, Reverse<Timestamp>);

/// What one pod adds to the counters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) ready: bool,
    /// Was ready when patched and is not available now: costs one of maxUnavailable.
    pub(super) holds_slot: bool,
    /// Was not ready when patched and is undecided or failed.
    pub(super) fills_cap: bool,
    /// `updateStrategy.selector` matches.
    selected: bool,
    rank: Rank,
    check_at: Option<Timestamp>,
}

/// Which of the three queues of [`SetIndex`] an outdated pod waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Has its place in a budget already: patching it costs nothing more.
    Held,
    /// Not ready anyway.
    Unready,
    /// Ready.
    Ready,
}

/// Numbers of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that belong to the set.
    pub matched: usize,
    /// At the target.
    pub updated: usize,
    /// Ready, wherever they stand.
    pub ready: usize,
    /// At the target and available.
    pub updated_ready: usize,
    /// Update failed, or the patch was refused.
    pub failed: usize,
    /// At the target, update undecided.
    pub undecided: usize,
    /// Cannot be patched.
    pub not_in_place: usize,
    /// Outdated, but outside `updateStrategy.selector`.
    pub outside: usize,
    /// Outdated and selected: the candidates.
    pub outdated: usize,
    /// Cost one of maxUnavailable each.
    pub slots: usize,
    /// Of these, done with their update and only not ready: they may recover by themselves.
    pub recovering: usize,
    /// Were unready when patched, and are undecided or failed.
    pub capped: usize,
}

/// The apiserver did not accept a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Version of the pod that was patched.
    pub(super) resource_version: u64,
    /// Revision it was to get.
    pub(super) revision: String,
    pub(super) message: String,
    /// Tried again then; `None`: not before the pod changes.
    pub(super) until: Option<Timestamp>,
}

/// Everything a pod's state depends on besides the pod and the rollout.
pub(super) struct Surroundings<'a> {
    pub(super) namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// `None` while the node is not known.
    pub(super) restarts_native_sidecars: Option<bool>,
    /// Why the last patch of exactly this version of the pod to this revision was not accepted.
    pub(super) refused: Option<&'a Refusal>,
    pub(super) now: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SetIndex {
    pub(super) rollout: Arc<Rollout>,
    pub(super) counts: Counts,
    entries: HashMap<PodKey, Entry>,
    queues: [BTreeSet<(Rank, PodKey)>; 3],
    pub(super) slot_holders: BTreeSet<PodKey>,
    pub(super) failed: BTreeSet<PodKey>,
    pub(super) not_in_place: BTreeMap<String, usize>,
    timers: BTreeSet<(Timestamp, PodKey)>,
}

impl SetIndex {
    pub(super) fn new(rollout: Arc<Rollout>) -> Self {
        Self {
            rollout,
            counts: Counts::default(),
            entries: HashMap::new(),
            queues: Default::default(),
            slot_holders: BTreeSet::new(),
            failed: BTreeSet::new(),
            not_in_place: BTreeMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Takes note of a pod, or of its absence. True if that changed anything here.
    pub(super) fn update(&mut self, key: &PodKey, pod: Option<&PodView>, around: &Surroundings<'_>) -> bool {
        let entry = pod.and_then(|pod| entry(pod, &self.rollout, around));
        if self.entries.get(key) == entry.as_ref() {
            return false;
        }
        if let Some(old) = self.entries.remove(key) {
            self.account(key, &old, false);
        }
        if let Some(entry) = entry {
            self.account(key, &entry, true);
            self.entries.insert(key.clone(), entry);
        }
        true
    }

    pub(super) fn entry(&self, key: &PodKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Outdated pods of one queue, first to go first.
    pub(super) fn queue(&self, queue: Queue) -> impl Iterator<Item = &PodKey> {
        self.queues[queue as usize].iter().map(|(_, key)| key)
    }

    /// Pods whose state may have changed with time alone.
    pub(super) fn due(&self, now: Timestamp) -> Vec<PodKey> {
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect()
    }

    /// When the next pod is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn account(&mut self, key: &PodKey, entry: &Entry, add: bool) {
        let count = |field: &mut usize, on: bool| {
            if on {
                *field = if add { *field + 1 } else { *field - 1 };
            }
        };
        let counts = &mut self.counts;
        let state = &entry.state;
        let behind = matches!(state, State::Outdated | State::NotInPlace(_) | State::Refused(_));
        let failed = matches!(state, State::Failed(_) | State::Refused(_));
        count(&mut counts.matched, true);
        count(&mut counts.updated, !behind);
        count(&mut counts.ready, entry.ready);
        count(&mut counts.updated_ready, *state == State::Available);
        count(&mut counts.failed, failed);
        count(&mut counts.undecided, *state == State::Undecided);
        count(&mut counts.not_in_place, matches!(state, State::NotInPlace(_)));
        count(&mut counts.outside, *state == State::Outdated && !entry.selected);
        count(&mut counts.outdated, *state == State::Outdated && entry.selected);
        count(&mut counts.slots, entry.holds_slot);
        count(&mut counts.recovering, entry.holds_slot && *state == State::Unready);
        count(&mut counts.capped, entry.fills_cap);
        if let State::NotInPlace(reason) = state {
            let pods = self.not_in_place.entry(reason.clone()).or_default();
            count(pods, true);
            if *pods == 0 {
                self.not_in_place.remove(reason);
            }
        }
        let queued = (*state == State::Outdated && entry.selected).then(|| entry.queue() as usize);
        if let Some(queue) = queued {
            set_member(&mut self.queues[queue], (entry.rank, key.clone()), add);
        }
        if entry.holds_slot {
            set_member(&mut self.slot_holders, key.clone(), add);
        }
        if failed {
            set_member(&mut self.failed, key.clone(), add);
        }
        if let Some(at) = entry.check_at {
            set_member(&mut self.timers, (at, key.clone()), add);
        }
    }
}

impl Entry {
    fn queue(&self) -> Queue {
        match (self.holds_slot, self.ready, self.fills_cap) {
            (true, _, _) | (false, false, true) => Queue::Held,
            // Also a pod that was unready when last patched: it is ready now, so patching it costs a slot.
            (false, true, _) => Queue::Ready,
            (false, false, false) => Queue::Unready,
        }
    }
}

fn set_member<T: Ord>(set: &mut BTreeSet<T>, member: T, add: bool) {
    if add {
        set.insert(member);
    } else {
        set.remove(&member);
    }
}

/// `None` for a pod that does not belong to the set, or has ended.
fn entry(pod: &PodView, rollout: &Rollout, around: &Surroundings<'_>) -> Option<Entry> {
    let mark = pod.marks.get(&rollout.set)?;
    let in_namespace = match &rollout.namespace_selector {
        Some(selector) => around.namespace_labels.is_some_and(|labels| selector.matches(labels)),
        None => true,
    };
    if !pod.is_active() || !in_namespace || !rollout.selector.matches(&pod.labels) {
        return None;
    }
    let update = mark.update.as_ref();
    let judged = update.map(|update| progress(pod, update, &rollout.strategy, around.now));
    let unfinished = judged.as_ref().is_some_and(|progress| *progress != Progress::Done);
    let was_ready = update.is_some_and(|update| update.was_ready);
    let (state, check_at) = state(pod, mark, judged.as_ref(), rollout, around);
    Some(Entry {
        state,
        ready: pod.ready,
        holds_slot: was_ready && (unfinished || lost_readiness(pod, mark, rollout)),
        fills_cap: update.is_some() && !was_ready && unfinished && pod.node.is_some(),
        selected: rollout.strategy.selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels)),
        rank: rank(pod),
        check_at: match judged {
            Some(Progress::Undecided(at)) => at.into_iter().chain(check_at).min(),
            _ => check_at,
        },
    })
}

/// The pod is not ready after an update, which may be to blame. Once a revision is stable, its updates are not.
pub(super) fn lost_readiness(pod: &PodView, mark: &Mark, rollout: &Rollout) -> bool {
    !pod.ready && mark.update.as_ref().is_some_and(|update| rollout.stable.as_ref() != Some(&update.revision))
}

/// The state, and when time alone may change it.
fn state(
    pod: &PodView,
    mark: &Mark,
    judged: Option<&Progress>,
    rollout: &Rollout,
    around: &Surroundings<'_>,
) -> (State, Option<Timestamp>) {
    let update = mark.update.as_ref().filter(|update| update.revision == rollout.revision);
    if mark.revision != rollout.revision || !has_images(pod, &rollout.sidecars) {
        return behind(pod, mark, update, rollout, around);
    }
    match judged.filter(|_| update.is_some()) {
        Some(Progress::Failed(reason)) if rollout.is_rolling() => (State::Failed(reason.clone()), None),
        Some(Progress::Undecided(_)) if pod.node.is_some() => (State::Undecided, None),
        _ if pod.ready => (State::Available, None),
        _ => unready(pod, update, rollout, around.now),
    }
}

fn behind(
    pod: &PodView,
    mark: &Mark,
    update: Option<&Update>,
    rollout: &Rollout,
    around: &Surroundings<'_>,
) -> (State, Option<Timestamp>) {
    if let Some(reason) = cannot_patch(pod, mark, rollout, around) {
        return (State::NotInPlace(reason), None);
    }
    if let Some(refusal) = around.refused {
        return (State::Refused(refusal.message.clone()), refusal.until);
    }
    let patient_until = update.map(|update| after(update.at, REWRITTEN)).filter(|until| around.now < *until);
    if mark.revision == rollout.revision && patient_until.is_some() {
        let reason = "the image differs right after it was set: something else sets it, such as an admission webhook";
        return (State::NotInPlace(reason.to_owned()), patient_until);
    }
    (State::Outdated, None)
}

/// A pod that lost its readiness with the update and did not get it back in time has failed, container ready or not.
fn unready(pod: &PodView, update: Option<&Update>, rollout: &Rollout, now: Timestamp) -> (State, Option<Timestamp>) {
    let Some(update) = update.filter(|update| update.was_ready && rollout.is_rolling()) else {
        return (State::Unready, None);
    };
    let deadline = deadline(update, &rollout.strategy);
    let since = pod.ready_changed.unwrap_or(update.at);
    if now < deadline {
        (State::Unready, Some(deadline))
    } else if since <= deadline {
        (State::Failed("the pod is not ready by podUpdateTimeoutSeconds".to_owned()), None)
    } else {
        (State::Unready, None)
    }
}

fn has_images(pod: &PodView, sidecars: &[Sidecar]) -> bool {
    sidecars.iter().all(|sidecar| has_image(pod, sidecar))
}

/// Of the twins of a hot upgrade one has the image, and the other idles.
fn has_image(pod: &PodView, sidecar: &Sidecar) -> bool {
    let has = |name: &String| pod.container(name).is_some_and(|container| container.image == sidecar.image);
    sidecar.container_names().iter().any(has)
}

/// The chain of checks before a patch; the first that applies is the reason.
fn cannot_patch(pod: &PodView, mark: &Mark, rollout: &Rollout, around: &Surroundings<'_>) -> Option<String> {
    match rollout.changes.get(&mark.revision) {
        None => return Some("RevisionUnknown: the pod's revision is not in the set's history".to_owned()),
        Some(Change::NotInPlace(reason)) => return Some(reason.clone()),
        Some(Change::InPlace) => {}
    }
    let mut to_restart =
        rollout.sidecars.iter().filter(|sidecar| sidecar.long_running).filter(|sidecar| !has_image(pod, sidecar));
    to_restart.find_map(|sidecar| match pod.container(&sidecar.name) {
        None if sidecar.hot => {
            Some(format!("neither twin of {} has its image, and handing over to one is not built yet", sidecar.name))
        }
        None => Some(format!("the pod has no container {}", sidecar.name)),
        // The kubelet stops it for the new image, and does not start it again if the pull fails (KEP-753 discussion;
        // observed on 1.35).
        Some(_) if sidecar.list == List::Ordinary && !pod.restarts_always => {
            Some("an ordinary sidecar in a pod whose restartPolicy is not Always is not restarted safely".to_owned())
        }
        // Restarted for a new image only by kubelets from 1.32 on (kubernetes#126525).
        Some(_) if sidecar.list == List::Init && pod.node.is_some() => match around.restarts_native_sidecars {
            Some(true) => None,
            Some(false) => {
                Some("the node's kubelet is older than 1.32 and does not restart native sidecars".to_owned())
            }
            None => Some("the node of the pod is not known yet".to_owned()),
        },
        Some(_) => None,
    })
}

fn rank(pod: &PodView) -> Rank {
    let phase = match pod.phase.as_str() {
        "Pending" | "" => 0,
        "Running" => 2,
        _ => 1,
    };
    let since = pod.ready_changed.unwrap_or(pod.created);
    (pod.node.is_some(), phase, Reverse(since), Reverse(pod.restarts()), Reverse(pod.created))
}
