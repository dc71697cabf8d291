//! The second request of an upgrade that changes resources, and what the first one records of it.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::keys;
use crate::core::base::pointer::{pointer, test};
use crate::core::base::resources::{Resize, Resources};
use crate::core::pod::{ContainerView, Mark, PodView};
use crate::core::rollout::assess::attempt::Attempt;
use crate::core::rollout::assess::resize::{Pending, current, has_resources, pending};
use crate::core::rollout::request::{PodPatch, readiness_test};
use crate::core::rollout::target::Target;

/// What an update records: what it is to resize, and what an earlier one has asked for and is not in effect yet.
pub(crate) fn resizes(pod: &PodView, mark: &Mark, target: &Target) -> BTreeMap<String, Resize> {
    let earlier = mark.update.iter().flat_map(|update| update.resizes.iter());
    let on_the_way = earlier.filter(|(name, resize)| {
        let container = pod.container(name);
        container.is_some_and(|container| current(container) == resize.to && has_resources(container) == Some(false))
    });
    let new = pending(pod, mark, target).into_iter().map(|pending| (pending.container.name.clone(), pending.resize));
    on_the_way.map(|(name, resize)| (name.clone(), resize.clone())).chain(new).collect()
}

/// The request that resizes, if it is the next one: everything else is done, and the record says what is to come.
pub(crate) fn request(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> Option<PodPatch> {
    let update = mark.update.as_ref().filter(|update| update.revision == target.revision)?;
    let recorded = |pending: &Pending<'_>| update.resizes.get(&pending.container.name) == Some(&pending.resize);
    let pending = pending(pod, mark, target);
    // A pod that has become ready needs a slot, and one that is late its time: then the record is written anew.
    let stands = (update.was_ready || !pod.ready) && now < Attempt { pod, update, target, now }.deadline();
    if !stands || mark.revision != target.revision || pending.is_empty() || !pending.iter().all(recorded) {
        return None;
    }
    let label = pointer(&["metadata", "labels", &keys::revision_label(&target.set)]);
    let mut operations = vec![test("/metadata/uid", &pod.uid), test(&label, &mark.revision)];
    operations.extend(readiness_test(pod));
    for Pending { container, resize } in &pending {
        let path = format!("/spec/{}/{}", container.list.field(), container.index);
        operations.push(test(&format!("{path}/name"), &container.name));
        operations.extend(edits(&format!("{path}/resources"), resize, container));
    }
    let patch = serde_json::from_value(Value::Array(operations)).ok()?;
    Some(PodPatch { key: pod.key.clone(), uid: pod.uid.clone(), patch, resizes: true, metadata: None })
}

/// All amounts of a container in one request: requests and limits of a Guaranteed pod move together.
fn edits(path: &str, Resize { from, to }: &Resize, container: &ContainerView) -> Vec<Value> {
    let mut operations = Vec::new();
    if container.resources.is_none() {
        operations.push(json!({"op": "add", "path": path, "value": {}}));
    }
    for list in ["limits", "requests"] {
        let of = |resources: &Resources| resources.named().filter(|named| named.0 == list).collect::<Vec<_>>();
        let (before, after) = (of(from), of(to));
        if before.is_empty() && !after.is_empty() {
            operations.push(json!({"op": "add", "path": format!("{path}/{list}"), "value": {}}));
        }
        let changed = after.into_iter().filter(|named| !before.contains(named));
        operations.extend(changed.map(|(_, resource, amount)| {
            let path = format!("{path}/{list}/{}", resource.name());
            json!({"op": "add", "path": path, "value": amount.canonical(resource)})
        }));
    }
    operations
}
