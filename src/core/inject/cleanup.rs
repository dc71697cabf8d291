//! Taking back what sets added to a pod, as their records list it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::patch::{PULL_SECRETS, PatchBuilder, VOLUMES, containers, path, strings};
use crate::api::keys;
use crate::core::base::lists::List;
use crate::core::pod::{InjectionRecord, suffixed};
use crate::core::revision::used_volumes;

/// Removes what these records list. Volumes that other containers still mount stay; returns them.
pub(super) fn take_back<'a>(patch: &mut PatchBuilder, records: &[&'a InjectionRecord]) -> BTreeSet<&'a str> {
    for record in records {
        for (list, names) in [
            (path(List::Ordinary), &record.containers),
            (path(List::Init), &record.init_containers),
            (PULL_SECRETS, &record.image_pull_secrets),
        ] {
            for name in names {
                patch.remove_named(&list, name);
            }
        }
        for (map, added) in [("labels", &record.labels), ("annotations", &record.annotations)] {
            for key in added {
                patch.remove(&["metadata", map, key]);
            }
        }
        for (key, value) in &record.replaced {
            if !patch.pod()["metadata"]["annotations"][key].is_null() {
                patch.set(&["metadata", "annotations", key], &value.as_str().into());
            }
        }
        if record.resources {
            patch.remove(&["spec", "resources"]);
        }
    }
    // Now that all containers are gone: one volume may be mounted by those of several sets.
    let mut volumes: BTreeSet<&str> = records.iter().flat_map(|record| &record.volumes).map(String::as_str).collect();
    volumes.retain(|volume| {
        let stays = is_mounted(patch.pod(), volume);
        if !stays {
            patch.remove_named(&VOLUMES, volume);
        }
        stays
    });
    volumes
}

fn is_mounted(pod: &Value, volume: &str) -> bool {
    containers(pod).any(|(_, container)| used_volumes(container).any(|name| name == volume))
}

/// Removes the marks of sets other than these, and records of updates, which a new pod cannot have had.
pub(super) fn remove_marks(patch: &mut PatchBuilder, staying: &BTreeSet<&str>) {
    for (map, prefix) in [
        ("labels", keys::REVISION_PREFIX),
        ("annotations", keys::INJECTION_PREFIX),
        ("annotations", keys::UPDATE_PREFIX),
    ] {
        for (set, _) in suffixed(&strings(&patch.pod()["metadata"][map]), prefix) {
            if !staying.contains(set) || prefix == keys::UPDATE_PREFIX {
                patch.remove(&["metadata", map, &format!("{prefix}{set}")]);
            }
        }
    }
    let labels = strings(&patch.pod()["metadata"]["labels"]);
    if suffixed(&labels, keys::REVISION_PREFIX).next().is_none() {
        patch.remove(&["metadata", "labels", keys::INJECTED]);
    }
}
