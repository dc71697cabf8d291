//! Rules on `updateStrategy` that CEL cannot say.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{At, Problems, names, selector};
use crate::api::selector::Selector;
use crate::api::v1beta1::{PriorityStrategy, ScatterTerm, Step, UpdateStrategy, WeightPriority};

const PATH: &str = "spec.updateStrategy";

/// Returns the weights of `weightPriority` with their selectors.
pub(super) fn check(strategy: &UpdateStrategy, Problems { errors, warnings }: &mut Problems) -> Vec<(u32, Selector)> {
    // Deployments refuse it.
    if strategy.progress_deadline_seconds <= strategy.min_ready_seconds {
        warnings.push(format!(
            "{PATH}.progressDeadlineSeconds: is not larger than minReadySeconds: each batch is reported as Stalled before it can be done"
        ));
    }
    let mut at = At::new(PATH, errors);
    quoted_numbers(strategy, &mut at);
    steps(&strategy.steps, &mut at);
    let mut seen = BTreeSet::new();
    for (i, ScatterTerm { key, value }) in strategy.scatter_strategy.iter().enumerate() {
        let mut at = at.at(format_args!(".scatterStrategy[{i}]"));
        at.at(".key").refuse_if(!names::is_qualified_name(key), names::QUALIFIED_NAME);
        if value != "*" && !names::is_label_value(value) {
            at.at(".value").refuse(format!("{}, or *", names::LABEL_VALUE));
        }
        at.refuse_if(!seen.insert((key, value)), "is there already: remove one of the two");
    }
    let priority = strategy.priority_strategy.as_ref();
    priority.map(|priority| priorities(priority, at.at(".priorityStrategy"))).unwrap_or_default()
}

/// The schema refuses these, too, but cannot say what to write instead.
fn quoted_numbers(strategy: &UpdateStrategy, at: &mut At<'_>) {
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
            at.at(format_args!(".{field}")).refuse(message);
        }
    }
}

/// Numbers of the same kind must not fall; a number and a percentage cannot be compared.
fn steps(steps: &[Step], at: &mut At<'_>) {
    let percent = |text: &str| text.strip_suffix('%').and_then(|number| number.parse::<i32>().ok());
    for (i, pair) in steps.windows(2).enumerate() {
        let falls = match (&pair[0].replicas, &pair[1].replicas) {
            (IntOrString::Int(before), IntOrString::Int(after)) => after < before,
            (IntOrString::String(before), IntOrString::String(after)) => {
                percent(after).zip(percent(before)).is_some_and(|(after, before)| after < before)
            }
            _ => false,
        };
        at.at(format_args!(".steps[{}].replicas", i + 1))
            .refuse_if(falls, "must not be less than the step before: steps are cumulative");
    }
}

fn priorities(priority: &PriorityStrategy, mut at: At<'_>) -> Vec<(u32, Selector)> {
    for (i, order) in priority.order_priority.iter().enumerate() {
        let is_name = names::is_qualified_name(&order.ordered_key);
        at.at(format_args!(".orderPriority[{i}].orderedKey")).refuse_if(!is_name, names::QUALIFIED_NAME);
    }
    let weights = priority.weight_priority.iter().enumerate().map(|(i, WeightPriority { weight, match_selector })| {
        let mut at = at.at(format_args!(".weightPriority[{i}].matchSelector"));
        let is_empty = match_selector.match_labels.iter().flatten().next().is_none()
            && match_selector.match_expressions.iter().flatten().next().is_none();
        at.refuse_if(is_empty, "must not be empty: it would give every pod the same weight");
        (u32::try_from(*weight).unwrap_or(0), selector(at, match_selector))
    });
    weights.collect()
}

#[cfg(test)]
mod tests;
