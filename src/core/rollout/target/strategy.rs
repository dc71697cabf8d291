//! `spec.updateStrategy`, with what is parsed of it.

use std::ops::{Deref, DerefMut};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::selector::Selector;
use crate::api::v1beta1::{UpdateStrategy, UpdateType, WhenNotInPlace};
use crate::api::validate::ValidSidecarSet;
use crate::core::rollout::target::order::Order;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    spec: UpdateStrategy,
    /// Only these pods are upgraded.
    pub(crate) selector: Option<Selector>,
    pub(crate) order: Order,
}

impl Deref for Strategy {
    type Target = UpdateStrategy;

    fn deref(&self) -> &UpdateStrategy {
        &self.spec
    }
}

impl DerefMut for Strategy {
    fn deref_mut(&mut self) -> &mut UpdateStrategy {
        &mut self.spec
    }
}

impl Strategy {
    pub(crate) fn new(valid: &ValidSidecarSet) -> Self {
        let spec = valid.set().spec.update_strategy.clone();
        Self { spec, selector: valid.selectors().upgraded.clone(), order: Order::new(valid) }
    }

    /// Running pods are not left alone.
    pub(crate) fn is_enabled(&self) -> bool {
        self.type_ == UpdateType::RollingUpdate
    }

    /// Pods that cannot be upgraded in place are evicted.
    pub(crate) fn evicts(&self) -> bool {
        self.when_not_in_place == Some(WhenNotInPlace::Evict)
    }

    /// Pods that stay on the old revision.
    pub(crate) fn kept_back(&self) -> IntOrString {
        self.partition.clone().unwrap_or(IntOrString::Int(0))
    }

    /// There is no old revision that pods could stay on.
    pub(crate) fn take_all(&mut self) {
        (self.spec.partition, self.spec.steps) = (None, Vec::new());
    }

    /// This one, with what another says of all pods together. No assessment of a single pod reads that.
    pub(crate) fn with_limits_of(self, other: &Self) -> Self {
        let kept = if self.evicts() == other.evicts() { other.when_not_in_place } else { self.when_not_in_place };
        let spec = UpdateStrategy {
            type_: other.type_,
            paused: other.paused,
            partition: other.partition.clone(),
            steps: other.steps.clone(),
            max_unavailable: other.max_unavailable.clone(),
            progress_deadline_seconds: other.progress_deadline_seconds,
            failure_policy: other.failure_policy.clone(),
            when_not_in_place: kept,
            ..self.spec
        };
        Self { spec, ..self }
    }
}
