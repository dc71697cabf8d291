//! The decision: a set, a cluster's pods and the operator's own functions → what would happen to each pod.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use json_patch::Patch;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::Value;

use super::evict::evictions;
use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::api::v1beta1::ExistingPods;
use crate::api::validate::{ValidSidecarSet, validate};
use crate::core::base::image::same_image;
use crate::core::inject::{CompiledSet, CompiledSets, Injection, Request, inject};
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::replace::exempt;
use crate::core::replace::uninjected::inject_anew;
use crate::core::revision::{History, Template, collisions};
use crate::core::rollout::assess::resize;
use crate::core::rollout::assess::state::{Obstacle, ObstacleKind, State};
use crate::core::rollout::plan::begin_batch;
use crate::core::rollout::plan::evict::quota::quota;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::request::patch::pod_patch;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::{Rollout, rollout};
use crate::core::status::{Outlook, outlook};

/// What the cluster holds, besides pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// The set as it is now.
    pub(crate) existing: Option<SidecarSet>,
    /// All other sets.
    pub(crate) others: Vec<SidecarSet>,
    /// Known revisions, by set.
    pub(crate) revisions: BTreeMap<String, History>,
    /// Labels of the namespaces.
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether the kubelet of a node restarts native sidecars for a new image.
    pub(crate) nodes: BTreeMap<String, Option<bool>>,
    /// The apiserver does not let resources of running pods be changed.
    pub(crate) cannot_resize: bool,
}

impl World {
    /// The same with other sets applied, too: those of the same input.
    pub(crate) fn suppose(&mut self, beside: &[SidecarSet]) {
        let name = |set: &SidecarSet| set.name_any();
        self.others.retain(|other| !beside.iter().any(|set| name(set) == name(other)));
        self.others.extend_from_slice(beside);
    }

    /// The other sets that the operator serves.
    pub(super) fn valid_others(&self) -> Vec<ValidSidecarSet> {
        self.others.iter().filter_map(|other| validate(other).ok()).collect()
    }
}

/// What would happen to a pod. The order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Its sidecars get their new images and resources, and it its new metadata.
    Patch,
    /// It is evicted, and its successor gets the sidecars.
    Evict,
    /// It keeps its sidecars as they are until somebody recreates it.
    LeaveBehind,
    /// It has no sidecars, and its successor gets them.
    Inject,
    /// Its successor would be refused.
    Refuse,
    /// It carries sidecars of the set and is not selected any more.
    Unselect,
    /// Nothing.
    Nothing,
}

impl Action {
    /// The words of the table.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch in place",
            Self::Evict => "evict",
            Self::LeaveBehind => "leave behind",
            Self::Inject => "inject when recreated",
            Self::Refuse => "refuse when recreated",
            Self::Unselect => "no longer selected",
            Self::Nothing => "untouched",
        }
    }
}

/// One pod of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// What would happen.
    pub(crate) action: Action,
    /// Why, naming the field or the reason.
    pub(crate) why: String,
    /// The pod.
    pub(crate) pod: PodKey,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The set that would be applied.
    pub(crate) set: SidecarSet,
    /// The set as it is now.
    pub(crate) existing: Option<SidecarSet>,
    /// What applying keeps of the set as it is, see [`super::Applied::kept`].
    pub(crate) kept: Vec<String>,
    /// Hash of the revision of the set that would be applied.
    pub(crate) revision: String,
    /// Every pod that the set concerns, by action, reason and name.
    pub(crate) rows: Vec<Row>,
    /// Pods that would be patched at once.
    pub(crate) first: Vec<PodKey>,
    /// Pods that would be evicted at once.
    pub(crate) evicted_first: Vec<PodKey>,
    /// Why no pod is evicted now, if something forbids all evictions.
    pub(crate) hold: Option<&'static str>,
    /// The rollout's numbers before the first patch.
    pub summary: Summary,
    /// What the status would say to them.
    pub(crate) outlook: Outlook,
}

impl Plan {
    /// True if applying the set would change it.
    pub(crate) fn differs(&self) -> bool {
        self.existing.as_ref().is_none_or(|existing| existing.spec != self.set.spec)
    }
}

/// Takes pods, and plans.
#[derive(Debug)]
pub(crate) struct Planner {
    set: SidecarSet,
    name: String,
    world: World,
    compiled: CompiledSets,
    rollout: Rollout,
    index: Index,
    uninjected: Vec<Row>,
    /// Of these, the ones to be evicted.
    evicted: Vec<PodView>,
    now: Timestamp,
}

impl Planner {
    /// Plans a set in a world.
    pub fn new(valid: &ValidSidecarSet, world: World, now: Timestamp) -> Self {
        let (set, name) = (SidecarSet::clone(valid.set()), valid.name().to_owned());
        let rollout = rollout_of(valid, &world, now);
        let compiled = compile(valid, &world);
        let mut index = Index::default();
        for (namespace, labels) in &world.namespaces {
            index.set_namespace(namespace, Some(labels.clone()));
        }
        index.set_can_resize(!world.cannot_resize);
        for (node, able) in &world.nodes {
            index.set_node(node, *able);
        }
        Self { set, name, world, compiled, rollout, index, uninjected: Vec::new(), evicted: Vec::new(), now }
    }

    /// The set that is planned.
    pub fn set(&self) -> &SidecarSet {
        &self.set
    }

    /// Adds a pod: one that the set selects, or that carries its sidecars; the latter may be given twice.
    ///
    /// # Errors
    /// Something that is no pod.
    pub(crate) fn add(&mut self, pod: &Value) -> Result<(), serde_json::Error> {
        let view = PodView::new(SlimPod::deserialize(pod)?);
        if view.is_active() && view.marks.contains_key(&self.name) {
            self.index.apply(view, self.now);
        } else if view.is_active()
            && let Some((action, why)) =
                self.fate_of_uninjected(pod, exempt(view.owner.as_deref(), view.restarts_always).is_none())
        {
            self.uninjected.push(Row { action, why, pod: view.key.clone() });
            if action == Action::Evict {
                self.evicted.push(view);
            }
        }
        Ok(())
    }

    /// What would happen to the pods so far.
    pub fn plan(&mut self) -> Plan {
        let (movable, evictable) = (self.movable(), self.evictable());
        self.index.configure(self.rollout.target.clone(), self.now);
        self.index.set_evictions(&self.name, &self.rollout.persisted.evictions);
        let first = begin_batch(&mut self.index, &self.name, &self.rollout.persisted, self.now, usize::MAX);
        let hold = self.hold();
        let evicted_first = match hold {
            Some(_) => Vec::new(),
            None => evictions(&mut self.index, &self.set, &self.compiled, &self.rollout, &self.evicted, self.now),
        };
        let given_up = first.summary.is_halted(&self.rollout.target);
        let carried = self.index.pods().map(|pod| {
            let (action, why) = self.fate_of_carrier(pod, &movable, &evictable, given_up);
            Row { action, why, pod: pod.key.clone() }
        });
        let mut rows: Vec<Row> = self.uninjected.iter().cloned().chain(carried).collect();
        rows.sort();
        Plan {
            set: self.set.clone(),
            existing: self.world.existing.clone(),
            kept: Vec::new(),
            revision: self.rollout.update_revision.clone(),
            rows,
            first: first.patches.into_iter().map(|patch| patch.key).collect(),
            evicted_first,
            hold,
            outlook: outlook(&self.rollout, &first.summary),
            summary: first.summary,
        }
    }

    /// Why nothing is evicted now.
    fn hold(&self) -> Option<&'static str> {
        let spec = &self.set.spec;
        match (spec.injection_strategy.paused, spec.update_strategy.paused) {
            (true, _) => Some("paused: set injectionStrategy.paused to false to go on"),
            (_, true) => Some("paused: set updateStrategy.paused to false to go on"),
            _ => None,
        }
    }

    /// How a pod would look: patched where it stands, or recreated. `None` if nothing happens to it.
    pub(crate) fn outcome(&self, action: Action, pod: &Value) -> Option<Value> {
        let patch = match action {
            Action::Patch => return self.patched(pod).filter(|after| after != pod),
            Action::Evict | Action::LeaveBehind | Action::Inject => self.inject(pod).patch,
            Action::Refuse | Action::Unselect | Action::Nothing => Patch::default(),
        };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &patch).ok()?;
        (after != *pod).then_some(after)
    }

    /// The pod after the request for images, metadata and marks, and the one for resources.
    fn patched(&self, pod: &Value) -> Option<Value> {
        let mut after = pod.clone();
        for resizes in [false, true] {
            let view = PodView::new(SlimPod::deserialize(&after).ok()?);
            let assessed = self.index.judge(&self.name, &view, self.now)?;
            let request = pod_patch(&view, &self.rollout.target, &assessed, self.now)?;
            let patch = match &request.metadata {
                Some(change) => change.complete(&request.patch, &after["metadata"], &self.compiled)?,
                None => request.patch,
            };
            if !resizes || request.resizes {
                json_patch::patch(&mut after, &patch).ok()?;
            }
        }
        Some(after)
    }

    fn inject(&self, pod: &Value) -> Injection {
        self.ask(pod, inject)
    }

    fn ask(&self, pod: &Value, inject: fn(&CompiledSets, &Request<'_>) -> Injection) -> Injection {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let no_labels = BTreeMap::new();
        let namespace_labels = self.world.namespaces.get(namespace).unwrap_or(&no_labels);
        inject(&self.compiled, &Request { pod, namespace, namespace_labels, excluded: &[] })
    }

    /// Pods that would be patched sooner or later: those of a rollout whose budget is no limit.
    fn movable(&mut self) -> HashSet<PodKey> {
        let mut unlimited = self.rollout.target.clone();
        unlimited.strategy.paused = false;
        unlimited.strategy.max_unavailable = IntOrString::String("100%".to_owned());
        unlimited.strategy.max_unavailable_per_workload = None;
        unlimited.strategy.steps = Vec::new();
        self.index.configure(unlimited, self.now);
        let plan = begin_batch(&mut self.index, &self.name, &self.rollout.persisted, self.now, usize::MAX);
        plan.patches.into_iter().map(|patch| patch.key).collect()
    }

    /// Pods that would be evicted sooner or later, after what [`Self::movable`] has set up: of those that wait as many as
    /// partition lets go, the youngest first.
    fn evictable(&mut self) -> HashSet<PodKey> {
        // As after the last patch: what was planned is not counted again.
        let upgrades = quota(&self.index, &self.name, 0, self.now).map_or(0, |quota| quota.upgrades);
        let mut pods: Vec<&Arc<PodView>> = self.index.pods().filter(|pod| self.is_evictable(pod)).collect();
        pods.sort_by_key(|pod| (pod.ready, Reverse(pod.created), Reverse(pod.key.clone())));
        pods.into_iter().take(upgrades).map(|pod| pod.key.clone()).collect()
    }

    fn is_evictable(&self, pod: &PodView) -> bool {
        self.index.judge(&self.name, pod, self.now).is_some_and(|assessed| assessed.is_evictable())
    }

    /// What becomes of a pod that cannot be patched.
    fn fate_of_left_behind(
        &self,
        pod: &PodView,
        why: &Obstacle,
        evictable: &HashSet<PodKey>,
        kept: &str,
    ) -> (Action, String) {
        let strategy = &self.rollout.target.strategy;
        let outside = strategy.selector.as_ref().is_some_and(|selector| !selector.matches(&pod.labels));
        let asked = strategy.evicts && strategy.enabled && !outside && why.kind != ObstacleKind::Passing;
        match exempt(pod.owner.as_deref(), pod.restarts_always).filter(|_| asked) {
            _ if evictable.contains(&pod.key) => (Action::Evict, why.text.clone()),
            Some(kind) => (Action::LeaveBehind, format!("{}; {kind} are not evicted", why.text)),
            None if asked => (Action::Nothing, format!("{kept}; {}", why.text)),
            None => (Action::LeaveBehind, why.text.clone()),
        }
    }

    /// `None` if the set does not select the pod.
    fn fate_of_uninjected(&self, pod: &Value, may_evict: bool) -> Option<(Action, String)> {
        let injection = self.ask(pod, inject_anew);
        if let Some(message) = injection.refused {
            return Some((Action::Refuse, message));
        }
        let outcome = injection.outcomes.into_iter().find(|outcome| outcome.set == self.name)?;
        let evict = self.set.spec.injection_strategy.existing_pods == ExistingPods::Evict && may_evict;
        Some(match outcome.reason {
            Reason::Injected | Reason::AlreadyInjected => {
                let action = if evict { Action::Evict } else { Action::Inject };
                (action, "it has no sidecars of the set".to_owned())
            }
            reason if outcome.message.is_empty() => (Action::Nothing, reason.to_string()),
            reason => (Action::Nothing, format!("{reason}: {}", outcome.message)),
        })
    }

    fn fate_of_carrier(
        &self,
        pod: &PodView,
        movable: &HashSet<PodKey>,
        evictable: &HashSet<PodKey>,
        given_up: bool,
    ) -> (Action, String) {
        let strategy = &self.rollout.target.strategy;
        let outside = strategy.selector.as_ref().is_some_and(|selector| !selector.matches(&pod.labels));
        let kept = if given_up {
            format!("revision {} is given up", self.rollout.update_revision)
        } else {
            "updateStrategy.partition keeps it on the old revision".to_owned()
        };
        let back = self.rollout.target.direction == Direction::Back;
        let at = if back { "back on the stable revision" } else { "at this revision" };
        let at_rest = |more: &str| (Action::Nothing, format!("{at}{more}"));
        let nothing = |why: &str| (Action::Nothing, why.to_owned());
        match self.index.state(&self.name, &pod.key) {
            None => (Action::Unselect, "it keeps its sidecars until it is recreated".to_owned()),
            Some(State::Outdated) if movable.contains(&pod.key) => (Action::Patch, self.changes(pod)),
            Some(State::Outdated) if !strategy.enabled => nothing("updateStrategy.type is NotUpdate"),
            Some(State::Outdated) if outside => nothing("it is outside updateStrategy.selector"),
            Some(State::Outdated) => (Action::Nothing, kept),
            Some(State::NotInPlace(why)) => self.fate_of_left_behind(pod, why, evictable, &kept),
            Some(State::Failed(why)) => at_rest(&format!(", failed: {why}")),
            Some(State::Unconfirmed(why)) => (Action::Nothing, why.clone()),
            Some(State::Refused(why)) => (Action::Nothing, format!("the patch was refused: {why}")),
            Some(State::ResetDue) => at_rest(", a twin of a hot sidecar is to be reset"),
            Some(State::Updating) => at_rest(", its update is not finished"),
            Some(State::NotReady) => at_rest(", not ready"),
            Some(State::Available) => at_rest(""),
        }
    }

    fn changes(&self, pod: &PodView) -> String {
        let target = &self.rollout.target;
        let images = target.sidecars.iter().filter_map(|sidecar| {
            let names = sidecar.container_names();
            let mut containers = names.iter().filter_map(|name| pod.container(name));
            let container =
                containers.find(|container| !sidecar.hot || !same_image(&container.image, &sidecar.idle_image))?;
            let changed = !same_image(&container.image, &sidecar.image);
            changed.then(|| format!("{}: {} -> {}", sidecar.name, container.image, sidecar.image))
        });
        let beside = pod.marks.get(&self.name).and_then(|mark| target.beside.get(&mark.revision));
        let metadata = beside.and_then(|beside| beside.metadata.as_ref()).map(|_| "labels and annotations".to_owned());
        images.chain(resize::describe(pod, target)).chain(metadata).collect::<Vec<_>>().join(", ")
    }
}

/// The rollout of the set, as the controller decides it once the set is applied.
fn rollout_of(valid: &ValidSidecarSet, world: &World, now: Timestamp) -> Rollout {
    let template = Template::of(&valid.set().spec);
    let hash = template.hash(world.existing.as_ref().map_or(0, collisions));
    let valid = valid.with_status(world.existing.as_ref().and_then(|existing| existing.status.clone()));
    let history = world.revisions.get(valid.name()).cloned().unwrap_or_default();
    let mut rollout = rollout(&valid, (&hash, &template), &history, now);
    // Pulling delays a pod; it does not change what becomes of it.
    rollout.target.strategy.pre_pull = false;
    rollout
}

/// The sets as the webhook serves them once this one is applied.
fn compile(valid: &ValidSidecarSet, world: &World) -> CompiledSets {
    let none = History::new();
    let compile =
        |valid: &ValidSidecarSet| Arc::new(CompiledSet::new(valid, world.revisions.get(valid.name()).unwrap_or(&none)));
    CompiledSets::new(world.valid_others().iter().chain([valid]).map(compile))
}
