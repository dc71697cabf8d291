//! What only the simulation found (docs/simulation.md).

use serde_json::{Value, json};

use crate::api::keys;
use crate::core::rollout::testing::planned;
use crate::core::rollout::tests::aborted::World;
use crate::core::rollout::tests::*;

fn see(pod: &mut Value) {
    pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
}

/// A container of the update before was started and is ready; the kubelet is still at that generation.
fn a_generation_behind(pod: &mut Value) {
    let agent = &mut pod["status"]["containerStatuses"][0];
    agent["containerID"] = json!("c://of-the-update-before");
    agent["state"] = json!({"running": {"startedAt": at(2).to_string()}});
}

#[test]
fn an_update_that_the_kubelet_has_not_seen_by_its_deadline_has_failed() {
    let mut world = World::new(Fleet::of(2), json!({}));
    world.apply("v2", json!({}));
    let plan = world.plan();
    world.fleet.send(&plan);
    world.fleet.pods.values_mut().next().unwrap().edit(a_generation_behind);
    world.fleet.observe();
    world.fleet.now = 599;
    assert_eq!(world.plan().patches, []);
    world.fleet.now = 600;
    assert_eq!(world.plan().patches, [], "it is not available");
    assert_eq!((world.status().failed_pods, world.reason()), (1, "FailureBudgetExceeded"));
}

#[test]
fn a_later_generation_is_no_business_of_an_update() {
    let mut fleet = Fleet::of(1);
    fleet.round("v2", &json!({}));
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["metadata"]["generation"] = json!(9));
    fleet.observe();
    assert_eq!(fleet.reason("v2", &json!({})), "UpToDate");
}

#[test]
fn an_image_set_back_to_a_revision_that_is_not_stable_any_more_costs_nothing_for_ever() {
    let mut fleet = Fleet::of(1);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
    fleet.observe();
    let plan = fleet.plan("v1", &json!({}));
    assert_eq!(fleet.send(&plan).len(), 1);
    fleet.pods.values_mut().next().unwrap().edit(see);
    fleet.observe();
    // Nobody can take it to the next revision in place.
    let next =
        Target { changes: BTreeMap::new(), hash_without_images: "another".to_owned(), ..target("v2", json!({})) };
    fleet.index.configure(next, at(fleet.now));
    assert_eq!(fleet.slots(599), 1);
    assert_eq!(fleet.slots(600), 0);
}

#[test]
fn an_image_that_is_put_right_costs_a_slot_until_the_kubelet_has_seen_it() {
    let mut fleet = Fleet::of(1);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
    fleet.observe();
    let stable = Target { stable: Some(testing::hash("v1")), ..target("v1", json!({})) };
    fleet.index.configure(stable, at(0));
    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), usize::MAX);
    assert_eq!(fleet.send(&plan).len(), 1);
    assert_eq!(fleet.slots(10_000), 1, "it may stop the container at any time");
    fleet.pods.values_mut().next().unwrap().edit(see);
    fleet.observe();
    assert_eq!(fleet.slots(10_000), 0);
}

#[test]
fn a_pod_that_was_born_broken_fails_again_when_the_time_of_a_retry_is_over() {
    let born = |name: &str| {
        TestPod::new(name).with(|pod| {
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(testing::hash("bad"));
            pod["spec"]["containers"][0]["image"] = json!("bad");
            pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "ErrImagePull"}});
            pod["status"]["conditions"][0]["status"] = json!("False");
        })
    };
    let strategy = json!({"failurePolicy": {"maxFailed": 1}});
    let mut world = World::new(Fleet::new([born("a"), born("b")]), strategy.clone());
    world.apply("bad", strategy);
    world.annotate(keys::RETRY, format!("{}/1", testing::hash("bad")));
    assert_eq!(world.plan().wake_at, Some(at(600)));
    assert_eq!((world.status().failed_pods, world.status().stable_revision.clone()), (0, Some(testing::hash("v1"))));
    world.fleet.now = 600;
    world.plan();
    assert_eq!((world.status().failed_pods, world.reason()), (2, "FailureBudgetExceeded"));
}
