//! Which pods are patched now, within the budgets, and what the rest waits for.

pub(crate) mod claims;
pub mod evict;
pub(crate) mod phase;
pub mod prepull;
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

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Requests to send, most urgent first.
    pub(crate) patches: Vec<PodPatch>,
    /// What nodes have to pull before the pods of the next batch can be patched.
    pub(crate) pulls: Vec<Pull>,
    /// What the status says, as if the requests had not been sent.
    pub summary: Summary,
    /// When to plan again even if nothing happens.
    pub(crate) wake_at: Option<Timestamp>,
}

/// Plans one set. At most `limit` requests are planned at a time, so that a change of mind comes through soon. Nothing is
/// written: [`Index::advance`] comes before, and `sending` after.
pub fn plan(state: &Index, set: &str, persisted: &PersistedProgress, now: Timestamp, limit: usize) -> Plan {
    // 1. The set at this moment, and what is left of its budgets.
    let Some(snapshot) = Snapshot::take(state, set, persisted, now) else { return Plan::default() };
    // 2. Who goes now: what was begun first, then those behind, in their order.
    let chosen = snapshot.choose(limit);
    // 3. What is sent to each.
    let patch = |key| pod_patch(&*state.get(key)?, &snapshot.set.target, snapshot.set.assessment(key)?, now);
    let patches: Vec<PodPatch> = chosen.iter().filter_map(patch).collect();
    // 4. What nodes pull meanwhile, for the batch after it.
    let pulls = snapshot.pulls();
    // 5. What is told, and when to look again.
    Plan { patches, summary: snapshot.summary(&pulls), pulls, wake_at: snapshot.wake_at() }
}

/// The next batch of a set: time has passed, it is planned, and counts as sent.
pub fn begin_batch(state: &mut Index, set: &str, persisted: &PersistedProgress, now: Timestamp, limit: usize) -> Plan {
    state.advance(set, now);
    let plan = plan(state, set, persisted, now, limit);
    state.sending(set, plan.patches.iter().map(|patch| patch.key.clone()).collect(), persisted);
    plan
}
