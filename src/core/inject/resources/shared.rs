//! `SharedWithPod`: pod-level resources (KEP-2837), one budget for the application and its sidecars.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::ResourcesError;
use super::amounts::{self, Counts, check_quantities, owners, qos_of_containers};
use crate::api::qos::QosClass;
use crate::api::quantity::{Quantity, Resource};

/// Computes the pod-level resources: what Kubernetes computes for the pod without the sidecars that share, so the pod
/// costs and may use as much as before; `None` if what the pod has stays. That is the sum over containers and native sidecars, or what a plain init
/// container needs if that is more; a limit only if every container has one.
///
/// `pod` holds at least the application's containers and the sidecars of `Additive` sets; `shares` tells the names of
/// sidecars that share. A value of the pod's own is kept, unless `ours`: injection wrote it, as the mark says.
pub(in crate::core::inject) fn pod_level(
    pod: &Value,
    shares: impl Fn(&str) -> bool,
    ours: bool,
) -> Result<Option<Value>, ResourcesError> {
    check_quantities(owners(pod))?;
    let existing = &pod["spec"]["resources"];
    let has = |list: &str| existing[list].as_object().is_some_and(|list| !list.is_empty());
    if !ours && (has("limits") || has("requests")) {
        return Ok(None);
    }
    if pod["spec"]["os"]["name"] == "windows" {
        return Err(ResourcesError::Windows);
    }
    let counts: Counts<'_> = &|name| !shares(name);
    let (mut limits, mut requests) = (Map::new(), Map::new());
    let mut positive = false;
    for resource in Resource::ALL {
        let mut insert = |list: &mut Map<String, Value>, amount: Quantity| {
            positive |= amount.is_positive();
            list.insert(resource.name().to_owned(), amount.rounded_up(resource).canonical(resource).into());
        };
        let request = amounts::peak(pod, counts, |container| amounts::request(container, resource));
        // A request of 0 is written: it keeps a BestEffort pod BestEffort when a sidecar has a limit, and the apiserver
        // adds it where there are limits.
        insert(&mut requests, request.unwrap_or_default());
        let limit = |container: &Value| amounts::limit(container, resource);
        let limited = amounts::containers(pod, counts).all(|container| limit(container).is_some());
        if let Some(limit) = amounts::peak(pod, counts, limit).filter(|_| limited) {
            insert(&mut limits, limit);
        }
    }
    if !positive && qos_of_containers(pod, counts) != QosClass::BestEffort {
        // Limits beside explicit requests of 0: pod-level requests of 0 would make the pod BestEffort.
        return Ok(None);
    }
    Ok(Some(with_defaults(existing, limits, requests)))
}

/// Keeps what the apiserver added to a value of ours: huge pages (`defaultHugePagePodLimits`).
fn with_defaults(existing: &Value, limits: Map<String, Value>, requests: Map<String, Value>) -> Value {
    let mut resources = json!({});
    for (name, mut list) in [("limits", limits), ("requests", requests)] {
        let added = existing[name].as_object().into_iter().flatten();
        list.extend(added.filter(|(key, _)| !is_shared(key)).map(|(key, value)| (key.clone(), value.clone())));
        if !list.is_empty() {
            resources[name] = Value::Object(list);
        }
    }
    resources
}

/// The `resources` of a sidecar that shares, from its own and the pod-level ones: of cpu and memory no requests, and
/// limits no higher than the pod's. Other resources stay as they are.
///
/// Both are written out. A request of 0: the apiserver would make it the limit, a `LimitRange` its default, and an HPA
/// misses one that is absent. The limit: a `LimitRange` would give its own, and the apiserver refuses one above the
/// pod's. To the kubelet a container without a limit has the pod's anyway.
pub(in crate::core::inject) fn shared_resources(sidecar: &Value, pod_level: &Value) -> Value {
    let mut resources = if sidecar["resources"].is_object() { sidecar["resources"].clone() } else { json!({}) };
    let pod = json!({"resources": pod_level});
    for resource in Resource::ALL {
        let own = amounts::limit(sidecar, resource);
        let most = amounts::limit(&pod, resource);
        if let Some(limit) = most.filter(|most| own.is_none_or(|own| own > *most)) {
            resources["limits"][resource.name()] = limit.canonical(resource).into();
        }
        resources["requests"][resource.name()] = "0".into();
    }
    resources
}

/// Checks a pod that has pod-level resources as the apiserver will (`validatePodResourceConsistency` in
/// `k8s.io/kubernetes/pkg/apis/core/validation`), so that a set is left out and the pod not refused.
///
/// `derives`: the containers from which it writes what the pod-level resources leave out, before it calls a webhook. A
/// template has not been through that.
pub(in crate::core::inject) fn fits_pod_level(
    pod: &Value,
    counts: Counts<'_>,
    derives: Counts<'_>,
) -> Result<(), ResourcesError> {
    let spec = &pod["spec"];
    if spec["resources"].is_null() {
        return Ok(());
    }
    check_quantities(owners(pod))?;
    let advice = "lower the sidecars' resources, raise the pod's, or write spec.resources.mode SharedWithPod";
    let lists = owners(pod).flat_map(|owner| [&owner["resources"]["limits"], &owner["resources"]["requests"]]);
    let names: BTreeSet<&String> = lists.filter_map(Value::as_object).flat_map(Map::keys).collect();
    // Others cannot be had for a pod.
    for name in names.into_iter().filter(|name| is_shared(name) || amounts::is_huge(name)) {
        let written = |amount: Quantity| amount.canonical(if name == "cpu" { Resource::Cpu } else { Resource::Memory });
        let limit = amounts::pod_limit(pod, derives, name);
        let of_limit = || amounts::pod_request(pod, derives, name).into_iter().chain(limit).min();
        let most = amounts::read(spec, "requests", name).or_else(of_limit);
        let what = if amounts::read(spec, "requests", name).is_none() && most == limit { "limit" } else { "request" };
        let needed = amounts::peak(pod, counts, |container| amounts::request_of(container, name));
        if let (Some(needed), Some(most)) = (needed, most)
            && needed > most
        {
            let (needed, most) = (written(needed), written(most));
            return Err(ResourcesError::PodLevelExceeded(format!(
                "the containers request {needed} of {name}, the pod-level {what} is {most}: {advice}"
            )));
        }
        let Some(most) = limit else { continue };
        for container in spec["containers"].as_array().into_iter().flatten() {
            let container_name = container["name"].as_str().unwrap_or_default();
            if let Some(limit) = amounts::read(container, "limits", name).filter(|limit| *limit > most)
                && counts(container_name)
            {
                let (limit, most) = (written(limit), written(most));
                return Err(ResourcesError::PodLevelExceeded(format!(
                    "container {container_name:?} has the {name} limit {limit}, the pod-level limit is {most}: {advice}"
                )));
            }
        }
    }
    Ok(())
}

/// True for what pod-level resources of ours hold.
fn is_shared(name: &str) -> bool {
    Resource::ALL.into_iter().any(|resource| resource.name() == name)
}
