//! Writes status, and tells what changed: events and gauges.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::context::Context;
use super::state::{FailureEvents, SetState};
use crate::api::reasons::{Reason, condition};
use crate::api::{SidecarSet, SidecarSetStatus, keys};
use crate::core::pod::PodView;
use crate::core::rollout::target::rollout::annotation;
use crate::core::round::{WriteStatus, write_status};
use crate::runtime::call::CallError;
use crate::runtime::events::Note;

/// States of the gauge `sidecarset_pods`.
pub(super) const POD_STATES: [&str; 6] = ["matched", "updated", "ready", "updated_ready", "failed", "not_in_place"];

/// Events on failed pods of one set at a time, and how often.
const FAILURES_AT_A_TIME: usize = 20;
const FAILURES_EVERY: Duration = Duration::from_secs(10);

/// Failed pods that are remembered, but for those that have failed now.
const MAX_KEPT: usize = 10_000;

/// Writes the status if it differs. `Some`: not written yet, call again after this time.
pub(super) async fn report(
    context: &Context,
    set: &SidecarSet,
    status: SidecarSetStatus,
) -> Result<Option<Duration>, CallError> {
    let name = set.name_any();
    gauges(context, &name, &status);
    let old = set.status.clone().unwrap_or_default();
    let since = context.state().set_mut(&name).status_written.map(|last| last.elapsed());
    match write_status(&old, &status, since) {
        WriteStatus::Never => return Ok(None),
        WriteStatus::After(wait) => return Ok(Some(wait)),
        WriteStatus::Now => {}
    }
    let event = new_reason(&old, &status);
    match context.patch_status(&name, changes(&old, &status)).await {
        // Deleted meanwhile.
        Err(error) if error.is_not_found() => return Ok(None),
        answer => answer?,
    }
    context.state().set_mut(&name).status_written = Some(Instant::now());
    if let Some((reason, message)) = event {
        tracing::info!(set = name, %reason, message, "rollout");
        context.events.publish(Note::new(set.object_ref(&()), reason, "Rollout", message));
    }
    Ok(None)
}

/// A merge patch that also takes away what the new status has no more. The lists of evictions and of owners that cannot create
/// pods have writers of their own.
fn changes(old: &SidecarSetStatus, new: &SidecarSetStatus) -> Value {
    let (old, mut new) = (json!(old), json!(new));
    if let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) {
        for gone in old.keys() {
            new.entry(gone).or_insert(Value::Null);
        }
        new.remove("evictions");
        new.remove("failedCreates");
    }
    json!({"status": new})
}

/// What people want to hear of: a new reason of Ready, and its message.
fn new_reason(old: &SidecarSetStatus, new: &SidecarSetStatus) -> Option<(Reason, String)> {
    let ready = |status: &SidecarSetStatus| status.conditions.iter().find(|c| c.type_ == condition::READY).cloned();
    let (before, after) = (ready(old), ready(new)?);
    if before.is_some_and(|before| before.status == after.status && before.reason == after.reason) {
        return None;
    }
    Some((Reason::named(&after.reason)?, after.message))
}

fn gauges(context: &Context, set: &str, status: &SidecarSetStatus) {
    let counts = [
        status.matched_pods,
        status.updated_pods,
        status.ready_pods,
        status.updated_ready_pods,
        status.failed_pods,
        status.not_in_place_pods,
    ];
    for (state, count) in POD_STATES.into_iter().zip(counts) {
        context.metrics.set_pods(set, state, i64::from(count));
    }
    context.metrics.set_failed_creates(set, i64::from(status.failed_create_owners.unwrap_or(0)));
}

/// An event on each pod whose upgrade failed, so that the pod's own people see it: once per revision, and not more than
/// the event store can bear. `Some`: not everything is told yet, call again after this time.
pub(super) fn tell_failures(context: &Context, set: &SidecarSet, revision: &str) -> Option<Duration> {
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
    if let Some(wait) = told.last.and_then(|last| FAILURES_EVERY.checked_sub(last.elapsed())) {
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
    let untold: Vec<_> =
        index.failed(name).filter(|(pod, _)| !told.pods.contains(&pod.uid)).take(FAILURES_AT_A_TIME).collect();
    for (pod, why) in untold {
        told.pods.insert(pod.uid.clone());
        context.events.publish(failure(set, name, revision, pod, why));
    }
    (news > FAILURES_AT_A_TIME).then_some(FAILURES_EVERY)
}

fn failure(set: &SidecarSet, name: &str, revision: &str, pod: &PodView, why: &str) -> Note {
    let reference = ObjectRef::<Pod>::new(&pod.key.name).within(&pod.key.namespace);
    let about = ObjectReference { uid: Some(pod.uid.clone()), ..reference.into() };
    let message = format!("SidecarSet {name:?}, revision {revision}: {why}");
    Note { related: Some(set.object_ref(&())), ..Note::new(about, Reason::SidecarUpgradeFailed, "Upgrade", message) }
}
