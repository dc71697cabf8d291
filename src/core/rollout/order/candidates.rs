//! The candidates of a set, and the order in which a plan takes them: the scatter groups in turn; in a group what was begun,
//! then by priority; within a priority first who was there when the rollout began, then who takes least of the budgets.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::base::tally::tally;
use crate::core::pod::workload::Workload;
use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Claim;
use crate::core::rollout::order::apportion::Apportion;
use crate::core::rollout::order::cost::{Cost, Free, needs_room};
use crate::core::rollout::order::queue::{Cursor, Lane, Place, Queue, WorkloadRoom};
use crate::core::rollout::target::Target;
use crate::core::rollout::target::order::{Priority, ScatterGroup};

/// Where the strategy puts a pod among the others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OrderKey {
    priority: Priority,
    /// It was made after the rollout had begun. Pods that live shorter than an update takes would keep the others waiting.
    is_late: bool,
    group: ScatterGroup,
    /// Only with maxUnavailablePerWorkload; shared, because every lane it stands in names it.
    pub(crate) workload: Option<Arc<Workload>>,
}

impl OrderKey {
    pub fn of(pod: &PodView, target: &Target) -> Self {
        let strategy = &target.strategy;
        Self {
            is_late: target.started_at.is_some_and(|started| pod.created > started),
            priority: strategy.order.priority(&pod.labels),
            group: strategy.order.scatter_group(&pod.labels),
            workload: strategy.max_unavailable_per_workload.is_some().then(|| Arc::new(Workload::of(pod))),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Candidates {
    queue: Queue,
    groups: BTreeMap<ScatterGroup, GroupSize>,
    all: GroupSize,
}

/// Of the pods of a group that are updated or can be, those that are.
#[derive(Clone, Copy, Debug, Default)]
struct GroupSize {
    pods: usize,
    updated: usize,
}

impl Candidates {
    /// A pod waits, or does not any more. `has_room`: if it needs room in its workload, there is some. `must_pull`: its
    /// node has to pull first.
    pub(crate) fn change(
        &mut self,
        key: &Arc<PodKey>,
        (pod, order): (&Assessment, &OrderKey),
        has_room: bool,
        must_pull: bool,
        add: bool,
    ) {
        let cost = Cost::of(pod);
        // It has one place and waits for another: it must not wait for pods that need the one it has.
        let is_between = pod.claim != Claim::None && cost != Cost::Held;
        let priority = if is_between { Priority::FIRST } else { order.priority };
        let workload = order.workload.clone().filter(|_| needs_room(pod));
        let has_room = has_room || workload.is_none();
        let lane = Lane { group: order.group.clone(), cost, must_pull };
        let place = Place { priority, is_late: order.is_late, rank: pod.rank, key: Arc::clone(key), workload };
        self.queue.change(&lane, place, has_room, add);
    }

    /// There is room in a workload, or there is none any more.
    pub(crate) fn set_room(&mut self, workload: &Arc<Workload>, has_room: bool) {
        self.queue.set_room(workload, has_room);
    }

    /// Workloads of ready pods that wait.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.queue.workloads()
    }

    /// A pod that is updated or can be comes or goes.
    pub(crate) fn count(&mut self, order: &OrderKey, updated: bool, add: bool) {
        let of_group = self.groups.entry(order.group.clone()).or_default();
        for size in [&mut *of_group, &mut self.all] {
            tally(&mut size.pods, 1, add);
            tally(&mut size.updated, usize::from(updated), add);
        }
        if of_group.pods == 0 {
            self.groups.remove(&order.group);
        }
    }

    /// The pods that can go within what is free, first to go first. `with_pulls`: as if every node had pulled already.
    pub(crate) fn choose<'a>(&'a self, free: Free, room: WorkloadRoom<'a>, with_pulls: bool) -> Choice<'a> {
        let mut groups: BTreeMap<&ScatterGroup, Group<'_>> = BTreeMap::new();
        for lane in self.queue.lanes() {
            let size = self.groups.get(&lane.group).copied().unwrap_or_default();
            let group = groups.entry(&lane.group).or_insert_with(|| Group { size, lanes: Vec::new(), with_pulls });
            group.lanes.extend(Cursor::new(&self.queue, lane));
        }
        let turns = std::array::from_fn(|_| Apportion::new(self.groups.len(), self.all.pods));
        let groups = groups.into_values().collect();
        let mut choice = Choice { free, room, groups, turns, done: self.all.updated };
        (0..choice.groups.len()).for_each(|group| choice.enter(group));
        choice
    }
}

/// The pods that a plan takes, one after the other.
pub(crate) struct Choice<'a> {
    free: Free,
    room: WorkloadRoom<'a>,
    groups: Vec<Group<'a>>,
    /// Whose turn it is among the groups whose next pod is of this class, see [`class`].
    turns: [Apportion<(&'a Place, usize)>; 5],
    /// Pods that have had their turn.
    done: usize,
}

impl Choice<'_> {
    /// The next pod of a group waits for its turn.
    fn enter(&mut self, position: usize) {
        let group = &mut self.groups[position];
        if let Some((lane, place)) = group.next(self.free, &self.room) {
            self.turns[class(lane.cost, place)].push(group.size.pods, group.size.updated, (place, position));
        }
    }
}

impl<'a> Iterator for Choice<'a> {
    type Item = &'a PodKey;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let turn = self.done + 1;
            let (place, position) = self.turns.iter_mut().find_map(|turns| turns.pop(turn))?;
            let group = &mut self.groups[position];
            // Pods of other groups may have taken the room or the budget since it entered.
            let goes = group.next(self.free, &self.room).filter(|(_, next)| *next == place);
            if let Some((lane, _)) = goes {
                group.advance(lane);
                self.free.take(lane.cost);
                self.room.take(place.workload.as_deref());
                self.done += 1;
            }
            self.enter(position);
            if goes.is_some() {
                return Some(&place.key);
            }
        }
    }
}

/// What was begun, then pods that were there when the rollout began, then the others, each by what they cost.
fn class(cost: Cost, place: &Place) -> usize {
    if cost == Cost::Held { 0 } else { cost as usize + 2 * usize::from(place.is_late) }
}

struct Group<'a> {
    size: GroupSize,
    lanes: Vec<Cursor<'a>>,
    /// Pods that have to pull are taken, too.
    with_pulls: bool,
}

impl<'a> Group<'a> {
    /// The pod that goes next. None goes before a more urgent one that waits only for a place in the budgets, or for its
    /// node to pull; but what was begun goes at once.
    fn next(&mut self, free: Free, room: &WorkloadRoom<'_>) -> Option<(&'a Lane, &'a Place)> {
        let fronts = self.lanes.iter_mut().filter_map(|lane| Some((lane.lane, lane.peek(room)?)));
        let fronts: Vec<_> = fronts.collect();
        let waiting = fronts.iter().filter(|(lane, _)| lane.cost != Cost::Held);
        let most_urgent = waiting.map(|(_, place)| place.priority).min();
        let may_go = |(lane, place): &(&Lane, &Place)| {
            let in_turn = Some(place.priority) == most_urgent && free.has(lane.cost);
            (self.with_pulls || !lane.must_pull) && (lane.cost == Cost::Held || in_turn)
        };
        fronts.into_iter().filter(may_go).min_by_key(|(lane, place)| (class(lane.cost, place), *place))
    }

    fn advance(&mut self, lane: &Lane) {
        self.lanes.iter_mut().filter(|cursor| cursor.lane == lane).for_each(Cursor::advance);
        self.size.updated += 1;
    }
}
