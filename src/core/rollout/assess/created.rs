//! Pods that were made with the target's sidecars, and never updated in place: their first minutes prove the revision as
//! an update does, or show that it is broken.

use k8s_openapi::jiff::Timestamp;

use crate::core::base::time::{after, seconds};
use crate::core::pod::{Mark, PodView};
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::evidence;
use crate::core::rollout::assess::state::State;
use crate::core::rollout::target::Target;

/// The state of such a pod at the target, and when time alone may change it. `None` for a pod that was updated, and for
/// one that proves nothing: of another revision, of a stable one, or of a set's first one, as there would be nothing to go
/// back to.
pub(crate) fn state(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> Option<(State, Option<Timestamp>)> {
    let updated = mark.update.as_ref().is_some_and(|update| target.is_reached_by(&update.revision));
    if updated || mark.revision != target.revision || !target.is_rolling() || target.stable.is_none() {
        return None;
    }
    let strategy = &target.strategy;
    // A node whose clock is behind would cut the hold time.
    let since = pod.ready_changed.unwrap_or(pod.created).max(pod.created);
    let proved_at = after(since, seconds(strategy.min_ready_seconds));
    if pod.ready && now >= proved_at {
        return Some((State::Available, None));
    }
    let window_end = after(pod.created, seconds(strategy.timeout_seconds));
    // Restarts of a pod that worked when its time was over are none of the revision's failures.
    let is_settled = now >= window_end && since > window_end;
    if let Some(why) = broken(pod, target).filter(|_| !is_settled) {
        return Some(match target.retry_ends().filter(|end| now < *end) {
            Some(end) => (State::NotReady, Some(end)),
            None => (State::Failed(why), pod.ready.then_some(proved_at)),
        });
    }
    if pod.ready {
        return Some((State::Updating, Some(proved_at)));
    }
    Some((State::NotReady, Some(window_end).filter(|window_end| now < *window_end)))
}

/// A sidecar that does not start, or crashed again and again; also a plain init container, which only new pods prove.
fn broken(pod: &PodView, target: &Target) -> Option<String> {
    let names = target.sidecars.iter().flat_map(Sidecar::container_names);
    names.filter_map(|name| pod.container(&name).cloned()).find_map(|container| {
        let reason = evidence::of_container(container.status.as_ref()?, 0)?;
        Some(format!("{}: {reason}", container.name))
    })
}
