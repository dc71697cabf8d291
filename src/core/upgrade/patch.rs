//! The one request that upgrades a pod: a JSON Patch whose `test` operations make it harmless if anything changed.

use std::collections::BTreeMap;

use json_patch::Patch;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::entry::lost_readiness;
use super::progress::{Progress, progress};
use super::rollout::Rollout;
use crate::api::keys;
use crate::core::pod::{ContainerView, PodKey, PodView, Replaced, Update};
use crate::core::revision::Sidecar;

/// A request for one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPatch {
    /// The pod.
    pub key: PodKey,
    /// Its UID, which the patch also tests.
    pub uid: String,
    /// RFC 6902.
    pub patch: Patch,
}

/// Builds the request: new images, the revision label, and the record of what is replaced. It tests the UID, the label,
/// the pod's readiness, the names and images that were seen, and the containers that ran. `None` if the pod has none of the set's marks.
pub fn pod_patch(pod: &PodView, rollout: &Rollout, now: Timestamp) -> Option<PodPatch> {
    let mark = pod.marks.get(&rollout.set)?;
    let label = pointer(&["metadata", "labels", &keys::revision_label(&rollout.set)]);
    let mut operations = vec![test("/metadata/uid", &pod.uid), test(&label, &mark.revision)];
    // A pod that became ready since the plan would take a slot that the plan did not count.
    if let Some(index) = pod.ready_condition {
        let path = format!("/status/conditions/{index}");
        operations.push(test(&format!("{path}/type"), "Ready"));
        operations.push(test(&format!("{path}/status"), if pod.ready { "True" } else { "False" }));
    }
    for (container, sidecar) in changed(pod, rollout) {
        let path = format!("/spec/{}/{}", container.list.field(), container.index);
        operations.push(test(&format!("{path}/name"), &container.name));
        operations.push(test(&format!("{path}/image"), &container.image));
        if let Some(status) = container.status.as_ref().filter(|status| !status.id.is_empty()) {
            let path = format!("/status/{}/{}", container.list.status_field(), status.index);
            operations.push(test(&format!("{path}/containerID"), &status.id));
        }
        operations.push(json!({"op": "replace", "path": format!("{path}/image"), "value": sidecar.image}));
    }
    let update = serde_json::to_string(&record(pod, mark.update.as_ref(), rollout, now)).ok()?;
    if !pod.has_annotations {
        // Adding the map replaces one that came since, and with it the record of another set.
        operations.push(test("/metadata/resourceVersion", &pod.resource_version.to_string()));
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    let annotation = pointer(&["metadata", "annotations", &keys::update_annotation(&rollout.set)]);
    operations.push(json!({"op": "add", "path": annotation, "value": update}));
    operations.push(json!({"op": "replace", "path": label, "value": rollout.revision}));
    let patch = serde_json::from_value(Value::Array(operations)).ok()?;
    Some(PodPatch { key: pod.key.clone(), uid: pod.uid.clone(), patch })
}

fn record(pod: &PodView, previous: Option<&Update>, rollout: &Rollout, now: Timestamp) -> Update {
    let unfinished = previous.filter(|update| progress(pod, update, &rollout.strategy, now) != Progress::Done);
    // A pod that an earlier update made unready keeps its slot: otherwise each new image would free one.
    let lost_by_us = previous.is_some_and(|update| update.was_ready)
        && (unfinished.is_some() || pod.marks.get(&rollout.set).is_some_and(|mark| lost_readiness(pod, mark, rollout)));
    let mut containers: BTreeMap<String, Replaced> = unfinished.map(|u| u.containers.clone()).unwrap_or_default();
    containers.retain(|name, replaced| still_running(pod, name, replaced));
    for (container, _) in changed(pod, rollout).filter(|(_, sidecar)| sidecar.long_running) {
        let status = container.status.as_ref();
        // Of a burst of updates the kubelet may have seen none yet: what runs is still the first one's container.
        containers.entry(container.name.clone()).or_insert_with(|| Replaced {
            id: status.map(|status| status.id.clone()).unwrap_or_default(),
            restart_count: status.map_or(0, |status| status.restart_count),
            image: container.image.clone(),
        });
    }
    Update {
        revision: rollout.revision.clone(),
        at: now,
        was_ready: pod.ready || lost_by_us,
        containers,
        others: others(pod, unfinished, rollout),
    }
}

/// Restart counts of the containers that this set has no part in: what an unfinished update saw, or else what is now.
fn others(pod: &PodView, unfinished: Option<&Update>, rollout: &Rollout) -> BTreeMap<String, i32> {
    if let Some(update) = unfinished {
        return update.others.clone();
    }
    let own: Vec<String> = rollout.sidecars.iter().flat_map(Sidecar::container_names).collect();
    let others = pod.containers.iter().filter(|container| pod.ready && !own.contains(&container.name));
    others.filter_map(|other| Some((other.name.clone(), other.status.as_ref()?.restart_count))).collect()
}

fn still_running(pod: &PodView, name: &str, replaced: &Replaced) -> bool {
    let status = pod.container(name).and_then(|container| container.status.as_ref());
    status.is_some_and(|status| status.id == replaced.id)
}

fn changed<'a>(pod: &'a PodView, rollout: &'a Rollout) -> impl Iterator<Item = (&'a ContainerView, &'a Sidecar)> {
    rollout.sidecars.iter().filter_map(|sidecar| {
        let container = pod.containers.iter().find(|c| c.list == sidecar.list && c.name == sidecar.name)?;
        (container.image != sidecar.image).then_some((container, sidecar))
    })
}

fn test(path: &str, value: &str) -> Value {
    json!({"op": "test", "path": path, "value": value})
}

/// A JSON pointer (RFC 6901) from unescaped keys.
pub fn pointer(keys: &[&str]) -> String {
    let escape = |key: &&str| key.replace('~', "~0").replace('/', "~1");
    keys.iter().flat_map(|key| ["/".to_owned(), escape(key)]).collect()
}
