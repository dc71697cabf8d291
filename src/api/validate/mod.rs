//! What the schema and its CEL rules cannot say about a set.
//!
//! Used by the validating webhook and, because that webhook may be skipped, by the controller again. Every error names
//! the field and what to write instead.

mod conflicts;
mod containers;
mod metadata;
mod names;
mod resources;
mod sidecars;
mod update;
mod valid;

use std::fmt::Display;
use std::sync::Arc;

pub(crate) use conflicts::{Reach, clashes, conflicts};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Expression;
pub use metadata::AllowedKeys;
pub(crate) use sidecars::field_reference;
pub(crate) use valid::Selectors;
pub use valid::ValidSidecarSet;

use super::keys;
use super::selector::Selector;
use super::v1beta1::{JobPods, SidecarSet, SidecarSetSpec};

/// One thing that is wrong, at a field path such as `spec.containers[0].name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(crate) struct FieldError {
    pub(crate) path: String,
    /// What is wrong and what to write instead.
    pub(crate) message: String,
}

/// A field path, and where what is wrong with that field or one in it is collected.
struct At<'a> {
    path: String,
    errors: &'a mut Vec<FieldError>,
}

impl<'a> At<'a> {
    fn new(path: impl Into<String>, errors: &'a mut Vec<FieldError>) -> Self {
        Self { path: path.into(), errors }
    }

    /// A field in this one: `.name`, `[0]`.
    fn at(&mut self, field: impl Display) -> At<'_> {
        At { path: format!("{}{field}", self.path), errors: self.errors }
    }

    fn refuse(&mut self, message: impl Into<String>) {
        self.errors.push(FieldError::new(&self.path, message));
    }

    fn refuse_if(&mut self, is_wrong: bool, message: &str) {
        if is_wrong {
            self.refuse(message);
        }
    }
}

impl FieldError {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// What is wrong with a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", one_line(.errors))]
pub struct Problems {
    /// The set is refused for these.
    pub(crate) errors: Vec<FieldError>,
    /// Legal, but likely not what is wanted.
    pub(crate) warnings: Vec<String>,
}

fn one_line(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What the operator's configuration and the cluster allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Keys that `patchPodMetadata` may set.
    pub metadata_keys: AllowedKeys,
    /// The apiserver keeps pod-level resources, which `SharedWithPod` needs (KEP-2837).
    pub pod_level_resources: bool,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { metadata_keys: AllowedKeys::default(), pod_level_resources: true }
    }
}

/// Checks one set by itself, where everything is allowed.
///
/// # Errors
/// What is wrong with it.
pub fn validate(set: &SidecarSet) -> Result<ValidSidecarSet, Problems> {
    validate_with(Arc::new(set.clone()), &Allowed::default())
}

/// Checks one set by itself.
pub(crate) fn validate_with(set: Arc<SidecarSet>, allowed: &Allowed) -> Result<ValidSidecarSet, Problems> {
    let (selectors, problems) = check(&set, allowed);
    if problems.errors.is_empty() { Ok(ValidSidecarSet::new(set, selectors, problems.warnings)) } else { Err(problems) }
}

/// A set for tests of what validation would not let through.
#[cfg(test)]
pub(crate) fn unchecked(set: &SidecarSet) -> ValidSidecarSet {
    let (selectors, problems) = check(set, &Allowed::default());
    ValidSidecarSet::new(Arc::new(set.clone()), selectors, problems.warnings)
}

fn check(set: &SidecarSet, allowed: &Allowed) -> (Selectors, Problems) {
    let spec = &set.spec;
    let mut problems = Problems::default();
    let pods = selector(At::new("spec.selector", &mut problems.errors), &spec.selector);
    let mut optional = |path: &str, value: &Option<LabelSelector>| {
        value.as_ref().map(|value| selector(At::new(path, &mut problems.errors), value))
    };
    let namespaces = optional("spec.namespaceSelector", &spec.namespace_selector);
    let upgraded = optional("spec.updateStrategy.selector", &spec.update_strategy.selector);
    containers::check(spec, &mut problems);
    resources::check(spec, allowed.pod_level_resources, &mut problems);
    sidecars::check(spec, &mut problems);
    let weights = update::check(&spec.update_strategy, &mut problems);
    metadata::check(spec, &allowed.metadata_keys, &mut problems.errors);
    canary(set, At::new("metadata.annotations", &mut problems.errors));
    job_pods(spec, &pods, &mut problems.warnings);
    let pinned = spec.injection_strategy.revision.as_ref();
    At::new("spec.injectionStrategy.revision", &mut problems.errors).refuse_if(
        pinned.is_some_and(|revision| revision.revision_name.is_none() && revision.custom_version.is_none()),
        "must name a revision: write revisionName or customVersion",
    );
    let has_wrong_version = spec.custom_version.as_ref().is_some_and(|version| !names::is_label_value(version));
    At::new("spec.customVersion", &mut problems.errors).refuse_if(has_wrong_version, names::LABEL_VALUE);
    (Selectors { pods, namespaces, upgraded, weights }, problems)
}

/// Parses a selector; one that does not parse is an error, and empty. Label syntax is checked because the selectors are
/// written into the webhook configuration, which refuses a bad one.
fn selector(mut at: At<'_>, selector: &LabelSelector) -> Selector {
    let parsed = Selector::parse(selector).unwrap_or_else(|error| {
        at.at(format_args!(".{}", error.path)).refuse(error.message);
        Selector::default()
    });
    for (key, value) in selector.match_labels.iter().flatten() {
        let mut at = at.at(format_args!(".matchLabels[{key}]"));
        at.refuse_if(!names::is_qualified_name(key), names::QUALIFIED_NAME);
        at.refuse_if(!names::is_label_value(value), names::LABEL_VALUE);
    }
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let mut at = at.at(format_args!(".matchExpressions[{i}]"));
        at.at(".key").refuse_if(!names::is_qualified_name(&requirement.key), names::QUALIFIED_NAME);
        let are_values = requirement.values.iter().flatten().all(|value| names::is_label_value(value));
        at.at(".values").refuse_if(!are_values, names::LABEL_VALUE);
    }
    parsed
}

/// A canary names its base by two annotations (OpenKruise's rule); whether the base exists is asked with the others.
fn canary(set: &SidecarSet, mut at: At<'_>) {
    let annotation = |key: &str| set.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let (canary, base) = (format!("[{}]", keys::CANARY), format!("[{}]", keys::BASE));
    match (annotation(keys::CANARY), annotation(keys::BASE)) {
        (Some("true"), None | Some("")) => {
            at.at(base).refuse("is required on a canary: name the SidecarSet whose place it takes");
        }
        (Some("true"), named) if named == set.metadata.name.as_deref() => {
            at.at(base).refuse("must not be the set itself");
        }
        (Some("true"), _) | (None, None) => {}
        (Some(_), _) => at.at(canary).refuse("must be \"true\" or absent"),
        (None, Some(_)) => {
            at.at(base).refuse(format!("is for a canary only: add {}: \"true\" or remove it", keys::CANARY));
        }
    }
}

fn job_pods(spec: &SidecarSetSpec, pods: &Selector, warnings: &mut Vec<String>) {
    const JOB_KEYS: [&str; 3] = ["job-name", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"];
    let needs = |requirement: &Expression| match requirement {
        Expression::In(key, _) | Expression::Equal(key, _) | Expression::Exists(key) => {
            JOB_KEYS.contains(&key.as_str())
        }
        _ => false,
    };
    if pods.requirements().iter().any(needs) && !spec.containers.is_empty() && spec.job_pods != Some(JobPods::Native) {
        warnings.push(
            "spec.containers: a Job whose pods get an ordinary sidecar does not complete; write jobPods: Native, or put it into initContainers with restartPolicy: Always"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests;
