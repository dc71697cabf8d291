//! Which pods are patched now, within the budgets, and what the rest waits for.

pub(crate) mod claims;
pub mod evict;
pub(crate) mod phase;
pub mod pullers;
pub(crate) mod snapshot;
pub mod summary;

use k8s_openapi::jiff::Timestamp;

use crate::core::rollout::plan::snapshot::Snapshot;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::request::PodPatch;
use crate::core::rollout::request::patch::pod_patch;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::Pull;
use crate::core::rollout::target::rollout::PersistedProgress;

/// The next batch of a set, most urgent first. At most `limit` requests at a time, so that a change of mind comes through
/// soon. They count as sent.
pub fn begin_batch(
    index: &mut Index,
    set: &str,
    persisted: &PersistedProgress,
    now: Timestamp,
    limit: usize,
) -> Vec<PodPatch> {
    // 1. Time has passed.
    index.advance(set, now);
    // 2. The set at this moment, and what is left of its budgets.
    let Some(snapshot) = Snapshot::take(index, set, persisted, now) else { return Vec::new() };
    // 3. Who goes now: what was begun first, then those behind, in their order.
    let chosen = snapshot.choose(limit);
    // 4. What is sent to each.
    let patch = |key| pod_patch(&*index.get(key)?, &snapshot.set.target, snapshot.set.assessment(key)?, now);
    let patches: Vec<PodPatch> = chosen.iter().filter_map(patch).collect();
    index.sending(set, patches.iter().map(|patch| patch.key.clone()).collect(), persisted);
    patches
}

/// What is told between two batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// For the status.
    pub summary: Summary,
    /// What nodes have to pull before the pods of the next batch can be patched.
    pub(crate) pulls: Vec<Pull>,
    /// When to plan again even if nothing happens.
    pub(crate) wake_at: Option<Timestamp>,
}

/// Where the rollout of a set stands, with all answers that the index knows.
pub fn report(index: &Index, set: &str, persisted: &PersistedProgress, now: Timestamp) -> Report {
    let Some(snapshot) = Snapshot::take(index, set, persisted, now) else { return Report::default() };
    let pulls = snapshot.pulls();
    Report { summary: snapshot.summary(&pulls), pulls, wake_at: snapshot.wake_at() }
}
