//! Equal values that are kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// What is shared. Values that nobody uses any more go when the number of values has doubled.
#[derive(Debug)]
pub(crate) struct Shared<T: ?Sized> {
    values: HashSet<Arc<T>>,
    clean_at: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), clean_at: 1024 }
    }
}

impl<T: Eq + Hash + ?Sized> Shared<T> {
    /// Puts a shared value in the place of an equal one.
    pub(crate) fn share(&mut self, value: &mut Arc<T>) {
        if let Some(shared) = self.values.get(value) {
            *value = Arc::clone(shared);
            return;
        }
        if self.values.len() >= self.clean_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.clean_at = 1024.max(2 * self.values.len());
        }
        self.values.insert(Arc::clone(value));
    }
}

/// A shared text in JSON.
pub(crate) mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once() {
        let (mut shared, mut one, mut other) = (Shared::default(), Arc::new("a"), Arc::new("a"));
        shared.share(&mut one);
        shared.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn values_that_nobody_uses_go() {
        let mut shared = Shared::default();
        (0..100_000).for_each(|i| shared.share(&mut Arc::new(i)));
        assert!(shared.values.len() <= 1024);
    }
}
