//! Resources of sidecars in running pods: which have to change, and how far that has come.
//!
//! Kubernetes changes resources through the pod's subresource `resize` (KEP-1287, on by default since 1.33), and
//! nothing else with them. So an upgrade that changes resources takes two requests. The first carries images, metadata
//! and marks, with a record of what is to be resized; the second resizes what the record names and still is as it was
//! before. Whoever dies between the two leaves a pod that says what is missing. Resources that somebody else sets, such
//! as a vertical autoscaler, are not what the record says, and are left alone.

use std::collections::BTreeSet;

use crate::api::quantity::Resource;
use crate::core::base::lists::List;
use crate::core::base::resources::{Resize, ResizeTrouble, Resources};
use crate::core::base::time::after;
use crate::core::pod::{ContainerView, Mark, PodView, Update};
use crate::core::rollout::assess::attempt::{Attempt, Progress};
use crate::core::rollout::assess::evidence::STALE_STATUS;
use crate::core::rollout::assess::state::{Obstacle, ObstacleKind};
use crate::core::rollout::target::Target;

/// A container, what it is to have, and whether it will be restarted for that.
pub(crate) struct Pending<'a> {
    pub(crate) container: &'a ContainerView,
    pub(crate) resize: Resize,
}

impl Pending<'_> {
    fn restarts(&self) -> bool {
        let changed = |resource| self.resize.from.differ_in(&self.resize.to, resource);
        Resource::ALL.into_iter().zip(self.container.restarts_on_resize).any(|(r, restarts)| restarts && changed(r))
    }
}

/// The containers that still have to be resized to reach the target.
pub(crate) fn pending<'a>(pod: &'a PodView, mark: &Mark, target: &Target) -> Vec<Pending<'a>> {
    let open = mark.update.iter().flat_map(|update| update.resizes.iter());
    let unsent = open.filter(|(name, resize)| pod.container(name).is_some_and(|c| current(c) == resize.from));
    let differing = target.beside.get(&mark.revision).into_iter().flat_map(|beside| &beside.resized);
    let names: BTreeSet<&String> = unsent.map(|(name, _)| name).chain(differing).collect();
    let of = |name: &String| {
        let (container, wanted) = (pod.container(name)?, target.resources.get(name)?);
        let from = current(container);
        let to = from.clone().with(wanted);
        (from != to).then_some(Pending { container, resize: Resize { from, to } })
    };
    names.into_iter().filter_map(of).collect()
}

pub(crate) fn current(container: &ContainerView) -> Resources {
    container.resources.as_deref().cloned().unwrap_or_default()
}

/// A pod that has the marks of the target, but not all of its resources.
pub(crate) fn is_unfinished(pod: &PodView, mark: &Mark, target: &Target) -> bool {
    mark.update.as_ref().is_some_and(|update| !update.resizes.is_empty()) && !pending(pod, mark, target).is_empty()
}

/// Why the resources of the target cannot be given to this pod where it stands.
pub(crate) fn obstacle(pod: &PodView, mark: &Mark, target: &Target, can_resize: bool) -> Option<Obstacle> {
    let pending = pending(pod, mark, target);
    let first = pending.first()?.container.name.as_str();
    if !can_resize {
        let text = format!("{first}: resources of running pods can be changed from Kubernetes 1.33 on");
        return Some(Obstacle::new(ObstacleKind::Template, text));
    }
    if pod.has_resources {
        let text = format!("{first}: the resources of containers in a pod with pod-level resources are not changed");
        return Some(Obstacle::new(ObstacleKind::Template, text));
    }
    let resized = |c: &ContainerView| pending.iter().find(|p| p.container.name == c.name).map(|p| &p.resize.to);
    let (before, after) = (
        pod.class(|container| container.resources.as_deref()),
        pod.class(|container| resized(container).or(container.resources.as_deref())),
    );
    if before != after {
        let (before, after) = (before.as_str(), after.as_str());
        let text = format!(
            "{first}: with its new resources the QoS class of the pod would change from {before} to {after}, which Kubernetes refuses on a running pod"
        );
        return Some(Obstacle::new(ObstacleKind::Template, text));
    }
    let unsafe_restart = |p: &&Pending<'_>| p.restarts() && p.container.list == List::Ordinary && !pod.restarts_always;
    pending.iter().find(unsafe_restart).map(|pending| {
        let name = &pending.container.name;
        let text = format!(
            "{name}: its resizePolicy restarts it, which is not safe where the pod's restartPolicy is not Always"
        );
        Obstacle::new(ObstacleKind::Pod, text)
    })
}

/// What changes for people to read, for example `agent: limits.memory 64Mi -> 128Mi`.
pub(crate) fn describe(pod: &PodView, target: &Target) -> Vec<String> {
    let pending = pod.marks.get(&target.set).map(|mark| pending(pod, mark, target)).unwrap_or_default();
    let text = |Pending { container, resize: Resize { from, to } }: Pending<'_>| {
        let before: Vec<_> = from.named().collect();
        let changed = to.named().filter(|named| !before.contains(named)).map(|(list, resource, amount)| {
            let had = before.iter().find(|(l, r, _)| (*l, *r) == (list, resource));
            let had = had.map_or_else(|| "none".to_owned(), |(.., amount)| amount.canonical(resource));
            format!("{list}.{} {had} -> {}", resource.name(), amount.canonical(resource))
        });
        format!("{}: {}", container.name, changed.collect::<Vec<_>>().join(", "))
    };
    pending.into_iter().map(text).collect()
}

/// How far the recorded resizes have come. Resources that are neither the old nor the new ones are somebody else's.
pub(crate) fn progress(attempt: &Attempt<'_>) -> Progress {
    let resizes = attempt.update.resizes.iter();
    let open = resizes.filter_map(|(name, resize)| Some(resized(attempt, attempt.pod.container(name)?, resize)));
    open.fold(Progress::Done, Progress::and)
}

fn resized(attempt: &Attempt<'_>, container: &ContainerView, resize: &Resize) -> Progress {
    let (pod, now_has) = (attempt.pod, current(container));
    let (unsent, sent) = (now_has == resize.from, now_has == resize.to);
    let applied = if unsent { Some(false) } else { has_resources(container) };
    if (!unsent && !sent) || applied == Some(true) {
        return Progress::Done;
    }
    if pod.node.is_none() && sent {
        return Progress::Undecided(None);
    }
    let fresh = after(attempt.update.at, STALE_STATUS);
    if attempt.now < fresh {
        return Progress::Undecided(Some(fresh));
    }
    let trouble = pod.resize.as_ref().filter(|_| sent && pod.has_seen(pod.generation));
    match (trouble, applied) {
        (Some(trouble), _) if trouble.reason != DEFERRED => Progress::Failed(said(container, trouble)),
        (Some(trouble), _) => attempt.by(attempt.deadline(), said(container, trouble)),
        // The kubelet does not say: whether the container runs is another question.
        (None, None) if attempt.now >= attempt.deadline() => Progress::Done,
        (None, _) => {
            let text = format!("{}: not resized by podUpdateTimeoutSeconds", container.name);
            attempt.by(attempt.deadline(), text)
        }
    }
}

/// The kubelet will do it when there is room on the node.
const DEFERRED: &str = "Deferred";

/// What an unfinished resize waits for, if the kubelet says so.
pub(crate) fn waits_for(pod: &PodView, update: &Update) -> Option<String> {
    let trouble = pod.resize.as_ref()?;
    let waiting = |(name, resize): &(String, Resize)| {
        pod.container(name).filter(|c| current(c) == resize.to && has_resources(c) == Some(false))
    };
    update.resizes.iter().find_map(waiting).map(|container| said(container, trouble))
}

fn said(container: &ContainerView, trouble: &ResizeTrouble) -> String {
    format!("{}: resize {}: {}", container.name, trouble.reason, trouble.message)
}

pub(crate) fn has_resources(container: &ContainerView) -> Option<bool> {
    container.status.as_ref()?.has_resources
}
