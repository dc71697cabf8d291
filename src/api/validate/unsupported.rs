//! Fields whose behaviour is not built yet. They are refused, never silently ignored.

use super::FieldError;
use crate::api::v1beta1::{SidecarSet, UpdateStrategy};

/// Destructures without `..`: a new field does not compile until somebody says here whether it works.
pub(super) fn check(set: &SidecarSet, errors: &mut Vec<FieldError>) {
    let mut refuse = |used: bool, path: &str| {
        if used {
            errors.push(FieldError::new(path, "is not supported yet: remove it"));
        }
    };
    update(&set.spec.update_strategy, &mut refuse);
}

fn update(strategy: &UpdateStrategy, refuse: &mut impl FnMut(bool, &str)) {
    let UpdateStrategy {
        type_: _,
        paused: _,
        selector: _,
        partition: _,
        max_unavailable: _,
        max_unavailable_per_workload,
        min_ready_seconds: _,
        pod_update_timeout_seconds: _,
        progress_deadline_seconds,
        steps,
        failure_policy,
        pre_pull,
        when_not_in_place,
        priority_strategy,
        scatter_strategy,
    } = strategy;
    for (used, field) in [
        (max_unavailable_per_workload.is_some(), "maxUnavailablePerWorkload"),
        (progress_deadline_seconds.is_some(), "progressDeadlineSeconds"),
        (!steps.is_empty(), "steps"),
        (failure_policy.is_some(), "failurePolicy"),
        (pre_pull.is_some(), "prePull"),
        (when_not_in_place.is_some(), "whenNotInPlace"),
        (priority_strategy.is_some(), "priorityStrategy"),
        (!scatter_strategy.is_empty(), "scatterStrategy"),
    ] {
        refuse(used, &format!("spec.updateStrategy.{field}"));
    }
}
