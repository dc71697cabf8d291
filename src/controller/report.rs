//! Writes status, and tells what changed: events and gauges.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::Patch;
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::context::{Context, lock, patch_params};
use super::error::Error;
use super::sets_api;
use crate::api::reasons::{self, reason};
use crate::api::{SidecarSet, SidecarSetStatus};
use crate::runtime::events::Note;

/// Mere counters are written at most this often; a change of a condition at once.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// States of the gauge `sidecarset_pods`.
pub(super) const POD_STATES: [&str; 6] = ["matched", "updated", "ready", "updated_ready", "failed", "not_in_place"];

/// Writes the status if it differs. `Some`: not written yet, call again after this time.
pub(super) async fn report(
    context: &Context,
    set: &SidecarSet,
    status: SidecarSetStatus,
) -> Result<Option<Duration>, Error> {
    let name = set.name_any();
    gauges(context, &name, &status);
    let old = set.status.clone().unwrap_or_default();
    if old == status {
        return Ok(None);
    }
    let news = news(&old, &status);
    if news.is_empty() && old.observed_generation == status.observed_generation {
        let last = lock(&context.reported).get(&name).copied();
        if let Some(wait) = last.and_then(|last| COUNTERS_EVERY.checked_sub(last.elapsed())) {
            return Ok(Some(wait));
        }
    }
    let api = sets_api(context);
    let patch = json!({"status": status});
    let (params, patch) = (patch_params(), Patch::Merge(&patch));
    let call = api.patch_status(&name, &params, &patch);
    let written = context.write("patch status of", || format!("SidecarSet {name}"), call).await?;
    lock(&context.reported).insert(name, Instant::now());
    context.cache.apply_set(written);
    for note in news {
        tracing::info!(set = %set.name_any(), reason = %note.reason, message = %note.message, "rollout");
        context.events.publish(Note { about: set.object_ref(&()), ..note });
    }
    Ok(None)
}

/// The conditions whose status or reason changed, as events; their object is filled in later.
fn news(old: &SidecarSetStatus, new: &SidecarSetStatus) -> Vec<Note> {
    let find = |status: &SidecarSetStatus, type_: &str| status.conditions.iter().find(|c| c.type_ == type_).cloned();
    let same = |a: &Option<Condition>, b: &Condition| {
        a.as_ref().is_some_and(|a| a.status == b.status && a.reason == b.reason)
    };
    let told = [reasons::READY, reasons::STALLED, reasons::INJECTION_READY];
    told.into_iter()
        .filter_map(|type_| Some((find(old, type_), find(new, type_)?)))
        .filter(|(before, after)| !same(before, after) && after.reason != reason::AS_EXPECTED)
        // Stalled says the same as Ready then.
        .filter(|(_, after)| after.type_ != reasons::STALLED)
        .map(|(_, after)| Note {
            about: k8s_openapi::api::core::v1::ObjectReference::default(),
            warning: matches!(after.reason.as_str(), reason::PODS_FAILED | reason::INVALID_SPEC),
            reason: after.reason,
            action: "Rollout",
            message: after.message,
        })
        .collect()
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
