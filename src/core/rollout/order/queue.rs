//! The pods that wait for a patch, in lanes: side by side wait those that take as much of the budgets, and in a lane they
//! wait one behind the other, those of each workload apart.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::core::base::tally::group_member;
use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::rollout::assess::Rank;
use crate::core::rollout::order::cost::Cost;
use crate::core::rollout::target::order::{Priority, ScatterGroup};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) group: ScatterGroup,
    pub(super) cost: Cost,
    /// The node has to pull first.
    pub(super) must_pull: bool,
}

/// Where a pod stands in its lane; the smaller goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) priority: Priority,
    pub(super) is_late: bool,
    pub(super) rank: Rank,
    pub(super) key: Arc<PodKey>,
    pub(super) workload: NeedsRoom,
}

/// The workload in which a pod needs room; `None` for a pod that needs none.
type NeedsRoom = Option<Arc<Workload>>;

#[derive(Debug, Default)]
pub(super) struct Queue {
    workloads: BTreeMap<NeedsRoom, BTreeMap<Lane, BTreeSet<Place>>>,
    /// The first pod of each workload that has room: a plan looks at no others, and does not count the rest.
    fronts: BTreeMap<Lane, BTreeSet<Place>>,
}

impl Queue {
    /// A pod comes or goes. `has_room`: its workload has room for it.
    pub(super) fn change(&mut self, lane: &Lane, place: Place, has_room: bool, add: bool) {
        let workload = place.workload.clone();
        let first = |queue: &Self| queue.workloads.get(&workload)?.get(lane)?.first().cloned();
        let before = first(self);
        let lanes = self.workloads.entry(workload.clone()).or_default();
        group_member(lanes, lane.clone(), place, add);
        if lanes.is_empty() {
            self.workloads.remove(&workload);
        }
        let after = first(self);
        if has_room && before != after {
            if let Some(front) = before {
                group_member(&mut self.fronts, lane.clone(), front, false);
            }
            if let Some(front) = after {
                group_member(&mut self.fronts, lane.clone(), front, true);
            }
        }
    }

    /// There is room in a workload, or there is none any more.
    pub(super) fn set_room(&mut self, workload: &Arc<Workload>, has_room: bool) {
        for (lane, pods) in self.workloads.get(&Some(Arc::clone(workload))).into_iter().flatten() {
            if let Some(front) = pods.first().cloned() {
                group_member(&mut self.fronts, lane.clone(), front, has_room);
            }
        }
    }

    /// Workloads in which pods need room.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.keys().flatten()
    }

    /// With a pod that there is room for.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.fronts.keys()
    }
}

/// The room that workloads have left while a plan takes pods.
pub(crate) struct WorkloadRoom<'a> {
    /// Pods that may become unavailable in a workload, before the plan.
    before: &'a dyn Fn(&Workload) -> usize,
    taken: BTreeMap<&'a Workload, usize>,
}

impl<'a> WorkloadRoom<'a> {
    pub(crate) fn new(before: &'a dyn Fn(&Workload) -> usize) -> Self {
        Self { before, taken: BTreeMap::new() }
    }

    /// True for a pod that needs none.
    pub(crate) fn is_left(&self, workload: Option<&Workload>) -> bool {
        let taken = |workload| self.taken.get(workload).copied().unwrap_or(0);
        workload.is_none_or(|workload| (self.before)(workload) > taken(workload))
    }

    pub(crate) fn take(&mut self, workload: Option<&'a Workload>) {
        if let Some(workload) = workload {
            *self.taken.entry(workload).or_default() += 1;
        }
    }
}

/// The pods of a lane, one after the other, without those whose workload has no room.
pub(super) struct Cursor<'a> {
    queue: &'a Queue,
    pub(super) lane: &'a Lane,
    /// First pods of workloads of which none was taken.
    fronts: Peekable<Iter<'a, Place>>,
    /// The next pods of the other workloads.
    next: BinaryHeap<Reverse<&'a Place>>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(queue: &'a Queue, lane: &'a Lane) -> Option<Self> {
        Some(Self { queue, lane, fronts: queue.fronts.get(lane)?.iter().peekable(), next: BinaryHeap::new() })
    }

    /// The first pod that there is room for. Those before it are dropped: the room of a workload only shrinks.
    pub(super) fn peek(&mut self, room: &WorkloadRoom<'_>) -> Option<&'a Place> {
        loop {
            let first = self.first()?;
            if room.is_left(first.workload.as_deref()) {
                return Some(first);
            }
            self.drop_first();
        }
    }

    /// Goes on to the pod behind the first.
    pub(super) fn advance(&mut self) {
        if let Some(place) = self.drop_first() {
            let pods = self.queue.workloads.get(&place.workload).and_then(|lanes| lanes.get(self.lane));
            let behind = pods.and_then(|pods| pods.range((Excluded(place), Unbounded)).next());
            self.next.extend(behind.map(Reverse));
        }
    }

    fn first(&mut self) -> Option<&'a Place> {
        let untouched = self.fronts.peek().copied();
        untouched.into_iter().chain(self.next.peek().map(|Reverse(place)| *place)).min()
    }

    fn drop_first(&mut self) -> Option<&'a Place> {
        let first = self.first()?;
        if self.fronts.peek() == Some(&first) {
            self.fronts.next()
        } else {
            self.next.pop().map(|Reverse(place)| place)
        }
    }
}
