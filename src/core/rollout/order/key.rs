//! Where the strategy puts a pod among the others.

use std::sync::Arc;

use crate::core::pod::PodView;
use crate::core::pod::workload::Workload;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::order::{Priority, ScatterGroup};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OrderKey {
    pub(crate) priority: Priority,
    /// It was made after the rollout had begun. Pods that live shorter than an update takes would keep the others waiting.
    pub(crate) is_late: bool,
    pub(crate) group: ScatterGroup,
    /// Only with maxUnavailablePerWorkload; shared, because every queue it stands in names it.
    pub(crate) workload: Option<Arc<Workload>>,
}

impl OrderKey {
    pub fn of(pod: &PodView, target: &Target) -> Self {
        let strategy = &target.strategy;
        Self {
            is_late: target.started_at.is_some_and(|started| pod.created > started),
            priority: strategy.order.priority(&pod.labels),
            group: strategy.order.scatter_group(&pod.labels),
            workload: strategy.max_unavailable_per_workload.is_some().then(|| Arc::new(Workload::of(pod))),
        }
    }
}
