//! Pods that were ready a moment ago.
//!
//! Observed on kubelets 1.36: one that is restarted says of all its running containers that they are not ready, until the
//! first answer to their probes. Such pods must not pass for pods that are not ready anyway, whose upgrade costs nothing.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::progress::after;
use crate::core::pod::{ContainerStatus, PodView};

/// Three times the default `periodSeconds` of a probe.
const HICCUP: SignedDuration = SignedDuration::from_secs(30);

/// Until when a pod that is not ready counts as one that is: it became unready while all its containers ran on.
pub(super) fn ends(pod: &PodView, now: Timestamp) -> Option<Timestamp> {
    let lost_at = pod.ready_changed.filter(|_| !pod.ready)?;
    let statuses = || pod.containers.iter().filter_map(|container| container.status.as_ref());
    let runs_on = statuses().any(|status| status.running_since.is_some_and(|since| since < lost_at));
    let has_changed = |status: &ContainerStatus| {
        status.waiting.is_some() || status.running_since.is_some_and(|since| since >= lost_at)
    };
    let ran_on = runs_on && !statuses().any(has_changed);
    // Of a clock that is ahead, no more is believed than that it has just happened.
    Some(after(lost_at, HICCUP)).filter(|end| ran_on && now < *end && lost_at <= after(now, HICCUP))
}
