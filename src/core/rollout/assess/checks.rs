//! Why a pod that is behind the target is not patched.

use crate::api::reasons::Reason;
use crate::core::base::lists::List;
use crate::core::pod::ContainerView;
use crate::core::revision::{Change, Sidecar};
use crate::core::rollout::assess::context::PodInSet;
use crate::core::rollout::assess::images::{has_image, to_restart};
use crate::core::rollout::assess::resize;
use crate::core::rollout::assess::state::Obstacle;
use crate::core::rollout::assess::state::ObstacleKind::{Passing, Pod, Template};

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
    let ordinary = restarts(subject).any(|(sidecar, _)| sidecar.list == List::Ordinary);
    let text = "an ordinary sidecar in a pod whose restartPolicy is not Always is not restarted safely";
    ordinary.then(|| Obstacle::new(Pod, text))
}

fn kubelet_does_not_restart(subject: &PodInSet<'_>) -> Option<Obstacle> {
    if subject.pod.node.is_none() || restarts(subject).all(|(sidecar, _)| sidecar.list != List::Init) {
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

/// The sidecars that do not have their image, each with the container that is to get it.
fn restarts<'a>(subject: &'a PodInSet<'a>) -> impl Iterator<Item = (&'a Sidecar, Result<&'a ContainerView, Obstacle>)> {
    let PodInSet { pod, mark, target, context } = *subject;
    let long_running = target.sidecars.iter().filter(|sidecar| sidecar.long_running);
    let behind = long_running.filter(move |sidecar| !has_image(pod, mark, sidecar, target, context.now));
    behind.map(move |sidecar| (sidecar, to_restart(pod, mark, sidecar, target, context.now)))
}
