//! What is sent to the API server, and what its answers say.

pub mod answer;
pub mod metadata;
pub mod patch;
pub(crate) mod resize;
pub(crate) mod twins;

use std::sync::Arc;
use std::time::Duration;

use json_patch::Patch;
use serde_json::{Value, json};

use crate::core::base::pointer::test;
use crate::core::pod::{ContainerView, PodKey, PodView};
use crate::core::rollout::target::changes::MetadataChange;

/// A request is not sent later than this after it was planned, but planned again: it says when the update begins, and
/// the pod's deadline counts from then.
pub(crate) const PLAN_HOLDS: Duration = Duration::from_secs(5);

/// A request for one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPatch {
    /// The pod.
    pub key: PodKey,
    pub(crate) uid: String,
    /// RFC 6902.
    pub patch: Patch,
    /// It goes to the subresource `resize`.
    pub(crate) resizes: bool,
    /// To be completed from the pod's live metadata before it is sent.
    pub(crate) metadata: Option<Arc<MetadataChange>>,
}

/// A pod that became ready since the plan would take a slot that the plan did not count.
pub(crate) fn readiness_test(pod: &PodView) -> Vec<Value> {
    let Some(index) = pod.ready_condition else { return Vec::new() };
    let path = format!("/status/conditions/{index}");
    let status = if pod.ready { "True" } else { "False" };
    vec![test(&format!("{path}/type"), "Ready"), test(&format!("{path}/status"), status)]
}

/// Tests that a container is the one that was seen.
pub(crate) fn test_running(container: &ContainerView) -> Vec<Value> {
    let path = format!("/spec/{}/{}", container.list.field(), container.index);
    let spec = [test(&format!("{path}/name"), &container.name), test(&format!("{path}/image"), &container.image)];
    let status = container.status.as_ref().map(|status| {
        let path = format!("/status/{}/{}", container.list.status_field(), status.index);
        // One that had not started then, and is ready by now, would be taken for the new one.
        if status.id.is_empty() {
            json!({"op": "test", "path": format!("{path}/ready"), "value": false})
        } else {
            test(&format!("{path}/containerID"), &status.id)
        }
    });
    spec.into_iter().chain(status).collect()
}
