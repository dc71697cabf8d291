//! All compiled sets, indexed so that a pod costs as much as the sets that match it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kube::core::Expression;

use super::compile::CompiledSet;
use crate::api::selector::{Selector, key};

/// All sets, by name, with an index on what their selectors require.
#[derive(Clone, Debug, Default)]
pub struct CompiledSets {
    sets: Vec<Arc<CompiledSet>>,
    /// Sets that require this value of a label (`key=value`), or the label, whatever its value (`key`).
    by_label: HashMap<String, Vec<usize>>,
    /// Sets that require no label to be there.
    others: Vec<usize>,
    /// Label keys that some selector looks at.
    selector_keys: HashSet<String>,
}

impl CompiledSets {
    /// Builds the index.
    pub fn new(sets: impl IntoIterator<Item = Arc<CompiledSet>>) -> Self {
        let mut sets: Vec<_> = sets.into_iter().collect();
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        let mut index = Self::default();
        for (position, set) in sets.iter().enumerate() {
            index.insert(position, &set.selector);
            index.selector_keys.extend(set.selector_keys().map(str::to_owned));
        }
        index.sets = sets;
        index
    }

    fn insert(&mut self, position: usize, selector: &Selector) {
        let mut requirements: Vec<&Expression> = selector.requirements().iter().collect();
        requirements.sort_by_key(|requirement| !matches!(requirement, Expression::Equal(..) | Expression::In(..)));
        match requirements.first() {
            Some(Expression::Equal(key, value)) => self.insert_label(position, format!("{key}={value}")),
            Some(Expression::In(key, values)) => {
                for value in values {
                    self.insert_label(position, format!("{key}={value}"));
                }
            }
            _ => match requirements.iter().find(|r| matches!(r, Expression::Exists(_))) {
                Some(exists) => self.insert_label(position, key(exists).to_owned()),
                None => self.others.push(position),
            },
        }
    }

    fn insert_label(&mut self, position: usize, label: String) {
        self.by_label.entry(label).or_default().push(position);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<CompiledSet>> {
        self.sets.iter()
    }

    /// The set of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<CompiledSet>> {
        self.sets.binary_search_by(|set| set.name.as_str().cmp(name)).ok().map(|position| &self.sets[position])
    }

    /// Whether a selector looks at this label: setting it could change which sets match, and when.
    pub(super) fn select_by(&self, label: &str) -> bool {
        self.selector_keys.contains(label)
    }

    /// Sets that select a pod with these labels in a namespace with those, by name.
    pub(crate) fn matching(
        &self,
        labels: &BTreeMap<String, String>,
        namespace_labels: &BTreeMap<String, String>,
    ) -> Vec<&CompiledSet> {
        let required = labels.iter().flat_map(|(key, value)| [format!("{key}={value}"), key.clone()]);
        let by_label = required.filter_map(|label| self.by_label.get(&label)).flatten();
        let candidates: BTreeSet<usize> = by_label.chain(&self.others).copied().collect();
        let sets = candidates.into_iter().map(|position| self.sets[position].as_ref());
        sets.filter(|set| {
            set.selector.matches(labels)
                && set.namespace_selector.as_ref().is_none_or(|selector| selector.matches(namespace_labels))
        })
        .collect()
    }
}
