//! The one request that upgrades a pod: a JSON Patch whose `test` operations make it harmless if anything changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::keys;
use crate::core::base::pointer::{pointer, test};
use crate::core::base::resources::Resize;
use crate::core::base::small_map::SmallMap;
use crate::core::pod::{ContainerView, Mark, PodView, Replaced, Update};
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::checks::has_image;
use crate::core::rollout::assess::state::Claim;
use crate::core::rollout::assess::twins::{Moves, moves, takes_over};
use crate::core::rollout::request::resize::{request, resizes};
use crate::core::rollout::request::{PodPatch, readiness_test, test_running, twins};
use crate::core::rollout::target::Target;

/// Builds the request: new images, the revision label, and the record of what is replaced. It tests the UID, the label,
/// the pod's readiness, the names and images that were seen, and the containers that ran. Resources follow in a second
/// request. `None` if the pod has none of the set's marks.
pub(crate) fn pod_patch(pod: &PodView, target: &Target, assessed: &Assessment, now: Timestamp) -> Option<PodPatch> {
    let mark = pod.marks.get(&target.set)?;
    if let Some(request) = request(pod, mark, target, now) {
        return Some(request);
    }
    let label = pointer(&["metadata", "labels", &keys::revision_label(&target.set)]);
    let mut operations = vec![test("/metadata/uid", &pod.uid), test(&label, &mark.revision)];
    operations.extend(readiness_test(pod));
    let hot = moves(pod, mark, target, now);
    let changed = changed(pod, mark, target, &hot, now);
    for Changed { container, image, .. } in &changed {
        let path = format!("/spec/{}/{}/image", container.list.field(), container.index);
        operations.extend(test_running(container));
        operations.push(json!({"op": "replace", "path": path, "value": image}));
    }
    // What completes the revision that the pod has goes alone.
    let resizes = if hot.before_upgrade { BTreeMap::new() } else { resizes(pod, mark, target) };
    let mut update = record(pod, mark, &changed, resizes, target, assessed, now);
    if hot.before_upgrade {
        (update.revision, update.hash_without_images) = (mark.revision.clone(), mark.hash_without_images.clone());
    }
    if !pod.has_annotations {
        // Adding the map replaces one that came since, and with it the record of another set.
        operations.push(test("/metadata/resourceVersion", &pod.resource_version.to_string()));
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    operations.extend(hot.moves.iter().flat_map(|next| twins::operations(next, pod)));
    let annotation = pointer(&["metadata", "annotations", &keys::update_annotation(&target.set)]);
    operations.push(json!({"op": "add", "path": annotation, "value": serde_json::to_string(&update).ok()?}));
    operations.push(json!({"op": "replace", "path": label, "value": update.revision}));
    let patch = serde_json::from_value(Value::Array(operations)).ok()?;
    let beside = target.beside.get(&mark.revision).filter(|_| !hot.before_upgrade);
    let metadata = beside.and_then(|beside| beside.metadata.clone());
    Some(PodPatch { key: pod.key.clone(), uid: pod.uid.clone(), patch, resizes: false, metadata })
}

fn record(
    pod: &PodView,
    mark: &Mark,
    changed: &[Changed<'_>],
    resizes: BTreeMap<String, Resize>,
    target: &Target,
    assessed: &Assessment,
    now: Timestamp,
) -> Update {
    let previous = mark.update.as_ref();
    let unfinished = assessed.unfinished;
    // A pod that an earlier update made unready keeps its slot: otherwise each new image would free one.
    let was_ready = assessed.counts_as_ready || assessed.claim == Claim::Disruption;
    let earlier = previous.iter().flat_map(|update| update.containers.iter());
    let mut containers: BTreeMap<String, Replaced> = earlier.map(|(name, r)| (name.to_string(), r.clone())).collect();
    containers.retain(|name, replaced| {
        let is_changed = changed.iter().any(|changed| changed.container.name == *name);
        let goes_on = !is_changed && (unfinished || takes_over(pod, name, target));
        goes_on || (unfinished && still_running(pod, name, replaced))
    });
    let may_restart = resizes.keys().filter_map(|name| pod.container(name));
    let replaced = changed.iter().map(|changed| changed.container);
    for container in replaced.chain(may_restart) {
        let status = container.status.as_ref();
        // Of a burst of updates the kubelet may have seen none yet: what runs is still the first one's container.
        containers.entry(container.name.clone()).or_insert_with(|| Replaced {
            id: status.map(|status| status.id.clone()).unwrap_or_default(),
            restart_count: status.map_or(0, |status| status.restart_count),
            image: container.image.as_str().into(),
            down: false,
        });
    }
    for (name, replaced) in &mut containers {
        replaced.down = !runs(pod, name);
    }
    Update {
        revision: target.revision.clone(),
        at: now,
        was_ready,
        generation: pod.generation + i64::from(!changed.is_empty()),
        containers: containers.into_iter().collect(),
        others: if was_ready { others(pod, target) } else { SmallMap::default() },
        hash_without_images: target.hash_without_images.clone(),
        resizes: resizes.into_iter().collect(),
    }
}

/// When the containers that this set has no part in had last ended.
fn others(pod: &PodView, target: &Target) -> SmallMap<Arc<str>, Option<Timestamp>> {
    let own: Vec<String> = target.sidecars.iter().flat_map(Sidecar::container_names).collect();
    let others = pod.containers.iter().filter(|container| !own.contains(&container.name));
    others.filter_map(|other| Some((other.name.clone(), other.status.as_ref()?.ended_at))).collect()
}

fn runs(pod: &PodView, name: &str) -> bool {
    let status = pod.container(name).and_then(|container| container.status.as_ref());
    status.is_some_and(|status| status.running_since.is_some())
}

fn still_running(pod: &PodView, name: &str, replaced: &Replaced) -> bool {
    let status = pod.container(name).and_then(|container| container.status.as_ref());
    status.is_some_and(|status| status.id == replaced.id)
}

struct Changed<'a> {
    container: &'a ContainerView,
    image: &'a str,
}

fn changed<'a>(pod: &'a PodView, mark: &Mark, target: &'a Target, hot: &Moves<'a>, now: Timestamp) -> Vec<Changed<'a>> {
    let cold = target.sidecars.iter().filter(|sidecar| !sidecar.hot && !hot.before_upgrade);
    let cold = cold.filter(|sidecar| !has_image(pod, mark, sidecar, target, now)).filter_map(|sidecar| {
        let container = pod.container(&sidecar.name)?;
        Some(Changed { container, image: &sidecar.image })
    });
    let moved = hot.moves.iter().map(|next| Changed { container: next.to, image: next.image });
    cold.chain(moved).collect()
}
