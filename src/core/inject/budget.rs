//! The resources of a whole pod: the budget that sidecars share with the application, and what must not be exceeded or
//! lost.

use std::collections::BTreeSet;

use serde_json::Value;

use super::place::{Candidate, Done, Failure, Placement, Rendered};
use super::resources::{self, PodLevel, Unfit};
use crate::api::order::Order;
use crate::api::reasons::InjectionReason;
use crate::core::revision::List;

impl<'a> Placement<'a> {
    /// Gives the sidecars of `SharedWithPod` sets their resources; returns the pod-level ones and the set to write them.
    pub(super) fn share_budget(
        &self,
        order: &Order,
        wanted: &mut [Rendered<'_>],
    ) -> Result<Option<(usize, PodLevel)>, Failure> {
        let Some(first) = self.candidates.iter().position(|candidate| candidate.template.shares_budget) else {
            return Ok(None);
        };
        // The budget is that of the pod without them, defaults of a re-invocation included.
        let mut preview = Placement { draft: self.draft.clone(), marks: self.marks.clone(), ..*self };
        preview.containers(order, wanted, &mut vec![Done::default(); self.candidates.len()]);
        let sharing = |rendered: &&mut Rendered<'_>| self.candidates[rendered.candidate].template.shares_budget;
        let names: BTreeSet<String> = wanted.iter_mut().filter(sharing).map(|r| r.prepared.name.clone()).collect();
        let unfit = |unfit: Unfit| failure(first, &unfit);
        let pod_level = resources::pod_level(preview.draft.pod(), |name| names.contains(name), self.wrote_resources())
            .map_err(unfit)?;
        for rendered in wanted.iter_mut().filter(sharing) {
            rendered.json["resources"] =
                resources::shared_resources(&rendered.json, pod_level.resources()).map_err(unfit)?;
        }
        Ok(Some((first, pod_level)))
    }

    /// Injection wrote the pod-level resources that are there.
    fn wrote_resources(&self) -> bool {
        self.candidates.iter().any(|c| self.marks.by_set.get(&c.set.name).is_some_and(|mark| mark.resources))
    }

    /// What the apiserver, or `preserveQoS`, would not let pass.
    pub(super) fn check_resources(&self) -> Result<(), Failure> {
        let pod_level = &self.draft.pod()["spec"]["resources"];
        let own: BTreeSet<&str> = self.own_containers().into_iter().filter_map(|(_, c)| c["name"].as_str()).collect();
        let names = |candidates: &'a [Candidate<'a>]| -> BTreeSet<&str> {
            candidates.iter().flat_map(|c| &c.template.containers).map(|c| c.name.as_str()).collect()
        };
        let with = |names: &BTreeSet<&str>| only(self.draft.pod(), |name| own.contains(name) || names.contains(name));
        // Sidecars of paused sets and of other injectors use it up as well.
        let all = names(self.candidates);
        let there = |names: &BTreeSet<&str>| only(self.draft.pod(), |n| !all.contains(n) || names.contains(n));
        if !pod_level.is_null() && resources::fits_pod_level(&there(&BTreeSet::new())).is_ok() {
            for candidate in 0..self.candidates.len() {
                let pod = there(&names(&self.candidates[..=candidate]));
                resources::fits_pod_level(&pod).map_err(|unfit| failure(candidate, &unfit))?;
            }
        }
        for (i, _) in self.candidates.iter().enumerate().filter(|(_, c)| c.template.preserves_qos) {
            let mut before = with(&BTreeSet::new());
            if self.wrote_resources() || self.raw["spec"]["resources"].is_null() {
                before["spec"]["resources"] = Value::Null;
            }
            let after = with(&names(&self.candidates[i..=i]));
            resources::preserve_qos(&before, &after).map_err(|unfit| failure(i, &unfit))?;
        }
        Ok(())
    }
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

pub(super) fn failure(candidate: usize, unfit: &Unfit) -> Failure {
    let reason = match unfit {
        Unfit::NoTarget { .. } => InjectionReason::NoTarget,
        Unfit::QosLost(_) => InjectionReason::QosLost,
        Unfit::NotAQuantity { .. } | Unfit::Windows | Unfit::PodLevelExceeded(_) => InjectionReason::ResourcesConflict,
    };
    Failure { candidate, reason, message: unfit.to_string() }
}
