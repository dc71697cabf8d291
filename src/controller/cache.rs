//! The sets and their revisions as last seen, compiled for injection whenever one changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use tokio::sync::watch;

use super::state::lock;
use crate::api::reasons::condition::CONFLICTING;
use crate::api::validate::{Allowed, Problems, ValidSidecarSet, clashes, validate_with};
use crate::api::{SidecarSet, canary_base, keys};
use crate::core::inject::{CompiledSet, CompiledSets, Served};
use crate::core::revision::{History, Revision, collisions, name, set_and_hash};
use crate::runtime::namespaces::Namespaces;

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    inner: Arc<Mutex<Inner>>,
    served: Arc<watch::Sender<Arc<Served>>>,
    allowed: Arc<Allowed>,
    /// Labels of namespaces.
    pub(super) namespaces: Namespaces,
    registered: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    sets: BTreeMap<String, Known>,
    /// By set, then by hash.
    revisions: BTreeMap<String, History>,
    /// UIDs of revisions that are ignored.
    ignored: HashSet<String>,
    seen: u64,
    /// Made of all `compiled`; rebuilt only when one of them changed.
    compiled: Arc<CompiledSets>,
    /// Nothing is published before the first complete lists of both.
    sets_listed: bool,
    revisions_listed: bool,
}

#[derive(Debug)]
struct Known {
    set: Arc<SidecarSet>,
    valid: Result<ValidSidecarSet, Problems>,
    spec_version: u64,
    compiled: Option<Arc<CompiledSet>>,
}

impl Cache {
    /// An empty cache, and what the webhook serves from it. `registered`: version of the sets that the webhook
    /// registration stands for; 0 while there is none.
    pub(crate) fn new(
        allowed: Allowed,
        namespaces: Namespaces,
        registered: watch::Receiver<u64>,
    ) -> (Self, watch::Receiver<Arc<Served>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        let (served, allowed) = (Arc::new(sender), Arc::new(allowed));
        (Self { inner: Arc::default(), served, allowed, namespaces, registered }, receiver)
    }

    /// Version of the sets that the webhook registration stands for.
    pub(super) fn registered(&self) -> watch::Receiver<u64> {
        self.registered.clone()
    }

    /// The webhook gets requests for what the set selects now.
    pub(super) fn is_registered(&self, set: &str) -> bool {
        self.spec_version(set).is_some_and(|version| *self.registered.borrow() >= version)
    }

    /// The set as last seen.
    pub(crate) fn set(&self, name: &str) -> Option<Arc<SidecarSet>> {
        lock(&self.inner).sets.get(name).map(|known| Arc::clone(&known.set))
    }

    /// The same, and what validation says of it.
    pub(super) fn validated(&self, name: &str) -> Option<(Arc<SidecarSet>, Result<ValidSidecarSet, Problems>)> {
        lock(&self.inner).sets.get(name).map(|known| (Arc::clone(&known.set), known.valid.clone()))
    }

    /// Revisions of a set, by hash.
    pub(crate) fn revisions(&self, set: &str) -> History {
        lock(&self.inner).revisions.get(set).cloned().unwrap_or_default()
    }

    /// False before the first complete lists: what is missing may only not have been seen.
    pub(crate) fn is_complete(&self) -> bool {
        let inner = lock(&self.inner);
        inner.sets_listed && inner.revisions_listed
    }

    /// The sets as the webhook serves them.
    pub(crate) fn compiled(&self) -> Arc<CompiledSets> {
        Arc::clone(&lock(&self.inner).compiled)
    }

    /// Names of all sets.
    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.inner).sets.keys().cloned().collect()
    }

    /// The set as it is served; `None` for one that validation refuses.
    pub(crate) fn compiled_set(&self, set: &str) -> Option<Arc<CompiledSet>> {
        lock(&self.inner).sets.get(set)?.compiled.clone()
    }

    /// Hashes of the revisions that the canaries of a set roll out.
    pub(crate) fn canary_revisions(&self, base: &str) -> Vec<String> {
        let inner = lock(&self.inner);
        let canaries = inner.sets.values().filter(|known| canary_base(&known.set) == Some(base));
        canaries.filter_map(|known| known.set.status.as_ref()?.update_revision.clone()).collect()
    }

    /// What a set and others on the same pods both want. Admission refuses it, but may have been skipped.
    pub(crate) fn conflicts(&self, set: &str) -> Vec<String> {
        let inner = lock(&self.inner);
        let Some(known) = inner.sets.get(set) else { return Vec::new() };
        inner.meeting(known).flat_map(|other| clashes(&known.set, &other.set)).map(|clash| clash.to_string()).collect()
    }

    /// Version at which the set's current spec was first seen.
    fn spec_version(&self, set: &str) -> Option<u64> {
        lock(&self.inner).sets.get(set).map(|known| known.spec_version)
    }

    /// Takes note of a set. Returns the other sets whose conflicts may have changed with it.
    pub(crate) fn apply_set(&self, set: SidecarSet) -> Vec<String> {
        let mut inner = lock(&self.inner);
        let name = set.name_any();
        let version = resource_version(&set);
        // The watch tells late what the answer to a status write has told already, a pause among it.
        let known = inner.sets.get(&name);
        if known
            .is_some_and(|known| known.set.metadata.uid == set.metadata.uid && resource_version(&known.set) > version)
        {
            return Vec::new();
        }
        inner.seen = inner.seen.max(version);
        // The status of a rolling set changes every second; that is no reason to compile it again.
        let known = inner.sets.get(&name).filter(|known| same_spec(&known.set, &set));
        let spec_version = known.map_or(version, |known| known.spec_version);
        let same = known.filter(|known| given_revision(&known.set) == given_revision(&set));
        let compiled = same.map(|known| known.compiled.clone());
        let rebuild = compiled.is_none();
        let set = Arc::new(set);
        let valid = inner.sets.get(&name).and_then(|known| known.valid.as_ref().ok()?.renewed(Arc::clone(&set)));
        let valid = valid.map_or_else(|| validate_with(Arc::clone(&set), &self.allowed), Ok);
        let compiled = compiled.unwrap_or_else(|| compile(&valid, inner.revisions.get(&name)));
        let new_spec = spec_version == version;
        inner.sets.insert(name.clone(), Known { set, valid, spec_version, compiled });
        self.publish(&mut inner, rebuild);
        if new_spec { inner.concerned(&name) } else { Vec::new() }
    }

    /// Takes note of the answer to a request about a set, unless the watch has said something newer since.
    pub(crate) fn apply_answer(&self, set: SidecarSet) {
        let current = self.set(&set.name_any()).is_some_and(|known| {
            known.metadata.uid == set.metadata.uid && resource_version(&known) <= resource_version(&set)
        });
        if current {
            self.apply_set(set);
        }
    }

    /// Takes note that a set is gone. Returns the other sets whose conflicts may have changed with it.
    pub(crate) fn remove_set(&self, set: &SidecarSet) -> Vec<String> {
        let mut inner = lock(&self.inner);
        inner.seen = inner.seen.max(resource_version(set));
        let concerned = inner.concerned(&set.name_any());
        inner.sets.remove(&set.name_any());
        self.publish(&mut inner, true);
        concerned
    }

    /// A complete list of sets is in: others are gone. Returns the names of those.
    pub(crate) fn sets_listed(&self, listed: &HashSet<String>) -> Vec<String> {
        let mut inner = lock(&self.inner);
        inner.sets_listed = true;
        let gone: Vec<String> = inner.sets.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        inner.sets.retain(|name, _| listed.contains(name));
        self.publish(&mut inner, true);
        gone
    }

    /// Takes note of a revision. Returns its set; `None` for one that is ignored, which is told once.
    pub(crate) fn apply_revision(&self, object: &ControllerRevision) -> Option<String> {
        let (set, hash, revision) = match Revision::read(object) {
            Ok(read) => read,
            Err(why) => return self.ignore_revision(object, why),
        };
        let mut inner = lock(&self.inner);
        inner.revisions.entry(set.clone()).or_default().insert(hash, revision);
        self.recompile(&mut inner, &set);
        Some(set)
    }

    /// What was known under its name is not what is stored any more.
    fn ignore_revision(&self, object: &ControllerRevision, why: &str) -> Option<String> {
        if lock(&self.inner).ignored.insert(object.uid().unwrap_or_default()) {
            tracing::warn!(revision = object.name_any(), why, "a ControllerRevision is ignored");
        }
        self.remove_revision(object)
    }

    /// Takes note that a revision is gone.
    pub(crate) fn remove_revision(&self, object: &ControllerRevision) -> Option<String> {
        let (set, hash) = set_and_hash(object)?;
        self.forget_revision(&set, &hash);
        Some(set)
    }

    /// As [`Self::remove_revision`], without the object.
    pub(super) fn forget_revision(&self, set: &str, hash: &str) {
        let mut inner = lock(&self.inner);
        let known = inner.revisions.get_mut(set).and_then(|revisions| revisions.remove(hash));
        if known.is_some() {
            self.recompile(&mut inner, set);
        }
    }

    /// A complete list of revisions, by object name, is in: others are gone.
    pub(crate) fn revisions_listed(&self, listed: &HashSet<String>) {
        let mut inner = lock(&self.inner);
        inner.revisions_listed = true;
        for (set, revisions) in &mut inner.revisions {
            revisions.retain(|hash, _| listed.contains(&name(set, hash)));
        }
        let names: Vec<String> = inner.sets.keys().cloned().collect();
        for name in names {
            self.recompile(&mut inner, &name);
        }
        self.publish(&mut inner, true);
    }

    fn recompile(&self, inner: &mut Inner, name: &str) {
        let Inner { sets, revisions, .. } = inner;
        if let Some(known) = sets.get_mut(name) {
            known.compiled = compile(&known.valid, revisions.get(name));
            self.publish(inner, true);
        }
    }

    fn publish(&self, inner: &mut Inner, rebuild: bool) {
        if !inner.sets_listed || !inner.revisions_listed {
            return;
        }
        if rebuild {
            inner.compiled =
                Arc::new(CompiledSets::new(inner.sets.values().filter_map(|known| known.compiled.clone())));
        }
        self.served.send_replace(Arc::new(Served {
            complete: true,
            sets: Arc::clone(&inner.compiled),
            specs: inner.sets.values().filter_map(Known::served).cloned().collect(),
            seen: inner.seen,
            version: inner.sets.values().map(|known| known.spec_version).max().unwrap_or(0),
            allowed: Arc::clone(&self.allowed),
        }));
    }
}

impl Known {
    /// The set if it is served.
    fn served(&self) -> Option<&ValidSidecarSet> {
        self.valid.as_ref().ok().filter(|_| self.compiled.is_some())
    }
}

impl Inner {
    /// Other valid sets that can inject into the same pods.
    fn meeting<'a>(&'a self, known: &'a Known) -> impl Iterator<Item = &'a Known> {
        let others = self.sets.values().filter(move |other| !Arc::ptr_eq(&other.set, &known.set));
        others.filter(move |other| match (&known.compiled, &other.compiled) {
            (Some(a), Some(b)) => a.reach().meets(b.reach()),
            _ => false,
        })
    }

    /// Sets that a change of this one concerns: those that conflict with it, and those that conflict with any. During the
    /// first list every set is looked at anyway.
    fn concerned(&self, name: &str) -> Vec<String> {
        let Some(known) = self.sets.get(name).filter(|_| self.sets_listed) else { return Vec::new() };
        let clashing = self.meeting(known).filter(|other| !clashes(&other.set, &known.set).is_empty());
        let conflicting = self.sets.values().filter(|other| is_conflicting(&other.set));
        let names = clashing.chain(conflicting).map(|other| other.set.name_any());
        names.filter(|other| other != name).collect()
    }
}

fn is_conflicting(set: &SidecarSet) -> bool {
    let conditions = set.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == CONFLICTING && condition.status == "True")
}

/// `None` for a set that validation refuses: it is not served, and the controller says why.
fn compile(valid: &Result<ValidSidecarSet, Problems>, history: Option<&History>) -> Option<Arc<CompiledSet>> {
    let valid = valid.as_ref().ok().filter(|valid| valid.set().metadata.deletion_timestamp.is_none())?;
    Some(Arc::new(CompiledSet::new(valid, history.unwrap_or(&History::new()))))
}

fn same_spec(a: &SidecarSet, b: &SidecarSet) -> bool {
    let spec = |set: &SidecarSet| {
        let annotation = |key: &str| set.annotations().get(key).cloned();
        (
            (set.metadata.uid.clone(), set.metadata.generation, set.metadata.deletion_timestamp.clone()),
            (collisions(set), annotation(keys::CANARY), annotation(keys::BASE)),
        )
    };
    spec(a) == spec(b)
}

/// What the status says about the revision that new pods get.
fn given_revision(set: &SidecarSet) -> Option<(Option<&String>, Option<&String>, Option<&String>)> {
    let status = set.status.as_ref()?;
    Some((status.injection_revision.as_ref(), status.aborted_revision.as_ref(), status.stable_revision.as_ref()))
}

fn resource_version(set: &SidecarSet) -> u64 {
    set.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::revision::Template;

    fn set(name: &str, version: u64, annotations: &serde_json::Value) -> SidecarSet {
        serde_json::from_value(json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": name, "uid": name, "generation": 1, "resourceVersion": version.to_string(), "annotations": annotations},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": "agent:1"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_revision_that_is_not_what_its_name_says_is_ignored() {
        let revision = |name: &str, uid: &str, image: &str| -> ControllerRevision {
            serde_json::from_value(json!({
                "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1,
                "metadata": {"name": name, "uid": uid, "labels": {"sidecarset.dev/set": "mesh"}},
                "data": {"spec": {"containers": [{"name": "agent", "image": image}]}},
            }))
            .unwrap()
        };
        let (cache, _served) = Cache::new(Allowed::default(), Namespaces::default(), watch::channel(0).1);
        let hash = Template::of(&set("mesh", 1, &json!({})).spec).hash(0);
        let object = name("mesh", &hash);
        assert!(cache.apply_revision(&revision(&object, "a", "agent:1")).is_some());
        assert!(cache.revisions("mesh").contains_key(&hash));
        cache.apply_revision(&revision(&object, "b", "miner:1"));
        assert!(cache.revisions("mesh").is_empty(), "what stood under that name is not there any more");
    }

    #[test]
    fn a_set_that_becomes_a_canary_is_compiled_again() {
        let (cache, served) = Cache::new(Allowed::default(), Namespaces::default(), watch::channel(0).1);
        cache.apply_set(set("mesh", 1, &json!({})));
        cache.apply_set(set("next", 2, &json!({})));
        cache.sets_listed(&["mesh".to_owned(), "next".to_owned()].into());
        cache.revisions_listed(&HashSet::new());
        // Annotations do not count the generation up.
        cache.apply_set(set("next", 3, &json!({"sidecarset.dev/canary": "true", "sidecarset.dev/base": "mesh"})));
        assert_eq!(served.borrow().sets.get("next").unwrap().base.as_deref(), Some("mesh"));
        assert_eq!(served.borrow().version, 3);
        cache.apply_set(set("next", 4, &json!({"sidecarset.dev/canary": "true"})));
        assert!(served.borrow().sets.get("next").is_none(), "a canary without a base is invalid");
    }
}
