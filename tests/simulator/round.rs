//! One round of the model operator for one set, around the very decisions that the controller makes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde_json::json;
use sidecarset::api::SidecarSet;
use sidecarset::api::reasons::Reason;
use sidecarset::api::validate::validate;
use sidecarset::core::pod::PodView;
use sidecarset::core::revision::Template;
use sidecarset::core::rollout::target::Direction;
use sidecarset::core::rollout::target::rollout::{Rollout, rollout};
use sidecarset::core::round::{
    AFTER_ERROR, Answers, Planned, Round, RoundFacts, RoundResult, WriteStatus, write_status,
};
use sidecarset::core::status::InjectionState;

use super::operator::{KnownRollout, Operator, Sending, Stage, Target, version};
use super::truth::{share, tier};
use super::world::{Body, Promise, World};

impl Operator {
    /// One step of the reconcile of a set.
    pub fn reconcile(&mut self, world: &mut World, name: &str, rng: &mut impl Rng, faults: f64) -> bool {
        if !self.may_plan() {
            return false;
        }
        let mut sending = match self.rounds.remove(name) {
            Some(Stage::Sending(sending)) => sending,
            Some(reporting) => {
                self.rounds.insert(name.to_owned(), reporting);
                return false;
            }
            None => return self.begin(world, name, rng, faults),
        };
        if sending.queue.is_empty() && sending.open.is_empty() {
            let unconfirmed = self.confirm(world, name, rng, faults);
            self.end_round(world, name, *sending, unconfirmed);
            return true;
        }
        let may_send = sending.open.len() < self.concurrency;
        let next = if may_send { sending.queue.pop_front() } else { None };
        let did_something = next.is_some();
        if let Some((patch, promise)) = next {
            let newest = self.sets.get(name).map(AsRef::as_ref);
            if sending.planned.may_send(newest, millis(world.now - sending.planned_at)) {
                let key = patch.key.clone();
                world.say(|| format!("patch of {key} to {} of {name} is sent", promise.revision));
                self.judge_send(world, name, &promise);
                let body = Body::Patch { set: name.to_owned(), patch: Box::new(patch), promise };
                sending.open.insert(self.send(world, name, Some(key), body));
            }
        }
        self.rounds.insert(name.to_owned(), Stage::Sending(sending));
        did_something
    }

    /// Where the set goes. It is made anew only if something changed, as that takes long.
    pub fn rollout(&mut self, world: &World, name: &str, set: &SidecarSet) -> Rollout {
        let history = &world.history[name];
        let fresh = |known: &&KnownRollout| known.0 == version(set) && known.1 == history.len();
        if let Some((_, _, rollout)) = self.rollouts.get(name).filter(fresh) {
            return rollout.clone();
        }
        let (_, template, hash) = target(&mut self.targets, name, set);
        let rollout = rollout(&validate(set).unwrap(), (hash, template), history, world.time());
        // A retry begins now, whenever that is.
        if rollout.target.retried_at != Some(world.time()) {
            self.rollouts.insert(name.to_owned(), (version(set), history.len(), rollout.clone()));
        }
        rollout
    }

    fn begin(&mut self, world: &mut World, name: &str, rng: &mut impl Rng, faults: f64) -> bool {
        if self.wake.get(name).is_none_or(|at| *at > world.now) {
            return false;
        }
        self.wake.remove(name);
        let Some(set) = self.sets.get(name).cloned() else { return false };
        let (_, template, hash) = target(&mut self.targets, name, &set);
        world.ensure(name, hash, template, set.metadata.generation.unwrap());
        let rollout = self.rollout(world, name, &set);
        let (round, _) = Round::begin(&mut self.index, set, rollout);
        let unconfirmed = self.confirm(world, name, rng, faults);
        let Ok(mut planned) = round.plan(&mut self.index, unconfirmed, world.time()) else {
            self.fail(world, name);
            return true;
        };
        let promise = self.promise(world, name, &planned);
        let queue: VecDeque<_> = planned.take_requests().into_iter().map(|patch| (patch, promise.clone())).collect();
        let sending = Sending { planned, planned_at: world.now, queue, open: BTreeSet::new(), patched: 0 };
        if sending.queue.is_empty() {
            self.end_round(world, name, sending, 0);
        } else {
            self.rounds.insert(name.to_owned(), Stage::Sending(Box::new(sending)));
        }
        true
    }

    /// What the set promises of each request of a plan.
    fn promise(&self, world: &World, name: &str, planned: &Planned) -> Promise {
        let Planned { set, rollout, .. } = planned;
        let caught_up = world.watch.is_empty() && world.set_watch.is_empty() && self.vanishing.is_empty();
        let (matched, strategy) = (self.matched(name), &rollout.target.strategy);
        let max = share(&json!(strategy.max_unavailable), matched).max(1);
        Promise {
            revision: rollout.target.revision.clone(),
            max_unavailable: max,
            max_unready: max.max(matched.div_ceil(10)),
            churn: caught_up.then_some(world.churn),
            partition: strategy.partition.as_ref().map_or(json!(0), |pods| json!(pods)),
            tier: tier(set),
            generation: set.metadata.generation.unwrap(),
            steps: strategy.steps.iter().map(|step| json!(step)).collect(),
            approved: rollout.persisted.approved,
            going_back: rollout.target.direction == Direction::Back,
        }
    }

    /// Pods of a set as the operator sees them, counted apart from its counters.
    fn matched(&self, set: &str) -> usize {
        let of_set = |pod: &&Arc<PodView>| pod.is_active() && pod.labels.get("app").is_some_and(|app| app == "web");
        self.index.pods().filter(of_set).filter(|pod| pod.marks.contains_key(set)).count()
    }
    pub fn fail(&mut self, world: &World, set: &str) {
        self.rounds.remove(set);
        let at = self.wake.get(set).copied().unwrap_or(i64::MAX).min(world.now + whole_millis(AFTER_ERROR));
        self.wake.insert(set.to_owned(), at);
    }

    fn end_round(&mut self, world: &mut World, name: &str, sending: Sending, unconfirmed: usize) {
        let Sending { planned, patched, .. } = sending;
        let old = planned.set.status.clone().unwrap_or_default();
        let injection = InjectionState { ready: true, reason: Reason::Registered, ..InjectionState::default() };
        let known = RoundFacts { newest: self.sets.get(name).cloned(), injection, ..RoundFacts::default() };
        let answers = Answers { patched, unconfirmed };
        let Ok(RoundResult { status, next, .. }) = planned.end(&mut self.index, answers, known, world.time()) else {
            return self.fail(world, name);
        };
        let wait = whole_millis(next);
        match write_status(&old, &status, self.reported.get(name).map(|last| millis(world.now - last))) {
            WriteStatus::Never => return self.end(world, name, wait),
            WriteStatus::After(left) => return self.end(world, name, wait.min(whole_millis(left))),
            WriteStatus::Now => {}
        }
        world.say(|| format!("status of {name}: {}", status.message.as_deref().unwrap_or_default()));
        if let Some(stable) = &status.stable_revision {
            world.stable_sent.insert(name.to_owned(), stable.clone());
        }
        self.rounds.insert(name.to_owned(), Stage::Reporting(wait));
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

fn millis(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn whole_millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}
