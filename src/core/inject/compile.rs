//! A set prepared for injection, once per change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::EnvVar;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed_creates::FailedCreates;
use super::known::{Known, shares_budget};
use super::resources;
use super::share::Shares;
use crate::api::selector::{Selector, key};
use crate::api::v1beta1::{
    FailurePolicy, InjectionRevision, NewPods, PatchPodMetadata, PodInjectPolicy, RevisionPolicy, SidecarContainer,
    SidecarSet, UpdateType,
};
use crate::api::validate::{Reach, ValidSidecarSet};
use crate::api::{canary_base, keys};
use crate::core::base::lists::List;
use crate::core::revision::{self, History, Revision, Template, collisions, used_volumes};

/// Fields whose zero value the apiserver drops or replaces by a default; everywhere else false and 0 mean something.
const FALSE_IS_ABSENT: [&str; 4] = ["tty", "stdin", "stdinOnce", "readOnly"];
const ZERO_IS_ABSENT: [&str; 6] =
    ["hostPort", "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// A container as it goes into a pod.
#[derive(Clone, Debug)]
pub(super) struct CompiledContainer {
    pub(super) list: List,
    pub(super) name: String,
    /// Name in the set, which the twins of a hot upgrade share.
    pub(super) entry: String,
    pub(super) policy: Option<PodInjectPolicy>,
    pub(super) depends_on: Vec<String>,
    pub(super) shares: Shares,
    pub(super) resources: Option<resources::Policy>,
    pub(super) json: Value,
}

/// One revision of a set.
#[derive(Clone, Debug)]
pub(super) struct CompiledTemplate {
    pub(super) revision: String,
    pub(super) hash_without_images: String,
    pub(super) containers: Vec<CompiledContainer>,
    pub(super) volumes: Vec<Value>,
    /// Names of volumes that containers mount and the pod may have itself.
    pub(super) pod_volumes: BTreeSet<String>,
    pub(super) pull_secrets: Vec<Value>,
    pub(super) metadata: Vec<PatchPodMetadata>,
    /// The twin that works first, by name in the set.
    pub(super) hot: BTreeMap<String, String>,
    pub(super) shares_budget: bool,
    pub(super) preserves_qos: bool,
    /// The same for the pods of Jobs, if they get something else.
    for_jobs: Option<Box<Self>>,
}

/// One set.
#[derive(Clone, Debug)]
pub struct CompiledSet {
    pub(crate) name: String,
    pub(crate) selector: Selector,
    /// `None` for all namespaces.
    pub(crate) namespace_selector: Option<Selector>,
    pub(crate) failure_policy: FailurePolicy,
    pub(crate) paused: bool,
    /// For a canary, the set whose place it takes.
    pub(crate) base: Option<String>,
    usual: Arc<CompiledTemplate>,
    /// `injectionStrategy.revision`.
    pinned: Option<Special>,
    /// Pods outside `updateStrategy.selector` are not upgraded, and get the stable revision.
    outside: Option<Special>,
    /// What every known revision can add to a pod: only this can be ours on a pod that says so.
    pub(super) known: Known,
    /// Hashes and `customVersion`s of the history.
    known_revisions: Vec<(String, Option<String>)>,
    /// `status.failedCreates`.
    pub(super) failed_creates: FailedCreates,
}

/// A revision that pods get in place of the usual one.
#[derive(Clone, Debug)]
struct Special {
    /// The revision, or why there is none.
    template: Result<Arc<CompiledTemplate>, String>,
    /// Only pods that this does not match get it; `None` for every pod.
    except: Option<Selector>,
}

impl CompiledSet {
    /// Prepares a set. `history` are its known revisions.
    ///
    /// Which revision a new pod gets: `injectionStrategy.revision` if it says one for the pod; else with
    /// `newPods: Latest` the spec's, and with `FollowRollout` (the default) `status.injectionRevision`, which the leader
    /// decides. A revision that was aborted is not given to anyone.
    pub fn new(valid: &ValidSidecarSet, history: &History) -> Self {
        let (set, selectors) = (valid.set(), valid.selectors());
        let spec = &set.spec;
        let target = Template::of(spec);
        let hash = target.hash(collisions(set));
        // What the history has of this very revision may be written differently.
        let other = usual_revision(set, &hash).filter(|other| *other != hash);
        let usual = match other.and_then(|hash| Some((hash, &history.get(hash)?.template))) {
            Some((hash, template)) => CompiledTemplate::new(hash, template),
            None => CompiledTemplate::new(&hash, &target),
        };
        let templates = history.values().map(|revision| &revision.template);
        Self {
            name: valid.name().to_owned(),
            selector: selectors.pods.clone(),
            namespace_selector: selectors.namespaces.clone(),
            failure_policy: spec.injection_strategy.failure_policy,
            paused: spec.injection_strategy.paused,
            base: canary_base(set).map(str::to_owned),
            pinned: pinned(valid, (&hash, &target), history),
            outside: outside(valid, history),
            usual: Arc::new(usual),
            known: Known::of(templates.chain([&target])),
            known_revisions: history.iter().map(|(hash, r)| (hash.clone(), r.custom_version.clone())).collect(),
            failed_creates: FailedCreates::of(set),
        }
    }

    /// The revision that a pod with these labels gets, or why there is none.
    pub(super) fn template(&self, labels: &BTreeMap<String, String>) -> Result<&Arc<CompiledTemplate>, &str> {
        let applies = |special: &&Special| special.except.as_ref().is_none_or(|except| !except.matches(labels));
        let special = self.pinned.iter().chain(&self.outside).find(applies);
        special.map_or(Ok(&self.usual), |special| special.template.as_ref().map_err(String::as_str))
    }

    /// What pods get to which nothing else applies.
    pub(super) fn usual(&self) -> &CompiledTemplate {
        &self.usual
    }

    /// Hash of the revision that pods get to which nothing else applies.
    pub(crate) fn revision(&self) -> &str {
        &self.usual.revision
    }

    /// Hash of the revision that a pod with these labels gets, or why there is none.
    pub(crate) fn revision_for(&self, labels: &BTreeMap<String, String>) -> Result<&str, &str> {
        self.template(labels).map(|template| template.revision.as_str())
    }

    /// Whether some pods get this revision.
    pub(crate) fn gives(&self, revision: &str) -> bool {
        let special = self.pinned.iter().chain(&self.outside).filter_map(|special| special.template.as_ref().ok());
        special.chain([&self.usual]).any(|template| template.revision == revision)
    }

    /// Hash of the revision that `injectionStrategy.revision` names, or why there is none; `None` if it names none.
    pub(crate) fn pinned(&self) -> Option<Result<&str, &str>> {
        let pinned = self.pinned.as_ref()?;
        Some(pinned.template.as_ref().map(|template| template.revision.as_str()).map_err(String::as_str))
    }

    /// The pods that it wants, to compare with those of others.
    pub(crate) fn reach(&self) -> Reach<'_> {
        let Self { name, base, selector, namespace_selector, .. } = self;
        Reach { name, base: base.as_deref(), selector, namespaces: namespace_selector.as_ref() }
    }

    /// Label keys that decide whether, and with what, this set injects.
    pub(super) fn selector_keys(&self) -> impl Iterator<Item = &str> {
        let except = self.pinned.iter().chain(&self.outside).filter_map(|special| special.except.as_ref());
        [&self.selector].into_iter().chain(except).flat_map(Selector::requirements).map(key)
    }
}

/// A revision other than that of the spec.
fn usual_revision<'a>(set: &'a SidecarSet, target: &str) -> Option<&'a str> {
    let status = set.status.as_ref()?;
    if status.aborted_revision.as_deref() == Some(target) {
        return status.stable_revision.as_deref();
    }
    let partial = |revision: &InjectionRevision| revision.policy == RevisionPolicy::Partial;
    let pins_by_partition = set.spec.update_strategy.partition.is_some()
        && set.spec.injection_strategy.revision.as_ref().is_some_and(partial);
    // The leader says when the partition is full and pins; else it says the newest.
    if set.spec.injection_strategy.new_pods == NewPods::Latest && !pins_by_partition {
        return None;
    }
    status.injection_revision.as_deref()
}

/// `updateStrategy.selector` and the stable revision, where new pods follow the rollout.
fn outside(valid: &ValidSidecarSet, history: &History) -> Option<Special> {
    let (set, upgraded) = (valid.set(), valid.selectors().upgraded.clone()?);
    let follows = set.spec.injection_strategy.new_pods != NewPods::Latest;
    if !follows || set.spec.update_strategy.type_ != UpdateType::RollingUpdate {
        return None;
    }
    let hash = set.status.as_ref()?.stable_revision.as_ref()?;
    let stable = Arc::new(CompiledTemplate::new(hash, &history.get(hash)?.template));
    Some(Special { template: Ok(stable), except: Some(upgraded) })
}

fn pinned(valid: &ValidSidecarSet, (hash, target): (&str, &Template), history: &History) -> Option<Special> {
    let set = valid.set();
    let wanted = set.spec.injection_strategy.revision.as_ref()?;
    let partial = wanted.policy == RevisionPolicy::Partial && !set.spec.update_strategy.paused;
    let found = find_revision(set, wanted, (hash, target), history)
        .map(|(hash, template)| Arc::new(CompiledTemplate::new(hash, template)));
    // Without a selector partition decides, and the leader follows it with injectionRevision: no pod is outside.
    let except = partial.then(|| valid.selectors().upgraded.clone().unwrap_or_default());
    Some(Special { template: found.ok_or_else(|| not_found(valid.name(), wanted)), except })
}

/// The revision that `injectionStrategy.revision` names: of several with one `customVersion` the newest.
fn find_revision<'a>(
    set: &'a SidecarSet,
    wanted: &InjectionRevision,
    (hash, target): (&'a str, &'a Template),
    history: &'a History,
) -> Option<(&'a str, &'a Template)> {
    let name = set.name_any();
    if is_named(wanted, &name, hash, set.spec.custom_version.as_deref()) {
        return Some((hash, target));
    }
    let named =
        |(hash, revision): &(&String, &Revision)| is_named(wanted, &name, hash, revision.custom_version.as_deref());
    let newest = history.iter().filter(named).max_by_key(|(_, revision)| revision.number);
    newest.map(|(hash, revision)| (hash.as_str(), &revision.template))
}

/// Whether `wanted` names this revision of a set, by the name of its object, by its hash, or by its `customVersion`.
fn is_named(wanted: &InjectionRevision, set: &str, hash: &str, version: Option<&str>) -> bool {
    wanted.revision_name.as_deref().is_none_or(|wanted| wanted == hash || wanted == revision::name(set, hash))
        && wanted.custom_version.as_deref().is_none_or(|wanted| version == Some(wanted))
}

/// Why a set that is about to be written cannot pin the revision that it names. `known`: the set as it is served now.
pub(crate) fn unknown_revision(set: &SidecarSet, known: Option<&CompiledSet>) -> Option<String> {
    let wanted = set.spec.injection_strategy.revision.as_ref()?;
    let name = set.name_any();
    let own = Template::of(&set.spec).hash(collisions(set));
    let found = is_named(wanted, &name, &own, set.spec.custom_version.as_deref())
        || known.is_some_and(|known| {
            // The revision of this very template gets the new customVersion, and loses the old one.
            let others = known.known_revisions.iter().filter(|(hash, _)| *hash != own);
            others.into_iter().any(|(hash, version)| is_named(wanted, &name, hash, version.as_deref()))
        });
    (!found).then(|| not_found(&name, wanted))
}

/// Says how to find the revisions that there are.
fn not_found(set: &str, wanted: &InjectionRevision) -> String {
    let InjectionRevision { revision_name, custom_version, policy: _ } = wanted;
    let version = custom_version.as_deref().unwrap_or_default();
    let what = match revision_name {
        Some(name) if custom_version.is_some() => format!("revision {name:?} with customVersion {version:?}"),
        Some(name) => format!("revision {name:?}"),
        None => format!("customVersion {version:?}"),
    };
    format!(
        "{what} is not in the history of SidecarSet {set:?}: kubectl get controllerrevisions -A -l {}={set} lists what is",
        keys::SET
    )
}

impl CompiledTemplate {
    pub(super) fn names(&self, list: List) -> impl Iterator<Item = &String> {
        self.containers.iter().filter(move |container| container.list == list).map(|container| &container.name)
    }

    fn new(revision: &str, template: &Template) -> Self {
        let containers: Vec<CompiledContainer> = List::ALL
            .into_iter()
            .flat_map(|list| template.entries(list.field()).filter(|e| e.is_object()).map(move |entry| (list, entry)))
            .flat_map(|(list, entry)| prepare(list, entry))
            .collect();
        let mounted: BTreeSet<&str> = containers.iter().flat_map(|c| used_volumes(&c.json)).collect();
        let is_mounted = |volume: &&Value| volume["name"].as_str().is_some_and(|name| mounted.contains(name));
        let hot = containers.iter().filter(|c| c.entry != c.name).rev().map(|c| (c.entry.clone(), c.name.clone()));
        let mut compiled = Self {
            revision: revision.to_owned(),
            hash_without_images: template.hash_without_images(),
            volumes: template.entries("volumes").filter(is_mounted).cloned().collect(),
            pod_volumes: template
                .entries("podVolumes")
                .filter(is_mounted)
                .filter_map(|volume| volume["name"].as_str().map(str::to_owned))
                .collect(),
            pull_secrets: template.entries("imagePullSecrets").cloned().collect(),
            metadata: template
                .entries("patchPodMetadata")
                .filter_map(|e| serde_json::from_value(e.clone()).ok())
                .collect(),
            // Reversed, so that of two twins the first stays.
            hot: hot.collect(),
            shares_budget: shares_budget(template),
            preserves_qos: template.field("resources")["preserveQoS"] == true,
            containers,
            for_jobs: None,
        };
        if template.field("jobPods") == "Native" {
            let containers = compiled.containers.iter().cloned().map(native).collect();
            compiled.for_jobs = Some(Box::new(Self { containers, ..compiled.clone() }));
        }
        compiled
    }

    /// What goes into a pod.
    pub(super) fn for_pod(&self, is_of_job: bool) -> &Self {
        self.for_jobs.as_deref().filter(|_| is_of_job).unwrap_or(self)
    }
}

/// A container as a native sidecar: it starts where an ordinary one does first, behind the pod's init containers, and ends
/// with the application.
fn native(mut container: CompiledContainer) -> CompiledContainer {
    if container.list == List::Ordinary {
        container.list = List::Init;
        container.policy = None;
        container.json["restartPolicy"] = json!("Always");
    }
    container
}

/// The containers that one entry of a set becomes: one, or the two twins of a hot upgrade.
fn prepare(list: List, entry: &Value) -> Vec<CompiledContainer> {
    let name = entry["name"].as_str().unwrap_or_default();
    if !revision::is_hot(entry) {
        return vec![container(list, entry, name)];
    }
    let [first, second] = keys::twins(name);
    let idle = json!(entry["upgradeStrategy"]["hotUpgradeEmptyImage"]);
    [(first, entry["image"].clone()), (second, idle)]
        .into_iter()
        .map(|(twin, image)| {
            let mut entry = entry.clone();
            entry["name"] = json!(twin);
            entry["image"] = image;
            let versions =
                [("SIDECARSET_VERSION", keys::VERSION_PREFIX), ("SIDECARSET_VERSION_ALT", keys::VERSION_ALT_PREFIX)];
            let variables = versions.map(|(variable, prefix)| {
                let path = format!("metadata.annotations['{prefix}{twin}']");
                json!({"name": variable, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
            });
            let env = entry["env"].as_array().cloned().unwrap_or_default();
            entry["env"] = env.into_iter().chain(variables).collect();
            container(list, &entry, name)
        })
        .collect()
}

fn container(list: List, entry: &Value, entry_name: &str) -> CompiledContainer {
    let entry = SidecarContainer::deserialize(entry).unwrap_or_default();
    let shares = Shares::of(&entry);
    let SidecarContainer { mut container, pod_inject_policy, resources_policy, depends_on, .. } = entry;
    let env = container.env.get_or_insert_default();
    env.retain(|variable| variable.name != keys::IS_INJECTED);
    env.push(EnvVar { name: keys::IS_INJECTED.to_owned(), value: Some("true".to_owned()), value_from: None });
    let mut json = serde_json::to_value(&container).unwrap_or_default();
    drop_zero_values(&mut json);
    CompiledContainer {
        list,
        name: container.name,
        entry: entry_name.to_owned(),
        policy: pod_inject_policy,
        depends_on,
        shares,
        resources: resources_policy.as_ref().and_then(resources::Policy::new),
        json,
    }
}

/// The apiserver hands back objects without these; keeping them would make a re-invocation find differences.
fn drop_zero_values(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_zero_values);
            fields.retain(|key, value| match value {
                Value::String(text) => !text.is_empty(),
                Value::Array(list) => !list.is_empty(),
                Value::Bool(false) => !FALSE_IS_ABSENT.contains(&key.as_str()),
                Value::Number(number) => number.as_i64() != Some(0) || !ZERO_IS_ABSENT.contains(&key.as_str()),
                Value::Null => false,
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(drop_zero_values),
        _ => {}
    }
}
