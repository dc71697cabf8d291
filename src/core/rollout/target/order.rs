//! Which pods are patched first: `updateStrategy.priorityStrategy` and `scatterStrategy`, compiled once per change.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::api::selector::Selector;
use crate::api::v1beta1::ScatterTerm;
use crate::api::validate::ValidSidecarSet;

/// The value of a scatter term that stands for each value seen.
const ANY_VALUE: &str = "*";

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Order {
    priority: PriorityRule,
    scatter: Vec<ScatterTerm>,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum PriorityRule {
    #[default]
    None,
    Weights(Vec<(u32, Selector)>),
    /// Label keys, the most urgent first.
    Keys(Vec<String>),
}

/// How urgent a pod is: the smaller goes first. First the sum of the weights that the pod does not have, or the position
/// of its key; then the number at the end of that key's value, where no number is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Priority(usize, Reverse<Option<u64>>);

impl Priority {
    pub(crate) const FIRST: Self = Self(0, Reverse(Some(u64::MAX)));
}

/// What a pod matches of the scatter terms: positions of the terms, and for a term of each value the value. Empty for a
/// pod that matches none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScatterGroup(Box<[(usize, Option<Box<str>>)]>);

impl Order {
    pub fn new(valid: &ValidSidecarSet) -> Self {
        let update = &valid.set().spec.update_strategy;
        let weights = &valid.selectors().weights;
        let priority = match &update.priority_strategy {
            None => PriorityRule::None,
            Some(_) if !weights.is_empty() => PriorityRule::Weights(weights.clone()),
            Some(strategy) => {
                PriorityRule::Keys(strategy.order_priority.iter().map(|order| order.ordered_key.clone()).collect())
            }
        };
        Self { priority, scatter: update.scatter_strategy.clone() }
    }

    pub(crate) fn priority(&self, labels: &BTreeMap<String, String>) -> Priority {
        match &self.priority {
            PriorityRule::None => Priority::FIRST,
            PriorityRule::Weights(weights) => {
                let missing = weights.iter().filter(|(_, selector)| !selector.matches(labels));
                Priority(missing.map(|(weight, _)| *weight as usize).sum(), Reverse(None))
            }
            PriorityRule::Keys(keys) => {
                let found = keys.iter().enumerate().find_map(|(i, key)| Some((i, labels.get(key)?)));
                // OpenKruise puts pods without any of the keys first, against its own documentation.
                found.map_or(Priority(keys.len(), Reverse(None)), |(i, value)| {
                    Priority(i, Reverse(trailing_number(value)))
                })
            }
        }
    }

    pub(crate) fn scatter_group(&self, labels: &BTreeMap<String, String>) -> ScatterGroup {
        let matches = self.scatter.iter().enumerate().filter_map(|(i, term)| {
            let value = labels.get(&term.key)?;
            if term.value == ANY_VALUE {
                return Some((i, Some(value.as_str().into())));
            }
            (*value == term.value).then_some((i, None))
        });
        ScatterGroup(matches.collect())
    }
}

/// The number at the end of a label's value; what does not fit counts as the largest.
fn trailing_number(value: &str) -> Option<u64> {
    let digits = &value[value.trim_end_matches(|c: char| c.is_ascii_digit()).len()..];
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::validate::validate;
    use crate::core::rollout::testing;

    fn order(strategy: Value) -> Order {
        Order::new(&validate(&testing::set("v1", strategy)).unwrap())
    }

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// The labels in the order of their pods; equals are joined with `|`.
    fn sorted(order: &Order, pods: &[&str]) -> Vec<String> {
        let mut ranks: BTreeMap<Priority, Vec<&str>> = BTreeMap::new();
        for pod in pods {
            ranks.entry(order.priority(&labels(pod))).or_default().push(pod);
        }
        ranks.into_values().map(|equal| equal.join(" | ")).collect()
    }

    #[test]
    fn the_larger_sum_of_matching_weights_goes_first() {
        let weight = |weight: i32, key: &str| json!({"weight": weight, "matchSelector": {"matchLabels": {key: "y"}}});
        let order =
            order(json!({"priorityStrategy": {"weightPriority": [weight(50, "a"), weight(30, "b"), weight(30, "c")]}}));
        let pods = ["x=y", "b=y", "a=y", "c=y", "b=y c=y", "a=y b=y", "a=n"];
        assert_eq!(sorted(&order, &pods), ["a=y b=y", "b=y c=y", "a=y", "b=y | c=y", "x=y | a=n"]);
    }

    #[test]
    fn an_earlier_key_goes_first_then_the_larger_number() {
        let order = order(json!({"priorityStrategy": {"orderPriority": [{"orderedKey": "k"}, {"orderedKey": "l"}]}}));
        let pods =
            ["x=9", "l=9", "k=a-2", "k=a-10", "k=0010", "k=none", "k=", "k=1a", "l=3 k=1", "k=99999999999999999999"];
        let expected =
            ["k=99999999999999999999", "k=a-10 | k=0010", "k=a-2", "l=3 k=1", "k=none | k= | k=1a", "l=9", "x=9"];
        assert_eq!(sorted(&order, &pods), expected);
    }

    #[test]
    fn without_a_strategy_all_are_equal() {
        assert_eq!(sorted(&order(json!({})), &["a=1", "b=2"]), ["a=1 | b=2"]);
    }

    #[test]
    fn a_class_is_the_combination_of_what_a_pod_matches() {
        let order = order(json!({"scatterStrategy": [{"key": "zone", "value": "*"}, {"key": "app", "value": "db"}]}));
        let class = |text: &str| order.scatter_group(&labels(text));
        for (a, b, same) in [
            ("zone=a", "zone=a x=y", true),
            ("zone=a", "zone=b", false),
            ("zone=a", "zone=a app=db", false),
            ("app=web", "", true),
            ("app=db", "", false),
            ("zone=", "", false),
        ] {
            assert_eq!(class(a) == class(b), same, "{a} and {b}");
        }
        assert_eq!(class("app=web"), ScatterGroup::default());
    }
}
