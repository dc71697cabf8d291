//! One attempt on its way: the pod as it came, the pod as edited, and what is done for each set.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::cleanup::{remove_marks, take_back};
use super::compile::{CompiledContainer, CompiledSet, CompiledTemplate};
use super::decision::{Failure, Outcome};
use super::marks::{Marks, has_sidecars, is_injected};
use super::metadata::{self, Wishes};
use super::patch::{PULL_SECRETS, PatchBuilder, containers, elements, path};
use super::select::{SelectedSet, Selection};
use super::sets::CompiledSets;
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::base::lists::List;
use crate::core::pod::InjectionRecord;

/// The pod, and what is edited.
pub(super) struct Placement<'a> {
    pub(super) patch: PatchBuilder,
    /// The pod's own containers, as it came: not ours, and no other injector's that marks its own like OpenKruise.
    pub(super) own: Vec<(List, &'a Value)>,
    /// Records of sets whose sidecars are left where they are.
    pub(super) kept: BTreeMap<&'a str, &'a InjectionRecord>,
    /// Volumes of sets whose sidecars have been taken back, which other containers still mount.
    pub(super) left_volumes: BTreeSet<&'a str>,
    /// The pod came with pod-level resources that injection did not write.
    pub(super) has_own_pod_level: bool,
    pub(super) sets: Vec<PlacedSet<'a>>,
}

pub(super) struct PlacedSet<'a> {
    pub(super) set: &'a CompiledSet,
    pub(super) template: &'a CompiledTemplate,
    /// What is there of it, if that came from the very revision that the pod gets.
    pub(super) kept: Option<&'a InjectionRecord>,
    pub(super) record: InjectionRecord,
    pub(super) notes: Vec<String>,
}

/// A sidecar as it should be in this pod.
pub(super) struct Sidecar<'a> {
    /// Position of its set in the placement.
    pub(super) set: usize,
    pub(super) container: &'a CompiledContainer,
    pub(super) json: Value,
}

impl<'a> Placement<'a> {
    /// Takes back what copies and forgeries left on the pod and must go: of sets that do not select it, and of other
    /// revisions, as nobody can tell later their old fields from those that others added.
    pub(super) fn new(
        pod: &'a Value,
        marks: &'a Marks,
        selection: &Selection<'a>,
        outcomes: &mut Vec<Outcome>,
    ) -> Self {
        let staying = selection.staying(pod, marks);
        let (mut kept, mut outdated) = (BTreeMap::new(), Vec::new());
        for (set, record) in &marks.records {
            if staying.contains(set.as_str()) && selection.keeps(set, marks) {
                kept.insert(set.as_str(), record);
                continue;
            }
            outdated.push(record);
            if !staying.contains(set.as_str()) && has_sidecars(pod, record) {
                let message = "the pod was copied from one that the set selected";
                outcomes.push(Outcome::new(set, Reason::Removed, message));
            }
        }
        let mut patch = PatchBuilder::new(pod);
        let left_volumes = take_back(&mut patch, &outdated);
        remove_marks(&mut patch, &staying);
        let is_own = |container: &Value| {
            !marks.list_container(container["name"].as_str().unwrap_or_default()) && !is_injected(container)
        };
        let placed = |&SelectedSet { set, template }: &SelectedSet<'a>| PlacedSet {
            set,
            template,
            kept: kept.get(set.name.as_str()).copied(),
            record: InjectionRecord::default(),
            notes: Vec::new(),
        };
        let sets: Vec<PlacedSet<'_>> = selection.candidates.iter().map(placed).collect();
        let own = containers(pod).filter(|(_, container)| is_own(container)).collect();
        let has_own_pod_level = !patch.pod()["spec"]["resources"].is_null()
            && !sets.iter().filter_map(|placed| placed.kept).any(|kept| kept.resources);
        Self { patch, own, kept, left_volumes, has_own_pod_level, sets }
    }

    /// All sidecars of all sets, and the positions of their sets. The start order counts them like this.
    pub(super) fn containers(&self) -> Vec<(usize, &'a CompiledContainer)> {
        let templates = self.sets.iter().map(|placed| placed.template).enumerate();
        templates.flat_map(|(i, template)| template.containers.iter().map(move |container| (i, container))).collect()
    }

    /// The set that injected a container that is there.
    fn owner(&self, container: &str) -> Option<&'a str> {
        let of = |record: &InjectionRecord| record.all_containers().any(|name| name == container);
        self.kept.iter().find(|(_, record)| of(record)).map(|(set, _)| *set)
    }

    pub(super) fn check_names(&self) -> Result<(), Failure<'a>> {
        let mut claimed: BTreeMap<&str, &str> = BTreeMap::new();
        for PlacedSet { set, template, .. } in &self.sets {
            for name in template.containers.iter().map(|container| container.name.as_str()) {
                let existing = containers(self.patch.pod()).map(|(_, c)| c).find(|container| container["name"] == name);
                let owner = self.owner(name);
                let by = match (claimed.get(name).copied().or(owner.filter(|_| existing.is_some())), existing) {
                    (Some(owner), _) if owner == set.name => continue,
                    (Some(other), _) => format!("SidecarSet {other:?}"),
                    (None, None) => continue,
                    (None, Some(container)) if is_injected(container) => {
                        "a sidecar that a deleted SidecarSet or another injector left".to_owned()
                    }
                    (None, Some(_)) => "one of the pod's own containers".to_owned(),
                };
                let message = format!("container name {name:?} is taken by {by}; rename one of them");
                return Err(Failure { set, reason: Reason::NameConflict, message });
            }
            claimed.extend(template.containers.iter().map(|container| (container.name.as_str(), set.name.as_str())));
        }
        Ok(())
    }

    pub(super) fn write_metadata(&mut self, all: &CompiledSets) {
        let wishes = self.sets.iter_mut().enumerate().map(|(set, placed)| Wishes {
            set,
            patches: &placed.template.metadata,
            before: placed.kept,
            record: &mut placed.record,
            notes: &mut placed.notes,
        });
        metadata::write(&mut self.patch, all, &mut wishes.collect::<Vec<_>>());
    }

    /// What the containers of each set need around them, and the marks.
    pub(super) fn finish_sets(&mut self) {
        let mut claimed = BTreeSet::new();
        for set in 0..self.sets.len() {
            self.patch.edit_for(set);
            self.place_volumes(set, &mut claimed);
            let placed = &mut self.sets[set];
            place_pull_secrets(&mut self.patch, placed);
            write_marks(&mut self.patch, placed);
        }
    }

    /// `kubectl logs` and `exec` go to the first container unless told otherwise: keep them at the application. The record
    /// of the set in front says that injection wrote it.
    pub(super) fn name_default_container(&mut self) {
        let lists_it = |record: &InjectionRecord| record.annotations.iter().any(|key| key == keys::DEFAULT_CONTAINER);
        let pod = self.patch.pod();
        let is_set = !pod["metadata"]["annotations"][keys::DEFAULT_CONTAINER].is_null();
        let is_ours = self.sets.iter().any(|placed| placed.kept.is_some_and(lists_it));
        let is_patched = self.sets.iter().any(|placed| lists_it(&placed.record));
        if is_patched || (is_set && !is_ours) {
            return;
        }
        let placed: BTreeMap<&str, usize> =
            self.containers().into_iter().map(|(set, container)| (container.name.as_str(), set)).collect();
        let is_sidecar = |name: &str| placed.contains_key(name) || self.owner(name).is_some();
        let names = elements(pod, &path(List::Ordinary)).filter_map(|container| container["name"].as_str());
        let names: Vec<&str> = names.collect();
        let app = names.iter().find(|name| !is_sidecar(name)).map(|name| Value::from(*name));
        let Some((first, app)) = names.first().filter(|first| is_sidecar(first)).zip(app) else { return };
        if let Some(&set) = placed.get(first) {
            self.sets[set].record.annotations.push(keys::DEFAULT_CONTAINER.to_owned());
            self.patch.edit_for(set);
        }
        if !is_set {
            self.patch.set(&["metadata", "annotations", keys::DEFAULT_CONTAINER], &app);
        }
    }
}

fn place_pull_secrets(patch: &mut PatchBuilder, placed: &mut PlacedSet<'_>) {
    for secret in &placed.template.pull_secrets {
        let name = secret["name"].as_str().unwrap_or_default();
        let is_there = patch.position(&PULL_SECRETS, name).is_some();
        if !is_there {
            patch.insert(&PULL_SECRETS, usize::MAX, secret);
        }
        if !is_there || placed.kept.is_some_and(|kept| kept.image_pull_secrets.iter().any(|listed| listed == name)) {
            placed.record.image_pull_secrets.push(name.to_owned());
        }
    }
}

fn write_marks(patch: &mut PatchBuilder, PlacedSet { set, template, record, .. }: &mut PlacedSet<'_>) {
    record.containers = template.names(List::Ordinary).cloned().collect();
    record.init_containers = template.names(List::Init).cloned().collect();
    record.hot.clone_from(&template.hot);
    record.base.clone_from(&set.base);
    record.hash_without_images.clone_from(&template.hash_without_images);
    for twin in template.containers.iter().filter(|container| container.name != container.entry) {
        let works = template.hot.get(&twin.entry) == Some(&twin.name);
        let (version, other) = if works { ("1", "0") } else { ("0", "1") };
        for (prefix, value) in [(keys::VERSION_PREFIX, version), (keys::VERSION_ALT_PREFIX, other)] {
            let key = format!("{prefix}{}", twin.name);
            patch.set(&["metadata", "annotations", &key], &value.into());
            record.annotations.push(key);
        }
    }
    patch.set(&["metadata", "labels", keys::INJECTED], &"true".into());
    patch.set(&["metadata", "labels", &keys::revision_label(&set.name)], &template.revision.as_str().into());
    patch.set(&["metadata", "annotations", &keys::injection_annotation(&set.name)], &record.to_json().into());
}
