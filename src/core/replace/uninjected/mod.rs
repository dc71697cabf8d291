//! Uninjected pods: selected by a set, and without its sidecars. They are older than it, or the webhook was away.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::reasons::Reason;
use crate::api::v1beta1::ExistingPods;
use crate::api::{SidecarSet, keys};
use crate::core::base::controller::controller;
use crate::core::base::lists::List;
use crate::core::inject::uninject::marks;
use crate::core::inject::{
    CompiledSet, CompiledSets, Injection, Request, exclusion_reason, inject, is_injected, without_bases,
};
use crate::core::pod::{InjectionRecord, Owner, PodKey};
use crate::core::replace::exempt;
use crate::core::replace::report::NAMED;

/// Owners kept per set; more are counted only. It bounds the memory where every pod of a cluster is uninjected.
const KEPT_OWNERS: usize = 500;

/// Fields of `metadata` that a pod has before the apiserver makes it.
const CREATED_WITH: [&str; 5] = ["labels", "annotations", "namespace", "generateName", "ownerReferences"];

/// The uninjected pods of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) pods: usize,
    /// Of these, created no later than the set. The API keeps whole seconds, and no set is served in its first.
    pub(crate) older: usize,
    /// The first owners found, and pods without one.
    pub(crate) groups: Vec<Group>,
}

/// Uninjected pods of one owner, or one without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) example: PodKey,
    pub(crate) owner: Option<Owner>,
    pub(crate) pods: usize,
    /// Why the example would come without the sidecars again; empty while that is not known.
    pub(crate) why: String,
}

/// Collects the uninjected pods of all sets from one listing, pod by pod: no pod is kept.
#[derive(Debug)]
pub(crate) struct Finder<'a> {
    sets: &'a CompiledSets,
    excluded: &'a [String],
    /// Creation times of the sets that want to know, and what was found for them.
    found: BTreeMap<String, (Option<Timestamp>, Found)>,
}

impl<'a> Finder<'a> {
    /// A finder for those of the served `sets` that want to know, see [`wants`]. `specs` are all sets as they are in the
    /// API; `excluded` are namespaces that no set reaches.
    pub fn new(sets: &'a CompiledSets, specs: impl Iterator<Item = &'a SidecarSet>, excluded: &'a [String]) -> Self {
        let wanting = specs.filter(|set| wants(set)).filter_map(|set| {
            let name = set.metadata.name.clone()?;
            sets.get(&name)?;
            Some((name, (set.metadata.creation_timestamp.as_ref().map(|time| time.0), Found::default())))
        });
        Self { found: wanting.collect(), sets, excluded }
    }

    /// True if no set wants to know: there is no reason to list pods.
    pub(crate) fn is_idle(&self) -> bool {
        self.found.is_empty()
    }

    /// Looks at one pod that has not ended. Costs as much as the sets that match it.
    pub(crate) fn look(&mut self, pod: &ObjectMeta, namespace_labels: &BTreeMap<String, String>) {
        if pod.deletion_timestamp.is_some() {
            return;
        }
        let none = BTreeMap::new();
        let labels = pod.labels.as_ref().unwrap_or(&none);
        let active = self.sets.matching(labels, namespace_labels).into_iter().filter(|set| !set.paused).collect();
        let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        // The set has left it out so that it could be created.
        let is_left_out =
            |set: &CompiledSet| set.failed_create(namespace, owner.map(|owner| owner.uid.as_str()), labels).is_some();
        let uninjected = without_bases(active).0.into_iter();
        let uninjected = uninjected.filter(|set| is_uninjected(pod, set, self.sets) && !is_left_out(set));
        let uninjected: Vec<&str> = uninjected.map(|set| set.name.as_str()).collect();
        if uninjected.is_empty() || is_untouchable(pod, namespace_labels, self.excluded) {
            return;
        }
        for set in uninjected {
            if let Some((set_created, found)) = self.found.get_mut(set) {
                found.add(pod, *set_created);
            }
        }
    }

    /// What was found, by set; also for sets without uninjected pods.
    pub(crate) fn finish(self) -> BTreeMap<String, Found> {
        self.found.into_iter().map(|(set, (_, found))| (set, found)).collect()
    }
}

/// Whether anybody wants to know of this set's uninjected pods: a paused set injects nothing on purpose.
pub(crate) fn wants(set: &SidecarSet) -> bool {
    let strategy = &set.spec.injection_strategy;
    strategy.existing_pods != ExistingPods::Ignore && !strategy.paused && set.metadata.deletion_timestamp.is_none()
}

/// Whether a pod carries no mark of the set, nor of its base, nor of a canary of it: those sidecars are not missing. Half a
/// mark counts: somebody removed the other half.
pub(crate) fn is_uninjected(pod: &ObjectMeta, set: &CompiledSet, sets: &CompiledSets) -> bool {
    let annotation = keys::injection_annotation(&set.name);
    let is_annotated = pod.annotations.as_ref().is_some_and(|all| all.contains_key(&annotation));
    !is_annotated && pod.labels.as_ref().is_none_or(|labels| has_no_mark(labels, set, sets))
}

/// The same by labels alone.
pub(crate) fn has_no_mark(labels: &BTreeMap<String, String>, set: &CompiledSet, sets: &CompiledSets) -> bool {
    let marked = labels.keys().filter_map(|key| key.strip_prefix(keys::REVISION_PREFIX));
    let is_canary = |name: &str| sets.get(name).is_some_and(|canary| canary.base.as_ref() == Some(&set.name));
    let is_related = |name: &str| name == set.name || set.base.as_deref() == Some(name) || is_canary(name);
    !marked.into_iter().any(is_related)
}

/// Whether no set may touch the pod: by the very rules of injection.
fn is_untouchable(pod: &ObjectMeta, namespace_labels: &BTreeMap<String, String>, excluded: &[String]) -> bool {
    let mirror = pod.annotations.as_ref().and_then(|annotations| annotations.get(keys::MIRROR_POD));
    let raw = json!({"metadata": {"annotations": {keys::MIRROR_POD: mirror}}});
    let namespace = pod.namespace.as_deref().unwrap_or_default();
    let labels = pod.labels.clone().unwrap_or_default();
    exclusion_reason(&Request { pod: &raw, namespace, namespace_labels, excluded }, &labels).is_some()
}

/// What injection would do with this pod if it were created now: with the replacement that its owner makes.
pub(crate) fn inject_anew(sets: &CompiledSets, request: &Request<'_>) -> Injection {
    inject(sets, &Request { pod: &made_anew(request.pod), ..*request })
}

/// This pod as its owner makes it again.
pub(crate) fn made_anew(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.retain(|field, _| CREATED_WITH.contains(&field.as_str()));
    }
    if let Some(fields) = pod.as_object_mut() {
        fields.remove("status");
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("nodeName");
    }
    forget_leftovers(&mut pod);
    pod
}

/// Takes sidecars out that a deleted set, or another injector, left without marks: the owner of the pod does not make them.
/// A pod without an owner has what its author wrote.
fn forget_leftovers(pod: &mut Value) {
    if controller(pod).is_none() {
        return;
    }
    let marked: BTreeSet<String> = marks(pod).values().flat_map(InjectionRecord::all_containers).cloned().collect();
    for list in List::ALL {
        let containers = pod.pointer_mut(&format!("/spec/{}", list.field())).and_then(Value::as_array_mut);
        let Some(containers) = containers else { continue };
        let kept = |container: &Value| {
            let name = container["name"].as_str().unwrap_or_default();
            marked.contains(name) || !is_injected(container)
        };
        containers.retain(kept);
    }
}

/// Why the set would not inject into that pod; `None` if it would.
pub(crate) fn obstacle(injection: &Injection, set: &str) -> Option<String> {
    if injection.refused.is_some() {
        return injection.refused.clone();
    }
    match injection.outcomes.iter().find(|outcome| outcome.set == set) {
        Some(outcome) if matches!(outcome.reason, Reason::Injected | Reason::AlreadyInjected) => None,
        Some(outcome) => Some(format!("{}: {}", outcome.reason, outcome.message)),
        None => Some("the set does not select it".to_owned()),
    }
}

impl Found {
    fn add(&mut self, pod: &ObjectMeta, set_created: Option<Timestamp>) {
        let created = pod.creation_timestamp.as_ref().map(|time| time.0);
        self.pods += 1;
        self.older += usize::from(created <= set_created);
        let owner = Owner::of(pod);
        // A listing comes by name, so the pods of one owner come together: the newest group is looked at first.
        let same = |group: &&mut Group| owner.is_some() && group.owner == owner;
        if let Some(group) = self.groups.iter_mut().rev().find(same) {
            group.pods += 1;
        } else if self.has_room_for(owner.as_ref()) {
            let namespace = pod.namespace.clone().unwrap_or_default();
            let example = PodKey { namespace, name: pod.name.clone().unwrap_or_default() };
            self.groups.push(Group { example, owner, pods: 1, why: String::new() });
        }
    }

    /// Pods that are never evicted must not take the places of others.
    fn has_room_for(&self, owner: Option<&Owner>) -> bool {
        let is_exempt = |owner: Option<&Owner>| exempt(owner, true).is_some();
        let alike = self.groups.iter().filter(|group| is_exempt(group.owner.as_ref()) == is_exempt(owner)).count();
        alike < if is_exempt(owner) { NAMED } else { KEPT_OWNERS }
    }

    /// How many there are, some by name, and why; empty if there are none.
    pub(crate) fn summary(&self) -> String {
        if self.pods == 0 {
            return String::new();
        }
        let (noun, verb) = if self.pods == 1 { ("pod", "has") } else { ("pods", "have") };
        let older = match self.older {
            0 => String::new(),
            1 => " (1 is older than the set)".to_owned(),
            older => format!(" ({older} are older than the set)"),
        };
        let named: Vec<String> = self.groups.iter().take(NAMED).map(Group::to_string).collect();
        let told: usize = self.groups.iter().take(NAMED).map(|group| group.pods).sum();
        let more = self.pods.saturating_sub(told);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} selected {noun} {verb} no sidecars{older}: {}{more}", self.pods, named.join(", "))
    }
}

impl std::fmt::Display for Group {
    /// `default/web-1 (ReplicaSet web, 3 pods: NameConflict: …)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owner = self.owner.as_ref().map(|owner| match self.pods {
            1 => format!("{} {}", owner.kind, owner.name),
            pods => format!("{} {}, {pods} pods", owner.kind, owner.name),
        });
        let why = Some(self.why.clone()).filter(|why| !why.is_empty());
        let details: Vec<String> = [owner, why].into_iter().flatten().collect();
        write!(f, "{}", self.example)?;
        if details.is_empty() { Ok(()) } else { write!(f, " ({})", details.join(": ")) }
    }
}

#[cfg(test)]
mod tests;
