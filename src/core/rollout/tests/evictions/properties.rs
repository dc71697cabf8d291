//! What holds whatever two tasks do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::testing::planned;
use crate::core::rollout::tests::evictions::*;

/// What may happen between two looks.
#[derive(Clone, Debug)]
enum Step {
    /// A reconcile plans, and its requests are under way.
    Plan,
    /// They are answered.
    Answer,
    /// The task judges open evictions, and evicts a pod; what its owner makes is no better if `in_vain`.
    Evict {
        in_vain: bool,
    },
    /// The watch catches up.
    Observe,
    /// The kubelet has finished what it does with this pod.
    Ready(usize),
    Wait(i64),
    /// Owners can make no pods, as with a quota that is full, or can again.
    Quota(bool),
    /// The operator restarts.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Plan),
        3 => Just(Step::Answer),
        8 => prop::bool::weighted(0.1).prop_map(|in_vain| Step::Evict { in_vain }),
        4 => Just(Step::Observe),
        6 => any::<usize>().prop_map(Step::Ready),
        2 => (1..10_i64).prop_map(Step::Wait),
        1 => Just(Step::Wait(601)),
        1 => any::<bool>().prop_map(Step::Quota),
        1 => Just(Step::Restart),
    ]
}

/// A cluster whose watch lags, and an operator with two tasks.
struct Sim {
    fleet: Fleet,
    strategy: Value,
    /// It writes `status.evictions`.
    task: Task,
    /// Requests under way.
    patches: Vec<PodKey>,
    plan: Plan,
    /// `status.injectionRevision`.
    given: String,
    made: usize,
    quota_is_full: bool,
    /// Owners that have lost a ready pod, and do not have all their ready pods back.
    down: BTreeSet<String>,
    /// Owners whose replacement was no better.
    sabotaged: BTreeSet<String>,
}

impl Sim {
    fn new(owners: &[usize], strategy: Value) -> Self {
        let mut pods = Vec::new();
        let mut replicas = BTreeMap::new();
        for (i, count) in owners.iter().enumerate() {
            replicas.insert(format!("web-{i}"), *count);
            for j in 0..*count {
                let pod = owned(&format!("pod-{i}-{j}"), "ReplicaSet", &format!("web-{i}"));
                let in_place = (i + j) % 3 == 0;
                pods.push(pod.with(|pod| {
                    if in_place {
                        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v3"));
                    }
                }));
            }
        }
        let mut task = Task::new(&strategy);
        task.replicas = replicas;
        let (fleet, given) = (Fleet::new(pods), hash("v1"));
        let sabotaged = BTreeSet::new();
        Self {
            fleet,
            strategy,
            task,
            patches: vec![],
            plan: Plan::default(),
            given,
            made: 0,
            quota_is_full: false,
            down: BTreeSet::new(),
            sabotaged,
        }
    }

    /// A reconcile: it knows the status that the other task has written.
    fn reconcile(&mut self, limit: usize) {
        let now = at(self.fleet.now);
        self.fleet.index.configure(env_change(&self.strategy), now);
        let persisted =
            PersistedProgress { evictions: self.task.memory.records.clone(), ..PersistedProgress::default() };
        self.plan = planned(&mut self.fleet.index, SET, &persisted, now, limit);
        let set = testing::set("v2", json!({}));
        let rollout = rollout(&self.strategy);
        let summary = &self.plan.summary;
        let begun = begun(&rollout, summary);
        self.given = injection_revision(&set, &rollout, summary, Some(&hash("v1")), None, &begun, None);
        self.patches = self.plan.patches.iter().map(|patch| patch.key.clone()).collect();
    }

    fn answer(&mut self) {
        for patch in std::mem::take(&mut self.plan.patches) {
            if let Some(pod) = self.fleet.pods.get_mut(&patch.key)
                && pod.patch(&patch.patch)
            {
                self.fleet.index.apply_answer(pod.view(), at(self.fleet.now));
            }
        }
        self.reconcile(0);
    }

    fn observe(&mut self) {
        let known: Vec<_> = self.fleet.index.pods().map(|pod| (pod.key.clone(), pod.uid.clone())).collect();
        for (key, uid) in known.iter().filter(|(key, _)| !self.fleet.pods.contains_key(key)) {
            self.fleet.index.remove(key, uid, at(self.fleet.now));
        }
        self.fleet.observe();
    }

    fn evict(&mut self, in_vain: bool) -> Result<(), TestCaseError> {
        let given = self.given.clone();
        let Some(chosen) = self.task.run(&mut self.fleet, &given) else { return Ok(()) };
        let name = &chosen.record.owner_name;
        prop_assert!(!self.sabotaged.contains(name), "{name} lost a pod in vain before");
        // The watch may not have told yet what became of it.
        let Some(pod) = self.fleet.pods.remove(&chosen.pod) else { return Ok(()) };
        if pod.view().ready {
            self.down.insert(name.to_owned());
        }
        if in_vain {
            self.sabotaged.insert(name.to_owned());
        }
        self.make_pods();
        self.fleet.now += 1;
        Ok(())
    }

    /// Owners make the pods that they lack.
    fn make_pods(&mut self) {
        for (name, replicas) in self.task.replicas.clone() {
            if !self.quota_is_full && self.pods_of(&name).count() < replicas {
                self.make_pod(&name);
            }
        }
    }

    fn pods_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a TestPod> {
        self.fleet.pods.values().filter(move |pod| pod.view().owner.as_deref() == Some(&owner(name)))
    }

    fn make_pod(&mut self, name: &str) {
        self.made += 1;
        let target = hash("v2");
        let revision = if self.sabotaged.contains(name) { hash("v1") } else { self.given.clone() };
        let (created, new) = (at(self.fleet.now).to_string(), format!("new-{}", self.made));
        let new = owned(&new, "ReplicaSet", name).with(|pod| {
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(revision);
            pod["metadata"]["creationTimestamp"] = json!(created);
            let image = if revision == target { "v2" } else { "v1" };
            pod["spec"]["containers"][0]["image"] = json!(image);
            pod["status"]["conditions"][0] = json!({"type": "Ready", "status": "False", "lastTransitionTime": created});
        });
        self.fleet.pods.insert(new.view().key, new);
    }

    /// What the cluster says, whatever is recorded.
    fn note_recovered(&mut self) {
        let is_whole =
            |name: &String| self.pods_of(name).filter(|pod| pod.view().ready).count() >= self.task.replicas[name];
        let whole: Vec<String> = self.down.iter().filter(|name| is_whole(name)).cloned().collect();
        self.down.retain(|name| !whole.contains(name));
    }

    fn restart(&mut self) {
        self.fleet.index = Index::default();
        self.fleet.index.set_node("n", Some(true));
        self.fleet.observe();
        self.fleet.index.set_evictions(SET, &self.task.memory.records);
        self.task.memory = EvictionMemory::new(self.task.memory.records.clone());
        self.patches.clear();
        self.plan = Plan::default();
    }

    /// Ready pods that updates, evictions, and requests under way take or have taken.
    fn taken(&self) -> usize {
        let mut recount = Fleet::new(self.fleet.pods.values().cloned());
        recount.now = self.fleet.now;
        let slots = plan(&mut recount, &self.strategy, &[]).summary.counts.slots;
        let evicted = self.task.memory.records.iter().filter(|eviction| !eviction.in_vain && !eviction.unready).count();
        let ready = |key: &&PodKey| self.fleet.pods.get(key).is_some_and(|pod| pod.view().ready);
        slots + evicted + self.patches.iter().filter(ready).count()
    }

    fn updated(&self) -> usize {
        self.fleet.pods.values().filter(|pod| pod.view().marks.get(SET).unwrap().revision == hash("v2")).count()
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Plan if self.patches.is_empty() => self.reconcile(usize::MAX),
            Step::Plan => {}
            Step::Answer => self.answer(),
            Step::Evict { in_vain } => self.evict(in_vain)?,
            Step::Observe => self.observe(),
            Step::Ready(i) => {
                let now = at(self.fleet.now);
                let i = i % self.fleet.pods.len();
                if let Some(pod) = self.fleet.pods.values_mut().nth(i) {
                    pod.kubelet(now);
                }
            }
            Step::Wait(seconds) => self.fleet.now += seconds,
            Step::Quota(is_full) => {
                self.quota_is_full = is_full;
                self.make_pods();
            }
            Step::Restart => self.restart(),
        }
        self.note_recovered();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Two tasks, a watch that lags, restarts, owners that can make no pods, and replacements that are no better: together they never take more ready
    /// pods than maxUnavailable, never move a pod that partition keeps, evict one pod of an owner at a time and none in
    /// vain twice. When all is quiet the rollout has reached its end.
    #[test]
    fn patches_and_evictions_stay_within_one_budget(
        owners in prop::collection::vec(1..4_usize, 1..5),
        max in 1..4_usize,
        partition in 0..6_usize,
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let total: usize = owners.iter().sum();
        let mut sim = Sim::new(&owners, json!({"maxUnavailable": max, "partition": partition, "minReadySeconds": 0,
            "failurePolicy": {"action": "Ignore"}}));
        for step in steps {
            sim.run(step.clone())?;
            prop_assert!(sim.taken() <= max, "{} > {max} after {step:?}", sim.taken());
            prop_assert!(sim.down.len() <= max, "{:?} after {step:?}", sim.down);
            prop_assert!(sim.updated() <= total.saturating_sub(partition), "{} of {total} after {step:?}", sim.updated());
            let open = sim.task.memory.records.iter().filter(|eviction| !eviction.in_vain);
            let mut once = BTreeSet::new();
            prop_assert!(open.into_iter().all(|eviction| once.insert(&eviction.owner_uid)), "two of one owner");
        }
        sim.run(Step::Quota(false))?;
        // An eviction takes two rounds: it is judged when the watch has told of what it brought.
        for _ in 0..2 * total + 6 {
            for step in [Step::Observe, Step::Plan, Step::Answer] {
                sim.run(step)?;
            }
            owners.iter().try_for_each(|_| sim.run(Step::Evict { in_vain: false }))?;
            (0..total).try_for_each(|i| sim.run(Step::Ready(i)))?;
            // Longer than owners are left alone.
            sim.run(Step::Wait(61))?;
            sim.run(Step::Evict { in_vain: false })?;
        }
        sim.observe();
        sim.reconcile(0);
        prop_assert_eq!(sim.plan.summary.remaining, 0, "{:#?}", sim.plan.summary);
        prop_assert_eq!(&sim.task.memory.records.iter().filter(|eviction| !eviction.in_vain).count(), &0);
    }
}
