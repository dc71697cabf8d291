//! Which pods are patched and counted, and with what reason others are not.

use serde_json::json;

use crate::core::revision::Template;
use crate::core::rollout::testing;
use crate::core::rollout::testing::{TestPod, at};
use crate::core::rollout::tests::Fleet;

#[test]
fn a_pod_without_annotations_keeps_those_that_another_set_writes() {
    let pod = TestPod::new("a").with(|pod| drop(pod["metadata"].as_object_mut().unwrap().remove("annotations")));
    let mut fleet = Fleet::new([pod]);
    let plan = fleet.plan("v2", &json!({}));
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["metadata"]["annotations"] = json!({"update.sidecarset.dev/other": "{}"}));
    assert!(!pod.patch(&plan.patches[0].patch), "the pod must be looked at again");
}

#[test]
fn what_cannot_be_patched_is_counted_with_a_reason() {
    let unknown =
        TestPod::new("a").with(|pod| pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!("gone"));
    let never = TestPod::new("b").with(|pod| pod["spec"]["restartPolicy"] = json!("Never"));
    let mut fleet = Fleet::new([unknown, never]);
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!(plan.patches, []);
    assert_eq!(plan.summary.counts.not_in_place, 2);
    let reasons = plan.summary.not_in_place;
    assert!(
        reasons[0].0.text.starts_with("RevisionUnknown") && reasons[1].0.text.contains("restartPolicy"),
        "{reasons:?}"
    );
    assert_eq!(fleet.reason("v2", &json!({})), "NotInPlace");
}

/// The set was deleted and created again: the hash without images on the pod tells what its history does not know any more.
#[test]
fn a_pod_of_an_unknown_revision_is_patched_if_only_its_images_differ() {
    let hash = Template::of(&testing::set("v2", json!({})).spec).hash_without_images();
    let unknown = |hash: &str| {
        TestPod::new("a").with(|pod| {
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!("gone");
            pod["metadata"]["annotations"]["injection.sidecarset.dev/logs"] =
                json!(json!({"containers": ["agent"], "hashWithoutImages": hash}).to_string());
        })
    };
    let mut other = Fleet::new([unknown("another")]);
    assert_eq!(other.round("v2", &json!({})), Vec::<String>::new());
    assert_eq!(other.reason("v2", &json!({})), "NotInPlace");

    let mut fleet = Fleet::new([unknown(&hash)]);
    assert_eq!(fleet.round("v2", &json!({})), ["a"]);
    assert_eq!(fleet.reason("v2", &json!({})), "UpToDate");
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!("gone, too");
        pod["metadata"]["annotations"]["injection.sidecarset.dev/logs"] = json!("{}");
    });
    fleet.observe();
    assert_eq!(fleet.round("v3", &json!({})), ["a"], "each update records the hash");
}

#[test]
fn pods_that_ended_or_are_not_selected_do_not_count() {
    let ended = TestPod::new("a").with(|pod| pod["status"]["phase"] = json!("Succeeded"));
    let leaving = TestPod::new("b").with(|pod| pod["metadata"]["deletionTimestamp"] = json!(at(0).to_string()));
    let other = TestPod::new("c").with(|pod| pod["metadata"]["labels"]["app"] = json!("db"));
    let mut fleet = Fleet::new([ended, leaving, other]);
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.matched, 0);
    assert_eq!(fleet.reason("v2", &json!({})), "NoPods");
}

#[test]
fn an_image_set_by_hand_is_put_right() {
    let pod = TestPod::new("a").with(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
    let mut fleet = Fleet::new([pod]);
    assert_eq!(fleet.round("v1", &json!({})), ["a"]);
    assert_eq!(fleet.pods.values().next().unwrap().image(), "v1");
}
