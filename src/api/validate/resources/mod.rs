//! `resourcesPolicy` of a container and `resources` of the set, read with the parser that injection uses.

use k8s_openapi::api::core::v1::Container;

use super::{FieldError, Problems, sidecars};
use crate::api::expression::{Expression, name_pattern};
use crate::api::qos::QosClass;
use crate::api::quantity::{Quantity, Resource};
use crate::api::v1beta1::{ResourcesExpr, ResourcesMode, ResourcesPolicy, SidecarContainer, SidecarSetSpec};

pub(super) fn check(spec: &SidecarSetSpec, problems: &mut Problems) {
    let resources = spec.resources.clone().unwrap_or_default();
    let shares = resources.mode == Some(ResourcesMode::SharedWithPod);
    for (list, i, SidecarContainer { container, resources_policy, .. }) in sidecars::all(spec) {
        let path = format!("spec.{list}[{i}]");
        if let Some(policy) = resources_policy {
            let plain_init = list == "initContainers" && container.restart_policy.as_deref() != Some("Always");
            check_policy(&path, policy, container, plain_init, &mut problems.errors);
        }
        if shares {
            check_shared(&path, container, resources_policy.as_ref(), &mut problems.errors);
        } else if resources.preserve_qos == Some(true) && resources_policy.is_none() && !is_equal(container) {
            problems.warnings.push(format!(
                    "{path}.resources: without equal limits and requests for cpu and memory no Guaranteed pod is injected (spec.resources.preserveQoS): write them, or spec.resources.mode SharedWithPod"
                ));
        }
    }
}

/// A server without pod-level resources would drop the field, and the sidecars would cost the pod what they use.
pub(super) fn check_cluster(spec: &SidecarSetSpec, pod_level_resources: bool, errors: &mut Vec<FieldError>) {
    let mode = spec.resources.as_ref().and_then(|resources| resources.mode);
    if mode == Some(ResourcesMode::SharedWithPod) && !pod_level_resources {
        errors.push(FieldError::new(
            "spec.resources.mode",
            "SharedWithPod needs pod-level resources, which this cluster does not have (Kubernetes 1.34, or 1.32 with the feature gate PodLevelResources): write Additive",
        ));
    }
}

fn check_policy(
    path: &str,
    policy: &ResourcesPolicy,
    container: &Container,
    plain_init: bool,
    errors: &mut Vec<FieldError>,
) {
    let ResourcesPolicy { target_containers_mode: _, target_containers_name_regex, resources_expr } = policy;
    let ResourcesExpr { limits, requests } = resources_expr;
    let mut error = |field: &str, message: String| {
        errors.push(FieldError::new(format!("{path}{field}"), message));
    };
    if plain_init {
        error(
            ".resourcesPolicy",
            "is not allowed on a plain init container: add restartPolicy: Always, or write resources".to_owned(),
        );
    }
    let own = container.resources.as_ref();
    if own.is_some_and(|own| [&own.limits, &own.requests].into_iter().flatten().any(|list| !list.is_empty())) {
        error(".resources", "and resourcesPolicy exclude each other: remove one of them".to_owned());
    }
    if let Some(Err(message)) = target_containers_name_regex.as_deref().map(name_pattern) {
        error(".resourcesPolicy.targetContainersNameRegex", message);
    }
    if limits.is_empty() && requests.is_empty() {
        error(
            ".resourcesPolicy.resourcesExpr",
            "must have at least one expression, for example limits: {cpu: cpu * 50%}".to_owned(),
        );
    }
    for (list, expressions) in [("limits", limits), ("requests", requests)] {
        for (name, text) in expressions {
            let field = format!(".resourcesPolicy.resourcesExpr.{list}.{name}");
            match Resource::ALL.into_iter().find(|resource| resource.name() == name) {
                None => error(&field, "is not computed: write cpu or memory".to_owned()),
                Some(resource) => {
                    if let Err(problem) = Expression::parse(text, resource) {
                        error(&field, problem.to_string());
                    }
                }
            }
        }
    }
}

/// What shares the pod's budget has no requests; its limits may be computed, and are lowered to the budget.
fn check_shared(path: &str, container: &Container, policy: Option<&ResourcesPolicy>, errors: &mut Vec<FieldError>) {
    let own = container.resources.as_ref().and_then(|own| own.requests.as_ref());
    for resource in Resource::ALL {
        let name = resource.name();
        let mut refuse = |field: &str| {
            errors.push(FieldError::new(
                format!("{path}.{field}.requests.{name}"),
                "has no meaning where spec.resources.mode is SharedWithPod: remove it, or write mode Additive",
            ));
        };
        if own.is_some_and(|requests| requests.contains_key(name)) {
            refuse("resources");
        }
        if policy.is_some_and(|policy| policy.resources_expr.requests.contains_key(name)) {
            refuse("resourcesPolicy.resourcesExpr");
        }
    }
}

/// True if a pod can be Guaranteed with this container: a request that is absent becomes the limit.
fn is_equal(container: &Container) -> bool {
    let amount = |limits: bool, resource: Resource| {
        let resources = container.resources.as_ref()?;
        let list = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
        Quantity::parse(&list?.get(resource.name())?.0)
    };
    let amounts = Resource::ALL.map(|resource| {
        let limit = amount(true, resource);
        (amount(false, resource).or(limit), limit)
    });
    QosClass::of(amounts) == QosClass::Guaranteed
}

#[cfg(test)]
mod tests;
