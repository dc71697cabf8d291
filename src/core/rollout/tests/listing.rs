//! A complete read of all pods beside the watch.

use serde_json::json;

use crate::api::keys;
use crate::core::rollout::tests::*;

fn keys_of(unwatched: Vec<(PodKey, String)>) -> Vec<String> {
    unwatched.into_iter().map(|(key, _)| key.name).collect()
}

#[test]
fn a_list_does_not_bring_back_what_the_watch_has_seen_go() {
    let mut fleet = Fleet::of(2);
    fleet.index.start_list();
    let (key, gone) = fleet.pods.pop_first().unwrap();
    fleet.index.remove(&key, &gone.view().uid, at(0));
    fleet.index.apply_listed(gone.view(), at(0));
    assert_eq!(fleet.plan("v1", &json!({})).summary.counts.matched, 1);
}

#[test]
fn what_is_known_and_listed_need_not_be_looked_at() {
    let mut fleet = Fleet::of(2);
    fleet.index.start_list();
    for pod in fleet.pods.values() {
        fleet.index.apply_listed(pod.view(), at(0));
    }
    assert!(fleet.index.end_list().is_empty());
}

#[test]
fn a_pod_that_only_the_list_knows_is_looked_at() {
    let mut fleet = Fleet::of(0);
    fleet.index.start_list();
    fleet.index.apply_listed(TestPod::new("ghost").view(), at(0));
    assert_eq!(keys_of(fleet.index.end_list()), ["ghost"]);
}

#[test]
fn a_pod_that_the_list_does_not_name_keeps_its_place_until_it_is_looked_at() {
    let mut fleet = Fleet::of(1);
    fleet.index.start_list();
    assert_eq!(fleet.index.end_list().len(), 1);
    assert_eq!(fleet.plan("v1", &json!({})).summary.counts.matched, 1);
}

#[test]
fn a_listed_pod_without_our_label_counts_and_is_looked_at() {
    let mut fleet = Fleet::of(0);
    let pod =
        TestPod::new("web").with(|pod| drop(pod["metadata"]["labels"].as_object_mut().unwrap().remove(keys::INJECTED)));
    fleet.index.start_list();
    fleet.index.apply_listed(pod.view(), at(0));
    assert_eq!(keys_of(fleet.index.end_list()), ["web"]);
    assert_eq!(fleet.plan("v1", &json!({})).summary.counts.matched, 1);
}
