//! The pods of one set, each with its assessment, and what is summed up of them. An event changes the sums by one pod: its
//! cost does not grow with the number of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::jiff::Timestamp;

use crate::core::base::tally::{count, member, tally};
use crate::core::pod::workload::Workload;
use crate::core::pod::{Owner, PodKey, PodView};
use crate::core::rollout::assess::context::PodContext;
use crate::core::rollout::assess::state::{Evictability, PodState};
use crate::core::rollout::assess::{Assessment, assess};
use crate::core::rollout::budget::counts::{Counts, PodKind, Table};
use crate::core::rollout::budget::workloads::{Workloads, is_unavailable};
use crate::core::rollout::order::candidates::{Candidates, OrderKey};
use crate::core::rollout::order::cost::{Cost, needs_room};
use crate::core::rollout::state::pulls::{NodePull, PullResults, PullState};
use crate::core::rollout::target::Target;

/// See the module.
#[derive(Debug)]
pub struct RolloutState {
    pub(crate) target: Arc<Target>,
    pub(super) due: Due,
    /// In the order in which they came, so that those of a workload are near each other in memory.
    rows: IndexMap<Arc<PodKey>, Row>,
    pub(crate) table: Table,
    pub(crate) candidates: Candidates,
    pub(crate) workloads: Workloads,
    /// Owners of pods that wait for an eviction, by UID.
    pub(crate) evictable: BTreeMap<String, EvictableOwner>,
    /// What came of pulling images before pods are patched.
    pub(crate) pulls: PullResults,
    /// How many pods wait on each node that could not pull.
    pub(crate) blocked_nodes: BTreeMap<String, usize>,
    timers: BTreeSet<(Timestamp, Arc<PodKey>)>,
}

/// Pods whose assessment is missing, or may be of what is not true any more.
#[derive(Debug)]
pub(super) struct Due {
    /// All pods of the set, until the last of them is assessed.
    all: Option<Rest>,
    pub(super) pods: Vec<Arc<PodKey>>,
}

/// The pods of the set that stand behind this one; `None` for all.
#[derive(Debug)]
struct Rest(Option<Arc<PodKey>>);

impl Due {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_none() && self.pods.is_empty()
    }

    /// Takes at most `limit`. `next`: the next so many pods of the set behind one of them.
    pub(super) fn take(
        &mut self,
        limit: usize,
        next: impl Fn(Option<&PodKey>, usize) -> Vec<Arc<PodKey>>,
    ) -> Vec<Arc<PodKey>> {
        let mut taken = self.all.take().map(|Rest(behind)| next(behind.as_deref(), limit)).unwrap_or_default();
        if taken.len() == limit {
            self.all = Some(Rest(taken.last().cloned()));
        } else {
            // What changed beside pods that had been assessed already.
            taken.extend(self.pods.split_off(self.pods.len().saturating_sub(limit - taken.len())));
        }
        taken
    }
}

/// What is kept of a pod.
#[derive(Debug, PartialEq)]
struct Row {
    assessment: Assessment,
    order: OrderKey,
    /// Of a candidate that waits for its node to pull, or has waited.
    pull: Option<NodePull>,
}

#[derive(Debug)]
pub(crate) struct EvictableOwner {
    pub(crate) owner: Arc<Owner>,
    pub(crate) namespace: String,
    /// Pods that wait.
    pub(crate) pods: usize,
    /// Of these, those whose eviction costs no slot.
    pub(crate) cheap: usize,
}

impl Row {
    fn pull_state(&self) -> PullState {
        self.pull.as_ref().map_or(PullState::Done, |pull| pull.state)
    }

    /// The node that could not pull for it.
    fn blocked_on(&self) -> Option<&String> {
        self.pull.as_ref().filter(|pull| matches!(pull.state, PullState::Failed { .. })).map(|pull| &pull.node)
    }

    fn kind(&self) -> PodKind {
        PodKind::of(&self.assessment, self.blocked_on().is_some())
    }

    /// When time alone may change something.
    fn check_at(&self) -> Option<Timestamp> {
        let again_at = match self.pull_state() {
            PullState::Failed { again_at } => again_at,
            PullState::Done | PullState::Wanted => None,
        };
        again_at.into_iter().chain(self.assessment.check_at).min()
    }
}

impl RolloutState {
    /// All pods of the set are due.
    pub fn new(target: Arc<Target>, pulls: PullResults) -> Self {
        Self {
            pulls,
            workloads: Workloads::new(target.strategy.max_unavailable_per_workload.clone()),
            target,
            due: Due { all: Some(Rest(None)), pods: Vec::new() },
            rows: IndexMap::new(),
            table: Table::default(),
            candidates: Candidates::default(),
            evictable: BTreeMap::new(),
            blocked_nodes: BTreeMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Another target, under which no pod has been assessed yet. Returns what was known.
    pub(crate) fn restart(&mut self, target: Target) -> Self {
        let pulls = std::mem::take(&mut self.pulls).for_target(&self.target, &target);
        let mut new = Self::new(Arc::new(target), pulls);
        // A map that grows moves all its rows at once, under the lock.
        new.rows.reserve(self.rows.len());
        std::mem::replace(self, new)
    }

    /// A pod has changed, or is gone. True if that changed anything here.
    pub(crate) fn update(&mut self, key: &Arc<PodKey>, pod: Option<(&PodView, PodContext<'_>)>) -> bool {
        let row = pod.and_then(|(pod, context)| {
            let assessment = assess(pod, &self.target, &context)?;
            let waits = assessment.state == PodState::Outdated && assessment.selected;
            let pull = if waits { self.pulls.of(pod, &self.target, context.now) } else { None };
            Some(Row { assessment, order: OrderKey::of(pod, &self.target), pull })
        });
        let mut rows = std::mem::take(&mut self.rows);
        let is_news = rows.get(key) != row.as_ref();
        if is_news {
            if let Some(old) = rows.get(key) {
                self.account(key, old, false);
            }
            match row {
                Some(row) => {
                    self.account(key, &row, true);
                    rows.insert(key.clone(), row);
                }
                None => drop(rows.swap_remove(key)),
            }
        }
        self.rows = rows;
        is_news
    }

    pub(crate) fn assessment(&self, key: &PodKey) -> Option<&Assessment> {
        self.rows.get(key).map(|row| &row.assessment)
    }

    pub(crate) fn counts(&self) -> Counts {
        let counts = self.table.counts();
        Counts { failed: counts.failed + self.blocked_nodes.len(), ..counts }
    }

    pub(crate) fn pull_state(&self, key: &PodKey) -> PullState {
        self.rows.get(key).map_or(PullState::Done, Row::pull_state)
    }

    /// Failed pods, and why.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (&PodKey, &str)> {
        self.table.pods(PodKind::is_failed).filter_map(|key| match &self.assessment(key)?.state {
            PodState::Failed(why) | PodState::Refused(why) => Some((key.as_ref(), why.as_str())),
            _ => None,
        })
    }

    /// Pods whose update is to be completed, first to go first, each with the workload whose room it takes.
    pub(crate) fn to_complete(&self) -> Vec<(&PodKey, &Assessment, Option<&Workload>)> {
        let pods = self.table.pods(PodKind::is_to_complete).filter_map(|key| {
            let Row { assessment, order, .. } = self.rows.get(key)?;
            Some((key.as_ref(), assessment, order.workload.as_deref().filter(|_| needs_room(assessment))))
        });
        let mut pods: Vec<_> = pods.collect();
        pods.sort_by_key(|(key, pod, _)| (pod.rank, *key));
        pods
    }

    /// What is known of pulls may not be true any more.
    pub(crate) fn forget_pulls(&mut self) {
        if !self.pulls.is_empty() {
            self.pulls = PullResults::default();
            self.due.all = Some(Rest(None));
        }
    }

    /// Pods whose state may have changed with time alone.
    pub(crate) fn timed_out(&self, now: Timestamp) -> Vec<Arc<PodKey>> {
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect()
    }

    /// When the next pod is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The one place where a row comes into the sums, or goes out of them.
    fn account(&mut self, key: &Arc<PodKey>, row: &Row, add: bool) {
        let (pod, kind) = (&row.assessment, row.kind());
        self.account_order(key, row, &kind, add);
        self.table.change(kind, pod.created(), key, add);
        if let Some(at) = row.check_at() {
            member(&mut self.timers, (at, key.clone()), add);
        }
        if let Some(node) = row.blocked_on() {
            count(&mut self.blocked_nodes, node.clone(), add);
        }
        if let Some(Evictability::Evictable(owner)) = pod.evictability.as_ref().filter(|_| pod.selected) {
            let (owner, namespace) = (Arc::clone(owner), key.namespace.clone());
            let uid = owner.uid.clone();
            let none = EvictableOwner { owner, namespace, pods: 0, cheap: 0 };
            let behind = self.evictable.entry(uid.clone()).or_insert(none);
            tally(&mut behind.pods, 1, add);
            tally(&mut behind.cheap, usize::from(Cost::of(pod) != Cost::Ready), add);
            if behind.pods == 0 {
                self.evictable.remove(&uid);
            }
        }
    }

    /// The queue, and the workloads whose room opens and closes it for their pods.
    fn account_order(&mut self, key: &Arc<PodKey>, row: &Row, kind: &PodKind, add: bool) {
        let Row { assessment: pod, order, .. } = row;
        if kind.is_candidate() || (pod.selected && !kind.is_behind()) {
            self.candidates.count(order, !kind.is_behind(), add);
        }
        if let Some(workload) = &order.workload
            && self.workloads.change(workload, is_unavailable(pod), add)
        {
            self.candidates.set_room(workload, self.workloads.has_room(workload));
        }
        // A node that failed keeps its pods out until it is tried again.
        let is_kept_out = matches!(row.pull_state(), PullState::Failed { again_at: Some(_) });
        if kind.is_candidate() && !is_kept_out {
            let has_room = order.workload.as_ref().is_none_or(|workload| self.workloads.has_room(workload));
            self.candidates.change(key, (pod, order), has_room, row.pull_state().must_pull(), add);
        }
    }
}
