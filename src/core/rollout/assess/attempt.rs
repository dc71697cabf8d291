//! An attempt to bring a pod to a revision: it was updated in place, or made with the revision. It has one window, from its
//! begin to `podUpdateTimeoutSeconds` later, and is judged by the containers and not by the pod.
//!
//! Observed on kubelets 1.35 and 1.36: `observedGeneration` moves before the old container is stopped; `status.image` and
//! `imageID` may stay equal; a new container may inherit `ready` from the old one.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::base::time::{after, seconds};
use crate::core::pod::{ContainerStatus, ContainerView, Mark, PodView, Replaced, Update};
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::evidence::{self, Evidence, RESTART, STALE_STATUS, TERMINATED};
use crate::core::rollout::target::{Direction, Target};

/// A 1.35 kubelet lets a container with a startupProbe inherit readiness until the first probe: period + this.
const STARTUP_MARGIN_SECONDS: i32 = 2;

/// How far an attempt has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Neither done nor failed; look again at this time even if nothing is heard of the pod.
    Undecided(Option<Timestamp>),
    /// Every replaced container is a new one that has stayed ready.
    Done,
    /// Its time is over, and the kubelet has not begun with it, in a pod that was not ready before and is not now: nothing
    /// says that the revision is to blame.
    NotStarted,
    /// Not done in time, or there is evidence that it will not be. The text names container and reason.
    Failed(String),
}

impl Progress {
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed(text), _) | (_, Self::Failed(text)) => Self::Failed(text),
            (Self::Undecided(a), Self::Undecided(b)) => Self::Undecided(a.into_iter().chain(b).min()),
            (Self::Undecided(at), _) | (_, Self::Undecided(at)) => Self::Undecided(at),
            (Self::NotStarted, _) | (_, Self::NotStarted) => Self::NotStarted,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// The record of a pod that was made with the target's sidecars, as if it had been updated from nothing then. `None` for a
/// pod that was updated, and for one that proves nothing: of another revision, or of a stable one.
pub(crate) fn created(pod: &PodView, mark: &Mark, target: &Target) -> Option<Update> {
    let proves = mark.revision == target.revision && target.is_rolling();
    if mark.update.is_some() || !proves {
        return None;
    }
    // Plain init containers, too: only new pods prove them.
    let names = target.sidecars.iter().flat_map(Sidecar::container_names).filter(|name| pod.container(name).is_some());
    let containers = names.map(|name| (name, Replaced::default())).collect();
    Some(Update { revision: target.revision.clone(), at: pod.created, containers, ..Update::default() })
}

#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) pod: &'a PodView,
    pub(crate) update: &'a Update,
    pub(crate) target: &'a Target,
    pub(crate) now: Timestamp,
}

/// What an update may have done to a container that is none of this set's.
struct Crash {
    why: String,
    /// From then on the pod has been ready for `minReadySeconds` since; `None` while it is not ready.
    over_at: Option<Timestamp>,
}

impl Attempt<'_> {
    /// The end of the window: what is not available by then has failed.
    pub(crate) fn deadline(&self) -> Timestamp {
        after(self.update.at, seconds(self.target.strategy.pod_update_timeout_seconds))
    }

    /// When the second chance ends of an attempt that was begun before a retry; `None` if it has none.
    pub(crate) fn retry_ends(&self) -> Option<Timestamp> {
        self.target.retry_ends().filter(|_| self.target.retried_at.is_some_and(|at| self.update.at < at))
    }

    /// The kubelet has seen what was asked for, as far as it says. Later generations are other people's changes.
    pub(crate) fn is_seen(&self) -> bool {
        self.pod.has_seen(self.update.generation)
    }

    /// Nothing is decided before this time; after it, it has failed.
    pub(crate) fn by(&self, time: Timestamp, failure: String) -> Progress {
        if self.now < time { Progress::Undecided(Some(time)) } else { Progress::Failed(failure) }
    }

    /// How far the containers are.
    pub(crate) fn progress(&self) -> Progress {
        let containers = self.update.containers.iter().map(|(name, replaced)| match self.pod.container(name) {
            Some(container) => self.container(container, replaced),
            None => Progress::Failed(format!("{name}: the pod has no such container")),
        });
        match containers.fold(Progress::Done, Progress::and) {
            Progress::Failed(reason) => Progress::Failed(reason),
            _ if let Some(crash) =
                self.crash().filter(|crash| crash.over_at.is_none_or(|over_at| self.now < over_at)) =>
            {
                Progress::Failed(crash.why)
            }
            Progress::Done if !self.is_seen() => self.not_yet(not_seen()),
            other => other,
        }
    }

    /// When a failure may be over, if all that is ready stays so.
    pub(crate) fn failure_ends(&self) -> Option<Timestamp> {
        let proved = self
            .update
            .containers
            .iter()
            .map(|(name, _)| name)
            .filter_map(|name| self.proved_at(self.pod.container(name)?));
        let crash = self.crash().and_then(|crash| crash.over_at);
        proved.chain(crash).filter(|at| self.now < *at).min()
    }

    /// From when on a replaced container counts as proved, if it stays as it is. Unlike [`Progress::Done`] this holds only while
    /// it is ready, and after the deadline too.
    pub(crate) fn proved_at(&self, container: &ContainerView) -> Option<Timestamp> {
        let (replaced, status) = (self.update.containers.get(&container.name)?, container.status.as_ref()?);
        let since = self.new_and_ready_since(container, status, replaced)?;
        self.is_seen().then(|| after(since, self.hold(container)))
    }

    /// The containers that an update was to replace run on unharmed.
    pub(crate) fn runs_on(&self) -> bool {
        let same = |(name, replaced): &(Arc<str>, Replaced)| {
            let status = self.pod.container(name).and_then(|container| container.status.as_ref());
            status.is_some_and(|status| status.id == replaced.id && status.ready)
        };
        self.update.containers.iter().all(same)
    }

    /// A container is not ready that another set has replaced, not long before or since: that is judged there.
    pub(crate) fn is_kept_by_another(&self) -> bool {
        let others = self.pod.marks.iter().filter(|(set, _)| **set != *self.target.set);
        let others = others.filter_map(|(_, mark)| mark.update.as_ref());
        let mut recent = others.filter(|update| self.update.at < Attempt { update, ..*self }.deadline());
        let has = |update: &Update| self.pod.unready_containers().any(|c| update.containers.contains_key(&c.name));
        recent.any(has)
    }

    fn container(&self, container: &ContainerView, replaced: &Replaced) -> Progress {
        // Nothing is expected of a pod without a node; it will start with the new image.
        if self.pod.node.is_none() {
            return Progress::Undecided(None);
        }
        if self.pod.is_past(container) {
            return Progress::Done;
        }
        let Some(status) = &container.status else { return self.not_yet(not_ready(container)) };
        // Back on the image that it had. The kubelet may have killed it for the other one, and says so when it has pulled that.
        let is_back = status.id == replaced.id && *replaced.image == *container.image;
        if is_back && !self.pod.has_seen(self.pod.generation) {
            return self.not_yet(not_seen());
        }
        if let Some(ready_since) = self.new_and_ready_since(container, status, replaced) {
            return self.ready(container, status, replaced, ready_since, is_back);
        }
        let deadline = self.deadline();
        let failed = |reason: &str| format!("{}: {reason}", container.name);
        let evidence = evidence::of_attempt(status, replaced).filter(|_| self.is_seen());
        if self.now >= deadline
            && !self.is_late(container, status, replaced)
            && is_new(container, status, replaced)
            && self.changed_since(status, deadline)
        {
            // It was decided long ago; a restart a week later is no failure of this attempt, but a crash loop is.
            let Some(evidence) = evidence.filter(|_| status.running_since.is_none()) else { return Progress::Done };
            let ended = status.ended_at.filter(|_| status.waiting.is_none());
            return self.by(ended.map_or(deadline, |ended| after(ended, RESTART)), failed(&evidence.reason));
        }
        match evidence {
            Some(Evidence { reason, patience }) => {
                // Of a revision that is given up, a failure does not become doubtful again because its words have changed.
                let patience = if self.target.direction == Direction::Halted { STALE_STATUS } else { patience };
                self.by(after(self.update.at, patience).min(deadline), failed(&reason))
            }
            None if status.id == replaced.id => self.not_yet(not_ready(container)),
            None => self.by(deadline, not_ready(container)),
        }
    }

    /// A new container that is ready.
    fn ready(
        &self,
        container: &ContainerView,
        status: &ContainerStatus,
        replaced: &Replaced,
        since: Timestamp,
        is_back: bool,
    ) -> Progress {
        // The pod's readiness after the deadline is none of this attempt's business: it was decided by then. But a
        // container that started anew has to hold out anew, or a crash loop would be done each time it comes up.
        let from = status.running_since.filter(|_| since > self.deadline()).unwrap_or(since);
        // It may still be about to be killed: for the image before, or as the container before, of which no id was known.
        let may_be_old = replaced.id.is_empty() && !replaced.image.is_empty();
        let least = if is_back || may_be_old { STALE_STATUS } else { SignedDuration::ZERO };
        let done_at = after(from, self.hold(container).max(least));
        if self.now >= done_at {
            return Progress::Done;
        }
        // What crashes again and again has failed also while it is up, until it holds out.
        let starts = replaced.restart_count.saturating_add(i32::from(!replaced.id.is_empty()));
        match evidence::of_container(status, starts).filter(|_| since <= self.deadline()) {
            Some(reason) => Progress::Failed(format!("{}: {reason}", container.name)),
            None => Progress::Undecided(Some(done_at)),
        }
    }

    /// The kubelet has not begun. Where the pod was not ready anyway, that is no failure.
    fn not_yet(&self, failure: String) -> Progress {
        let is_stuck = !self.update.was_ready && !self.pod.ready;
        if is_stuck && self.now >= self.deadline() { Progress::NotStarted } else { self.by(self.deadline(), failure) }
    }

    /// A container that is none of this set's has crashed after the update and before its hold time was over: a sidecar may
    /// be healthy and still break its application. Sidecars that another set replaces are judged there.
    fn crash(&self) -> Option<Crash> {
        let (pod, hold) = (self.pod, seconds(self.target.strategy.min_ready_seconds));
        // A sidecar that starts anew long after, as all do when a node reboots, or is not ready then, has no new hold time.
        let latest = self.deadline().max(after(self.update.at, hold));
        let soak_ends = self.soak_ends().unwrap_or(latest).min(latest);
        let replaced = |name: &str| {
            let mut updates = pod.marks.iter().filter_map(|(_, mark)| mark.update.as_ref());
            updates.any(|update| update.containers.contains_key(name))
        };
        self.update.others.iter().filter(|(name, _)| !replaced(name)).find_map(|(name, ended_before)| {
            let status = pod.container(name)?.status.as_ref().filter(|status| status.ended_at > *ended_before)?;
            let code = status.exit_code.filter(|code| ![0, TERMINATED].contains(code))?;
            let ended = status.ended_at.filter(|ended| *ended <= soak_ends)?;
            // What was before a retry is no evidence.
            if self.target.retried_at.is_some_and(|retried_at| ended <= retried_at) {
                return None;
            }
            let up_since = pod.ready_changed.filter(|_| pod.ready).map(|ready| ready.max(ended));
            let over_at = up_since.map(|since| after(since.max(status.running_since.unwrap_or(since)), hold));
            Some(Crash { why: format!("{name}: crashed with exit code {code} after the sidecar's update"), over_at })
        })
    }

    /// When the last of the replaced containers has run for its hold time; `None` while one is not ready. Not since the pod
    /// became ready: that time moves with each crash of the application.
    fn soak_ends(&self) -> Option<Timestamp> {
        let ends = self.update.containers.iter().map(|(name, replaced)| {
            let container = self.pod.container(name)?;
            let status = container.status.as_ref()?;
            self.new_and_ready_since(container, status, replaced)?;
            Some(after(status.running_since?, self.hold(container)))
        });
        let least = after(self.update.at, seconds(self.target.strategy.min_ready_seconds));
        ends.chain([Some(least)]).try_fold(self.update.at, |end, other| Some(end.max(other?)))
    }

    /// The first container with the new image, which came when the time of the update was over, and has its time now.
    fn is_late(&self, container: &ContainerView, status: &ContainerStatus, replaced: &Replaced) -> bool {
        let is_first = status.restart_count <= replaced.restart_count.saturating_add(1);
        let time = seconds(self.target.strategy.pod_update_timeout_seconds);
        let is_timely = |since: Timestamp| since > self.deadline() && self.now < after(since, time);
        *replaced.image != *container.image && is_first && status.running_since.is_some_and(is_timely)
    }

    /// The container or the pod's readiness changed after this time.
    fn changed_since(&self, status: &ContainerStatus, time: Timestamp) -> bool {
        status.running_since.into_iter().chain(self.pod.ready_changed).any(|changed| changed > time)
    }

    /// Since when the new container has been ready, if it is; a plain init container is when it has ended well. The pod's own
    /// readiness, where it is later, tells when a readinessProbe passed; the container status has no time for that.
    fn new_and_ready_since(
        &self,
        container: &ContainerView,
        status: &ContainerStatus,
        replaced: &Replaced,
    ) -> Option<Timestamp> {
        let is_up = status.ready && is_new(container, status, replaced);
        let started = status.running_since.or(status.ended_at).filter(|_| is_up)?;
        let pod_ready = self.pod.ready_changed.filter(|_| self.pod.ready).unwrap_or(started);
        // The old container, back on its own image: the kubelet may still be about to replace it. A new one did not start
        // before it was asked for; a node whose clock is behind would cut the hold time.
        Some(started.max(pod_ready).max(self.update.at))
    }

    fn hold(&self, container: &ContainerView) -> SignedDuration {
        let probe = container.startup_period.map_or(0, |period| period + STARTUP_MARGIN_SECONDS);
        seconds(self.target.strategy.min_ready_seconds.max(probe))
    }
}

/// Another container than the one that was replaced. A burst of updates that ends on the image that still runs restarts
/// nothing.
fn is_new(container: &ContainerView, status: &ContainerStatus, replaced: &Replaced) -> bool {
    (status.id != replaced.id && !status.id.is_empty()) || *replaced.image == *container.image
}

fn not_seen() -> String {
    "the kubelet has not seen it by podUpdateTimeoutSeconds".to_owned()
}

fn not_ready(container: &ContainerView) -> String {
    format!("{}: not ready by podUpdateTimeoutSeconds", container.name)
}
