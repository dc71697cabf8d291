//! `resourcesPolicy`: the resources of a sidecar, computed from those of the application's containers.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::ResourcesError;
use super::amounts::{self, check_quantities};
use crate::api::expression::{Expression, name_pattern};
use crate::api::quantity::{Quantity, Resource};
use crate::api::v1beta1::{ResourcesPolicy, TargetContainersMode};
use crate::core::base::resources::{Amounts, Resources};

/// A policy, ready to be evaluated.
#[derive(Clone, Debug)]
pub(in crate::core::inject) struct Policy {
    /// `None`: every container of the application.
    targets: Option<Regex>,
    mode: TargetContainersMode,
    limits: Vec<(Resource, Expression)>,
    requests: Vec<(Resource, Expression)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core::inject) struct Evaluated {
    pub(in crate::core::inject) resources: Value,
    /// What was corrected.
    pub(in crate::core::inject) warnings: Vec<String>,
}

impl Policy {
    /// `None` if the policy is none that validation accepts.
    pub(in crate::core::inject) fn new(policy: &ResourcesPolicy) -> Option<Self> {
        let ResourcesPolicy { target_containers_mode, target_containers_name_regex, resources_expr } = policy;
        let parse = |texts: &BTreeMap<String, String>| -> Option<Vec<(Resource, Expression)>> {
            let named = Resource::ALL.into_iter().filter_map(|resource| Some((resource, texts.get(resource.name())?)));
            named.map(|(resource, text)| Some((resource, Expression::parse(text, resource).ok()?))).collect()
        };
        Some(Self {
            targets: target_containers_name_regex.as_deref().map(name_pattern).transpose().ok()?,
            mode: *target_containers_mode,
            limits: parse(&resources_expr.limits)?,
            requests: parse(&resources_expr.requests)?,
        })
    }

    /// Computes the resources for a pod. `candidates` are the application's own ordinary containers and native
    /// sidecars; those whose name the policy's pattern finds are the targets.
    ///
    /// A limit that one of the targets lacks is unlimited in sum and in max. An expression that stays unlimited sets no
    /// limit; one that does not depend on the variable is what it says. A missing request counts as 0.
    pub(in crate::core::inject) fn evaluate(&self, candidates: &[&Value]) -> Result<Evaluated, ResourcesError> {
        let targets = self.targets(candidates)?;
        check_quantities(targets.iter().copied())?;
        let mut warnings = Vec::new();
        let mut resources = Resources::default();
        let Resources { limits: Amounts(limits), requests: Amounts(requests) } = &mut resources;
        for (resource, expression) in &self.limits {
            let available: Option<Vec<_>> = targets.iter().map(|target| amounts::limit(target, *resource)).collect();
            let available = available.and_then(|all| self.combine(all));
            let Some(limit) = expression.evaluate(available) else { continue };
            limits.insert(*resource, not_negative(limit, "limits", *resource, &mut warnings));
        }
        for (resource, expression) in &self.requests {
            let all = targets.iter().map(|target| amounts::request(target, *resource).unwrap_or_default());
            let Some(request) = expression.evaluate(self.combine(all.collect())) else { continue };
            let mut request = not_negative(request, "requests", *resource, &mut warnings);
            if let Some(limit) = limits.get(resource).filter(|limit| request > **limit) {
                let name = resource.name();
                let (has, wants) = (limit.canonical(*resource), request.canonical(*resource));
                warnings.push(format!(
                    "resourcesPolicy: requests.{name} {wants} is lowered to the limit {has}: write expressions that keep the request below the limit"
                ));
                request = *limit;
            }
            requests.insert(*resource, request);
        }
        Ok(Evaluated { resources: serde_json::to_value(resources).unwrap_or_default(), warnings })
    }

    fn targets<'a>(&self, candidates: &[&'a Value]) -> Result<Vec<&'a Value>, ResourcesError> {
        let name = |container: &Value| container["name"].as_str().unwrap_or_default().to_owned();
        let wanted = |container: &Value| self.targets.as_ref().is_none_or(|regex| regex.is_match(&name(container)));
        let targets: Vec<&Value> = candidates.iter().copied().filter(|container| wanted(container)).collect();
        if targets.is_empty() {
            let pattern = self.targets.as_ref().map_or(".*", Regex::as_str).to_owned();
            let names = candidates.iter().map(|container| name(container)).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none".to_owned() } else { names };
            return Err(ResourcesError::NoTarget { pattern, names });
        }
        Ok(targets)
    }

    fn combine(&self, amounts: Vec<Quantity>) -> Option<Quantity> {
        match self.mode {
            TargetContainersMode::Sum => amounts.into_iter().reduce(Quantity::plus),
            TargetContainersMode::Max => amounts.into_iter().max(),
        }
    }
}

fn not_negative(amount: Quantity, list: &str, resource: Resource, warnings: &mut Vec<String>) -> Quantity {
    let no_limit = list == "limits" && !amount.is_positive();
    if amount.is_negative() || no_limit {
        let (name, result) = (resource.name(), amount.canonical(resource));
        let means = if no_limit { ", which the kubelet reads as no limit" } else { "" };
        warnings.push(format!(
            "resourcesPolicy: {list}.{name} is {result} for this pod, and 0 is set{means}: write max(…, …) to keep it above 0"
        ));
    }
    amount.max(Quantity::ZERO)
}
