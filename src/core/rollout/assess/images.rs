//! Which images of a target a pod has, and which containers are to get the others.

use k8s_openapi::jiff::Timestamp;

use crate::core::base::image::same_image;
use crate::core::pod::{ContainerView, Mark, PodView};
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::state::{Obstacle, ObstacleKind};
use crate::core::rollout::assess::twins::{self, Need};
use crate::core::rollout::target::Target;

pub(crate) fn has_images(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> bool {
    target.sidecars.iter().all(|sidecar| has_image(pod, mark, sidecar, target, now))
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
