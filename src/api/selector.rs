//! Label selectors: parsed once, matched often, and compared with each other.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Expression, SelectorExt};

/// A parsed label selector. Requirements are ANDed; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    requirements: Vec<Expression>,
}

/// Why a label selector is not valid; `path` is relative to the selector.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {message}")]
pub(crate) struct SelectorError {
    /// For example `matchExpressions[0].values`.
    pub(crate) path: String,
    /// What is wrong and what to write instead.
    pub(crate) message: String,
}

impl Selector {
    /// Parses a selector as Kubernetes does (`metav1.LabelSelectorAsSelector`).
    ///
    /// # Errors
    /// An unknown operator, or values where the operator takes none and the other way round.
    pub(crate) fn parse(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Expression::Equal(key.clone(), value.clone()));
        }
        for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
            let key = requirement.key.clone();
            let values: BTreeSet<String> = requirement.values.iter().flatten().cloned().collect();
            let error = |field: &str, message: &str| SelectorError {
                path: format!("matchExpressions[{i}].{field}"),
                message: message.to_owned(),
            };
            let takes_values = matches!(requirement.operator.as_str(), "In" | "NotIn");
            requirements.push(match requirement.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => {
                    return Err(error("values", "must name at least one value for the operators In and NotIn"));
                }
                _ if !takes_values && !values.is_empty() => {
                    return Err(error("values", "must be empty for the operators Exists and DoesNotExist"));
                }
                "In" => Expression::In(key, values),
                "NotIn" => Expression::NotIn(key, values),
                "Exists" => Expression::Exists(key),
                "DoesNotExist" => Expression::DoesNotExist(key),
                _ => return Err(error("operator", "must be one of In, NotIn, Exists, DoesNotExist")),
            });
        }
        Ok(Self { requirements })
    }

    /// True if the labels satisfy every requirement.
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// The requirements, ANDed.
    pub(crate) fn requirements(&self) -> &[Expression] {
        &self.requirements
    }

    /// True if some set of labels satisfies both selectors. Exact: keys are independent of each other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let all = || self.requirements.iter().chain(&other.requirements);
        let keys: BTreeSet<&str> = all().map(key).collect();
        keys.into_iter().all(|k| satisfiable(all().filter(|requirement| key(requirement) == k)))
    }
}

impl From<Vec<Expression>> for Selector {
    fn from(requirements: Vec<Expression>) -> Self {
        Self { requirements }
    }
}

/// The label key a requirement looks at.
pub(crate) fn key(requirement: &Expression) -> &str {
    match requirement {
        Expression::In(key, _)
        | Expression::NotIn(key, _)
        | Expression::Equal(key, _)
        | Expression::NotEqual(key, _)
        | Expression::Exists(key)
        | Expression::DoesNotExist(key) => key,
    }
}

/// Whether one key can satisfy all these requirements, which are all about it.
fn satisfiable<'a>(requirements: impl Iterator<Item = &'a Expression>) -> bool {
    let mut allowed: Option<BTreeSet<&str>> = None;
    let mut forbidden: BTreeSet<&str> = BTreeSet::new();
    let (mut must_exist, mut must_be_absent) = (false, false);
    let narrow = |allowed: &mut Option<BTreeSet<&'a str>>, values: BTreeSet<&'a str>| {
        *allowed = Some(match allowed.take() {
            Some(before) => before.intersection(&values).copied().collect(),
            None => values,
        });
    };
    for requirement in requirements {
        match requirement {
            Expression::Equal(_, value) => narrow(&mut allowed, BTreeSet::from([value.as_str()])),
            Expression::In(_, values) => narrow(&mut allowed, values.iter().map(String::as_str).collect()),
            Expression::NotEqual(_, value) => {
                forbidden.insert(value);
            }
            Expression::NotIn(_, values) => forbidden.extend(values.iter().map(String::as_str)),
            Expression::Exists(_) => must_exist = true,
            Expression::DoesNotExist(_) => must_be_absent = true,
        }
    }
    must_exist |= allowed.is_some();
    let has_value = allowed.is_none_or(|values| values.iter().any(|value| !forbidden.contains(value)));
    if must_be_absent { !must_exist } else { !must_exist || has_value }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect()),
            }]),
            ..LabelSelector::default()
        }
    }

    fn selector(key: &str, operator: &str, values: &[&str]) -> Selector {
        Selector::parse(&expression(key, operator, values)).unwrap()
    }

    #[test]
    fn exists_overlaps_a_value_but_not_an_absent_key() {
        let value = selector("app", "In", &["web"]);
        assert!(value.overlaps(&selector("tier", "Exists", &[])));
        assert!(value.overlaps(&selector("app", "Exists", &[])));
        assert!(!value.overlaps(&selector("app", "DoesNotExist", &[])));
    }

    #[test]
    fn values_overlap_only_where_they_meet() {
        let web = selector("app", "In", &["web", "api"]);
        assert!(web.overlaps(&selector("app", "In", &["api"])));
        assert!(!web.overlaps(&selector("app", "In", &["db"])));
        assert!(!web.overlaps(&selector("app", "NotIn", &["web", "api"])));
        assert!(web.overlaps(&selector("app", "NotIn", &["web"])));
    }

    #[test]
    fn an_error_names_the_field() {
        let error = Selector::parse(&expression("app", "In", &[])).unwrap_err();
        assert_eq!(error.path, "matchExpressions[0].values");
        let error = Selector::parse(&expression("app", "Like", &[])).unwrap_err();
        assert_eq!(error.path, "matchExpressions[0].operator");
    }
}
