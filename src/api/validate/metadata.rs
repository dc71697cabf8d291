//! `spec.patchPodMetadata`.

use std::collections::BTreeSet;

use super::{At, FieldError, names};
use crate::api::v1beta1::{PatchPodMetadata, PatchPolicy, SidecarSetSpec};

/// Labels by which controllers and Services of Kubernetes find pods: a pod must not be torn from its owner.
const CONTROLLER_KEYS: [&str; 5] =
    ["pod-template-hash", "controller-revision-hash", "pod-template-generation", "job-name", "controller-uid"];
const CONTROLLER_PREFIXES: [&str; 3] = ["statefulset.kubernetes.io/", "batch.kubernetes.io/", "apps.kubernetes.io/"];

const TWICE: &str = "is set twice in this SidecarSet: keep one of them";

/// Annotations that were profiles of containers: they would change the application's, or contradict its fields.
const PROFILE_PREFIXES: [&str; 3] = [
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
];

/// Which keys `patchPodMetadata` may set: patterns in which `*` stands for any text, for example `example.com/*`.
/// Part of the operator's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedKeys(Vec<String>);

impl Default for AllowedKeys {
    fn default() -> Self {
        Self(vec!["*".to_owned()])
    }
}

impl AllowedKeys {
    /// Allows keys that match one of the patterns; none allows every key.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        let patterns: Vec<String> = patterns.into_iter().filter(|pattern| !pattern.is_empty()).collect();
        if patterns.is_empty() { Self::default() } else { Self(patterns) }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|end| tail.is_char_boundary(*end)).any(|end| matches(rest, &tail[end..]))
        }),
    }
}

pub(super) fn check(spec: &SidecarSetSpec, allowed: &AllowedKeys, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    let selected = selector_keys(spec);
    for (i, patch) in spec.patch_pod_metadata.iter().enumerate() {
        let PatchPodMetadata { labels, annotations, patch_policy } = patch;
        let mut at = At::new(format!("spec.patchPodMetadata[{i}]"), errors);
        at.refuse_if(labels.is_empty() && annotations.is_empty(), "must name at least one label or annotation");
        let is_json = *patch_policy == Some(PatchPolicy::MergePatchJson);
        for (key, value) in labels {
            let mut at = at.at(format_args!(".labels[{key}]"));
            check_key(&mut at, "labels", key, allowed);
            at.refuse_if(
                selected.contains(key),
                "is a label that this SidecarSet selects by: setting it would change what is selected; choose another key",
            );
            at.refuse_if(!names::is_label_value(value), names::LABEL_VALUE);
            at.refuse_if(is_json, "a label cannot hold JSON: use Retain or Overwrite for labels");
            at.refuse_if(!seen.insert(("labels", key)), TWICE);
        }
        for (key, value) in annotations {
            let mut at = at.at(format_args!(".annotations[{key}]"));
            check_key(&mut at, "annotations", key, allowed);
            let is_wrong = is_json && serde_json::from_str::<serde_json::Value>(value).is_err();
            at.refuse_if(is_wrong, "must be JSON, as patchPolicy is MergePatchJson");
            at.refuse_if(!seen.insert(("annotations", key)), TWICE);
        }
    }
}

fn check_key(at: &mut At<'_>, map: &str, key: &str, allowed: &AllowedKeys) {
    let controllers =
        CONTROLLER_KEYS.contains(&key) || CONTROLLER_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    if !names::is_qualified_name(key) {
        at.refuse(names::QUALIFIED_NAME);
    } else if names::is_own(key) {
        at.refuse("keys of sidecarset.dev are written by the operator only: choose another key");
    } else if map == "labels" && controllers {
        at.refuse("is a label by which Kubernetes' controllers find their pods: choose another key");
    } else if map == "annotations" && PROFILE_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        at.refuse("is a profile of AppArmor or seccomp for containers of the application: write securityContext.appArmorProfile or seccompProfile into the sidecars");
    } else if !allowed.0.iter().any(|pattern| matches(pattern, key)) {
        at.refuse(format!(
            "is not allowed: the operator's --pod-metadata-keys allows {}; choose such a key or have it added there",
            allowed.0.join(", ")
        ));
    }
}

/// Label keys that decide what the set does with a pod.
pub(super) fn selector_keys(spec: &SidecarSetSpec) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for selector in [Some(&spec.selector), spec.update_strategy.selector.as_ref()].into_iter().flatten() {
        keys.extend(selector.match_labels.iter().flatten().map(|(key, _)| key.clone()));
        keys.extend(selector.match_expressions.iter().flatten().map(|requirement| requirement.key.clone()));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, key, expected) in [
            ("*", "a.b/c", true),
            ("example.com/*", "example.com/x", true),
            ("example.com/*", "example.org/x", false),
            ("*/team", "a.b/team", true),
            ("*/team", "a.b/teams", false),
            ("a*b*c", "a-b-b-c", true),
            ("team", "team", true),
            ("team", "teams", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }
}
