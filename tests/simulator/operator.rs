//! The model operator: what it keeps, and how it follows the cluster. It can die between any two steps.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use rand::{Rng, RngExt};
use serde_json::json;
use sidecarset::api::{SidecarSet, keys};
use sidecarset::core::pod::{PodKey, PodView};
use sidecarset::core::revision::Template;
use sidecarset::core::rollout::plan::{begin_batch, report};
use sidecarset::core::rollout::request::PodPatch;
use sidecarset::core::rollout::request::answer::{Lost, lost};
use sidecarset::core::rollout::state::index::Index;
use sidecarset::core::rollout::target::rollout::Rollout;
use sidecarset::core::round::Planned;

use super::world::{Pod, PodEvent, Promise, World, at};

/// As the controller's.
pub const WRITE_TIMEOUT: i64 = 10_000;

/// Of the moments when the counters could be compared with a recount, one in so many is taken.
const RECOUNT_EVERY: u64 = 12;

/// Nodes of the cluster: name, and whether the kubelet restarts native sidecars.
pub const NODES: [(&str, bool); 2] = [("new", true), ("old", false)];

/// Generation of a set, its template, and its hash.
pub type Target = (i64, Template, String);

/// Version of a set, number of its revisions, and its course.
pub type KnownRollout = (u64, usize, Rollout);

/// How a new leader begins.
pub enum TakeOver {
    Wait(i64),
    /// Pods with our label.
    Reading(VecDeque<Arc<PodView>>),
    /// At those of which the watch may say nothing.
    Looking(Vec<(PodKey, String)>),
    Done,
}

/// A request that is waited for; without a pod it writes the status.
pub struct Sent {
    pub set: String,
    pub pod: Option<PodKey>,
    pub at: i64,
}

/// A reconcile under way.
pub enum Stage {
    Sending(Box<Sending>),
    /// The status is being written; look again after this many milliseconds.
    Reporting(i64),
}

/// Requests of a plan that are sent and waited for.
pub struct Sending {
    pub planned: Planned,
    pub planned_at: i64,
    pub queue: VecDeque<(PodPatch, Promise)>,
    pub open: BTreeSet<u64>,
    pub patched: usize,
}

/// See the module.
pub struct Operator {
    pub epoch: u64,
    pub index: Index,
    pub sets: BTreeMap<String, Arc<SidecarSet>>,
    pub unconfirmed: BTreeMap<String, BTreeSet<PodKey>>,
    pub vanishing: Vec<(PodKey, String, i64)>,
    pub listed: Option<HashSet<PodKey>>,
    pub warm: bool,
    /// Pods that lost their label before the last list are still to be found.
    pub searching: bool,
    pub take_over: TakeOver,
    pub rounds: BTreeMap<String, Stage>,
    pub wake: BTreeMap<String, i64>,
    pub reported: BTreeMap<String, i64>,
    pub requests: BTreeMap<u64, Sent>,
    /// Pods refused lately: a fresh index cannot know of them.
    pub refused_until: i64,
    pub targets: BTreeMap<String, Target>,
    pub rollouts: BTreeMap<String, KnownRollout>,
    /// Newest version of each set that was seen, and whether it was paused.
    pub newest: BTreeMap<String, (u64, bool)>,
    /// Version and time of the last recount, and how often there could have been one.
    pub judged: (u64, i64),
    pub chances: u64,
    pub concurrency: usize,
    pub next_id: u64,
}

impl Operator {
    /// A new process, or one that was a follower: it may write after `wait`.
    pub fn start(world: &mut World, epoch: u64, wait: i64, concurrency: usize) -> Self {
        let mut index = Index::default();
        for (node, able) in NODES {
            index.set_node(node, Some(able));
        }
        world.relist();
        world.set_watch = world.sets.values().cloned().map(Arc::new).collect();
        Self {
            epoch,
            index,
            sets: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            vanishing: Vec::new(),
            listed: None,
            warm: false,
            searching: false,
            take_over: TakeOver::Wait(world.now + wait),
            rounds: BTreeMap::new(),
            wake: BTreeMap::new(),
            reported: BTreeMap::new(),
            requests: BTreeMap::new(),
            refused_until: 0,
            targets: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            newest: BTreeMap::new(),
            judged: (0, -1),
            chances: 0,
            concurrency,
            next_id: epoch * 1_000_000,
        }
    }

    pub fn may_plan(&self) -> bool {
        matches!(self.take_over, TakeOver::Done)
    }

    pub fn dirty(&mut self, sets: impl IntoIterator<Item = String>, now: i64) {
        for set in sets {
            self.wake.insert(set, now);
        }
    }

    /// Takes one event of the watch of pods.
    pub fn pod_event(&mut self, world: &mut World) -> bool {
        if world.now < world.watch_hangs_until {
            return false;
        }
        let Some(event) = world.watch.pop_front() else { return false };
        self.on_pod(event, world.now);
        true
    }

    fn on_pod(&mut self, event: PodEvent, now: i64) {
        match event {
            PodEvent::Init => self.listed = Some(HashSet::new()),
            PodEvent::InitApply(pod) | PodEvent::Apply(pod) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(pod.key.clone());
                }
                let sets = self.index.apply((*pod).clone(), at(now));
                self.dirty(sets, now);
            }
            PodEvent::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone = self.index.pods().filter(|pod| !listed.contains(&pod.key));
                let mut gone: Vec<_> = gone.map(|pod| (pod.key.clone(), pod.uid.clone(), now)).collect();
                gone.sort();
                self.vanishing.extend(gone);
                (self.warm, self.searching) = (true, true);
            }
            PodEvent::Delete(pod, true) => {
                let sets = self.index.remove(&pod.key, &pod.uid, at(now));
                self.dirty(sets, now);
            }
            PodEvent::Delete(pod, false) => self.vanishing.push((pod.key.clone(), pod.uid.clone(), now)),
        }
    }

    /// Takes one event of the watch of sets.
    pub fn set_event(&mut self, world: &mut World) -> bool {
        let Some(set) = world.set_watch.pop_front() else { return false };
        self.note_set(set, world.now, false);
        true
    }

    pub fn note_set(&mut self, set: Arc<SidecarSet>, now: i64, answered: bool) {
        let name = set.metadata.name.clone().unwrap();
        let newer = self.sets.get(&name).is_none_or(|known| version(known) <= version(&set));
        let newest = self.newest.entry(name.clone()).or_default();
        *newest = (*newest).max((version(&set), set.spec.update_strategy.paused));
        if newer {
            self.sets.insert(name.clone(), set);
        }
        if !answered {
            self.dirty([name], now);
        }
    }

    /// Looks after a pod that the watch has lost.
    pub fn look_for_lost(&mut self, world: &mut World, rng: &mut impl Rng, faults: f64) -> bool {
        let now = world.now;
        let Some(place) = self.vanishing.iter().position(|(_, _, at)| *at <= now) else { return false };
        let (key, uid, _) = self.vanishing.swap_remove(place);
        if rng.random_bool(faults) || now < world.reads_fail_until {
            self.vanishing.push((key, uid, now + 1_000));
            return true;
        }
        match self.look(world, &key, &uid) {
            true if self.may_plan() && !rng.random_bool(faults) => {
                world.say(|| format!("{key} is labelled again"));
                world.write(&key, |pod| pod["metadata"]["labels"][keys::INJECTED] = json!("true"));
            }
            true => self.vanishing.push((key, uid, now + 1_000)),
            false => {}
        }
        true
    }

    /// Reads a pod; true if it lives without our label.
    fn look(&mut self, world: &World, key: &PodKey, uid: &str) -> bool {
        let (found, now) = (world.get(key), world.now);
        let state = lost(found.as_deref(), uid);
        let sets = match (state, found) {
            (Lost::Labelled, Some(pod)) => self.index.apply_answer((*pod).clone(), at(now)),
            (Lost::Unlabelled, Some(pod)) => self.index.apply((*pod).clone(), at(now)),
            _ => self.index.remove(key, uid, at(now)),
        };
        self.dirty(sets, now);
        state == Lost::Unlabelled
    }

    /// Finds pods that lost their label while nobody watched.
    fn search(&mut self, world: &World) -> bool {
        if !self.searching || world.now < world.reads_fail_until {
            return false;
        }
        self.searching = false;
        for pod in world.marked(false) {
            if self.look(world, &pod.key, &pod.uid) {
                self.vanishing.push((pod.key.clone(), pod.uid.clone(), world.now));
            }
        }
        true
    }

    /// One step towards leading; false if nothing is to be done yet.
    pub fn take_over(&mut self, world: &mut World) -> bool {
        let now = world.now;
        if self.search(world) {
            return true;
        }
        match &mut self.take_over {
            TakeOver::Done => return false,
            TakeOver::Reading(_) | TakeOver::Looking(_) if now < world.reads_fail_until => return false,
            TakeOver::Wait(until) => {
                if now < *until || !self.warm || self.searching {
                    return false;
                }
                // The requests of the one before have arrived by now, or never will.
                world.requests.retain(|request| request.epoch == self.epoch);
                self.index.start_list();
                self.take_over = TakeOver::Reading(world.marked(true));
            }
            TakeOver::Reading(pods) => {
                let page: Vec<_> = pods.drain(..pods.len().min(3)).collect();
                let last = pods.is_empty();
                for pod in page {
                    self.index.apply_listed((*pod).clone(), at(now));
                }
                if last {
                    self.take_over = TakeOver::Looking(self.index.end_list());
                }
            }
            TakeOver::Looking(pods) => {
                if let Some((key, uid)) = pods.pop() {
                    if self.look(world, &key, &uid) {
                        self.vanishing.push((key, uid, now));
                    }
                } else {
                    self.take_over = TakeOver::Done;
                    world.say(|| "the operator leads".to_owned());
                    let names: Vec<String> = self.sets.keys().cloned().collect();
                    self.dirty(names, now);
                }
            }
        }
        true
    }

    /// When it does something by itself next.
    pub fn due(&self) -> i64 {
        let waits = match self.take_over {
            TakeOver::Wait(until) => until,
            _ => i64::MAX,
        };
        let lost = self.vanishing.iter().map(|(_, _, at)| *at);
        let idle = |set: &String| self.may_plan() && !self.rounds.contains_key(set);
        let wake = self.wake.iter().filter(|(set, _)| idle(set)).map(|(_, at)| *at);
        let timeouts = self.requests.values().map(|sent| sent.at + WRITE_TIMEOUT);
        wake.chain(lost).chain(timeouts).min().unwrap_or(i64::MAX).min(waits)
    }

    /// Counters equal a recount whenever everything was heard of.
    pub fn judge_counters(&mut self, world: &mut World) {
        if self.judged == (world.version, world.now) {
            return;
        }
        let behind = !world.watch.is_empty() || !self.vanishing.is_empty() || !self.may_plan();
        if behind || self.refused_until > world.now || self.unconfirmed.values().any(|open| !open.is_empty()) {
            return;
        }
        self.judged = (world.version, world.now);
        // It takes longer than all the rest.
        self.chances += 1;
        if !self.chances.is_multiple_of(RECOUNT_EVERY) {
            return;
        }
        for (name, set) in &self.sets.clone() {
            if self.rounds.contains_key(name) || !world.history.contains_key(name) {
                continue;
            }
            let rollout = self.rollout(world, name, set);
            let mut fresh = Index::default();
            for (node, able) in NODES {
                fresh.set_node(node, Some(able));
            }
            for pod in world.pods.values() {
                fresh.apply((*pod.view).clone(), world.time());
            }
            fresh.configure(rollout.target.clone(), world.time());
            self.index.configure(rollout.target, world.time());
            let recount = report(&fresh, name, &rollout.persisted, world.time()).summary;
            // Time has passed.
            begin_batch(&mut self.index, name, &rollout.persisted, world.time(), 0);
            let running = report(&self.index, name, &rollout.persisted, world.time()).summary;
            if recount != running {
                let known = |pod: &&Pod| self.index.get(&pod.view.key).as_ref() != Some(&pod.view);
                let differ: Vec<_> = world.pods.values().filter(known).map(|pod| &pod.view).collect();
                let text = format!("{name}\n  recount {recount:?}\n  running {running:?}\n  unknown {differ:?}");
                return world.violate("f: counters equal a recount", text);
            }
        }
    }
}

pub fn version(set: &SidecarSet) -> u64 {
    set.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
