//! cpu and memory of a container, and which changes of them Kubernetes lets a running pod have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::quantity::{Quantity, Resource};

/// `limits` and `requests` of a container, as far as they can be resized.
///
/// ```json
/// {"limits":{"memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(skip_serializing_if = "Amounts::is_empty")]
    pub(crate) limits: Amounts,
    #[serde(skip_serializing_if = "Amounts::is_empty")]
    pub(crate) requests: Amounts,
}

/// One of the two lists: cores of cpu, bytes of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Value>", into = "BTreeMap<&'static str, String>")]
pub(crate) struct Amounts(pub(crate) BTreeMap<Resource, Quantity>);

impl From<BTreeMap<String, Value>> for Amounts {
    /// What is no quantity is as good as absent: the apiserver has none such, and anybody may write our annotations.
    fn from(named: BTreeMap<String, Value>) -> Self {
        let amount = |resource: Resource| Some((resource, Quantity::read(named.get(resource.name())?)?));
        Self(Resource::ALL.into_iter().filter_map(amount).collect())
    }
}

impl From<Amounts> for BTreeMap<&'static str, String> {
    fn from(amounts: Amounts) -> Self {
        amounts.0.into_iter().map(|(resource, amount)| (resource.name(), amount.canonical(resource))).collect()
    }
}

impl Amounts {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, resource: Resource) -> Option<Quantity> {
        self.0.get(&resource).copied()
    }

    fn with(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }
}

/// A change of resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resize {
    pub(crate) from: Resources,
    pub(crate) to: Resources,
}

/// Why a resize is not done: the condition `PodResizePending`, or `PodResizeInProgress` with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizeTrouble {
    /// `Deferred`, `Infeasible` or `Error`.
    pub(crate) reason: String,
    /// The kubelet's words.
    pub(crate) message: String,
}

/// A cgroup rounds memory down to pages, the largest of which have 64 Ki.
const PAGE: &str = "64Ki";

impl Resources {
    /// Reads the field `resources` of a container in a set, with the requests that the apiserver gives it: those that
    /// are not named are the limits (`SetDefaults_Pod` in `k8s.io/kubernetes/pkg/apis/core/v1`).
    pub(crate) fn of_entry(entry: &Value) -> Self {
        let named = Self::deserialize(&entry["resources"]).unwrap_or_default();
        Self { requests: named.limits.clone().with(&named.requests), limits: named.limits }
    }

    /// List, resource and amount of everything that is named.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, Resource, Quantity)> {
        let lists = [("limits", &self.limits), ("requests", &self.requests)];
        lists
            .into_iter()
            .flat_map(|(list, amounts)| amounts.0.iter().map(move |(resource, amount)| (list, *resource, *amount)))
    }

    /// These, and what others name in place of them.
    #[must_use]
    pub(crate) fn with(self, others: &Self) -> Self {
        Self { limits: self.limits.with(&others.limits), requests: self.requests.with(&others.requests) }
    }

    /// Whether limit or request of a resource differ.
    pub(crate) fn differ_in(&self, other: &Self, resource: Resource) -> bool {
        self.limits.get(resource) != other.limits.get(resource)
            || self.requests.get(resource) != other.requests.get(resource)
    }

    /// Whether a kubelet that reports `actual` has put these into effect.
    pub(crate) fn are_applied(&self, actual: &Self) -> bool {
        let page = Quantity::parse(PAGE).unwrap_or_default();
        self.named().all(|(list, resource, wanted)| {
            let amounts = if list == "limits" { &actual.limits } else { &actual.requests };
            let applied = |actual: Quantity| match resource {
                Resource::Cpu => actual == wanted,
                Resource::Memory => actual <= wanted && wanted < actual.plus(page),
            };
            !wanted.is_positive() || amounts.get(resource).is_some_and(applied)
        })
    }

    /// The request, by default the limit, and the limit of cpu and of memory: an argument of `QosClass::of`.
    pub(crate) fn for_qos(&self) -> [(Option<Quantity>, Option<Quantity>); 2] {
        Resource::ALL.map(|resource| {
            let limit = self.limits.get(resource);
            (self.requests.get(resource).or(limit), limit)
        })
    }
}

/// Why a running pod cannot be given the resources of `after` in place of those of `before`, two versions of one
/// container in a set; `None` if it can, or if they are equal.
pub(crate) fn difference(before: &Value, after: &Value) -> Option<&'static str> {
    if before["resources"] == after["resources"] {
        return None;
    }
    if !after["resourcesPolicy"].is_null() || !before["resourcesPolicy"].is_null() {
        return Some("resources changed");
    }
    if others(before) != others(after) {
        return Some("resources changed in more than cpu and memory");
    }
    let (before, after) = (Resources::of_entry(before), Resources::of_entry(after));
    let named: Vec<_> = after.named().map(|(list, resource, _)| (list, resource)).collect();
    let removed = before.named().any(|(list, resource, _)| !named.contains(&(list, resource)));
    // `validateContainerResize` in `k8s.io/kubernetes/pkg/apis/core/validation`.
    removed.then_some("resources changed: a limit or request was removed, which Kubernetes refuses on a running pod")
}

/// Everything in `resources` but cpu and memory.
fn others(entry: &Value) -> Map<String, Value> {
    let mut resources = entry["resources"].as_object().cloned().unwrap_or_default();
    for list in ["limits", "requests"] {
        if let Some(amounts) = resources.get_mut(list).and_then(Value::as_object_mut) {
            amounts.retain(|name, _| Resource::ALL.iter().all(|resource| resource.name() != name));
        }
    }
    resources.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|amounts| !amounts.is_empty()));
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::qos::QosClass;

    fn read(value: Value) -> Resources {
        Resources::of_entry(&json!({"resources": value}))
    }

    #[test]
    fn a_request_that_is_not_named_is_the_limit() {
        let limits = json!({"limits": {"cpu": "1"}, "requests": {"memory": "1Mi"}});
        assert_eq!(read(limits), read(json!({"limits": {"cpu": "1000m"}, "requests": {"cpu": 1, "memory": "1Mi"}})));
    }

    #[test]
    fn the_class_of_a_pod_is_that_of_kubernetes() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let cases = [
            (vec![json!({}), json!({"requests": {"cpu": "0"}})], QosClass::BestEffort),
            (vec![json!({}), json!({"requests": {"cpu": "1"}})], QosClass::Burstable),
            (vec![full.clone(), json!({})], QosClass::Burstable),
            (vec![full.clone(), json!({"limits": {"cpu": "1"}})], QosClass::Burstable),
            (vec![json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0"}})], QosClass::Burstable),
            (vec![full.clone(), full], QosClass::Guaranteed),
        ];
        for (containers, expected) in cases {
            let class = QosClass::of(containers.iter().flat_map(|resources| read(resources.clone()).for_qos()));
            assert_eq!(class, expected, "{containers:?}");
        }
    }

    #[test]
    fn a_kubelet_may_round_memory_down_to_a_page() {
        let wanted = read(json!({"limits": {"memory": "100000001"}}));
        assert!(
            wanted.are_applied(&read(json!({"limits": {"memory": "99999744"}, "requests": {"memory": "100000001"}})))
        );
        assert!(!wanted.are_applied(&read(json!({"limits": {"memory": "64Mi"}, "requests": {"memory": "100000001"}}))));
        assert!(!wanted.are_applied(&Resources::default()));
    }

    #[test]
    fn only_cpu_and_memory_that_stay_named_can_be_resized() {
        let entry = |resources: Value| json!({"name": "a", "resources": resources});
        let before = entry(json!({"limits": {"cpu": "1", "ephemeral-storage": "1Gi"}}));
        for (after, possible) in [
            (json!({"limits": {"cpu": "2", "ephemeral-storage": "1Gi"}}), true),
            (json!({"limits": {"cpu": "2", "ephemeral-storage": "1Gi"}, "requests": {"memory": "1Mi"}}), true),
            (json!({"limits": {"cpu": "2", "ephemeral-storage": "2Gi"}}), false),
            (json!({"limits": {"cpu": "2"}}), false),
            (json!({"limits": {"ephemeral-storage": "1Gi"}}), false),
            (json!({"requests": {"cpu": "1"}, "limits": {"ephemeral-storage": "1Gi"}}), false),
        ] {
            assert_eq!(difference(&before, &entry(after.clone())).is_none(), possible, "{after}");
        }
    }
}
