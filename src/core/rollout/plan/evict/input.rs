//! What a step of evictions looks at.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use crate::api::SidecarSet;
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::pod::PodView;
use crate::core::replace::report::Wait;
use crate::core::replace::uninjected::Found;

/// A set and what is known about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EvictionInput<'a> {
    /// The newest version of the set.
    pub(crate) set: &'a SidecarSet,
    /// The same as the webhook serves it.
    pub(crate) compiled: &'a CompiledSet,
    /// All sets.
    pub(crate) sets: &'a CompiledSets,
    /// Its pods without sidecars.
    pub(crate) found: &'a Found,
    /// Hash of the revision that new pods get.
    pub(crate) given: &'a str,
    /// The webhook serves it.
    pub(crate) is_served: bool,
    /// The index follows its newest spec.
    pub(crate) is_planned: bool,
    /// Owners that are looked at in one round.
    pub(crate) limit: usize,
    /// The time.
    pub(crate) now: Timestamp,
}

/// What was read in this round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// How many pods an owner should have, by its UID: none if it is gone, `None` if its kind is not one that is read.
    pub(crate) replicas: BTreeMap<String, Option<usize>>,
    /// The pods that the set selects and that are not labelled as injected, by namespace.
    pub(crate) uninjected: BTreeMap<String, Vec<PodView>>,
    /// Namespaces, and UIDs of owners, that could not be read.
    pub(crate) unreadable: BTreeSet<String>,
    /// Why an owner would not make a better one than this pod, by the pod's UID.
    pub(crate) replacements: BTreeMap<String, Option<Wait>>,
    /// UIDs of owners that a request was sent for: one in a round.
    pub(crate) tried: BTreeSet<String>,
}
