//! An event on each pod whose upgrade failed, so that the pod's own people see it: once per revision, and not more than
//! the event store can bear.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

use super::context::Context;
use super::state::{FailureEvents, SetState};
use crate::api::reasons::Reason;
use crate::api::{SidecarSet, keys};
use crate::core::pod::PodView;
use crate::core::rollout::target::rollout::annotation;
use crate::runtime::events::Note;

/// Events of one set at a time, and how often.
const AT_A_TIME: usize = 20;
const EVERY: Duration = Duration::from_secs(10);

/// Pods that are remembered, but for those that have failed now.
const MAX_KEPT: usize = 10_000;

/// Tells what has not been told yet. `Some`: not everything, call again after this time.
pub(super) fn publish(context: &Context, set: &SidecarSet, revision: &str) -> Option<Duration> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut state = context.state();
    let (index, SetState { failure_events: told, .. }) = state.split(name);
    let attempt = (revision.to_owned(), annotation(set, keys::RETRY).map(str::to_owned));
    if told.attempt != attempt {
        *told = FailureEvents { attempt, pods: HashSet::new(), last: told.last };
    }
    let news = index.failed(name).filter(|(pod, _)| !told.pods.contains(&pod.uid)).count();
    if news == 0 {
        return None;
    }
    if let Some(wait) = told.last.and_then(|last| EVERY.checked_sub(last.elapsed())) {
        return Some(wait);
    }
    told.last = Some(Instant::now());
    if told.pods.len() > MAX_KEPT {
        told.pods = index
            .failed(name)
            .filter(|(pod, _)| told.pods.contains(&pod.uid))
            .map(|(pod, _)| pod.uid.clone())
            .collect();
    }
    let untold: Vec<_> = index.failed(name).filter(|(pod, _)| !told.pods.contains(&pod.uid)).take(AT_A_TIME).collect();
    for (pod, why) in untold {
        told.pods.insert(pod.uid.clone());
        context.events.publish(note(set, name, revision, pod, why));
    }
    (news > AT_A_TIME).then_some(EVERY)
}

fn note(set: &SidecarSet, name: &str, revision: &str, pod: &PodView, why: &str) -> Note {
    let reference = ObjectRef::<Pod>::new(&pod.key.name).within(&pod.key.namespace);
    let about = ObjectReference { uid: Some(pod.uid.clone()), ..reference.into() };
    let message = format!("SidecarSet {name:?}, revision {revision}: {why}");
    Note { related: Some(set.object_ref(&())), ..Note::new(about, Reason::SidecarUpgradeFailed, "Upgrade", message) }
}
