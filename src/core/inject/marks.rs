//! What injection leaves on a pod to say what it added, and how that is believed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compile::CompiledTemplate;
use super::patch::{VOLUMES, containers, elements, strings};
use super::sets::CompiledSets;
use crate::api::canonical::canonical;
use crate::api::keys;
use crate::core::base::lists::List;
use crate::core::pod::{InjectionRecord, suffixed};

/// The marks on a pod as it came, by set. A pod's author can write anything there, so names and keys are believed only if
/// a revision of that set knows them: a webhook that removed `pod-template-hash` would tear the pod from its owner. A
/// volume is ours only if a known revision would have added this very one.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) records: BTreeMap<String, InjectionRecord>,
    /// From the labels.
    revisions: BTreeMap<String, String>,
}

impl Marks {
    pub(super) fn read(pod: &Value, sets: &CompiledSets) -> Self {
        let mut records = BTreeMap::new();
        let volumes: BTreeMap<&str, &Value> =
            elements(pod, &VOLUMES).filter_map(|volume| Some((volume["name"].as_str()?, volume))).collect();
        for (name, text) in suffixed(&strings(&pod["metadata"]["annotations"]), keys::INJECTION_PREFIX) {
            let (Some(set), Ok(mut record)) = (sets.get(name), serde_json::from_str::<InjectionRecord>(text)) else {
                continue;
            };
            for (listed, known) in [
                (&mut record.containers, &set.known.names),
                (&mut record.init_containers, &set.known.names),
                (&mut record.image_pull_secrets, &set.known.pull_secrets),
                (&mut record.labels, &set.known.labels),
                (&mut record.annotations, &set.known.annotations),
            ] {
                listed.retain(|name| known.contains(name));
            }
            record.replaced.retain(|key, _| set.known.annotations.contains(key));
            // Another volume of that name is the pod's, and may hold its data.
            record.volumes.retain(|name| {
                let known = set.known.volumes.get(name);
                let is_known =
                    |volume: &&Value| known.is_some_and(|known| known.contains(&canonical("volumes", volume)));
                volumes.get(name.as_str()).map_or(known.is_some(), is_known)
            });
            record.resources &= set.known.resources;
            records.insert(name.to_owned(), record);
        }
        let labels = strings(&pod["metadata"]["labels"]);
        let revisions = suffixed(&labels, keys::REVISION_PREFIX).map(|(set, hash)| (set.to_owned(), hash.clone()));
        Self { records, revisions: revisions.collect() }
    }

    /// Whether this very revision of a set was injected.
    pub(super) fn are_of(&self, set: &str, template: &CompiledTemplate) -> bool {
        let has = |listed: &[String], list: List| listed.iter().eq(template.names(list));
        self.revisions.get(set) == Some(&template.revision)
            && self.records.get(set).is_some_and(|record| {
                has(&record.containers, List::Ordinary) && has(&record.init_containers, List::Init)
            })
    }

    /// Whether a set injected a container of this name.
    pub(super) fn list_container(&self, name: &str) -> bool {
        self.records.values().any(|record| record.all_containers().any(|listed| listed == name))
    }
}

pub(super) fn has_sidecars(pod: &Value, record: &InjectionRecord) -> bool {
    containers(pod).any(|(_, container)| record.all_containers().any(|name| container["name"] == name.as_str()))
}

/// Whether a container says that it was injected: by this program, or by OpenKruise, which says the same.
pub(crate) fn is_injected(container: &Value) -> bool {
    elements(container, &["env"]).any(|e| e["name"] == keys::IS_INJECTED && e["value"] == "true")
}
