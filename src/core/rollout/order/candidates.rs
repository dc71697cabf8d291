//! The candidates of a set, and the order in which a plan takes them: the scatter groups in turn; in a group what was begun,
//! then by priority; within a priority first who was there when the rollout began, then who takes least of the budgets.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Claim;
use crate::core::rollout::order::apportion::Apportion;
use crate::core::rollout::order::cost::{Cost, Free};
use crate::core::rollout::order::key::OrderKey;
use crate::core::rollout::order::queue::{Cursor, Front, Place, Queue};
use crate::core::rollout::order::room::WorkloadRoom;
use crate::core::rollout::target::order::{Priority, ScatterGroup};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// Those that can go, by [`Cost`].
    open: [Queue; 3],
    /// Those whose node has to pull first.
    to_pull: [Queue; 3],
    groups: BTreeMap<ScatterGroup, GroupSize>,
    all: GroupSize,
}

/// Of the pods of a group that are updated or can be, those that are.
#[derive(Clone, Copy, Debug, Default)]
struct GroupSize {
    pods: usize,
    updated: usize,
}

/// A pod that waits.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) key: &'a Arc<PodKey>,
    pub(crate) assessment: &'a Assessment,
    pub(crate) order: &'a OrderKey,
    /// It takes from its workload what maxUnavailablePerWorkload leaves.
    pub(crate) needs_room: bool,
    /// There is that room.
    pub(crate) has_room: bool,
    /// Its node has to pull first.
    pub(crate) must_pull: bool,
}

impl Candidate<'_> {
    fn place(&self, cost: Cost) -> Place {
        let Assessment { claim, rank, .. } = *self.assessment;
        // It has one place and waits for another: it must not wait for pods that need the one it has.
        let is_between = claim != Claim::None && cost != Cost::Held;
        let priority = if is_between { Priority::FIRST } else { self.order.priority };
        Place { priority, is_late: self.order.is_late, rank, key: Arc::clone(self.key) }
    }
}

impl Candidates {
    /// A pod waits, or does not any more.
    pub(crate) fn change(&mut self, pod: &Candidate<'_>, add: bool) {
        let cost = Cost::of(pod.assessment);
        let workload = if pod.needs_room { &pod.order.workload } else { &None };
        let queues = if pod.must_pull { &mut self.to_pull } else { &mut self.open };
        queues[cost as usize].change(workload, &pod.order.group, pod.place(cost), pod.has_room, add);
    }

    /// There is room in a workload, or there is none any more.
    pub(crate) fn set_room(&mut self, workload: &Arc<Workload>, has_room: bool) {
        let workload = Some(Arc::clone(workload));
        for queues in [&mut self.open, &mut self.to_pull] {
            queues[Cost::Ready as usize].set_room(&workload, has_room);
        }
    }

    /// Ready pods of this workload wait.
    pub(crate) fn has_ready(&self, workload: &Arc<Workload>) -> bool {
        let workload = Some(Arc::clone(workload));
        [&self.open, &self.to_pull].into_iter().any(|queues| queues[Cost::Ready as usize].has(&workload))
    }

    /// A pod of a scatter group that is updated or can be comes or goes.
    pub(crate) fn count(&mut self, group: &ScatterGroup, updated: bool, add: bool) {
        let of_group = self.groups.entry(group.clone()).or_default();
        for size in [&mut *of_group, &mut self.all] {
            let step = |field: &mut usize, by: usize| *field = if add { *field + by } else { *field - by };
            step(&mut size.pods, 1);
            step(&mut size.updated, usize::from(updated));
        }
        if of_group.pods == 0 {
            self.groups.remove(group);
        }
    }

    /// The pods that can go within what is free, first to go first.
    pub(crate) fn choose<'a>(&'a self, free: Free, room: &'a dyn Fn(&Workload) -> usize) -> Choice<'a> {
        Choice::new(self, free, room, false)
    }

    /// As if every node had pulled already.
    pub(crate) fn choose_before_pulls<'a>(&'a self, free: Free, room: &'a dyn Fn(&Workload) -> usize) -> Choice<'a> {
        Choice::new(self, free, room, true)
    }
}

/// The pods that a plan takes, one after the other.
pub(crate) struct Choice<'a> {
    free: Free,
    room: WorkloadRoom<'a>,
    groups: Vec<Group<'a>>,
    /// Whose turn it is among the groups whose next pod is of this class, see [`class`].
    turns: [Apportion<(Cost, Front<'a>, usize)>; 5],
    /// Pods that have had their turn.
    done: usize,
}

impl<'a> Choice<'a> {
    fn new(all: &'a Candidates, free: Free, room: &'a dyn Fn(&Workload) -> usize, with_pulls: bool) -> Self {
        let mut groups: BTreeMap<&ScatterGroup, Group<'_>> = BTreeMap::new();
        for group in all.open.iter().chain(&all.to_pull).flat_map(Queue::groups) {
            groups.entry(group).or_insert_with(|| Group::new(all, group, with_pulls));
        }
        let turns = || Apportion::new(all.groups.len(), all.all.pods);
        let mut choice = Self {
            free,
            room: WorkloadRoom::new(room),
            groups: groups.into_values().collect(),
            turns: std::array::from_fn(|_| turns()),
            done: all.all.updated,
        };
        (0..choice.groups.len()).for_each(|group| choice.enter(group));
        choice
    }

    /// The next pod of a group waits for its turn.
    fn enter(&mut self, position: usize) {
        let group = &mut self.groups[position];
        if let Some((cost, front)) = group.next(self.free, &self.room) {
            self.turns[class(cost, front)].push(group.size.pods, group.size.updated, (cost, front, position));
        }
    }
}

impl<'a> Iterator for Choice<'a> {
    type Item = &'a PodKey;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let turn = self.done + 1;
            let (cost, front, position) = self.turns.iter_mut().find_map(|turns| turns.pop(turn))?;
            let group = &mut self.groups[position];
            // Pods of other groups may have taken the room or the place since it entered.
            let goes = group.next(self.free, &self.room) == Some((cost, front));
            if goes {
                group.advance(cost, &self.room);
                self.free.take(cost);
                self.room.take(front.1.as_deref());
                self.done += 1;
            }
            self.enter(position);
            if goes {
                return Some(&front.0.key);
            }
        }
    }
}

/// What was begun, then pods that were there when the rollout began, then the others, each by what they cost.
fn class(cost: Cost, (place, _): Front<'_>) -> usize {
    if cost == Cost::Held { 0 } else { cost as usize + 2 * usize::from(place.is_late) }
}

/// The candidates of one scatter group.
struct Group<'a> {
    size: GroupSize,
    open: [Cursor<'a>; 3],
    to_pull: [Cursor<'a>; 3],
    /// Pods that have to pull are taken, too.
    with_pulls: bool,
}

impl<'a> Group<'a> {
    fn new(all: &'a Candidates, group: &'a ScatterGroup, with_pulls: bool) -> Self {
        let cursors = |queues: &'a [Queue; 3]| Cost::ALL.map(|cost| Cursor::new(&queues[cost as usize], group));
        let size = all.groups.get(group).copied().unwrap_or_default();
        Self { size, open: cursors(&all.open), to_pull: cursors(&all.to_pull), with_pulls }
    }

    /// The pod that goes next. None goes before a more urgent one that waits only for a place in the budgets, or for its
    /// node to pull; but what was begun goes at once.
    fn next(&mut self, free: Free, room: &WorkloadRoom<'_>) -> Option<(Cost, Front<'a>)> {
        if let Some(held) = self.front(Cost::Held, room) {
            return Some((Cost::Held, held));
        }
        let costs = [Cost::Unready, Cost::Ready];
        let open = costs.map(|cost| self.open[cost as usize].peek(room));
        let to_pull = costs.map(|cost| self.to_pull[cost as usize].peek(room));
        let most_urgent = open.into_iter().chain(to_pull).flatten().map(|(place, _)| place.priority).min()?;
        let left = costs.into_iter().filter(|cost| free.has(*cost));
        let fronts = left.filter_map(|cost| Some((cost, self.front(cost, room)?)));
        fronts.filter(|(_, front)| front.0.priority == most_urgent).min_by_key(|(cost, front)| class(*cost, *front))
    }

    fn front(&mut self, cost: Cost, room: &WorkloadRoom<'_>) -> Option<Front<'a>> {
        let open = self.open[cost as usize].peek(room);
        let to_pull = self.to_pull[cost as usize].peek(room).filter(|_| self.with_pulls);
        open.into_iter().chain(to_pull).min()
    }

    fn advance(&mut self, cost: Cost, room: &WorkloadRoom<'_>) {
        let front = self.front(cost, room);
        let open = &mut self.open[cost as usize];
        if open.peek(room) == front {
            open.advance();
        } else {
            self.to_pull[cost as usize].advance();
        }
        self.size.updated += 1;
    }
}
