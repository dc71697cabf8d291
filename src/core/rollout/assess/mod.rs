//! Where one pod stands in a rollout, and what it costs.

pub mod attempt;
pub mod created;
pub(crate) mod evidence;
pub mod resize;
pub(crate) mod twins;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::base::time::after;
use crate::core::pod::{ContainerView, Mark, PodView, Update, readiness};
use crate::core::revision::{Change, List, Sidecar};
use crate::core::rollout::assess::attempt::{Progress, deadline, has_seen, runs_on};
use crate::core::rollout::assess::twins::Need;
use crate::core::rollout::order::rules::Standing;
use crate::core::rollout::plan::evict::{Fate, fate};
use crate::core::rollout::target::Rollout;

/// Where a pod stands in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Behind the target, and can be patched.
    Outdated,
    /// Behind the target, and cannot be patched.
    NotInPlace(Obstacle),
    /// At the target, its update neither done nor failed.
    Undecided,
    /// At the target, and of a hot sidecar's twins the one that has handed over is to be reset.
    ResetDue,
    /// At the target and done, but the pod is not ready.
    Unready,
    /// At the target, done, and the pod is ready.
    Available,
    /// At the target, and its update failed; the text says why.
    Failed(String),
    /// Behind the target, and the apiserver refused the patch; the text is its answer.
    Refused(String),
    /// A patch got no clear answer and may still be carried out; the text is what was heard.
    Unanswered(String),
}

/// Why a pod cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// Whether something can be done about it.
    pub kind: ObstacleKind,
    /// For people, for example `containers[agent].env changed`.
    pub text: String,
}

/// What a pod that cannot be patched suffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObstacleKind {
    /// The revisions differ in what no running pod can change: new pods are the only way.
    Template,
    /// The pod itself, for example its `restartPolicy` or its node's kubelet.
    Pod,
    /// It passes by itself.
    Passing,
}

impl Obstacle {
    pub(crate) fn new(kind: ObstacleKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// A pod that still has another image right after our patch is left alone for this long: an admission webhook that
/// rewrites images would otherwise be fought without end.
const REWRITTEN: SignedDuration = SignedDuration::from_secs(60);

/// Order of upgrades within a queue, Kubernetes' `ActivePods` rank: pods that cost least go first.
pub(crate) type Rank = (bool, u8, Reverse<Timestamp>, Reverse<i32>, Reverse<Timestamp>);

/// What one pod adds to the counters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) state: State,
    pub(crate) ready: bool,
    /// Not ready, but it was a moment ago: costs what a ready pod costs.
    pub(crate) in_hiccup: bool,
    /// Was ready when patched and is not available now: costs one of maxUnavailable.
    pub(crate) holds_slot: bool,
    /// Was not ready when patched and is undecided or failed.
    pub(crate) fills_cap: bool,
    /// `updateStrategy.selector` matches.
    pub(crate) selected: bool,
    pub(crate) rank: Rank,
    /// Where the strategy puts it among the others.
    pub(crate) standing: Standing,
    /// What eviction could do for it.
    pub(crate) fate: Option<Fate>,
    pub(crate) check_at: Option<Timestamp>,
    /// What an unfinished update waits for, if the kubelet says so.
    pub(crate) waits_for: Option<String>,
}

impl Entry {
    /// It is ready, or was a moment ago: to touch it costs a slot.
    pub(crate) fn counts_as_ready(&self) -> bool {
        self.ready || self.in_hiccup
    }
}

/// The apiserver did not accept a patch, or did not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// UID of the pod that was patched.
    pub(crate) uid: String,
    /// Its version.
    pub(crate) resource_version: u64,
    /// Revision it was to get.
    pub(crate) revision: String,
    /// [`Rollout::retried_at`] then, in seconds, as the status keeps it.
    pub(crate) retried_at: Option<i64>,
    pub(crate) message: String,
    /// No clear answer: it may be carried out until then, and is tried again after. `None`: it was refused for good, and
    /// is not tried again before the pod changes.
    pub(crate) until: Option<Timestamp>,
}

impl Refusal {
    /// Whether it still says something about this pod and this target.
    pub(crate) fn stands(&self, pod: &PodView, rollout: &Rollout, now: Timestamp) -> bool {
        if let Some(until) = self.until {
            // Neither a newer status of the pod nor another target keeps a request from being carried out.
            return pod.uid == self.uid && now < until;
        }
        let is_retried = rollout.retried_at.map(Timestamp::as_second) != self.retried_at;
        pod.resource_version == self.resource_version && rollout.revision == self.revision && !is_retried
    }
}

/// Everything a pod's state depends on besides the pod and the rollout.
pub(crate) struct Surroundings<'a> {
    pub(crate) namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// `None` while the node is not known.
    pub(crate) restarts_native_sidecars: Option<bool>,
    /// The apiserver lets resources of running pods be changed.
    pub(crate) can_resize: bool,
    /// Why the last patch of exactly this version of the pod to this revision was not accepted.
    pub(crate) refused: Option<&'a Refusal>,
    pub(crate) now: Timestamp,
}

/// `None` for a pod that does not belong to the set, or has ended.
pub(crate) fn entry(pod: &PodView, rollout: &Rollout, around: &Surroundings<'_>) -> Option<Entry> {
    let mark = pod.marks.get(&rollout.set)?;
    let in_namespace = match &rollout.namespace_selector {
        Some(selector) => around.namespace_labels.is_some_and(|labels| selector.matches(labels)),
        None => true,
    };
    if !pod.is_active() || !in_namespace || !rollout.selector.matches(&pod.labels) {
        return None;
    }
    let update = mark.update.as_ref();
    let judged = judge(pod, mark, rollout, around.now);
    let was_ready = update.is_some_and(|update| update.was_ready);
    let (state, check_at) = state(pod, mark, judged.as_ref(), rollout, around);
    let unanswered = matches!(state, State::Unanswered(_));
    let undone = judged.as_ref().is_some_and(|progress| *progress != Progress::Done);
    let hiccup_ends = readiness::ends(pod, around.now);
    let counts_as_ready = pod.ready || hiccup_ends.is_some();
    let unfinished = state == State::ResetDue || (undone && !is_over(pod, mark, &state, rollout, around.now));
    Some(Entry {
        fate: fate(pod, &state, rollout),
        state,
        ready: pod.ready,
        in_hiccup: hiccup_ends.is_some(),
        holds_slot: was_ready && (unfinished || lost_readiness(pod, mark, rollout)) || (unanswered && counts_as_ready),
        fills_cap: update.is_some() && !was_ready && unfinished && pod.node.is_some()
            || (unanswered && !counts_as_ready),
        selected: rollout.strategy.selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels)),
        rank: rank(pod),
        standing: Standing::new(pod, &rollout.strategy),
        waits_for: update.filter(|_| unfinished).and_then(|update| {
            second_try(pod, mark, rollout, around.now)
                .or_else(|| resize::waits_for(pod, update))
                .or_else(|| evidence::waits_for(pod, update))
        }),
        check_at: match judged {
            Some(Progress::Undecided(at)) => at.into_iter().chain(check_at).chain(hiccup_ends).min(),
            _ => check_at.into_iter().chain(hiccup_ends).min(),
        },
    })
}

/// The progress of an update. One that had failed before a retry is given the whole timeout again.
fn judge(pod: &PodView, mark: &Mark, rollout: &Rollout, now: Timestamp) -> Option<Progress> {
    let judged = twins::judge(pod, mark, rollout, now)?;
    let second_chance = mark.update.as_ref().and_then(|update| retry_ends(update, rollout)).filter(|end| now < *end);
    match (&judged, second_chance) {
        (Progress::Failed(_), Some(end)) => Some(Progress::Undecided(Some(end))),
        _ => Some(judged),
    }
}

/// Why an update had failed that is given the whole timeout again, and until when.
fn second_try(pod: &PodView, mark: &Mark, rollout: &Rollout, now: Timestamp) -> Option<String> {
    let end = retry_ends(mark.update.as_ref()?, rollout).filter(|end| now < *end)?;
    match twins::judge(pod, mark, rollout, now) {
        Some(Progress::Failed(reason)) => Some(format!("{reason}, tried again until {end:.0}")),
        _ => None,
    }
}

/// When the second chance of an update ends; `None` if it has none.
fn retry_ends(update: &Update, rollout: &Rollout) -> Option<Timestamp> {
    rollout.retry_ends().filter(|_| rollout.retried_at.is_some_and(|at| update.at < at))
}

/// The pod is not ready after an update, which may be to blame. Once a revision is stable, its updates are not.
pub(crate) fn lost_readiness(pod: &PodView, mark: &Mark, rollout: &Rollout) -> bool {
    !pod.ready && mark.update.as_ref().is_some_and(|update| rollout.stable.as_ref() != Some(&update.revision))
}

/// The time of an update is over, the kubelet has seen it, the pod is ready, and nothing is expected of it any more: it costs nothing. The update
/// was to a stable revision, whatever became of it; or it has changed nothing, and no other can follow it: a kubelet has
/// nothing to do for an image that was changed by hand and set back before it looked.
fn is_over(pod: &PodView, mark: &Mark, state: &State, rollout: &Rollout, now: Timestamp) -> bool {
    let late =
        |update: &&Update| pod.ready && now >= deadline(update, &rollout.strategy) && has_seen(pod, update.generation);
    mark.update.as_ref().filter(late).is_some_and(|update| {
        let is_stable = rollout.stable.as_ref() == Some(&update.revision);
        is_stable || (matches!(state, State::NotInPlace(_)) && runs_on(pod, update))
    })
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
    let now = around.now;
    let has_images = has_images(pod, mark, rollout, now);
    if mark.revision != rollout.revision || !has_images || resize::is_unfinished(pod, mark, rollout) {
        return behind(pod, mark, update, rollout, around);
    }
    match judged.filter(|_| update.is_some()) {
        Some(Progress::Failed(reason)) if rollout.is_rolling() => (State::Failed(reason.clone()), None),
        Some(Progress::Undecided(_)) if pod.node.is_some() => (State::Undecided, None),
        _ if twins::is_reset_due(pod, mark, rollout, now) => reset_due(around),
        _ if let Some(born) = created::state(pod, update, rollout, now) => born,
        _ if pod.ready => (State::Available, None),
        _ => unready(pod, update, rollout, now),
    }
}

fn reset_due(around: &Surroundings<'_>) -> (State, Option<Timestamp>) {
    match around.refused {
        Some(refusal) => (State::Failed(format!("PatchRefused: {}", refusal.message)), refusal.until),
        None => (State::ResetDue, None),
    }
}

fn behind(
    pod: &PodView,
    mark: &Mark,
    update: Option<&Update>,
    rollout: &Rollout,
    around: &Surroundings<'_>,
) -> (State, Option<Timestamp>) {
    if let Some(refusal) = around.refused.filter(|refusal| refusal.until.is_some()) {
        return (State::Unanswered(refusal.message.clone()), refusal.until);
    }
    if let Some(obstacle) = cannot_patch(pod, mark, rollout, around) {
        return (State::NotInPlace(obstacle), None);
    }
    if let Some(refusal) = around.refused {
        return (State::Refused(refusal.message.clone()), None);
    }
    let patient_until = update.map(|update| after(update.at, REWRITTEN)).filter(|until| around.now < *until);
    if mark.revision == rollout.revision && !has_images(pod, mark, rollout, around.now) && patient_until.is_some() {
        let text = "the image differs right after it was set: something else sets it, such as an admission webhook";
        return (State::NotInPlace(Obstacle::new(ObstacleKind::Passing, text)), patient_until);
    }
    (State::Outdated, None)
}

/// A pod that lost its readiness with the update and did not get it back in time has failed, container ready or not.
fn unready(pod: &PodView, update: Option<&Update>, rollout: &Rollout, now: Timestamp) -> (State, Option<Timestamp>) {
    let Some(update) = update.filter(|update| update.was_ready && rollout.is_rolling()) else {
        return (State::Unready, None);
    };
    let deadline = retry_ends(update, rollout).unwrap_or_else(|| deadline(update, &rollout.strategy));
    let since = pod.ready_changed.unwrap_or(update.at);
    if now < deadline {
        (State::Unready, Some(deadline))
    } else if since <= deadline {
        (State::Failed("the pod is not ready by podUpdateTimeoutSeconds".to_owned()), None)
    } else {
        (State::Unready, None)
    }
}

fn has_images(pod: &PodView, mark: &Mark, rollout: &Rollout, now: Timestamp) -> bool {
    rollout.sidecars.iter().all(|sidecar| has_image(pod, mark, sidecar, rollout, now))
}

pub(crate) fn has_image(pod: &PodView, mark: &Mark, sidecar: &Sidecar, rollout: &Rollout, now: Timestamp) -> bool {
    if sidecar.hot {
        return twins::has_image(pod, mark, sidecar, rollout, now);
    }
    pod.container(&sidecar.name).is_some_and(|container| container.image == sidecar.image)
}

/// The container that is to get another image, if the pod has one.
pub(crate) fn to_restart<'a>(
    pod: &'a PodView,
    mark: &Mark,
    sidecar: &'a Sidecar,
    rollout: &Rollout,
    now: Timestamp,
) -> Result<&'a ContainerView, Obstacle> {
    if !sidecar.hot {
        let missing = || Obstacle::new(ObstacleKind::Pod, format!("the pod has no container {}", sidecar.name));
        return pod.container(&sidecar.name).ok_or_else(missing);
    }
    match twins::need(pod, mark, sidecar, rollout, now) {
        Need::Move(next) => twins::obstacle(&next, mark, sidecar, rollout).map_or(Ok(next.to), Err),
        Need::Unclear(text) => Err(Obstacle::new(ObstacleKind::Pod, text)),
        Need::Nothing | Need::Proof => Err(Obstacle::new(ObstacleKind::Passing, "it has its image")),
    }
}

/// The chain of checks before a patch; the first that applies is the reason.
fn cannot_patch(pod: &PodView, mark: &Mark, rollout: &Rollout, around: &Surroundings<'_>) -> Option<Obstacle> {
    use ObstacleKind::{Passing, Pod, Template};
    match rollout.changes.get(&mark.revision) {
        // Deleted and created again, with other images.
        None if has_shape(mark, rollout) => {}
        None => {
            let text = "RevisionUnknown: the pod's revision is not in the set's history";
            return Some(Obstacle::new(Template, text));
        }
        Some(Change::NotInPlace(reason)) => return Some(Obstacle::new(Template, reason)),
        Some(Change::InPlace) => {}
    }
    if let Some(obstacle) = resize::obstacle(pod, mark, rollout, around.can_resize) {
        return Some(obstacle);
    }
    let now = around.now;
    let mut outdated = rollout.sidecars.iter().filter(|sidecar| sidecar.long_running);
    outdated.find_map(|sidecar| match to_restart(pod, mark, sidecar, rollout, now) {
        _ if has_image(pod, mark, sidecar, rollout, now) => None,
        Err(obstacle) => Some(obstacle),
        // The kubelet stops it for the new image, and does not start it again if the pull fails (KEP-753 discussion;
        // observed on 1.35).
        Ok(_) if sidecar.list == List::Ordinary && !pod.restarts_always => {
            let text = "an ordinary sidecar in a pod whose restartPolicy is not Always is not restarted safely";
            Some(Obstacle::new(Pod, text))
        }
        // Restarted for a new image only by kubelets from 1.32 on (kubernetes#126525).
        Ok(_) if sidecar.list == List::Init && pod.node.is_some() => match around.restarts_native_sidecars {
            Some(true) => None,
            Some(false) => {
                let text = "the node's kubelet is older than 1.32 and does not restart native sidecars";
                Some(Obstacle::new(Pod, text))
            }
            None => Some(Obstacle::new(Passing, "the node of the pod is not known yet")),
        },
        Ok(_) => None,
    })
}

/// Nothing but images differs from the target, although nobody knows the pod's revision. A pod that was to be resized may
/// not have been.
fn has_shape(mark: &Mark, rollout: &Rollout) -> bool {
    mark.shape == rollout.shape && mark.update.as_ref().is_none_or(|update| update.resizes.is_empty())
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
