//! What is told of a rollout: the numbers and names that status, new pods and the CLI read.

use std::collections::BTreeSet;

use crate::api::reasons::Reason;
use crate::core::pod::PodKey;
use crate::core::replace::report::EvictionReport;
use crate::core::rollout::assess::state::{Obstacle, PodState};
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::budget::steps::StepGate;
use crate::core::rollout::state::set::RolloutState;
use crate::core::rollout::target::{Direction, Target};

/// Pods and workloads named in a message; the rest is counted.
pub(crate) const NAMED_PODS: usize = 3;

/// Where a rollout stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub(crate) counts: Counts,
    /// Pods that partition keeps on the old revision.
    pub(crate) keep_old: usize,
    pub(crate) max_unavailable: usize,
    /// Pods that were not ready anyway and may be in an undecided or failed update at once.
    pub(crate) max_unready: usize,
    /// Pods that partition and steps let move, in place or by eviction, now or later; and those whose move is to be
    /// completed.
    pub(crate) remaining: usize,
    /// Pods that wait for an eviction, whether or not partition and steps let it happen.
    pub(crate) evictable: usize,
    /// Evictions for the target that are under way.
    pub(crate) evicting: usize,
    /// Owners of pods that wait for one.
    pub(crate) owners_to_evict: usize,
    /// Pods that would be evicted if they were others, by kind.
    pub(crate) exempt: Vec<(&'static str, usize)>,
    /// Where evictions stand. The plan does not know.
    pub(crate) evictions: EvictionReport,
    /// Slots of maxUnavailable that are taken, by updates and by evictions.
    pub(crate) slots: usize,
    /// Some of the pods that hold a slot, and why: `default/web-1 (not ready)`.
    pub(crate) slot_holders: Vec<String>,
    /// Some of the pods that hold none and may still fail, or work.
    pub(crate) awaited: Vec<String>,
    /// Pods that count in `max_unready` now.
    pub(crate) capped: usize,
    /// Some of them, and why: `default/web-1 (agent: ImagePullBackOff)`.
    pub(crate) cap_holders: Vec<String>,
    /// Workloads whose ready pods wait only because maxUnavailablePerWorkload leaves no room in them, if nothing else
    /// can go.
    pub(crate) blocked_workloads: usize,
    /// Some of these: `Deployment default/web (1 of 1 unavailable)`.
    pub(crate) blocked: Vec<String>,
    /// Some of the pods that are updated and not ready.
    pub(crate) unready: Vec<String>,
    /// Some of the failed pods, and why: `default/web-1 (agent: ImagePullBackOff)`.
    pub(crate) failed: Vec<String>,
    /// Why pods cannot be patched, and how many.
    pub(crate) not_in_place: Vec<(Obstacle, usize)>,
    pub(crate) gate: StepGate,
    /// Too many pods have failed: the revision is to be given up.
    pub(crate) exceeded: bool,
    /// Images that the next batch waits for.
    pub(crate) pulling: Pulling,
}

/// What messages say about pulls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pulling {
    /// Images that are being pulled.
    pub(crate) images: BTreeSet<String>,
    /// Nodes that pull them.
    pub(crate) nodes: Vec<String>,
    /// Why nobody could pull, and on how many nodes.
    pub(crate) skipped: Vec<(String, usize)>,
}

impl Summary {
    /// The revision is given up and pods do not go back, or it is about to be.
    pub(crate) fn is_halted(&self, target: &Target) -> bool {
        target.direction == Direction::Halted || self.exceeded
    }
}

/// A pod and why it is named, for example `default/web-1 (not ready)`.
pub(crate) fn named(set: &RolloutState, key: &PodKey) -> String {
    let why = match set.assessment(key) {
        Some(entry) => match &entry.state {
            PodState::Failed(reason) => reason.clone(),
            PodState::Refused(message) => format!("{}: {message}", Reason::PatchRefused),
            PodState::Unconfirmed(message) => message.clone(),
            PodState::ResetDue => "a twin is to be reset".to_owned(),
            _ if let Some(text) = &entry.waits_for => text.clone(),
            _ if !entry.ready => "not ready".to_owned(),
            PodState::NotReady => "just made".to_owned(),
            _ => "updating".to_owned(),
        },
        None => "gone".to_owned(),
    };
    format!("{key} ({why})")
}
