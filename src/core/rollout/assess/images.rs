//! Which images of a target a pod has, and which containers are to get the others.

use k8s_openapi::jiff::Timestamp;

use crate::core::base::image::same_image;
use crate::core::pod::{ContainerView, Mark, PodView};
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::state::{Obstacle, ObstacleKind};
use crate::core::rollout::assess::twins::{self, Need};
use crate::core::rollout::target::Target;

/// The pod has the target's images, or what admission made of them.
pub(crate) fn has_images(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> bool {
    let as_requested = is_as_requested(pod, mark, target);
    let has = |sidecar: &Sidecar| {
        let others = as_requested && !sidecar.hot && pod.container(&sidecar.name).is_some();
        others || has_image(pod, mark, sidecar, target, now)
    };
    target.sidecars.iter().all(has)
}

/// Nobody has changed the pod since it was asked for, or made with, this target's images. Where they differ nevertheless,
/// admission has rewritten them, as a policy for a mirror does, and would do it again. A server before 1.33 counts no
/// generations of pods: there nobody can tell what was changed since an update.
fn is_as_requested(pod: &PodView, mark: &Mark, target: &Target) -> bool {
    if !target.is_reached_by(&mark.revision) {
        return false;
    }
    match &mark.update {
        Some(update) => target.is_reached_by(&update.revision) && pod.generation <= update.generation,
        None => pod.generation == 1,
    }
}

pub(crate) fn has_image(pod: &PodView, mark: &Mark, sidecar: &Sidecar, target: &Target, now: Timestamp) -> bool {
    // It has run its course: what the pod's spec says of it is left as it is.
    if !sidecar.long_running {
        return true;
    }
    if sidecar.hot {
        return twins::has_image(pod, mark, sidecar, target, now);
    }
    pod.container(&sidecar.name).is_some_and(|container| same_image(&container.image, &sidecar.image))
}

/// The container that is to get another image, if the pod has one.
pub(crate) fn to_restart<'a>(
    pod: &'a PodView,
    mark: &Mark,
    sidecar: &'a Sidecar,
    target: &Target,
    now: Timestamp,
) -> Result<&'a ContainerView, Obstacle> {
    if !sidecar.hot {
        let missing = || Obstacle::new(ObstacleKind::Pod, format!("the pod has no container {}", sidecar.name));
        return pod.container(&sidecar.name).ok_or_else(missing);
    }
    match twins::need(pod, mark, sidecar, target, now) {
        Need::Move(next) => twins::obstacle(&next, mark, sidecar, target).map_or(Ok(next.to), Err),
        Need::Unclear(text) => Err(Obstacle::new(ObstacleKind::Pod, text)),
        Need::Nothing | Need::Proof => Err(Obstacle::new(ObstacleKind::Passing, "it has its image")),
    }
}
