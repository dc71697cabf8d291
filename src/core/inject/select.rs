//! Which sets inject into a pod, and with which revision.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compile::{CompiledSet, CompiledTemplate};
use super::decision::{Failure, Outcome, Request};
use super::jobs::is_of_job;
use super::marks::{Marks, has_sidecars};
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::api::v1beta1::FailurePolicy;
use crate::core::base::controller::controller;

/// A set that injects, and the revision that the pod gets.
#[derive(Clone, Copy)]
pub(super) struct SelectedSet<'a> {
    pub(super) set: &'a CompiledSet,
    pub(super) template: &'a CompiledTemplate,
}

/// The sets that select a pod.
pub(super) struct Selection<'a> {
    /// Those that inject, by name.
    pub(super) candidates: Vec<SelectedSet<'a>>,
    /// Those that should and cannot.
    pub(super) failures: Vec<Failure<'a>>,
    /// What the others do.
    pub(super) outcomes: Vec<Outcome>,
    paused: Vec<&'a CompiledSet>,
}

impl<'a> Selection<'a> {
    /// `matching`: the sets whose selectors match the pod, which has these labels.
    pub(super) fn new(
        matching: Vec<&'a CompiledSet>,
        labels: &BTreeMap<String, String>,
        request: &Request<'_>,
    ) -> Self {
        let (paused, active): (Vec<_>, Vec<_>) = matching.into_iter().partition(|set| set.paused);
        let (active, replaced) = without_bases(active);
        let pause = |set: &&CompiledSet| Outcome::new(&set.name, Reason::Paused, "injectionStrategy.paused is true");
        let outcomes = paused.iter().map(pause).chain(replaced).collect();
        let mut selection = Self { candidates: Vec::new(), failures: Vec::new(), outcomes, paused };
        let owner = controller_uid(request.pod);
        let is_of_job = is_of_job(request.pod);
        for set in active {
            let failed = set.failed_create(request.namespace, owner, labels);
            if let Some(why) = failed.filter(|_| set.failure_policy == FailurePolicy::Ignore) {
                let message = format!("its owner could not create pods with these sidecars: {why}");
                selection.failures.push(Failure { set, reason: Reason::PodsNotCreated, message });
                continue;
            }
            match set.template(labels) {
                Ok(template) => selection.candidates.push(SelectedSet { set, template: template.for_pod(is_of_job) }),
                Err(message) => {
                    let message = message.to_owned();
                    selection.failures.push(Failure { set, reason: Reason::RevisionNotFound, message });
                }
            }
        }
        selection
    }

    /// One set, whatever it selects.
    pub(super) fn of(set: &'a CompiledSet, is_of_job: bool) -> Self {
        let candidates = vec![SelectedSet { set, template: set.usual().for_pod(is_of_job) }];
        Self { candidates, failures: Vec::new(), outcomes: Vec::new(), paused: Vec::new() }
    }

    /// Takes a set that cannot inject out of the candidates.
    pub(super) fn drop(&mut self, failure: Failure<'a>) {
        self.candidates.retain(|candidate| candidate.set.name != failure.set.name);
        self.failures.push(failure);
    }

    /// The failure for which the pod is refused.
    pub(super) fn refusal(&self) -> Option<&Failure<'a>> {
        self.failures.iter().find(|failure| failure.set.failure_policy == FailurePolicy::Fail)
    }

    /// Sets whose sidecars and marks on this pod stay. A set that could not inject must not look as if it had.
    pub(super) fn staying(&self, pod: &Value, marks: &Marks) -> BTreeSet<&'a str> {
        let failed = self.failures.iter().map(|failure| failure.set);
        let failed = failed.filter(|set| marks.records.get(&set.name).is_some_and(|record| has_sidecars(pod, record)));
        let injecting = self.candidates.iter().map(|candidate| candidate.set);
        self.paused.iter().copied().chain(injecting).chain(failed).map(|set| set.name.as_str()).collect()
    }

    /// Whether what is on the pod of a set that stays is left there: not what a candidate added with another revision.
    pub(super) fn keeps(&self, set: &str, marks: &Marks) -> bool {
        let candidate = self.candidates.iter().find(|candidate| candidate.set.name == set);
        candidate.is_none_or(|candidate| marks.are_of(set, candidate.template))
    }
}

impl CompiledSet {
    /// Why the owner of a pod with these labels cannot create it with the sidecars that the set would give it.
    pub(crate) fn failed_create(
        &self,
        namespace: &str,
        owner: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Option<&str> {
        // Nearly always there is none.
        let (revision, message) = self.failed_creates.find(namespace, owner)?;
        (self.revision_for(labels) == Ok(revision)).then_some(message)
    }

    /// The same of the pods that the owner makes now.
    pub(crate) fn failed_create_of(&self, namespace: &str, owner: &str) -> Option<&str> {
        let (revision, message) = self.failed_creates.find(namespace, Some(owner))?;
        self.gives(revision).then_some(message)
    }
}

fn controller_uid(pod: &Value) -> Option<&str> {
    controller(pod)?["uid"].as_str()
}

/// A pod that a canary and its base both select gets the canary's sidecars (OpenKruise's rule). `active` are sets that
/// are not paused.
pub(in crate::core) fn without_bases(active: Vec<&CompiledSet>) -> (Vec<&CompiledSet>, Vec<Outcome>) {
    let canary = |base: &CompiledSet| active.iter().find(|set| set.base.as_ref() == Some(&base.name)).copied();
    let replaced = active.iter().filter_map(|base| {
        let message = format!("its canary SidecarSet {:?} injects instead", canary(base)?.name);
        Some(Outcome::new(&base.name, Reason::ReplacedByCanary, message))
    });
    let replaced: Vec<Outcome> = replaced.collect();
    (active.iter().copied().filter(|set| canary(set).is_none()).collect(), replaced)
}

/// Why no set may touch a pod.
pub(in crate::core) fn exclusion_reason(
    request: &Request<'_>,
    labels: &BTreeMap<String, String>,
) -> Option<(Reason, String)> {
    let opted_out = |labels: &BTreeMap<String, String>| labels.get(keys::INJECT).is_some_and(|value| value == "false");
    let excluded = keys::EXCLUDED_NAMESPACES.contains(&request.namespace)
        || request.excluded.iter().any(|namespace| namespace == request.namespace);
    if !request.pod["metadata"]["annotations"][keys::MIRROR_POD].is_null() {
        return Some((Reason::MirrorPod, "the pod mirrors a static pod".to_owned()));
    }
    if excluded {
        let message = format!("namespace {} is excluded", request.namespace);
        return Some((Reason::NamespaceExcluded, message));
    }
    if opted_out(request.namespace_labels) {
        let message = format!("namespace {} has the label {}=false", request.namespace, keys::INJECT);
        return Some((Reason::NamespaceExcluded, message));
    }
    opted_out(labels).then(|| (Reason::OptedOut, format!("the pod has the label {}=false", keys::INJECT)))
}
