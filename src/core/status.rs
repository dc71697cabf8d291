//! What the status of a set says: counters, one line, and conditions that kstatus can read.
//!
//! | State | Ready | Reconciling | Stalled | Paused | kstatus |
//! | --- | --- | --- | --- | --- | --- |
//! | spec is invalid | False `InvalidSpec` | False | True `InvalidSpec` | – | Failed |
//! | no pods | True `NoPods` | False | False | – | Current |
//! | type NotUpdate | True `NotUpdate` | False | False | – | Current |
//! | rolling out | False `RollingUpdate` | True `RollingUpdate` | False | False | InProgress |
//! | paused, pods behind | False `Paused` | True `Paused` | False | True | InProgress |
//! | only failed pods hold the budget | False `FailureBudgetExceeded` | False | True `FailureBudgetExceeded` | False | Failed |
//! | nothing is left to patch, some failed | False `PodsFailed` | False | True `PodsFailed` | False | Failed |
//! | updated, some pods not ready | False `PodsNotReady` | False | False | – | InProgress |
//! | partition reached | True `PartitionReached` | False | False | False | Current |
//! | the rest cannot be patched | True `NotInPlace` | False | False | – | Current |
//! | everything updated and ready | True `UpToDate` | False | False | – | Current |

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::new_pods::injection_revision;
use super::revision;
use super::upgrade::rollout::Strategy;
use super::upgrade::{Rollout, Summary};
use crate::api::reasons::{self, reason};
use crate::api::{SidecarSet, SidecarSetStatus};

/// Whether the webhook serves a set, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectionState {
    /// True if pods created now get the sidecars.
    pub ready: bool,
    /// Reason of the condition.
    pub reason: &'static str,
    /// Message of the condition.
    pub message: String,
    /// Hash of the revision that `injectionStrategy.revision` names.
    pub pinned: Option<String>,
    /// What this set and others on the same pods both want.
    pub conflicts: Vec<String>,
    /// `status.uninjectedPods`; `None` if nobody looks for them.
    pub uninjected: Option<i32>,
    /// Which pods those are, and what becomes of them; empty if there are none. Added to the messages.
    pub naked: String,
}

/// The four conditions about the rollout, and the line that explains them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    ready: bool,
    reconciling: bool,
    stalled: bool,
    paused: bool,
    /// Reason of Ready, and of whichever of Reconciling and Stalled is True.
    pub reason: &'static str,
    /// `status.message`.
    pub message: String,
}

/// Status of a set that cannot be acted on.
pub fn invalid(set: &SidecarSet, problems: &str, injection: &InjectionState, now: Timestamp) -> SidecarSetStatus {
    let verdict = Verdict {
        ready: false,
        reconciling: false,
        stalled: true,
        paused: set.spec.update_strategy.paused,
        reason: reason::INVALID_SPEC,
        message: problems.to_owned(),
    };
    let old = set.status.clone().unwrap_or_default();
    let status = SidecarSetStatus { message: Some(verdict.message.clone()), ..old };
    with_conditions(set, status, &verdict, injection, now)
}

/// Status of a set whose rollout was planned.
pub fn status(
    set: &SidecarSet,
    rollout: &Rollout,
    summary: &Summary,
    injection: &InjectionState,
    now: Timestamp,
) -> SidecarSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let counts = &summary.counts;
    let verdict = verdict(rollout, summary);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let same_revision = old.update_revision.as_deref() == Some(&rollout.revision);
    let progressed = !same_revision || number(counts.updated_ready) > old.updated_ready_pods;
    let stable_revision = if fully_rolled_out(summary) { Some(rollout.revision.clone()) } else { old.stable_revision };
    let pinned = injection.pinned.as_deref();
    let given = injection_revision(set, rollout, summary, stable_revision.as_ref(), pinned);
    let status = SidecarSetStatus {
        matched_pods: number(counts.matched),
        updated_pods: number(counts.updated),
        ready_pods: number(counts.ready),
        updated_ready_pods: number(counts.updated_ready),
        failed_pods: number(counts.failed),
        not_in_place_pods: number(counts.not_in_place),
        update_revision: Some(rollout.revision.clone()),
        stable_revision,
        latest_revision: Some(revision::name(name, &rollout.revision)),
        injection_revision: Some(given),
        last_progress_time: if progressed { Some(Time(whole_seconds(now))) } else { old.last_progress_time },
        message: Some(joined(&verdict.message, &injection.naked)),
        uninjected_pods: injection.uninjected,
        ..old
    };
    with_conditions(set, status, &verdict, injection, now)
}

fn joined(message: &str, more: &str) -> String {
    if more.is_empty() { message.to_owned() } else { format!("{message}; {more}") }
}

/// Every matched pod runs the target, and no update is open.
fn fully_rolled_out(summary: &Summary) -> bool {
    let counts = &summary.counts;
    counts.updated == counts.matched && counts.undecided == 0 && counts.failed == 0
}

/// Decides the row of the table above.
pub fn verdict(rollout: &Rollout, summary: &Summary) -> Verdict {
    let counts = &summary.counts;
    let Strategy { enabled, paused, .. } = rollout.strategy;
    let all_ready = counts.updated_ready == counts.updated && counts.failed == 0;
    let row =
        |ready, reconciling, stalled, reason, message| Verdict { ready, reconciling, stalled, paused, reason, message };
    let progress = progress_line(rollout, summary);
    if counts.matched == 0 {
        return row(true, false, false, reason::NO_PODS, "no pod carries these sidecars yet".to_owned());
    }
    if !enabled {
        let message = format!("{progress}; running pods are left alone: updateStrategy.type is NotUpdate");
        return row(true, false, false, reason::NOT_UPDATE, message);
    }
    if paused && summary.remaining > 0 {
        let message = format!("{progress}; paused: set updateStrategy.paused to false to go on");
        return row(false, true, false, reason::PAUSED, message);
    }
    if counts.failed > 0 && counts.undecided == 0 && counts.recovering == 0 && !summary.movable {
        let failed = list(&summary.failed, counts.failed);
        let message = format!(
            "{progress}; stopped by {} failed: {failed}; maxUnavailable is {}; apply a working image to go on",
            counts.failed, summary.max_unavailable
        );
        let stopped = summary.remaining > 0;
        let reason = if stopped { reason::FAILURE_BUDGET_EXCEEDED } else { reason::PODS_FAILED };
        return row(false, false, true, reason, message);
    }
    if summary.remaining > 0 || counts.undecided > 0 {
        return row(false, true, false, reason::ROLLING_UPDATE, format!("{progress}{}", waits_for(summary)));
    }
    if !all_ready {
        let waiting = counts.updated - counts.updated_ready;
        let message = format!("{progress}; {waiting} updated not ready{}", waits_for(summary));
        return row(false, false, false, reason::PODS_NOT_READY, message);
    }
    if counts.outdated > 0 {
        let message = format!("{progress}; updateStrategy.partition keeps {} on the old revision", summary.keep_old);
        return row(true, false, false, reason::PARTITION_REACHED, message);
    }
    if counts.not_in_place > 0 {
        return row(true, false, false, reason::NOT_IN_PLACE, format!("{progress}{}", not_in_place(summary)));
    }
    if counts.outside > 0 {
        let message = format!("{progress}; {} are outside updateStrategy.selector", counts.outside);
        return row(true, false, false, reason::UP_TO_DATE, message);
    }
    row(true, false, false, reason::UP_TO_DATE, progress)
}

fn progress_line(rollout: &Rollout, summary: &Summary) -> String {
    let counts = &summary.counts;
    format!(
        "revision {}: {} of {} pods updated, {} available",
        rollout.revision, counts.updated, counts.matched, counts.updated_ready
    )
}

fn waits_for(summary: &Summary) -> String {
    let counts = &summary.counts;
    if summary.slot_holders.is_empty() {
        return String::new();
    }
    let holders = list(&summary.slot_holders, counts.slots);
    format!("; {} of {} unavailable: {holders}{}", counts.slots, summary.max_unavailable, not_in_place(summary))
}

fn not_in_place(summary: &Summary) -> String {
    let reasons = summary.not_in_place.iter().map(|(reason, pods)| format!("{pods} ({reason})"));
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() {
        return String::new();
    }
    format!("; cannot be updated in place, new pods get the new revision: {}", reasons.join(", "))
}

fn list(named: &[String], total: usize) -> String {
    let more = total.saturating_sub(named.len());
    let suffix = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{suffix}", named.join(", "))
}

fn with_conditions(
    set: &SidecarSet,
    mut status: SidecarSetStatus,
    verdict: &Verdict,
    injection: &InjectionState,
    now: Timestamp,
) -> SidecarSetStatus {
    let generation = set.metadata.generation;
    let fine = |on: bool| if on { verdict.reason } else { reason::AS_EXPECTED };
    let message = verdict.message.as_str();
    let (conflicting, conflicts) = (!injection.conflicts.is_empty(), injection.conflicts.join("; "));
    let injected = joined(&injection.message, &injection.naked);
    let paused = if verdict.paused { reason::PAUSED } else { reason::AS_EXPECTED };
    let wanted = [
        (reasons::READY, verdict.ready, verdict.reason, message),
        (reasons::RECONCILING, verdict.reconciling, fine(verdict.reconciling), message),
        (reasons::STALLED, verdict.stalled, fine(verdict.stalled), message),
        (reasons::PAUSED, verdict.paused, paused, if verdict.paused { "updateStrategy.paused is true" } else { "" }),
        (reasons::INJECTION_READY, injection.ready, injection.reason, injected.as_str()),
        (
            reasons::CONFLICTING,
            conflicting,
            if conflicting { reason::CONFLICT } else { reason::AS_EXPECTED },
            &conflicts,
        ),
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
                reason: reason.to_owned(),
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

/// The API keeps whole seconds; a finer time would differ from what is read back.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::upgrade::Counts;
    use crate::core::upgrade::testing;
    use serde_json::json;

    const BUDGET: usize = 2;

    fn summary(edit: impl FnOnce(&mut Summary)) -> Summary {
        let counts = Counts { matched: 10, updated: 10, ready: 10, updated_ready: 10, ..Counts::default() };
        let mut summary = Summary { counts, max_unavailable: BUDGET, ..Summary::default() };
        edit(&mut summary);
        summary
    }

    /// What a tool that knows only kstatus concludes (sigs.k8s.io/cli-utils, for custom resources).
    fn kstatus(conditions: &[Condition]) -> &'static str {
        let is = |type_: &str, value: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == value);
        match () {
            () if is("Reconciling", "True") => "InProgress",
            () if is("Stalled", "True") => "Failed",
            () if is("Ready", "False") => "InProgress",
            () => "Current",
        }
    }

    #[test]
    fn each_state_has_its_row() {
        let behind = |updated: usize, remaining: usize| {
            move |s: &mut Summary| {
                s.counts.updated = updated;
                s.counts.updated_ready = updated;
                s.counts.outdated = 10 - updated;
                s.remaining = remaining;
            }
        };
        let failed = |s: &mut Summary| {
            behind(2, 8)(s);
            (s.counts.updated_ready, s.counts.failed, s.counts.slots) = (0, BUDGET, BUDGET);
        };
        let cases = [
            ("everything updated", json!({}), summary(|_| {}), "True False False False UpToDate Current"),
            ("no pods", json!({}), summary(|s| s.counts = Counts::default()), "True False False False NoPods Current"),
            (
                "NotUpdate",
                json!({"type": "NotUpdate"}),
                summary(behind(2, 8)),
                "True False False False NotUpdate Current",
            ),
            ("rolling out", json!({}), summary(behind(2, 8)), "False True False False RollingUpdate InProgress"),
            (
                "last batch open",
                json!({}),
                summary(|s| s.counts.undecided = 1),
                "False True False False RollingUpdate InProgress",
            ),
            ("paused", json!({"paused": true}), summary(behind(2, 8)), "False True False True Paused InProgress"),
            ("paused at the end", json!({"paused": true}), summary(|_| {}), "True False False True UpToDate Current"),
            ("failed", json!({}), summary(failed), "False False True False FailureBudgetExceeded Failed"),
            (
                "one failed, budget left",
                json!({}),
                summary(|s| {
                    failed(s);
                    (s.counts.failed, s.counts.slots, s.movable) = (1, 1, true);
                }),
                "False True False False RollingUpdate InProgress",
            ),
            (
                "failed, others may recover",
                json!({}),
                summary(|s| {
                    failed(s);
                    s.counts.recovering = 1;
                }),
                "False True False False RollingUpdate InProgress",
            ),
            (
                "the last one failed",
                json!({}),
                summary(|s| (s.counts.updated_ready, s.counts.failed) = (9, 1)),
                "False False True False PodsFailed Failed",
            ),
            (
                "not ready",
                json!({}),
                summary(|s| s.counts.updated_ready = 9),
                "False False False False PodsNotReady InProgress",
            ),
            ("partition", json!({}), summary(behind(6, 0)), "True False False False PartitionReached Current"),
            (
                "not in place",
                json!({}),
                summary(|s| {
                    (s.counts.updated, s.counts.updated_ready, s.counts.not_in_place) = (8, 8, 2);
                }),
                "True False False False NotInPlace Current",
            ),
        ];
        for (what, strategy, summary, expected) in cases {
            let set = testing::set("v2", strategy.clone());
            let injection = InjectionState { ready: true, reason: "Registered", ..InjectionState::default() };
            let status = status(&set, &testing::rollout("v2", strategy), &summary, &injection, testing::at(0));
            let value = |type_: &str| {
                let condition = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
                (condition.status.clone(), condition.reason.clone())
            };
            let [ready, reconciling, stalled, paused] = ["Ready", "Reconciling", "Stalled", "Paused"].map(value);
            let conclusion = kstatus(&status.conditions);
            let found = format!("{} {} {} {} {} {conclusion}", ready.0, reconciling.0, stalled.0, paused.0, ready.1);
            assert_eq!(found, expected, "{what}");
            assert!(status.conditions.iter().all(|c| !c.reason.is_empty() && c.observed_generation == Some(1)));
            assert!(status.message.is_some_and(|message| !message.is_empty()), "{what}");
        }
    }

    #[test]
    fn a_transition_time_stays_until_the_status_changes() {
        let mut set = testing::set("v2", json!({}));
        let rollout = testing::rollout("v2", json!({}));
        let injection = InjectionState { ready: true, reason: "Registered", ..InjectionState::default() };
        let first = status(&set, &rollout, &summary(|_| {}), &injection, testing::at(0));
        set.status = Some(first.clone());
        assert_eq!(status(&set, &rollout, &summary(|_| {}), &injection, testing::at(60)), first);
    }

    #[test]
    fn a_revision_is_stable_when_every_pod_runs_it() {
        let set = testing::set("v2", json!({}));
        let rollout = testing::rollout("v2", json!({}));
        let injection = InjectionState { ready: true, reason: "Registered", ..InjectionState::default() };
        let stable = |summary: Summary| status(&set, &rollout, &summary, &injection, testing::at(0)).stable_revision;
        assert_eq!(stable(summary(|_| {})), Some(rollout.revision.clone()));
        assert_eq!(stable(summary(|s| (s.counts.updated, s.counts.updated_ready) = (9, 9))), None);
        assert_eq!(stable(summary(|s| s.counts.undecided = 1)), None);
        assert_eq!(stable(summary(|s| s.counts.failed = 1)), None);
    }
}
