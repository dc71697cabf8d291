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

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    inner: Arc<Mutex<Inner>>,
    served: Arc<watch::Sender<Arc<Served>>>,
    allowed: Arc<Allowed>,
    pub(super) namespaces: Namespaces,
    /// The sets that the webhook registration stands for; of version 0 while there is none.
    pub(super) registered: watch::Receiver<Arc<Served>>,
}

#[derive(Debug, Default)]
struct Inner {
    sets: BTreeMap<String, KnownSet>,
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
struct KnownSet {
    set: Arc<SidecarSet>,
    valid: Result<ValidSidecarSet, Problems>,
    /// Version at which the current spec was first seen.
    spec_version: u64,
    /// As the webhook serves it; `None` if validation refuses it.
    compiled: Option<Arc<CompiledSet>>,
}

impl Cache {
    /// An empty cache, and what the webhook serves from it.
    pub(crate) fn new(
        allowed: Allowed,
        namespaces: Namespaces,
        registered: watch::Receiver<Arc<Served>>,
    ) -> (Self, watch::Receiver<Arc<Served>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        let (served, allowed) = (Arc::new(sender), Arc::new(allowed));
        (Self { inner: Arc::default(), served, allowed, namespaces, registered }, receiver)
    }

    fn known<T>(&self, set: &str, read: impl FnOnce(&KnownSet) -> T) -> Option<T> {
        lock(&self.inner).sets.get(set).map(read)
    }

    /// The webhook gets requests for what the set selects now.
    pub(super) fn is_registered(&self, set: &str) -> bool {
        self.known(set, |known| self.registered.borrow().version >= known.spec_version) == Some(true)
    }

    pub(crate) fn set(&self, name: &str) -> Option<Arc<SidecarSet>> {
        self.known(name, |known| Arc::clone(&known.set))
    }

    /// The set, and what validation says of it.
    pub(super) fn validated(&self, name: &str) -> Option<(Arc<SidecarSet>, Result<ValidSidecarSet, Problems>)> {
        self.known(name, |known| (Arc::clone(&known.set), known.valid.clone()))
    }

    pub(super) fn compiled_set(&self, set: &str) -> Option<Arc<CompiledSet>> {
        self.known(set, |known| known.compiled.clone())?
    }

    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.inner).sets.keys().cloned().collect()
    }

    /// Revisions of a set, by hash.
    pub(super) fn revisions(&self, set: &str) -> History {
        lock(&self.inner).revisions.get(set).cloned().unwrap_or_default()
    }

    /// False before the first complete lists: what is missing may only not have been seen.
    pub(super) fn is_complete(&self) -> bool {
        let inner = lock(&self.inner);
        inner.sets_listed && inner.revisions_listed
    }

    /// The sets as the webhook serves them.
    pub(super) fn compiled(&self) -> Arc<CompiledSets> {
        Arc::clone(&lock(&self.inner).compiled)
    }

    /// Hashes of the revisions that the canaries of a set roll out.
    pub(super) fn canary_revisions(&self, base: &str) -> Vec<String> {
        let inner = lock(&self.inner);
        let canaries = inner.sets.values().filter(|known| canary_base(&known.set) == Some(base));
        canaries.filter_map(|known| known.set.status.as_ref()?.update_revision.clone()).collect()
    }

    /// What a set and others on the same pods both want. Admission refuses it, but may have been skipped.
    pub(super) fn conflicts(&self, set: &str) -> Vec<String> {
        let inner = lock(&self.inner);
        let Some(known) = inner.sets.get(set) else { return Vec::new() };
        inner.meeting(known).flat_map(|other| clashes(&known.set, &other.set)).map(|clash| clash.to_string()).collect()
    }

    /// Takes note of a set. Returns the other sets whose conflicts may have changed with it.
    pub(super) fn apply_set(&self, set: SidecarSet) -> Vec<String> {
        let mut inner = lock(&self.inner);
        let (name, version) = (set.name_any(), resource_version(&set));
        let known = inner.sets.get(&name);
        // The watch tells late what the answer to a status write has told already, a pause among it.
        if known.is_some_and(|known| is_newer(&known.set, &set)) {
            return Vec::new();
        }
        // The status of a rolling set changes every second; that is no reason to compile it again.
        let same_spec = known.filter(|known| spec(&known.set) == spec(&set));
        let spec_version = same_spec.map_or(version, |known| known.spec_version);
        let same = same_spec.filter(|known| given(&known.set) == given(&set));
        let compiled = same.map(|known| known.compiled.clone());
        let set = Arc::new(set);
        let valid = known.and_then(|known| known.valid.as_ref().ok()?.renewed(Arc::clone(&set)));
        let valid = valid.map_or_else(|| validate_with(Arc::clone(&set), &self.allowed), Ok);
        let rebuild = compiled.is_none();
        let compiled = compiled.unwrap_or_else(|| compile(&valid, inner.revisions.get(&name)));
        inner.seen = inner.seen.max(version);
        inner.sets.insert(name.clone(), KnownSet { set, valid, spec_version, compiled });
        self.publish(&mut inner, rebuild);
        if spec_version == version { inner.concerned(&name) } else { Vec::new() }
    }

    /// Takes note of the answer to a request about a set, unless the watch has said something newer since.
    pub(super) fn apply_answer(&self, set: SidecarSet) {
        let known = self.set(&set.name_any());
        if known.is_some_and(|known| known.metadata.uid == set.metadata.uid && !is_newer(&known, &set)) {
            self.apply_set(set);
        }
    }

    /// Takes note that a set is gone. Returns the other sets whose conflicts may have changed with it.
    pub(super) fn remove_set(&self, set: &SidecarSet) -> Vec<String> {
        let mut inner = lock(&self.inner);
        inner.seen = inner.seen.max(resource_version(set));
        let concerned = inner.concerned(&set.name_any());
        inner.sets.remove(&set.name_any());
        self.publish(&mut inner, true);
        concerned
    }

    /// A complete list of sets is in: others are gone. Returns the names of those.
    pub(super) fn sets_listed(&self, listed: &HashSet<String>) -> Vec<String> {
        let mut inner = lock(&self.inner);
        inner.sets_listed = true;
        let gone = inner.sets.extract_if(.., |name, _| !listed.contains(name)).map(|(name, _)| name).collect();
        self.publish(&mut inner, true);
        gone
    }

    /// Takes note of a revision. Returns its set; `None` for one that is ignored, which is told once.
    pub(super) fn apply_revision(&self, object: &ControllerRevision) -> Option<String> {
        match Revision::read(object) {
            Ok((set, hash, revision)) => {
                let mut inner = lock(&self.inner);
                inner.revisions.entry(set.clone()).or_default().insert(hash, revision);
                self.recompile(&mut inner, &set);
                Some(set)
            }
            Err(why) => {
                if lock(&self.inner).ignored.insert(object.uid().unwrap_or_default()) {
                    tracing::warn!(revision = object.name_any(), why, "a ControllerRevision is ignored");
                }
                // What was known under its name is not what is stored any more.
                self.remove_revision(object)
            }
        }
    }

    /// Takes note that a revision is gone. Returns its set.
    pub(super) fn remove_revision(&self, object: &ControllerRevision) -> Option<String> {
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
    pub(super) fn revisions_listed(&self, listed: &HashSet<String>) {
        let inner = &mut *lock(&self.inner);
        inner.revisions_listed = true;
        for (set, revisions) in &mut inner.revisions {
            revisions.retain(|hash, _| listed.contains(&name(set, hash)));
        }
        for (name, known) in &mut inner.sets {
            known.compiled = compile(&known.valid, inner.revisions.get(name));
        }
        self.publish(inner, true);
    }

    fn recompile(&self, inner: &mut Inner, name: &str) {
        if let Some(known) = inner.sets.get_mut(name) {
            known.compiled = compile(&known.valid, inner.revisions.get(name));
            self.publish(inner, true);
        }
    }

    fn publish(&self, inner: &mut Inner, rebuild: bool) {
        if !inner.sets_listed || !inner.revisions_listed {
            return;
        }
        if rebuild {
            let compiled = inner.sets.values().filter_map(|known| known.compiled.clone());
            inner.compiled = Arc::new(CompiledSets::new(compiled));
        }
        self.served.send_replace(Arc::new(Served {
            complete: true,
            sets: Arc::clone(&inner.compiled),
            specs: inner.sets.values().filter_map(KnownSet::served).cloned().collect(),
            seen: inner.seen,
            version: inner.sets.values().map(|known| known.spec_version).max().unwrap_or(0),
            allowed: Arc::clone(&self.allowed),
        }));
    }
}

impl KnownSet {
    fn served(&self) -> Option<&ValidSidecarSet> {
        self.valid.as_ref().ok().filter(|_| self.compiled.is_some())
    }
}

impl Inner {
    /// Other valid sets that can inject into the same pods.
    fn meeting<'a>(&'a self, known: &'a KnownSet) -> impl Iterator<Item = &'a KnownSet> {
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

/// `None` for a set that validation or the API server refuses: it is not served, and the controller says why.
fn compile(valid: &Result<ValidSidecarSet, Problems>, history: Option<&History>) -> Option<Arc<CompiledSet>> {
    let valid = valid.as_ref().ok().filter(|valid| valid.is_served())?;
    Some(Arc::new(CompiledSet::new(valid, history.unwrap_or(&History::new()))))
}

/// What says that the spec, or what counts like it, is the same.
fn spec(set: &SidecarSet) -> impl PartialEq + use<'_> {
    let annotation = |key: &str| set.annotations().get(key);
    (
        (&set.metadata.uid, set.metadata.generation, &set.metadata.deletion_timestamp),
        (collisions(set), annotation(keys::CANARY), annotation(keys::BASE)),
    )
}

/// What the status says about what new pods get.
fn given(set: &SidecarSet) -> Option<impl PartialEq + use<'_>> {
    let status = set.status.as_ref()?;
    let revisions = [&status.injection_revision, &status.aborted_revision, &status.stable_revision];
    Some((revisions, &status.failed_creates, set.refusal().is_some()))
}

/// The same set, later.
fn is_newer(a: &SidecarSet, b: &SidecarSet) -> bool {
    a.metadata.uid == b.metadata.uid && resource_version(a) > resource_version(b)
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
        let (cache, _served) = Cache::new(Allowed::default(), Namespaces::default(), watch::channel(Arc::default()).1);
        let hash = Template::of(&set("mesh", 1, &json!({})).spec).hash(0);
        let object = name("mesh", &hash);
        assert!(cache.apply_revision(&revision(&object, "a", "agent:1")).is_some());
        assert!(cache.revisions("mesh").contains_key(&hash));
        cache.apply_revision(&revision(&object, "b", "miner:1"));
        assert!(cache.revisions("mesh").is_empty(), "what stood under that name is not there any more");
    }

    #[test]
    fn what_the_api_server_refuses_is_left_out_where_failures_are_ignored() {
        let (cache, served) = Cache::new(Allowed::default(), Namespaces::default(), watch::channel(Arc::default()).1);
        let mut version = 0;
        let mut is_served = |policy: &str, observed: i64| {
            version += 1;
            let mut set = json!(set("mesh", version, &json!({})));
            set["spec"]["injectionStrategy"] = json!({"failurePolicy": policy});
            set["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "InvalidSpec",
                "message": "spec.containers[0]: wrong", "observedGeneration": observed, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            cache.apply_set(serde_json::from_value(set).unwrap());
            cache.sets_listed(&["mesh".to_owned()].into());
            cache.revisions_listed(&HashSet::new());
            served.borrow().sets.get("mesh").is_some()
        };
        assert!(is_served("Ignore", 0), "that was said of another generation");
        assert!(!is_served("Ignore", 1));
        assert!(is_served("Fail", 1));
        assert!(!is_served("Ignore", 1));
    }

    #[test]
    fn a_set_that_becomes_a_canary_is_compiled_again() {
        let (cache, served) = Cache::new(Allowed::default(), Namespaces::default(), watch::channel(Arc::default()).1);
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
