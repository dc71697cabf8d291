//! Steps: how many pods may be upgraded now, and what the next one waits for.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::v1beta1::Step;
use crate::core::base::percent::scaled;
use crate::core::base::time::after;
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;

/// Where a rollout stands among its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepGate {
    /// Steps reached.
    pub(crate) reached: usize,
    /// When the last of them was reached.
    pub(crate) reached_at: Option<Timestamp>,
    /// Selected pods that may be at the target now; `None` for all.
    pub(crate) allowed: Option<usize>,
    /// Why the next step does not begin.
    pub(crate) wait: Option<StepWait>,
}

/// What a reached step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepWait {
    Approval,
    Until(Timestamp),
}

/// A step is reached when as many pods are available, or have failed within the budget, as it asks for, or as can be
/// upgraded at all. `StepGate::default()` without steps.
pub fn gate(target: &Target, persisted: &PersistedProgress, counts: &Counts, now: Timestamp) -> StepGate {
    let steps = &target.strategy.steps;
    if steps.is_empty() {
        return StepGate::default();
    }
    let number = |step: &Step| scaled(&step.replicas, counts.selected_counted);
    let attainable = counts.selected - (counts.selected_not_in_place - counts.evictable) - counts.blocked;
    let (mut reached, mut reached_at) = (persisted.step.min(steps.len()), persisted.step_reached_at);
    if persisted.steps_may_differ {
        // Any change of the spec comes here, a pause among them: it ends no step whose pods are in the middle of it.
        let is_passed = |(i, step): &(usize, &Step)| {
            let pods = if *i < reached { counts.selected_moved } else { counts.selected_decided };
            number(step) <= pods.min(counts.selected_moved)
        };
        let passed = steps.iter().enumerate().take_while(is_passed).count();
        if passed != reached {
            (reached, reached_at) = (passed, Some(now));
        }
    }
    loop {
        let wait = reached.checked_sub(1).and_then(|last| wait(&steps[last], reached, reached_at, persisted, now));
        let next = if wait.is_some() { reached.checked_sub(1).map(|last| &steps[last]) } else { steps.get(reached) };
        let Some(next) = next else { return StepGate { reached, reached_at, allowed: None, wait } };
        if wait.is_some() || counts.selected_decided < number(next).min(attainable) {
            return StepGate { reached, reached_at, allowed: Some(number(next)), wait };
        }
        (reached, reached_at) = (reached + 1, Some(now));
    }
}

/// What the pause behind a step waits for; `None` if it is over. An approval ends a timed pause early.
fn wait(
    step: &Step,
    position: usize,
    reached_at: Option<Timestamp>,
    persisted: &PersistedProgress,
    now: Timestamp,
) -> Option<StepWait> {
    let pause = step.pause.as_ref().filter(|_| persisted.approved < position)?;
    let Some(seconds) = pause.duration_seconds else { return Some(StepWait::Approval) };
    let until = after(reached_at.unwrap_or(now), SignedDuration::from_secs(seconds.into()));
    (now < until).then_some(StepWait::Until(until))
}
