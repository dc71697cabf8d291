//! How one pod stands in a rollout, and what it takes of the budgets.

mod admission;
pub(crate) mod attempt;
pub(crate) mod checks;
pub(crate) mod context;
mod evidence;
pub(crate) mod resize;
pub(crate) mod state;
pub(crate) mod twins;

use std::cmp::Reverse;

use k8s_openapi::jiff::Timestamp;

use crate::api::reasons::Reason;
use crate::core::base::time::{after, seconds};
use crate::core::pod::PodView;
use crate::core::pod::readiness::Readiness;
use crate::core::replace::exempt;
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::admission::set_back;
use crate::core::rollout::assess::attempt::{Attempt, Progress, created};
use crate::core::rollout::assess::checks::has_images;
use crate::core::rollout::assess::context::{PodContext, PodInSet};
use crate::core::rollout::assess::state::{Claim, Evictability, ObstacleKind, PodState};
use crate::core::rollout::target::Target;

/// Kubernetes' `ActivePods` rank: pods that cost least go first.
pub(crate) type Rank = (bool, u8, Reverse<Timestamp>, Reverse<i32>, Reverse<Timestamp>);

/// How one pod stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assessment {
    pub(crate) state: PodState,
    /// Its Ready condition.
    pub(crate) ready: bool,
    /// It is ready, or was a moment ago.
    pub(crate) counts_as_ready: bool,
    /// What it takes of the budgets now.
    pub(crate) claim: Claim,
    /// Its recorded update is not done.
    pub(crate) unfinished: bool,
    /// It has moved to the target, or may have, whether or not that is complete: its label says so.
    pub(crate) moved: bool,
    /// Its revision is the target's own.
    pub(crate) proves: bool,
    /// What percentages are of: a kubelet has it, it has moved, or takes something of the budgets.
    pub(crate) counted: bool,
    /// `updateStrategy.selector` matches.
    pub(crate) selected: bool,
    pub(crate) rank: Rank,
    pub(crate) evictability: Option<Evictability>,
    /// When time alone may change this.
    pub(crate) check_at: Option<Timestamp>,
    /// What an unfinished update, or a pod that is not ready, waits for, if the kubelet says so.
    pub(crate) waits_for: Option<String>,
}

impl Assessment {
    /// When the pod was created.
    pub(crate) fn created(&self) -> Timestamp {
        self.rank.4.0
    }

    /// What it will take of the budgets once it is touched. A pod that was unready when last patched, and is ready now,
    /// takes a slot.
    pub(crate) fn next_claim(&self) -> Claim {
        if self.counts_as_ready { Claim::Disruption } else { Claim::Unready }
    }

    /// It waits for an eviction.
    pub(crate) fn is_evictable(&self) -> bool {
        self.selected && matches!(self.evictability, Some(Evictability::Evictable(_)))
    }

    /// It has that already.
    pub(crate) fn is_held(&self) -> bool {
        self.claim >= self.next_claim()
    }
}

/// `None` for a pod that does not belong to the set, or has ended.
pub(crate) fn assess(pod: &PodView, target: &Target, context: &PodContext<'_>) -> Option<Assessment> {
    let mark = pod.marks.get(&target.set)?;
    if !pod.is_active() || !target.in_namespace(context.namespace_labels) || !target.selector.matches(&pod.labels) {
        return None;
    }
    Some(PodInSet { pod, mark, target, context }.assess())
}

impl PodInSet<'_> {
    fn assess(&self) -> Assessment {
        let Self { pod, mark, target, context } = *self;
        let created = created(pod, mark, target);
        let update = mark.update.as_ref().or(created.as_ref());
        let attempt = update.map(|update| Attempt { pod, update, target, now: context.now });
        let (progress, second_try) = attempt.map_or((Progress::Done, None), |attempt| self.judge(&attempt));
        let readiness = Readiness::of(pod, context.now);
        let (state, check_at) = self.state(attempt, &progress);
        let unfinished = mark.update.is_some() && progress != Progress::Done;
        let is_over = || attempt.is_some_and(|attempt| self.is_over(&attempt, &state));
        let open = state == PodState::ResetDue || (unfinished && progress != Progress::NotStarted && !is_over());
        let times = match progress {
            Progress::Undecided(at) => at,
            _ => None,
        };
        let claim = self.claim(&state, readiness, open);
        let moved = self.has_moved(&state);
        Assessment {
            moved,
            proves: mark.revision == target.revision,
            counted: moved || pod.has_begun() || claim != Claim::None,
            ready: pod.ready,
            counts_as_ready: readiness.counts_as_ready(),
            claim,
            unfinished,
            selected: target.strategy.selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels)),
            rank: rank(pod),
            evictability: self.evictability(&state),
            check_at: times.into_iter().chain(check_at).chain(readiness.ends()).min(),
            waits_for: self.waits_for(open, second_try),
            state,
        }
    }

    /// How far an attempt has come. One that had failed before a retry is given the whole timeout again: then also why.
    fn judge(&self, attempt: &Attempt<'_>) -> (Progress, Option<String>) {
        let set_back = set_back(self.pod, self.mark, self.target).map(|container| {
            Progress::Failed(format!("{}: admission set the image back to {}", container.name, container.image))
        });
        let mut progress = set_back.unwrap_or_else(|| attempt.progress().and(resize::progress(attempt)));
        if progress == Progress::Done {
            progress = twins::progress(attempt, self.mark);
        }
        match (progress, attempt.retry_ends().filter(|end| self.context.now < *end)) {
            (Progress::Failed(reason), Some(end)) => {
                (Progress::Undecided(Some(end)), Some(format!("{reason}, tried again until {end:.0}")))
            }
            (progress, _) => (progress, None),
        }
    }

    /// A pod that was ready when patched costs a slot until it is available, one that was not a place under the cap.
    fn claim(&self, state: &PodState, readiness: Readiness, open: bool) -> Claim {
        let recorded = match &self.mark.update {
            Some(update) if update.was_ready && (open || self.lost_readiness()) => Claim::Disruption,
            Some(update) if !update.was_ready && open && self.pod.node.is_some() => Claim::Unready,
            _ => Claim::None,
        };
        let requested = match state {
            PodState::Unconfirmed(_) if readiness.counts_as_ready() => Claim::Disruption,
            PodState::Unconfirmed(_) => Claim::Unready,
            _ => Claim::None,
        };
        recorded.max(requested)
    }

    /// A pod that no kubelet has can be made by anybody: it counts as moved when one has it, or when it was updated in place.
    fn has_moved(&self, state: &PodState) -> bool {
        let Self { pod, mark, target, .. } = *self;
        let is_updated = mark.update.as_ref().is_some_and(|update| target.is_reached_by(&update.revision));
        let is_at_target = target.is_reached_by(&mark.revision) && (pod.has_begun() || is_updated);
        is_at_target || matches!(state, PodState::Unconfirmed(_))
    }

    /// The pod is not ready after an update, which may be to blame. Once a revision is stable, its updates are not.
    fn lost_readiness(&self) -> bool {
        let update = self.mark.update.as_ref();
        !self.pod.ready && update.is_some_and(|update| !self.target.is_stable(&update.revision))
    }

    /// What eviction could do for it; `None`: it is not asked for, or is no remedy.
    fn evictability(&self, state: &PodState) -> Option<Evictability> {
        let PodState::NotInPlace(obstacle) = state else { return None };
        if !self.target.strategy.evicts() || obstacle.kind == ObstacleKind::Passing {
            return None;
        }
        match (exempt(self.pod.owner.as_deref(), self.pod.restarts_always), &self.pod.owner) {
            (None, Some(owner)) => Some(Evictability::Evictable(owner.clone())),
            (why, _) => Some(Evictability::Exempt(why.unwrap_or_default())),
        }
    }

    fn waits_for(&self, open: bool, second_try: Option<String>) -> Option<String> {
        if self.mark.update.is_none() {
            return self.trouble();
        }
        let update = self.mark.update.as_ref().filter(|_| open)?;
        second_try.or_else(|| resize::waits_for(self.pod, update)).or_else(|| evidence::waits_for(self.pod, update))
    }

    /// What keeps a sidecar from starting in a pod that was made so, whether or not that is news of a revision.
    fn trouble(&self) -> Option<String> {
        if self.pod.ready || self.mark.update.is_some() {
            return None;
        }
        let names = self.target.sidecars.iter().flat_map(Sidecar::container_names);
        names.filter_map(|name| self.pod.container(&name)).find_map(|container| {
            let status = container.status.as_ref().filter(|status| status.running_since.is_none())?;
            Some(format!("{}: {}", container.name, evidence::of_container(status, 0)?))
        })
    }

    /// The time of an update is over, the kubelet has seen it, the pod is ready, and nothing is expected of it any more:
    /// it costs nothing. The update was to a stable revision, whatever became of it; or it has changed nothing, and no
    /// other can follow it: a kubelet has nothing to do for an image that was changed by hand and set back before it
    /// looked.
    fn is_over(&self, attempt: &Attempt<'_>, state: &PodState) -> bool {
        let is_late = attempt.now >= attempt.deadline() && attempt.is_seen();
        let expects_nothing = self.target.is_stable(&attempt.update.revision)
            || (matches!(state, PodState::NotInPlace(_)) && attempt.runs_on());
        self.pod.ready && is_late && expects_nothing
    }

    /// The state, and when time alone may change it.
    fn state(&self, attempt: Option<Attempt<'_>>, progress: &Progress) -> (PodState, Option<Timestamp>) {
        let Self { pod, mark, target, context } = *self;
        let now = context.now;
        if !target.is_reached_by(&mark.revision)
            || !has_images(pod, mark, target, now)
            || resize::is_unfinished(pod, mark, target)
        {
            return self.behind();
        }
        let attempt = attempt.filter(|attempt| target.is_reached_by(&attempt.update.revision));
        if let Some(attempt) = attempt {
            let is_stable = target.is_stable(&attempt.update.revision);
            match progress {
                Progress::Failed(reason) if !is_stable => {
                    return (PodState::Failed(reason.clone()), attempt.failure_ends());
                }
                Progress::NotStarted => return (PodState::NotReady, None),
                Progress::Undecided(_) if mark.update.is_none() && !pod.ready => return self.unready(Some(attempt)),
                // A new pod on trial. Time is about to tell.
                Progress::Undecided(_) if mark.update.is_none() => return (PodState::NotReady, None),
                // Once a revision is stable, an update whose time is over is no news.
                Progress::Undecided(_) if is_stable && now >= attempt.deadline() => {}
                Progress::Undecided(_) if pod.node.is_some() => return (PodState::Updating, None),
                _ => {}
            }
        }
        match context.refused {
            _ if !twins::is_reset_due(pod, mark, target, now) => {}
            Some(refusal) => {
                let why = format!("{}: {}", Reason::PatchRefused, refusal.message);
                return (PodState::Failed(why), refusal.until);
            }
            None => return (PodState::ResetDue, None),
        }
        if pod.ready { (PodState::Available, None) } else { self.unready(attempt) }
    }

    fn behind(&self) -> (PodState, Option<Timestamp>) {
        if let Some(refusal) = self.context.refused.filter(|refusal| refusal.until.is_some()) {
            return (PodState::Unconfirmed(refusal.message.clone()), refusal.until);
        }
        if let Some(obstacle) = checks::obstacle(self) {
            return (PodState::NotInPlace(obstacle), None);
        }
        match self.context.refused {
            Some(refusal) => (PodState::Refused(refusal.message.clone()), None),
            None => (PodState::Outdated, None),
        }
    }

    /// A pod that lost its readiness with the update and did not get it back in time has failed, container ready or not.
    fn unready(&self, attempt: Option<Attempt<'_>>) -> (PodState, Option<Timestamp>) {
        let Self { pod, mark, target, context: PodContext { now, .. } } = *self;
        let took = attempt.filter(|Attempt { update, .. }| update.was_ready && !target.is_stable(&update.revision));
        let Some(attempt) = took else {
            // It has its time to start. One that an update found unready, or that was made with another revision, is no
            // news of this one.
            let is_new = !target.is_rolling() || (mark.update.is_none() && attempt.is_some());
            let window_end = after(pod.created, seconds(target.strategy.pod_update_timeout_seconds));
            let is_starting = is_new && now < &window_end && self.trouble().is_none();
            return (PodState::NotReady, Some(window_end).filter(|_| is_starting));
        };
        let deadline = attempt.retry_ends().unwrap_or_else(|| attempt.deadline());
        let since = pod.ready_changed.unwrap_or(attempt.update.at);
        if *now < deadline {
            (PodState::NotReady, Some(deadline))
        } else if since <= deadline && !attempt.is_kept_by_another() {
            let name = pod.unready_containers().next().map(|container| format!(": {}", container.name));
            let name = name.unwrap_or_default();
            (PodState::Failed(format!("the pod is not ready by podUpdateTimeoutSeconds{name}")), None)
        } else {
            (PodState::NotReady, None)
        }
    }
}

fn rank(pod: &PodView) -> Rank {
    let phase = match &*pod.phase {
        "Pending" | "" => 0,
        "Running" => 2,
        _ => 1,
    };
    let since = pod.ready_changed.unwrap_or(pod.created);
    (pod.node.is_some(), phase, Reverse(since), Reverse(pod.restarts()), Reverse(pod.created))
}
