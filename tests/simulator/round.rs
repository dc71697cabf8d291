//! One round of the model operator for one set: the controller's order of reads and writes around the same decisions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand::Rng;
use serde_json::json;
use sidecarset::api::reasons::Reason;
use sidecarset::api::{SidecarSet, SidecarSetStatus};
use sidecarset::core::pod::PodView;
use sidecarset::core::revision::Template;
use sidecarset::core::rollout::plan::begin_batch;
use sidecarset::core::rollout::plan::summary::Summary;
use sidecarset::core::rollout::request::PLAN_HOLDS;
use sidecarset::core::rollout::target::Direction;
use sidecarset::core::rollout::target::direction::{Course, course, still_wanted};
use sidecarset::core::status::{self, InjectionState};

use super::operator::{KnownCourse, Operator, Round, Target, version};
use super::truth::{share, tier};
use super::world::{Body, Promise, World};

/// As the controller's.
const BATCH: usize = 1024;
const NO_PROGRESS: i64 = 1_000;
const RESYNC: i64 = 300_000;
const AFTER_ERROR: i64 = 2_000;
const COUNTERS_EVERY: i64 = 1_000;

impl Operator {
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
        let plan = begin_batch(&mut self.index, name, &round.course.remembered, world.time(), 0);
        self.report(world, name, round, &plan.summary, plan.wake_at, Some(next));
        true
    }

    /// Where the set goes. It is made anew only if something changed, as that takes long.
    pub fn course(&mut self, world: &World, name: &str, set: &SidecarSet) -> Course {
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
        let plan = begin_batch(&mut self.index, name, &course.remembered, world.time(), BATCH);
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
            going_back: course.rollout.direction == Direction::Back,
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
    pub fn fail(&mut self, world: &World, set: &str) {
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
        let injection = InjectionState { ready: true, reason: Reason::Registered, ..InjectionState::default() };
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

    pub fn end(&mut self, world: &World, name: &str, wait: i64) {
        self.rounds.remove(name);
        let at = self.wake.get(name).copied().unwrap_or(i64::MAX).min(world.now + wait);
        self.wake.insert(name.to_owned(), at);
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

fn same_conditions(old: &SidecarSetStatus, new: &SidecarSetStatus) -> bool {
    let of = |status: &SidecarSetStatus| -> Vec<(String, String, String)> {
        let conditions = status.conditions.iter();
        conditions.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect()
    };
    of(old) == of(new)
}
