//! What injection leaves on a pod to say what it added, and how that is believed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::draft::{elements, strings};
use super::sets::CompiledSets;
use crate::api::keys;
use crate::core::pod::InjectionRecord;

/// The marks on a pod as it came, by set. A pod's author can write anything there, so names and keys are believed only if
/// a revision of that set knows them: a webhook that removed `pod-template-hash` would tear the pod from its owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) by_set: BTreeMap<String, InjectionRecord>,
    /// Revision by set, from the labels.
    pub(super) revisions: BTreeMap<String, String>,
    /// Volumes of sets that are gone from the pod, which other containers still mount.
    pub(super) orphans: BTreeSet<String>,
}

impl Marks {
    pub(super) fn read(pod: &Value, sets: &CompiledSets) -> Self {
        let mut by_set = BTreeMap::new();
        for (name, text) in suffixed(&strings(&pod["metadata"]["annotations"]), keys::INJECTION_PREFIX) {
            let (Some(set), Ok(mut mark)) = (sets.get(&name), serde_json::from_str::<InjectionRecord>(&text)) else {
                continue;
            };
            for (listed, known) in [
                (&mut mark.containers, &set.known.names),
                (&mut mark.init_containers, &set.known.names),
                (&mut mark.volumes, &set.known.names),
                (&mut mark.image_pull_secrets, &set.known.pull_secrets),
                (&mut mark.labels, &set.known.labels),
                (&mut mark.annotations, &set.known.annotations),
            ] {
                listed.retain(|name| known.contains(name));
            }
            mark.resources &= set.known.resources;
            by_set.insert(name, mark);
        }
        let revisions = suffixed(&strings(&pod["metadata"]["labels"]), keys::REVISION_PREFIX);
        Self { by_set, revisions, orphans: BTreeSet::new() }
    }

    /// The set that injected a container.
    pub(super) fn owner(&self, container: &str) -> Option<&str> {
        let of = |mark: &InjectionRecord| mark.all_containers().any(|name| name == container);
        self.by_set.iter().find(|(_, mark)| of(mark)).map(|(set, _)| set.as_str())
    }

    /// Whether a set's mark lists a name.
    pub(super) fn lists(&self, set: &str, name: &str, names: impl Fn(&InjectionRecord) -> &Vec<String>) -> bool {
        self.by_set.get(set).is_some_and(|mark| names(mark).iter().any(|listed| listed == name))
    }
}

/// Whether a container says that it was injected: by this program, or by OpenKruise, which says the same.
pub(crate) fn is_injected(container: &Value) -> bool {
    elements(container, &["env"]).any(|e| e["name"] == keys::IS_INJECTED && e["value"] == "true")
}

/// Members of a map whose keys have a prefix, without it.
pub(super) fn suffixed(map: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    map.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone()))).collect()
}
