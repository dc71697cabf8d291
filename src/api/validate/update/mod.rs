//! Rules on `updateStrategy` that CEL cannot say.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{FieldError, Problems, names, selector};
use crate::api::selector::Selector;
use crate::api::v1beta1::{PriorityStrategy, Step, UpdateStrategy};

const PATH: &str = "spec.updateStrategy";

/// Returns the weights of `weightPriority` with their selectors.
pub(super) fn check(strategy: &UpdateStrategy, Problems { errors, warnings }: &mut Problems) -> Vec<(u32, Selector)> {
    // Deployments refuse it.
    if strategy.progress_deadline_seconds <= strategy.min_ready_seconds {
        warnings.push(format!(
            "{PATH}.progressDeadlineSeconds: is not larger than minReadySeconds: each batch is reported as Stalled before it can be done"
        ));
    }
    quoted_numbers(strategy, errors);
    steps(&strategy.steps, errors);
    let weights = strategy.priority_strategy.as_ref().map(|priority| priorities(priority, errors));
    let mut seen = BTreeSet::new();
    for (i, term) in strategy.scatter_strategy.iter().enumerate() {
        let path = format!("{PATH}.scatterStrategy[{i}]");
        if !names::is_qualified_name(&term.key) {
            errors.push(FieldError::new(format!("{path}.key"), names::QUALIFIED_NAME));
        }
        if term.value != "*" && !names::is_label_value(&term.value) {
            errors.push(FieldError::new(format!("{path}.value"), format!("{}, or *", names::LABEL_VALUE)));
        }
        if !seen.insert((&term.key, &term.value)) {
            errors.push(FieldError::new(path, "is there already: remove one of the two"));
        }
    }
    weights.unwrap_or_default()
}

/// The schema refuses these, too, but cannot say what to write instead.
fn quoted_numbers(strategy: &UpdateStrategy, errors: &mut Vec<FieldError>) {
    let fields = [
        ("partition", strategy.partition.as_ref()),
        ("maxUnavailable", Some(&strategy.max_unavailable)),
        ("maxUnavailablePerWorkload", strategy.max_unavailable_per_workload.as_ref()),
        ("failurePolicy.maxFailed", Some(&strategy.failure_policy.max_failed)),
    ];
    let fields = fields.into_iter().map(|(field, value)| (field.to_owned(), value));
    let steps = strategy.steps.iter().enumerate();
    let steps = steps.map(|(i, step)| (format!("steps[{i}].replicas"), Some(&step.replicas)));
    for (field, value) in fields.chain(steps) {
        if let Some(IntOrString::String(text)) = value
            && text.parse::<u32>().is_ok()
        {
            let message = format!("is a string: write {text} without quotes, or a percentage such as \"30%\"");
            errors.push(FieldError::new(format!("{PATH}.{field}"), message));
        }
    }
}

/// Numbers of the same kind must not fall; a number and a percentage cannot be compared.
fn steps(steps: &[Step], errors: &mut Vec<FieldError>) {
    let percent = |text: &str| text.strip_suffix('%').and_then(|number| number.parse::<i32>().ok());
    for (i, pair) in steps.windows(2).enumerate() {
        let falls = match (&pair[0].replicas, &pair[1].replicas) {
            (IntOrString::Int(before), IntOrString::Int(after)) => after < before,
            (IntOrString::String(before), IntOrString::String(after)) => {
                percent(after).zip(percent(before)).is_some_and(|(after, before)| after < before)
            }
            _ => false,
        };
        if falls {
            let path = format!("{PATH}.steps[{}].replicas", i + 1);
            errors.push(FieldError::new(path, "must not be less than the step before: steps are cumulative"));
        }
    }
}

fn priorities(priority: &PriorityStrategy, errors: &mut Vec<FieldError>) -> Vec<(u32, Selector)> {
    let mut weights = Vec::new();
    for (i, weight) in priority.weight_priority.iter().enumerate() {
        let path = format!("{PATH}.priorityStrategy.weightPriority[{i}].matchSelector");
        let is_empty = weight.match_selector.match_labels.iter().flatten().next().is_none()
            && weight.match_selector.match_expressions.iter().flatten().next().is_none();
        if is_empty {
            errors.push(FieldError::new(&path, "must not be empty: it would give every pod the same weight"));
        }
        let pods = selector(&path, &weight.match_selector, errors);
        weights.push((u32::try_from(weight.weight).unwrap_or(0), pods));
    }
    for (i, order) in priority.order_priority.iter().enumerate() {
        if !names::is_qualified_name(&order.ordered_key) {
            let path = format!("{PATH}.priorityStrategy.orderPriority[{i}].orderedKey");
            errors.push(FieldError::new(path, names::QUALIFIED_NAME));
        }
    }
    weights
}

#[cfg(test)]
mod tests;
