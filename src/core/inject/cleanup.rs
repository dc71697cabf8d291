//! What copies and forgeries left on a pod and must go: sidecars, volumes, metadata and marks of sets that do not
//! select it, and containers that their set does not want any more.

use std::collections::BTreeSet;

use super::draft::{Draft, PULL_SECRETS, VOLUMES, path, strings};
use super::marks::{Marks, suffixed};
use super::select::Selection;
use super::volumes::is_mounted;
use crate::api::keys;
use crate::core::base::lists::List;
use crate::core::pod::InjectionRecord;

/// Removes them from the pod and from its marks. Returns the sets whose sidecars are gone for good.
pub(super) fn remove(draft: &mut Draft, marks: &mut Marks, selection: &Selection<'_>) -> Vec<String> {
    let staying = selection.staying(draft.pod(), marks);
    let (mut removed, mut changed) = (Vec::new(), BTreeSet::new());
    for (set, mark) in &mut marks.by_set {
        let set_stays = staying.contains(set.as_str());
        let stays = |name: &String| set_stays && selection.wants(set, name);
        let edits = draft.edits();
        if !set_stays || !mark.all_containers().all(stays) {
            changed.insert(set.clone());
        }
        for name in mark.all_containers().filter(|name| !stays(name)) {
            for list in List::ALL {
                draft.remove_named(&path(list), name);
            }
        }
        mark.containers.retain(stays);
        mark.init_containers.retain(stays);
        if !set_stays {
            if draft.edits() > edits {
                removed.push(set.clone());
            }
            added_around(draft, mark);
        }
    }
    // Now that all containers are gone: one volume may be mounted by those of several sets.
    for (set, mark) in marks.by_set.iter_mut().filter(|(set, _)| changed.contains(*set)) {
        mark.volumes.retain(|volume| is_mounted(draft.pod(), volume) || !draft.remove_named(&VOLUMES, volume));
        if !staying.contains(set.as_str()) {
            marks.orphans.extend(mark.volumes.iter().cloned());
        }
    }
    marks.by_set.retain(|set, _| staying.contains(set.as_str()));
    remove_marks(draft, &staying);
    removed
}

/// Removes what a set added beside containers and volumes.
pub(super) fn added_around(draft: &mut Draft, mark: &InjectionRecord) {
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

/// Removes the marks of sets that do not stay, and records of updates, which a new pod cannot have had.
fn remove_marks(draft: &mut Draft, staying: &BTreeSet<&str>) {
    for (map, prefix) in [
        ("labels", keys::REVISION_PREFIX),
        ("annotations", keys::INJECTION_PREFIX),
        ("annotations", keys::UPDATE_PREFIX),
    ] {
        for key in strings(&draft.pod()["metadata"][map]).into_keys() {
            let Some(set) = key.strip_prefix(prefix) else { continue };
            if !staying.contains(set) || prefix == keys::UPDATE_PREFIX {
                draft.remove(&["metadata", map, &key]);
            }
        }
    }
    let labels = strings(&draft.pod()["metadata"]["labels"]);
    if labels.contains_key(keys::INJECTED) && suffixed(&labels, keys::REVISION_PREFIX).is_empty() {
        draft.remove(&["metadata", "labels", keys::INJECTED]);
    }
}
