//! Injection: a raw pod, its namespace and the compiled sets → edits and reasons.
//!
//! The pod stays JSON from end to end, so that a field this program does not know is never lost or moved. Law:
//! injecting into the result of an injection yields no edits.

mod budget;
mod compile;
mod converge;
mod draft;
mod marks;
mod metadata;
mod place;
pub mod renew;
mod resources;
mod sets;
mod share;
mod strangers;
#[cfg(test)]
mod tests;
pub mod uninject;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use compile::{CompiledSet, unknown_revision};
use draft::Draft;
use json_patch::Patch;
pub use marks::Mark;
use marks::Marks;
use place::{Candidate, Failure, Placement};
use serde_json::Value;
pub use sets::CompiledSets;

use crate::api::reasons::InjectionReason;
use crate::api::v1beta1::FailurePolicy;
use crate::api::validate::Allowed;
use crate::api::{SidecarSet, keys};

/// A pod that is about to be created.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The pod as the apiserver sent it.
    pub pod: &'a Value,
    /// Namespace of the request; the pod's own may be empty on CREATE.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Namespaces besides [`keys::EXCLUDED_NAMESPACES`] that no set reaches.
    pub excluded: &'a [String],
}

/// What a replica injects from, and how new its knowledge is.
///
/// Versions are resourceVersions of `SidecarSet`s, which are comparable (KEP-5504): the webhook's path carries the
/// `version` that the registration was made from, and a replica that has not `seen` as much is behind.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// False before the first complete lists: nothing may be concluded from what is missing.
    pub complete: bool,
    /// The valid sets.
    pub sets: Arc<CompiledSets>,
    /// All sets as they are in the API, valid or not.
    pub specs: Vec<Arc<SidecarSet>>,
    /// Largest resourceVersion of any set ever seen.
    pub seen: u64,
    /// The newest resourceVersion at which the current spec of a set was first seen.
    pub version: u64,
    /// What sets may ask for.
    pub allowed: Arc<Allowed>,
}

/// What one set did, or why it did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the set.
    pub set: String,
    /// The reason.
    pub reason: InjectionReason,
    /// One sentence for people; may be empty.
    pub message: String,
    /// What was asked for and could not be had, though the sidecars were injected.
    pub notes: Vec<String>,
}

/// The decision about one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injection {
    /// RFC 6902 operations on the raw pod; empty if nothing differs.
    pub patch: Patch,
    /// One entry per set that selects the pod or has left marks on it, by name.
    pub outcomes: Vec<Outcome>,
    /// Why the pod must be refused: a fail-closed set could not inject.
    pub refused: Option<String>,
}

/// Decides what to do with a pod.
pub fn inject(sets: &CompiledSets, request: &Request<'_>) -> Injection {
    let labels = draft::strings(&request.pod["metadata"]["labels"]);
    let matching = sets.matching(&labels, request.namespace_labels);
    if let Some((reason, message)) = untouchable(request, &labels) {
        let outcomes = matching.iter().map(|set| outcome(set, reason, message.clone())).collect();
        return Injection { outcomes, ..Injection::default() };
    }
    let (paused, active): (Vec<_>, Vec<_>) = matching.into_iter().partition(|set| set.paused);
    let (active, replaced) = without_bases(active);
    let mut outcomes: Vec<Outcome> =
        paused.iter().map(|set| outcome(set, InjectionReason::Paused, "injectionStrategy.paused is true")).collect();
    outcomes.extend(replaced);
    let selects = |name: &str| paused.iter().chain(&active).any(|set| set.name == name);
    let marks = Marks::read(request.pod, sets);
    let mut failures = Vec::new();
    let mut candidates = Vec::new();
    for set in &active {
        match set.template(&labels) {
            Ok(template) => candidates.push(Candidate { set, template: Arc::clone(template) }),
            Err(message) => failures.push((*set, InjectionReason::RevisionNotFound, message.to_owned())),
        }
    }
    loop {
        if let Some((set, reason, message)) =
            failures.iter().find(|(set, ..)| set.failure_policy == FailurePolicy::Fail)
        {
            let refused = Some(format!("SidecarSet {:?} cannot inject its sidecars: {message}", set.name));
            return Injection { refused, outcomes: vec![outcome(set, *reason, message)], ..Injection::default() };
        }
        let mut draft = Draft::new(request.pod);
        let mut marks = marks.clone();
        let wants = |set: &str, container: &str| match candidates.iter().find(|candidate| candidate.set.name == set) {
            Some(candidate) => candidate.template.containers.iter().any(|prepared| prepared.name == container),
            // Paused, or without a revision: what is there stays.
            None => true,
        };
        // A set that could not inject must not look as if it had.
        let has_sidecars = |set: &str| {
            marks.by_set.get(set).is_some_and(|mark| mark.all_containers().any(|name| place::has(&draft, name)))
        };
        let hollow: Vec<&str> =
            failures.iter().map(|(set, ..)| set.name.as_str()).filter(|set| !has_sidecars(set)).collect();
        let stays = |name: &str| selects(name) && !hollow.contains(&name);
        let removed = strangers::remove(&mut draft, &mut marks, stays, wants);
        match (Placement { raw: request.pod, all: sets, draft, marks, candidates: &candidates }).place() {
            Ok((draft, done)) => {
                let message = "the pod was copied from one that the set selected";
                outcomes.extend(removed.into_iter().map(|set| new_outcome(set, InjectionReason::Removed, message)));
                outcomes.extend(failures.iter().map(|(set, reason, message)| outcome(set, *reason, message)));
                for (candidate, done) in candidates.iter().zip(done) {
                    let reason =
                        if done.changed { InjectionReason::Injected } else { InjectionReason::AlreadyInjected };
                    outcomes.push(Outcome { notes: done.notes, ..outcome(candidate.set, reason, "") });
                }
                outcomes.sort_by(|a, b| a.set.cmp(&b.set));
                return Injection { patch: draft.into_patch(), outcomes, refused: None };
            }
            // Without this set, from the start: what is placed depends on who else is.
            Err(Failure { candidate, reason, message }) => {
                failures.push((candidates.remove(candidate).set, reason, message));
            }
        }
    }
}

/// A pod that a canary and its base both select gets the canary's sidecars (OpenKruise's rule). `active` are sets that
/// are not paused.
pub(super) fn without_bases(active: Vec<&CompiledSet>) -> (Vec<&CompiledSet>, Vec<Outcome>) {
    let canary = |base: &CompiledSet| active.iter().find(|set| set.base.as_ref() == Some(&base.name)).copied();
    let replaced = active.iter().filter_map(|base| {
        let message = format!("its canary SidecarSet {:?} injects instead", canary(base)?.name);
        Some(outcome(base, InjectionReason::ReplacedByCanary, message))
    });
    let replaced: Vec<Outcome> = replaced.collect();
    (active.iter().copied().filter(|set| canary(set).is_none()).collect(), replaced)
}

/// Whether a container says that it was injected: by this program, or by OpenKruise, which says the same.
pub fn is_injected(container: &Value) -> bool {
    draft::elements(container, &["env"]).any(|e| e["name"] == keys::IS_INJECTED && e["value"] == "true")
}

fn outcome(set: &CompiledSet, reason: InjectionReason, message: impl Into<String>) -> Outcome {
    new_outcome(set.name.clone(), reason, message)
}

fn new_outcome(set: String, reason: InjectionReason, message: impl Into<String>) -> Outcome {
    Outcome { set, reason, message: message.into(), notes: Vec::new() }
}

/// Pods and namespaces that no set may touch.
pub(super) fn untouchable(
    request: &Request<'_>,
    labels: &BTreeMap<String, String>,
) -> Option<(InjectionReason, String)> {
    let opted_out = |labels: &BTreeMap<String, String>| labels.get(keys::INJECT).is_some_and(|value| value == "false");
    let excluded = keys::EXCLUDED_NAMESPACES.contains(&request.namespace)
        || request.excluded.iter().any(|namespace| namespace == request.namespace);
    if !request.pod["metadata"]["annotations"][keys::MIRROR_POD].is_null() {
        return Some((InjectionReason::MirrorPod, "the pod mirrors a static pod".to_owned()));
    }
    if excluded {
        let message = format!("namespace {} is excluded", request.namespace);
        return Some((InjectionReason::NamespaceExcluded, message));
    }
    if opted_out(request.namespace_labels) {
        let message = format!("namespace {} has the label {}=false", request.namespace, keys::INJECT);
        return Some((InjectionReason::NamespaceExcluded, message));
    }
    opted_out(labels).then(|| (InjectionReason::OptedOut, format!("the pod has the label {}=false", keys::INJECT)))
}
