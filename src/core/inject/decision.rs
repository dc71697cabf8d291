//! What injection is asked, and what it answers.

use std::collections::BTreeMap;

use json_patch::Patch;
use serde_json::Value;

use super::compile::CompiledSet;
use crate::api::reasons::Reason;

/// A pod that is about to be created.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The pod as the apiserver sent it.
    pub pod: &'a Value,
    /// Namespace of the request; the pod's own may be empty on CREATE.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Namespaces besides `keys::EXCLUDED_NAMESPACES` that no set reaches.
    pub excluded: &'a [String],
}

/// What one set did, or why it did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) set: String,
    pub(crate) reason: Reason,
    /// One sentence for people; may be empty.
    pub(crate) message: String,
    /// What was asked for and could not be had, though the sidecars were injected.
    pub(crate) notes: Vec<String>,
}

impl Outcome {
    pub(super) fn new(set: &str, reason: Reason, message: impl Into<String>) -> Self {
        Self { set: set.to_owned(), reason, message: message.into(), notes: Vec::new() }
    }
}

/// The decision about one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injection {
    /// RFC 6902 operations on the raw pod; empty if nothing differs.
    pub(crate) patch: Patch,
    /// One entry per set that selects the pod or has left marks on it, by name.
    pub(crate) outcomes: Vec<Outcome>,
    /// Why the pod must be refused: a fail-closed set could not inject.
    pub(crate) refused: Option<String>,
}

/// Why a set cannot inject into this pod.
pub(super) struct Failure<'a> {
    pub(super) set: &'a CompiledSet,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Failure<'_> {
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::new(&self.set.name, self.reason, &self.message)
    }
}
