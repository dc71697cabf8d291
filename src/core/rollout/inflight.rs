//! What was sent for a set, or is about to be, and is not known to be over.

use std::collections::HashMap;

use crate::api::v1beta1::Eviction;
use crate::core::pod::PodKey;
use crate::core::rollout::assess::context::Refusal;
use crate::core::rollout::target::rollout::PersistedProgress;

#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// Pods of the last plan, whose requests may be on their way: the next plan, made when they are answered, sets it anew.
    pub(crate) planned: Vec<PodKey>,
    /// What the last plan knew.
    pub(crate) persisted: PersistedProgress,
    /// Evictions that are about to be recorded in the status, or are already.
    pub(crate) evictions: Vec<Eviction>,
    /// The last patch of a pod that was not accepted, or got no clear answer.
    pub(crate) refusals: HashMap<PodKey, Refusal>,
}
