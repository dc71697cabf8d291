//! One attempt on its way: the pod as it came, the pod as edited, and what is done for each set.

use serde_json::Value;

use super::compile::{CompiledSet, CompiledTemplate, Prepared};
use super::decision::Failure;
use super::draft::{Draft, containers};
use super::marks::{Marks, is_injected};
use super::resources::Unfit;
use super::select::Candidate;
use crate::api::reasons::Reason;
use crate::core::base::lists::List;
use crate::core::pod::InjectionRecord;

/// The pod, and what is edited.
pub(super) struct Placement<'a> {
    /// As it came.
    pub(super) raw: &'a Value,
    pub(super) draft: Draft,
    /// What the pod came with, without what has been cleaned up.
    pub(super) marks: Marks,
    pub(super) sets: Vec<PlacedSet<'a>>,
}

/// What is done for one set.
pub(super) struct PlacedSet<'a> {
    pub(super) set: &'a CompiledSet,
    pub(super) template: &'a CompiledTemplate,
    /// What is there of it came from the very revision that the pod gets.
    pub(super) is_current: bool,
    /// The new mark.
    pub(super) mark: InjectionRecord,
    pub(super) changed: bool,
    pub(super) notes: Vec<String>,
}

/// A sidecar as it should be in this pod.
pub(super) struct Sidecar<'a> {
    /// Position of its set in the placement.
    pub(super) set: usize,
    pub(super) prepared: &'a Prepared,
    pub(super) json: Value,
}

impl<'a> Placement<'a> {
    pub(super) fn new(raw: &'a Value, draft: Draft, marks: Marks, candidates: &[Candidate<'a>]) -> Self {
        let placed = |&Candidate { set, template }: &Candidate<'a>| PlacedSet {
            set,
            template,
            is_current: marks.revisions.get(&set.name) == Some(&template.revision),
            mark: InjectionRecord::default(),
            changed: false,
            notes: Vec::new(),
        };
        let sets = candidates.iter().map(placed).collect();
        Self { raw, draft, marks, sets }
    }

    /// All sidecars of all sets, and the positions of their sets. The start order counts them like this.
    pub(super) fn prepared(&self) -> Vec<(usize, &'a Prepared)> {
        let sets = self.sets.iter().map(|placed| placed.template).enumerate();
        sets.flat_map(|(i, template)| template.containers.iter().map(move |prepared| (i, prepared))).collect()
    }

    /// The pod's own containers, as it came: not ours, and no other injector's that marks its own like OpenKruise.
    pub(super) fn own_containers(&self) -> Vec<(List, &'a Value)> {
        let sidecar = |container: &Value| {
            self.marks.owner(container["name"].as_str().unwrap_or_default()).is_some() || is_injected(container)
        };
        containers(self.raw).filter(|(_, container)| !sidecar(container)).collect()
    }

    /// A volume that came with a set that injects now, or with one whose sidecars are gone: sets may share it.
    pub(super) fn was_added(&self, volume: &str) -> bool {
        let listed = |placed: &PlacedSet<'_>| self.marks.lists(&placed.set.name, volume, |mark| &mark.volumes);
        self.sets.iter().any(listed) || self.marks.orphans.contains(volume)
    }

    pub(super) fn unfit(&self, set: usize, unfit: &Unfit) -> Failure<'a> {
        let reason = match unfit {
            Unfit::NoTarget { .. } => Reason::NoTarget,
            Unfit::QosLost(_) => Reason::QosLost,
            Unfit::NotAQuantity { .. } | Unfit::Windows | Unfit::PodLevelExceeded(_) => Reason::ResourcesConflict,
        };
        Failure { set: self.sets[set].set, reason, message: unfit.to_string() }
    }
}
