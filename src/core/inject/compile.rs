//! Sets prepared for injection, once per change, and indexed so that a pod costs as much as the sets that match it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube::core::Expression;
use serde_json::{Value, json};

use crate::api::crd::OWN_CONTAINER_FIELDS;
use crate::api::keys;
use crate::api::selector::{Selector, SelectorError, key};
use crate::api::v1beta1::{FailurePolicy, PatchPodMetadata, PatchPolicy, PodInjectPolicy, SidecarSetSpec};
use crate::core::revision::{List, Template};

/// Fields whose zero value the apiserver drops or replaces by a default; everywhere else false and 0 mean something.
const FALSE_IS_ABSENT: [&str; 4] = ["tty", "stdin", "stdinOnce", "readOnly"];
const ZERO_IS_ABSENT: [&str; 6] =
    ["hostPort", "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// A container as it goes into a pod.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) list: List,
    pub(super) name: String,
    pub(super) before_app: bool,
    pub(super) json: Value,
}

/// One set.
#[derive(Clone, Debug)]
pub struct CompiledSet {
    /// Name of the set.
    pub name: String,
    /// Pods that it wants.
    pub selector: Selector,
    /// Their namespaces; `None` for all.
    pub namespace_selector: Option<Selector>,
    /// What happens to a pod that cannot be injected.
    pub failure_policy: FailurePolicy,
    /// `injectionStrategy.paused`.
    pub paused: bool,
    /// Hash of the revision that new pods get.
    pub revision: String,
    pub(super) containers: Vec<Prepared>,
    pub(super) volumes: Vec<Value>,
    pub(super) pull_secrets: Vec<Value>,
    pub(super) annotations: Vec<(String, String, bool)>,
    /// Value of the annotation `injection.sidecarset.dev/<set>`.
    pub(super) mark: String,
    /// Container and volume names of every known revision: only these can be ours on a pod that says so.
    pub(super) known_names: BTreeSet<String>,
}

impl CompiledSet {
    /// Prepares a set. `template` with hash `revision` is what new pods get; `history` are all its known revisions.
    ///
    /// # Errors
    /// A selector that does not parse; validation says so with its full path.
    pub fn new<'a>(
        name: &str,
        spec: &SidecarSetSpec,
        (revision, template): (&str, &'a Template),
        history: impl IntoIterator<Item = &'a Template>,
    ) -> Result<Self, SelectorError> {
        let containers: Vec<Prepared> = List::ALL
            .into_iter()
            .flat_map(|list| {
                template.entries(list.field()).filter(|e| e.is_object()).map(move |entry| prepare(list, entry))
            })
            .collect();
        let mounted: BTreeSet<&str> = containers.iter().flat_map(|c| mounted_volumes(&c.json)).collect();
        let is_mounted = |volume: &&Value| volume["name"].as_str().is_some_and(|name| mounted.contains(name));
        let volumes: Vec<Value> = template.entries("volumes").filter(is_mounted).cloned().collect();
        let known_names = history.into_iter().chain([template]).flat_map(names).collect();
        Ok(Self {
            name: name.to_owned(),
            selector: Selector::parse(&spec.selector)?,
            namespace_selector: spec.namespace_selector.as_ref().map(Selector::parse).transpose()?,
            failure_policy: spec.injection_strategy.failure_policy,
            paused: spec.injection_strategy.paused,
            revision: revision.to_owned(),
            mark: mark(&containers, &volumes),
            pull_secrets: template.entries("imagePullSecrets").cloned().collect(),
            annotations: spec.patch_pod_metadata.iter().flat_map(annotations).collect(),
            containers,
            volumes,
            known_names,
        })
    }
}

/// All sets, by name, with an index on what their selectors require.
#[derive(Clone, Debug, Default)]
pub struct CompiledSets {
    sets: Vec<Arc<CompiledSet>>,
    /// Sets that require this value of this label.
    by_value: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Sets that require this label, whatever its value.
    by_key: HashMap<String, Vec<usize>>,
    /// Sets that require no label to be there.
    others: Vec<usize>,
}

impl CompiledSets {
    /// Builds the index.
    pub fn new(sets: impl IntoIterator<Item = Arc<CompiledSet>>) -> Self {
        let mut sets: Vec<_> = sets.into_iter().collect();
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        let mut index = Self::default();
        for (position, set) in sets.iter().enumerate() {
            index.insert(position, &set.selector);
        }
        index.sets = sets;
        index
    }

    fn insert(&mut self, position: usize, selector: &Selector) {
        let mut requirements: Vec<&Expression> = selector.requirements().iter().collect();
        requirements.sort_by_key(|requirement| !matches!(requirement, Expression::Equal(..) | Expression::In(..)));
        match requirements.first() {
            Some(Expression::Equal(key, value)) => self.insert_value(position, key, value),
            Some(Expression::In(key, values)) => {
                for value in values {
                    self.insert_value(position, key, value);
                }
            }
            _ => match requirements.iter().find(|r| matches!(r, Expression::Exists(_))) {
                Some(exists) => self.by_key.entry(key(exists).to_owned()).or_default().push(position),
                None => self.others.push(position),
            },
        }
    }

    fn insert_value(&mut self, position: usize, key: &str, value: &str) {
        self.by_value.entry(key.to_owned()).or_default().entry(value.to_owned()).or_default().push(position);
    }

    /// All sets, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledSet>> {
        self.sets.iter()
    }

    /// The set of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<CompiledSet>> {
        self.sets.binary_search_by(|set| set.name.as_str().cmp(name)).ok().map(|position| &self.sets[position])
    }

    /// Sets that select a pod with these labels in a namespace with those, by name.
    pub fn matching(
        &self,
        labels: &BTreeMap<String, String>,
        namespace_labels: &BTreeMap<String, String>,
    ) -> Vec<&CompiledSet> {
        let by_value = labels.iter().filter_map(|(key, value)| self.by_value.get(key)?.get(value)).flatten();
        let by_key = labels.keys().filter_map(|key| self.by_key.get(key)).flatten();
        let candidates: BTreeSet<usize> = by_value.chain(by_key).chain(&self.others).copied().collect();
        let sets = candidates.into_iter().map(|position| self.sets[position].as_ref());
        sets.filter(|set| {
            set.selector.matches(labels)
                && set.namespace_selector.as_ref().is_none_or(|selector| selector.matches(namespace_labels))
        })
        .collect()
    }
}

fn prepare(list: List, entry: &Value) -> Prepared {
    let mut json = entry.clone();
    let policy: Option<PodInjectPolicy> = serde_json::from_value(json["podInjectPolicy"].take()).ok();
    if let Some(fields) = json.as_object_mut() {
        for field in OWN_CONTAINER_FIELDS {
            fields.remove(field);
        }
    }
    drop_zero_values(&mut json);
    let env = json["env"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let own = env.into_iter().filter(|variable| variable["name"] != keys::IS_INJECTED);
    json["env"] = own.chain([json!({"name": keys::IS_INJECTED, "value": "true"})]).collect();
    Prepared {
        list,
        name: json["name"].as_str().unwrap_or_default().to_owned(),
        // OpenKruise's defaults: ordinary sidecars in front of the application, init containers behind its own.
        before_app: match policy {
            Some(policy) => policy == PodInjectPolicy::BeforeAppContainer,
            None => list == List::Ordinary,
        },
        json,
    }
}

/// The apiserver hands back objects without these; keeping them would make a re-invocation find differences.
pub(super) fn drop_zero_values(value: &mut Value) {
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

/// Names of the volumes that a container mounts, as file systems or block devices.
pub(super) fn mounted_volumes(container: &Value) -> impl Iterator<Item = &str> {
    ["volumeMounts", "volumeDevices"]
        .into_iter()
        .filter_map(|list| container[list].as_array())
        .flatten()
        .filter_map(|mount| mount["name"].as_str())
}

fn names(template: &Template) -> impl Iterator<Item = String> {
    ["containers", "initContainers", "volumes"]
        .into_iter()
        .flat_map(|field| template.entries(field))
        .filter_map(|entry| entry["name"].as_str().map(str::to_owned))
}

fn annotations(patch: &PatchPodMetadata) -> impl Iterator<Item = (String, String, bool)> {
    let overwrite = patch.patch_policy == Some(PatchPolicy::Overwrite);
    patch.annotations.iter().map(move |(key, value)| (key.clone(), value.clone(), overwrite))
}

fn mark(containers: &[Prepared], volumes: &[Value]) -> String {
    let of = |list: List| containers.iter().filter(|c| c.list == list).map(|c| c.name.clone()).collect::<Vec<_>>();
    let volumes: Vec<&Value> = volumes.iter().map(|volume| &volume["name"]).collect();
    json!({"containers": of(List::Ordinary), "initContainers": of(List::Init), "volumes": volumes}).to_string()
}
