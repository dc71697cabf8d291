//! What a set can have added to a pod, now or before: only this is taken back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::canonical::canonical;
use crate::api::keys;
use crate::core::revision::Template;

/// What the revisions of a set can have added to a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Of containers.
    pub(super) names: BTreeSet<String>,
    /// By name, in their canonical form.
    pub(super) volumes: BTreeMap<String, Vec<Value>>,
    pub(super) pull_secrets: BTreeSet<String>,
    pub(super) labels: BTreeSet<String>,
    pub(super) annotations: BTreeSet<String>,
    /// Pod-level resources.
    pub(super) resources: bool,
}

impl Known {
    pub(super) fn of<'a>(templates: impl Iterator<Item = &'a Template>) -> Self {
        let mut known = Self { annotations: [keys::DEFAULT_CONTAINER.to_owned()].into(), ..Self::default() };
        for template in templates {
            let name = |entry: &Value| entry["name"].as_str().map(str::to_owned);
            let keys = |entry: &Value, map: &str| -> Vec<String> {
                entry[map].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
            };
            known.names.extend(template.sidecars().flat_map(|sidecar| sidecar.container_names()));
            for volume in template.entries("volumes") {
                let forms = known.volumes.entry(name(volume).unwrap_or_default()).or_default();
                let form = canonical("volumes", volume);
                if !forms.contains(&form) {
                    forms.push(form);
                }
            }
            known.pull_secrets.extend(template.entries("imagePullSecrets").filter_map(name));
            known.labels.extend(template.entries("patchPodMetadata").flat_map(|entry| keys(entry, "labels")));
            known.annotations.extend(template.entries("patchPodMetadata").flat_map(|entry| keys(entry, "annotations")));
            let twins = template.sidecars().filter(|sidecar| sidecar.hot).flat_map(|sidecar| sidecar.container_names());
            let versions =
                |twin| [keys::VERSION_PREFIX, keys::VERSION_ALT_PREFIX].map(|prefix| format!("{prefix}{twin}"));
            known.annotations.extend(twins.flat_map(versions));
            known.resources |= shares_budget(template);
        }
        known
    }
}

pub(super) fn shares_budget(template: &Template) -> bool {
    template.field("resources")["mode"] == "SharedWithPod"
}
