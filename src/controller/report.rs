//! Writes status, and tells what changed: events and gauges.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::context::Context;
use crate::api::reasons::{Reason, condition};
use crate::api::{SidecarSet, SidecarSetStatus};
use crate::core::round::{WriteStatus, write_status};
use crate::runtime::call::CallError;
use crate::runtime::events::Note;

/// States of the gauge `sidecarset_pods`.
pub(super) const POD_STATES: [&str; 6] = ["matched", "updated", "ready", "updated_ready", "failed", "not_in_place"];

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

/// A merge patch that also takes away what the new status has no more. The evictions have a writer of their own.
fn changes(old: &SidecarSetStatus, new: &SidecarSetStatus) -> Value {
    let (old, mut new) = (json!(old), json!(new));
    if let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) {
        for gone in old.keys() {
            new.entry(gone).or_insert(Value::Null);
        }
        new.remove("evictions");
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
}
