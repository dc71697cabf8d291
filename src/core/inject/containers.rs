//! The sidecars' containers: what each looks like in this pod, and where it goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compile::Prepared;
use super::converge::converge;
use super::decision::Failure;
use super::draft::{Draft, elements, path};
use super::placement::{PlacedSet, Placement, Sidecar};
use super::resources::Unfit;
use super::share::Sources;
use crate::api::order::{Block, Node, Order, order};
use crate::api::reasons::Reason;
use crate::api::v1beta1::FailurePolicy;
use crate::core::base::lists::List;

impl<'a> Placement<'a> {
    /// The start order over all sets; positions are those of [`Self::prepared`].
    pub(super) fn order(&self) -> Result<Order, Failure<'a>> {
        let prepared = self.prepared();
        let node = |(set, prepared): &(usize, &'a Prepared)| Node {
            set: &self.sets[*set].set.name,
            name: &prepared.entry,
            init: prepared.list == List::Init,
            policy: prepared.policy,
            depends_on: &prepared.depends_on,
        };
        let nodes: Vec<Node<'_>> = prepared.iter().map(node).collect();
        order(&nodes).map_err(|error| Failure {
            set: self.sets[prepared[error.node].0].set,
            reason: Reason::OrderConflict,
            message: error.message,
        })
    }

    /// What each sidecar should look like in this pod, with what it takes over and computes from the pod's own containers.
    pub(super) fn render(&mut self, order: &Order) -> Result<Vec<Sidecar<'a>>, Failure<'a>> {
        let own = self.own_containers();
        let list = |list: List| own.iter().filter(|(of, _)| *of == list).map(|(_, container)| *container).collect();
        let sources = Sources { containers: list(List::Ordinary), init_containers: list(List::Init) };
        let targets: Vec<&Value> = own
            .iter()
            .filter(|(of, c)| *of == List::Ordinary || c["restartPolicy"] == "Always")
            .map(|(_, c)| *c)
            .collect();
        let mut sidecars = Vec::new();
        for (set, prepared) in self.prepared() {
            let mut json = prepared.json.clone();
            let mut notes = prepared.shares.apply(&mut json, self.draft.pod(), &sources);
            match prepared.resources.as_ref().map(|policy| policy.evaluate(&targets)) {
                Some(Ok(evaluated)) => {
                    json["resources"] = evaluated.resources;
                    notes.extend(evaluated.warnings.iter().map(|warning| format!("{:?}: {warning}", prepared.name)));
                }
                // No pod is refused because a name is missing, unless the set says so.
                Some(Err(unfit @ Unfit::NoTarget { .. }))
                    if self.sets[set].set.failure_policy == FailurePolicy::Ignore =>
                {
                    notes.push(format!("{:?} gets no resources: {unfit}", prepared.name));
                }
                Some(Err(unfit)) => return Err(self.unfit(set, &unfit)),
                None => {}
            }
            self.sets[set].notes.extend(notes);
            sidecars.push(Sidecar { set, prepared, json });
        }
        for (node, name) in &order.missing {
            let Sidecar { set, prepared, .. } = &sidecars[*node];
            let note = format!("{:?} depends on {name:?}, which this pod does not get", prepared.entry);
            self.sets[*set].notes.push(note);
        }
        Ok(sidecars)
    }
}

/// Puts all sidecars into the pod, each at its place. Returns the positions of the sets for which that changed the pod.
pub(super) fn place(
    draft: &mut Draft,
    sets: &[PlacedSet<'_>],
    order: &Order,
    sidecars: &[Sidecar<'_>],
) -> BTreeSet<usize> {
    let mut changed = BTreeSet::new();
    let mut lifted = lift(draft, sets, order, sidecars, &mut changed);
    // Where the next container in front of the pod's own goes.
    let mut front: BTreeMap<List, usize> = BTreeMap::new();
    for (node, block) in &order.sequence {
        let Sidecar { set, prepared, json } = &sidecars[*node];
        let edits = draft.edits();
        let in_front = matches!(block, Block::InitBefore | Block::Before);
        let at = if in_front { front.get(&prepared.list).copied().unwrap_or(0) } else { usize::MAX };
        let placed = put(draft, prepared, json, lifted.remove(&prepared.name), at);
        if in_front {
            front.insert(prepared.list, placed + 1);
        }
        if draft.edits() > edits {
            changed.insert(*set);
        }
    }
    changed
}

/// Takes out containers of ours that must be placed anew: those of another revision, as nobody can tell their old
/// fields from those that others added, and all where they stand in another order. Returns what the latter were.
fn lift(
    draft: &mut Draft,
    sets: &[PlacedSet<'_>],
    order: &Order,
    sidecars: &[Sidecar<'_>],
    changed: &mut BTreeSet<usize>,
) -> BTreeMap<String, Value> {
    let mut lifted = BTreeMap::new();
    for list in List::ALL {
        let mut ours: Vec<(&Sidecar<'_>, Block)> = Vec::new();
        for (sidecar, block) in order.sequence.iter().map(|(node, block)| (&sidecars[*node], *block)) {
            let Sidecar { set, prepared: container, .. } = sidecar;
            let there = draft.position(&path(container.list), &container.name).is_some();
            // Of another revision, or a second one in the other list.
            let is_outdated = !sets[*set].is_current || container.list != list && there;
            if is_outdated && draft.remove_named(&path(list), &container.name) {
                changed.insert(*set);
            }
            if container.list == list {
                ours.push((sidecar, block));
            }
        }
        let place =
            |(sidecar, block): &(&Sidecar<'_>, Block)| (draft.position(&path(list), &sidecar.prepared.name), *block);
        let places: Vec<(Option<usize>, Block)> = ours.iter().map(place).collect();
        if places.iter().filter_map(|(position, _)| *position).is_sorted() && !is_overtaken(&places) {
            continue;
        }
        for (Sidecar { set, prepared: Prepared { name, .. }, .. }, _) in ours {
            let container = elements(draft.pod(), &path(list)).find(|c| c["name"] == name.as_str()).cloned();
            if let Some(container) = container {
                lifted.insert(name.clone(), container);
                draft.remove_named(&path(list), name);
                changed.insert(*set);
            }
        }
    }
    lifted
}

/// Puts one container where it belongs; returns where that is.
fn put(draft: &mut Draft, prepared: &Prepared, wanted: &Value, lifted: Option<Value>, at: usize) -> usize {
    let list = path(prepared.list);
    if let Some(index) = draft.position(&list, &prepared.name) {
        if let Some(converged) = converge(&draft.pod()["spec"][prepared.list.field()][index], wanted) {
            draft.replace(&list, index, &converged);
        }
        return index;
    }
    let container = lifted.map(|before| converge(&before, wanted).unwrap_or(before));
    draft.insert(&list, at, container.as_ref().unwrap_or(wanted));
    at
}

/// Behind the pod's own containers a new one goes to the end: it would start after those that are there already.
fn is_overtaken(places: &[(Option<usize>, Block)]) -> bool {
    let behind = places.iter().filter(|(_, block)| matches!(block, Block::InitAfter | Block::After));
    behind.skip_while(|(position, _)| position.is_some()).any(|(position, _)| position.is_some())
}
