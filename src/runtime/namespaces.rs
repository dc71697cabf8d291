//! Labels of namespaces, for the webhook and the controller.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

type Labels = Arc<BTreeMap<String, String>>;

/// Labels by namespace name, as last seen. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Arc<RwLock<HashMap<String, Labels>>>);

impl Namespaces {
    /// The labels of a namespace; `None` if it has not been seen.
    pub(crate) fn get(&self, name: &str) -> Option<Labels> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Namespaces that are not among these.
    pub(crate) fn others(&self, names: &HashSet<String>) -> Vec<String> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.keys().filter(|name| !names.contains(*name)).cloned().collect()
    }

    /// Records a namespace, `None` when it is gone.
    pub fn set(&self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let mut namespaces = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match labels {
            Some(labels) => namespaces.insert(name.to_owned(), Arc::new(labels)),
            None => namespaces.remove(name),
        };
    }
}
