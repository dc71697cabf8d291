//! A map of a few entries that is kept a hundred thousand times.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::base::shared::Shared;

/// By text, sorted, in one allocation of the size that is needed. A `BTreeMap` of one entry takes room for eleven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallMap<K, V>(Box<[(K, V)]>);

impl<K, V> Deref for SmallMap<K, V> {
    type Target = [(K, V)];

    fn deref(&self) -> &[(K, V)] {
        &self.0
    }
}

impl<K, V> SmallMap<K, V> {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }
}

impl<K: Borrow<str>, V> SmallMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.position(key).map(|position| &self[..][position].1)
    }

    /// Whether there is a value of this key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()
    }
}

impl<V> SmallMap<Arc<str>, V> {
    /// Shares the keys, and what `values` shares of each value.
    pub(crate) fn share(&mut self, texts: &mut Shared<str>, mut values: impl FnMut(&mut V, &mut Shared<str>)) {
        for (key, value) in &mut self.0 {
            texts.share(key);
            values(value, texts);
        }
    }
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: Ord, V, T: Into<K>> FromIterator<(T, V)> for SmallMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (T, V)>>(entries: I) -> Self {
        let sorted: BTreeMap<K, V> = entries.into_iter().map(|(key, value)| (key.into(), value)).collect();
        Self(sorted.into_iter().collect())
    }
}

impl<K: Borrow<str>, V: Serialize> Serialize for SmallMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, value)| (key.borrow(), value)))
    }
}

impl<'de, K: Ord + From<String>, V: Deserialize<'de>> Deserialize<'de> for SmallMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, V>::deserialize(deserializer).map(|entries| entries.into_iter().collect())
    }
}
