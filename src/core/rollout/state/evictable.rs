//! The pods of a set that wait for an eviction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::pod::{Owner, PodKey};
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Evictability;
use crate::core::rollout::order::cost::Cost;

/// The pods of one set that wait for an eviction, by the UID of their owner.
#[derive(Debug, Default)]
pub(crate) struct Evictable {
    pub(crate) owners: BTreeMap<String, OwnedPods>,
    /// Pods that are never evicted, by kind.
    pub(crate) exempt: BTreeMap<&'static str, usize>,
}

/// Pods of one owner.
#[derive(Debug)]
pub(crate) struct OwnedPods {
    pub(crate) owner: Owner,
    pub(crate) pods: BTreeSet<Arc<PodKey>>,
    /// Of these, those whose eviction costs no slot.
    pub(crate) cheap: usize,
}

impl Evictable {
    pub(crate) fn account(&mut self, key: &Arc<PodKey>, pod: &Assessment, add: bool) {
        match &pod.evictability {
            Some(Evictability::Evictable(owner)) if pod.selected => {
                self.account_owned(key, owner, Cost::of(pod), add);
            }
            Some(Evictability::Exempt(kind)) => {
                let pods = self.exempt.entry(kind).or_default();
                *pods = if add { *pods + 1 } else { *pods - 1 };
                if *pods == 0 {
                    self.exempt.remove(kind);
                }
            }
            _ => {}
        }
    }

    fn account_owned(&mut self, key: &Arc<PodKey>, owner: &Owner, cost: Cost, add: bool) {
        let none = || OwnedPods { owner: owner.clone(), pods: BTreeSet::new(), cheap: 0 };
        let behind = self.owners.entry(owner.uid.clone()).or_insert_with(none);
        let cheap = usize::from(cost != Cost::Ready);
        if add {
            behind.pods.insert(key.clone());
            behind.cheap += cheap;
        } else {
            behind.pods.remove(key);
            behind.cheap -= cheap;
        }
        if behind.pods.is_empty() {
            self.owners.remove(&owner.uid);
        }
    }

    /// Pods of these owners.
    pub fn of<'a>(&self, owners: impl Iterator<Item = &'a str>) -> usize {
        let owners: BTreeSet<&str> = owners.collect();
        owners.iter().filter_map(|owner| self.owners.get(*owner)).map(|behind| behind.pods.len()).sum()
    }
}
