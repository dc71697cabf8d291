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

use std::sync::Arc;

pub(crate) use conflicts::{Reach, clashes, conflicts};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
pub use metadata::AllowedKeys;
pub(crate) use sidecars::field_reference;
pub(crate) use valid::Selectors;
pub use valid::ValidSidecarSet;

use super::keys;
use super::selector::Selector;
use super::v1beta1::{SidecarSet, SidecarSetSpec};

/// One thing that is wrong, at a field path such as `spec.containers[0].name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(crate) struct FieldError {
    /// The field.
    pub(crate) path: String,
    /// What is wrong and what to write instead.
    pub(crate) message: String,
}

impl FieldError {
    /// An error at a path.
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
///
/// # Errors
/// What is wrong with it.
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
    let pods = selector("spec.selector", &spec.selector, &mut problems.errors);
    let mut optional = |path: &str, value: &Option<LabelSelector>| {
        value.as_ref().map(|value| selector(path, value, &mut problems.errors))
    };
    let namespaces = optional("spec.namespaceSelector", &spec.namespace_selector);
    let upgraded = optional("spec.updateStrategy.selector", &spec.update_strategy.selector);
    containers::check(spec, &mut problems);
    resources::check(spec, &mut problems);
    sidecars::check(spec, &mut problems);
    let weights = update::check(&spec.update_strategy, &mut problems);
    metadata::check(spec, &allowed.metadata_keys, &mut problems.errors);
    resources::check_cluster(spec, allowed.pod_level_resources, &mut problems.errors);
    canary(set, &mut problems.errors);
    pinned_revision(spec, &mut problems.errors);
    job_pods(spec, &pods, &mut problems.warnings);
    if let Some(version) = &spec.custom_version
        && !names::is_label_value(version)
    {
        problems.errors.push(FieldError::new("spec.customVersion", names::LABEL_VALUE));
    }
    (Selectors { pods, namespaces, upgraded, weights }, problems)
}

/// Parses a selector; one that does not parse is an error, and empty. Label syntax is checked because the selectors are
/// written into the webhook configuration, which refuses a bad one.
fn selector(path: &str, selector: &LabelSelector, errors: &mut Vec<FieldError>) -> Selector {
    let parsed = Selector::parse(selector).unwrap_or_else(|error| {
        errors.push(FieldError::new(format!("{path}.{}", error.path), error.message));
        Selector::default()
    });
    for (key, value) in selector.match_labels.iter().flatten() {
        let path = format!("{path}.matchLabels[{key}]");
        if !names::is_qualified_name(key) {
            errors.push(FieldError::new(&path, names::QUALIFIED_NAME));
        }
        if !names::is_label_value(value) {
            errors.push(FieldError::new(&path, names::LABEL_VALUE));
        }
    }
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        if !names::is_qualified_name(&requirement.key) {
            errors.push(FieldError::new(format!("{path}.key"), names::QUALIFIED_NAME));
        }
        if !requirement.values.iter().flatten().all(|value| names::is_label_value(value)) {
            errors.push(FieldError::new(format!("{path}.values"), names::LABEL_VALUE));
        }
    }
    parsed
}

/// A canary names its base by two annotations (OpenKruise's rule); whether the base exists is asked with the others.
fn canary(set: &SidecarSet, errors: &mut Vec<FieldError>) {
    let annotation = |key: &str| set.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let path = |key: &str| format!("metadata.annotations[{key}]");
    match (annotation(keys::CANARY), annotation(keys::BASE)) {
        (Some("true"), None | Some("")) => {
            errors.push(FieldError::new(
                path(keys::BASE),
                "is required on a canary: name the SidecarSet whose place it takes",
            ));
        }
        (Some("true"), base) if base == set.metadata.name.as_deref() => {
            errors.push(FieldError::new(path(keys::BASE), "must not be the set itself"));
        }
        (Some("true"), _) | (None, None) => {}
        (Some(_), _) => errors.push(FieldError::new(path(keys::CANARY), "must be \"true\" or absent")),
        (None, Some(_)) => {
            let message = format!("is for a canary only: add {}: \"true\" or remove it", keys::CANARY);
            errors.push(FieldError::new(path(keys::BASE), message));
        }
    }
}

fn pinned_revision(spec: &SidecarSetSpec, errors: &mut Vec<FieldError>) {
    let Some(revision) = &spec.injection_strategy.revision else { return };
    if revision.revision_name.is_none() && revision.custom_version.is_none() {
        let message = "must name a revision: write revisionName or customVersion";
        errors.push(FieldError::new("spec.injectionStrategy.revision", message));
    }
}

fn job_pods(spec: &SidecarSetSpec, pods: &Selector, warnings: &mut Vec<String>) {
    const JOB_KEYS: [&str; 3] = ["job-name", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"];
    let selects_jobs =
        pods.requirements().iter().any(|r| JOB_KEYS.contains(&super::selector::key(r)) && selector_needs(r));
    if selects_jobs && !spec.containers.is_empty() {
        warnings.push(
            "spec.containers: a Job whose pods get an ordinary sidecar never completes; put it into initContainers with restartPolicy: Always"
                .to_owned(),
        );
    }
}

fn selector_needs(requirement: &kube::core::Expression) -> bool {
    use kube::core::Expression::{Equal, Exists, In};
    matches!(requirement, In(..) | Equal(..) | Exists(_))
}

#[cfg(test)]
mod tests;
