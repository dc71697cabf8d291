//! How one pod stands in a rollout, and what it takes of the budgets.

pub mod attempt;
pub(crate) mod checks;
pub mod claim;
pub(crate) mod context;
pub mod created;
pub(crate) mod eviction;
pub(crate) mod evidence;
pub(crate) mod images;
pub mod progress;
pub(crate) mod refusal;
pub mod resize;
pub mod state;
pub(crate) mod twins;

use std::cmp::Reverse;

use k8s_openapi::jiff::Timestamp;

use crate::core::base::time::{after, seconds};
use crate::core::pod::readiness::Readiness;
use crate::core::pod::{Mark, PodView, Update};
use crate::core::rollout::assess::attempt::{crash_over_at, runs_on};
use crate::core::rollout::assess::claim::Claim;
use crate::core::rollout::assess::context::{PodContext, PodInSet};
use crate::core::rollout::assess::eviction::{Evictability, evictability};
use crate::core::rollout::assess::images::has_images;
use crate::core::rollout::assess::progress::{Progress, deadline, has_seen};
use crate::core::rollout::assess::state::State;
use crate::core::rollout::target::Target;

/// Kubernetes' `ActivePods` rank: pods that cost least go first.
pub(crate) type Rank = (bool, u8, Reverse<Timestamp>, Reverse<i32>, Reverse<Timestamp>);

/// How one pod stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assessment {
    pub(crate) state: State,
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
    /// What percentages are of: it runs, has moved, or takes something of the budgets.
    pub(crate) counted: bool,
    /// `updateStrategy.selector` matches.
    pub(crate) selected: bool,
    pub(crate) rank: Rank,
    pub(crate) evictability: Option<Evictability>,
    /// When time alone may change this.
    pub(crate) check_at: Option<Timestamp>,
    /// What an unfinished update waits for, if the kubelet says so.
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
        let judged = judge(pod, mark, target, context.now);
        let readiness = Readiness::of(pod, context.now);
        let (state, check_at) = self.state(judged.as_ref());
        let unfinished = judged.as_ref().is_some_and(|progress| *progress != Progress::Done);
        let waited_for = unfinished && judged != Some(Progress::NotStarted) && !self.is_over(&state);
        let open = state == State::ResetDue || waited_for;
        let times = match judged {
            Some(Progress::Undecided(at)) => at,
            _ => None,
        };
        let claim = self.claim(&state, readiness, open);
        let moved = self.has_moved(&state);
        Assessment {
            moved,
            proves: mark.revision == target.revision,
            counted: moved || pod.phase == "Running" || claim != Claim::None,
            ready: pod.ready,
            counts_as_ready: readiness.counts_as_ready(),
            claim,
            unfinished,
            selected: target.strategy.selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels)),
            rank: rank(pod),
            evictability: evictability(pod, &state, target),
            check_at: times.into_iter().chain(check_at).chain(readiness.ends()).min(),
            waits_for: self.waits_for(open),
            state,
        }
    }

    /// A pod that was ready when patched costs a slot until it is available, one that was not a place under the cap.
    fn claim(&self, state: &State, readiness: Readiness, open: bool) -> Claim {
        let recorded = match &self.mark.update {
            Some(update) if update.was_ready && (open || self.lost_readiness()) => Claim::Disruption,
            Some(update) if !update.was_ready && open && self.pod.node.is_some() => Claim::Unready,
            _ => Claim::None,
        };
        let requested = match state {
            State::Unconfirmed(_) if readiness.counts_as_ready() => Claim::Disruption,
            State::Unconfirmed(_) => Claim::Unready,
            _ => Claim::None,
        };
        recorded.max(requested)
    }

    /// A pod without a node can be made by anybody: it counts as moved when it runs, or when it was updated in place.
    fn has_moved(&self, state: &State) -> bool {
        let Self { pod, mark, target, .. } = *self;
        let is_updated = mark.update.as_ref().is_some_and(|update| target.is_reached_by(&update.revision));
        let is_at_target = target.is_reached_by(&mark.revision) && (pod.phase == "Running" || is_updated);
        is_at_target || matches!(state, State::Unconfirmed(_))
    }

    /// The pod is not ready after an update, which may be to blame. Once a revision is stable, its updates are not.
    fn lost_readiness(&self) -> bool {
        let update = self.mark.update.as_ref();
        !self.pod.ready && update.is_some_and(|update| !self.target.is_stable(&update.revision))
    }

    fn waits_for(&self, open: bool) -> Option<String> {
        let Self { pod, mark, target, context } = *self;
        let update = mark.update.as_ref().filter(|_| open)?;
        second_try(pod, mark, target, context.now)
            .or_else(|| resize::waits_for(pod, update))
            .or_else(|| evidence::waits_for(pod, update))
    }

    /// The time of an update is over, the kubelet has seen it, the pod is ready, and nothing is expected of it any more:
    /// it costs nothing. The update was to a stable revision, whatever became of it; or it has changed nothing, and no
    /// other can follow it: a kubelet has nothing to do for an image that was changed by hand and set back before it
    /// looked.
    fn is_over(&self, state: &State) -> bool {
        let Self { pod, mark, target, context } = *self;
        let Some(update) = &mark.update else { return false };
        if !pod.ready || context.now < deadline(update, &target.strategy) || !has_seen(pod, update.generation) {
            return false;
        }
        target.is_stable(&update.revision) || (matches!(state, State::NotInPlace(_)) && runs_on(pod, update))
    }

    /// The state, and when time alone may change it.
    fn state(&self, judged: Option<&Progress>) -> (State, Option<Timestamp>) {
        let Self { pod, mark, target, context } = *self;
        let update = mark.update.as_ref().filter(|update| target.is_reached_by(&update.revision));
        let now = context.now;
        if !target.is_reached_by(&mark.revision)
            || !has_images(pod, mark, target, now)
            || resize::is_unfinished(pod, mark, target)
        {
            return self.behind();
        }
        let unproved = update.is_some_and(|update| !target.is_stable(&update.revision));
        match judged.filter(|_| update.is_some()) {
            Some(Progress::Failed(reason)) if unproved => {
                let over_at = update.and_then(|update| crash_over_at(pod, update, target, now));
                (State::Failed(reason.clone()), over_at)
            }
            Some(Progress::NotStarted) => (State::NotReady, None),
            Some(Progress::Undecided(_)) if pod.node.is_some() => (State::Updating, None),
            _ if twins::is_reset_due(pod, mark, target, now) => reset_due(context),
            _ if let Some(created) = created::state(pod, mark, target, now) => created,
            _ if pod.ready => (State::Available, None),
            _ => unready(pod, update, target, now),
        }
    }

    fn behind(&self) -> (State, Option<Timestamp>) {
        let Self { context, .. } = *self;
        if let Some(refusal) = context.refused.filter(|refusal| refusal.until.is_some()) {
            return (State::Unconfirmed(refusal.message.clone()), refusal.until);
        }
        if let Some(obstacle) = checks::obstacle(self) {
            return (State::NotInPlace(obstacle), None);
        }
        if let Some(refusal) = context.refused {
            return (State::Refused(refusal.message.clone()), None);
        }
        (State::Outdated, None)
    }
}

/// The progress of an update. One that had failed before a retry is given the whole timeout again.
fn judge(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> Option<Progress> {
    let judged = twins::judge(pod, mark, target, now)?;
    let second_chance = mark.update.as_ref().and_then(|update| retry_ends(update, target)).filter(|end| now < *end);
    match (&judged, second_chance) {
        (Progress::Failed(_), Some(end)) => Some(Progress::Undecided(Some(end))),
        _ => Some(judged),
    }
}

/// Why an update had failed that is given the whole timeout again, and until when.
fn second_try(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> Option<String> {
    let end = retry_ends(mark.update.as_ref()?, target).filter(|end| now < *end)?;
    match twins::judge(pod, mark, target, now) {
        Some(Progress::Failed(reason)) => Some(format!("{reason}, tried again until {end:.0}")),
        _ => None,
    }
}

/// When the second chance of an update ends; `None` if it has none.
fn retry_ends(update: &Update, target: &Target) -> Option<Timestamp> {
    target.retry_ends().filter(|_| target.retried_at.is_some_and(|at| update.at < at))
}

fn reset_due(context: &PodContext<'_>) -> (State, Option<Timestamp>) {
    match context.refused {
        Some(refusal) => (State::Failed(format!("PatchRefused: {}", refusal.message)), refusal.until),
        None => (State::ResetDue, None),
    }
}

/// A pod that lost its readiness with the update and did not get it back in time has failed, container ready or not.
fn unready(pod: &PodView, update: Option<&Update>, target: &Target, now: Timestamp) -> (State, Option<Timestamp>) {
    let Some(update) = update.filter(|update| update.was_ready && !target.is_stable(&update.revision)) else {
        // A pod that starts is no news of a revision that has proved itself.
        let window_end = after(pod.created, seconds(target.strategy.timeout_seconds));
        return (State::NotReady, Some(window_end).filter(|end| !target.is_rolling() && now < *end));
    };
    let deadline = retry_ends(update, target).unwrap_or_else(|| deadline(update, &target.strategy));
    let since = pod.ready_changed.unwrap_or(update.at);
    if now < deadline {
        (State::NotReady, Some(deadline))
    } else if since <= deadline {
        (State::Failed("the pod is not ready by podUpdateTimeoutSeconds".to_owned()), None)
    } else {
        (State::NotReady, None)
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
