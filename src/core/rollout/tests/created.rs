//! Pods that are made while a revision is rolled out, with its sidecars.

use serde_json::{Value, json};

use crate::core::rollout::testing::{TestPod, at, hash};
use crate::core::rollout::tests::Fleet;
use crate::core::rollout::tests::aborted::World;
use crate::core::rollout::tests::judging::agent;

/// Made at this second with `v2`, and ready since then.
fn born(name: &str, second: i64) -> TestPod {
    TestPod::new(name).with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["metadata"]["creationTimestamp"] = json!(at(second).to_string());
        pod["spec"]["containers"][0]["image"] = json!("v2");
        pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(second).to_string());
    })
}

fn not_ready(pod: &mut Value) {
    pod["status"]["conditions"][0]["status"] = json!("False");
}

fn world(pods: impl IntoIterator<Item = TestPod>, strategy: Value) -> World {
    let mut world = World::new(Fleet::new(pods), strategy.clone());
    world.apply("v2", strategy);
    world
}

#[test]
fn a_revision_is_stable_when_its_new_pods_were_ready_for_a_while() {
    let mut world = world([born("a", 0)], json!({"minReadySeconds": 30}));
    assert_eq!(world.plan().wake_at, Some(at(30)));
    assert_eq!((world.status().stable_revision.clone(), world.reason()), (Some(hash("v1")), "RollingUpdate"));
    assert_eq!(world.status().updated_ready_pods, 0);
    world.fleet.now = 30;
    world.plan();
    assert_eq!((world.status().stable_revision.clone(), world.reason()), (Some(hash("v2")), "UpToDate"));
}

#[test]
fn a_new_pod_that_is_not_ready_holds_the_revision_up_until_its_time_is_over() {
    let mut world = world([born("a", 0), born("b", 0).with(not_ready)], json!({"podUpdateTimeoutSeconds": 60}));
    for (now, stable) in [(10, "v1"), (59, "v1"), (60, "v2")] {
        world.fleet.now = now;
        world.plan();
        assert_eq!(world.status().stable_revision, Some(hash(stable)), "{now}");
    }
}

#[test]
fn a_crash_loop_of_a_new_pod_has_failed_while_it_is_up_too() {
    let pod = born("a", 0).with(|pod| {
        let agent = &mut pod["status"]["containerStatuses"][0];
        agent["restartCount"] = json!(2);
        agent["lastState"] = json!({"terminated": {"exitCode": 7}});
    });
    let mut world = world([pod, TestPod::new("b")], json!({"minReadySeconds": 30}));
    world.plan();
    assert_eq!(world.status().failed_pods, 1);
    world.fleet.now = 30;
    world.plan();
    assert_eq!(world.status().failed_pods, 0, "it got over it");
}

#[test]
fn a_step_is_not_reached_by_a_pod_that_is_still_starting() {
    let strategy = json!({"steps": [{"replicas": 1, "pause": {}}], "podUpdateTimeoutSeconds": 60});
    let mut world = world([born("a", 0).with(not_ready), TestPod::new("b")], strategy);
    world.fleet.now = 59;
    assert_eq!(world.plan().summary.gate.reached, 0);
    world.fleet.now = 60;
    assert_eq!(world.plan().summary.gate.reached, 1, "it is waited for no longer");
}

#[test]
fn without_pods_nothing_proves_a_revision_and_the_first_new_ones_get_it() {
    let mut world = world([], json!({}));
    world.plan();
    assert_eq!((world.status().stable_revision.clone(), world.reason()), (Some(hash("v1")), "NoPods"));
    assert_eq!(world.status().injection_revision, Some(hash("v2")));
    world.fleet.pods.extend([born("a", 0)].map(|pod| (pod.view().key, pod)));
    world.fleet.observe();
    world.plan();
    assert_eq!(world.status().injection_revision, Some(hash("v2")), "the others, too");
}

#[test]
fn new_pods_do_not_get_what_the_last_updates_have_not_proved() {
    let mut world = world([TestPod::new("a")], json!({}));
    let plan = world.plan();
    world.fleet.send(&plan);
    world.plan();
    assert_eq!((world.status().updated_pods, world.status().injection_revision.clone()), (1, Some(hash("v1"))));
}

/// Its sidecar has ended so often since it was made, and runs.
fn restarted(pod: &mut Value) {
    let agent = &mut pod["status"]["containerStatuses"][0];
    agent["restartCount"] = json!(2);
    agent["lastState"] = json!({"terminated": {"exitCode": 137}});
}

#[test]
fn restarts_of_a_pod_that_worked_when_its_time_was_over_are_no_failures() {
    let strategy = json!({"podUpdateTimeoutSeconds": 60, "partition": 1});
    let mut world = world([born("a", 0), TestPod::new("b")], strategy);
    world.fleet.now = 1000;
    world.fleet.named("a").edit(restarted);
    world.fleet.named("a").ready(false, at(1000));
    world.fleet.observe();
    world.plan();
    assert_eq!((world.status().failed_pods, world.reason()), (0, "PartitionReached"));
}

#[test]
fn a_new_pod_that_never_worked_has_failed_after_its_time_too() {
    let strategy = json!({"podUpdateTimeoutSeconds": 60, "partition": 1});
    let pod = born("a", 0).with(not_ready).with(restarted).with(|pod| agent(pod)["ready"] = json!(false));
    let mut world = world([pod, TestPod::new("b")], strategy);
    world.fleet.now = 1000;
    world.plan();
    assert_eq!(world.status().failed_pods, 1);
}

/// How a new pod that is not ready stands when its time is over.
fn when_its_time_is_over(edit: impl FnOnce(&mut Value)) -> (i32, Option<String>) {
    let strategy = json!({"podUpdateTimeoutSeconds": 60, "failurePolicy": {"maxFailed": "100%"}});
    let mut world = world([born("a", 0).with(not_ready).with(edit)], strategy);
    for (now, failed) in [(59, 0), (60, 1)] {
        world.fleet.now = now;
        world.plan();
        assert!(world.status().failed_pods <= failed, "{now}");
    }
    (world.status().failed_pods, world.status().stable_revision.clone())
}

#[test]
fn a_new_sidecar_has_as_long_to_become_ready_as_an_updated_one() {
    let (failed, stable) = when_its_time_is_over(|pod| agent(pod)["ready"] = json!(false));
    assert_eq!((failed, stable), (1, Some(hash("v1"))));
}

#[test]
fn a_new_sidecar_that_was_never_started_says_nothing_of_its_revision() {
    let (failed, _) = when_its_time_is_over(|pod| {
        *agent(pod) = json!({"name": "agent", "state": {"waiting": {"reason": "PodInitializing"}}});
    });
    assert_eq!(failed, 0);
}

#[test]
fn a_new_sidecar_that_is_ready_is_not_to_blame_for_its_pod() {
    assert_eq!(when_its_time_is_over(|_| {}), (0, Some(hash("v2"))));
}

#[test]
fn new_pods_get_a_revision_that_those_that_existed_have_decided_for_and_keep_getting_it() {
    let old: fn(&str, i64) -> TestPod = |name, second| {
        TestPod::new(name).with(|pod| pod["metadata"]["creationTimestamp"] = json!(at(second).to_string()))
    };
    let mut world = world([old("web-0", -60), old("web-1", -60)], json!({"maxUnavailable": "100%"}));
    world.plan();
    // One more pod every second, made with what new pods get then.
    for now in 1..40 {
        world.fleet.now = now;
        let given = world.status().injection_revision.clone();
        let make = if given == Some(hash("v2")) { born } else { old };
        let new = make(&format!("young-{now}"), now);
        world.fleet.pods.insert(new.view().key, new);
        world.fleet.observe();
        let plan = world.plan();
        let sent = world.fleet.send(&plan);
        world.fleet.kubelets(&sent);
        world.plan();
        if now == 8 {
            assert_eq!(world.status().injection_revision, Some(hash("v2")));
        }
    }
    assert_eq!(world.status().injection_revision, Some(hash("v2")));
    assert_eq!(world.status().stable_revision, Some(hash("v2")));
}

#[test]
fn at_rest_a_pod_that_starts_is_no_news() {
    let mut world = world([born("a", -60), born("b", -60)], json!({}));
    world.plan();
    assert_eq!((world.status().stable_revision.clone(), world.reason()), (Some(hash("v2")), "UpToDate"));
    let young = born("c", 0).with(not_ready);
    world.fleet.pods.insert(young.view().key, young);
    world.fleet.observe();
    world.plan();
    assert_eq!(world.reason(), "UpToDate");
    world.fleet.now = 600;
    world.plan();
    assert_eq!(world.reason(), "UpToDate", "as many as maxUnavailable may be not ready");
    for name in ["a", "b"] {
        world.fleet.named(name).ready(false, at(600));
    }
    world.fleet.observe();
    world.fleet.now = 640;
    world.plan();
    assert_eq!(world.reason(), "PodsNotReady");
}

#[test]
fn a_sidecar_that_worked_has_decided_whatever_its_pod_is() {
    let strategy = json!({"podUpdateTimeoutSeconds": 60, "partition": 1});
    let mut world = world([born("a", 0).with(not_ready), TestPod::new("b")], strategy);
    world.fleet.named("a").edit(|pod| {
        restarted(pod);
        agent(pod)["lastState"]["terminated"]["finishedAt"] = json!(at(100).to_string());
        agent(pod)["state"]["running"]["startedAt"] = json!(at(100).to_string());
    });
    world.fleet.now = 100;
    world.fleet.observe();
    world.plan();
    assert_eq!(world.status().failed_pods, 0, "it restarted after its time");
    world.fleet.named("a").edit(|pod| {
        agent(pod)["ready"] = json!(false);
        agent(pod)["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    });
    world.fleet.observe();
    world.plan();
    assert_eq!(world.status().failed_pods, 1, "a crash loop counts");
}

/// Its sidecar cannot be pulled.
fn without_image(pod: &mut Value) {
    not_ready(pod);
    let agent = &mut pod["status"]["containerStatuses"][0];
    agent["ready"] = json!(false);
    agent["state"] = json!({"waiting": {"reason": "ErrImagePull"}});
}

#[test]
fn the_first_revision_is_stable_when_a_pod_works_with_it() {
    let mut world = world([born("a", 0).with(without_image)], json!({}));
    world.set.status = None;
    world.plan();
    world.plan();
    assert_eq!((world.status().stable_revision.clone(), world.reason()), (None, "PodsFailed"));
    assert!(world.message().contains("1 failed: default/a (agent: ErrImagePull)"), "{}", world.message());
    assert_eq!(world.status().aborted_revision, None, "there is nothing to go back to");
    let works = born("b", -60);
    world.fleet.pods.insert(works.view().key, works);
    world.fleet.observe();
    world.plan();
    assert_eq!(world.status().stable_revision, Some(hash("v2")));
}

#[test]
fn at_rest_a_pod_whose_sidecar_cannot_start_is_news() {
    let mut world = world([], json!({}));
    world.set.status = None;
    world.plan();
    assert_eq!(world.status().stable_revision, Some(hash("v2")), "there is no pod at all");
    let pods = ["a", "b"].map(|name| born(name, 0).with(without_image));
    world.fleet.pods.extend(pods.map(|pod| (pod.view().key, pod)));
    world.fleet.observe();
    world.plan();
    assert_eq!(world.reason(), "PodsNotReady");
    assert!(world.message().contains("default/a (agent: ErrImagePull)"), "{}", world.message());
}

#[test]
fn new_pods_are_no_news_of_a_set_that_partition_keeps_at_rest() {
    let strategy = json!({"partition": 1, "podUpdateTimeoutSeconds": 60});
    let mut world = world([born("a", -60), TestPod::new("b")], strategy);
    for (second, name) in [(0, "c"), (10, "d"), (20, "e")] {
        world.fleet.now = second;
        let new = born(name, second).with(not_ready);
        world.fleet.pods.insert(new.view().key, new);
        world.fleet.observe();
        world.plan();
        assert_eq!(world.reason(), "PartitionReached", "{name} is not ready");
        world.fleet.set_ready(&[name.to_owned()], true);
        world.plan();
        assert_eq!(world.reason(), "PartitionReached", "{name} is on trial");
        world.fleet.now = second + 5;
        world.plan();
    }
    world.fleet.now = 1000;
    world.fleet.set_ready(&["a".to_owned()], false);
    world.fleet.now = 1001;
    world.fleet.set_ready(&["a".to_owned()], true);
    world.plan();
    assert_eq!((world.status().updated_ready_pods, world.reason()), (4, "PartitionReached"), "its trial was over");
}
