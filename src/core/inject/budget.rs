//! The resources of a whole pod: the budget that sidecars share with the application, and what must not be exceeded or
//! lost.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::place;
use super::decision::Failure;
use super::placement::{PlacedSet, Placement, Sidecar};
use super::resources::{self, PodLevel};
use crate::api::order::Order;
use crate::core::base::lists::List;

impl<'a> Placement<'a> {
    /// Gives the sidecars of `SharedWithPod` sets their resources; returns the pod-level ones and the set to write them.
    pub(super) fn share_budget(
        &self,
        order: &Order,
        sidecars: &mut [Sidecar<'_>],
    ) -> Result<Option<(usize, PodLevel)>, Failure<'a>> {
        let Some(first) = self.sets.iter().position(|placed| placed.template.shares_budget) else {
            return Ok(None);
        };
        // The budget is that of the pod without them, defaults of a re-invocation included. What an init container needs
        // depends on the native sidecars before it, so all must stand where they will: a copy of the pod shows that.
        let mut preview = self.draft.clone();
        place(&mut preview, &self.sets, order, sidecars);
        let sharing = |sidecar: &&mut Sidecar<'_>| self.sets[sidecar.set].template.shares_budget;
        let names: BTreeSet<&str> = sidecars.iter_mut().filter(sharing).map(|it| it.prepared.name.as_str()).collect();
        let pod_level = resources::pod_level(preview.pod(), |name| names.contains(name), self.wrote_resources())
            .map_err(|unfit| self.unfit(first, &unfit))?;
        for sidecar in sidecars.iter_mut().filter(sharing) {
            sidecar.json["resources"] = resources::shared_resources(&sidecar.json, pod_level.resources())
                .map_err(|unfit| self.unfit(first, &unfit))?;
        }
        Ok(Some((first, pod_level)))
    }

    /// Injection wrote the pod-level resources that are there.
    fn wrote_resources(&self) -> bool {
        self.sets.iter().any(|placed| self.marks.by_set.get(&placed.set.name).is_some_and(|mark| mark.resources))
    }

    /// What the apiserver, or `preserveQoS`, would not let pass.
    pub(super) fn check_resources(&self) -> Result<(), Failure<'a>> {
        self.check_pod_level()?;
        self.check_qos()
    }

    /// The sets are added one by one, to tell which of them is too much.
    fn check_pod_level(&self) -> Result<(), Failure<'a>> {
        // Sidecars of paused sets and of other injectors use it up as well.
        let all = names(&self.sets);
        let with = |sets: &[PlacedSet<'_>]| {
            let added = names(sets);
            only(self.draft.pod(), |name| !all.contains(name) || added.contains(name))
        };
        let has_pod_level = !self.draft.pod()["spec"]["resources"].is_null();
        if !has_pod_level || resources::fits_pod_level(&with(&[])).is_err() {
            return Ok(());
        }
        for set in 0..self.sets.len() {
            resources::fits_pod_level(&with(&self.sets[..=set])).map_err(|unfit| self.unfit(set, &unfit))?;
        }
        Ok(())
    }

    fn check_qos(&self) -> Result<(), Failure<'a>> {
        let own: BTreeSet<&str> = self.own_containers().into_iter().filter_map(|(_, c)| c["name"].as_str()).collect();
        for (set, _) in self.sets.iter().enumerate().filter(|(_, placed)| placed.template.preserves_qos) {
            let mut before = only(self.draft.pod(), |name| own.contains(name));
            if self.wrote_resources() || self.raw["spec"]["resources"].is_null() {
                before["spec"]["resources"] = Value::Null;
            }
            let added = names(&self.sets[set..=set]);
            let after = only(self.draft.pod(), |name| own.contains(name) || added.contains(name));
            resources::preserve_qos(&before, &after).map_err(|unfit| self.unfit(set, &unfit))?;
        }
        Ok(())
    }
}

/// Names of the sidecars of some sets.
fn names<'a>(sets: &[PlacedSet<'a>]) -> BTreeSet<&'a str> {
    sets.iter().flat_map(|placed| &placed.template.containers).map(|prepared| prepared.name.as_str()).collect()
}

/// The pod with only these containers.
fn only(pod: &Value, keep: impl Fn(&str) -> bool) -> Value {
    let mut pod = pod.clone();
    for list in List::ALL {
        if let Some(containers) = pod["spec"][list.field()].as_array_mut() {
            containers.retain(|container| keep(container["name"].as_str().unwrap_or_default()));
        }
    }
    pod
}
