//! The order in which outdated pods are patched.

use std::collections::BTreeSet;

use super::entry::{Entry, Rank};
use super::prepull::SCANNED;
use crate::core::pod::PodKey;

/// What patching a pod costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// Nothing more: it has its place in a budget already.
    Held,
    /// A place under the cap of unready pods: it is not ready anyway.
    Unready,
    /// A slot of maxUnavailable.
    Ready,
}

/// Outdated pods by what they cost, first to go first.
#[derive(Debug, Default)]
pub(super) struct Queues([BTreeSet<(Rank, PodKey)>; 3]);

impl Queues {
    pub(super) fn insert(&mut self, key: &PodKey, entry: &Entry) {
        self.0[cost(entry) as usize].insert((entry.rank, key.clone()));
    }

    pub(super) fn remove(&mut self, key: &PodKey, entry: &Entry) {
        self.0[cost(entry) as usize].remove(&(entry.rank, key.clone()));
    }

    /// The pods to patch, first to go first, if so many slots and places under the cap are free. Those that may not be
    /// patched now are passed over, within a bound.
    pub(super) fn choose<'a>(
        &'a self,
        free_slots: usize,
        free_cap: usize,
        may_patch: &'a dyn Fn(&PodKey) -> bool,
    ) -> impl Iterator<Item = &'a PodKey> {
        let free = [(Cost::Held, usize::MAX), (Cost::Unready, free_cap), (Cost::Ready, free_slots)];
        free.into_iter().flat_map(move |(cost, free)| {
            let scanned = self.0[cost as usize].iter().take(free.saturating_add(SCANNED)).map(|(_, key)| key);
            scanned.filter(move |key| may_patch(key)).take(free)
        })
    }

    /// All candidates, first to go first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PodKey> {
        self.0.iter().flatten().map(|(_, key)| key)
    }
}

fn cost(entry: &Entry) -> Cost {
    match (entry.holds_slot, entry.ready, entry.fills_cap) {
        (true, _, _) | (false, false, true) => Cost::Held,
        // Also a pod that was unready when last patched: it is ready now, so patching it costs a slot.
        (false, true, _) => Cost::Ready,
        (false, false, false) => Cost::Unready,
    }
}
