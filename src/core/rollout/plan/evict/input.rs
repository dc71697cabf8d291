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
pub struct EvictionInput<'a> {
    /// The newest version of the set.
    pub set: &'a SidecarSet,
    /// The same as the webhook serves it.
    pub compiled: &'a CompiledSet,
    /// All sets.
    pub sets: &'a CompiledSets,
    /// Its pods without sidecars.
    pub found: &'a Found,
    /// Hash of the revision that new pods get.
    pub given: &'a str,
    /// The webhook serves it.
    pub is_served: bool,
    /// The index follows its newest spec.
    pub is_planned: bool,
    /// Owners that are looked at in one round.
    pub limit: usize,
    /// The time.
    pub now: Timestamp,
}

/// What was read in this round.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How many pods an owner should have, by its UID: none if it is gone, `None` if its kind is not one that is read.
    pub replicas: BTreeMap<String, Option<usize>>,
    /// The pods that the set selects and that are not labelled as injected, by namespace.
    pub uninjected: BTreeMap<String, Vec<PodView>>,
    /// Namespaces, and UIDs of owners, that could not be read.
    pub unreadable: BTreeSet<String>,
    /// Why an owner would not make a better one than this pod, by the pod's UID.
    pub replacements: BTreeMap<String, Option<Wait>>,
    /// UIDs of owners that a request was sent for: one in a round.
    pub tried: BTreeSet<String>,
}
