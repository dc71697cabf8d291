//! `spec.updateStrategy`, parsed.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::selector::Selector;
use crate::api::v1beta1::{FailureAction, Step, UpdateType, WhenNotInPlace};
use crate::api::validate::ValidSidecarSet;
use crate::core::rollout::target::order::Order;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// False for type `NotUpdate`.
    pub(crate) enabled: bool,
    /// `paused`.
    pub(crate) paused: bool,
    /// Only these pods are upgraded.
    pub(crate) selector: Option<Selector>,
    /// Pods that stay on the old revision.
    pub partition: IntOrString,
    /// Batches with pauses between them.
    pub steps: Vec<Step>,
    /// Pods that may be unavailable because of upgrades.
    pub max_unavailable: IntOrString,
    /// Pods of one workload that may be unavailable.
    pub(crate) max_unavailable_per_workload: Option<IntOrString>,
    /// Which pods are patched first.
    pub(crate) order: Order,
    /// Seconds that a new sidecar must have been ready.
    pub(crate) min_ready_seconds: i32,
    /// Seconds after which an update has failed.
    pub(crate) timeout_seconds: i32,
    /// Seconds without progress after which the set is stalled.
    pub(crate) progress_deadline_seconds: i32,
    /// Pods that may fail.
    pub(crate) max_failed: IntOrString,
    /// What happens when more fail.
    pub(crate) action: FailureAction,
    /// Pods that cannot be upgraded in place are evicted.
    pub(crate) evicts: bool,
    /// That they are left alone is what the spec asks for.
    pub(crate) skips: bool,
    /// Images are pulled before containers are stopped.
    pub(crate) pre_pull: bool,
}

impl Strategy {
    /// `back`: to the stable revision, which has no old one that pods could stay on.
    pub fn new(valid: &ValidSidecarSet, back: bool) -> Self {
        let update = &valid.set().spec.update_strategy;
        let partition = update.partition.clone().filter(|_| !back);
        Self {
            enabled: update.type_ == UpdateType::RollingUpdate,
            paused: update.paused,
            selector: valid.selectors().upgraded.clone(),
            partition: partition.unwrap_or(IntOrString::Int(0)),
            steps: if back { Vec::new() } else { update.steps.clone() },
            max_unavailable: update.max_unavailable.clone(),
            max_unavailable_per_workload: update.max_unavailable_per_workload.clone(),
            order: Order::new(valid),
            min_ready_seconds: update.min_ready_seconds,
            timeout_seconds: update.pod_update_timeout_seconds,
            progress_deadline_seconds: update.progress_deadline_seconds,
            max_failed: update.failure_policy.max_failed.clone(),
            action: update.failure_policy.action,
            evicts: update.when_not_in_place == Some(WhenNotInPlace::Evict),
            skips: update.when_not_in_place == Some(WhenNotInPlace::Skip),
            pre_pull: update.pre_pull,
        }
    }

    /// This one, with what another says of all pods together. No assessment of a single pod reads that.
    pub(crate) fn with_limits_of(self, other: &Self) -> Self {
        Self {
            enabled: other.enabled,
            paused: other.paused,
            partition: other.partition.clone(),
            steps: other.steps.clone(),
            max_unavailable: other.max_unavailable.clone(),
            progress_deadline_seconds: other.progress_deadline_seconds,
            max_failed: other.max_failed.clone(),
            action: other.action,
            skips: other.skips,
            ..self
        }
    }
}
