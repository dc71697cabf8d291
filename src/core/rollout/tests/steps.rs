//! Steps and their approval.

use serde_json::{Value, json};

use crate::api::keys;
use crate::core::rollout::testing::{TestPod, at, hash};
use crate::core::rollout::tests::aborted::World;
use crate::core::rollout::tests::{Fleet, unready};

#[test]
fn steps_are_cumulative_and_wait_for_a_person_or_a_time() {
    let strategy = json!({"maxUnavailable": "100%", "steps": [
        {"replicas": 1, "pause": {}}, {"replicas": "50%", "pause": {"durationSeconds": 100}}, {"replicas": "80%"}]});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy);
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (1, "WaitingForApproval"));
    assert!(world.message().contains(&format!("sidecarset.dev/approve={}/1", hash("v2"))), "{}", world.message());
    world.fleet.now += 86400;
    assert_eq!(world.settle(), 0);
    world.annotate(keys::APPROVE, format!("{}/1", hash("v2")));
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (5, "StepPause"));
    assert_eq!((world.status().current_step, world.status().step_reached_at.is_some()), (Some(2), true));
    world.fleet.now += 80;
    assert_eq!(world.settle(), 0);
    world.fleet.now += 20;
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (10, "UpToDate"), "the last step has no pause");
}

#[test]
fn an_approval_is_for_its_revision_only_and_ends_a_timed_pause() {
    let strategy = json!({"maxUnavailable": "100%", "steps": [{"replicas": 3, "pause": {"durationSeconds": 9999}}]});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy);
    world.annotate(keys::APPROVE, format!("{}/1", hash("v3")));
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (3, "StepPause"));
    world.annotate(keys::APPROVE, format!("{}/1", hash("v2")));
    world.settle();
    assert_eq!(world.with_image("v2"), 10);
}

#[test]
fn a_step_is_not_reached_before_its_pods_are_available() {
    let strategy =
        json!({"maxUnavailable": "100%", "minReadySeconds": 60, "steps": [{"replicas": 2}, {"replicas": 4}]});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy);
    assert_eq!((world.round(), world.round()), (2, 0));
    world.fleet.now += 60;
    assert_eq!(world.round(), 2);
}

#[test]
fn changed_steps_go_on_where_the_pods_are() {
    let steps = |steps: Value| json!({"maxUnavailable": "100%", "steps": steps});
    let mut world = World::new(Fleet::of(10), steps(json!([{"replicas": 3, "pause": {}}])));
    world.apply("v2", steps(json!([{"replicas": 3, "pause": {}}])));
    world.settle();
    let reached = world.status().step_reached_at.clone();
    world.apply("v2", steps(json!([{"replicas": 3, "pause": {}}, {"replicas": 6, "pause": {}}])));
    world.settle();
    assert_eq!((world.with_image("v2"), world.status().current_step), (3, Some(1)), "still to be approved");
    assert_eq!(world.status().step_reached_at, reached);
    world.apply("v2", steps(json!([{"replicas": 1, "pause": {}}, {"replicas": 2}, {"replicas": 5, "pause": {}}])));
    world.settle();
    assert_eq!((world.with_image("v2"), world.status().current_step), (5, Some(3)));
    world.apply("v2", steps(json!([{"replicas": 9, "pause": {}}])));
    world.settle();
    assert_eq!((world.with_image("v2"), world.status().current_step), (9, Some(1)));
    world.apply("v2", steps(json!([{"replicas": 2, "pause": {}}])));
    assert_eq!(world.settle(), 0, "nothing is taken back");
    assert_eq!(world.with_image("v2"), 9);
}

#[test]
fn a_new_revision_begins_at_the_first_step_and_the_way_back_has_none() {
    let strategy = json!({"maxUnavailable": "100%", "steps": [{"replicas": 2, "pause": {}}]});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy.clone());
    world.settle();
    world.apply("v3", strategy.clone());
    world.settle();
    assert_eq!((world.with_image("v3"), world.with_image("v2")), (2, 0), "those in the middle go first");
    world.apply("v1", strategy);
    world.settle();
    assert_eq!((world.with_image("v1"), world.reason()), (10, "UpToDate"));
    assert_eq!(world.status().current_step, None);
}

#[test]
fn a_step_waits_for_pods_that_lost_their_readiness_and_not_for_those_that_never_had_it() {
    let strategy = json!({"maxUnavailable": "100%", "steps": [{"replicas": 2}], "progressDeadlineSeconds": 60});
    let mut world = World::new(Fleet::new([unready("a"), TestPod::new("b"), TestPod::new("c")]), strategy.clone());
    world.apply("v2", strategy);
    let plan = world.plan();
    assert_eq!(world.fleet.send(&plan), ["a", "b"]);
    world.fleet.kubelets(&["a".to_owned(), "b".to_owned()]);
    for (key, pod) in &mut world.fleet.pods {
        pod.ready(key.name == "c", at(world.fleet.now));
    }
    world.fleet.observe();
    world.fleet.now += 6;
    assert_eq!((world.plan().patches.len(), world.reason()), (0, "RollingUpdate"));
    assert!(world.message().contains("default/b (not ready)"), "{}", world.message());
    world.fleet.now += 60;
    world.plan();
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
    for (key, pod) in &mut world.fleet.pods {
        pod.ready(key.name != "a", at(world.fleet.now));
    }
    world.fleet.observe();
    world.fleet.now += 6;
    assert_eq!(world.plan().patches.len(), 1, "a is as it was before");
}

#[test]
fn a_failed_pod_within_the_budget_does_not_hold_up_a_step() {
    let strategy =
        json!({"maxUnavailable": 4, "failurePolicy": {"maxFailed": 1}, "steps": [{"replicas": 4}, {"replicas": 6}]});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy);
    let plan = world.plan();
    let sent = world.fleet.send(&plan);
    world.fleet.kubelets(&sent[1..]);
    world.fleet.now += 601;
    world.plan();
    assert_eq!((world.status().failed_pods, world.status().current_step), (1, Some(1)));
}

#[test]
fn an_approval_that_is_for_nothing_here_is_named() {
    let strategy = json!({"maxUnavailable": 3, "steps": [{"replicas": 1, "pause": {}}]});
    let mut world = World::new(Fleet::of(3), strategy.clone());
    world.apply("v2", strategy);
    world.annotate(keys::APPROVE, hash("v2"));
    world.settle();
    let expected = format!("/1 (not {:?}, which it has now)", hash("v2"));
    assert!(world.message().contains(&expected), "{}", world.message());
}
