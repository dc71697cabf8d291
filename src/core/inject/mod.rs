//! Injection: a raw pod, its namespace and the compiled sets → edits and reasons.
//!
//! The pod stays JSON from end to end, so that a field this program does not know is never lost or moved. Law:
//! injecting into the result of an injection yields no edits.

mod attempt;
mod budget;
mod cleanup;
mod compile;
mod conflicts;
mod containers;
mod converge;
mod decision;
mod draft;
mod marks;
mod metadata;
mod placement;
pub mod renew;
mod resources;
mod select;
mod sets;
mod share;
#[cfg(test)]
mod tests;
pub mod uninject;
mod volumes;

use std::sync::Arc;

use attempt::attempt;
pub use compile::CompiledSet;
pub(crate) use compile::unknown_revision;
pub use decision::Request;
pub(crate) use decision::{Injection, Outcome};
use draft::strings;
use marks::Marks;
pub(crate) use marks::is_injected;
use select::Selection;
pub(super) use select::{untouchable, without_bases};
pub use sets::CompiledSets;

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
    if let Some((reason, message)) = untouchable(request, &labels) {
        let outcomes = matching.iter().map(|set| Outcome::new(&set.name, reason, message.clone())).collect();
        return Injection { outcomes, ..Injection::default() };
    }
    let mut selection = Selection::new(matching, &labels);
    let marks = Marks::read(request.pod, sets);
    loop {
        if let Some(failure) = selection.refusal() {
            let refused = format!("SidecarSet {:?} cannot inject its sidecars: {}", failure.set.name, failure.message);
            return Injection { refused: Some(refused), outcomes: vec![failure.outcome()], ..Injection::default() };
        }
        match attempt(sets, request.pod, marks.clone(), &selection) {
            Ok(injection) => return injection,
            // Again without this set, from the start: what is placed depends on who else is.
            Err(failure) => selection.drop(failure),
        }
    }
}
