//! How far an in-place update of one pod has come, judged by its containers and not by the pod.
//!
//! Observed on kubelets 1.35 and 1.36: `observedGeneration` moves before the old container is stopped; `status.image` and
//! `imageID` may stay equal; a new container may inherit `ready` from the old one.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::base::time::{after, seconds};
use crate::core::pod::{ContainerStatus, ContainerView, PodView, Replaced, Update};
use crate::core::rollout::assess::evidence::{Evidence, RESTART, STALE_STATUS, TERMINATED};
use crate::core::rollout::assess::progress::{Progress, deadline, has_seen};
use crate::core::rollout::assess::{evidence, resize};
use crate::core::rollout::target::strategy::Strategy;
use crate::core::rollout::target::{Direction, Target};

/// A 1.35 kubelet lets a container with a startupProbe inherit readiness until the first probe: period + this.
const STARTUP_MARGIN_SECONDS: i32 = 2;

/// Judges the update that the pod's annotation records.
pub(crate) fn progress(pod: &PodView, update: &Update, target: &Target, now: Timestamp) -> Progress {
    let strategy = &target.strategy;
    let deadline = deadline(update, strategy);
    let mut result = Progress::Done;
    for (name, replaced) in update.containers.iter() {
        let step = match pod.container(name) {
            Some(container) => container_progress(pod, container, replaced, update, target, now),
            None => Progress::Failed(format!("{name}: the pod has no such container")),
        };
        result = result.and(step);
    }
    result = resize::progress(pod, update, strategy, now).into_iter().fold(result, Progress::and);
    match result {
        Progress::Failed(reason) => Progress::Failed(reason),
        _ if let Some(crash) = crash(pod, update, target).filter(|crash| crash.counts_at(now)) => {
            Progress::Failed(crash.why)
        }
        Progress::Done if !has_seen(pod, update.generation) && now >= deadline && is_stuck(pod, update) => {
            Progress::NotStarted
        }
        Progress::Done if !has_seen(pod, update.generation) => Progress::by(deadline, not_seen(), now),
        other => other,
    }
}

/// What an update may have done to a container that is none of this set's.
struct Crash {
    why: String,
    /// From then on the pod has been ready for `minReadySeconds` since; `None` while it is not ready.
    over_at: Option<Timestamp>,
}

impl Crash {
    fn counts_at(&self, now: Timestamp) -> bool {
        self.over_at.is_none_or(|over_at| now < over_at)
    }
}

/// When a crash beside the update counts no more, if the pod stays ready.
pub(crate) fn crash_over_at(pod: &PodView, update: &Update, target: &Target, now: Timestamp) -> Option<Timestamp> {
    crash(pod, update, target)?.over_at.filter(|over_at| now < *over_at)
}

/// A container that is none of this set's has crashed after the update and before its hold time was over: a sidecar may
/// be healthy and still break its application. Sidecars that another set replaces are judged there.
fn crash(pod: &PodView, update: &Update, target: &Target) -> Option<Crash> {
    let strategy = &target.strategy;
    // A sidecar that starts anew long after, as all do when a node reboots, or is not ready then, has no new hold time.
    let latest = deadline(update, strategy).max(after(update.at, seconds(strategy.min_ready_seconds)));
    let soak_ends = soak_ends(pod, update, strategy).unwrap_or(latest).min(latest);
    let replaced = |name: &str| {
        let mut updates = pod.marks.iter().filter_map(|(_, mark)| mark.update.as_ref());
        updates.any(|update| update.containers.contains_key(name))
    };
    update.others.iter().filter(|(name, _)| !replaced(name)).find_map(|(name, ended_before)| {
        let status = pod.container(name)?.status.as_ref().filter(|status| status.ended_at > *ended_before)?;
        let code = status.exit_code.filter(|code| ![0, TERMINATED].contains(code))?;
        let ended = status.ended_at.filter(|ended| *ended <= soak_ends)?;
        // What was before a retry is no evidence.
        if target.retried_at.is_some_and(|retried_at| ended <= retried_at) {
            return None;
        }
        let up_since = pod.ready_changed.filter(|_| pod.ready).map(|ready| ready.max(ended));
        let up_since = up_since.map(|since| status.running_since.map_or(since, |started| since.max(started)));
        let over_at = up_since.map(|since| after(since, seconds(strategy.min_ready_seconds)));
        Some(Crash { why: format!("{name}: crashed with exit code {code} after the sidecar's update"), over_at })
    })
}

/// When the last of the replaced containers has run for its hold time; `None` while one is not ready. Not since the pod
/// became ready: that time moves with each crash of the application.
fn soak_ends(pod: &PodView, update: &Update, strategy: &Strategy) -> Option<Timestamp> {
    let ends = update.containers.iter().map(|(name, replaced)| {
        let container = pod.container(name)?;
        let status = container.status.as_ref()?;
        new_and_ready_since(pod, container, status, replaced, update.at)?;
        Some(after(status.running_since?, hold(container, strategy)))
    });
    let least = after(update.at, seconds(strategy.min_ready_seconds));
    ends.chain([Some(least)]).try_fold(update.at, |end, other| Some(end.max(other?)))
}

/// From when on a replaced container counts as proved, if it stays as it is. Unlike [`Progress::Done`] this holds only while
/// it is ready, and after the deadline too.
pub(crate) fn proved_at(
    pod: &PodView,
    container: &ContainerView,
    update: &Update,
    strategy: &Strategy,
) -> Option<Timestamp> {
    let (replaced, status) = (update.containers.get(&container.name)?, container.status.as_ref()?);
    let since = new_and_ready_since(pod, container, status, replaced, update.at)?;
    has_seen(pod, update.generation).then(|| after(since, hold(container, strategy)))
}

fn container_progress(
    pod: &PodView,
    container: &ContainerView,
    replaced: &Replaced,
    update: &Update,
    target: &Target,
    now: Timestamp,
) -> Progress {
    // Nothing is expected of a pod without a node; it will start with the new image.
    if pod.node.is_none() {
        return Progress::Undecided(None);
    }
    let deadline = deadline(update, &target.strategy);
    let is_stuck = now >= deadline && is_stuck(pod, update);
    let Some(status) = &container.status else {
        return if is_stuck { Progress::NotStarted } else { Progress::by(deadline, not_ready(container), now) };
    };
    // Back on the image that it had. The kubelet may have killed it for the other one, and says so when it has pulled that.
    let is_back = status.id == replaced.id && *replaced.image == *container.image;
    if is_back && !has_seen(pod, pod.generation) {
        return if is_stuck { Progress::NotStarted } else { Progress::by(deadline, not_seen(), now) };
    }
    if let Some(ready_since) = new_and_ready_since(pod, container, status, replaced, update.at) {
        // The pod's readiness after the deadline is none of this update's business: it was decided by then. But a
        // container that started anew has to hold out anew, or a crash loop would be done each time it comes up.
        let from = status.running_since.filter(|_| ready_since > deadline).unwrap_or(ready_since);
        // It may still be about to be killed for the image before.
        let least = if is_back { STALE_STATUS } else { SignedDuration::ZERO };
        let done_at = after(from, hold(container, &target.strategy).max(least));
        let done = now >= done_at;
        return if done { Progress::Done } else { Progress::Undecided(Some(done_at)) };
    }
    let evidence = evidence::of_update(status, replaced).filter(|_| has_seen(pod, update.generation));
    if now >= deadline
        && !is_late(container, status, replaced, update, &target.strategy, now)
        && is_new(container, status, replaced)
        && changed_since(pod, status, deadline)
    {
        // It was decided long ago; a restart a week later is no failure of this update, but a crash loop is.
        return match evidence.filter(|_| status.running_since.is_none()) {
            Some(evidence) => {
                let ended = status.ended_at.filter(|_| status.waiting.is_none());
                let counts_at = ended.map_or(deadline, |ended| after(ended, RESTART));
                Progress::by(counts_at, format!("{}: {}", container.name, evidence.reason), now)
            }
            None => Progress::Done,
        };
    }
    match evidence {
        Some(Evidence { reason, patience }) => {
            // Of a revision that is given up, a failure does not become doubtful again because its words have changed.
            let patience = if target.direction == Direction::Halted { STALE_STATUS } else { patience };
            let counts_at = after(update.at, patience).min(deadline);
            Progress::by(counts_at, format!("{}: {reason}", container.name), now)
        }
        None if is_stuck && status.id == replaced.id => Progress::NotStarted,
        None => Progress::by(deadline, not_ready(container), now),
    }
}

/// A pod that was not ready before the update, and still is not.
fn is_stuck(pod: &PodView, update: &Update) -> bool {
    !update.was_ready && !pod.ready
}

/// The first container with the new image, which came when the time of the update was over, and has its time now.
fn is_late(
    container: &ContainerView,
    status: &ContainerStatus,
    replaced: &Replaced,
    update: &Update,
    strategy: &Strategy,
    now: Timestamp,
) -> bool {
    let is_first = status.restart_count <= replaced.restart_count.saturating_add(1);
    let is_timely =
        |since: Timestamp| since > deadline(update, strategy) && now < after(since, seconds(strategy.timeout_seconds));
    *replaced.image != *container.image && is_first && status.running_since.is_some_and(is_timely)
}

/// Another container than the one that was replaced. A burst of updates that ends on the image that still runs restarts
/// nothing.
fn is_new(container: &ContainerView, status: &ContainerStatus, replaced: &Replaced) -> bool {
    (status.id != replaced.id && !status.id.is_empty()) || *replaced.image == *container.image
}

/// The containers that an update was to replace run on unharmed.
pub(crate) fn runs_on(pod: &PodView, update: &Update) -> bool {
    let same = |(name, replaced): &(Arc<str>, Replaced)| {
        let status = pod.container(name).and_then(|container| container.status.as_ref());
        status.is_some_and(|status| status.id == replaced.id && status.ready)
    };
    update.containers.iter().all(same)
}

/// The container or the pod's readiness changed after this time.
fn changed_since(pod: &PodView, status: &ContainerStatus, time: Timestamp) -> bool {
    status.running_since.into_iter().chain(pod.ready_changed).any(|changed| changed > time)
}

/// Since when the new container has been ready, if it is. The pod's own readiness, where it is later, tells when a
/// readinessProbe passed; the container status has no time for that.
fn new_and_ready_since(
    pod: &PodView,
    container: &ContainerView,
    status: &ContainerStatus,
    replaced: &Replaced,
    at: Timestamp,
) -> Option<Timestamp> {
    let started = status.running_since.filter(|_| is_new(container, status, replaced) && status.ready)?;
    let pod_ready = pod.ready_changed.filter(|_| pod.ready).unwrap_or(started);
    // The old container, back on its own image: the kubelet may still be about to replace it. A new one did not start
    // before it was asked for; a node whose clock is behind would cut the hold time.
    Some(started.max(pod_ready).max(at))
}

fn hold(container: &ContainerView, strategy: &Strategy) -> SignedDuration {
    let probe = container.startup_period.map_or(0, |period| period + STARTUP_MARGIN_SECONDS);
    seconds(strategy.min_ready_seconds.max(probe))
}

fn not_seen() -> String {
    "the kubelet has not seen it by podUpdateTimeoutSeconds".to_owned()
}

fn not_ready(container: &ContainerView) -> String {
    format!("{}: not ready by podUpdateTimeoutSeconds", container.name)
}
