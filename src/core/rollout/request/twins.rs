//! What goes with the image of a hot sidecar's twin.

use serde_json::{Value, json};

use crate::api::keys;
use crate::core::base::pointer::pointer;
use crate::core::pod::{ContainerView, PodView};
use crate::core::rollout::assess::twins::Move;
use crate::core::rollout::request::test_running;

/// Tests that the other twin still serves, and the versions that tell the programs who hands over to whom.
pub(crate) fn operations(next: &Move<'_>, pod: &PodView) -> Vec<Value> {
    let mut operations = test_running(next.serving);
    if let Some(status) = next.serving.status.as_ref().filter(|_| next.is_reset) {
        let path = format!("/status/{}/{}/ready", next.serving.list.status_field(), status.index);
        operations.push(json!({"op": "test", "path": path, "value": status.ready}));
    }
    let version = |twin: &ContainerView| pod.versions.get(&twin.name).copied().unwrap_or(0);
    let serving = version(next.serving).max(1);
    let next_version = if next.is_reset { 0 } else { serving.max(version(next.to)).saturating_add(1) };
    for (prefix, twin, value) in [
        (keys::VERSION_PREFIX, next.to, next_version),
        (keys::VERSION_ALT_PREFIX, next.to, serving),
        (keys::VERSION_PREFIX, next.serving, serving),
        (keys::VERSION_ALT_PREFIX, next.serving, next_version),
    ] {
        let path = pointer(&["metadata", "annotations", &format!("{prefix}{}", twin.name)]);
        operations.push(json!({"op": "add", "path": path, "value": value.to_string()}));
    }
    operations
}
