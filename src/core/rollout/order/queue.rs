//! The order in which outdated pods are patched.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;
use crate::core::rollout::assess::claim::Claim;
use crate::core::rollout::assess::{Assessment, Rank};
use crate::core::rollout::order::apportion::Turns;
use crate::core::rollout::order::key::OrderKey;
use crate::core::rollout::target::order::{Priority, ScatterGroup};

/// Candidates that are passed over before a plan looks no further.
pub(crate) const SCANNED: usize = 2000;

/// Where a pod stands among those of its group; the smaller goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: Priority,
    rank: Rank,
    key: Arc<PodKey>,
}

/// Whose room a pod needs; `None` for a pod that needs none.
type Room = Option<Arc<Workload>>;

/// The first pod of a lane.
type Head<'a> = (&'a Place, &'a Room);

/// Outdated pods of one cost. Those of one group and one workload stand in a lane.
#[derive(Debug, Default)]
struct Queue {
    lanes: BTreeMap<Room, BTreeMap<ScatterGroup, BTreeSet<Place>>>,
    /// The heads of the lanes that there is room for: a plan looks at no others, and does not count the rest.
    heads: BTreeMap<ScatterGroup, BTreeSet<(Place, Room)>>,
}

/// How far a group has come: of its pods that are updated or can be, those that are.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    pods: usize,
    updated: usize,
}

/// Outdated pods by what they cost, first to go first.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    held: Queue,
    unready: Queue,
    ready: Queue,
    shares: BTreeMap<ScatterGroup, Share>,
    whole: Share,
}

/// How many pods a plan may take of those that cost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Free {
    /// Slots of maxUnavailable.
    pub(crate) slots: usize,
    /// Places under the cap of unready pods.
    pub(crate) cap: usize,
}

impl Free {
    /// Takes what touching a pod costs; false if it is not left.
    pub(crate) fn take(&mut self, cost: Cost) -> bool {
        let left = match cost {
            Cost::Held => return true,
            Cost::Unready => &mut self.cap,
            Cost::Ready => &mut self.slots,
        };
        let is_left = *left > 0;
        *left = left.saturating_sub(1);
        is_left
    }
}

/// A pod in the queues.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pub(crate) key: &'a Arc<PodKey>,
    pub(crate) rank: Rank,
    pub(crate) order: &'a OrderKey,
    /// It takes from its workload what maxUnavailablePerWorkload leaves.
    pub(crate) needs_room: bool,
    /// What it takes of the budgets.
    pub(crate) cost: Cost,
}

/// What patching a pod takes of the budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Nothing more: it has its place already.
    Held,
    /// A place under the cap of unready pods: it is not ready anyway.
    Unready,
    /// A slot of maxUnavailable.
    Ready,
}

impl Cost {
    pub(crate) fn of(pod: &Assessment) -> Self {
        match pod.next_claim() {
            _ if pod.is_held() => Self::Held,
            Claim::Disruption => Self::Ready,
            Claim::Unready | Claim::None => Self::Unready,
        }
    }
}

impl Queues {
    /// A pod waits, or does not any more. `is_open`: there is room in its workload.
    pub(crate) fn change(&mut self, pod: &Waiting<'_>, is_open: bool, add: bool) {
        let place = Place { priority: pod.order.priority, rank: pod.rank, key: Arc::clone(pod.key) };
        let room = if pod.needs_room { &pod.order.workload } else { &None };
        let queue = match pod.cost {
            Cost::Held => &mut self.held,
            Cost::Unready => &mut self.unready,
            Cost::Ready => &mut self.ready,
        };
        queue.change(room, &pod.order.group, place, is_open, add);
    }

    /// There is room for a workload, or there is none any more.
    pub(crate) fn open(&mut self, workload: &Arc<Workload>, is_open: bool) {
        self.ready.open(&Some(Arc::clone(workload)), is_open);
    }

    /// Ready pods of this workload wait.
    pub(crate) fn has_ready(&self, workload: &Arc<Workload>) -> bool {
        self.ready.lanes.contains_key(&Some(Arc::clone(workload)))
    }

    /// A pod of a scatter group that is updated or can be comes or goes.
    pub(crate) fn count(&mut self, group: &ScatterGroup, updated: bool, add: bool) {
        let share = self.shares.entry(group.clone()).or_default();
        for share in [&mut *share, &mut self.whole] {
            let step = |field: &mut usize, by: usize| *field = if add { *field + by } else { *field - by };
            step(&mut share.pods, 1);
            step(&mut share.updated, usize::from(updated));
        }
        if share.pods == 0 {
            self.shares.remove(group);
        }
    }

    /// At most `limit` pods to patch, first to go first. What may not be patched is passed over.
    pub(crate) fn choose<'a>(
        &'a self,
        free: Free,
        limit: usize,
        room: &'a dyn Fn(&Workload) -> usize,
        may_patch: &'a dyn Fn(&PodKey) -> bool,
    ) -> Vec<&'a PodKey> {
        let rooms = Rooms { room, taken: BTreeMap::new() };
        let mut draft = Draft { chosen: Vec::new(), passed_over: 0, taken: BTreeMap::new(), rooms, may_patch };
        for (queue, free) in [(&self.held, usize::MAX), (&self.unready, free.cap), (&self.ready, free.slots)] {
            let wanted = free.min(limit - draft.chosen.len());
            self.draw(queue, wanted, &mut draft);
        }
        draft.chosen
    }

    /// All outdated pods, in no order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &PodKey> {
        let queues = [&self.held, &self.unready, &self.ready];
        let lanes = queues.into_iter().flat_map(|queue| queue.lanes.values().flat_map(BTreeMap::values));
        lanes.flatten().map(|place| place.key.as_ref())
    }

    fn draw<'a>(&'a self, queue: &'a Queue, wanted: usize, draft: &mut Draft<'a>) {
        if wanted == 0 {
            return;
        }
        let enough = draft.chosen.len() + wanted;
        let mut turns = Turns::new(self.shares.len(), self.whole.pods);
        let mut lines: Vec<Line<'_>> = queue.heads.keys().map(|group| Line::new(queue, group)).collect();
        for (i, line) in lines.iter_mut().enumerate() {
            self.enter(i, line, &mut turns, draft);
        }
        while draft.chosen.len() < enough
            && draft.passed_over < SCANNED
            && let Some((head, i)) = turns.pop(self.whole.updated + draft.chosen.len() + 1)
        {
            let line = &mut lines[i];
            // A pod of another group may have taken the room since this one stood in line.
            if draft.rooms.is_left(head.1.as_deref()) {
                draft.take(line.group, head);
                line.go_on(head);
            }
            self.enter(i, line, &mut turns, draft);
        }
    }

    /// The next pod of a group stands in line.
    fn enter<'a>(&self, position: usize, line: &mut Line<'a>, turns: &mut Turns<(Head<'a>, usize)>, draft: &Draft<'a>) {
        let share = self.shares.get(line.group).copied().unwrap_or_default();
        let taken = draft.taken.get(line.group).copied().unwrap_or(0);
        if let Some(head) = line.next(&draft.rooms) {
            turns.push(share.pods, share.updated + taken, (head, position));
        }
    }
}

impl Queue {
    /// Puts a pod into its lane, or takes it out. `is_open`: there is room for a pod of this lane.
    fn change(&mut self, room: &Room, group: &ScatterGroup, place: Place, is_open: bool, add: bool) {
        let lanes = self.lanes.entry(room.clone()).or_default();
        let lane = lanes.entry(group.clone()).or_default();
        let leads = lane.first().is_none_or(|first| place <= *first);
        if leads {
            close(&mut self.heads, room, group, lane);
        }
        if add {
            lane.insert(place);
        } else {
            lane.remove(&place);
        }
        if leads && is_open {
            open(&mut self.heads, room, group, lane);
        }
        if lane.is_empty() {
            lanes.remove(group);
        }
        if lanes.is_empty() {
            self.lanes.remove(room);
        }
    }

    /// There is room for a workload, or there is none any more.
    fn open(&mut self, room: &Room, is_open: bool) {
        for (group, lane) in self.lanes.get(room).into_iter().flatten() {
            close(&mut self.heads, room, group, lane);
            if is_open {
                open(&mut self.heads, room, group, lane);
            }
        }
    }
}

type Heads = BTreeMap<ScatterGroup, BTreeSet<(Place, Room)>>;

fn open(heads: &mut Heads, room: &Room, group: &ScatterGroup, lane: &BTreeSet<Place>) {
    if let Some(first) = lane.first() {
        heads.entry(group.clone()).or_default().insert((first.clone(), room.clone()));
    }
}

fn close(heads: &mut Heads, room: &Room, group: &ScatterGroup, lane: &BTreeSet<Place>) {
    if let (Some(first), Some(of_group)) = (lane.first(), heads.get_mut(group)) {
        of_group.remove(&(first.clone(), room.clone()));
        if of_group.is_empty() {
            heads.remove(group);
        }
    }
}

/// The room that workloads have left while a plan takes pods.
struct Rooms<'a> {
    room: &'a dyn Fn(&Workload) -> usize,
    taken: BTreeMap<&'a Workload, usize>,
}

impl<'a> Rooms<'a> {
    /// True for a pod that needs none.
    fn is_left(&self, workload: Option<&Workload>) -> bool {
        let taken = |workload| self.taken.get(workload).copied().unwrap_or(0);
        workload.is_none_or(|workload| (self.room)(workload) > taken(workload))
    }

    fn take(&mut self, workload: Option<&'a Workload>) {
        if let Some(workload) = workload {
            *self.taken.entry(workload).or_default() += 1;
        }
    }
}

/// A plan in the making.
struct Draft<'a> {
    chosen: Vec<&'a PodKey>,
    passed_over: usize,
    /// Chosen pods by group.
    taken: BTreeMap<&'a ScatterGroup, usize>,
    rooms: Rooms<'a>,
    may_patch: &'a dyn Fn(&PodKey) -> bool,
}

impl<'a> Draft<'a> {
    /// Takes a pod, or passes it over.
    fn take(&mut self, group: &'a ScatterGroup, (place, room): Head<'a>) {
        if !(self.may_patch)(&place.key) {
            self.passed_over += 1;
            return;
        }
        self.chosen.push(&place.key);
        self.rooms.take(room.as_deref());
        *self.taken.entry(group).or_default() += 1;
    }
}

/// The pods of a group, merged from its lanes as far as they are asked for.
struct Line<'a> {
    group: &'a ScatterGroup,
    lanes: &'a BTreeMap<Room, BTreeMap<ScatterGroup, BTreeSet<Place>>>,
    /// Heads of lanes that no pod has left.
    heads: Peekable<Iter<'a, (Place, Room)>>,
    /// The next pods of the other lanes.
    next: BinaryHeap<Reverse<Head<'a>>>,
}

impl<'a> Line<'a> {
    fn new(queue: &'a Queue, group: &'a ScatterGroup) -> Self {
        static NONE: BTreeSet<(Place, Room)> = BTreeSet::new();
        let heads = queue.heads.get(group).unwrap_or(&NONE).iter().peekable();
        Self { group, lanes: &queue.lanes, heads, next: BinaryHeap::new() }
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
        let lane = self.lanes.get(room).and_then(|lanes| lanes.get(self.group));
        let next = lane.and_then(|lane| lane.range((Excluded(place), Unbounded)).next());
        self.next.extend(next.map(|next| Reverse((next, room))));
    }
}
