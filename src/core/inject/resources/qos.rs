//! The `QoS` class of a pod that is about to be created, and the promise of `preserveQoS`.

use serde_json::Value;

use super::{Unfit, amounts};
use crate::api::qos::QosClass;
use crate::api::quantity::{Quantity, Resource};

/// The class of a pod. `spec.resources`, where there is one, decides alone: even an empty one, seen on 1.36.
///
/// A namespace's `LimitRange` may still give a sidecar limits that it does not name itself.
pub(in crate::core::inject) fn qos(pod: &Value) -> Result<QosClass, Unfit> {
    let spec = &pod["spec"];
    if spec["resources"].is_null() {
        return of_containers(amounts::containers(pod, &|_| true));
    }
    let mut named = Vec::new();
    for resource in Resource::ALL {
        named.push((pod_request(pod, resource)?, amounts::limit(spec, resource)?));
    }
    Ok(QosClass::of(named))
}

/// The request that the apiserver gives a pod with pod-level limits: its own, else that of its containers, else the
/// limit (`defaultPodRequests` in `k8s.io/kubernetes/pkg/apis/core/v1`).
pub(super) fn pod_request(pod: &Value, resource: Resource) -> Result<Option<Quantity>, Unfit> {
    let spec = &pod["spec"];
    let has_limits = spec["resources"]["limits"].as_object().is_some_and(|limits| !limits.is_empty());
    match amounts::read(spec, "requests", resource)? {
        None if has_limits => match amounts::peak(pod, &|_| true, |c| amounts::request(c, resource))? {
            None => amounts::read(spec, "limits", resource),
            request => Ok(request),
        },
        request => Ok(request),
    }
}

/// The class of a pod with these containers, init containers included.
pub(super) fn of_containers<'a>(containers: impl Iterator<Item = &'a Value>) -> Result<QosClass, Unfit> {
    let mut named = Vec::new();
    for container in containers {
        for resource in Resource::ALL {
            named.push((amounts::request(container, resource)?, amounts::limit(container, resource)?));
        }
    }
    Ok(QosClass::of(named))
}

/// Why no pod with this container is Guaranteed.
fn flaw(container: &Value) -> Result<Option<String>, Unfit> {
    for resource in Resource::ALL {
        let (request, limit) = (amounts::request(container, resource)?, amounts::limit(container, resource)?);
        let name = resource.name();
        let written = |amount: Option<Quantity>| amount.map_or("0".to_owned(), |amount| amount.canonical(resource));
        if limit.is_none() {
            return Ok(Some(format!("has no limits.{name}")));
        }
        if request != limit {
            return Ok(Some(format!("has requests.{name} {} and limits.{name} {}", written(request), written(limit))));
        }
    }
    Ok(None)
}

/// Checks the promise of `preserveQoS`: a pod that is Guaranteed `before` the sidecars of a set is so `after`.
/// The error names the first container that breaks it.
pub(in crate::core::inject) fn preserve_qos(before: &Value, after: &Value) -> Result<(), Unfit> {
    if qos(before)? != QosClass::Guaranteed || qos(after)? == QosClass::Guaranteed {
        return Ok(());
    }
    let had = |name: &Value| amounts::containers(before, &|_| true).any(|container| container["name"] == *name);
    let mut cause = "its pod-level resources would change".to_owned();
    for container in amounts::containers(after, &|_| true).filter(|container| !had(&container["name"])) {
        if let Some(flaw) = flaw(container)? {
            let name = container["name"].as_str().unwrap_or_default();
            cause = format!("container {name:?} {flaw}");
            break;
        }
    }
    Err(Unfit::QosLost(format!(
        "the pod is Guaranteed and would not stay so: {cause}; write equal limits and requests for cpu and memory, or spec.resources.mode SharedWithPod"
    )))
}
