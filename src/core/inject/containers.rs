//! The sidecars' containers: what each looks like in this pod, and where it goes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::decision::Failure;
use super::merge::merge;
use super::patch::{PatchBuilder, elements, path};
use super::placement::{Placement, Sidecar};
use super::pod_checks::fit;
use super::resources::ResourcesError;
use super::share::{Sources, drop_mounts_without_variables};
use crate::api::order::{Block, Node, Order, order};
use crate::api::reasons::Reason;
use crate::api::v1beta1::FailurePolicy;
use crate::core::base::lists::List;

impl<'a> Placement<'a> {
    /// The start order over all sets; positions are those of [`Self::containers`].
    pub(super) fn order(&self) -> Result<Order, Failure<'a>> {
        let containers = self.containers();
        let nodes = containers.iter().map(|(set, container)| Node {
            set: &self.sets[*set].set.name,
            name: &container.entry,
            init: container.list == List::Init,
            policy: container.policy,
            depends_on: &container.depends_on,
        });
        order(&nodes.collect::<Vec<_>>()).map_err(|error| Failure {
            set: self.sets[containers[error.node].0].set,
            reason: Reason::OrderConflict,
            message: error.message,
        })
    }

    /// What each sidecar should look like in this pod, with what it takes over and computes from the pod's own containers.
    pub(super) fn render(&mut self, order: &Order) -> Result<Vec<Sidecar<'a>>, Failure<'a>> {
        let list =
            |list: List| self.own.iter().filter(|(of, _)| *of == list).map(|(_, container)| *container).collect();
        let sources = Sources { containers: list(List::Ordinary), init_containers: list(List::Init) };
        let is_target = |(list, container): &&(List, &Value)| is_running(*list, container);
        let targets: Vec<&Value> = self.own.iter().filter(is_target).map(|(_, container)| *container).collect();
        let mut sidecars = Vec::new();
        for (set, container) in self.containers() {
            let mut json = container.json.clone();
            let mut notes = container.shares.apply(&mut json, self.patch.pod(), &sources);
            notes.extend(drop_mounts_without_variables(&mut json));
            let left_out = fit(container.list, &mut json, self.patch.pod());
            notes.extend(left_out.iter().map(|note| format!("{:?}: {note}", container.name)));
            match container.resources.as_ref().map(|policy| policy.evaluate(&targets)) {
                Some(Ok(evaluated)) => {
                    json["resources"] = evaluated.resources;
                    notes.extend(evaluated.warnings.iter().map(|warning| format!("{:?}: {warning}", container.name)));
                }
                // No pod is refused because a name is missing, unless the set says so.
                Some(Err(error @ ResourcesError::NoTarget { .. }))
                    if self.sets[set].set.failure_policy == FailurePolicy::Ignore =>
                {
                    notes.push(format!("{:?} gets no resources: {error}", container.name));
                }
                Some(Err(error)) => return Err(self.resources_failure(set, &error)),
                None => {}
            }
            self.sets[set].notes.extend(notes);
            sidecars.push(Sidecar { set, container, json });
        }
        for (node, name) in &order.missing {
            let Sidecar { set, container, .. } = &sidecars[*node];
            let note = format!("{:?} depends on {name:?}, which this pod does not get", container.entry);
            self.sets[*set].notes.push(note);
        }
        Ok(sidecars)
    }
}

/// Not a plain init container.
fn is_running(list: List, container: &Value) -> bool {
    list == List::Ordinary || container["restartPolicy"] == "Always"
}

/// Puts all sidecars into the pod, each at its place.
pub(super) fn place(patch: &mut PatchBuilder, order: &Order, sidecars: &[Sidecar<'_>]) {
    let sequence: Vec<(&Sidecar<'_>, Block)> =
        order.sequence.iter().map(|(node, block)| (&sidecars[*node], *block)).collect();
    let mut detached = detach(patch, &sequence);
    // Where the next container in front of the pod's own goes.
    let mut front: BTreeMap<List, usize> = BTreeMap::new();
    for (sidecar, block) in sequence {
        let Sidecar { set, container, json } = sidecar;
        let list = path(container.list);
        patch.edit_for(*set);
        let in_front = matches!(block, Block::InitBefore | Block::Before);
        let mut at = if in_front { front.get(&container.list).copied().unwrap_or(0) } else { usize::MAX };
        if let Some(index) = patch.position(&list, &container.name) {
            at = index;
            let before = &patch.pod()["spec"][container.list.field()][index];
            let mut after = before.clone();
            merge(&mut after, json);
            if after != *before {
                patch.replace(&list, index, &after);
            }
        } else if let Some(mut before) = detached.remove(container.name.as_str()) {
            merge(&mut before, json);
            patch.insert(&list, at, &before);
        } else {
            patch.insert(&list, at, json);
        }
        if in_front {
            front.insert(container.list, at + 1);
        }
    }
}

/// Takes out the sidecars of a list in which they stand in another order. Returns what they were.
fn detach<'a>(patch: &mut PatchBuilder, sequence: &[(&Sidecar<'a>, Block)]) -> BTreeMap<&'a str, Value> {
    let mut detached = BTreeMap::new();
    for list in List::ALL {
        let of_list = sequence.iter().filter(|(sidecar, _)| sidecar.container.list == list);
        let place =
            |(sidecar, block): &(&Sidecar<'_>, Block)| (patch.position(&path(list), &sidecar.container.name), *block);
        let places: Vec<(Option<usize>, Block)> = of_list.clone().map(place).collect();
        if places.iter().filter_map(|(position, _)| *position).is_sorted() && !is_overtaken(&places) {
            continue;
        }
        for (sidecar, _) in of_list {
            let name = sidecar.container.name.as_str();
            let container = elements(patch.pod(), &path(list)).find(|container| container["name"] == name).cloned();
            detached.extend(container.map(|container| (name, container)));
            patch.edit_for(sidecar.set);
            patch.remove_named(&path(list), name);
        }
    }
    detached
}

/// Behind the pod's own containers a new one goes to the end: it would start after those that are there already.
fn is_overtaken(places: &[(Option<usize>, Block)]) -> bool {
    let behind = places.iter().filter(|(_, block)| matches!(block, Block::InitAfter | Block::After));
    behind.skip_while(|(position, _)| position.is_some()).any(|(position, _)| position.is_some())
}
