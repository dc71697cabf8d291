//! Pods whose change cannot be made in place, and that are evicted for it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Fleet;
use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::evict::{self, Next, Sibling, Verdict as Judged};
use crate::core::new_pods::injection_revision;
use crate::core::pod::{Owner, PodKey};
use crate::core::revision::Change;
use crate::core::status::verdict;
use crate::core::upgrade::evictions::{Candidate, Standing};
use crate::core::upgrade::testing::{self, SET, TestPod, at, hash, rollout};
use crate::core::upgrade::{Index, Plan, Remembered, Rollout};

fn owner(name: &str) -> Owner {
    let (api_version, kind) = ("apps/v1".to_owned(), "ReplicaSet".to_owned());
    Owner { api_version, kind, name: name.to_owned(), uid: format!("uid-{name}") }
}

/// An eviction of a pod that is not in any fleet, for a revision that is not rolled out.
pub(super) fn open() -> Eviction {
    let key = PodKey { namespace: "default".into(), name: "gone".into() };
    let (uid, created, behind) = ("uid-gone".to_owned(), at(-1000), Some(EvictionCause::NoSidecars));
    let pod =
        Sibling { key, uid, created, active: true, ready: true, behind, held: false, counts: true, watched: true };
    evict::record(&pod, &[], EvictionCause::NoSidecars, &owner("other"), "r", at(0))
}

fn owned(name: &str, kind: &str, owner: &str) -> TestPod {
    TestPod::new(name).with(|pod| {
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": kind, "name": owner,
            "uid": format!("uid-{owner}"), "controller": true}]);
    })
}

/// To `v2`, which pods come to from `v1` only by being made anew, and from `v3` in place.
fn env_change(strategy: &Value) -> Rollout {
    let mut strategy = strategy.clone();
    strategy["whenNotInPlace"] = json!("Evict");
    let mut rollout = rollout("v2", strategy);
    rollout.changes.insert(hash("v1"), Change::NotInPlace("containers[agent].env changed".into()));
    rollout.stable = Some(hash("v1"));
    rollout
}

fn plan(fleet: &mut Fleet, strategy: &Value, evictions: &[Eviction]) -> Plan {
    fleet.index.configure(env_change(strategy), at(fleet.now));
    let remembered = Remembered { evictions: evictions.to_vec(), ..Remembered::default() };
    fleet.index.plan(SET, &remembered, at(fleet.now), usize::MAX)
}

fn course(strategy: &Value) -> crate::core::upgrade::Course {
    crate::core::upgrade::Course { rollout: env_change(strategy), ..testing::course("v2", json!({})) }
}

/// The pods of an owner, as the task reads them.
fn siblings(fleet: &Fleet, owner: &Owner) -> Vec<Sibling> {
    let views = fleet.pods.values().map(TestPod::view).filter(|pod| pod.owner.as_deref() == Some(owner));
    let judge = |pod| match fleet.index.evictable(SET, &pod, at(fleet.now)) {
        Some(Standing { held, counts }) => {
            Sibling { held, counts, ..Sibling::new(pod, Some(EvictionCause::NotInPlace)) }
        }
        None => Sibling::new(pod, None),
    };
    views.map(judge).collect()
}

fn upgrades(fleet: &Fleet) -> usize {
    fleet.index.leave(SET, 0, at(fleet.now)).unwrap().upgrades
}

fn reason(fleet: &mut Fleet, strategy: &Value) -> &'static str {
    let summary = plan(fleet, strategy, &[]).summary;
    verdict(&course(strategy), &summary).reason
}

/// The replacement of an evicted pod that does not become ready holds its slot for ever: nothing more is evicted. But no
/// counter calls it failed, the revision is not given up, and every pod that is made meanwhile gets it. To fix it: count
/// `failed` of `evict::judge` after podUpdateTimeoutSeconds in the record, and with it in `Counts::failed`.
#[test]
fn a_replacement_that_does_not_become_ready_counts_as_failed() {
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "web")]);
    plan(&mut fleet, &json!({}), &[]);
    let pods = siblings(&fleet, &owner("web"));
    let evicted = evict::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v2"), at(0));
    let new = owned("new", "ReplicaSet", "web").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["metadata"]["creationTimestamp"] = json!(at(1).to_string());
        pod["spec"]["containers"][0]["image"] = json!("v2");
        pod["status"]["conditions"][0]["status"] = json!("False");
    });
    fleet.pods.insert(new.view().key, new);
    let key = pods[0].key.clone();
    fleet.pods.remove(&key);
    fleet.index.remove(&key, &pods[0].uid, at(1));
    fleet.now = 601;
    fleet.observe();
    let pods = siblings(&fleet, &owner("web"));
    let judged = evict::judge(&evicted, &pods, Some(2), &hash("v2"), SignedDuration::from_secs(600), at(fleet.now));
    assert_eq!(judged, Judged::Failed);
    let failed = Eviction { failed: true, ..evicted };
    fleet.index.set_evictions(SET, std::slice::from_ref(&failed));
    let summary = plan(&mut fleet, &json!({}), &[failed]).summary;
    assert!(summary.exceeded, "as a failed update in place would");
    assert_eq!(
        (summary.counts.failed, summary.failed),
        (1, vec!["default/a (its replacement is not ready)".to_owned()])
    );
}

#[test]
fn pods_that_must_be_made_anew_wait_with_their_owners() {
    let mut fleet =
        Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "web"), TestPod::new("bare")]);
    let summary = plan(&mut fleet, &json!({}), &[]).summary;
    assert_eq!((summary.counts.not_in_place, summary.evictable, summary.remaining), (3, 2, 2));
    assert_eq!(summary.exempt, [("pods without a controller", 1)]);
    let found = fleet.index.candidates(SET, false, |_| false, 9);
    assert_eq!(found, [Candidate { namespace: "default".into(), owner: owner("web") }]);
    assert_eq!(fleet.index.candidates(SET, true, |_| false, 9), [], "both are ready");
    assert_eq!(reason(&mut fleet, &json!({})), "RollingUpdate");
}

#[test]
fn pods_that_nobody_or_no_eviction_can_replace_are_left_as_they_are() {
    let mut fleet = Fleet::new([owned("a", "DaemonSet", "every"), owned("b", "Job", "once")]);
    let summary = plan(&mut fleet, &json!({}), &[]).summary;
    assert_eq!(summary.exempt, [("pods of DaemonSets", 1), ("pods of Jobs", 1)]);
    assert_eq!((summary.evictable, summary.remaining), (0, 0));
    let verdict = verdict(&course(&json!({})), &summary);
    assert_eq!(verdict.reason, "NotInPlace");
    let never = "never evicted: pods of DaemonSets (1), pods of Jobs (1)";
    assert!(verdict.message.contains(never), "{}", verdict.message);
}

#[test]
fn nothing_is_evicted_while_the_rollout_stands() {
    for strategy in [json!({"paused": true}), json!({"type": "NotUpdate"})] {
        let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web")]);
        plan(&mut fleet, &strategy, &[]);
        assert_eq!(upgrades(&fleet), 0, "{strategy}");
    }
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web")]);
    let mut stopped = env_change(&json!({}));
    stopped.mode = crate::core::upgrade::Mode::Stopped;
    fleet.index.configure(stopped, at(0));
    fleet.index.plan(SET, &Remembered::default(), at(0), 9);
    assert_eq!(upgrades(&fleet), 0, "aborted");
}

#[test]
fn pods_outside_the_selector_are_not_evicted_and_keep_the_rollout_open() {
    let strategy = json!({"selector": {"matchLabels": {"canary": "yes"}}});
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web")]);
    let summary = plan(&mut fleet, &strategy, &[]).summary;
    assert_eq!((summary.evictable, summary.counts.outside, upgrades(&fleet)), (0, 1, 0));
}

#[test]
fn partition_holds_for_patches_and_evictions_together() {
    let mut fleet = Fleet::new((0..4).map(|i| owned(&format!("a{i}"), "ReplicaSet", &format!("web-{i}"))));
    let strategy = json!({"partition": 3, "maxUnavailable": 4});
    plan(&mut fleet, &strategy, &[]);
    assert_eq!(upgrades(&fleet), 1);
    let summary = plan(&mut fleet, &json!({"partition": 4}), &[]).summary;
    assert_eq!((upgrades(&fleet), summary.evictable), (0, 4));
    assert_eq!(reason(&mut fleet, &json!({"partition": 4})), "PartitionReached");
}

#[test]
fn a_slot_is_taken_once_by_a_plan_or_by_an_eviction() {
    let patchable = owned("b", "ReplicaSet", "other")
        .with(|pod| pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v3")));
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), patchable]);
    assert_eq!(plan(&mut fleet, &json!({}), &[]).patches.len(), 1);
    let pods = siblings(&fleet, &owner("web"));
    let record = evict::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v2"), at(0));
    assert!(!fleet.index.reserve(SET, &record, false, 0, at(0)), "the patch may be on its way");

    // The plan after the answers, none of which was a yes.
    fleet.index.plan(SET, &Remembered::default(), at(0), 0);
    assert!(fleet.index.reserve(SET, &record, false, 0, at(0)));
    assert!(!fleet.index.reserve(SET, &record, false, 0, at(0)), "there was one");
    assert_eq!(plan(&mut fleet, &json!({}), &[]).patches, [], "the record may not be in the status yet");
    fleet.index.set_evictions(SET, &[]);
    assert_eq!(plan(&mut fleet, &json!({}), &[]).patches.len(), 1);
}

#[test]
fn while_a_pod_is_replaced_new_pods_get_the_newest_and_then_what_the_share_allows() {
    let strategy = json!({"partition": 1});
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "web")]);
    let pods = siblings_after_plan(&mut fleet, &strategy);
    let record = evict::record(&pods[1], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v2"), at(0));
    assert_eq!(given(&mut fleet, &strategy, &[]), hash("v2"), "the share is not full");
    let key = pods[1].key.clone();
    fleet.pods.remove(&key);
    fleet.index.remove(&key, &pods[1].uid, at(0));
    assert_eq!(
        given(&mut fleet, &strategy, std::slice::from_ref(&record)),
        hash("v2"),
        "full, but for the pod to come"
    );
    assert_eq!(given(&mut fleet, &strategy, &[]), hash("v1"));
    let in_vain = Eviction { in_vain: true, ..record };
    let summary = plan(&mut fleet, &json!({}), &[in_vain]).summary;
    assert_eq!((summary.evictable, summary.evicting), (0, 0), "what is left alone is waited for no more");
}

fn siblings_after_plan(fleet: &mut Fleet, strategy: &Value) -> Vec<Sibling> {
    plan(fleet, strategy, &[]);
    siblings(fleet, &owner("web"))
}

/// What the leader publishes for new pods.
fn given(fleet: &mut Fleet, strategy: &Value, evictions: &[Eviction]) -> String {
    let summary = plan(fleet, strategy, evictions).summary;
    let set = testing::set("v2", json!({}));
    injection_revision(&set, &course(strategy), &summary, Some(&hash("v1")), None, None)
}

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
        let remembered = Remembered { evictions: self.records.clone(), ..Remembered::default() };
        self.plan = self.fleet.index.plan(SET, &remembered, now, limit);
        let set = testing::set("v2", json!({}));
        let course = course(&self.strategy);
        self.given = injection_revision(&set, &course, &self.plan.summary, Some(&hash("v1")), None, None);
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
        let blocked = evict::is_blocked(&self.records, &owner, &[target.as_str()]);
        if leave.upgrades == 0 || self.given != target || blocked {
            return Ok(());
        }
        let pods = siblings(&self.fleet, &owner);
        let Next::Evict(pod) = evict::next(&pods, |_| true, Some(self.replicas[name])) else { return Ok(()) };
        let record = evict::record(pod, &pods, EvictionCause::NotInPlace, &owner, &target, now);
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
            let owner = evict::owner(eviction);
            let pods = siblings(&self.fleet, &owner);
            let whole = Some(self.replicas[&owner.name]);
            let judged = evict::judge(eviction, &pods, whole, &target, SignedDuration::from_secs(600), now);
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
        for _ in 0..total + 6 {
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
