//! Which images of a target a pod has, and why one that is behind the target is not patched.

use k8s_openapi::jiff::Timestamp;

use crate::api::image::same_image;
use crate::api::reasons::Reason;
use crate::core::base::lists::List;
use crate::core::pod::{ContainerView, Mark, PodView};
use crate::core::revision::{Change, Sidecar};
use crate::core::rollout::assess::context::PodInSet;
use crate::core::rollout::assess::state::Obstacle;
use crate::core::rollout::assess::state::ObstacleKind::{Passing, Pod, Template};
use crate::core::rollout::assess::twins::{self, Need};
use crate::core::rollout::assess::{admission, resize};
use crate::core::rollout::target::Target;

/// The checks before a patch. The first that finds something is what people are told.
const CHECKS: [fn(&PodInSet<'_>) -> Option<Obstacle>; 5] = [
    // RevisionUnknown: the pod's revision is not in the history, and more than images differs. Or what differs can be
    // given to new pods only.
    template_differs,
    // Kubernetes cannot resize running pods, or not this one.
    cannot_resize,
    // A container is missing, or a hot sidecar's twins do not say which of them serves.
    cannot_find_container,
    // The kubelet stops a container for its new image, and does not start it again where a pull fails.
    restart_is_not_safe,
    // Kubelets before 1.32 do not restart native sidecars for a new image. Or the node is not known yet.
    kubelet_does_not_restart,
];

/// `None`: it can be patched.
pub(crate) fn obstacle(subject: &PodInSet<'_>) -> Option<Obstacle> {
    CHECKS.iter().find_map(|check| check(subject))
}

fn template_differs(subject: &PodInSet<'_>) -> Option<Obstacle> {
    let PodInSet { mark, target, .. } = subject;
    match target.changes.get(&mark.revision) {
        Some(Change::Nothing | Change::InPlace) => None,
        Some(Change::NotInPlace(reason)) => Some(Obstacle::new(Template, reason)),
        // Deleted and created again, with other images. A pod that was to be resized may not have been.
        None if mark.hash_without_images == target.hash_without_images
            && mark.update.as_ref().is_none_or(|update| update.resizes.is_empty()) =>
        {
            None
        }
        None => {
            let text = format!("{}: the pod's revision is not in the set's history", Reason::RevisionUnknown);
            Some(Obstacle::new(Template, text))
        }
    }
}

fn cannot_resize(subject: &PodInSet<'_>) -> Option<Obstacle> {
    resize::obstacle(subject.pod, subject.mark, subject.target, subject.context.can_resize)
}

fn cannot_find_container(subject: &PodInSet<'_>) -> Option<Obstacle> {
    restarts(subject).find_map(|(_, container)| container.err())
}

fn restart_is_not_safe(subject: &PodInSet<'_>) -> Option<Obstacle> {
    if subject.pod.restarts_always {
        return None;
    }
    // KEP-753's discussion; observed on 1.35.
    let ordinary = restarts(subject).any(|(_, container)| is_in(&container, List::Ordinary));
    let text = "an ordinary sidecar in a pod whose restartPolicy is not Always is not restarted safely";
    ordinary.then(|| Obstacle::new(Pod, text))
}

fn kubelet_does_not_restart(subject: &PodInSet<'_>) -> Option<Obstacle> {
    if subject.pod.node.is_none() || !restarts(subject).any(|(_, container)| is_in(&container, List::Init)) {
        return None;
    }
    // kubernetes#126525
    match subject.context.restarts_native_sidecars {
        Some(true) => None,
        Some(false) => {
            Some(Obstacle::new(Pod, "the node's kubelet is older than 1.32 and does not restart native sidecars"))
        }
        None => Some(Obstacle::new(Passing, "the node of the pod is not known yet")),
    }
}

/// Where it stands in this pod; a Job's may have native sidecars where others have ordinary ones.
fn is_in(container: &Result<&ContainerView, Obstacle>, list: List) -> bool {
    container.as_ref().is_ok_and(|container| container.list == list)
}

/// The sidecars that do not have their image, each with the container that is to get it.
fn restarts<'a>(subject: &'a PodInSet<'a>) -> impl Iterator<Item = (&'a Sidecar, Result<&'a ContainerView, Obstacle>)> {
    let PodInSet { pod, mark, target, context } = *subject;
    let long_running = target.sidecars.iter().filter(|sidecar| sidecar.long_running);
    let behind = long_running.filter(move |sidecar| !has_image(pod, mark, sidecar, target, context.now));
    behind.map(move |sidecar| (sidecar, to_restart(pod, mark, sidecar, target, context.now)))
}

/// The pod has the target's images.
pub(crate) fn has_images(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> bool {
    target.sidecars.iter().all(|sidecar| has_image(pod, mark, sidecar, target, now))
}

/// The pod has the image of a sidecar, or what admission made of it.
pub(crate) fn has_image(pod: &PodView, mark: &Mark, sidecar: &Sidecar, target: &Target, now: Timestamp) -> bool {
    if sidecar.hot {
        return twins::has_image(pod, mark, sidecar, target, now);
    }
    let has = |container: &ContainerView| {
        // Revisions that differ in plain init containers only are the same for what runs.
        let was_asked = sidecar.long_running || mark.revision == target.revision;
        same_image(&container.image, &sidecar.image)
            || (was_asked && admission::has(pod, mark, target, sidecar, container, &sidecar.image))
    };
    match pod.container(&sidecar.name) {
        Some(container) => pod.is_past(container) || has(container),
        // A pod that was made before there was this plain init container is past it.
        None => !sidecar.long_running,
    }
}

/// The container whose image a sidecar does not keep; of twins the one that serves.
pub(crate) fn replaced<'a>(
    pod: &'a PodView,
    mark: &Mark,
    sidecar: &'a Sidecar,
    target: &Target,
    now: Timestamp,
) -> Option<&'a ContainerView> {
    if has_image(pod, mark, sidecar, target, now) {
        return None;
    }
    match twins::need(pod, mark, sidecar, target, now) {
        Need::Move(next) => Some(next.serving),
        _ => pod.container(&sidecar.name),
    }
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
        let missing = || Obstacle::new(Pod, format!("the pod has no container {}", sidecar.name));
        return pod.container(&sidecar.name).ok_or_else(missing);
    }
    match twins::need(pod, mark, sidecar, target, now) {
        Need::Move(next) => twins::obstacle(&next, mark, sidecar, target).map_or(Ok(next.to), Err),
        Need::Unclear(text) => Err(Obstacle::new(Pod, text)),
        Need::Nothing | Need::Proof => Err(Obstacle::new(Passing, "it has its image")),
    }
}
