//! Limits and requests as Kubernetes reads them, and the `QoS` class that they give a pod.

use serde_json::Value;

use super::ResourcesError;
use crate::api::qos::QosClass;
use crate::api::quantity::{Quantity, Resource};

/// Tells by its name whether a container is counted.
pub(in crate::core::inject) type Counts<'a> = &'a dyn Fn(&str) -> bool;

/// The limit of a container, or of a pod if `owner` is its spec. A limit of 0 is none, as the kubelet reads it.
pub(super) fn limit(owner: &Value, resource: Resource) -> Option<Quantity> {
    read(owner, "limits", resource.name()).filter(|limit| limit.is_positive())
}

/// The request of a container. Without one it is the limit: the apiserver says so before it calls a webhook, but has
/// not seen a template yet (`SetDefaults_Pod` in `k8s.io/kubernetes/pkg/apis/core/v1`).
pub(super) fn request(container: &Value, resource: Resource) -> Option<Quantity> {
    request_of(container, resource.name())
}

/// The same of any resource.
pub(in crate::core::inject) fn request_of(container: &Value, resource: &str) -> Option<Quantity> {
    read(container, "requests", resource).or_else(|| read(container, "limits", resource))
}

/// The request that the apiserver gives a pod with pod-level limits: its own, else that of its containers, else the
/// limit (`defaultPodRequests` in `k8s.io/kubernetes/pkg/apis/core/v1`).
pub(super) fn pod_request(pod: &Value, counts: Counts<'_>, resource: &str) -> Option<Quantity> {
    let spec = &pod["spec"];
    let has_limits = spec["resources"]["limits"].as_object().is_some_and(|limits| !limits.is_empty());
    let of_containers = || peak(pod, counts, |c| request_of(c, resource)).filter(|_| has_limits && !is_huge(resource));
    let of_limit = || pod_limit(pod, counts, resource).filter(|_| has_limits || is_huge(resource));
    read(spec, "requests", resource).or_else(of_containers).or_else(of_limit)
}

/// The limit that it gives a pod with pod-level resources: its own, or of huge pages that of its containers
/// (`defaultHugePagePodLimits`).
pub(super) fn pod_limit(pod: &Value, counts: Counts<'_>, resource: &str) -> Option<Quantity> {
    let spec = &pod["spec"];
    let is_derived = is_huge(resource) && read(spec, "requests", resource).is_none();
    let of_containers = || peak(pod, counts, |c| read(c, "limits", resource)).filter(|_| is_derived);
    read(spec, "limits", resource).or_else(of_containers)
}

pub(super) fn is_huge(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

/// What is written, without any default.
pub(in crate::core::inject) fn read(owner: &Value, list: &str, resource: &str) -> Option<Quantity> {
    Quantity::read(&owner["resources"][list][resource])
}

/// A pod that the apiserver has not seen yet may say anything.
pub(super) fn check_quantities<'a>(owners: impl IntoIterator<Item = &'a Value>) -> Result<(), ResourcesError> {
    for owner in owners {
        for (list, resource) in ["limits", "requests"].into_iter().flat_map(|list| Resource::ALL.map(|r| (list, r))) {
            let value = &owner["resources"][list][resource.name()];
            if !value.is_null() && Quantity::read(value).is_none() {
                return Err(ResourcesError::NotAQuantity {
                    owner: owner["name"].as_str().map_or("the pod".to_owned(), |name| format!("container {name:?}")),
                    field: format!("{list}.{}", resource.name()),
                    text: value.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// The containers of a pod, and its spec, which holds the pod-level ones.
pub(super) fn owners(pod: &Value) -> impl Iterator<Item = &Value> {
    containers(pod, &|_| true).chain([&pod["spec"]])
}

/// All containers of a pod that are counted, in the order in which they start.
pub(super) fn containers<'a>(pod: &'a Value, counts: Counts<'_>) -> impl Iterator<Item = &'a Value> {
    ["initContainers", "containers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .filter(move |container| counts(container["name"].as_str().unwrap_or_default()))
}

/// What the pod needs when it needs most: all that run together, or an init container and the native sidecars in front
/// of it. `None` if no container names an amount. `AggregateContainerRequests` in `k8s.io/component-helpers/resource`.
pub(in crate::core::inject) fn peak(
    pod: &Value,
    counts: Counts<'_>,
    amount: impl Fn(&Value) -> Option<Quantity>,
) -> Option<Quantity> {
    let init = pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
    let (mut running, mut starting): (Option<Quantity>, Option<Quantity>) = (None, None);
    for (index, container) in containers(pod, &|_| true).enumerate() {
        if !counts(container["name"].as_str().unwrap_or_default()) {
            continue;
        }
        let together = running.into_iter().chain(amount(container)).reduce(Quantity::plus);
        if index < init && container["restartPolicy"] != "Always" {
            starting = starting.max(together);
        } else {
            running = together;
        }
    }
    running.max(starting)
}

/// The class of a pod. `spec.resources`, where there is one, decides alone: even an empty one, seen on 1.36.
///
/// A namespace's `LimitRange` may still give a sidecar limits that it does not name itself.
pub(super) fn qos(pod: &Value, counts: Counts<'_>) -> QosClass {
    let spec = &pod["spec"];
    if spec["resources"].is_null() {
        return qos_of_containers(pod, counts);
    }
    QosClass::of(Resource::ALL.map(|resource| (pod_request(pod, counts, resource.name()), limit(spec, resource))))
}

/// The class of a pod without pod-level resources.
pub(super) fn qos_of_containers(pod: &Value, counts: Counts<'_>) -> QosClass {
    let amounts = |container| Resource::ALL.map(|resource| (request(container, resource), limit(container, resource)));
    QosClass::of(containers(pod, counts).flat_map(amounts))
}

/// Checks the promise of `preserveQoS`: a pod that is Guaranteed with its `own` containers is so with those that a set
/// `added`. The error names the first container that breaks it.
pub(in crate::core::inject) fn preserve_qos(
    pod: &Value,
    has_own_pod_level: bool,
    own: Counts<'_>,
    added: Counts<'_>,
) -> Result<(), ResourcesError> {
    check_quantities(owners(pod))?;
    let before = if has_own_pod_level { qos(pod, own) } else { qos_of_containers(pod, own) };
    let after = qos(pod, &|name| own(name) || added(name));
    if before != QosClass::Guaranteed || after == QosClass::Guaranteed {
        return Ok(());
    }
    let flaw = containers(pod, added).find_map(|container| Some((container, flaw(container)?)));
    let cause = flaw.map_or("its pod-level resources would change".to_owned(), |(container, flaw)| {
        format!("container {:?} {flaw}", container["name"].as_str().unwrap_or_default())
    });
    Err(ResourcesError::QosLost(format!(
        "the pod is Guaranteed and would not stay so: {cause}; write equal limits and requests for cpu and memory, or spec.resources.mode SharedWithPod"
    )))
}

/// Why no pod with this container is Guaranteed.
fn flaw(container: &Value) -> Option<String> {
    Resource::ALL.into_iter().find_map(|resource| {
        let name = resource.name();
        let Some(limit) = limit(container, resource) else { return Some(format!("has no limits.{name}")) };
        let request = request(container, resource).unwrap_or_default();
        let (has, wants) = (limit.canonical(resource), request.canonical(resource));
        (request != limit).then(|| format!("has requests.{name} {wants} and limits.{name} {has}"))
    })
}
