//! The resources of a whole pod: the budget that sidecars share, and what must not be exceeded or lost.

use std::collections::BTreeSet;

use super::containers::place;
use super::decision::Failure;
use super::placement::{PlacedSet, Placement, Sidecar};
use super::resources::{self, ResourcesError};
use crate::api::order::Order;
use crate::api::reasons::Reason;

impl<'a> Placement<'a> {
    /// Gives the sidecars of `SharedWithPod` sets their resources, and the pod the pod-level ones.
    pub(super) fn share_budget(&mut self, order: &Order, sidecars: &mut [Sidecar<'_>]) -> Result<(), Failure<'a>> {
        let Some(first) = self.sets.iter().position(|placed| placed.template.shares_budget) else {
            return Ok(());
        };
        // The budget is that of the pod without them, defaults of a re-invocation included. What an init container needs
        // depends on the native sidecars before it, so all must stand where they will: a copy of the pod shows that.
        let mut preview = self.patch.clone();
        place(&mut preview, order, sidecars);
        let sharing = |sidecar: &&mut Sidecar<'_>| self.sets[sidecar.set].template.shares_budget;
        let names: BTreeSet<&str> = sidecars.iter_mut().filter(sharing).map(|it| it.container.name.as_str()).collect();
        let pod_level = resources::pod_level(preview.pod(), |name: &str| names.contains(name), !self.has_own_pod_level)
            .map_err(|error| self.resources_failure(first, &error))?;
        let resources = pod_level.as_ref().unwrap_or(&self.patch.pod()["spec"]["resources"]);
        for sidecar in sidecars.iter_mut().filter(sharing) {
            sidecar.json["resources"] = resources::shared_resources(&sidecar.json, resources);
        }
        if let Some(resources) = pod_level {
            self.patch.edit_for(first);
            self.patch.set(&["spec", "resources"], &resources);
            self.sets[first].record.resources = true;
        }
        Ok(())
    }

    /// What the apiserver, or `preserveQoS`, would not let pass.
    pub(super) fn check_resources(&self) -> Result<(), Failure<'a>> {
        let own: BTreeSet<&str> = self.own.iter().filter_map(|(_, container)| container["name"].as_str()).collect();
        self.check_pod_level(&own)?;
        for (set, placed) in self.sets.iter().enumerate().filter(|(_, placed)| placed.template.preserves_qos) {
            let added = names(std::slice::from_ref(placed));
            let (own, added) = (|name: &str| own.contains(name), |name: &str| added.contains(name));
            resources::preserve_qos(self.patch.pod(), self.has_own_pod_level, &own, &added)
                .map_err(|error| self.resources_failure(set, &error))?;
        }
        Ok(())
    }

    /// The sets are added one by one, to tell which of them is too much.
    fn check_pod_level(&self, own: &BTreeSet<&str>) -> Result<(), Failure<'a>> {
        // Sidecars of paused sets and of other injectors use it up as well.
        let all = names(&self.sets);
        // What injection wrote stands when the API server derives the rest, from all containers.
        let derives = |name: &str| !self.has_own_pod_level || own.contains(name);
        let fits = |sets: &[PlacedSet<'_>]| {
            let added = names(sets);
            resources::fits_pod_level(self.patch.pod(), &|name| !all.contains(name) || added.contains(name), &derives)
        };
        let has_pod_level = !self.patch.pod()["spec"]["resources"].is_null();
        if !has_pod_level || fits(&self.sets).is_ok() || fits(&[]).is_err() {
            return Ok(());
        }
        for set in 0..self.sets.len() {
            fits(&self.sets[..=set]).map_err(|error| self.resources_failure(set, &error))?;
        }
        Ok(())
    }

    pub(super) fn resources_failure(&self, set: usize, error: &ResourcesError) -> Failure<'a> {
        let reason = match error {
            ResourcesError::NoTarget { .. } => Reason::NoTarget,
            ResourcesError::QosLost(_) => Reason::QosLost,
            ResourcesError::NotAQuantity { .. } | ResourcesError::Windows | ResourcesError::PodLevelExceeded(_) => {
                Reason::ResourcesConflict
            }
        };
        Failure { set: self.sets[set].set, reason, message: error.to_string() }
    }
}

fn names<'a>(sets: &[PlacedSet<'a>]) -> BTreeSet<&'a str> {
    sets.iter().flat_map(|placed| &placed.template.containers).map(|container| container.name.as_str()).collect()
}
