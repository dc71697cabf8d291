//! `resourcesPolicy` of a container and `resources` of the set, read with the parser that injection uses.

use k8s_openapi::api::core::v1::Container;

use super::{At, Problems, sidecars};
use crate::api::expression::{Expression, name_pattern};
use crate::api::qos::QosClass;
use crate::api::quantity::{Quantity, Resource};
use crate::api::v1beta1::{ResourcesExpr, ResourcesMode, ResourcesPolicy, SidecarContainer, SidecarSetSpec};

/// `pod_level_resources`: a server without them would drop the field, and the sidecars would cost the pod what they use.
pub(super) fn check(spec: &SidecarSetSpec, pod_level_resources: bool, problems: &mut Problems) {
    let resources = spec.resources.clone().unwrap_or_default();
    let shares = resources.mode == Some(ResourcesMode::SharedWithPod);
    At::new("spec.resources.mode", &mut problems.errors).refuse_if(
        shares && !pod_level_resources,
        "SharedWithPod needs pod-level resources, which this cluster does not have (Kubernetes 1.34, or 1.32 with the feature gate PodLevelResources): write Additive",
    );
    for (list, i, SidecarContainer { container, resources_policy, .. }) in sidecars::all(spec) {
        let mut at = At::new(format!("spec.{list}[{i}]"), &mut problems.errors);
        if let Some(policy) = resources_policy {
            let is_plain = list == "initContainers" && container.restart_policy.as_deref() != Some("Always");
            check_policy(&mut at, policy, container, is_plain);
        }
        if shares {
            check_shared(&mut at, container, resources_policy.as_ref());
        } else if resources.preserve_qos == Some(true) && resources_policy.is_none() && !is_equal(container) {
            problems.warnings.push(format!(
                "{}.resources: without equal limits and requests for cpu and memory no Guaranteed pod is injected (spec.resources.preserveQoS): write them, or spec.resources.mode SharedWithPod",
                at.path
            ));
        }
    }
}

fn check_policy(at: &mut At<'_>, policy: &ResourcesPolicy, container: &Container, is_plain: bool) {
    let ResourcesPolicy { target_containers_mode: _, target_containers_name_regex, resources_expr } = policy;
    let ResourcesExpr { limits, requests } = resources_expr;
    let own = container.resources.as_ref();
    let has_own =
        own.is_some_and(|own| [&own.limits, &own.requests].into_iter().flatten().any(|list| !list.is_empty()));
    at.at(".resources").refuse_if(has_own, "and resourcesPolicy exclude each other: remove one of them");
    let mut at = at.at(".resourcesPolicy");
    let message = "is not allowed on a plain init container: add restartPolicy: Always, or write resources";
    at.refuse_if(is_plain, message);
    if let Some(Err(message)) = target_containers_name_regex.as_deref().map(name_pattern) {
        at.at(".targetContainersNameRegex").refuse(message);
    }
    let mut at = at.at(".resourcesExpr");
    let message = "must have at least one expression, for example limits: {cpu: cpu * 50%}";
    at.refuse_if(limits.is_empty() && requests.is_empty(), message);
    for (list, expressions) in [("limits", limits), ("requests", requests)] {
        for (name, text) in expressions {
            let mut at = at.at(format_args!(".{list}.{name}"));
            match Resource::ALL.into_iter().find(|resource| resource.name() == name) {
                None => at.refuse("is not computed: write cpu or memory"),
                Some(resource) => {
                    if let Err(problem) = Expression::parse(text, resource) {
                        at.refuse(problem.to_string());
                    }
                }
            }
        }
    }
}

/// What shares the pod's budget has no requests; its limits may be computed, and are lowered to the budget.
fn check_shared(at: &mut At<'_>, container: &Container, policy: Option<&ResourcesPolicy>) {
    let message = "has no meaning where spec.resources.mode is SharedWithPod: remove it, or write mode Additive";
    let own = container.resources.as_ref().and_then(|own| own.requests.as_ref());
    for name in Resource::ALL.map(Resource::name) {
        let is_written = own.is_some_and(|requests| requests.contains_key(name));
        at.at(format_args!(".resources.requests.{name}")).refuse_if(is_written, message);
        let is_computed = policy.is_some_and(|policy| policy.resources_expr.requests.contains_key(name));
        at.at(format_args!(".resourcesPolicy.resourcesExpr.requests.{name}")).refuse_if(is_computed, message);
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
