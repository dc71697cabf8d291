//! What the parts of a rollout do to each other: revisions that prove themselves late, restarts that are nobody's fault,
//! and requests to try again.

use serde_json::{Value, json};

use crate::api::keys;
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::state::pulls::PullResult;
use crate::core::rollout::testing::{SET, TestPod, at, hash};
use crate::core::rollout::tests::aborted::World;
use crate::core::rollout::tests::{Fleet, unready};

fn ready(world: &mut World, ready: bool) {
    let now = at(world.fleet.now);
    world.fleet.pods.values_mut().for_each(|pod| pod.ready(ready, now));
    world.fleet.observe();
}

#[test]
fn a_revision_that_took_the_readiness_of_its_pods_is_not_stable_before_their_deadline() {
    let strategy = json!({"maxUnavailable": "100%", "failurePolicy": {"action": "Rollback"}});
    let mut world = World::new(Fleet::of(3), strategy.clone());
    world.apply("v2", strategy);
    let plan = world.plan();
    let sent = world.fleet.send(&plan);
    world.fleet.kubelets(&sent);
    ready(&mut world, false);
    world.fleet.now = 6;
    world.plan();
    assert_eq!(world.status().stable_revision, Some(hash("v1")), "nobody has seen v2 work");
    world.fleet.now = 601;
    world.plan();
    assert_eq!(world.status().aborted_revision, Some(hash("v2")));
    world.settle();
    assert_eq!((world.with_image("v1"), world.reason()), (3, "RolledBack"));
}

fn updated(strategy: Value) -> World {
    let mut world = World::new(Fleet::of(2), strategy.clone());
    world.apply("v2", strategy);
    assert_eq!(world.round(), 1);
    world
}

/// Containers of updated pods: started, and ended before, at this time.
fn restart(world: &mut World, time: i64, containers: &[usize]) {
    world.fleet.now = time;
    for pod in world.fleet.pods.values_mut().filter(|pod| pod.image() == "v2") {
        pod.edit(|pod| {
            for i in containers {
                let status = &mut pod["status"]["containerStatuses"][*i];
                let restarts = status["restartCount"].as_i64().unwrap() + 1;
                status["restartCount"] = json!(restarts);
                status["containerID"] = json!(format!("c://{i}-again-{restarts}"));
                status["state"] = json!({"running": {"startedAt": at(time).to_string()}});
                status["lastState"] = json!({"terminated": {"exitCode": 255, "finishedAt": at(time).to_string()}});
            }
        });
    }
    world.fleet.observe();
}

#[test]
fn a_node_that_reboots_long_after_an_update_is_no_failure_of_it() {
    let mut world = updated(json!({"partition": 1}));
    restart(&mut world, 90_000, &[0, 1]);
    world.fleet.now += 60;
    world.plan();
    assert_eq!((world.status().failed_pods, world.reason()), (0, "PartitionReached"));
}

#[test]
fn an_application_that_crashed_long_after_an_update_is_not_held_against_a_sidecar_that_is_not_ready() {
    let mut world = updated(json!({"partition": 1}));
    restart(&mut world, 90_000, &[1]);
    world.fleet.now = 180_000;
    let now = at(world.fleet.now);
    for pod in world.fleet.pods.values_mut().filter(|pod| pod.image() == "v2") {
        pod.edit(|pod| pod["status"]["containerStatuses"][0]["ready"] = json!(false));
        pod.ready(false, now);
    }
    world.fleet.observe();
    world.plan();
    assert_eq!(world.status().failed_pods, 0);
}

fn refuse_all(world: &mut World) {
    let now = at(world.fleet.now);
    for patch in world.plan().patches {
        let pod = world.fleet.pods[&patch.key].view();
        world.fleet.index.refuse(SET, &pod, "denied by policy".into(), None, now);
    }
    world.plan();
}

#[test]
fn a_retry_tries_pods_again_whose_patch_was_refused() {
    let strategy = json!({"maxUnavailable": "100%"});
    let mut world = World::new(Fleet::of(3), strategy.clone());
    world.apply("v2", strategy);
    refuse_all(&mut world);
    assert_eq!(world.reason(), "FailureBudgetExceeded");
    world.annotate(keys::RETRY, format!("{}/1", hash("v2")));
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (3, "UpToDate"));
}

#[test]
fn a_retry_is_answered_also_while_the_failures_are_within_the_budget() {
    let strategy = json!({"maxUnavailable": "100%", "failurePolicy": {"maxFailed": "100%"}});
    let mut world = World::new(Fleet::of(3), strategy.clone());
    world.apply("v2", strategy);
    refuse_all(&mut world);
    assert_eq!(world.reason(), "PodsFailed");
    let advice = format!("sidecarset.dev/retry={}/1", hash("v2"));
    assert!(world.message().contains(&advice), "{}", world.message());
    world.annotate(keys::RETRY, format!("{}/1", hash("v2")));
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (3, "UpToDate"));
}

#[test]
fn a_refusal_does_not_outlive_its_set() {
    let mut fleet = Fleet::of(1);
    fleet.plan("v2", &json!({}));
    let view = fleet.pods.values().next().unwrap().view();
    fleet.index.refuse(SET, &view, "no".into(), None, at(0));
    fleet.index.forget(SET);
    assert_eq!(fleet.plan("v2", &json!({})).patches.len(), 1);
}

#[test]
fn a_moment_without_pods_does_not_take_a_held_rollout_to_its_end() {
    for held in [
        json!({"steps": [{"replicas": 1, "pause": {}}]}),
        json!({"steps": [{"replicas": 1, "pause": {"durationSeconds": 9999}}]}),
        json!({"paused": true}),
        json!({"partition": "50%"}),
    ] {
        let mut world = World::new(Fleet::of(3), held.clone());
        world.apply("v2", held.clone());
        world.settle();
        for (key, pod) in std::mem::take(&mut world.fleet.pods) {
            world.fleet.index.remove(&key, &pod.view().uid, at(world.fleet.now));
        }
        world.plan();
        let status = world.status();
        assert_eq!(
            (status.stable_revision.clone(), status.injection_revision.clone()),
            (Some(hash("v1")), Some(hash("v1"))),
            "{held}"
        );
    }
}

/// `v2` with another variable, which running pods cannot get, and a pod that was born with it.
fn env_change(strategy: &Value, born: usize) -> World {
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy.clone());
    world.set.spec.containers[0] =
        serde_json::from_value(json!({"name": "agent", "image": "v2", "env": [{"name": "A", "value": "1"}]})).unwrap();
    let revision = crate::core::revision::Template::of(&world.set.spec).hash(0);
    world.plan();
    for pod in world.fleet.pods.values_mut().take(born) {
        pod.edit(|pod| {
            pod["spec"]["containers"][0]["image"] = json!("v2");
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(revision);
        });
    }
    world.fleet.observe();
    world.plan();
    world
}

#[test]
fn new_pods_get_no_more_of_a_change_that_is_not_in_place_than_partition_and_steps_allow() {
    for held in [json!({"partition": 9}), json!({"steps": [{"replicas": 1, "pause": {}}]})] {
        let world = env_change(&held, 0);
        assert_eq!(world.status().injection_revision, world.status().update_revision, "{held}: one may");
        let world = env_change(&held, 1);
        assert_eq!(world.status().stable_revision, Some(hash("v1")), "{held}");
        assert_eq!(world.status().injection_revision, Some(hash("v1")), "{held}: one has, no other may");
    }
}

#[test]
fn a_step_that_holds_up_new_pods_is_told() {
    let world = env_change(&json!({"steps": [{"replicas": 1, "pause": {}}]}), 1);
    assert_eq!(world.reason(), "WaitingForApproval", "{}", world.message());
}

#[test]
fn a_rollout_of_pods_that_are_not_ready_is_not_stalled_while_it_moves() {
    let strategy = json!({"minReadySeconds": 30, "progressDeadlineSeconds": 60});
    let mut world = World::new(Fleet::new((0..20).map(|i| unready(&format!("web-{i}")))), strategy.clone());
    world.apply("v2", strategy);
    for _ in 0..5 {
        let plan = world.plan();
        assert_eq!((plan.patches.len(), world.reason()), (2, "RollingUpdate"), "at {}", world.fleet.now);
        let sent = world.fleet.send(&plan);
        world.fleet.kubelets(&sent);
        ready(&mut world, false);
        world.fleet.now += 30;
    }
}

#[test]
fn a_change_of_the_spec_does_not_end_a_step_whose_pods_are_not_available() {
    let strategy = |paused: bool| {
        json!({"maxUnavailable": "100%", "paused": paused,
            "steps": [{"replicas": 2, "pause": {"durationSeconds": 100}}, {"replicas": 4}]})
    };
    let mut world = World::new(Fleet::of(10), strategy(false));
    world.apply("v2", strategy(false));
    let plan = world.plan();
    world.fleet.send(&plan);
    world.apply("v2", strategy(true));
    world.plan();
    assert_eq!(world.status().current_step, Some(0), "both are in the middle of it");
}

#[test]
fn an_image_that_no_node_can_pull_is_given_up_however_many_pods_there_are() {
    let strategy = json!({"prePull": true, "maxUnavailable": "100%"});
    let pods = (0..2100)
        .map(|i| TestPod::new(&format!("web-{i}")).with(|pod| pod["spec"]["nodeName"] = json!(format!("n{}", i % 20))));
    let mut world = World::new(Fleet::new(pods), strategy.clone());
    world.apply("bad", strategy);
    for _ in 0..5 {
        for pull in world.plan().pulls {
            world.fleet.index.note_pull(&pull, "bad", PullResult::Failed("ErrImagePull".into()), at(world.fleet.now));
        }
        world.fleet.now += 1;
    }
    world.plan();
    assert_eq!(world.reason(), "FailureBudgetExceeded", "{}", world.message());
}

#[test]
fn nodes_that_could_not_pull_are_named_while_the_rollout_goes_on() {
    let strategy = json!({"prePull": true, "maxUnavailable": 1, "failurePolicy": {"maxFailed": "100%"}});
    let pods =
        (0..4).map(|i| TestPod::new(&format!("web-{i}")).with(|pod| pod["spec"]["nodeName"] = json!(format!("n{i}"))));
    let mut world = World::new(Fleet::new(pods), strategy.clone());
    world.apply("v2", strategy);
    let pull = world.plan().pulls.remove(0);
    world.fleet.index.note_pull(&pull, "v2", PullResult::Failed("ErrImagePull".into()), at(0));
    world.plan();
    assert!(world.message().contains("node n0 (pull of v2: ErrImagePull)"), "{}", world.message());
}

fn rolling_back() -> World {
    let strategy = json!({"maxUnavailable": 2, "failurePolicy": {"action": "Rollback"}});
    let mut world = World::new(Fleet::of(4), strategy.clone());
    world.apply("bad", strategy);
    assert_eq!(world.round(), 2);
    world
}

#[test]
fn pods_that_refuse_to_go_back_are_named() {
    let mut world = rolling_back();
    refuse_all(&mut world);
    assert!(world.message().contains("denied by policy"), "{}: {}", world.reason(), world.message());
}

#[test]
fn pods_that_are_back_and_not_ready_are_told_apart() {
    let mut world = rolling_back();
    let plan = world.plan();
    let sent = world.fleet.send(&plan);
    world.fleet.kubelets(&sent);
    let now = at(world.fleet.now);
    world.fleet.pods.values_mut().take(2).for_each(|pod| pod.ready(false, now));
    world.fleet.observe();
    world.fleet.now += 700;
    world.plan();
    assert!(world.message().contains("4 of 4 pods are back on"), "{}", world.message());
    assert!(world.message().contains(", 2 available"), "{}", world.message());
}

#[test]
fn a_node_whose_clock_is_behind_does_not_cut_the_hold_time() {
    let mut fleet = Fleet::of(2);
    let strategy = json!({"minReadySeconds": 30});
    let plan = fleet.plan("v2", &strategy);
    let sent = fleet.send(&plan);
    let behind = at(-300);
    for pod in fleet.pods.values_mut().filter(|pod| sent.contains(&pod.view().key.name)) {
        pod.kubelet(behind);
    }
    fleet.now = 2;
    fleet.observe();
    let key = &plan.patches[0].key;
    fleet.plan("v2", &strategy);
    assert_eq!(fleet.index.state(SET, key), Some(&PodState::Updating));
}

#[test]
fn a_node_whose_clock_is_ahead_makes_an_update_neither_younger_nor_older() {
    let mut fleet = Fleet::of(2);
    let strategy = json!({"minReadySeconds": 30});
    let plan = fleet.plan("v2", &strategy);
    let sent = fleet.send(&plan);
    fleet.now = 2;
    fleet.named(&sent[0]).kubelet(at(3600));
    fleet.named(&sent[0]).edit(|pod| {
        pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(3600).to_string());
    });
    fleet.observe();
    // Any other event.
    fleet.now = 20;
    fleet.named(&sent[0]).edit(|pod| pod["metadata"]["labels"]["x"] = json!("y"));
    fleet.observe();
    let key = plan.patches[0].key.clone();
    for (now, state) in [(31, PodState::Updating), (32, PodState::Available)] {
        fleet.now = now;
        fleet.plan("v2", &strategy);
        assert_eq!(fleet.index.state(SET, &key), Some(&state), "{now}");
    }
}

#[test]
fn pods_whose_node_could_not_pull_do_not_reach_a_step_for_others() {
    let strategy = json!({"prePull": true, "maxUnavailable": "100%", "failurePolicy": {"maxFailed": "100%"},
        "steps": [{"replicas": 1}, {"replicas": 5}, {"replicas": 8, "pause": {}}]});
    let pods = (0..10)
        .map(|i| TestPod::new(&format!("web-{i}")).with(|pod| pod["spec"]["nodeName"] = json!(format!("n{}", i % 2))));
    let mut world = World::new(Fleet::new(pods), strategy.clone());
    world.apply("v2", strategy);
    let pull = world.plan().pulls.remove(0);
    world.fleet.index.note_pull(&pull, "v2", PullResult::Failed("ErrImagePull".into()), at(0));
    let pull = world.plan().pulls.remove(0);
    assert_eq!(world.status().current_step, Some(0), "not one pod has it");
    world.fleet.index.note_pull(&pull, "v2", PullResult::Pulled, at(0));
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (5, "WaitingForApproval"), "it waits for none that cannot go");
}

#[test]
fn a_revision_is_not_given_up_in_secret_while_running_pods_are_left_alone() {
    let strategy = |kind: &str| json!({"maxUnavailable": 2, "type": kind});
    let mut world = World::new(Fleet::of(4), strategy("RollingUpdate"));
    world.apply("bad", strategy("RollingUpdate"));
    let plan = world.plan();
    world.fleet.send(&plan);
    world.apply("bad", strategy("NotUpdate"));
    world.round();
    world.fleet.now += 700;
    world.plan();
    assert_eq!((world.reason(), world.status().aborted_revision.clone()), ("NotUpdate", None));
}

#[test]
fn a_second_bad_image_in_mid_rollback_touches_no_other_pods() {
    let mut world = rolling_back();
    let touched = |world: &World| -> Vec<String> {
        world.fleet.pods.values().filter(|pod| pod.image() != "v1").map(|pod| pod.view().key.name).collect()
    };
    let first = touched(&world);
    let strategy = json!({"maxUnavailable": 2, "failurePolicy": {"action": "Rollback"}});
    world.plan();
    world.apply("v3", strategy);
    let plan = world.plan();
    let mut sent = world.fleet.send(&plan);
    sent.sort();
    assert_eq!(sent, first);
    assert_eq!(world.status().aborted_revision, None);
    world.fleet.now += 601;
    world.plan();
    assert_eq!(world.status().aborted_revision, Some(hash("v3")));
    world.plan();
    world.settle();
    assert_eq!((touched(&world), world.reason()), (Vec::new(), "RolledBack"));
}

#[test]
fn a_retry_that_was_asked_for_before_the_failure_is_none_after_it() {
    let mut world = World::new(Fleet::of(4), json!({}));
    world.annotate(keys::RETRY, format!("{}/1", hash("bad")));
    world.apply("bad", json!({}));
    world.plan();
    world.fleet.now += 1;
    world.settle();
    world.fleet.now += 1300;
    world.settle();
    assert_eq!(world.reason(), "FailureBudgetExceeded");
    assert!(world.message().contains(&format!("retry={}/2", hash("bad"))), "{}", world.message());
    world.annotate(keys::RETRY, "nonsense".to_owned());
    world.settle();
    assert_eq!(world.reason(), "FailureBudgetExceeded");
    world.annotate(keys::RETRY, format!("{}/x", hash("bad")));
    world.settle();
    assert_eq!(world.reason(), "RollingUpdate");
}

#[test]
fn a_retry_that_is_too_long_for_the_status_asks_for_nothing() {
    let mut world = World::new(Fleet::of(1), json!({}));
    world.annotate(keys::RETRY, "x".repeat(10_000));
    world.plan();
    assert_eq!(world.status().handled_retry, None);
}

#[test]
fn the_text_of_a_refusal_is_bounded() {
    let mut fleet = Fleet::of(1);
    fleet.plan("v2", &json!({}));
    let view = fleet.pods.values().next().unwrap().view();
    fleet.index.refuse(SET, &view, "x".repeat(10_000), None, at(0));
    let failed = fleet.plan("v2", &json!({})).summary.failed;
    assert_eq!(failed, [format!("default/web-0 (PatchRefused: {}…)", "x".repeat(300))]);
}
