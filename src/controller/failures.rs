//! An event on each pod whose upgrade failed, so that the pod's own people see it: once per revision, and not more than
//! the event store can bear.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use tokio::time::Instant;

use super::context::{Context, lock};
use crate::api::SidecarSet;
use crate::api::reasons::reason;
use crate::core::pod::PodView;
use crate::runtime::events::Note;

/// Events of one set at a time, and how often.
const AT_A_TIME: usize = 20;
const EVERY: Duration = Duration::from_secs(10);

/// What has been told about a set while this replica leads.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Revision by UID of the pod.
    pods: HashMap<String, String>,
    last: Option<Instant>,
}

/// Tells what has not been told yet. `Some`: not everything, call again after this time.
pub(super) fn tell(context: &Context, set: &SidecarSet, revision: &str) -> Option<Duration> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let index = context.index();
    let mut told = lock(&context.told);
    if index.failed(name).next().is_none() {
        told.remove(name);
        return None;
    }
    let told = told.entry(name.to_owned()).or_default();
    let mut failed: HashMap<String, String> =
        index.failed(name).map(|(pod, _)| (pod.uid.clone(), revision.to_owned())).collect();
    told.pods.retain(|uid, revision| failed.get(uid) == Some(revision));
    failed.retain(|uid, _| !told.pods.contains_key(uid));
    if failed.is_empty() {
        return None;
    }
    if let Some(wait) = told.last.and_then(|last| EVERY.checked_sub(last.elapsed())) {
        return Some(wait);
    }
    told.last = Some(Instant::now());
    for (pod, why) in index.failed(name).filter(|(pod, _)| failed.contains_key(&pod.uid)).take(AT_A_TIME) {
        told.pods.insert(pod.uid.clone(), revision.to_owned());
        context.events.publish(note(set, name, revision, pod, why));
    }
    (failed.len() > AT_A_TIME).then_some(EVERY)
}

fn note(set: &SidecarSet, name: &str, revision: &str, pod: &PodView, why: &str) -> Note {
    Note {
        about: ObjectReference {
            api_version: Some(Pod::api_version(&()).into_owned()),
            kind: Some(Pod::kind(&()).into_owned()),
            namespace: Some(pod.key.namespace.clone()),
            name: Some(pod.key.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        related: Some(set.object_ref(&())),
        warning: true,
        reason: reason::UPGRADE_FAILED.to_owned(),
        action: "Upgrade",
        message: format!("SidecarSet {name:?}, revision {revision}: {why}"),
    }
}
