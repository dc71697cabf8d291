//! One run: a seed decides the cluster, what happens in which order, and what goes wrong.

use rand::{Rng, RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use serde_json::json;
use sidecarset::api::SidecarSet;
use sidecarset::core::pod::PodKey;

use super::disturb::amount;
use super::kubelet::STARTUP_PERIOD;
use super::operator::{NODES, Operator, WRITE_TIMEOUT};
use super::truth::TIMEOUT;
use super::world::{Reply, SETS, World, error};

/// Steps with disturbances.
const STEPS: usize = 220;

/// A patch that nobody waits for any more may still arrive for so long.
const LATE: i64 = 5_000;

/// Model time within which a rollout comes to rest, and steps that it may take.
const REST: i64 = 900_000;
const REST_STEPS: usize = 6_000;

/// What became of a run.
pub struct RoundResult {
    pub violation: Option<(&'static str, String)>,
    pub trace: Vec<String>,
}

pub struct Run {
    pub world: World,
    pub operator: Operator,
    pub rng: XorShiftRng,
    pub mask: u32,
    pub hold: i64,
    pub faults: f64,
}

/// Runs a seed. `mask` has a bit for each kind of disturbance that may happen.
pub fn run(seed: u64, mask: u32, trace: bool) -> RoundResult {
    let mut rng = XorShiftRng::seed_from_u64(seed);
    let mut world = World { trace: trace.then(Vec::new), ..World::default() };
    let hold = [0, 2, 5][rng.random_range(0..3)];
    let startup = rng.random_bool(0.3);
    let sets = rng.random_range(1..=SETS.len());
    for (name, ..) in SETS.iter().take(sets) {
        let set = set(name, hold, startup, &mut rng);
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

fn set(name: &str, hold: i64, startup: bool, rng: &mut impl Rng) -> SidecarSet {
    let (_, list, container) = SETS.iter().find(|(set, ..)| *set == name).unwrap();
    let mut entry = json!({"name": container, "image": "v1"});
    if *list == "initContainers" {
        entry["restartPolicy"] = json!("Always");
    }
    if startup {
        entry["startupProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": STARTUP_PERIOD / 1000});
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

impl World {
    fn edit_new(&mut self, set: SidecarSet) {
        self.sets.insert(set.metadata.name.clone().unwrap(), set);
    }
}

impl Run {
    pub fn allowed(&self, kind: usize) -> bool {
        self.mask & (1 << kind) != 0
    }

    pub fn any_pod(&mut self) -> Option<PodKey> {
        let pods = self.world.pods.len();
        (pods > 0).then(|| self.world.pods.keys().nth(self.rng.random_range(0..pods)).unwrap().clone())
    }

    pub fn any_set(&mut self) -> String {
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

    /// Nothing goes wrong any more: everything that can happen happens, in the order of time.
    pub fn rest(&mut self) {
        self.faults = 0.0;
        (self.world.watch_hangs_until, self.world.reads_fail_until) = (0, 0);
        // A refusal stands until the pod changes: one that is made up would for good.
        for (_, reply) in &mut self.world.replies {
            if matches!(reply, Reply::Error(status) if status.code == 422) {
                *reply = error(409, false);
            }
        }
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
}
