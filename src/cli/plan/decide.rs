//! The decision: a set, a cluster's pods and the operator's own functions → what would happen to each pod.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::Value;

use crate::api::SidecarSet;
use crate::api::canonical::same;
use crate::api::reasons::Reason;
use crate::api::v1beta1::ExistingPods;
use crate::api::validate::{ValidSidecarSet, validate};
use crate::cli::sets::{NamespaceLabels, compile};
use crate::core::inject::{CompiledSets, Injection, Request, inject};
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::replace::exempt;
use crate::core::replace::uninjected::inject_anew;
use crate::core::revision::{History, Template, collisions};
use crate::core::rollout::assess::checks::replaced;
use crate::core::rollout::assess::state::{Evictability, PodState};
use crate::core::rollout::assess::{Assessment, resize};
use crate::core::rollout::plan::evict::input::quota;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::plan::{begin_batch, report};
use crate::core::rollout::request::patch::pod_patch;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::{Rollout, rollout};
use crate::core::status::completion::Completion;
use crate::core::status::new_pods::injection_revision;
use crate::core::status::{Forecast, forecast};

/// What the cluster holds, besides pods.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterSnapshot {
    /// The set as it is now.
    pub(super) existing: Option<SidecarSet>,
    /// All other sets.
    pub(super) others: Vec<SidecarSet>,
    /// Known revisions, by set.
    pub(super) revisions: BTreeMap<String, History>,
    pub(super) namespaces: NamespaceLabels,
    /// Whether the kubelet of a node restarts native sidecars for a new image.
    pub(super) nodes: BTreeMap<String, Option<bool>>,
    /// The apiserver does not let resources of running pods be changed.
    pub(super) cannot_resize: bool,
}

impl ClusterSnapshot {
    /// The same with other sets applied, too: those of the same input.
    pub(super) fn suppose(&mut self, beside: &[SidecarSet]) {
        self.others.retain(|other| !beside.iter().any(|set| set.name_any() == other.name_any()));
        self.others.extend_from_slice(beside);
    }

    /// The other sets that the operator serves.
    pub(super) fn valid_others(&self) -> Vec<ValidSidecarSet> {
        self.others.iter().filter_map(|other| validate(other).ok()).filter(ValidSidecarSet::is_served).collect()
    }
}

/// What would happen to a pod. The order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
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
    Nothing,
}

impl Action {
    /// As the table says it.
    pub(super) fn as_str(self) -> &'static str {
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
pub(super) struct Row {
    pub(super) action: Action,
    /// Why, naming the field or the reason.
    pub(super) why: String,
    pub(super) pod: PodKey,
}

/// The answer.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The set that would be applied.
    pub(super) set: SidecarSet,
    /// The set as it is now.
    pub(super) existing: Option<SidecarSet>,
    /// What applying keeps of the set as it is, see [`super::Applied::kept`].
    pub(super) kept: Vec<String>,
    /// Hash of the revision of the set that would be applied.
    pub(super) revision: String,
    /// Every pod that the set concerns, by action, reason and name.
    pub(super) rows: Vec<Row>,
    /// Pods that would be patched at once.
    pub(super) first: Vec<PodKey>,
    /// Pods that would be evicted at once.
    pub(super) evicted_first: Vec<PodKey>,
    /// Why no pod is evicted now, if something forbids all evictions.
    pub(super) hold: Option<&'static str>,
    /// The rollout's numbers before the first patch.
    pub(super) summary: Summary,
    /// What the status would say to them.
    pub(super) forecast: Forecast,
}

impl Plan {
    /// True if applying the set would change what it means.
    pub(super) fn differs(&self) -> bool {
        let spec = |set: &SidecarSet| serde_json::to_value(&set.spec).unwrap_or_default();
        self.existing.as_ref().is_none_or(|existing| !same("", &spec(existing), &spec(&self.set)))
    }
}

/// Takes pods, and plans.
#[derive(Debug)]
pub(super) struct Planner {
    pub(super) set: SidecarSet,
    name: String,
    world: ClusterSnapshot,
    pub(super) compiled: CompiledSets,
    pub(super) rollout: Rollout,
    pub(super) index: Index,
    uninjected: Vec<Row>,
    /// Of these, the ones to be evicted.
    pub(super) evicted: Vec<PodView>,
    pub(super) now: Timestamp,
}

/// Pods that would be moved sooner or later.
struct Later {
    patched: HashSet<PodKey>,
    evicted: HashSet<PodKey>,
}

impl Planner {
    pub(super) fn new(valid: &ValidSidecarSet, world: ClusterSnapshot, now: Timestamp) -> Self {
        let (set, name) = (SidecarSet::clone(valid.set()), valid.name().to_owned());
        let rollout = rollout_of(valid, &world, now);
        let compiled = compile(world.valid_others().into_iter().chain([valid.clone()]), &world.revisions);
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

    /// Adds a pod: one that the set selects, or that carries its sidecars; the latter may be given twice.
    pub(super) fn add(&mut self, pod: &Value) -> Result<(), serde_json::Error> {
        let view = PodView::new(SlimPod::deserialize(pod)?);
        if !view.is_active() {
            return Ok(());
        }
        if view.marks.contains_key(&self.name) {
            self.index.apply(view, self.now);
        } else if let Some((action, why)) = self.fate_of_uninjected(pod, &view) {
            self.uninjected.push(Row { action, why, pod: view.key.clone() });
            if action == Action::Evict {
                self.evicted.push(view);
            }
        }
        Ok(())
    }

    /// What would happen to the pods so far.
    pub(super) fn plan(&mut self) -> Plan {
        let later = self.later();
        self.index.configure(self.rollout.target.clone(), self.now);
        self.index.set_evictions(&self.name, &self.rollout.persisted.evictions);
        let first = self.next_batch();
        let summary = report(&self.index, &self.name, &self.rollout.persisted, self.now).summary;
        let evicted_first = self.evictions();
        let given_up = summary.is_halted(&self.rollout.target);
        let carried = self.index.pods().map(|pod| {
            let (action, why) = self.fate_of_carrier(pod, &later, given_up);
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
            first,
            evicted_first,
            hold: self.hold(),
            forecast: forecast(&self.rollout, &summary, &self.given(&summary)),
            summary,
        }
    }

    /// Hash of the revision that new pods will get.
    fn given(&self, summary: &Summary) -> String {
        let status = self.world.existing.as_ref().and_then(|set| set.status.clone()).unwrap_or_default();
        let completion = Completion::of(&status, &self.rollout, summary, self.now);
        let (stable, aborted) = (status.stable_revision.as_ref(), status.aborted_revision.as_ref());
        injection_revision(&self.set, &self.rollout, summary, stable, aborted, &completion, None)
    }

    /// Why nothing is evicted now.
    fn hold(&self) -> Option<&'static str> {
        match (self.set.spec.injection_strategy.paused, self.set.spec.update_strategy.paused) {
            (true, _) => Some("paused: set injectionStrategy.paused to false to go on"),
            (_, true) => Some("paused: set updateStrategy.paused to false to go on"),
            _ => None,
        }
    }

    /// How a pod would look: patched where it stands, or recreated. `None` if nothing happens to it.
    pub(super) fn outcome(&self, action: Action, pod: &Value) -> Option<Value> {
        let after = match action {
            Action::Patch => self.patched(pod)?,
            Action::Evict | Action::LeaveBehind | Action::Inject => {
                let mut after = pod.clone();
                json_patch::patch(&mut after, &self.ask(pod, inject).patch).ok()?;
                after
            }
            Action::Refuse | Action::Unselect | Action::Nothing => return None,
        };
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

    fn ask(&self, pod: &Value, inject: fn(&CompiledSets, &Request<'_>) -> Injection) -> Injection {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let no_labels = BTreeMap::new();
        let namespace_labels = self.world.namespaces.get(namespace).unwrap_or(&no_labels);
        inject(&self.compiled, &Request { pod, namespace, namespace_labels, excluded: &[] })
    }

    /// Patched: those of a rollout whose budget is no limit. Evicted: of those that wait as many as partition lets go, the
    /// youngest first.
    fn later(&mut self) -> Later {
        let mut unlimited = self.rollout.target.clone();
        unlimited.strategy.paused = false;
        unlimited.strategy.max_unavailable = IntOrString::String("100%".to_owned());
        unlimited.strategy.max_unavailable_per_workload = None;
        unlimited.strategy.steps = Vec::new();
        self.index.configure(unlimited, self.now);
        let patched = self.next_batch();
        // As after the last patch: what was planned is not counted again.
        let evictions = quota(&self.index, &self.name, 0, self.now).map_or(0, |quota| quota.upgrades);
        let is_evictable = |pod: &PodView| self.assessment(&pod.key).is_some_and(Assessment::is_evictable);
        let mut waiting: Vec<_> = self.index.pods().filter(|pod| is_evictable(pod)).collect();
        waiting.sort_by_key(|pod| (pod.ready, Reverse(pod.created), Reverse(pod.key.clone())));
        Later {
            patched: patched.into_iter().collect(),
            evicted: waiting.into_iter().take(evictions).map(|pod| pod.key.clone()).collect(),
        }
    }

    fn next_batch(&mut self) -> Vec<PodKey> {
        let patches = begin_batch(&mut self.index, &self.name, &self.rollout.persisted, self.now, usize::MAX);
        patches.into_iter().map(|patch| patch.key).collect()
    }

    fn assessment(&self, pod: &PodKey) -> Option<&Assessment> {
        self.index.set(&self.name)?.assessment(pod)
    }

    /// `None` if the set does not select the pod.
    fn fate_of_uninjected(&self, pod: &Value, view: &PodView) -> Option<(Action, String)> {
        let injection = self.ask(pod, inject_anew);
        if let Some(message) = injection.refused {
            return Some((Action::Refuse, message));
        }
        let outcome = injection.outcomes.into_iter().find(|outcome| outcome.set == self.name)?;
        let is_asked = self.set.spec.injection_strategy.existing_pods == ExistingPods::Evict;
        let may_evict = is_asked && exempt(view.owner.as_deref(), view.restarts_always).is_none();
        Some(match outcome.reason {
            Reason::Injected | Reason::AlreadyInjected => {
                let action = if may_evict { Action::Evict } else { Action::Inject };
                (action, "it has no sidecars of the set".to_owned())
            }
            reason if outcome.message.is_empty() => (Action::Nothing, reason.to_string()),
            reason => (Action::Nothing, format!("{reason}: {}", outcome.message)),
        })
    }

    fn fate_of_carrier(&self, pod: &PodView, later: &Later, given_up: bool) -> (Action, String) {
        let target = &self.rollout.target;
        let Some(assessed) = self.assessment(&pod.key) else {
            return (Action::Unselect, "it keeps its sidecars until it is recreated".to_owned());
        };
        let kept = if given_up {
            format!("revision {} is given up", self.rollout.update_revision)
        } else {
            "updateStrategy.partition keeps it on the old revision".to_owned()
        };
        let back = target.direction == Direction::Back;
        let at = if back { "back on the stable revision" } else { "at this revision" };
        let is_touched = target.strategy.is_enabled() && assessed.selected;
        let why = match &assessed.state {
            PodState::Outdated if later.patched.contains(&pod.key) => return (Action::Patch, self.changes(pod)),
            PodState::Outdated if !target.strategy.is_enabled() => "updateStrategy.type is NotUpdate".to_owned(),
            PodState::Outdated if !assessed.selected => "it is outside updateStrategy.selector".to_owned(),
            PodState::Outdated => kept,
            PodState::NotInPlace(why) if later.evicted.contains(&pod.key) => return (Action::Evict, why.text.clone()),
            PodState::NotInPlace(why) => match assessed.evictability.as_ref().filter(|_| is_touched) {
                Some(Evictability::Evictable(_)) => format!("{kept}; {}", why.text),
                Some(Evictability::Exempt(kind)) => {
                    return (Action::LeaveBehind, format!("{}; {kind} are not evicted", why.text));
                }
                None => return (Action::LeaveBehind, why.text.clone()),
            },
            PodState::Failed(why) => format!("{at}, failed: {why}"),
            PodState::Unconfirmed(why) => why.clone(),
            PodState::Refused(why) => format!("the patch was refused: {why}"),
            PodState::ResetDue => format!("{at}, a twin of a hot sidecar is to be reset"),
            PodState::Updating => format!("{at}, its update is not finished"),
            PodState::NotReady => format!("{at}, not ready"),
            PodState::Available => at.to_owned(),
        };
        (Action::Nothing, why)
    }

    /// What a patch changes.
    fn changes(&self, pod: &PodView) -> String {
        let target = &self.rollout.target;
        let mark = pod.marks.get(&self.name);
        let images = target.sidecars.iter().filter_map(|sidecar| {
            let container = replaced(pod, mark?, sidecar, target, self.now)?;
            Some(format!("{}: {} -> {}", sidecar.name, container.image, sidecar.image))
        });
        let beside = mark.and_then(|mark| target.beside.get(&mark.revision));
        let metadata = beside.and_then(|beside| beside.metadata.as_ref()).map(|_| "labels and annotations".to_owned());
        images.chain(resize::describe(pod, target)).chain(metadata).collect::<Vec<_>>().join(", ")
    }
}

/// The rollout of the set, as the controller decides it once the set is applied.
fn rollout_of(valid: &ValidSidecarSet, world: &ClusterSnapshot, now: Timestamp) -> Rollout {
    let template = Template::of(&valid.set().spec);
    let hash = template.hash(world.existing.as_ref().map_or(0, collisions));
    let valid = valid.with_status(world.existing.as_ref().and_then(|existing| existing.status.clone()));
    let history = world.revisions.get(valid.name()).cloned().unwrap_or_default();
    let mut rollout = rollout(&valid, (&hash, &template), &history, now);
    // Pulling delays a pod; it does not change what becomes of it.
    rollout.target.strategy.pre_pull = false;
    rollout
}
