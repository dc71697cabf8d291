//! A map of a few entries that is kept a hundred thousand times.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;
use std::{iter, slice};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::base::shared::Shared;

/// By text, sorted, in one allocation of the size that is needed. A `BTreeMap` of one entry takes room for eleven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallMap<K, V>(Box<[(K, V)]>);

type Iter<'a, K, V> = iter::Map<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

impl<K, V> SmallMap<K, V> {
    /// In the order of the keys.
    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Sorted.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// In the order of the keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Borrow<str>, V> SmallMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.position(key).map(|position| &self.0[position].1)
    }

    /// Whether there is a value of this key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.0.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()
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

impl<'a, K, V> IntoIterator for &'a SmallMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Borrow<str>, V> Index<&str> for SmallMap<K, V> {
    type Output = V;

    fn index(&self, key: &str) -> &V {
        // Out of bounds, as other maps are.
        &self.0[self.position(key).unwrap_or(self.0.len())].1
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
