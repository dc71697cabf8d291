//! What holds whatever two tasks do.

use proptest::prelude::*;

use crate::core::rollout::plan::begin_batch;
use crate::core::rollout::tests::evictions::*;

/// What may happen between two looks.
#[derive(Clone, Debug)]
enum Step {
    /// A reconcile plans, and its requests are under way.
    Plan,
    /// They are answered.
    Answer,
    /// The task tries to evict a pod of this owner; what its owner makes is no better if `in_vain`.
    Evict {
        owner: usize,
        in_vain: bool,
    },
    /// The watch catches up.
    Observe,
    /// The kubelet has finished what it does with this pod.
    Ready(usize),
    /// The task judges open evictions.
    Settle,
    Wait(i64),
    /// The operator restarts.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Plan),
        3 => Just(Step::Answer),
        6 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(owner, in_vain)| Step::Evict { owner, in_vain }),
        4 => Just(Step::Observe),
        6 => any::<usize>().prop_map(Step::Ready),
        4 => Just(Step::Settle),
        2 => (1..10_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// A cluster whose watch lags, and an operator with two tasks.
struct Sim {
    fleet: Fleet,
    strategy: Value,
    replicas: BTreeMap<String, usize>,
    /// `status.evictions`.
    records: Vec<Eviction>,
    /// Requests under way.
    patches: Vec<PodKey>,
    plan: Plan,
    /// `status.injectionRevision`.
    given: String,
    made: usize,
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
        let (fleet, given) = (Fleet::new(pods), hash("v1"));
        let sabotaged = BTreeSet::new();
        Self {
            fleet,
            strategy,
            replicas,
            records: vec![],
            patches: vec![],
            plan: Plan::default(),
            given,
            made: 0,
            sabotaged,
        }
    }

    /// A reconcile: it knows the status that the other task has written.
    fn reconcile(&mut self, limit: usize) {
        let now = at(self.fleet.now);
        self.fleet.index.configure(env_change(&self.strategy), now);
        let persisted = PersistedProgress { evictions: self.records.clone(), ..PersistedProgress::default() };
        self.plan = begin_batch(&mut self.fleet.index, SET, &persisted, now, limit);
        let set = testing::set("v2", json!({}));
        let rollout = rollout(&self.strategy);
        self.given = injection_revision(&set, &rollout, &self.plan.summary, Some(&hash("v1")), None, None);
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

    fn evict(&mut self, name: &str, in_vain: bool) -> Result<(), TestCaseError> {
        let (owner, target, now) = (owner(name), hash("v2"), at(self.fleet.now));
        let Some(leave) = self.fleet.index.leave(SET, 0, now) else { return Ok(()) };
        let blocked = replace::is_blocked(&self.records, &owner, &[target.as_str()]);
        if leave.upgrades == 0 || self.given != target || blocked {
            return Ok(());
        }
        let pods = siblings(&self.fleet, &owner);
        let Next::Evict(pod) = replace::next(&pods, |_| true, Some(self.replicas[name])) else { return Ok(()) };
        let record = replace::record(pod, &pods, EvictionCause::NotInPlace, &owner, &target, now);
        if !self.fleet.index.reserve(SET, &record, pod.held, 0, now) {
            return Ok(());
        }
        prop_assert!(!self.sabotaged.contains(name), "{name} lost a pod in vain before");
        self.records.push(record);
        self.fleet.index.set_evictions(SET, &self.records);
        self.fleet.pods.remove(&pod.key);
        self.made += 1;
        let revision = if in_vain { hash("v1") } else { self.given.clone() };
        let (created, new) = (at(self.fleet.now).to_string(), format!("new-{}", self.made));
        let new = owned(&new, "ReplicaSet", name).with(|pod| {
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(revision);
            pod["metadata"]["creationTimestamp"] = json!(created);
            let image = if revision == target { "v2" } else { "v1" };
            pod["spec"]["containers"][0]["image"] = json!(image);
            pod["status"]["conditions"][0] = json!({"type": "Ready", "status": "False", "lastTransitionTime": created});
        });
        self.fleet.pods.insert(new.view().key, new);
        if in_vain {
            self.sabotaged.insert(name.to_owned());
        }
        self.fleet.now += 1;
        Ok(())
    }

    fn settle(&mut self) {
        let (target, now) = (hash("v2"), at(self.fleet.now));
        // As the task does: until the set is planned nobody knows what was in vain.
        if self.fleet.index.leave(SET, 0, now).is_none() {
            return;
        }
        let mut kept = Vec::new();
        for eviction in &self.records {
            let owner = replace::owner(eviction);
            let pods = siblings(&self.fleet, &owner);
            let whole = Some(self.replicas[&owner.name]);
            let judged = replace::judge(eviction, &pods, whole, &target, PATIENCE, now);
            let judged = if self.fleet.index.has_seen(eviction, &pods) { judged } else { Judged::Open };
            match judged {
                _ if eviction.in_vain => kept.push(eviction.clone()),
                Judged::Open => kept.push(eviction.clone()),
                Judged::Failed => kept.push(Eviction { failed: true, ..eviction.clone() }),
                Judged::InVain => kept.push(Eviction { in_vain: true, ..eviction.clone() }),
                Judged::Done => {}
            }
        }
        self.records = kept;
        self.fleet.index.set_evictions(SET, &self.records);
    }

    fn restart(&mut self) {
        self.fleet.index = Index::default();
        self.fleet.index.set_node("n", Some(true));
        self.fleet.observe();
        self.fleet.index.set_evictions(SET, &self.records);
        self.patches.clear();
        self.plan = Plan::default();
    }

    /// Ready pods that updates, evictions, and requests under way take or have taken.
    fn taken(&self) -> usize {
        let mut recount = Fleet::new(self.fleet.pods.values().cloned());
        recount.now = self.fleet.now;
        let slots = plan(&mut recount, &self.strategy, &[]).summary.counts.slots;
        let evicted = self.records.iter().filter(|eviction| !eviction.in_vain && !eviction.unready).count();
        let ready = |key: &&PodKey| self.fleet.pods.get(key).is_some_and(|pod| pod.view().ready);
        slots + evicted + self.patches.iter().filter(ready).count()
    }

    fn updated(&self) -> usize {
        self.fleet.pods.values().filter(|pod| pod.view().marks[SET].revision == hash("v2")).count()
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        let names: Vec<String> = self.replicas.keys().cloned().collect();
        match step {
            Step::Plan if self.patches.is_empty() => self.reconcile(usize::MAX),
            Step::Plan => {}
            Step::Answer => self.answer(),
            Step::Evict { owner, in_vain } => self.evict(&names[owner % names.len()], in_vain)?,
            Step::Observe => self.observe(),
            Step::Ready(i) => {
                let now = at(self.fleet.now);
                let i = i % self.fleet.pods.len();
                if let Some(pod) = self.fleet.pods.values_mut().nth(i) {
                    pod.kubelet(now);
                }
            }
            Step::Settle => self.settle(),
            Step::Wait(seconds) => self.fleet.now += seconds,
            Step::Restart => self.restart(),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Two tasks, a watch that lags, restarts, and replacements that are no better: together they never take more ready
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
            prop_assert!(sim.updated() <= total.saturating_sub(partition), "{} of {total} after {step:?}", sim.updated());
            let open = sim.records.iter().filter(|eviction| !eviction.in_vain);
            let mut once = BTreeSet::new();
            prop_assert!(open.into_iter().all(|eviction| once.insert(&eviction.owner_uid)), "two of one owner");
        }
        // An eviction takes two rounds: it is judged when the watch has told of what it brought.
        for _ in 0..2 * total + 6 {
            for step in [Step::Observe, Step::Plan, Step::Answer] {
                sim.run(step)?;
            }
            (0..owners.len()).try_for_each(|owner| sim.run(Step::Evict { owner, in_vain: false }))?;
            (0..total).try_for_each(|i| sim.run(Step::Ready(i)))?;
            sim.run(Step::Wait(5))?;
            sim.run(Step::Settle)?;
        }
        sim.observe();
        sim.reconcile(0);
        prop_assert_eq!(sim.plan.summary.remaining, 0, "{:#?}", sim.plan.summary);
        prop_assert_eq!(&sim.records.iter().filter(|eviction| !eviction.in_vain).count(), &0);
    }
}
