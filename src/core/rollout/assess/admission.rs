//! What admission makes of our requests: it may rewrite an image, as a policy for a mirror does, or give back the one before.

use crate::api::image::{Image, is_rewritten, same_image};
use crate::core::pod::{ContainerView, Mark, PodView, Update};
use crate::core::revision::Sidecar;
use crate::core::rollout::target::Target;

/// A container of a sidecar has this image, or what admission made of it.
pub(crate) fn has(
    pod: &PodView,
    mark: &Mark,
    target: &Target,
    sidecar: &Sidecar,
    container: &ContainerView,
    image: &str,
) -> bool {
    if same_image(&container.image, image) {
        return true;
    }
    // Where the pod was asked for, or made with, this image, and has another, admission has rewritten it, and would again.
    let update = mark.update.as_ref();
    let is_kept = target.keeps_image(&mark.revision, &sidecar.name)
        && update.is_none_or(|update| update.revision == mark.revision)
        && !update.is_some_and(|update| is_set_back(pod, update, container, image));
    // A retry asks again for what admission has set back.
    let is_retried = update.is_some_and(|update| target.retried_at.is_some_and(|at| update.at < at));
    let is_asked = is_marked(mark, target);
    let asks_again = is_asked && is_retried && set_back(pod, mark, target).is_some();
    let as_requested = is_as_requested(pod, mark) && !asks_again;
    (is_asked || is_kept) && (as_requested || is_rewritten(&container.image, image))
}

/// The pod was asked for, or made with, the target's images.
fn is_marked(mark: &Mark, target: &Target) -> bool {
    let was_asked = mark.update.as_ref().is_none_or(|update| target.is_reached_by(&update.revision));
    target.is_reached_by(&mark.revision) && was_asked
}

/// Nobody has changed the pod since, but for the resize that follows an update. A server before 1.33 counts no generations of
/// pods: there nobody can tell what was changed since an update.
fn is_as_requested(pod: &PodView, mark: &Mark) -> bool {
    match &mark.update {
        Some(update) => pod.generation <= update.generation + i64::from(!update.resizes.is_empty()),
        None => pod.generation == 1,
    }
}

/// A container to which admission has given back the image that it had, in place of the one that was asked for.
pub(crate) fn set_back<'a>(pod: &'a PodView, mark: &Mark, target: &Target) -> Option<&'a ContainerView> {
    let update = mark.update.as_ref().filter(|_| is_marked(mark, target) && is_as_requested(pod, mark))?;
    // What is recorded of a twin may be of an earlier request.
    let long_running = target.sidecars.iter().filter(|sidecar| sidecar.long_running);
    let long_running = long_running.filter(|sidecar| !sidecar.hot || is_undone(pod, update));
    let mut asked = long_running.flat_map(|sidecar| {
        let containers = sidecar.container_names().into_iter().filter_map(|name| pod.container(&name));
        containers.map(move |container| (container, wanted(pod, container, sidecar)))
    });
    let found = asked.find(|(container, image)| is_set_back(pod, update, container, image));
    found.map(|(container, _)| container)
}

/// A digest may be what it made of the tag, which was that of the image before.
fn is_set_back(pod: &PodView, update: &Update, container: &ContainerView, wanted: &str) -> bool {
    let replaced = update.containers.get(&container.name);
    let has_old = replaced.is_some_and(|replaced| is_undone(pod, update) || *replaced.image == *container.image);
    let has = container.image.as_str();
    let is_resolved = Image::parse(has).digest.is_some() && Image::parse(wanted).digest.is_none();
    has_old && !(same_image(has, wanted) || is_rewritten(has, wanted) || is_resolved)
}

/// Admission has made no change of the request.
fn is_undone(pod: &PodView, update: &Update) -> bool {
    (1..update.generation).contains(&pod.generation)
}

/// The image that was asked for. Of a hot sidecar's twins the one of version 0 was to idle.
fn wanted<'a>(pod: &PodView, container: &ContainerView, sidecar: &'a Sidecar) -> &'a str {
    let idles = sidecar.hot && pod.versions.get(&container.name) == Some(&0);
    if idles { &sidecar.idle_image } else { &sidecar.image }
}
