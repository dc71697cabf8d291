//! The steps of an injection: what is ours already, what must go, what must come, and where.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compile::{CompiledSet, CompiledSets, Prepared, mounted_volumes};
use super::converge::{converge, covers};
use super::draft::{Draft, elements, strings};
use super::{Outcome, volumes};
use crate::api::keys;
use crate::api::reasons::InjectionReason;
use crate::core::revision::List;

const VOLUMES: [&str; 2] = ["spec", "volumes"];
const PULL_SECRETS: [&str; 2] = ["spec", "imagePullSecrets"];

fn path(list: List) -> [&'static str; 2] {
    ["spec", list.field()]
}

/// Why a set cannot inject into a pod.
pub(super) struct Conflict {
    pub(super) reason: InjectionReason,
    pub(super) message: String,
}

/// What the pod says it got from whom. Believed only for names that a revision of that set knows.
pub(super) struct Marks {
    /// Set by container name.
    containers: BTreeMap<String, String>,
    /// Set by volume name.
    volumes: BTreeMap<String, String>,
    /// Revision by set, from the labels.
    revisions: BTreeMap<String, String>,
    /// Where the next container in front of the application goes, by list.
    front: BTreeMap<List, usize>,
}

impl Marks {
    pub(super) fn read(pod: &Value, sets: &CompiledSets) -> Self {
        let labels = strings(&pod["metadata"]["labels"]);
        let mut marks = Self {
            containers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            revisions: suffixed(&labels, keys::REVISION_PREFIX),
            front: BTreeMap::new(),
        };
        for (name, mark) in suffixed(&strings(&pod["metadata"]["annotations"]), keys::INJECTION_PREFIX) {
            let (Some(set), Ok(mark)) = (sets.get(&name), serde_json::from_str::<Value>(&mark)) else { continue };
            let known = |field: &str| -> Vec<String> {
                let names = mark[field].as_array().into_iter().flatten().filter_map(Value::as_str);
                names.filter(|name| set.known_names.contains(*name)).map(str::to_owned).collect()
            };
            for field in ["containers", "initContainers"] {
                marks.containers.extend(known(field).into_iter().map(|container| (container, name.clone())));
            }
            marks.volumes.extend(known("volumes").into_iter().map(|volume| (volume, name.clone())));
        }
        marks
    }

    fn owns(&self, set: &CompiledSet, container: &str) -> bool {
        self.containers.get(container).is_some_and(|owner| *owner == set.name)
    }
}

fn suffixed(map: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    map.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone()))).collect()
}

/// Removes what copies and forgeries left: sidecars and marks of sets that do not select the pod, containers that their
/// set does not want any more, and records of updates, which a new pod cannot have had.
pub(super) fn remove_strangers(
    draft: &mut Draft,
    marks: &mut Marks,
    sets: &CompiledSets,
    selects: impl Fn(&str) -> bool,
) -> Vec<Outcome> {
    let wanted = |set: &str, container: &str| match sets.get(set) {
        Some(compiled) if selects(set) => {
            compiled.paused || compiled.containers.iter().any(|prepared| prepared.name == container)
        }
        _ => false,
    };
    let gone: Vec<(String, String)> =
        marks.containers.iter().filter(|(name, set)| !wanted(set, name)).map(|(n, s)| (n.clone(), s.clone())).collect();
    for (name, _) in &gone {
        for list in List::ALL {
            draft.remove_named(&path(list), name);
        }
        marks.containers.remove(name);
    }
    remove_volumes(draft, marks, &gone.iter().map(|(_, set)| set.as_str()).collect());
    remove_marks(draft, &selects);
    let mut removed: Vec<String> = gone.into_iter().map(|(_, set)| set).filter(|set| !selects(set)).collect();
    removed.dedup();
    let message = "the pod was copied from one that the set selected";
    let outcome = |set| Outcome { set, reason: InjectionReason::Removed, message: message.to_owned() };
    removed.into_iter().map(outcome).collect()
}

fn remove_volumes(draft: &mut Draft, marks: &mut Marks, owners: &BTreeSet<&str>) {
    let candidates: Vec<String> =
        marks.volumes.iter().filter(|(_, set)| owners.contains(set.as_str())).map(|(name, _)| name.clone()).collect();
    for volume in candidates {
        let mut containers =
            List::ALL.into_iter().flat_map(|list| elements(draft.pod(), &path(list)).collect::<Vec<_>>());
        if !containers.any(|container| mounted_volumes(container).any(|name| name == volume)) {
            draft.remove_named(&VOLUMES, &volume);
            marks.volumes.remove(&volume);
        }
    }
}

fn remove_marks(draft: &mut Draft, selects: &impl Fn(&str) -> bool) {
    for (map, prefixes) in
        [("labels", vec![keys::REVISION_PREFIX]), ("annotations", vec![keys::INJECTION_PREFIX, keys::UPDATE_PREFIX])]
    {
        let present: Vec<String> = strings(&draft.pod()["metadata"][map]).into_keys().collect();
        for key in present {
            let of_stranger = prefixes.iter().any(|prefix| key.strip_prefix(prefix).is_some_and(|set| !selects(set)));
            if of_stranger || key.starts_with(keys::UPDATE_PREFIX) {
                draft.remove(&["metadata", map, &key]);
            }
        }
    }
    let labels = strings(&draft.pod()["metadata"]["labels"]);
    if labels.contains_key(keys::INJECTED) && suffixed(&labels, keys::REVISION_PREFIX).is_empty() {
        draft.remove(&["metadata", "labels", keys::INJECTED]);
    }
}

/// Puts the sidecars of one set into the pod, or nothing at all.
pub(super) fn place(draft: &mut Draft, marks: &mut Marks, set: &CompiledSet) -> Result<(), Conflict> {
    check_names(draft, marks, set)?;
    check_volumes(draft, marks, set)?;
    let current = marks.revisions.get(&set.name) == Some(&set.revision);
    for prepared in &set.containers {
        place_container(draft, marks, set, prepared, current);
    }
    for volume in &set.volumes {
        let name = volume["name"].as_str().unwrap_or_default();
        let ours = current && marks.volumes.get(name).is_some_and(|owner| *owner == set.name);
        place_volume(draft, volume, ours);
    }
    for secret in &set.pull_secrets {
        if draft.position(&PULL_SECRETS, secret["name"].as_str().unwrap_or_default()).is_none() {
            draft.insert(&PULL_SECRETS, usize::MAX, secret);
        }
    }
    let text = |value: &str| Value::from(value);
    draft.set(&["metadata", "labels", keys::INJECTED], &text("true"));
    draft.set(&["metadata", "labels", &keys::revision_label(&set.name)], &text(&set.revision));
    draft.set(&["metadata", "annotations", &keys::injection_annotation(&set.name)], &text(&set.mark));
    Ok(())
}

fn check_names(draft: &Draft, marks: &Marks, set: &CompiledSet) -> Result<(), Conflict> {
    for prepared in &set.containers {
        let taken = List::ALL.into_iter().any(|list| draft.position(&path(list), &prepared.name).is_some());
        if taken && !marks.owns(set, &prepared.name) {
            let by = match marks.containers.get(&prepared.name) {
                Some(other) => format!("SidecarSet {other:?}"),
                None => "one of the pod's own containers".to_owned(),
            };
            let message = format!("container name {:?} is taken by {by}; rename one of them", prepared.name);
            return Err(Conflict { reason: InjectionReason::NameConflict, message });
        }
    }
    Ok(())
}

fn check_volumes(draft: &Draft, marks: &Marks, set: &CompiledSet) -> Result<(), Conflict> {
    for volume in &set.volumes {
        let name = volume["name"].as_str().unwrap_or_default();
        let ours = marks.volumes.get(name).is_some_and(|owner| *owner == set.name);
        let other = elements(draft.pod(), &VOLUMES).find(|existing| existing["name"] == name);
        if other.is_some_and(|existing| !ours && !volumes::same(existing, volume)) {
            let message = format!("the pod has another volume {name:?}; rename one of them or make the two equal");
            return Err(Conflict { reason: InjectionReason::VolumeConflict, message });
        }
    }
    Ok(())
}

/// `current`: what is there came from this very revision. A container of another revision is replaced as a whole, as
/// nobody can tell its old fields from those that others added.
fn place_container(draft: &mut Draft, marks: &mut Marks, set: &CompiledSet, prepared: &Prepared, current: bool) {
    let Prepared { list, name, before_app, json } = prepared;
    for other in List::ALL.into_iter().filter(|other| other != list) {
        draft.remove_named(&path(other), name);
    }
    let front = marks.front.entry(*list).or_default();
    if let Some(index) = draft.position(&path(*list), name) {
        let existing = &draft.pod()["spec"][list.field()][index];
        let wanted = if current { converge(existing, json) } else { (existing != json).then(|| json.clone()) };
        if let Some(wanted) = wanted {
            draft.replace(&path(*list), index, &wanted);
        }
    } else {
        let index = if *before_app { *front } else { usize::MAX };
        draft.insert(&path(*list), index, json);
    }
    if *before_app {
        *front += 1;
    }
    marks.containers.insert(name.clone(), set.name.clone());
}

/// `ours`: what is there came from this very revision, and may have got defaults since.
fn place_volume(draft: &mut Draft, volume: &Value, ours: bool) {
    let name = volume["name"].as_str().unwrap_or_default();
    match draft.position(&VOLUMES, name) {
        None => draft.insert(&VOLUMES, usize::MAX, volume),
        Some(index) => {
            let existing = &draft.pod()["spec"]["volumes"][index];
            if !(volumes::same(existing, volume) || ours && covers(existing, volume, false)) {
                draft.replace(&VOLUMES, index, volume);
            }
        }
    }
}

/// Sets the annotations of `patchPodMetadata`: of several sets that overwrite one key the last by name wins.
pub(super) fn metadata(draft: &mut Draft, sets: &[&CompiledSet]) {
    let mut wanted: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
    for (key, value, overwrite) in sets.iter().flat_map(|set| &set.annotations) {
        if *overwrite || !wanted.contains_key(key.as_str()) {
            wanted.insert(key, (value, *overwrite));
        }
    }
    for (key, (value, overwrite)) in wanted {
        if overwrite || draft.pod()["metadata"]["annotations"][key].is_null() {
            draft.set(&["metadata", "annotations", key], &Value::from(value));
        }
    }
}

/// `kubectl logs` and `exec` go to the first container unless told otherwise: keep them at the application.
pub(super) fn default_container(draft: &mut Draft, marks: &Marks) {
    let containers: Vec<&str> =
        elements(draft.pod(), &path(List::Ordinary)).filter_map(|container| container["name"].as_str()).collect();
    let is_sidecar = |name: &str| marks.containers.contains_key(name);
    let app = containers.iter().find(|name| !is_sidecar(name)).map(|name| Value::from(*name));
    let unset = draft.pod()["metadata"]["annotations"][keys::DEFAULT_CONTAINER].is_null();
    if let Some(app) = app
        && unset
        && containers.first().is_some_and(|first| is_sidecar(first))
    {
        draft.set(&["metadata", "annotations", keys::DEFAULT_CONTAINER], &app);
    }
}

/// A set that could not inject must not look as if it had.
pub(super) fn unmark(draft: &mut Draft, marks: &Marks, set: &CompiledSet) {
    if marks.containers.values().all(|owner| *owner != set.name) {
        remove_marks(draft, &|name: &str| name != set.name);
    }
}
