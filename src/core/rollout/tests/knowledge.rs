//! What is known of a pod only in part.

use serde_json::json;

use crate::api::SidecarSetStatus;
use crate::core::rollout::target::rollout::still_wanted;
use crate::core::rollout::testing::planned;
use crate::core::rollout::tests::*;

#[test]
fn an_image_set_back_before_the_kubelet_saw_it_change_costs_nothing_for_ever() {
    let mut fleet = Fleet::of(2);
    let by_hand = fleet.pods.values_mut().next().unwrap();
    by_hand.edit(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
    fleet.observe();
    let stable = testing::hash("v1");
    fleet.index.configure(Target { stable: Some(stable), ..target("v1", json!({})) }, at(0));
    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), usize::MAX);
    assert_eq!(fleet.send(&plan).len(), 1);
    // The kubelet has seen nothing but what it runs.
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone());
    fleet.observe();
    assert_eq!(fleet.slots(10), 1);
    assert_eq!(fleet.slots(10_000), 0);
}

#[test]
fn requests_of_a_revision_that_was_given_up_since_are_not_wanted() {
    let planned = testing::set("v2", json!({}));
    let mut newest = planned.clone();
    newest.status = Some(SidecarSetStatus { matched_pods: 3, ..SidecarSetStatus::default() });
    assert!(still_wanted(&planned, &newest));
    newest.status.as_mut().unwrap().aborted_revision = Some("v2".to_owned());
    assert!(!still_wanted(&planned, &newest));
}
