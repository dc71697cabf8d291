//! What the status of a set says: counters, one line, and conditions that kstatus can read.

pub(crate) mod completion;
mod injection;
mod message;
pub mod new_pods;
#[cfg(test)]
mod tests;

pub use injection::InjectionState;
pub(crate) use injection::{InjectionFacts, injection_state};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
pub(crate) use message::{Forecast, forecast};

use super::revision;
use crate::api::reasons::{Reason, condition};
use crate::api::v1beta1::{FailurePolicy, WhenNotInPlace};
use crate::api::{SidecarSet, SidecarSetStatus, keys};
use crate::core::base::time::{after, seconds, whole_seconds};
use crate::core::rollout::plan::phase::{is_wait, phase};
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::{Rollout, annotation};
use crate::core::status::completion::Completion;
use crate::core::status::message::message;
use crate::core::status::new_pods::injection_revision;

/// The phase of a rollout, and the line that explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolloutVerdict {
    /// Reason of Ready, and of whichever of Reconciling and Stalled is True.
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl RolloutVerdict {
    /// See [`phase`].
    pub(crate) fn of(rollout: &Rollout, summary: &Summary, given: &str, is_rolling: bool) -> Self {
        let reason = phase(rollout, summary, given, is_rolling);
        Self { reason, message: message(rollout, summary, given, reason) }
    }

    /// Ready, Reconciling and Stalled.
    fn conditions(&self, set: &SidecarSet) -> [bool; 3] {
        match self.reason {
            Reason::NoPods
            | Reason::NotUpdate
            | Reason::PartitionReached
            | Reason::SelectorReached
            | Reason::UpToDate => [true, false, false],
            // What the spec asks for is fine; otherwise somebody has to recreate these pods.
            Reason::NotInPlace => {
                [set.spec.update_strategy.when_not_in_place == Some(WhenNotInPlace::Skip), false, false]
            }
            // It waits for what the operator does not do.
            Reason::EvictionBlocked | Reason::PodsNotReady | Reason::PodsNotCreated => [false, false, false],
            Reason::RollingUpdate | Reason::RollingBack => [false, true, false],
            wait if is_wait(wait) => [false, true, false],
            _ => [false, false, true],
        }
    }
}

/// Status of a set that cannot be acted on.
pub(crate) fn invalid(
    set: &SidecarSet,
    problems: &str,
    injection: &InjectionState,
    now: Timestamp,
) -> SidecarSetStatus {
    let verdict = RolloutVerdict { reason: Reason::InvalidSpec, message: problems.to_owned() };
    let old = set.status.clone().unwrap_or_default();
    let status = SidecarSetStatus { message: Some(verdict.message.clone()), ..old };
    with_conditions(set, status, &verdict, injection, now)
}

/// Status of a set whose rollout was planned, and when the progress deadline must be looked at.
pub(crate) fn status(
    set: &SidecarSet,
    rollout: &Rollout,
    summary: &Summary,
    injection: &InjectionState,
    now: Timestamp,
) -> (SidecarSetStatus, Option<Timestamp>) {
    let old = set.status.clone().unwrap_or_default();
    let (target, counts) = (&rollout.target, &summary.counts);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let completion = Completion::of(&old, rollout, summary, now);
    let is_stable = target.direction == Direction::Forward && completion.stable;
    let aborted_revision = aborted(&old, rollout, summary);
    let stable_revision = if is_stable { Some(target.revision.clone()) } else { old.stable_revision.clone() };
    let given = injection_revision(
        set,
        rollout,
        summary,
        stable_revision.as_ref(),
        aborted_revision.as_ref(),
        &completion,
        injection.pinned.as_deref(),
    );
    let mut verdict = RolloutVerdict::of(rollout, summary, &given, target.is_rolling() && !is_stable);
    let is_at_rest = verdict.conditions(set)[0];
    let blocks =
        set.spec.injection_strategy.failure_policy == FailurePolicy::Fail && injection.reason == Reason::PodsNotCreated;
    if blocks && is_at_rest {
        verdict = RolloutVerdict { reason: Reason::PodsNotCreated, message: injection.failed_creates_message.clone() };
    }
    let last_progress = last_progress(&old, rollout, summary, verdict.reason, now);
    let deadline = target.strategy.progress_deadline_seconds;
    let overdue_at = after(last_progress, seconds(deadline));
    let runs = is_moving(verdict.reason);
    if runs && now >= overdue_at {
        let text = format!("{}; no progress for more than progressDeadlineSeconds ({deadline})", verdict.message);
        verdict = RolloutVerdict { reason: Reason::ProgressDeadlineExceeded, message: text };
    }
    let because = rollout.aborted_because.clone().unwrap_or_else(|| message::failed(summary));
    let back = target.direction == Direction::Back;
    let steps = !target.strategy.steps.is_empty();
    let status = SidecarSetStatus {
        matched_pods: number(counts.matched),
        updated_pods: number(if back { counts.matched - counts.updated } else { counts.updated }),
        ready_pods: number(counts.ready),
        updated_ready_pods: if back { 0 } else { number(counts.updated_ready) },
        failed_pods: number(counts.failed),
        not_in_place_pods: number(counts.not_in_place),
        update_revision: Some(rollout.update_revision.clone()),
        stable_revision,
        aborted_because: aborted_revision.is_some().then_some(because),
        aborted_revision: aborted_revision.clone(),
        handled_retry: annotation(set, keys::RETRY).map(str::to_owned),
        retried_at: target.retried_at.map(|at| Time(whole_seconds(at))),
        latest_revision: Some(revision::name(name, &rollout.update_revision)),
        injection_revision: Some(given),
        rollout_started_at: Some(Time(completion.started_at)),
        new_pods_since: completion.new_pods_since.filter(|_| aborted_revision.is_none()).map(Time),
        last_progress_time: Some(Time(last_progress)),
        current_step: steps.then(|| number(summary.gate.reached)),
        step_reached_at: summary.gate.reached_at.filter(|_| steps).map(|at| Time(whole_seconds(at))),
        message: Some(line(&verdict, injection)),
        failed_create_owners: injection.failed_create_owners,
        uninjected_pods: injection.uninjected,
        ..old
    };
    (with_conditions(set, status, &verdict, injection, now), runs.then_some(overdue_at).filter(|at| now < *at))
}

/// A revision that is given up stays so, even if its pods recover: until the template changes, or a retry is asked for.
fn aborted(old: &SidecarSetStatus, rollout: &Rollout, summary: &Summary) -> Option<String> {
    let latched = rollout.target.direction != Direction::Forward && old.aborted_revision.is_some();
    (latched || summary.exceeded).then(|| rollout.update_revision.clone())
}

/// The progress deadline runs.
fn is_moving(phase: Reason) -> bool {
    matches!(phase, Reason::RollingUpdate | Reason::RollingBack)
}

/// The deadline runs from here. It begins anew with each revision and direction, and when a pause is over.
fn last_progress(
    old: &SidecarSetStatus,
    rollout: &Rollout,
    summary: &Summary,
    phase: Reason,
    now: Timestamp,
) -> Timestamp {
    let counts = &summary.counts;
    let before = old.conditions.iter().find(|c| c.type_ == condition::READY).and_then(|c| Reason::named(&c.reason));
    let same_revision = old.update_revision.as_deref() == Some(&rollout.update_revision);
    let more = match rollout.target.direction {
        Direction::Back => number(counts.matched - counts.updated) < old.updated_pods,
        // Pods that were not ready before need not be so after.
        Direction::Forward | Direction::Halted => {
            number(counts.updated_ready) > old.updated_ready_pods || number(counts.updated) > old.updated_pods
        }
    };
    let stepped = number(summary.gate.reached) > old.current_step.unwrap_or(0);
    // A rollout that begins long after the last one ended, because pods or the partition changed, has its own deadline.
    let ran = before.is_some_and(|before| is_moving(before) || before == Reason::ProgressDeadlineExceeded);
    let begins = is_moving(phase) && !ran;
    let resumes = before.is_some_and(is_wait) && !is_wait(phase);
    match &old.last_progress_time {
        Some(last) if same_revision && !(resumes || more || stepped || begins) => last.0,
        _ => whole_seconds(now),
    }
}

/// `status.message`.
fn line(verdict: &RolloutVerdict, injection: &InjectionState) -> String {
    let failed = Some(injection.failed_creates_message.as_str()).filter(|_| verdict.reason != Reason::PodsNotCreated);
    let message = joined(&verdict.message, failed.unwrap_or_default());
    joined(&message, &injection.uninjected_message)
}

fn joined(message: &str, more: &str) -> String {
    if more.is_empty() { message.to_owned() } else { format!("{message}; {more}") }
}

fn with_conditions(
    set: &SidecarSet,
    mut status: SidecarSetStatus,
    verdict: &RolloutVerdict,
    injection: &InjectionState,
    now: Timestamp,
) -> SidecarSetStatus {
    let generation = set.metadata.generation;
    let [ready, reconciling, stalled] = verdict.conditions(set);
    let is_paused = set.spec.update_strategy.paused;
    let (is_conflicting, conflicts) = (!injection.conflicts.is_empty(), injection.conflicts.join("; "));
    let injected = joined(&injection.message, &injection.uninjected_message);
    let message = verdict.message.as_str();
    let paused = if is_paused { "updateStrategy.paused is true" } else { "" };
    let as_expected = |on: bool, reason: Reason| if on { reason } else { Reason::AsExpected };
    let wanted = [
        (condition::READY, ready, verdict.reason, message),
        (condition::RECONCILING, reconciling, as_expected(reconciling, verdict.reason), message),
        (condition::STALLED, stalled, as_expected(stalled, verdict.reason), message),
        (condition::PAUSED, is_paused, as_expected(is_paused, Reason::Paused), paused),
        (condition::INJECTION_READY, injection.ready, injection.reason, injected.as_str()),
        (condition::CONFLICTING, is_conflicting, as_expected(is_conflicting, Reason::Conflict), &conflicts),
    ];
    let before = std::mem::take(&mut status.conditions);
    status.conditions = wanted
        .into_iter()
        .map(|(type_, on, reason, message)| {
            let value = if on { "True" } else { "False" };
            let unchanged = before.iter().find(|c| c.type_ == type_ && c.status == value);
            Condition {
                type_: type_.to_owned(),
                status: value.to_owned(),
                reason: reason.to_string(),
                message: message.to_owned(),
                observed_generation: generation,
                last_transition_time: unchanged
                    .map_or_else(|| Time(whole_seconds(now)), |condition| condition.last_transition_time.clone()),
            }
        })
        .collect();
    status.observed_generation = generation;
    status
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
