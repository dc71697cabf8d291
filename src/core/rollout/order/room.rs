//! The room that workloads have left while a plan takes pods.

use std::collections::BTreeMap;

use crate::core::pod::workload::Workload;

/// See the module.
pub(super) struct WorkloadRoom<'a> {
    /// Pods that may become unavailable in a workload, before the plan.
    before: &'a dyn Fn(&Workload) -> usize,
    taken: BTreeMap<&'a Workload, usize>,
}

impl<'a> WorkloadRoom<'a> {
    pub(super) fn new(before: &'a dyn Fn(&Workload) -> usize) -> Self {
        Self { before, taken: BTreeMap::new() }
    }

    /// True for a pod that needs none.
    pub(super) fn is_left(&self, workload: Option<&Workload>) -> bool {
        let taken = |workload| self.taken.get(workload).copied().unwrap_or(0);
        workload.is_none_or(|workload| (self.before)(workload) > taken(workload))
    }

    pub(super) fn take(&mut self, workload: Option<&'a Workload>) {
        if let Some(workload) = workload {
            *self.taken.entry(workload).or_default() += 1;
        }
    }
}
