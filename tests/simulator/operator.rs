//! The model operator: the controller's order of reads and writes around the same pure decisions. It can die between
//! any two steps.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use rand::{Rng, RngExt};
use serde_json::json;
use sidecarset::api::{SidecarSet, SidecarSetStatus, keys};
use sidecarset::core::pod::{PodKey, PodView};
use sidecarset::core::revision::Template;
use sidecarset::core::status::{self, InjectionState};
use sidecarset::core::upgrade::answer::{Answer, Lost, answer, lost};
use sidecarset::core::upgrade::patch::{PLAN_HOLDS, PodPatch};
use sidecarset::core::upgrade::{Course, Index, Mode, Summary, course, still_wanted};

use super::truth::{share, tier};
use super::world::{Body, PodEvent, Promise, Reply, Request, World, at};

/// As the controller's.
const BATCH: usize = 1024;
const NO_PROGRESS: i64 = 1_000;
const RESYNC: i64 = 300_000;
const AFTER_ERROR: i64 = 2_000;
const COUNTERS_EVERY: i64 = 1_000;
/// Of the moments when the counters could be compared with a recount, one in so many is taken.
const RECOUNT_EVERY: u64 = 12;
pub const WRITE_TIMEOUT: i64 = 10_000;

/// Nodes of the cluster: name, and whether the kubelet restarts native sidecars.
pub const NODES: [(&str, bool); 2] = [("new", true), ("old", false)];

/// Generation of a set, its template, and its hash.
type Target = (i64, Template, String);

/// Version of a set, number of its revisions, and its course.
type KnownCourse = (u64, usize, Course);

/// How a new leader begins.
enum TakeOver {
    Wait(i64),
    /// Pods with our label, or at last those that only carry a set's mark.
    Reading {
        pods: VecDeque<Arc<PodView>>,
        labelled: bool,
    },
    Done,
}

/// A request that is waited for; without a pod it writes the status.
struct Sent {
    set: String,
    pod: Option<PodKey>,
    at: i64,
}

/// A reconcile under way.
struct Round {
    set: Arc<SidecarSet>,
    course: Course,
    planned_at: i64,
    queue: VecDeque<(PodPatch, Promise)>,
    open: BTreeSet<u64>,
    patched: usize,
    /// The status is being written; look again after this many milliseconds.
    reporting: Option<i64>,
}

/// See the module.
pub struct Operator {
    pub epoch: u64,
    pub index: Index,
    sets: BTreeMap<String, Arc<SidecarSet>>,
    uncertain: BTreeMap<String, BTreeSet<PodKey>>,
    vanishing: Vec<(PodKey, String, i64)>,
    listed: Option<HashSet<PodKey>>,
    warm: bool,
    take_over: TakeOver,
    rounds: BTreeMap<String, Round>,
    wake: BTreeMap<String, i64>,
    reported: BTreeMap<String, i64>,
    requests: BTreeMap<u64, Sent>,
    /// Pods refused lately: a fresh index cannot know of them.
    refused_until: i64,
    targets: BTreeMap<String, Target>,
    courses: BTreeMap<String, KnownCourse>,
    /// Newest version of each set that was seen, and whether it was paused.
    newest: BTreeMap<String, (u64, bool)>,
    /// Version and time of the last recount, and how often there could have been one.
    judged: (u64, i64),
    chances: u64,
    concurrency: usize,
    next_id: u64,
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
            uncertain: BTreeMap::new(),
            vanishing: Vec::new(),
            listed: None,
            warm: false,
            take_over: TakeOver::Wait(world.now + wait),
            rounds: BTreeMap::new(),
            wake: BTreeMap::new(),
            reported: BTreeMap::new(),
            requests: BTreeMap::new(),
            refused_until: 0,
            targets: BTreeMap::new(),
            courses: BTreeMap::new(),
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

    fn dirty(&mut self, sets: impl IntoIterator<Item = String>, now: i64) {
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
        let lists = matches!(event, PodEvent::InitDone);
        self.on_pod(event, world.now, if lists { world.marked(false) } else { VecDeque::new() });
        true
    }

    fn on_pod(&mut self, event: PodEvent, now: i64, unlabelled: VecDeque<Arc<PodView>>) {
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
                let gone: Vec<_> = gone.map(|pod| (pod.key.clone(), pod.uid.clone(), now)).collect();
                self.vanishing.extend(gone);
                if self.may_plan() {
                    let lost = unlabelled.into_iter().map(|pod| (pod.key.clone(), pod.uid.clone(), now));
                    self.vanishing.extend(lost);
                }
                self.warm = true;
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

    fn note_set(&mut self, set: Arc<SidecarSet>, now: i64, answered: bool) {
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
        let found = world.get(&key);
        let sets = match (lost(found.as_deref(), &uid), found) {
            (Lost::Labelled, Some(pod)) => self.index.apply_answer((*pod).clone(), at(now)),
            (Lost::Unlabelled, Some(_)) if self.may_plan() && !rng.random_bool(faults) => {
                world.say(|| format!("{key} is labelled again"));
                world.write(&key, |pod| pod["metadata"]["labels"][keys::INJECTED] = json!("true"));
                Vec::new()
            }
            (Lost::Unlabelled, Some(_)) => {
                self.vanishing.push((key, uid, now + 1_000));
                Vec::new()
            }
            _ => self.index.remove(&key, &uid, at(now)),
        };
        self.dirty(sets, now);
        true
    }

    /// One step towards leading; false if nothing is to be done yet.
    pub fn take_over(&mut self, world: &mut World) -> bool {
        let now = world.now;
        match &mut self.take_over {
            TakeOver::Done => return false,
            TakeOver::Reading { .. } if now < world.reads_fail_until => return false,
            TakeOver::Wait(until) => {
                if now < *until || !self.warm {
                    return false;
                }
                // The requests of the one before have arrived by now, or never will.
                world.requests.retain(|request| request.epoch == self.epoch);
                self.index.start_list();
                self.take_over = TakeOver::Reading { pods: world.marked(true), labelled: true };
            }
            TakeOver::Reading { pods, labelled } => {
                let page: Vec<_> = pods.drain(..pods.len().min(3)).collect();
                let (last, labelled) = (pods.is_empty(), *labelled);
                for pod in page {
                    self.index.apply_listed((*pod).clone(), at(now));
                }
                if last && labelled {
                    self.take_over = TakeOver::Reading { pods: world.marked(false), labelled: false };
                } else if last {
                    let unwatched = self.index.end_list();
                    self.vanishing.extend(unwatched.into_iter().map(|(key, uid)| (key, uid, now)));
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

    /// One step of the reconcile of a set.
    pub fn reconcile(&mut self, world: &mut World, name: &str, rng: &mut impl Rng, faults: f64) -> bool {
        if !self.may_plan() {
            return false;
        }
        let Some(mut round) = self.rounds.remove(name) else { return self.begin(world, name, rng, faults) };
        if round.reporting.is_some() {
            self.rounds.insert(name.to_owned(), round);
            return false;
        }
        if let Some((patch, promise)) = round.queue.pop_front() {
            if round.open.len() >= self.concurrency {
                round.queue.push_front((patch, promise));
                self.rounds.insert(name.to_owned(), round);
                return false;
            }
            let is_fresh = i128::from(world.now - round.planned_at) <= PLAN_HOLDS.as_millis().cast_signed();
            if self.is_current(name, &round.set) && is_fresh {
                let key = patch.key.clone();
                world.say(|| format!("patch of {key} to {} of {name} is sent", promise.revision));
                self.judge_send(world, name, &promise);
                let body = Body::Patch { set: name.to_owned(), patch: Box::new(patch), promise };
                round.open.insert(self.send(world, name, Some(key), body));
            }
            self.rounds.insert(name.to_owned(), round);
            return true;
        }
        if !round.open.is_empty() {
            self.rounds.insert(name.to_owned(), round);
            return false;
        }
        if !self.settle(world, name, rng, faults) {
            self.fail(world, name);
            return true;
        }
        let next = if round.patched == 0 && self.is_current(name, &round.set) { NO_PROGRESS } else { 0 };
        let plan = self.index.plan(name, &round.course.remembered, world.time(), 0);
        self.report(world, name, round, &plan.summary, plan.wake_at, Some(next));
        true
    }

    /// Where the set goes. It is made anew only if something changed, as that takes long.
    fn course(&mut self, world: &World, name: &str, set: &SidecarSet) -> Course {
        let history = &world.history[name];
        let fresh = |known: &&KnownCourse| known.0 == version(set) && known.1 == history.len();
        if let Some((_, _, course)) = self.courses.get(name).filter(fresh) {
            return course.clone();
        }
        let (_, template, hash) = target(&mut self.targets, name, set);
        let course = course(set, (hash, template), history, world.time()).unwrap();
        // A retry begins now, whenever that is.
        if course.rollout.retried_at != Some(world.time()) {
            self.courses.insert(name.to_owned(), (version(set), history.len(), course.clone()));
        }
        course
    }

    fn is_current(&self, name: &str, set: &SidecarSet) -> bool {
        self.sets.get(name).is_some_and(|newest| still_wanted(set, newest))
    }

    fn begin(&mut self, world: &mut World, name: &str, rng: &mut impl Rng, faults: f64) -> bool {
        if self.wake.get(name).is_none_or(|at| *at > world.now) {
            return false;
        }
        self.wake.remove(name);
        let Some(set) = self.sets.get(name).cloned() else { return false };
        let (_, template, hash) = target(&mut self.targets, name, &set);
        world.ensure(name, hash, template);
        let course = self.course(world, name, &set);
        self.index.configure(course.rollout.clone(), world.time());
        if !self.settle(world, name, rng, faults) {
            self.fail(world, name);
            return true;
        }
        let plan = self.index.plan(name, &course.remembered, world.time(), BATCH);
        let caught_up = world.watch.is_empty() && world.set_watch.is_empty() && self.vanishing.is_empty();
        let (matched, strategy) = (self.matched(name), &course.rollout.strategy);
        let max = share(&json!(strategy.max_unavailable), matched).max(1);
        let promise = Promise {
            revision: course.rollout.revision.clone(),
            max_unavailable: max,
            max_unready: max.max(matched.div_ceil(10)),
            churn: caught_up.then_some(world.churn),
            partition: json!(strategy.partition),
            tier: tier(&set),
            generation: set.metadata.generation.unwrap(),
            steps: strategy.steps.iter().map(|step| json!(step)).collect(),
            approved: course.remembered.approved,
            going_back: course.rollout.mode == Mode::Back,
        };
        let queue: VecDeque<_> = plan.patches.into_iter().map(|patch| (patch, promise.clone())).collect();
        let round =
            Round { set, course, planned_at: world.now, queue, open: BTreeSet::new(), patched: 0, reporting: None };
        if round.queue.is_empty() {
            self.report(world, name, round, &plan.summary, plan.wake_at, None);
        } else {
            self.rounds.insert(name.to_owned(), round);
        }
        true
    }

    /// Pods of a set as the operator sees them, counted apart from its counters.
    fn matched(&self, set: &str) -> usize {
        let of_set = |pod: &&Arc<PodView>| pod.is_active() && pod.labels.get("app").is_some_and(|app| app == "web");
        self.index.pods().filter(of_set).filter(|pod| pod.marks.contains_key(set)).count()
    }

    fn judge_send(&self, world: &mut World, name: &str, promise: &Promise) {
        let Some(set) = self.sets.get(name) else { return };
        if self.newest.get(name).is_some_and(|(_, paused)| *paused) {
            world.violate("c: pause", format!("a patch of {name} is sent while it is paused"));
        }
        let status = set.status.as_ref();
        let aborted = status.and_then(|status| status.aborted_revision.as_ref()) == Some(&promise.revision);
        let retry = set.metadata.annotations.as_ref().and_then(|all| all.get(keys::RETRY));
        let retried = retry != status.and_then(|status| status.handled_retry.as_ref());
        if aborted && !retried {
            world.violate("d: an aborted revision goes no further", format!("{} of {name}", promise.revision));
        }
    }

    fn send(&mut self, world: &mut World, set: &str, pod: Option<PodKey>, body: Body) -> u64 {
        self.next_id += 1;
        let request = Request { id: self.next_id, epoch: self.epoch, sent_at: world.now, body };
        world.requests.push(request);
        self.requests.insert(self.next_id, Sent { set: set.to_owned(), pod, at: world.now });
        self.next_id
    }

    /// Whether somebody still waits for the answer.
    pub fn waits_for(&self, id: u64) -> bool {
        self.requests.contains_key(&id)
    }

    /// Requests whose time is over, wherever they are.
    pub fn overdue(&self, now: i64) -> Vec<u64> {
        self.requests.iter().filter(|(_, sent)| sent.at + WRITE_TIMEOUT <= now).map(|(id, _)| *id).collect()
    }

    /// An answer, or the end of waiting for one.
    pub fn reply(&mut self, world: &mut World, id: u64, reply: Reply, rng: &mut impl Rng, faults: f64) {
        let Some(Sent { set, pod, .. }) = self.requests.remove(&id) else { return };
        match pod {
            Some(key) => self.patch_reply(world, &set, &key, id, reply, rng, faults),
            None => self.status_reply(world, &set, reply),
        }
    }

    #[allow(clippy::too_many_arguments)] // what the controller has in its context
    fn patch_reply(
        &mut self,
        world: &mut World,
        set: &str,
        key: &PodKey,
        id: u64,
        reply: Reply,
        rng: &mut impl Rng,
        faults: f64,
    ) {
        let now = world.time();
        if let Some(round) = self.rounds.get_mut(set) {
            round.open.remove(&id);
            round.patched += usize::from(matches!(reply, Reply::Pod(_)));
        }
        let what = match reply {
            Reply::Pod(pod) => {
                self.index.apply_answer((*pod).clone(), now);
                return;
            }
            Reply::Error(status) => answer(&status),
            _ => Answer::Unknown,
        };
        world.say(|| format!("patch of {key} for {set}: {what:?}"));
        match what {
            Answer::LookAgain => {
                self.uncertain.entry(set.to_owned()).or_default().insert(key.clone());
                self.look_again(world, set, key, rng, faults);
            }
            Answer::Refused(message) => {
                self.refused_until = i64::MAX;
                if let Some(pod) = self.index.get(key) {
                    self.index.refuse(set, &pod, message, None, now);
                }
            }
            Answer::Unknown => {
                self.uncertain.entry(set.to_owned()).or_default().insert(key.clone());
                self.refused_until = self.refused_until.max(world.now + 11_000);
                self.index.unanswered(set, key, "timeout", now);
                self.look_again(world, set, key, rng, faults);
            }
        }
    }

    fn look_again(&mut self, world: &mut World, set: &str, key: &PodKey, rng: &mut impl Rng, faults: f64) -> bool {
        if rng.random_bool(faults) || world.now < world.reads_fail_until {
            return false;
        }
        match (world.get(key), self.index.get(key)) {
            (Some(pod), _) => drop(self.index.apply_answer((*pod).clone(), world.time())),
            (None, Some(known)) => drop(self.index.remove(key, &known.uid, world.time())),
            (None, None) => {}
        }
        if let Some(open) = self.uncertain.get_mut(set) {
            open.remove(key);
        }
        true
    }

    fn settle(&mut self, world: &mut World, set: &str, rng: &mut impl Rng, faults: f64) -> bool {
        let open: Vec<PodKey> = self.uncertain.get(set).into_iter().flatten().cloned().collect();
        open.iter().filter(|key| !self.look_again(world, set, key, rng, faults)).count() == 0
    }

    fn fail(&mut self, world: &World, set: &str) {
        self.rounds.remove(set);
        let at = self.wake.get(set).copied().unwrap_or(i64::MAX).min(world.now + AFTER_ERROR);
        self.wake.insert(set.to_owned(), at);
    }

    fn report(
        &mut self,
        world: &mut World,
        name: &str,
        mut round: Round,
        summary: &Summary,
        wake_at: Option<k8s_openapi::jiff::Timestamp>,
        next: Option<i64>,
    ) {
        let injection = InjectionState { ready: true, reason: "Registered", ..InjectionState::default() };
        let (status, overdue_at) = status::status(&round.set, &round.course, summary, &injection, world.time());
        let until = |at: k8s_openapi::jiff::Timestamp| {
            let wait = at.duration_since(world.time()).as_millis();
            i64::try_from(wait).unwrap_or(RESYNC).clamp(0, RESYNC)
        };
        let wake = wake_at.into_iter().chain(overdue_at).map(until).min();
        let wait = next.into_iter().chain(wake).min().unwrap_or(RESYNC).min(RESYNC);
        let old = round.set.status.clone().unwrap_or_default();
        if old == status {
            return self.end(world, name, wait);
        }
        if same_conditions(&old, &status) && old.observed_generation == status.observed_generation {
            let last = self.reported.get(name).map(|last| last + COUNTERS_EVERY - world.now);
            if let Some(left) = last.filter(|left| *left > 0) {
                return self.end(world, name, wait.min(left));
            }
        }
        world.say(|| format!("status of {name}: {}", status.message.as_deref().unwrap_or_default()));
        if let Some(stable) = &status.stable_revision {
            world.stable_sent.insert(name.to_owned(), stable.clone());
        }
        round.reporting = Some(wait);
        self.rounds.insert(name.to_owned(), round);
        self.send(world, name, None, Body::Status { set: name.to_owned(), status: Box::new(status) });
    }

    fn status_reply(&mut self, world: &mut World, name: &str, reply: Reply) {
        let wait = self.rounds.get(name).and_then(|round| round.reporting).unwrap_or(0);
        match reply {
            Reply::Set(set) => {
                self.reported.insert(name.to_owned(), world.now);
                self.note_set(Arc::new(*set), world.now, true);
                self.end(world, name, wait);
            }
            _ => self.fail(world, name),
        }
    }

    fn end(&mut self, world: &World, name: &str, wait: i64) {
        self.rounds.remove(name);
        let at = self.wake.get(name).copied().unwrap_or(i64::MAX).min(world.now + wait);
        self.wake.insert(name.to_owned(), at);
    }

    /// Counters equal a recount whenever everything was heard of.
    pub fn judge_counters(&mut self, world: &mut World) {
        if self.judged == (world.version, world.now) {
            return;
        }
        let behind = !world.watch.is_empty() || !self.vanishing.is_empty() || !self.may_plan();
        if behind || self.refused_until > world.now || self.uncertain.values().any(|open| !open.is_empty()) {
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
            let course = self.course(world, name, set);
            let mut fresh = Index::default();
            for (node, able) in NODES {
                fresh.set_node(node, Some(able));
            }
            for pod in world.pods.values() {
                fresh.apply((*pod.view).clone(), world.time());
            }
            fresh.configure(course.rollout.clone(), world.time());
            self.index.configure(course.rollout, world.time());
            let recount = fresh.plan(name, &course.remembered, world.time(), 0).summary;
            let running = self.index.plan(name, &course.remembered, world.time(), 0).summary;
            if recount != running {
                let known = |pod: &&super::world::Pod| self.index.get(&pod.view.key).as_ref() != Some(&pod.view);
                let differ: Vec<_> = world.pods.values().filter(known).map(|pod| &pod.view).collect();
                let text = format!("{name}\n  recount {recount:?}\n  running {running:?}\n  unknown {differ:?}");
                return world.violate("f: counters equal a recount", text);
            }
        }
    }
}

/// The revision of a set's spec; made once per generation, as it takes long.
fn target<'a>(targets: &'a mut BTreeMap<String, Target>, name: &str, set: &SidecarSet) -> &'a Target {
    let generation = set.metadata.generation.unwrap();
    if targets.get(name).is_none_or(|(known, ..)| *known != generation) {
        let template = Template::of(&set.spec);
        let hash = template.hash(0);
        targets.insert(name.to_owned(), (generation, template, hash));
    }
    &targets[name]
}

fn version(set: &SidecarSet) -> u64 {
    set.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn same_conditions(old: &SidecarSetStatus, new: &SidecarSetStatus) -> bool {
    let of = |status: &SidecarSetStatus| -> Vec<(String, String, String)> {
        let conditions = status.conditions.iter();
        conditions.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect()
    };
    of(old) == of(new)
}
