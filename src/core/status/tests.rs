use serde_json::json;

use super::*;
use crate::core::replace::report as evictions;
use crate::core::rollout::assess::state::{Obstacle, ObstacleKind};
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::budget::steps::{StepGate, StepWait};
use crate::core::rollout::testing;

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

fn behind(updated: usize, remaining: usize) -> impl Fn(&mut Summary) {
    move |s: &mut Summary| {
        s.counts.updated = updated;
        s.counts.updated_ready = updated;
        s.counts.outdated = 10 - updated;
        s.remaining = remaining;
    }
}

fn not_in_place(s: &mut Summary) {
    (s.counts.updated, s.counts.updated_ready, s.counts.not_in_place) = (8, 8, 2);
}

/// Of two owners one waits for a `PodDisruptionBudget`, and the other one for its pods.
fn blocked(s: &mut Summary) {
    not_in_place(s);
    (s.evictable, s.remaining, s.owners_to_evict) = (2, 2, 2);
    s.evictions.waiting_owners = 2;
    s.evictions.waiting = vec![
        ("ReplicaSet default/web".into(), evictions::Wait::Budget("it would violate the budget".into())),
        ("ReplicaSet default/db".into(), evictions::Wait::Missing(1, 2)),
    ];
}

#[test]
fn each_state_has_its_row() {
    let failed = |s: &mut Summary| {
        behind(2, 8)(s);
        (s.counts.updated_ready, s.counts.failed, s.counts.slots, s.exceeded) = (0, BUDGET, BUDGET, true);
    };
    let waits = |wait: StepWait| {
        move |s: &mut Summary| {
            behind(2, 0)(s);
            s.gate = StepGate { reached: 1, wait: Some(wait), allowed: Some(2), ..StepGate::default() };
        }
    };
    let cases = vec![
        ("everything updated", json!({}), summary(|_| {}), "True False False False UpToDate Current"),
        ("no pods", json!({}), summary(|s| s.counts = Counts::default()), "True False False False NoPods Current"),
        ("NotUpdate", json!({"type": "NotUpdate"}), summary(behind(2, 8)), "True False False False NotUpdate Current"),
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
                (s.counts.failed, s.counts.slots, s.exceeded) = (1, 1, false);
            }),
            "False True False False RollingUpdate InProgress",
        ),
        (
            "failed, and nothing is to be done about it",
            json!({}),
            summary(|s| {
                failed(s);
                s.exceeded = false;
            }),
            "False True False False RollingUpdate InProgress",
        ),
        (
            "a step waits for a person",
            json!({}),
            summary(waits(StepWait::Approval)),
            "False True False False WaitingForApproval InProgress",
        ),
        (
            "a step pauses",
            json!({}),
            summary(waits(StepWait::Until(testing::at(60)))),
            "False True False False StepPause InProgress",
        ),
        (
            "one failed, and partition keeps the rest",
            json!({"partition": 4}),
            summary(|s| {
                behind(6, 0)(s);
                s.counts.failed = 1;
            }),
            "False False True False PodsFailed Failed",
        ),
        (
            "the last one failed within the budget, and holds its slot",
            json!({}),
            summary(|s| (s.counts.updated_ready, s.counts.failed, s.counts.slots) = (9, 1, 1)),
            "False False False False PodsNotReady InProgress",
        ),
        (
            "not ready",
            json!({}),
            summary(|s| (s.counts.updated_ready, s.counts.not_ready) = (7, 3)),
            "False False False False PodsNotReady InProgress",
        ),
        ("partition", json!({}), summary(behind(6, 0)), "True False False False PartitionReached Current"),
        ("not in place", json!({}), summary(not_in_place), "False False False False NotInPlace InProgress"),
        (
            "not in place, as the spec asks for",
            json!({"whenNotInPlace": "Skip"}),
            summary(not_in_place),
            "True False False False NotInPlace Current",
        ),
    ];
    for (what, strategy, summary, expected) in cases {
        assert_eq!(row(strategy, &summary), expected, "{what}");
    }
}

#[test]
fn partition_is_reached_when_what_is_left_behind_is_what_it_keeps() {
    let one_not_in_place = |keeps: usize| {
        let summary = summary(|s| {
            behind(6, 0)(s);
            (s.counts.outdated, s.counts.not_in_place, s.keep_old) = (3, 1, keeps);
        });
        row(json!({"partition": keeps}), &summary)
    };
    assert_eq!(one_not_in_place(4), "True False False False PartitionReached Current");
    assert_eq!(one_not_in_place(3), "False False False False NotInPlace InProgress", "it may move, and cannot");
}

/// The conditions, the reason of `Ready`, and what kstatus makes of them.
fn row(strategy: serde_json::Value, summary: &Summary) -> String {
    let set = testing::set("v2", strategy.clone());
    let injection = InjectionState { ready: true, reason: Reason::Registered, ..InjectionState::default() };
    let status = status(&set, &testing::rollout("v2", strategy), summary, &injection, testing::at(0)).0;
    let value = |type_: &str| {
        let condition = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
        (condition.status.clone(), condition.reason.clone())
    };
    let [ready, reconciling, stalled, paused] = ["Ready", "Reconciling", "Stalled", "Paused"].map(value);
    let conclusion = kstatus(&status.conditions);
    assert!(status.conditions.iter().all(|c| !c.reason.is_empty() && c.observed_generation == Some(1)));
    assert!(status.message.is_some_and(|message| !message.is_empty()));
    format!("{} {} {} {} {} {conclusion}", ready.0, reconciling.0, stalled.0, paused.0, ready.1)
}

#[test]
fn evictions_that_a_budget_does_not_allow_are_waited_for_and_are_no_progress() {
    let evict = || json!({"whenNotInPlace": "Evict"});
    assert_eq!(row(evict(), &summary(blocked)), "False False False False EvictionBlocked InProgress");
    let moving = "False True False False RollingUpdate InProgress";
    let with = |edit: fn(&mut Summary)| {
        row(
            evict(),
            &summary(|s| {
                blocked(s);
                edit(s);
            }),
        )
    };
    assert_eq!(with(|s| s.owners_to_evict = 3), moving, "another owner's turn has not come");
    assert_eq!(with(|s| s.counts.undecided = 1), moving, "a pod is updated in place");
}

#[test]
fn owners_without_pods_are_told_and_only_a_fail_set_that_is_at_rest_is_not_ready() {
    let told = |policy: &str, summary: &Summary| {
        let mut set = testing::set("v2", json!({}));
        set.spec.injection_strategy.failure_policy = serde_json::from_value(json!(policy)).unwrap();
        set.status = serde_json::from_value(json!({"failedCreates": [{"namespace": "default", "revision": "r",
            "message": "violates PodSecurity", "at": "2026-01-01T00:00:00Z", "owner": {"apiVersion": "apps/v1",
                "kind": "ReplicaSet", "name": "web", "uid": "u", "templateHash": "t"}}]}))
        .unwrap();
        let injection = injection_state(&set, InjectionFacts { is_registered: true, ..InjectionFacts::default() });
        assert_eq!((injection.ready, injection.reason), (false, Reason::PodsNotCreated));
        let status = status(&set, &testing::rollout("v2", json!({})), summary, &injection, testing::at(0)).0;
        let message = status.message.unwrap();
        assert_eq!(
            message.matches("ReplicaSet default/web; the last because violates PodSecurity").count(),
            1,
            "{message}"
        );
        assert_eq!(status.failed_create_owners, Some(1));
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        format!("{} {} {}", ready.status, ready.reason, kstatus(&status.conditions))
    };
    let (rest, rolling) = (summary(|_| {}), summary(behind(2, 8)));
    assert_eq!(told("Ignore", &rest), "True UpToDate Current");
    assert_eq!(told("Fail", &rest), "False PodsNotCreated InProgress");
    assert_eq!(told("Fail", &rolling), "False RollingUpdate InProgress");
}

#[test]
fn a_transition_time_stays_until_the_status_changes() {
    let mut set = testing::set("v2", json!({}));
    let rollout = testing::rollout("v2", json!({}));
    let injection = InjectionState { ready: true, reason: Reason::Registered, ..InjectionState::default() };
    let first = status(&set, &rollout, &summary(|_| {}), &injection, testing::at(0)).0;
    set.status = Some(first.clone());
    assert_eq!(status(&set, &rollout, &summary(|_| {}), &injection, testing::at(60)).0, first);
}

#[test]
fn a_revision_is_stable_when_every_pod_runs_it_that_can() {
    let set = testing::set("v2", json!({}));
    let rollout = testing::rollout("v2", json!({}));
    let injection = InjectionState { ready: true, reason: Reason::Registered, ..InjectionState::default() };
    let stable = |summary: Summary| status(&set, &rollout, &summary, &injection, testing::at(0)).0.stable_revision;
    assert_eq!(stable(summary(|_| {})), Some(rollout.target.revision.clone()));
    let old = Some(testing::at(-60));
    assert_eq!(stable(summary(|s| (s.counts.updated_ready, s.counts.oldest_to_move) = (9, old))), None);
    assert_eq!(stable(summary(|s| (s.counts.updated_ready, s.counts.outside) = (9, 1))), None);
    assert_eq!(stable(summary(|s| s.counts.oldest_undecided = old)), None);
    let young = Some(testing::at(60));
    assert!(stable(summary(|s| (s.counts.oldest_to_move, s.counts.oldest_undecided) = (young, young))).is_some());
    assert!(stable(summary(|s| (s.counts.updated_ready, s.counts.failed) = (9, 1))).is_some(), "within the budget");
    assert_eq!(stable(summary(|s| (s.counts.updated_ready, s.counts.failed) = (0, 1))), None, "nothing has proved it");
    assert_eq!(stable(summary(|s| s.exceeded = true)), None);
}

#[test]
fn pods_that_cannot_be_patched_do_not_keep_a_revision_from_being_stable() {
    let set = testing::set("v2", json!({}));
    let mut rollout = testing::rollout("v2", json!({}));
    rollout.target.stable = Some(testing::hash("v1"));
    let is_stable = |updated: usize, kind: ObstacleKind| {
        let summary = summary(|s| {
            (s.counts.updated, s.counts.updated_ready, s.counts.not_in_place) = (updated, updated, 10 - updated);
            s.not_in_place = vec![(Obstacle { kind, text: String::new() }, 10 - updated)];
        });
        status(&set, &rollout, &summary, &InjectionState::default(), testing::at(0)).0.stable_revision.is_some()
    };
    assert!(is_stable(9, ObstacleKind::Pod) && is_stable(0, ObstacleKind::Pod), "there is nothing else to wait for");
    assert!(is_stable(1, ObstacleKind::Template), "one that was recreated has proved it");
    assert!(!is_stable(0, ObstacleKind::Template), "nothing has proved it");
    assert!(!is_stable(9, ObstacleKind::Passing), "that one will follow");
}

#[test]
fn without_progress_a_rollout_is_stalled_and_paused_time_does_not_count() {
    let mut set = testing::set("v2", json!({}));
    let rollout = |strategy: serde_json::Value| testing::rollout("v2", strategy);
    let strategy = json!({"progressDeadlineSeconds": 100});
    let paused = json!({"progressDeadlineSeconds": 100, "paused": true});
    let rolling = |ready: usize| {
        summary(move |s| {
            (s.counts.updated, s.counts.updated_ready) = (ready, ready);
            (s.counts.outdated, s.remaining) = (10 - ready, 10 - ready);
        })
    };
    let mut look = |strategy: &serde_json::Value, ready: usize, seconds: i64| {
        let injection = InjectionState::default();
        let (status, overdue_at) =
            status(&set, &rollout(strategy.clone()), &rolling(ready), &injection, testing::at(seconds));
        let reason = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().reason.clone();
        set.status = Some(status);
        (reason, overdue_at)
    };
    let moving = |at: i64| ("RollingUpdate".to_owned(), Some(testing::at(at)));
    let overdue = ("ProgressDeadlineExceeded".to_owned(), None);
    assert_eq!(look(&strategy, 1, 0), moving(100));
    assert_eq!(look(&strategy, 2, 90), moving(190), "a pod became available");
    assert_eq!(look(&strategy, 2, 189), moving(190));
    assert_eq!(look(&strategy, 2, 190), overdue);
    assert_eq!(look(&strategy, 2, 191), overdue, "it stays so");
    assert_eq!(look(&strategy, 3, 200), moving(300), "until something moves");
    assert_eq!(look(&paused, 3, 250), ("Paused".to_owned(), None));
    assert_eq!(look(&strategy, 3, 999), moving(1099), "the time before and in the pause is forgotten");
}

#[test]
fn a_failed_eviction_is_told_where_it_stops_nothing() {
    let rollout = testing::rollout("v2", json!({}));
    let summary = summary(|s| {
        (s.counts.failed, s.counts.failed_slots) = (1, 1);
        s.failed = vec!["default/a (it has no ready replacement)".to_owned()];
    });
    let verdict = RolloutVerdict::of(&rollout, &summary, &rollout.target.revision, false);
    assert_eq!(verdict.reason, Reason::UpToDate);
    assert!(verdict.message.ends_with("; 1 failed: default/a (it has no ready replacement)"), "{}", verdict.message);
}
