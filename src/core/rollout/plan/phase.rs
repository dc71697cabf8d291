//! Which phase a set's rollout is in. Decided here once, and read by status, new pods and CLI. A phase is the reason of the
//! condition `Ready`; the others follow from it, see the table in `docs/rollouts.md`.

use crate::api::reasons::Reason;
use crate::core::rollout::assess::state::ObstacleKind;
use crate::core::rollout::budget::steps::StepWait;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::Rollout;

/// The phase, but for the progress deadline. `given`: the revision that new pods get; `is_rolling`: the target is not stable,
/// nor becomes so just now.
pub(crate) fn phase(rollout: &Rollout, summary: &Summary, given: &str, is_rolling: bool) -> Reason {
    let (target, counts) = (&rollout.target, &summary.counts);
    if counts.matched == 0 {
        return Reason::NoPods;
    }
    if !target.strategy.is_enabled() {
        return Reason::NotUpdate;
    }
    if summary.is_halted(target) {
        let turns_back = rollout.way_back.is_some() && target.direction == Direction::Forward;
        return if turns_back { Reason::RollingBack } else { Reason::FailureBudgetExceeded };
    }
    // It may keep nothing but new pods from the newest.
    let lacks_new_pods = given != target.revision && changes_template(summary) && !is_share_full(summary);
    if target.strategy.paused && (summary.remaining > 0 || lacks_new_pods || !target.changes_running_pods()) {
        return Reason::Paused;
    }
    let step_is_open = summary.gate.allowed.is_some() && summary.gate.wait.is_none() && counts.outdated > 0;
    // Partition keeps nothing, as nobody counts yet.
    let must_start = counts.not_started > 0 && summary.keep_old == 0;
    // Where pods are left behind, or nothing is left to roll out, one that starts is no news.
    let is_at_rest = !is_rolling || holds_back(rollout, summary) || counts.updated < counts.matched;
    let is_on_trial = counts.recovering > 0 && !is_at_rest;
    let is_open = counts.undecided + summary.evicting > 0 || step_is_open || must_start || is_on_trial;
    let unfinished = summary.remaining > 0 || is_open;
    if target.direction == Direction::Back {
        return if unfinished { Reason::RollingBack } else { Reason::RolledBack };
    }
    let behind = counts.outdated + summary.evictable;
    let waits = behind > 0 || (target.is_rolling() && changes_template(summary));
    if let Some(wait) = summary.gate.wait.as_ref().filter(|_| waits && !unfinished) {
        return if *wait == StepWait::Approval { Reason::WaitingForApproval } else { Reason::StepPause };
    }
    let is_moving = counts.outdated + counts.undecided + summary.evicting > 0;
    if summary.evictions.is_blocked(summary.owners_to_evict) && unfinished && !is_moving {
        return Reason::EvictionBlocked;
    }
    if unfinished {
        return Reason::RollingUpdate;
    }
    if counts.failed > 0 && is_rolling {
        return Reason::PodsFailed;
    }
    // At rest as many as maxUnavailable may be not ready for reasons of their own.
    let are_few = counts.not_ready <= summary.max_unavailable && counts.updated_ready > 0;
    let is_tolerated = is_at_rest && counts.slots == 0 && (counts.not_ready == 0 || are_few);
    // Whether what partition keeps could be updated in place is no question yet.
    let is_kept = counts.not_in_place == 0 || counts.matched - counts.updated - counts.not_started <= summary.keep_old;
    match () {
        () if counts.updated > counts.updated_ready && !is_tolerated => Reason::PodsNotReady,
        () if behind > 0 && is_kept => Reason::PartitionReached,
        () if counts.not_in_place > 0 => Reason::NotInPlace,
        () if counts.outside > 0 => Reason::SelectorReached,
        () => Reason::UpToDate,
    }
}

/// It waits for a person or for a pause to end: the progress deadline does not run.
pub(crate) fn is_wait(phase: Reason) -> bool {
    [Reason::Paused, Reason::WaitingForApproval, Reason::StepPause].contains(&phase)
}

/// Somebody keeps a part of the pods from the newest: by a pause, partition or steps.
pub(crate) fn holds_back(rollout: &Rollout, summary: &Summary) -> bool {
    rollout.target.strategy.paused || rollout.target.has_partition() || summary.gate.allowed.is_some()
}

/// As many pods are at the target as partition and steps allow.
pub(crate) fn is_share_full(summary: &Summary) -> bool {
    let counts = &summary.counts;
    let step_is_full = summary.gate.allowed.is_some_and(|allowed| counts.selected_moved >= allowed);
    counts.matched - counts.updated <= summary.keep_old || step_is_full
}

/// Some pods differ from the newest in more than images. Without evictions not what keeps single pods from an image: a node,
/// a `restartPolicy`, another webhook; for their sake nobody else gets the newest before its turn.
pub(crate) fn changes_template(summary: &Summary) -> bool {
    summary.not_in_place.iter().any(|(obstacle, _)| obstacle.kind == ObstacleKind::Template)
}
