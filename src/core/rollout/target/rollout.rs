//! Which way a set's rollout goes: what its status remembers, and what its annotations ask for.

use k8s_openapi::jiff::Timestamp;

use crate::api::v1beta1::{Eviction, FailureAction};
use crate::api::validate::ValidSidecarSet;
use crate::api::{SidecarSet, keys};
use crate::core::base::text::LONGEST;
use crate::core::base::time::whole_seconds;
use crate::core::revision::{History, Template};
use crate::core::rollout::target::{Direction, Target};

/// What only status and annotations of a set know about its rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistedProgress {
    pub(crate) evictions: Vec<Eviction>,
    /// `status.currentStep`: steps reached so far.
    pub(crate) step: usize,
    /// `status.stepReachedAt`.
    pub(crate) step_reached_at: Option<Timestamp>,
    /// Annotation `approve`, if it is for this revision: the rollout may go on behind so many steps.
    pub approved: usize,
    /// The spec has changed since the status was written: the steps may be others.
    pub(crate) steps_may_differ: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// What is wanted of the pods now.
    pub target: Target,
    /// What only status and annotations know.
    pub persisted: PersistedProgress,
    /// Hash of the spec's revision; the rollout's own differs on the way back.
    pub(crate) update_revision: String,
    /// Hash of the stable revision that pods return to when this one is given up; `None` if it stops instead.
    pub(crate) way_back: Option<String>,
    /// Why that was given up, if it was: `status.abortedBecause`.
    pub(crate) aborted_because: Option<String>,
    /// The annotation `approve`, if it says nothing about this revision.
    pub(crate) stray_approval: Option<String>,
    /// Value of the annotation that would try it again.
    pub(crate) next_retry: String,
}

/// Decides where a rollout goes. `newest` is the revision of the spec, `history` the known ones.
pub fn rollout(valid: &ValidSidecarSet, newest: (&str, &Template), history: &History, now: Timestamp) -> Rollout {
    let set = valid.set();
    let status = set.status.clone().unwrap_or_default();
    let known = || history.iter().map(|(hash, revision)| (hash, &revision.template));
    let stable = status.stable_revision.as_deref();
    let same_revision = status.update_revision.as_deref() == Some(newest.0);
    let aborted = status.aborted_revision.as_deref() == Some(newest.0);
    let retry = annotation(set, keys::RETRY).filter(|value| Some(*value) != status.handled_retry.as_deref());
    let retried = retry.is_some_and(|value| of_revision(value, newest.0).is_some());
    let rolls_back = set.spec.update_strategy.failure_policy.action == FailureAction::Rollback;
    let way_back = stable.filter(|stable| rolls_back && *stable != newest.0);
    let way_back = way_back.and_then(|hash| Some((hash, history.get(hash)?)));
    let target = match way_back {
        Some((hash, revision)) if aborted && !retried => {
            Target::new(valid, (hash, &revision.template), known(), stable).going_back()
        }
        _ => {
            let retried_at = status.retried_at.filter(|_| same_revision).map(|time| time.0);
            Target {
                direction: if aborted && !retried { Direction::Halted } else { Direction::Forward },
                retried_at: if retried { Some(now) } else { retried_at },
                ..Target::new(valid, newest, known(), stable)
            }
        }
    };
    let started_at =
        status.rollout_started_at.filter(|_| same_revision).map_or_else(|| whole_seconds(now), |time| time.0);
    let target = Target { started_at: Some(started_at), ..target };
    let persisted = PersistedProgress {
        evictions: status.evictions.unwrap_or_default(),
        step: status.current_step.filter(|_| same_revision).and_then(|step| step.try_into().ok()).unwrap_or(0),
        step_reached_at: status.step_reached_at.filter(|_| same_revision).map(|time| time.0),
        approved: annotation(set, keys::APPROVE)
            .and_then(|value| of_revision(value, newest.0)?.parse().ok())
            .unwrap_or(0),
        steps_may_differ: same_revision && status.observed_generation != set.metadata.generation,
    };
    let tried = status.handled_retry.as_deref().and_then(|value| of_revision(value, newest.0)?.parse().ok());
    Rollout {
        way_back: way_back.map(|(hash, _)| hash.to_owned()),
        aborted_because: status.aborted_because.filter(|_| target.direction != Direction::Forward),
        stray_approval: annotation(set, keys::APPROVE)
            .filter(|value| of_revision(value, newest.0).is_none_or(|step| step.parse::<usize>().is_err()))
            .map(str::to_owned),
        next_retry: format!("{}/{}", newest.0, tried.unwrap_or(0_u32).saturating_add(1)),
        update_revision: newest.0.to_owned(),
        target,
        persisted,
    }
}

/// Whether requests that were planned for a set as it was are still wanted of the newest one: the same spec, which was not
/// given up since. The status may say so although the write of it got no answer.
pub(crate) fn still_wanted(planned: &SidecarSet, newest: &SidecarSet) -> bool {
    let aborted = |set: &SidecarSet| set.status.as_ref().and_then(|status| status.aborted_revision.clone());
    newest.metadata.uid == planned.metadata.uid
        && newest.metadata.generation == planned.metadata.generation
        && aborted(newest) == aborted(planned)
}

/// A long one asks for nothing, as it could not be kept in the status.
pub(crate) fn annotation<'a>(set: &'a SidecarSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| value.len() <= LONGEST)
}

/// What stands behind `<revision>/`.
fn of_revision<'a>(value: &'a str, revision: &str) -> Option<&'a str> {
    value.strip_prefix(revision)?.strip_prefix('/')
}
