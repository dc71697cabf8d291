//! The pods that wait for a patch, each with those that take as much of the budgets, in the order in which they go.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::rollout::assess::Rank;
use crate::core::rollout::order::room::WorkloadRoom;
use crate::core::rollout::target::order::{Priority, ScatterGroup};

/// Where a pod stands among those of its group that take as much; the smaller goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) priority: Priority,
    pub(super) is_late: bool,
    pub(super) rank: Rank,
    pub(super) key: Arc<PodKey>,
}

/// The workload in which a pod needs room; `None` for a pod that needs none.
pub(super) type NeedsRoom = Option<Arc<Workload>>;

/// A pod that may be the next of its group.
pub(super) type Front<'a> = (&'a Place, &'a NeedsRoom);

type Fronts = BTreeMap<ScatterGroup, BTreeSet<(Place, NeedsRoom)>>;

/// Pods that take as much of the budgets.
#[derive(Debug, Default)]
pub(super) struct Queue {
    workloads: BTreeMap<NeedsRoom, BTreeMap<ScatterGroup, BTreeSet<Place>>>,
    /// The first pod of each workload that has room: a plan looks at no others, and does not count the rest.
    fronts: Fronts,
}

impl Queue {
    /// A pod comes or goes. `has_room`: its workload has room for it.
    pub(super) fn change(
        &mut self,
        workload: &NeedsRoom,
        group: &ScatterGroup,
        place: Place,
        has_room: bool,
        add: bool,
    ) {
        let groups = self.workloads.entry(workload.clone()).or_default();
        let pods = groups.entry(group.clone()).or_default();
        let changes_front = pods.first().is_none_or(|first| place <= *first);
        if changes_front {
            remove_front(&mut self.fronts, workload, group, pods);
        }
        if add {
            pods.insert(place);
        } else {
            pods.remove(&place);
        }
        if changes_front && has_room {
            add_front(&mut self.fronts, workload, group, pods);
        }
        if pods.is_empty() {
            groups.remove(group);
        }
        if groups.is_empty() {
            self.workloads.remove(workload);
        }
    }

    /// There is room in a workload, or there is none any more.
    pub(super) fn set_room(&mut self, workload: &NeedsRoom, has_room: bool) {
        for (group, pods) in self.workloads.get(workload).into_iter().flatten() {
            remove_front(&mut self.fronts, workload, group, pods);
            if has_room {
                add_front(&mut self.fronts, workload, group, pods);
            }
        }
    }

    /// Pods of this workload wait.
    pub(super) fn has(&self, workload: &NeedsRoom) -> bool {
        self.workloads.contains_key(workload)
    }

    /// Groups with a pod that there is room for.
    pub(super) fn groups(&self) -> impl Iterator<Item = &ScatterGroup> {
        self.fronts.keys()
    }
}

fn add_front(fronts: &mut Fronts, workload: &NeedsRoom, group: &ScatterGroup, pods: &BTreeSet<Place>) {
    if let Some(first) = pods.first() {
        fronts.entry(group.clone()).or_default().insert((first.clone(), workload.clone()));
    }
}

fn remove_front(fronts: &mut Fronts, workload: &NeedsRoom, group: &ScatterGroup, pods: &BTreeSet<Place>) {
    if let (Some(first), Some(of_group)) = (pods.first(), fronts.get_mut(group)) {
        of_group.remove(&(first.clone(), workload.clone()));
        if of_group.is_empty() {
            fronts.remove(group);
        }
    }
}

/// The pods of one group in a queue, one after the other, without those whose workload has no room.
pub(super) struct Cursor<'a> {
    queue: &'a Queue,
    group: &'a ScatterGroup,
    /// First pods of workloads of which none was taken.
    fronts: Option<Peekable<Iter<'a, (Place, NeedsRoom)>>>,
    /// The next pods of the other workloads.
    next: BinaryHeap<Reverse<Front<'a>>>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(queue: &'a Queue, group: &'a ScatterGroup) -> Self {
        let fronts = queue.fronts.get(group).map(|fronts| fronts.iter().peekable());
        Self { queue, group, fronts, next: BinaryHeap::new() }
    }

    /// The first pod that there is room for. Those before it are dropped: the room of a workload only shrinks.
    pub(super) fn peek(&mut self, room: &WorkloadRoom<'_>) -> Option<Front<'a>> {
        loop {
            let front = self.first()?;
            if room.is_left(front.1.as_deref()) {
                return Some(front);
            }
            self.drop_first();
        }
    }

    /// Goes on to the pod behind the first.
    pub(super) fn advance(&mut self) {
        if let Some((place, workload)) = self.drop_first() {
            let pods = self.queue.workloads.get(workload).and_then(|groups| groups.get(self.group));
            let behind = pods.and_then(|pods| pods.range((Excluded(place), Unbounded)).next());
            self.next.extend(behind.map(|behind| Reverse((behind, workload))));
        }
    }

    fn first(&mut self) -> Option<Front<'a>> {
        self.untouched().into_iter().chain(self.next.peek().map(|Reverse(front)| *front)).min()
    }

    fn drop_first(&mut self) -> Option<Front<'a>> {
        let first = self.first()?;
        if self.untouched() == Some(first) {
            self.fronts.as_mut().and_then(Iterator::next);
        } else {
            self.next.pop();
        }
        Some(first)
    }

    fn untouched(&mut self) -> Option<Front<'a>> {
        self.fronts.as_mut()?.peek().map(|(place, workload)| (place, workload))
    }
}
