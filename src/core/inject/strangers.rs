//! What copies and forgeries left on a pod and must go: sidecars, volumes, metadata and marks of sets that do not
//! select it, and containers that their set does not want any more.

use std::collections::BTreeSet;

use super::compile::mounted_volumes;
use super::draft::{Draft, elements, strings};
use super::marks::{Mark, Marks, suffixed};
use super::place::{PULL_SECRETS, VOLUMES, path};
use crate::api::keys;
use crate::core::revision::List;

/// Removes them. `selects`: sets whose marks stay; `wants`: containers of those that stay. Returns the sets whose
/// sidecars are gone for good.
pub(super) fn remove(
    draft: &mut Draft,
    marks: &mut Marks,
    selects: impl Fn(&str) -> bool,
    wants: impl Fn(&str, &str) -> bool,
) -> Vec<String> {
    let (mut removed, mut changed) = (Vec::new(), BTreeSet::new());
    for (set, mark) in &mut marks.by_set {
        let stays = |name: &String| selects(set) && wants(set, name);
        let edits = draft.edits();
        if !selects(set) || !mark.all_containers().all(stays) {
            changed.insert(set.clone());
        }
        for name in mark.all_containers().filter(|name| !stays(name)) {
            for list in List::ALL {
                draft.remove_named(&path(list), name);
            }
        }
        mark.containers.retain(stays);
        mark.init_containers.retain(stays);
        if !selects(set) {
            if draft.edits() > edits {
                removed.push(set.clone());
            }
            added_around(draft, mark);
        }
    }
    // Now that all containers are gone: one volume may be mounted by those of several sets.
    for (set, mark) in marks.by_set.iter_mut().filter(|(set, _)| changed.contains(*set)) {
        mark.volumes.retain(|volume| is_mounted(draft, volume) || !draft.remove_named(&VOLUMES, volume));
        if !selects(set) {
            marks.orphans.extend(mark.volumes.iter().cloned());
        }
    }
    marks.by_set.retain(|set, _| selects(set));
    remove_marks(draft, &selects);
    removed
}

/// Removes what a set added beside containers and volumes.
pub(super) fn added_around(draft: &mut Draft, mark: &Mark) {
    for secret in &mark.image_pull_secrets {
        draft.remove_named(&PULL_SECRETS, secret);
    }
    for (map, added) in [("labels", &mark.labels), ("annotations", &mark.annotations)] {
        for key in added {
            draft.remove(&["metadata", map, key]);
        }
    }
    if mark.resources {
        draft.remove(&["spec", "resources"]);
    }
}

pub(super) fn is_mounted(draft: &Draft, volume: &str) -> bool {
    let mut containers = List::ALL.into_iter().flat_map(|list| elements(draft.pod(), &path(list)).collect::<Vec<_>>());
    containers.any(|container| mounted_volumes(container).any(|name| name == volume))
}

/// Removes the marks of sets that are not selected, and records of updates, which a new pod cannot have had.
fn remove_marks(draft: &mut Draft, selects: &impl Fn(&str) -> bool) {
    for (map, prefix) in [
        ("labels", keys::REVISION_PREFIX),
        ("annotations", keys::INJECTION_PREFIX),
        ("annotations", keys::UPDATE_PREFIX),
    ] {
        let present: BTreeSet<String> = strings(&draft.pod()["metadata"][map]).into_keys().collect();
        for key in present {
            let set = key.strip_prefix(prefix);
            if set.is_some_and(|set| !selects(set) || prefix == keys::UPDATE_PREFIX) {
                draft.remove(&["metadata", map, &key]);
            }
        }
    }
    let labels = strings(&draft.pod()["metadata"]["labels"]);
    if labels.contains_key(keys::INJECTED) && suffixed(&labels, keys::REVISION_PREFIX).is_empty() {
        draft.remove(&["metadata", "labels", keys::INJECTED]);
    }
}
