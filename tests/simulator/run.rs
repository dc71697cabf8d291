//! One run: a seed decides the cluster, what happens in which order, and what goes wrong.

use rand::{Rng, RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use serde_json::{Value, json};
use sidecarset::api::{SidecarSet, keys, reasons};
use sidecarset::core::pod::PodKey;

use super::operator::{NODES, Operator, WRITE_TIMEOUT};
use super::truth::{TIMEOUT, tier};
use super::world::{Reply, SETS, World, error};

/// Steps with disturbances.
const STEPS: usize = 220;

/// A patch that nobody waits for any more may still arrive for so long.
const LATE: i64 = 5_000;

/// Model time within which a rollout comes to rest, and steps that it may take.
const REST: i64 = 900_000;
const REST_STEPS: usize = 6_000;

const IMAGES: [&str; 8] = ["v1", "v2", "v2", "v3", "v3", "v4-nopull", "v5-crash", "v6-slow"];

/// Kinds of disturbances; a mask leaves some out to make a failing run simpler.
pub const KINDS: [&str; 23] = [
    "image",
    "pause",
    "budget",
    "partition",
    "steps",
    "approve",
    "retry",
    "action",
    "env",
    "crash",
    "relist",
    "duplicate",
    "delete",
    "create",
    "label lost",
    "marks lost",
    "app readiness",
    "image by hand",
    "type",
    "request faults",
    "selector",
    "watch hangs",
    "outage",
];

/// What became of a run.
pub struct Outcome {
    pub violation: Option<(&'static str, String)>,
    pub trace: Vec<String>,
}

struct Run {
    world: World,
    operator: Operator,
    rng: XorShiftRng,
    mask: u32,
    hold: i64,
    faults: f64,
}

/// Runs a seed. `mask` has a bit for each kind of disturbance that may happen.
pub fn run(seed: u64, mask: u32, trace: bool) -> Outcome {
    let mut rng = XorShiftRng::seed_from_u64(seed);
    let mut world = World { trace: trace.then(Vec::new), ..World::default() };
    let hold = [0, 2, 5][rng.random_range(0..3)];
    let sets = rng.random_range(1..=SETS.len());
    for (name, ..) in SETS.iter().take(sets) {
        let set = set(name, hold, &mut rng);
        world.edit_new(set);
    }
    for i in 0..rng.random_range(1..8) {
        let node = NODES[usize::from(rng.random_bool(0.1))].0;
        world.create(&format!("p{i}"), node);
    }
    let concurrency = rng.random_range(1..5);
    let operator = Operator::start(&mut world, 1, 0, concurrency);
    let mut run = Run { world, operator, rng, mask, hold, faults: 0.0 };
    run.rest();
    run.faults = if run.allowed(19) { 0.05 } else { 0.0 };
    for _ in 0..STEPS {
        if run.world.violation.is_some() {
            break;
        }
        run.step();
        run.operator.judge_counters(&mut run.world);
    }
    run.finish()
}

fn set(name: &str, hold: i64, rng: &mut impl Rng) -> SidecarSet {
    let (_, list, container) = SETS.iter().find(|(set, ..)| *set == name).unwrap();
    let mut entry = json!({"name": container, "image": "v1"});
    if *list == "initContainers" {
        entry["restartPolicy"] = json!("Always");
    }
    let mut object = json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
        "metadata": {"name": name, "generation": 1, "resourceVersion": "1"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "updateStrategy": {
            "minReadySeconds": hold, "podUpdateTimeoutSeconds": TIMEOUT / 1000, "progressDeadlineSeconds": 120,
            "maxUnavailable": amount(rng),
        }},
    });
    object["spec"][list] = json!([entry]);
    serde_json::from_value(object).unwrap()
}

fn amount(rng: &mut impl Rng) -> Value {
    [json!(1), json!(1), json!(2), json!(3), json!("30%"), json!("100%")][rng.random_range(0..6)].clone()
}

impl World {
    fn edit_new(&mut self, set: SidecarSet) {
        self.sets.insert(set.metadata.name.clone().unwrap(), set);
    }
}

impl Run {
    fn allowed(&self, kind: usize) -> bool {
        self.mask & (1 << kind) != 0
    }

    fn any_pod(&mut self) -> Option<PodKey> {
        let pods = self.world.pods.len();
        (pods > 0).then(|| self.world.pods.keys().nth(self.rng.random_range(0..pods)).unwrap().clone())
    }

    fn any_set(&mut self) -> String {
        let sets = self.world.sets.len();
        self.world.sets.keys().nth(self.rng.random_range(0..sets)).unwrap().clone()
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..20 => drop(self.operator.pod_event(&mut self.world)),
            20..26 => drop(self.operator.set_event(&mut self.world)),
            26..46 => {
                let set = self.any_set();
                self.operator.reconcile(&mut self.world, &set, &mut self.rng, self.faults);
            }
            46..56 => self.serve(),
            56..64 => self.answer(),
            64..80 => {
                if let Some(pod) = self.any_pod() {
                    self.world.kubelet(&pod, &mut self.rng);
                }
            }
            80..84 => {
                if !self.operator.take_over(&mut self.world) {
                    self.operator.look_for_lost(&mut self.world, &mut self.rng, self.faults);
                }
            }
            84..92 => {
                let by = [10, 200, 500, 1_000, 2_000, 3_000, 6_000, 6_000, 12_000, 20_000, 61_000]
                    [self.rng.random_range(0..11)];
                self.wait(by);
            }
            _ => self.disturb(),
        }
    }

    /// The apiserver takes any of the requests on their way.
    fn serve(&mut self) {
        let requests = self.world.requests.len();
        if requests == 0 {
            return;
        }
        let request = self.world.requests.swap_remove(self.rng.random_range(0..requests));
        let late = !self.operator.waits_for(request.id);
        let faulty = self.rng.random_bool(self.faults * 3.0);
        let reply = match self.rng.random_range(0..6) {
            _ if !faulty => self.world.serve(&request.body),
            0 => error(500, false),
            1 => error(409, false),
            2 => error(429, false),
            3 => return,
            4 => error(422, true),
            _ => {
                self.world.serve(&request.body);
                error(504, false)
            }
        };
        if late {
            self.world.churn += 1;
        }
        self.world.replies.push((request.id, reply));
    }

    /// The operator gets any of the answers on their way.
    fn answer(&mut self) {
        let replies = self.world.replies.len();
        if replies == 0 {
            return;
        }
        let (id, reply) = self.world.replies.swap_remove(self.rng.random_range(0..replies));
        let is_lost = self.rng.random_bool(self.faults / 2.0) || self.world.now < self.world.reads_fail_until;
        if !is_lost {
            self.operator.reply(&mut self.world, id, reply, &mut self.rng, self.faults);
        }
    }

    /// Time passes; requests run into their timeouts, and late ones get lost.
    fn wait(&mut self, by: i64) {
        self.world.now += by;
        let now = self.world.now;
        for id in self.operator.overdue(now) {
            self.operator.reply(&mut self.world, id, Reply::Timeout, &mut self.rng, self.faults);
        }
        self.world.requests.retain(|request| request.sent_at + WRITE_TIMEOUT + LATE > now);
    }

    fn disturb(&mut self) {
        let kind = self.rng.random_range(0..KINDS.len());
        let set = self.any_set();
        let pod = self.any_pod();
        let (draw, other) = (self.rng.random_range(0..1000_usize), amount(&mut self.rng));
        let list = SETS.iter().find(|(name, ..)| *name == set).unwrap().1;
        if !self.allowed(kind) {
            return;
        }
        let what = KINDS[kind];
        self.world.say(|| format!("-- {what} ({set}, {pod:?}, {draw})"));
        let status = self.world.sets[&set].status.clone().unwrap_or_default();
        let now = self.world.now;
        let world = &mut self.world;
        match (what, pod) {
            ("image", _) => world.edit(&set, |set| set_image(set, list, IMAGES[draw % IMAGES.len()])),
            ("pause", _) => world.edit(&set, |set| set.spec.update_strategy.paused = draw % 3 == 0),
            ("budget", _) => world.edit(&set, |set| {
                set.spec.update_strategy.max_unavailable = serde_json::from_value(other).unwrap();
            }),
            ("partition", _) => world.edit(&set, |set| set_partition(set, draw)),
            ("steps", _) => world.edit(&set, |set| set_steps(set, draw)),
            ("approve" | "retry", _) => {
                let key = if what == "approve" { keys::APPROVE } else { keys::RETRY };
                let value = format!("{}/{}", status.update_revision.unwrap_or_default(), draw % 3);
                world.edit(&set, |set| {
                    set.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
                });
            }
            ("action", _) => world.edit(&set, |set| {
                let action = ["Pause", "Rollback", "Ignore"][draw % 3];
                set.spec.update_strategy.failure_policy.action = serde_json::from_value(json!(action)).unwrap();
            }),
            ("env", _) => world.edit(&set, |set| set_env(set, list, draw % 4 == 0)),
            ("type", _) => world.edit(&set, |set| {
                let type_ = if draw % 4 == 0 { "NotUpdate" } else { "RollingUpdate" };
                set.spec.update_strategy.type_ = serde_json::from_value(json!(type_)).unwrap();
            }),
            ("selector", _) => world.edit(&set, |set| {
                let canaries = json!({"matchLabels": {"tier": "canary"}});
                let selector = if draw % 2 == 0 { json!(null) } else { canaries };
                set.spec.update_strategy.selector = serde_json::from_value(selector).unwrap();
            }),
            ("watch hangs", _) => world.watch_hangs_until = now + [3_000, 15_000, 40_000][draw % 3],
            ("outage", _) => {
                world.reads_fail_until = now + [3_000, 15_000, 60_000][draw % 3];
                world.watch_hangs_until = world.reads_fail_until;
            }
            ("crash", _) => {
                let (epoch, concurrency) = (self.operator.epoch + 1, 1 + draw % 4);
                self.world.replies.clear();
                self.operator = Operator::start(&mut self.world, epoch, WRITE_TIMEOUT, concurrency);
            }
            ("relist", _) => world.relist(),
            ("duplicate", Some(key)) => {
                // A watch that resumes may tell again what it told.
                if let Some(pod) = world.get(&key).filter(|pod| pod.is_labelled()) {
                    world.watch.push_back(super::world::PodEvent::Apply(pod));
                }
            }
            ("delete", Some(key)) if draw % 2 == 0 => {
                world.churn += 1;
                world.write(&key, |pod| pod["metadata"]["deletionTimestamp"] = json!(super::world::second(now)));
            }
            ("delete", Some(key)) => {
                let deleting = world.pods[&key].view.deleting;
                world.remove(&key, !deleting);
                // A StatefulSet makes it again at once, under the same name.
                if draw % 3 > 0 {
                    world.create(&key.name, NODES[usize::from(draw % 20 == 0)].0);
                }
            }
            ("create", _) if world.pods.len() < 8 => {
                let name = (0..9).map(|i| format!("p{i}")).find(|name| world.pods.keys().all(|key| key.name != *name));
                world.create(&name.unwrap(), NODES[usize::from(draw % 10 == 0)].0);
            }
            ("label lost", Some(key)) => world.tamper(&key, None, |pod| {
                pod["metadata"]["labels"].as_object_mut().unwrap().remove(keys::INJECTED);
            }),
            ("marks lost", Some(key)) => world.tamper(&key, Some(&set), |pod| {
                pod["metadata"]["labels"].as_object_mut().unwrap().remove(&keys::revision_label(&set));
            }),
            ("app readiness", Some(key)) => {
                if let Some(pod) = world.pods.get_mut(&key).filter(|pod| !pod.view.deleting) {
                    pod.kubelet.app_ready = draw % 2 == 0;
                    world.report(&key);
                }
            }
            ("image by hand", Some(key)) => world.tamper(&key, Some(&set), |pod| {
                let container = pod["spec"][list].as_array_mut().into_iter().flatten().find(|c| c["name"] != "app");
                if let Some(container) = container {
                    container["image"] = json!(["v1", "by-hand"][draw % 2]);
                    pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap() + 1);
                }
            }),
            _ => {}
        }
    }

    /// Nothing goes wrong any more: everything that can happen happens, in the order of time.
    fn rest(&mut self) {
        self.faults = 0.0;
        (self.world.watch_hangs_until, self.world.reads_fail_until) = (0, 0);
        let end = self.world.now + REST;
        let sets: Vec<String> = self.world.sets.keys().cloned().collect();
        for _ in 0..REST_STEPS {
            if self.world.violation.is_some() || self.world.now >= end {
                return;
            }
            let pods: Vec<PodKey> = self.world.pods.keys().cloned().collect();
            let mut busy = self.operator.pod_event(&mut self.world) | self.operator.set_event(&mut self.world);
            while !self.world.requests.is_empty() {
                busy = true;
                self.serve();
            }
            while !self.world.replies.is_empty() {
                busy = true;
                self.answer();
            }
            let (world, operator, rng) = (&mut self.world, &mut self.operator, &mut self.rng);
            busy |= operator.take_over(world) | operator.look_for_lost(world, rng, 0.0);
            for set in &sets {
                busy |= operator.reconcile(world, set, rng, 0.0);
            }
            for pod in &pods {
                busy |= world.kubelet(pod, rng);
            }
            if !busy {
                operator.judge_counters(world);
                let kubelets = world.pods.values().map(|pod| pod.kubelet.due(pod.view.generation));
                let next = kubelets.min().unwrap_or(i64::MAX).min(operator.due()).min(end);
                let by = (next - world.now).max(1);
                self.wait(by);
            }
        }
        self.world.violate("e: convergence", "it never comes to rest".to_owned());
    }

    /// The disturbances are over: the end state must be a stable one that says what it is. Then a working image without
    /// limits must reach every pod.
    fn finish(mut self) -> Outcome {
        self.world.say(|| "== the disturbances are over".to_owned());
        let gone: Vec<PodKey> =
            self.world.pods.iter().filter(|(_, pod)| pod.view.deleting).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.world.remove(&key, false);
        }
        let keys: Vec<PodKey> = self.world.pods.keys().cloned().collect();
        for key in keys {
            self.world.pods.get_mut(&key).unwrap().kubelet.app_ready = true;
            self.world.report(&key);
        }
        self.rest();
        let sets: Vec<String> = self.world.sets.keys().cloned().collect();
        for set in &sets {
            self.judge_end(set);
        }
        self.world.say(|| "== a working image without limits".to_owned());
        for set in &sets {
            let list = SETS.iter().find(|(name, ..)| name == set).unwrap().1;
            let hold = self.hold;
            self.world.edit(set, |set| {
                let strategy =
                    json!({"minReadySeconds": hold, "podUpdateTimeoutSeconds": TIMEOUT / 1000, "maxUnavailable": 2});
                set.spec.update_strategy = serde_json::from_value(strategy).unwrap();
                set_image(set, list, "v9");
                set_env(set, list, false);
            });
        }
        self.rest();
        for set in &sets {
            self.judge_end(set);
            self.judge_healed(set);
        }
        Outcome { violation: self.world.violation, trace: self.world.trace.unwrap_or_default() }
    }

    fn judge_end(&mut self, name: &str) {
        let set = &self.world.sets[name];
        let status = set.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == reasons::READY);
        let reason = ready.map_or("none", |condition| condition.reason.as_str()).to_owned();
        let message = status.message.clone().unwrap_or_default();
        if status.observed_generation != set.metadata.generation {
            let text = format!("{name}: the status is of generation {:?}: {message}", status.observed_generation);
            self.world.violate("e: convergence", text);
        }
        let bad = self.world.pods.values().any(|pod| !pod.view.ready);
        let stable = match reason.as_str() {
            "UpToDate" => self.world.behind_selector(name, status.update_revision.as_deref().unwrap_or_default()) == 0,
            "SelectorReached" => {
                let revision = status.update_revision.as_deref().unwrap_or_default();
                tier(&self.world.sets[name]).is_some() && self.world.behind_selector(name, revision) == 0
            }
            "NoPods" | "NotUpdate" | "NotInPlace" | "PartitionReached" | "Paused" | "WaitingForApproval" => true,
            "FailureBudgetExceeded" | "RolledBack" => status.aborted_revision.is_some(),
            "PodsFailed" | "ProgressDeadlineExceeded" | "PodsNotReady" => bad,
            // Without a hold time that outlives it a crash loop is available for a moment each time, which is progress.
            "RollingUpdate" => bad && self.hold <= 2,
            _ => false,
        };
        if !stable {
            self.world.violate("e: convergence", format!("{name}: {reason}: {message}"));
        }
    }

    fn judge_healed(&mut self, name: &str) {
        let status = self.world.sets[name].status.clone().unwrap_or_default();
        let revision = status.update_revision.clone().unwrap_or_default();
        let (matched, behind) = self.world.behind(name, &revision);
        let left = usize::try_from(status.not_in_place_pods).unwrap();
        let message = status.message.unwrap_or_default();
        if behind > left {
            self.world
                .violate("e: a working image heals", format!("{name}: {behind} of {matched} are behind: {message}"));
        }
        let ready = status.conditions.iter().any(|c| c.type_ == reasons::READY && c.status == "True");
        if !ready && left == 0 && !self.world.is_broken_by_another(name) {
            self.world.violate("e: a working image heals", format!("{name}: {message}"));
        }
    }
}

impl World {
    /// Somebody else writes a pod, of one set or of all.
    fn tamper(&mut self, key: &PodKey, set: Option<&str>, change: impl FnOnce(&mut Value)) {
        self.churn += 1;
        self.write(key, change);
        let records = self.pods.get_mut(key).into_iter().flat_map(|pod| pod.ledger.records.iter_mut());
        records.filter(|(of, _)| set.is_none_or(|set| set == *of)).for_each(|(_, record)| record.tampered = true);
    }
}

fn with_entry(set: &mut SidecarSet, list: &str, change: impl FnOnce(&mut Value)) {
    let mut spec = json!(set.spec);
    change(&mut spec[list][0]);
    set.spec = serde_json::from_value(spec).unwrap();
}

fn set_image(set: &mut SidecarSet, list: &str, image: &str) {
    with_entry(set, list, |entry| entry["image"] = json!(image));
}

fn set_env(set: &mut SidecarSet, list: &str, on: bool) {
    with_entry(set, list, |entry| {
        let env = if on { json!([{"name": "A", "value": "1"}]) } else { json!([]) };
        entry["env"] = env;
    });
}

fn set_partition(set: &mut SidecarSet, draw: usize) {
    let strategy = &mut set.spec.update_strategy;
    strategy.steps.clear();
    let partition = [json!(null), json!(1), json!(2), json!("50%"), json!("99%")][draw % 5].clone();
    strategy.partition = serde_json::from_value(partition).unwrap();
}

fn set_steps(set: &mut SidecarSet, draw: usize) {
    let strategy = &mut set.spec.update_strategy;
    strategy.partition = None;
    let steps = json!([{"replicas": 1, "pause": {}}, {"replicas": "50%", "pause": {"durationSeconds": 30}}]);
    strategy.steps = if draw.is_multiple_of(3) { Vec::new() } else { serde_json::from_value(steps).unwrap() };
}
