//! One attempt to put the sidecars of all candidates into a pod, each at its place, or to say which set cannot.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cleanup::{self, added_around};
use super::containers::place;
use super::decision::{Failure, Injection, Outcome};
use super::draft::{Draft, PULL_SECRETS, elements, path};
use super::marks::Marks;
use super::metadata::{self, Wishes};
use super::placement::{PlacedSet, Placement};
use super::resources::PodLevel;
use super::select::Selection;
use super::sets::CompiledSets;
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::base::lists::List;

/// Places everything, or nothing.
pub(super) fn attempt<'a>(
    all: &CompiledSets,
    pod: &'a Value,
    mut marks: Marks,
    selection: &Selection<'a>,
) -> Result<Injection, Failure<'a>> {
    let mut draft = Draft::new(pod);
    let removed = cleanup::remove(&mut draft, &mut marks, selection);
    let mut placement = Placement::new(pod, draft, marks, &selection.candidates);
    placement.check_names()?;
    placement.check_volumes()?;
    let order = placement.order()?;
    placement.forget_older();
    placement.write_metadata(all);
    let mut sidecars = placement.render(&order)?;
    let pod_level = placement.share_budget(&order, &mut sidecars)?;
    for set in place(&mut placement.draft, &placement.sets, &order, &sidecars) {
        placement.sets[set].changed = true;
    }
    placement.write_pod_level(pod_level);
    placement.check_resources()?;
    placement.finish_sets();
    placement.name_default_container();
    let outcomes = outcomes(selection, &removed, placement.sets);
    Ok(Injection { patch: placement.draft.into_patch(), outcomes, refused: None })
}

impl Placement<'_> {
    /// Takes back what another revision added and this one may not want: nobody can tell later whose it is.
    fn forget_older(&mut self) {
        for placed in self.sets.iter_mut().filter(|placed| !placed.is_current) {
            let Some(mark) = self.marks.by_set.get(&placed.set.name) else { continue };
            let edits = self.draft.edits();
            added_around(&mut self.draft, mark);
            placed.changed |= self.draft.edits() > edits;
        }
    }

    /// Before the containers: they may take names from labels and annotations.
    fn write_metadata(&mut self, all: &CompiledSets) {
        let wishes: Vec<Wishes<'_>> = self
            .sets
            .iter()
            .map(|PlacedSet { set, template, .. }| Wishes { set: &set.name, patches: &template.metadata })
            .collect();
        let edits = self.draft.edits();
        let mut written = metadata::write(&mut self.draft, &self.marks, all, &wishes);
        let changed = self.draft.edits() > edits;
        for placed in &mut self.sets {
            let written = written.remove(placed.set.name.as_str()).unwrap_or_default();
            placed.changed |= changed && !(written.labels.is_empty() && written.annotations.is_empty());
            placed.notes.extend(written.notes);
            placed.mark.labels = written.labels;
            placed.mark.annotations = written.annotations;
        }
    }

    fn write_pod_level(&mut self, pod_level: Option<(usize, PodLevel)>) {
        let Some((set, PodLevel::Write(resources))) = pod_level else { return };
        let edits = self.draft.edits();
        self.draft.set(&["spec", "resources"], &resources);
        self.sets[set].changed |= self.draft.edits() > edits;
        self.sets[set].mark.resources = true;
    }

    /// What the containers of each set need around them, and the marks.
    fn finish_sets(&mut self) {
        let mut claimed = BTreeSet::new();
        for set in 0..self.sets.len() {
            let edits = self.draft.edits();
            self.place_volumes(set, &mut claimed);
            self.place_pull_secrets(set);
            self.write_marks(set);
            self.sets[set].changed |= self.draft.edits() > edits;
        }
    }

    fn place_pull_secrets(&mut self, set: usize) {
        let PlacedSet { set, template, mark, .. } = &mut self.sets[set];
        for secret in &template.pull_secrets {
            let name = secret["name"].as_str().unwrap_or_default();
            let there = self.draft.position(&PULL_SECRETS, name).is_some();
            if !there {
                self.draft.insert(&PULL_SECRETS, usize::MAX, secret);
            }
            if !there || self.marks.lists(&set.name, name, |mark| &mark.image_pull_secrets) {
                mark.image_pull_secrets.push(name.to_owned());
            }
        }
    }

    fn write_marks(&mut self, set: usize) {
        let PlacedSet { set, template, mark, .. } = &mut self.sets[set];
        let of = |list: List| template.containers.iter().filter(move |c| c.list == list).map(|c| c.name.clone());
        mark.containers = of(List::Ordinary).collect();
        mark.init_containers = of(List::Init).collect();
        mark.hot.clone_from(&template.hot);
        mark.base.clone_from(&set.base);
        mark.hash_without_images.clone_from(&template.hash_without_images);
        let twins: BTreeSet<&str> =
            template.containers.iter().filter(|c| c.name != c.entry).map(|c| c.name.as_str()).collect();
        for twin in twins {
            let works = template.hot.values().any(|first| first == twin);
            let (version, other) = if works { ("1", "0") } else { ("0", "1") };
            for (prefix, value) in [(keys::VERSION_PREFIX, version), (keys::VERSION_ALT_PREFIX, other)] {
                let key = format!("{prefix}{twin}");
                self.draft.set(&["metadata", "annotations", &key], &Value::from(value));
                mark.annotations.push(key);
            }
        }
        let text = |value: &str| Value::from(value);
        self.draft.set(&["metadata", "labels", keys::INJECTED], &text("true"));
        self.draft.set(&["metadata", "labels", &keys::revision_label(&set.name)], &text(&template.revision));
        self.draft.set(&["metadata", "annotations", &keys::injection_annotation(&set.name)], &text(&mark.to_json()));
    }

    /// `kubectl logs` and `exec` go to the first container unless told otherwise: keep them at the application.
    fn name_default_container(&mut self) {
        let ordinary = path(List::Ordinary);
        let names = elements(self.draft.pod(), &ordinary).filter_map(|container| container["name"].as_str());
        let ours: BTreeSet<&str> =
            self.sets.iter().flat_map(|placed| &placed.template.containers).map(|c| c.name.as_str()).collect();
        let is_sidecar = |name: &str| ours.contains(name) || self.marks.owner(name).is_some();
        let names: Vec<&str> = names.collect();
        let app = names.iter().find(|name| !is_sidecar(name)).map(|name| Value::from(*name));
        let unset = self.draft.pod()["metadata"]["annotations"][keys::DEFAULT_CONTAINER].is_null();
        if let Some(app) = app
            && unset
            && names.first().is_some_and(|first| is_sidecar(first))
        {
            self.draft.set(&["metadata", "annotations", keys::DEFAULT_CONTAINER], &app);
        }
    }
}

/// One per set, by name.
fn outcomes(selection: &Selection<'_>, removed: &[String], placed: Vec<PlacedSet<'_>>) -> Vec<Outcome> {
    let mut outcomes = selection.outcomes.clone();
    let message = "the pod was copied from one that the set selected";
    outcomes.extend(removed.iter().map(|set| Outcome::new(set, Reason::Removed, message)));
    outcomes.extend(selection.failures.iter().map(Failure::outcome));
    for PlacedSet { set, changed, notes, .. } in placed {
        let reason = if changed { Reason::Injected } else { Reason::AlreadyInjected };
        outcomes.push(Outcome { notes, ..Outcome::new(&set.name, reason, "") });
    }
    outcomes.sort_by(|a, b| a.set.cmp(&b.set));
    outcomes
}
