//! All pods, and which of them a change beside them is about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::core::base::tally::{count, group_member};
use crate::core::pod::{Common, PodKey, PodView};

type Groups = BTreeMap<String, BTreeSet<Arc<PodKey>>>;

#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// All that names a pod shares its key.
    all: HashMap<Arc<PodKey>, Arc<PodView>>,
    by_namespace: Groups,
    by_node: Groups,
    /// By UID of their controller.
    by_owner: Groups,
    /// Those that carry marks of a set, whether or not the set is known.
    by_set: Groups,
    /// How many carry each revision of a set.
    revisions: BTreeMap<(String, String), usize>,
    common: Common,
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
        self.of(&self.by_namespace, namespace)
    }

    pub(crate) fn of_node(&self, node: &str) -> impl Iterator<Item = (&Arc<PodKey>, &Arc<PodView>)> {
        self.of(&self.by_node, node)
    }

    /// Pods of the controller with this UID, in the order of their names.
    pub(crate) fn of_owner(&self, owner: &str) -> impl Iterator<Item = &Arc<PodView>> {
        self.of(&self.by_owner, owner).map(|(_, pod)| pod)
    }

    /// The next pods that carry marks of a set, behind one of them, in the order of their names.
    pub(crate) fn of_set(&self, set: &str, behind: Option<&PodKey>, limit: usize) -> Vec<Arc<PodKey>> {
        let from = behind.map_or(Unbounded, Excluded);
        let pods = self.by_set.get(set).map(|pods| pods.range::<PodKey, _>((from, Unbounded)));
        pods.into_iter().flatten().take(limit).cloned().collect()
    }

    /// Sets that pods carry marks of, whether or not they exist.
    pub(crate) fn marked_sets(&self) -> impl Iterator<Item = &String> {
        self.by_set.keys()
    }

    /// Revisions that pods of a set carry.
    pub(crate) fn revisions(&self, set: &str) -> impl Iterator<Item = &String> {
        let from = (set.to_owned(), String::new());
        self.revisions
            .range(from..)
            .map(|((set, revision), _)| (set, revision))
            .take_while(move |(of, _)| *of == set)
            .map(|(_, revision)| revision)
    }

    fn of<'a>(&'a self, groups: &'a Groups, name: &str) -> impl Iterator<Item = (&'a Arc<PodKey>, &'a Arc<PodView>)> {
        groups.get(name).into_iter().flatten().filter_map(|key| Some((key, self.all.get(key)?)))
    }

    fn file(&mut self, key: &Arc<PodKey>, pod: &PodView, add: bool) {
        group_member(&mut self.by_namespace, key.namespace.clone(), key.clone(), add);
        if let Some(node) = &pod.node {
            group_member(&mut self.by_node, node.to_string(), key.clone(), add);
        }
        if let Some(owner) = &pod.owner {
            group_member(&mut self.by_owner, owner.uid.clone(), key.clone(), add);
        }
        for (set, mark) in pod.marks.iter() {
            group_member(&mut self.by_set, set.to_string(), key.clone(), add);
            count(&mut self.revisions, (set.to_string(), mark.revision.clone()), add);
        }
    }
}

fn same_place(old: &PodView, new: &PodView) -> bool {
    old.node == new.node && old.owner == new.owner && revisions(old).eq(revisions(new))
}

fn revisions(pod: &PodView) -> impl Iterator<Item = (&str, &str)> {
    pod.marks.iter().map(|(set, mark)| (&**set, mark.revision.as_str()))
}
