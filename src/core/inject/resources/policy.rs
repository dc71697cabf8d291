//! `resourcesPolicy`: the resources of a sidecar, computed from those of the application's containers.

use regex::Regex;
use serde_json::{Map, Value};

use super::{Unfit, amounts};
use crate::api::expression::{Expression, ExpressionError, name_pattern};
use crate::api::quantity::{Quantity, Resource};
use crate::api::v1beta1::{ResourcesPolicy, TargetContainersMode};

/// A policy, ready to be evaluated.
#[derive(Clone, Debug)]
pub(in crate::core::inject) struct Policy {
    /// `None`: every container of the application.
    targets: Option<Regex>,
    mode: TargetContainersMode,
    limits: Vec<(Resource, Expression)>,
    requests: Vec<(Resource, Expression)>,
}

/// Why a policy cannot be prepared; validation says the same with its full path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::core::inject) enum PolicyError {
    /// The regular expression.
    #[error("resourcesPolicy.targetContainersNameRegex: {0}")]
    Pattern(String),
    /// One of the expressions.
    #[error("resourcesPolicy.resourcesExpr.{field}: {error}")]
    Expression {
        /// `limits.cpu`
        field: String,
        /// What is wrong with it.
        error: ExpressionError,
    },
}

/// What a policy gives for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core::inject) struct Evaluated {
    /// The container's `resources`: `limits` and `requests`, each only if it names something. It takes the place of
    /// what the container has.
    pub(in crate::core::inject) resources: Value,
    /// What was corrected.
    pub(in crate::core::inject) warnings: Vec<String>,
}

impl Policy {
    pub(in crate::core::inject) fn new(policy: &ResourcesPolicy) -> Result<Self, PolicyError> {
        let ResourcesPolicy { target_containers_mode, target_containers_name_regex, resources_expr } = policy;
        let targets = target_containers_name_regex.as_deref().map(name_pattern).transpose();
        let parse = |list: &str, texts: &std::collections::BTreeMap<String, String>| {
            let named = Resource::ALL.into_iter().filter_map(|r| Some((r, texts.get(r.name())?)));
            named
                .map(|(resource, text)| match Expression::parse(text, resource) {
                    Ok(expression) => Ok((resource, expression)),
                    Err(error) => Err(PolicyError::Expression { field: format!("{list}.{}", resource.name()), error }),
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            targets: targets.map_err(PolicyError::Pattern)?,
            mode: *target_containers_mode,
            limits: parse("limits", &resources_expr.limits)?,
            requests: parse("requests", &resources_expr.requests)?,
        })
    }

    /// Computes the resources for a pod. `candidates` are the application's own ordinary containers and native
    /// sidecars; those whose name the policy's pattern finds are the targets.
    ///
    /// A limit that one of the targets lacks is unlimited in sum and in max. An expression that stays unlimited sets no
    /// limit; one that does not depend on the variable is what it says. A missing request counts as 0.
    pub(in crate::core::inject) fn evaluate(&self, candidates: &[&Value]) -> Result<Evaluated, Unfit> {
        let targets = self.targets(candidates)?;
        let mut warnings = Vec::new();
        let (mut limits, mut requests) = (Map::new(), Map::new());
        let mut limited = Vec::new();
        for (resource, expression) in &self.limits {
            let all: Vec<Option<Quantity>> =
                targets.iter().map(|target| amounts::limit(target, *resource)).collect::<Result<_, _>>()?;
            let available = all.into_iter().collect::<Option<Vec<_>>>().and_then(|all| self.combine(all));
            let Some(limit) = expression.evaluate(available) else { continue };
            let limit = not_negative(limit, "limits", *resource, &mut warnings);
            limited.push((*resource, limit));
            limits.insert(resource.name().to_owned(), limit.canonical(*resource).into());
        }
        for (resource, expression) in &self.requests {
            let all: Vec<Option<Quantity>> =
                targets.iter().map(|target| amounts::request(target, *resource)).collect::<Result<_, _>>()?;
            let available = self.combine(all.into_iter().map(Option::unwrap_or_default).collect());
            let Some(request) = expression.evaluate(available) else { continue };
            let mut request = not_negative(request, "requests", *resource, &mut warnings);
            if let Some((_, limit)) = limited.iter().find(|(limited, limit)| limited == resource && request > *limit) {
                let name = resource.name();
                let (has, wants) = (limit.canonical(*resource), request.canonical(*resource));
                warnings.push(format!(
                    "resourcesPolicy: requests.{name} {wants} is lowered to the limit {has}: write expressions that keep the request below the limit"
                ));
                request = *limit;
            }
            requests.insert(resource.name().to_owned(), request.canonical(*resource).into());
        }
        let lists = [("limits", limits), ("requests", requests)].into_iter().filter(|(_, list)| !list.is_empty());
        let resources = lists.map(|(name, list)| (name.to_owned(), Value::Object(list))).collect();
        Ok(Evaluated { resources: Value::Object(resources), warnings })
    }

    fn targets<'a>(&self, candidates: &[&'a Value]) -> Result<Vec<&'a Value>, Unfit> {
        let name = |container: &Value| container["name"].as_str().unwrap_or_default().to_owned();
        let wanted = |container: &Value| self.targets.as_ref().is_none_or(|regex| regex.is_match(&name(container)));
        let targets: Vec<&Value> = candidates.iter().copied().filter(|container| wanted(container)).collect();
        if targets.is_empty() {
            let pattern = self.targets.as_ref().map_or(".*", Regex::as_str).to_owned();
            let names = candidates.iter().map(|container| name(container)).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none".to_owned() } else { names };
            return Err(Unfit::NoTarget { pattern, names });
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
