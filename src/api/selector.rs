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
    pub(crate) fn parse(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<Expression> =
            labels.map(|(key, value)| Expression::Equal(key.clone(), value.clone())).collect();
        for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
            let key = requirement.key.clone();
            let values: BTreeSet<String> = requirement.values.iter().flatten().cloned().collect();
            let error = |field: &str, message: &str| SelectorError {
                path: format!("matchExpressions[{i}].{field}"),
                message: message.to_owned(),
            };
            requirements.push(match requirement.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => {
                    return Err(error("values", "must name at least one value for the operators In and NotIn"));
                }
                "In" => Expression::In(key, values),
                "NotIn" => Expression::NotIn(key, values),
                _ if !values.is_empty() => {
                    return Err(error("values", "must be empty for the operators Exists and DoesNotExist"));
                }
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
    for requirement in requirements {
        let values: BTreeSet<&str> = match requirement {
            Expression::Equal(_, value) | Expression::NotEqual(_, value) => BTreeSet::from([value.as_str()]),
            Expression::In(_, values) | Expression::NotIn(_, values) => values.iter().map(String::as_str).collect(),
            Expression::Exists(_) | Expression::DoesNotExist(_) => BTreeSet::new(),
        };
        match requirement {
            Expression::Equal(..) | Expression::In(..) => {
                must_exist = true;
                allowed = Some(allowed.map_or(values.clone(), |before| &before & &values));
            }
            Expression::NotEqual(..) | Expression::NotIn(..) => forbidden.extend(values),
            Expression::Exists(_) => must_exist = true,
            Expression::DoesNotExist(_) => must_be_absent = true,
        }
    }
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
