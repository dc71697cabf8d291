//! All pods, and which of them a change beside them is about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::core::base::lists::List;
use crate::core::pod::{Common, PodKey, PodView};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// All that names a pod shares its key.
    all: HashMap<Arc<PodKey>, Arc<PodView>>,
    by_namespace: HashMap<String, HashSet<Arc<PodKey>>>,
    /// Those with init containers: for no others it matters what the kubelet does with native sidecars.
    by_node: HashMap<String, HashSet<Arc<PodKey>>>,
    /// By UID of their controller.
    by_owner: HashMap<String, HashSet<Arc<PodKey>>>,
    /// Those that carry marks of a set, whether or not the set is known.
    by_set: BTreeMap<String, Marked>,
    common: Common,
}

#[derive(Debug, Default)]
struct Marked {
    pods: BTreeSet<Arc<PodKey>>,
    /// How many of them carry each revision.
    revisions: BTreeMap<String, usize>,
}

impl Pods {
    pub fn get(&self, key: &PodKey) -> Option<&Arc<PodView>> {
        self.all.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.all.values()
    }

    /// The shared key.
    pub(crate) fn key(&self, key: &PodKey) -> Option<&Arc<PodKey>> {
        self.all.get_key_value(key).map(|(key, _)| key)
    }

    /// Returns the shared key, and the pod as it was.
    pub(crate) fn insert(&mut self, mut pod: PodView) -> (Arc<PodKey>, Option<Arc<PodView>>) {
        let key = self.key(&pod.key).map_or_else(|| Arc::new(pod.key.clone()), Arc::clone);
        pod.share(&mut self.common);
        let pod = Arc::new(pod);
        let old = self.all.insert(Arc::clone(&key), Arc::clone(&pod));
        if old.as_ref().is_none_or(|old| !same_place(old, &pod)) {
            if let Some(old) = &old {
                self.file(&key, old, false);
            }
            self.file(&key, &pod, true);
        }
        (key, old)
    }

    /// Returns the shared key, and the pod as it was.
    pub fn remove(&mut self, key: &PodKey) -> Option<(Arc<PodKey>, Arc<PodView>)> {
        let (key, old) = self.all.remove_entry(key)?;
        self.file(&key, &old, false);
        Some((key, old))
    }

    pub(crate) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = (&Arc<PodKey>, &Arc<PodView>)> {
        self.by_namespace.get(namespace).into_iter().flatten().filter_map(|key| Some((key, self.all.get(key)?)))
    }

    /// Pods with init containers.
    pub(crate) fn of_node(&self, node: &str) -> impl Iterator<Item = (&Arc<PodKey>, &Arc<PodView>)> {
        self.by_node.get(node).into_iter().flatten().filter_map(|key| Some((key, self.all.get(key)?)))
    }

    /// Pods of the controller with this UID.
    pub(crate) fn of_owner(&self, owner: &str) -> impl Iterator<Item = &Arc<PodView>> {
        self.by_owner.get(owner).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    /// The next pods that carry marks of a set, behind one of them, in the order of their names.
    pub(crate) fn of_set(&self, set: &str, behind: Option<&PodKey>, limit: usize) -> Vec<Arc<PodKey>> {
        let from = behind.map_or(Unbounded, Excluded);
        let pods = self.by_set.get(set).map(|marked| marked.pods.range::<PodKey, _>((from, Unbounded)));
        pods.into_iter().flatten().take(limit).cloned().collect()
    }

    /// Sets that pods carry marks of, whether or not they exist.
    pub(crate) fn marked_sets(&self) -> impl Iterator<Item = &String> {
        self.by_set.keys()
    }

    /// Revisions that pods of a set carry.
    pub(crate) fn revisions(&self, set: &str) -> impl Iterator<Item = &String> {
        self.by_set.get(set).into_iter().flat_map(|marked| marked.revisions.keys())
    }

    fn file(&mut self, key: &Arc<PodKey>, pod: &PodView, add: bool) {
        file(&mut self.by_namespace, &key.namespace, key, add);
        if let Some(node) = node_that_matters(pod) {
            file(&mut self.by_node, node, key, add);
        }
        if let Some(owner) = &pod.owner {
            file(&mut self.by_owner, &owner.uid, key, add);
        }
        for (set, mark) in pod.marks.iter() {
            let marked = self.by_set.entry(set.to_string()).or_default();
            let count = marked.revisions.entry(mark.revision.clone()).or_default();
            if add {
                *count += 1;
                marked.pods.insert(Arc::clone(key));
            } else {
                *count -= 1;
                marked.pods.remove(key);
            }
            if *count == 0 {
                marked.revisions.remove(&mark.revision);
            }
            if marked.pods.is_empty() {
                self.by_set.remove(&**set);
            }
        }
    }
}

fn file(places: &mut HashMap<String, HashSet<Arc<PodKey>>>, place: &str, key: &Arc<PodKey>, add: bool) {
    let pods = places.entry(place.to_owned()).or_default();
    if add {
        pods.insert(Arc::clone(key));
    } else {
        pods.remove(key);
    }
    if pods.is_empty() {
        places.remove(place);
    }
}

fn node_that_matters(pod: &PodView) -> Option<&str> {
    let has_init_containers = pod.containers.iter().any(|container| container.list == List::Init);
    pod.node.as_deref().filter(|_| has_init_containers)
}

fn same_place(old: &PodView, new: &PodView) -> bool {
    node_that_matters(old) == node_that_matters(new) && old.owner == new.owner && revisions(old).eq(revisions(new))
}

fn revisions(pod: &PodView) -> impl Iterator<Item = (&str, &str)> {
    pod.marks.iter().map(|(set, mark)| (&**set, mark.revision.as_str()))
}
