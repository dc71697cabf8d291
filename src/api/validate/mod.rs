//! What the schema and its CEL rules cannot say about a set.
//!
//! Used by the validating webhook and, because that webhook may be skipped, by the controller again. Every error names
//! the field and what to write instead.

mod containers;
mod names;
mod resources;
mod unsupported;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use super::selector::Selector;
use super::v1beta1::{PatchPodMetadata, SidecarSet, SidecarSetSpec};

/// One thing that is wrong, at a field path such as `spec.containers[0].name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The field.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl FieldError {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// The result of looking at one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The set is refused for these.
    pub errors: Vec<FieldError>,
    /// Legal, but likely not what is wanted.
    pub warnings: Vec<String>,
}

impl Report {
    /// All errors in one line, or `None` if there are none.
    pub fn message(&self) -> Option<String> {
        (!self.errors.is_empty()).then(|| self.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}

/// Checks one set by itself.
pub fn validate(set: &SidecarSet) -> Report {
    let spec = &set.spec;
    let mut report = Report::default();
    unsupported::check(set, &mut report.errors);
    selector("spec.selector", &spec.selector, &mut report.errors);
    for (path, value) in [
        ("spec.namespaceSelector", &spec.namespace_selector),
        ("spec.updateStrategy.selector", &spec.update_strategy.selector),
    ] {
        if let Some(value) = value {
            selector(path, value, &mut report.errors);
        }
    }
    containers::check(spec, &mut report);
    resources::check(spec, &mut report);
    metadata(spec, &mut report.errors);
    job_pods(spec, &mut report.warnings);
    if let Some(version) = &spec.custom_version
        && !names::is_label_value(version)
    {
        report.errors.push(FieldError::new("spec.customVersion", names::LABEL_VALUE));
    }
    report
}

/// Names that `set` shares with another set on the same pods. Both sets must be valid by themselves.
pub fn conflicts<'a>(set: &SidecarSet, others: impl IntoIterator<Item = &'a SidecarSet>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for other in others {
        if other.name_any() != set.name_any() && overlap(&set.spec, &other.spec) {
            shared_names(set, other, &mut errors);
        }
    }
    errors
}

fn overlap(a: &SidecarSetSpec, b: &SidecarSetSpec) -> bool {
    let meet = |a: &LabelSelector, b: &LabelSelector| match (Selector::parse(a), Selector::parse(b)) {
        (Ok(a), Ok(b)) => a.overlaps(&b),
        _ => false,
    };
    let namespaces = match (&a.namespace_selector, &b.namespace_selector) {
        (Some(a), Some(b)) => meet(a, b),
        _ => true,
    };
    namespaces && meet(&a.selector, &b.selector)
}

fn shared_names(set: &SidecarSet, other: &SidecarSet, errors: &mut Vec<FieldError>) {
    let taken: Vec<&str> =
        other.spec.containers.iter().chain(&other.spec.init_containers).map(|c| c.container.name.as_str()).collect();
    let name = other.name_any();
    for (list, containers) in [("initContainers", &set.spec.init_containers), ("containers", &set.spec.containers)] {
        for (i, c) in containers.iter().enumerate() {
            if taken.contains(&c.container.name.as_str()) {
                errors.push(FieldError::new(
                    format!("spec.{list}[{i}].name"),
                    format!(
                        "SidecarSet {name:?} selects some of the same pods and has a container {:?}: choose another name, or selectors that do not overlap",
                        c.container.name
                    ),
                ));
            }
        }
    }
    for (i, volume) in set.spec.volumes.iter().enumerate() {
        if other.spec.volumes.iter().any(|v| v.name == volume.name && v != volume) {
            errors.push(FieldError::new(
                format!("spec.volumes[{i}].name"),
                format!(
                    "SidecarSet {name:?} selects some of the same pods and has another volume {:?}: choose another name, or make the two equal",
                    volume.name
                ),
            ));
        }
    }
}

/// Label syntax is checked because the selectors are written into the webhook configuration, which refuses a bad one.
fn selector(path: &str, selector: &LabelSelector, errors: &mut Vec<FieldError>) {
    if let Err(error) = Selector::parse(selector) {
        errors.push(FieldError::new(format!("{path}.{}", error.path), error.message));
    }
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
}

fn metadata(spec: &SidecarSetSpec, errors: &mut Vec<FieldError>) {
    let mut seen = std::collections::BTreeSet::new();
    for (i, patch) in spec.patch_pod_metadata.iter().enumerate() {
        let PatchPodMetadata { labels: _, annotations, patch_policy: _ } = patch;
        let path = format!("spec.patchPodMetadata[{i}].annotations");
        if annotations.is_empty() {
            errors.push(FieldError::new(&path, "must name at least one annotation"));
        }
        for key in annotations.keys() {
            let path = format!("{path}[{key}]");
            if !names::is_qualified_name(key) {
                errors.push(FieldError::new(&path, names::QUALIFIED_NAME));
            } else if names::is_own(key) {
                errors.push(FieldError::new(
                    &path,
                    "keys of sidecarset.dev are written by the operator only: choose another key",
                ));
            }
            if !seen.insert(key) {
                errors.push(FieldError::new(&path, "is set twice in this SidecarSet: keep one of them"));
            }
        }
    }
}

fn job_pods(spec: &SidecarSetSpec, warnings: &mut Vec<String>) {
    const JOB_KEYS: [&str; 3] = ["job-name", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"];
    let Ok(selector) = Selector::parse(&spec.selector) else { return };
    let selects_jobs =
        selector.requirements().iter().any(|r| JOB_KEYS.contains(&super::selector::key(r)) && selector_needs(r));
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
