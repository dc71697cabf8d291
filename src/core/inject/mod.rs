//! Injection: a raw pod, its namespace and the compiled sets → edits and reasons.
//!
//! The pod stays JSON from end to end, so that a field this program does not know is never lost or moved. Law:
//! injecting into the result of an injection yields no edits.

mod compile;
mod converge;
mod draft;
mod place;
#[cfg(test)]
mod tests;
pub mod uninject;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;

use json_patch::Patch;
use serde_json::Value;

pub use compile::{CompiledSet, CompiledSets};
use draft::Draft;
use place::{Conflict, Marks};

use crate::api::SidecarSet;
use crate::api::keys;
use crate::api::reasons::InjectionReason;
use crate::api::v1beta1::FailurePolicy;

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
}

/// What one set did, or why it did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the set.
    pub set: String,
    /// The reason.
    pub reason: InjectionReason,
    /// One sentence for people.
    pub message: String,
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
    let mut draft = Draft::new(request.pod);
    let mut marks = Marks::read(request.pod, sets);
    let mut outcomes: Vec<Outcome> =
        paused.iter().map(|set| outcome(set, InjectionReason::Paused, "injectionStrategy.paused is true")).collect();
    let keep = |name: &str| paused.iter().chain(&active).any(|set| set.name == name);
    outcomes.extend(place::remove_strangers(&mut draft, &mut marks, sets, keep));

    let mut served = Vec::new();
    for set in &active {
        let edits_before = draft.edits();
        match place::place(&mut draft, &mut marks, set) {
            Ok(()) => {
                let changed = draft.edits() > edits_before;
                let reason = if changed { InjectionReason::Injected } else { InjectionReason::AlreadyInjected };
                outcomes.push(outcome(set, reason, ""));
                served.push(*set);
            }
            Err(Conflict { reason, message }) => {
                if set.failure_policy == FailurePolicy::Fail {
                    let refused = Some(format!("SidecarSet {:?} cannot inject its sidecars: {message}", set.name));
                    return Injection {
                        refused,
                        outcomes: vec![outcome(set, reason, message)],
                        ..Injection::default()
                    };
                }
                place::unmark(&mut draft, &marks, set);
                outcomes.push(outcome(set, reason, message));
            }
        }
    }
    place::metadata(&mut draft, &served);
    place::default_container(&mut draft, &marks);
    outcomes.sort_by(|a, b| a.set.cmp(&b.set));
    Injection { patch: draft.into_patch(), outcomes, refused: None }
}

fn outcome(set: &CompiledSet, reason: InjectionReason, message: impl Into<String>) -> Outcome {
    Outcome { set: set.name.clone(), reason, message: message.into() }
}

/// Pods and namespaces that no set may touch.
fn untouchable(request: &Request<'_>, labels: &BTreeMap<String, String>) -> Option<(InjectionReason, String)> {
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
