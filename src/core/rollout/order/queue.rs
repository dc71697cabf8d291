//! The order in which outdated pods are patched.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::pod::PodKey;
use crate::core::rollout::assess::{Entry, Rank, State};
use crate::core::rollout::budget::workloads::{Member, Rooms, Workload, Workloads};
use crate::core::rollout::order::apportion::Turns;
use crate::core::rollout::order::rules::{Class, Priority};
use crate::core::rollout::plan::prepull::SCANNED;

/// What patching a pod costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Nothing more: it has its place in a budget already.
    Held,
    /// A place under the cap of unready pods: it is not ready anyway.
    Unready,
    /// A slot of maxUnavailable.
    Ready,
}

/// Where a pod stands among those of its class; the smaller goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: Priority,
    rank: Rank,
    key: PodKey,
}

/// Whose room a pod needs; `None` for a pod that needs none.
type Room = Option<Arc<Workload>>;

/// The first pod of a lane.
type Head<'a> = (&'a Place, &'a Room);

/// Outdated pods of one cost. Those of one class and one workload stand in a lane.
#[derive(Debug, Default)]
struct Queue {
    lanes: BTreeMap<Room, BTreeMap<Class, BTreeSet<Place>>>,
    /// The heads of the lanes that there is room for: a plan looks at no others, and does not count the rest.
    heads: BTreeMap<Class, BTreeSet<(Place, Room)>>,
}

/// How far a class has come: of its pods that are updated or can be, those that are.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    pods: usize,
    updated: usize,
}

/// Outdated pods by what they cost, first to go first.
#[derive(Debug)]
pub(crate) struct Queues {
    by_cost: [Queue; 3],
    shares: BTreeMap<Class, Share>,
    whole: Share,
    workloads: Workloads,
    /// Workloads without room whose ready pods wait.
    blocked: BTreeSet<Arc<Workload>>,
}

impl Queues {
    /// For this `maxUnavailablePerWorkload`.
    pub(crate) fn new(per_workload: Option<IntOrString>) -> Self {
        Self {
            by_cost: <[Queue; 3]>::default(),
            shares: BTreeMap::new(),
            whole: Share::default(),
            workloads: Workloads::new(per_workload),
            blocked: BTreeSet::new(),
        }
    }

    /// Takes note of a pod that comes or goes. `behind`: it is not at the target.
    pub(crate) fn account(&mut self, key: &PodKey, entry: &Entry, behind: bool, add: bool) {
        let waits = entry.state == State::Outdated && entry.selected;
        if waits || (entry.selected && !behind) {
            self.count(&entry.standing.class, !behind, add);
        }
        let workload = &entry.standing.workload;
        if let Some(workload) = workload
            && self.workloads.account(workload, member(entry, waits), add)
        {
            self.by_cost[Cost::Ready as usize].open(&Some(Arc::clone(workload)), self.workloads.has_room(workload));
        }
        if waits {
            let place = Place { priority: entry.standing.priority, rank: entry.rank, key: key.clone() };
            let room = if needs_room(entry) { workload } else { &None };
            let is_open = room.as_ref().is_none_or(|workload| self.workloads.has_room(workload));
            self.by_cost[cost(entry) as usize].change(room, &entry.standing.class, place, is_open, add);
        }
        if let Some(workload) = workload {
            let waits = self.by_cost[Cost::Ready as usize].lanes.contains_key(&entry.standing.workload);
            if waits && !self.workloads.has_room(workload) {
                self.blocked.insert(Arc::clone(workload));
            } else {
                self.blocked.remove(workload);
            }
        }
    }

    /// At most `limit` pods to patch, first to go first, if so many slots and places under the cap are free. What may
    /// not be patched is passed over.
    pub(crate) fn choose<'a>(
        &'a self,
        free_slots: usize,
        free_cap: usize,
        limit: usize,
        may_patch: &'a dyn Fn(&PodKey) -> bool,
    ) -> Vec<&'a PodKey> {
        let rooms = Rooms::new(&self.workloads);
        let mut draft = Draft { chosen: Vec::new(), passed_over: 0, taken: BTreeMap::new(), rooms, may_patch };
        for (cost, free) in [(Cost::Held, usize::MAX), (Cost::Unready, free_cap), (Cost::Ready, free_slots)] {
            let wanted = free.min(limit - draft.chosen.len());
            self.draw(&self.by_cost[cost as usize], wanted, &mut draft);
        }
        draft.chosen
    }

    /// All outdated pods, in no order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &PodKey> {
        let lanes = self.by_cost.iter().flat_map(|queue| queue.lanes.values().flat_map(BTreeMap::values));
        lanes.flatten().map(|place| &place.key)
    }

    /// How many workloads have ready pods that wait only for room in them.
    pub(crate) fn blocked(&self) -> usize {
        self.blocked.len()
    }

    /// See [`Workloads::locked_out`].
    pub(crate) fn locked_out(&self) -> usize {
        self.workloads.locked_out()
    }

    /// These workloads, for example `Deployment default/web (1 of 1 unavailable)`.
    pub(crate) fn blocked_workloads(&self) -> impl Iterator<Item = String> {
        self.blocked.iter().map(|workload| self.workloads.describe(workload))
    }

    fn count(&mut self, class: &Class, updated: bool, add: bool) {
        let share = self.shares.entry(class.clone()).or_default();
        for share in [&mut *share, &mut self.whole] {
            let step = |field: &mut usize, by: usize| *field = if add { *field + by } else { *field - by };
            step(&mut share.pods, 1);
            step(&mut share.updated, usize::from(updated));
        }
        if share.pods == 0 {
            self.shares.remove(class);
        }
    }

    fn draw<'a>(&'a self, queue: &'a Queue, wanted: usize, draft: &mut Draft<'a>) {
        if wanted == 0 {
            return;
        }
        let enough = draft.chosen.len() + wanted;
        let mut turns = Turns::new(self.shares.len(), self.whole.pods);
        let mut lines: Vec<Line<'_>> = queue.heads.keys().map(|class| Line::new(queue, class)).collect();
        for (i, line) in lines.iter_mut().enumerate() {
            self.enter(i, line, &mut turns, draft);
        }
        while draft.chosen.len() < enough
            && draft.passed_over < SCANNED
            && let Some((head, i)) = turns.pop(self.whole.updated + draft.chosen.len() + 1)
        {
            let line = &mut lines[i];
            // A pod of another class may have taken the room since this one stood in line.
            if draft.rooms.is_left(head.1.as_deref()) {
                draft.take(line.class, head);
                line.go_on(head);
            }
            self.enter(i, line, &mut turns, draft);
        }
    }

    /// The next pod of a class stands in line.
    fn enter<'a>(&self, position: usize, line: &mut Line<'a>, turns: &mut Turns<(Head<'a>, usize)>, draft: &Draft<'a>) {
        let share = self.shares.get(line.class).copied().unwrap_or_default();
        let taken = draft.taken.get(line.class).copied().unwrap_or(0);
        if let Some(head) = line.next(&draft.rooms) {
            turns.push(share.pods, share.updated + taken, (head, position));
        }
    }
}

impl Queue {
    /// Puts a pod into its lane, or takes it out. `is_open`: there is room for a pod of this lane.
    fn change(&mut self, room: &Room, class: &Class, place: Place, is_open: bool, add: bool) {
        let lanes = self.lanes.entry(room.clone()).or_default();
        let lane = lanes.entry(class.clone()).or_default();
        let leads = lane.first().is_none_or(|first| place <= *first);
        if leads {
            close(&mut self.heads, room, class, lane);
        }
        if add {
            lane.insert(place);
        } else {
            lane.remove(&place);
        }
        if leads && is_open {
            open(&mut self.heads, room, class, lane);
        }
        if lane.is_empty() {
            lanes.remove(class);
        }
        if lanes.is_empty() {
            self.lanes.remove(room);
        }
    }

    /// There is room for a workload, or there is none any more.
    fn open(&mut self, room: &Room, is_open: bool) {
        for (class, lane) in self.lanes.get(room).into_iter().flatten() {
            close(&mut self.heads, room, class, lane);
            if is_open {
                open(&mut self.heads, room, class, lane);
            }
        }
    }
}

type Heads = BTreeMap<Class, BTreeSet<(Place, Room)>>;

fn open(heads: &mut Heads, room: &Room, class: &Class, lane: &BTreeSet<Place>) {
    if let Some(first) = lane.first() {
        heads.entry(class.clone()).or_default().insert((first.clone(), room.clone()));
    }
}

fn close(heads: &mut Heads, room: &Room, class: &Class, lane: &BTreeSet<Place>) {
    if let (Some(first), Some(of_class)) = (lane.first(), heads.get_mut(class)) {
        of_class.remove(&(first.clone(), room.clone()));
        if of_class.is_empty() {
            heads.remove(class);
        }
    }
}

/// A plan in the making.
struct Draft<'a> {
    chosen: Vec<&'a PodKey>,
    passed_over: usize,
    /// Chosen pods by class.
    taken: BTreeMap<&'a Class, usize>,
    rooms: Rooms<'a>,
    may_patch: &'a dyn Fn(&PodKey) -> bool,
}

impl<'a> Draft<'a> {
    /// Takes a pod, or passes it over.
    fn take(&mut self, class: &'a Class, (place, room): Head<'a>) {
        if !(self.may_patch)(&place.key) {
            self.passed_over += 1;
            return;
        }
        self.chosen.push(&place.key);
        self.rooms.take(room.as_deref());
        *self.taken.entry(class).or_default() += 1;
    }
}

/// The pods of a class, merged from its lanes as far as they are asked for.
struct Line<'a> {
    class: &'a Class,
    lanes: &'a BTreeMap<Room, BTreeMap<Class, BTreeSet<Place>>>,
    /// Heads of lanes that no pod has left.
    heads: Peekable<Iter<'a, (Place, Room)>>,
    /// The next pods of the other lanes.
    next: BinaryHeap<Reverse<Head<'a>>>,
}

impl<'a> Line<'a> {
    fn new(queue: &'a Queue, class: &'a Class) -> Self {
        static NONE: BTreeSet<(Place, Room)> = BTreeSet::new();
        let heads = queue.heads.get(class).unwrap_or(&NONE).iter().peekable();
        Self { class, lanes: &queue.lanes, heads, next: BinaryHeap::new() }
    }

    /// Takes the first pod that there is room for; lanes without room are left.
    fn next(&mut self, rooms: &Rooms<'_>) -> Option<Head<'a>> {
        loop {
            let fresh = self.heads.peek().map(|(place, room)| (place, room));
            let head = fresh.into_iter().chain(self.next.peek().map(|Reverse(head)| *head)).min()?;
            if Some(head) == fresh {
                self.heads.next();
            } else {
                self.next.pop();
            }
            if rooms.is_left(head.1.as_deref()) {
                return Some(head);
            }
        }
    }

    /// The pod behind this one is the head of its lane now.
    fn go_on(&mut self, (place, room): Head<'a>) {
        let lane = self.lanes.get(room).and_then(|lanes| lanes.get(self.class));
        let next = lane.and_then(|lane| lane.range((Excluded(place), Unbounded)).next());
        self.next.extend(next.map(|next| Reverse((next, room))));
    }
}

fn member(entry: &Entry, waits: bool) -> Member {
    Member { unavailable: is_unavailable(entry), failed: matches!(entry.state, State::Failed(_)), waits }
}

/// Not ready, or in an update: it counts against its workload, whatever the reason.
fn is_unavailable(entry: &Entry) -> bool {
    !entry.ready || entry.holds_slot || entry.fills_cap
}

/// What is unavailable already takes nothing from its workload, unless that may be over in a moment.
fn needs_room(entry: &Entry) -> bool {
    !is_unavailable(entry) || (entry.in_hiccup && !entry.holds_slot && !entry.fills_cap)
}

pub(crate) fn cost(entry: &Entry) -> Cost {
    match (entry.holds_slot, entry.counts_as_ready(), entry.fills_cap) {
        (true, _, _) | (false, false, true) => Cost::Held,
        // Also a pod that was unready when last patched: it is ready now, so patching it costs a slot.
        (false, true, _) => Cost::Ready,
        (false, false, false) => Cost::Unready,
    }
}
