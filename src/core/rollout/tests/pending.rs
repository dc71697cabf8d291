//! Pods that have not started.

use serde_json::{Value, json};

use crate::core::rollout::testing::{TestPod, at, hash};
use crate::core::rollout::tests::Fleet;
use crate::core::rollout::tests::aborted::World;

/// Made with an image that its node cannot pull.
fn stuck(name: &str) -> TestPod {
    TestPod::new(name).with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("bad"));
        pod["spec"]["containers"][0]["image"] = json!("bad");
        pod["status"]["phase"] = json!("Pending");
        pod["status"]["conditions"][0]["status"] = json!("False");
        let agent = &mut pod["status"]["containerStatuses"][0];
        agent["containerID"] = json!("");
        agent["ready"] = json!(false);
        agent["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
    })
}

/// It has a node name, which anybody can write, and no kubelet says anything of it.
fn unseen(name: &str) -> TestPod {
    stuck(name).with(|pod| pod["status"]["containerStatuses"] = json!([]))
}

fn without_node(pod: &mut Value) {
    drop(pod["spec"].as_object_mut().unwrap().remove("nodeName"));
}

#[test]
fn a_mended_image_reaches_pods_that_are_pending_on_their_nodes() {
    for strategy in [json!({"maxUnavailable": "100%"}), json!({"maxUnavailable": "100%", "partition": 1})] {
        let mut fleet = Fleet::new(["a", "b", "c"].map(stuck));
        let moved = if strategy["partition"] == 1 { 2 } else { 3 };
        assert_eq!(fleet.round("v2", &strategy).len(), moved, "{strategy}");
    }
}

#[test]
fn without_a_partition_pods_that_count_for_no_percentage_move_too() {
    let mut fleet = Fleet::new([TestPod::new("web"), stuck("a").with(without_node), stuck("b").with(without_node)]);
    let moved: usize = (0..3).map(|_| fleet.round("v2", &json!({})).len()).sum();
    assert_eq!((moved, fleet.reason("v2", &json!({}))), (3, "UpToDate".to_owned()));
}

#[test]
fn pods_that_are_pending_on_their_nodes_go_back_too() {
    let strategy = json!({"failurePolicy": {"action": "Rollback"}});
    let mut world = World::new(Fleet::new([TestPod::new("web"), stuck("a"), stuck("b")]), strategy.clone());
    world.apply("bad", strategy);
    world.plan();
    world.settle();
    assert_eq!((world.reason(), world.with_image("v1")), ("RolledBack", 3));
}

#[test]
fn a_partition_that_keeps_nothing_is_not_reached() {
    let strategy = json!({"partition": "50%"});
    let mut world = World::new(Fleet::new(["a", "b"].map(unseen)), strategy.clone());
    world.apply("v2", strategy);
    world.plan();
    assert_eq!(world.reason(), "RollingUpdate");
    assert!(world.message().ends_with("; 2 not started, and not counted yet"), "{}", world.message());
    for name in ["c", "d"] {
        world.fleet.pods.insert(TestPod::new(name).view().key, TestPod::new(name));
    }
    world.fleet.observe();
    let plan = world.plan();
    assert_eq!(world.fleet.send(&plan), ["a"]);
    world.plan();
    assert!(world.message().contains("; 1 not started, and not counted yet"), "{}", world.message());
}

#[test]
fn who_takes_no_slot_and_holds_up_a_rollout_is_named() {
    let waiting = |pod: &mut Value| pod["status"]["conditions"][0]["status"] = json!("False");
    let mut world = World::new(Fleet::new([TestPod::new("a").with(waiting)]), json!({}));
    world.apply("v2", json!({}));
    let plan = world.plan();
    world.fleet.send(&plan);
    world.plan();
    assert!(world.message().ends_with(" are in an update: default/a (not ready)"), "{}", world.message());
    let new = TestPod::new("b").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["metadata"]["creationTimestamp"] = json!(at(0).to_string());
        pod["spec"]["containers"][0]["image"] = json!("v2");
    });
    let mut world = World::new(Fleet::new([new]), json!({}));
    world.apply("v2", json!({}));
    world.plan();
    assert!(world.message().ends_with("; waiting for default/b (just made)"), "{}", world.message());
}

#[test]
fn a_stuck_pod_that_starts_when_the_revision_is_stable_is_no_news() {
    let mut world = World::new(Fleet::new([TestPod::new("a"), stuck("b")]), json!({}));
    world.apply("v2", json!({}));
    for _ in 0..2 {
        let plan = world.plan();
        world.fleet.send(&plan);
        world.fleet.kubelets(&["a".to_owned()]);
        world.fleet.now += 6;
    }
    world.fleet.named("b").edit(|pod| {
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "PodInitializing"}});
        pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
    });
    world.fleet.now = 700;
    world.fleet.observe();
    world.plan();
    assert_eq!((world.status().stable_revision.clone(), world.reason()), (Some(hash("v2")), "UpToDate"));
    world.fleet.kubelets(&["b".to_owned()]);
    world.plan();
    assert_eq!(world.reason(), "UpToDate");
}
