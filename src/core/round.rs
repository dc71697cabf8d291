//! One round for one set, without I/O: [`Round`] plans, [`Planned`] says what may still be sent and, when all is answered,
//! what the status says and when to look again. The controller and the simulator drive it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::api::{SidecarSet, SidecarSetStatus};
use crate::core::replace::report::EvictionReport;
use crate::core::rollout::plan::{Report, begin_batch, report};
use crate::core::rollout::request::{PLAN_HOLDS, PodPatch};
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::Pull;
use crate::core::rollout::state::set::RolloutState;
use crate::core::rollout::target::rollout::{Rollout, still_wanted};
use crate::core::status::{self, InjectionState};

/// Requests planned at a time: the next plan sees what the first ones did, and the status is written in between.
const BATCH: usize = 1024;

/// Pods assessed while the lock of the index is held: events of pods, and the webhook's threads, wait no longer.
const ASSESSED_AT_A_TIME: usize = 500;

/// Wait before the next plan when not one request of the last one was accepted.
const NO_PROGRESS: Duration = Duration::from_secs(1);

/// A quiet set is looked at this often, in case an event was lost.
pub(crate) const RESYNC: Duration = Duration::from_mins(5);

/// Wait after a round that failed.
pub const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Mere counters are written at most this often; a change of a condition at once.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// Pods whose last patch has an unknown outcome, and that could not be read since. Each may hold a slot that nobody
/// counts, so nothing is planned and nothing is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} pods were patched with unknown outcome and cannot be read yet")]
pub struct Unconfirmed(pub usize);

/// A round that has begun.
#[derive(Debug)]
pub struct Round {
    set: Arc<SidecarSet>,
    rollout: Rollout,
}

impl Round {
    /// Tells the index where the set goes. Returns what it does not need any more, see `Index::set_target`.
    pub fn begin(index: &mut Index, set: Arc<SidecarSet>, rollout: Rollout) -> (Self, Option<RolloutState>) {
        let replaced = index.set_target(rollout.target.clone());
        (Self { set, rollout }, replaced)
    }

    /// Assesses some of the pods that stand differently now. True when none is left; a plan assesses what is.
    pub fn assess(&self, index: &mut Index, now: Timestamp) -> bool {
        index.assess_due(&self.rollout.target.set, now, ASSESSED_AT_A_TIME)
    }

    /// Plans. `unconfirmed`: pods that are still to be read, see [`Unconfirmed`].
    ///
    /// # Errors
    /// There are some.
    pub fn plan(self, index: &mut Index, unconfirmed: usize, now: Timestamp) -> Result<Planned, Unconfirmed> {
        if unconfirmed > 0 {
            return Err(Unconfirmed(unconfirmed));
        }
        let Self { set, rollout } = self;
        let requests = begin_batch(index, &rollout.target.set, &rollout.persisted, now, BATCH);
        Ok(Planned { set, rollout, has_requests: !requests.is_empty(), requests })
    }
}

/// A round whose requests are to be sent.
#[derive(Debug)]
pub struct Planned {
    /// What was planned for.
    pub set: Arc<SidecarSet>,
    /// Where it goes.
    pub rollout: Rollout,
    requests: Vec<PodPatch>,
    has_requests: bool,
}

/// What became of the requests of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Pods that were patched.
    pub patched: usize,
    /// See [`Unconfirmed`].
    pub unconfirmed: usize,
}

/// What is known besides the pods.
#[derive(Clone, Debug, Default)]
pub struct RoundFacts {
    /// The set as it is after the requests.
    pub newest: Option<Arc<SidecarSet>>,
    /// How injection stands.
    pub injection: InjectionState,
    /// Where evictions for upgrades stand.
    pub evictions: EvictionReport,
    /// Collisions of the revision's name.
    pub collisions: i32,
    /// Hashes of the revisions that canaries of the set roll out.
    pub canaries: Vec<String>,
}

/// What a round ends with.
#[derive(Clone, Debug)]
pub struct RoundResult {
    /// What to write.
    pub status: SidecarSetStatus,
    /// What nodes have to pull before the pods of the next batch can be patched.
    pub(crate) pulls: Vec<Pull>,
    /// Hashes of the revisions that must be kept: those of pods, the target, those that new pods may get, those of canaries.
    pub(crate) in_use: BTreeSet<String>,
    /// When the next round is due.
    pub next: Duration,
}

impl Planned {
    /// The requests, most urgent first.
    pub fn take_requests(&mut self) -> Vec<PodPatch> {
        std::mem::take(&mut self.requests)
    }

    /// Whether a request may still be sent some time after the plan was made: a pause stops what has not been sent yet.
    pub fn may_send(&self, newest: Option<&SidecarSet>, age: Duration) -> bool {
        age <= PLAN_HOLDS && self.is_wanted(newest)
    }

    fn is_wanted(&self, newest: Option<&SidecarSet>) -> bool {
        newest.is_some_and(|newest| still_wanted(&self.set, newest))
    }

    /// Ends the round, when each request is answered or given up.
    ///
    /// # Errors
    /// There are unconfirmed pods.
    pub fn end(
        self,
        index: &mut Index,
        answers: Answers,
        known: RoundFacts,
        now: Timestamp,
    ) -> Result<RoundResult, Unconfirmed> {
        if answers.unconfirmed > 0 {
            return Err(Unconfirmed(answers.unconfirmed));
        }
        let (name, persisted) = (&self.rollout.target.set, &self.rollout.persisted);
        // What the requests did is in the index already, and what has changed beside the pods meanwhile comes in here.
        // Time does not pass: what it changes is for the next round.
        index.assess_due(name, now, usize::MAX);
        index.sending(name, Vec::new(), persisted);
        let Report { mut summary, pulls, wake_at } = report(index, name, persisted, now);
        summary.evictions = known.evictions;
        let (mut status, overdue_at) = status::status(&self.set, &self.rollout, &summary, &known.injection, now);
        status.collision_count = (known.collisions > 0).then_some(known.collisions);
        let next = match answers.patched {
            _ if !self.has_requests => RESYNC,
            // Not one accepted, and not for a change of mind: every pod had changed under the plan. No reason to hurry.
            0 if self.is_wanted(known.newest.as_deref()) => NO_PROGRESS,
            _ => Duration::ZERO,
        };
        let given = [&status.stable_revision, &status.injection_revision, &known.injection.pinned];
        let mut in_use = index.pods.revisions(name).cloned().collect::<BTreeSet<_>>();
        in_use.insert(self.rollout.update_revision);
        in_use.extend(given.into_iter().flatten().cloned());
        in_use.extend(known.canaries);
        let due = wake_at.into_iter().chain(overdue_at).map(|at| until(at, now)).min();
        Ok(RoundResult { status, pulls, in_use, next: next.min(due.unwrap_or(RESYNC)) })
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// When a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStatus {
    /// It is the same.
    Never,
    /// After this time: only counters differ, and the last write is not long ago.
    After(Duration),
    /// At once.
    Now,
}

/// When `new` is written over `old`. `since`: the last write of the set's status by this process is so long ago.
pub fn write_status(old: &SidecarSetStatus, new: &SidecarSetStatus, since: Option<Duration>) -> WriteStatus {
    if old == new {
        return WriteStatus::Never;
    }
    if !conditions(old).eq(conditions(new)) || old.observed_generation != new.observed_generation {
        return WriteStatus::Now;
    }
    match since.and_then(|since| COUNTERS_EVERY.checked_sub(since)) {
        Some(wait) if !wait.is_zero() => WriteStatus::After(wait),
        _ => WriteStatus::Now,
    }
}

/// What is written at once: type, status and reason of each condition.
fn conditions(status: &SidecarSetStatus) -> impl Iterator<Item = (&str, &str, &str)> {
    status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::rollout::testing::{TestPod, at, hash, rollout, set};

    /// A pod at `v1` of a set that goes to `v2`.
    fn begun() -> (Index, TestPod, Arc<SidecarSet>, Round) {
        let mut index = Index::default();
        let pod = TestPod::new("web");
        index.apply(pod.view(), at(0));
        let set = Arc::new(set("v2", json!({})));
        let (round, _) = Round::begin(&mut index, Arc::clone(&set), rollout("v2", json!({})));
        (index, pod, set, round)
    }

    fn known(newest: &Arc<SidecarSet>) -> RoundFacts {
        RoundFacts { newest: Some(Arc::clone(newest)), ..RoundFacts::default() }
    }

    #[test]
    fn nothing_is_planned_while_the_outcome_of_a_patch_is_unknown() {
        let (mut index, _, _, round) = begun();
        assert_eq!(round.plan(&mut index, 1, at(0)).unwrap_err(), Unconfirmed(1));
        let (mut index, _, set, round) = begun();
        let planned = round.plan(&mut index, 0, at(0)).unwrap();
        let answers = Answers { patched: 1, unconfirmed: 2 };
        assert_eq!(planned.end(&mut index, answers, known(&set), at(0)).unwrap_err(), Unconfirmed(2));
    }

    #[test]
    fn the_status_is_of_what_the_requests_did() {
        let (mut index, mut pod, set, round) = begun();
        let mut planned = round.plan(&mut index, 0, at(0)).unwrap();
        assert!(pod.patch(&planned.take_requests()[0].patch));
        index.apply_answer(pod.view(), at(0));
        let outcome = planned.end(&mut index, Answers { patched: 1, unconfirmed: 0 }, known(&set), at(0)).unwrap();
        assert_eq!(outcome.status.message.as_deref().map(|message| message.contains("updating")), Some(true));
        assert_eq!(outcome.next, Duration::ZERO, "the rest of a large rollout follows at once");
    }

    #[test]
    fn a_plan_of_which_nothing_was_accepted_is_not_repeated_at_once() {
        let next = |changes_mind: bool| {
            let (mut index, _, mut newest, round) = begun();
            let mut planned = round.plan(&mut index, 0, at(0)).unwrap();
            assert_eq!(planned.take_requests().len(), 1);
            if changes_mind {
                Arc::make_mut(&mut newest).metadata.generation = Some(2);
            }
            planned.end(&mut index, Answers::default(), known(&newest), at(0)).unwrap().next
        };
        assert_eq!(next(false), NO_PROGRESS);
        assert_eq!(next(true), Duration::ZERO);
    }

    #[test]
    fn requests_are_held_back_when_the_plan_is_old_or_the_set_has_changed() {
        let (mut index, _, set, round) = begun();
        let planned = round.plan(&mut index, 0, at(0)).unwrap();
        assert!(planned.may_send(Some(&set), Duration::ZERO));
        assert!(!planned.may_send(Some(&set), PLAN_HOLDS + Duration::from_millis(1)));
        assert!(!planned.may_send(None, Duration::ZERO), "the set is gone");
        let mut newest = (*set).clone();
        newest.metadata.generation = Some(2);
        assert!(!planned.may_send(Some(&newest), Duration::ZERO));
    }

    #[test]
    fn revisions_of_pods_and_of_the_target_and_of_new_pods_and_canaries_are_in_use() {
        let (mut index, _, set, round) = begun();
        let planned = round.plan(&mut index, 0, at(0)).unwrap();
        let injection = InjectionState { pinned: Some("pinned".into()), ..InjectionState::default() };
        let known = RoundFacts { injection, canaries: vec!["canary".into()], ..known(&set) };
        let outcome = planned.end(&mut index, Answers::default(), known, at(0)).unwrap();
        assert_eq!(outcome.in_use, [hash("v1"), hash("v2"), "pinned".into(), "canary".into()].into());
    }

    #[test]
    fn conditions_are_written_at_once_and_counters_once_a_second() {
        let old = SidecarSetStatus::default();
        let since = |millis| Some(Duration::from_millis(millis));
        assert_eq!(write_status(&old, &old, None), WriteStatus::Never);
        let counted = SidecarSetStatus { updated_pods: 1, ..old.clone() };
        assert_eq!(write_status(&old, &counted, None), WriteStatus::Now);
        assert_eq!(write_status(&old, &counted, since(400)), WriteStatus::After(Duration::from_millis(600)));
        assert_eq!(write_status(&old, &counted, since(1000)), WriteStatus::Now);
        let observed = SidecarSetStatus { observed_generation: Some(2), ..counted };
        assert_eq!(write_status(&old, &observed, since(0)), WriteStatus::Now);
    }
}
