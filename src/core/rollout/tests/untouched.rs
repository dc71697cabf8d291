//! What differs from the template and yet nothing is to be done about in a running pod.

use serde_json::json;

use super::Fleet;
use crate::core::rollout::testing::{TestPod, hash};

#[test]
fn a_pod_whose_image_is_spelled_otherwise_is_at_the_target() {
    let spelled = TestPod::new("a").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["spec"]["containers"][0]["image"] = json!("docker.io/library/v2:latest");
    });
    let other = TestPod::new("b").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["spec"]["containers"][0]["image"] = json!("v2@sha256:aa");
    });
    let mut fleet = Fleet::new([spelled, other]);
    assert_eq!(fleet.round("v2", &json!({"maxUnavailable": 2})), ["b"], "a tag is no digest");
}
