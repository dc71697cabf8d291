//! When a revision is stable, judged by the pods that existed at a moment, however many are made meanwhile.
//!
//! Two cohorts decide. Those that existed when the rollout began: when each is brought to the target and has decided, new
//! pods get the revision. Those that existed by then, some of them made with the old one meanwhile: when each has decided,
//! too, the revision is stable. A pod has decided when it is available, or has failed within `failurePolicy.maxFailed`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::api::SidecarSetStatus;
use crate::core::base::time::whole_seconds;
use crate::core::rollout::assess::state::ObstacleKind;
use crate::core::rollout::plan::phase::{changes_template, holds_back};
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::rollout::Rollout;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) started_at: Timestamp,
    pub(crate) new_pods_since: Option<Timestamp>,
    pub(crate) stable: bool,
}

impl Completion {
    /// On the way forward. `old`: the status as it was.
    pub fn of(old: &SidecarSetStatus, rollout: &Rollout, summary: &Summary, now: Timestamp) -> Self {
        let is_same = old.update_revision.as_ref() == Some(&rollout.update_revision);
        let kept = |time: &Option<Time>| time.as_ref().filter(|_| is_same).map(|time| time.0);
        let started_at = rollout.target.started_at.unwrap_or_else(|| whole_seconds(now));
        let may_decide = !is_held_back(rollout, summary) && is_proved(rollout, summary) && !summary.exceeded;
        let decided = |by: Timestamp| may_decide && has_decided(summary, by);
        let new_pods_since = kept(&old.new_pods_since).or_else(|| decided(started_at).then(|| whole_seconds(now)));
        Self { started_at, new_pods_since, stable: new_pods_since.is_some_and(decided) }
    }
}

/// Each pod that existed by this time is brought to the target, if that is possible, and is available or has failed.
fn has_decided(summary: &Summary, by: Timestamp) -> bool {
    let counts = &summary.counts;
    let is_later = |oldest: Option<Timestamp>| oldest.is_none_or(|oldest| oldest > by);
    let passes = summary.not_in_place.iter().any(|(obstacle, _)| obstacle.kind == ObstacleKind::Passing);
    let leaves = summary.evicting + counts.outside > 0;
    is_later(counts.oldest_to_move) && is_later(counts.oldest_undecided) && !leaves && !passes
}

/// At least one pod works with the revision, where one could show that it does not.
fn is_proved(rollout: &Rollout, summary: &Summary) -> bool {
    let (target, counts) = (&rollout.target, &summary.counts);
    if counts.matched == 0 {
        return target.stable.is_none();
    }
    if !target.changes_running_pods() {
        return counts.proved > 0;
    }
    counts.updated_ready > 0 || (target.stable.is_some() && counts.failed == 0 && !changes_template(summary))
}

/// What is held back stays so while pods are made anew, or for a moment there are none.
fn is_held_back(rollout: &Rollout, summary: &Summary) -> bool {
    let counts = &summary.counts;
    holds_back(rollout, summary) && (counts.matched == 0 || counts.updated < counts.matched)
}
