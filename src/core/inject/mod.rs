//! Injection: a raw pod, its namespace and the compiled sets → edits and reasons.
//!
//! The pod stays JSON from end to end, so that a field this program does not know is never lost or moved. Law:
//! injecting into the result of an injection yields no edits.

pub(crate) mod blame;
mod budget;
mod cleanup;
mod compile;
mod containers;
mod decision;
pub mod dry_run;
pub(crate) mod failed_creates;
mod jobs;
mod known;
mod marks;
mod merge;
pub(crate) mod metadata;
mod patch;
mod placement;
mod pod_checks;
mod resources;
mod select;
mod sets;
mod share;
#[cfg(test)]
mod tests;
pub mod uninject;
mod variables;
mod volumes;

use std::sync::Arc;

pub use compile::CompiledSet;
pub(crate) use compile::unknown_revision;
use containers::place;
use decision::Failure;
pub use decision::Request;
pub(crate) use decision::{Injection, Outcome};
pub(crate) use jobs::runs_on;
use marks::Marks;
pub(crate) use marks::is_injected;
use patch::strings;
use placement::{PlacedSet, Placement};
use select::Selection;
pub(super) use select::{exclusion_reason, without_bases};
use serde_json::Value;
pub use sets::CompiledSets;

use crate::api::reasons::Reason;
use crate::api::validate::{Allowed, ValidSidecarSet};

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
    /// The same as they are in the API.
    pub specs: Vec<ValidSidecarSet>,
    /// Largest resourceVersion of any set ever seen.
    pub seen: u64,
    /// The newest resourceVersion at which the current spec of a set was first seen.
    pub version: u64,
    /// What sets may ask for.
    pub allowed: Arc<Allowed>,
}

/// Decides what to do with a pod.
pub fn inject(sets: &CompiledSets, request: &Request<'_>) -> Injection {
    let labels = strings(&request.pod["metadata"]["labels"]);
    let matching = sets.matching(&labels, request.namespace_labels);
    if let Some((reason, message)) = exclusion_reason(request, &labels) {
        let outcomes = matching.iter().map(|set| Outcome::new(&set.name, reason, message.clone())).collect();
        return Injection { outcomes, ..Injection::default() };
    }
    let marks = Marks::read(request.pod, sets);
    let mut selection = Selection::new(matching, &labels, request);
    loop {
        if let Some(failure) = selection.refusal() {
            let refused = format!("SidecarSet {:?} cannot inject its sidecars: {}", failure.set.name, failure.message);
            return Injection { refused: Some(refused), outcomes: vec![failure.outcome()], ..Injection::default() };
        }
        match attempt(sets, request.pod, &marks, &selection) {
            Ok(injection) => return injection,
            // Again without this set, from the start: what is placed depends on who else is.
            Err(failure) => selection.drop(failure),
        }
    }
}

/// Injects into a pod all selected sets, or says which of them cannot be had in it.
fn attempt<'a>(
    all: &CompiledSets,
    pod: &'a Value,
    marks: &'a Marks,
    selection: &Selection<'a>,
) -> Result<Injection, Failure<'a>> {
    let mut outcomes = selection.outcomes.clone();
    outcomes.extend(selection.failures.iter().map(Failure::outcome));
    let placement = place_all(all, pod, marks, selection, &mut outcomes)?;
    placement.check_pod()?;
    let Placement { patch, sets, .. } = placement;
    for (i, PlacedSet { set, record, mut notes, .. }) in sets.into_iter().enumerate() {
        notes.extend(runs_on(pod, &record.containers));
        let reason = if patch.has_changed(i) { Reason::Injected } else { Reason::AlreadyInjected };
        outcomes.push(Outcome { notes, ..Outcome::new(&set.name, reason, "") });
    }
    outcomes.sort_by(|a, b| a.set.cmp(&b.set));
    Ok(Injection { patch: patch.into_patch(), outcomes, refused: None })
}

/// Places the sidecars of all selected sets, or says which set cannot be placed.
fn place_all<'a>(
    all: &CompiledSets,
    pod: &'a Value,
    marks: &'a Marks,
    selection: &Selection<'a>,
    outcomes: &mut Vec<Outcome>,
) -> Result<Placement<'a>, Failure<'a>> {
    let mut placement = Placement::new(pod, marks, selection, outcomes);
    placement.check_names()?;
    placement.check_volumes()?;
    let order = placement.order()?;
    // Before the containers, which may take names from labels and annotations.
    placement.write_metadata(all);
    let mut sidecars = placement.render(&order)?;
    placement.share_budget(&order, &mut sidecars)?;
    place(&mut placement.patch, &order, &sidecars);
    placement.check_resources()?;
    placement.name_default_container();
    placement.finish_sets();
    Ok(placement)
}
