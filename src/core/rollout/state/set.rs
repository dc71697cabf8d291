//! The pods of one set, each with its assessment, sorted by what can be done with them. An event changes the sums by one
//! pod: its cost does not grow with the number of pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::workload::Workload;
use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::context::PodContext;
use crate::core::rollout::assess::state::{Claim, Obstacle, State};
use crate::core::rollout::assess::{Assessment, Rank, assess};
use crate::core::rollout::budget::counts::{Counts, Kind, Table};
use crate::core::rollout::budget::workloads::{Member, Workloads, needs_room};
use crate::core::rollout::order::candidates::{Candidate, Candidates};
use crate::core::rollout::order::key::OrderKey;
use crate::core::rollout::state::evictable::Evictable;
use crate::core::rollout::state::pulls::{NodeCandidates, NodePull, PullResults, PullState};
use crate::core::rollout::target::Target;

/// See the module.
#[derive(Debug)]
pub struct SetState {
    pub(crate) target: Arc<Target>,
    due: Due,
    table: Table,
    rows: HashMap<Arc<PodKey>, Row>,
    pub(crate) candidates: Candidates,
    /// What came of pulling images before pods are patched.
    pub(crate) pulls: PullResults,
    pub(crate) nodes: NodeCandidates,
    pub(crate) workloads: Workloads,
    /// Workloads without room whose ready pods wait.
    blocked: BTreeSet<Arc<Workload>>,
    /// Pods whose update is to be completed.
    to_complete: BTreeSet<(Rank, Arc<PodKey>)>,
    pub(crate) slot_holders: BTreeSet<Arc<PodKey>>,
    pub(crate) failed: BTreeSet<Arc<PodKey>>,
    pub(crate) unready: BTreeSet<Arc<PodKey>>,
    pub(crate) not_in_place: BTreeMap<Obstacle, usize>,
    pub(crate) evictable: Evictable,
    timers: BTreeSet<(Timestamp, Arc<PodKey>)>,
    /// Pods that are still to be brought to the target, by the time they were created.
    to_move: BTreeMap<Timestamp, usize>,
    /// Pods that may still fail, or work.
    undecided: BTreeMap<Timestamp, usize>,
}

/// Pods whose assessment is missing, or may be of what is not true any more.
#[derive(Debug, Default)]
struct Due {
    /// All pods of the set, until the last of them is assessed.
    all: Option<Rest>,
    pods: Vec<Arc<PodKey>>,
}

/// The pods of the set that stand behind this one; `None` for all.
#[derive(Debug, Default)]
struct Rest(Option<Arc<PodKey>>);

/// What is kept of a pod.
#[derive(Debug, PartialEq)]
struct Row {
    assessment: Assessment,
    order: OrderKey,
    /// Of a candidate that waits for its node to pull, or has waited.
    pull: Option<NodePull>,
}

impl Row {
    fn pull_state(&self) -> PullState {
        self.pull.as_ref().map_or(PullState::Done, |pull| pull.state)
    }
}

impl SetState {
    /// All pods of the set are due.
    pub fn new(target: Arc<Target>, pulls: PullResults) -> Self {
        Self {
            pulls,
            workloads: Workloads::new(target.strategy.max_unavailable_per_workload.clone()),
            target,
            due: Due { all: Some(Rest::default()), pods: Vec::new() },
            table: Table::default(),
            rows: HashMap::new(),
            candidates: Candidates::default(),
            nodes: NodeCandidates::default(),
            blocked: BTreeSet::new(),
            to_complete: BTreeSet::new(),
            slot_holders: BTreeSet::new(),
            failed: BTreeSet::new(),
            unready: BTreeSet::new(),
            not_in_place: BTreeMap::new(),
            evictable: Evictable::default(),
            timers: BTreeSet::new(),
            to_move: BTreeMap::new(),
            undecided: BTreeMap::new(),
        }
    }

    /// A pod has changed, or is gone. True if that changed anything here.
    pub(crate) fn update(&mut self, key: &Arc<PodKey>, pod: Option<&PodView>, context: &PodContext<'_>) -> bool {
        let row = pod.and_then(|pod| {
            let assessment = assess(pod, &self.target, context)?;
            let waits = assessment.state == State::Outdated && assessment.selected;
            let pull = if waits { self.pulls.of(pod, &self.target, context.now) } else { None };
            Some(Row { assessment, order: OrderKey::of(pod, &self.target), pull })
        });
        if self.rows.get(key) == row.as_ref() {
            return false;
        }
        if let Some(old) = self.rows.remove(key) {
            self.account(key, &old, false);
        }
        if let Some(row) = row {
            self.account(key, &row, true);
            self.rows.insert(key.clone(), row);
        }
        true
    }

    pub(crate) fn assessment(&self, key: &PodKey) -> Option<&Assessment> {
        self.rows.get(key).map(|row| &row.assessment)
    }

    pub(crate) fn counts(&self) -> Counts {
        let counts = self.table.counts();
        Counts {
            locked_out: self.workloads.locked_out(),
            // Each node that could not pull is one failure.
            failed: counts.failed + self.nodes.blocking().len(),
            blocked: self.nodes.blocked(),
            oldest_to_move: self.to_move.keys().next().copied(),
            oldest_undecided: self.undecided.keys().next().copied(),
            ..counts
        }
    }

    /// The pod of a candidate's node has to pull before it can go.
    pub(crate) fn must_pull(&self, key: &PodKey) -> bool {
        let state = self.rows.get(key).map_or(PullState::Done, Row::pull_state);
        matches!(state, PullState::Wanted | PullState::Failed { again_at: None })
    }

    /// No pull keeps the pod from going.
    pub(crate) fn has_pulled(&self, key: &PodKey) -> bool {
        self.rows.get(key).is_none_or(|row| row.pull_state() == PullState::Done)
    }

    /// Workloads whose ready pods wait only for room in them.
    pub(crate) fn blocked_workloads(&self) -> impl Iterator<Item = &Workload> {
        self.blocked.iter().map(Arc::as_ref)
    }

    /// Failed pods, and why.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (&PodKey, &str)> {
        self.failed.iter().filter_map(|key| match &self.assessment(key)?.state {
            State::Failed(why) | State::Refused(why) => Some((key.as_ref(), why.as_str())),
            _ => None,
        })
    }

    /// Pods whose update is to be completed, first to go first, each with the workload whose room it takes.
    pub(crate) fn to_complete(&self) -> impl Iterator<Item = (&PodKey, &Assessment, Option<&Workload>)> {
        self.to_complete.iter().filter_map(|(_, key)| {
            let Row { assessment, order, .. } = self.rows.get(key)?;
            Some((key.as_ref(), assessment, order.workload.as_deref().filter(|_| needs_room(assessment))))
        })
    }

    /// False while pods are due.
    pub(crate) fn is_assessed(&self) -> bool {
        self.due.all.is_none() && self.due.pods.is_empty()
    }

    /// Something beside this pod has changed.
    pub(crate) fn make_due(&mut self, key: &Arc<PodKey>) {
        self.due.pods.push(key.clone());
    }

    /// A node that is gone may come back without its images. True if candidates are due for it.
    pub(crate) fn forget_pulls_on(&mut self, node: &str) -> bool {
        self.pulls.forget_node(node);
        let pods = self.nodes.on(node);
        for key in &pods {
            self.make_due(key);
        }
        !pods.is_empty()
    }

    /// What is known of pulls may not be true any more.
    pub(crate) fn forget_pulls(&mut self) {
        self.pulls = PullResults::default();
        self.nodes.all().iter().for_each(|key| self.make_due(key));
    }

    /// Takes at most `limit` pods that are due. `next`: the next so many pods of the set behind one of them.
    pub(crate) fn take_due(
        &mut self,
        limit: usize,
        next: impl Fn(Option<&PodKey>, usize) -> Vec<Arc<PodKey>>,
    ) -> Vec<Arc<PodKey>> {
        let Due { all, pods } = &mut self.due;
        let mut taken = all.as_ref().map(|Rest(behind)| next(behind.as_deref(), limit)).unwrap_or_default();
        if taken.len() == limit {
            *all = all.take().map(|_| Rest(taken.last().cloned()));
        } else {
            *all = None;
            // What changed beside pods that had been assessed already.
            taken.extend(pods.split_off(pods.len().saturating_sub(limit - taken.len())));
        }
        taken
    }

    /// Pods whose state may have changed with time alone.
    pub(crate) fn timed_out(&self, now: Timestamp) -> Vec<Arc<PodKey>> {
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect()
    }

    /// When the next pod is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn account(&mut self, key: &Arc<PodKey>, row: &Row, add: bool) {
        let pod = &row.assessment;
        let kind = Kind::of(pod);
        if add {
            self.table.add(kind);
        } else {
            self.table.remove(kind);
        }
        self.account_order(key, row, kind, add);
        self.account_pull(key, row, add);
        self.evictable.account(key, pod, add);
        if let State::NotInPlace(obstacle) = &pod.state {
            count(&mut self.not_in_place, obstacle.clone(), add);
        }
        if kind.is_to_move() {
            count(&mut self.to_move, pod.created(), add);
        }
        if kind.is_undecided() {
            count(&mut self.undecided, pod.created(), add);
        }
        if kind.is_to_complete() {
            set_member(&mut self.to_complete, (pod.rank, key.clone()), add);
        }
        if pod.claim == Claim::Disruption {
            set_member(&mut self.slot_holders, key.clone(), add);
        }
        if pod.state == State::NotReady {
            set_member(&mut self.unready, key.clone(), add);
        }
        if kind.is_failed() {
            set_member(&mut self.failed, key.clone(), add);
        }
        if let Some(at) = pod.check_at {
            set_member(&mut self.timers, (at, key.clone()), add);
        }
    }

    /// The queues, and the workloads whose room opens and closes them.
    fn account_order(&mut self, key: &Arc<PodKey>, row: &Row, kind: Kind, add: bool) {
        let Row { assessment: pod, order, .. } = row;
        let waits = kind.is_candidate();
        if waits || (pod.selected && !kind.is_behind()) {
            self.candidates.count(&order.group, !kind.is_behind(), add);
        }
        if let Some(workload) = &order.workload
            && self.workloads.account(workload, Member::of(pod, waits), add)
        {
            self.candidates.set_room(workload, self.workloads.has_room(workload));
        }
        // A node that failed keeps its pods out until it is tried again.
        let must_pull = match row.pull_state() {
            PullState::Done => Some(false),
            PullState::Wanted | PullState::Failed { again_at: None } => Some(true),
            PullState::Failed { .. } => None,
        };
        if waits && let Some(must_pull) = must_pull {
            let needs_room = needs_room(pod);
            let has_room = !needs_room || order.workload.as_ref().is_none_or(|w| self.workloads.has_room(w));
            let candidate = Candidate { key, assessment: pod, order, needs_room, has_room, must_pull };
            self.candidates.change(&candidate, add);
        }
        if let Some(workload) = &order.workload {
            if self.candidates.has_ready(workload) && !self.workloads.has_room(workload) {
                self.blocked.insert(Arc::clone(workload));
            } else {
                self.blocked.remove(workload);
            }
        }
    }

    fn account_pull(&mut self, key: &Arc<PodKey>, row: &Row, add: bool) {
        let Some(pull) = &row.pull else { return };
        self.nodes.account(key, pull, add);
        if let PullState::Failed { again_at: Some(again_at) } = pull.state {
            set_member(&mut self.timers, (again_at, key.clone()), add);
        }
    }
}

fn count<T: Ord>(pods: &mut BTreeMap<T, usize>, of: T, add: bool) {
    if add {
        *pods.entry(of).or_default() += 1;
    } else if let Some(number) = pods.get_mut(&of) {
        *number -= 1;
        if *number == 0 {
            pods.remove(&of);
        }
    }
}

fn set_member<T: Ord>(set: &mut BTreeSet<T>, member: T, add: bool) {
    if add {
        set.insert(member);
    } else {
        set.remove(&member);
    }
}
