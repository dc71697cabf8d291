use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::progress::{Progress, progress};
use super::testing::{SET, TestPod, at, hash, rollout};
use super::*;
use crate::core::pod::PodKey;
use crate::core::status::verdict;

/// Pods, an index that follows them, and a kubelet.
struct Fleet {
    pods: BTreeMap<PodKey, TestPod>,
    index: Index,
    now: i64,
}

impl Fleet {
    fn new(pods: impl IntoIterator<Item = TestPod>) -> Self {
        let pods = pods.into_iter().map(|pod| (pod.view().key, pod)).collect();
        let mut fleet = Self { pods, index: Index::default(), now: 0 };
        fleet.index.set_node("n", Some(true));
        fleet.observe();
        fleet
    }

    fn of(count: usize) -> Self {
        Self::new((0..count).map(|i| TestPod::new(&format!("web-{i}"))))
    }

    fn observe(&mut self) {
        for pod in self.pods.values() {
            self.index.apply(pod.view(), at(self.now));
        }
    }

    fn plan(&mut self, image: &str, strategy: &Value) -> Plan {
        self.index.configure(rollout(image, strategy.clone()), at(self.now));
        self.index.plan(SET, at(self.now), usize::MAX)
    }

    /// Sends the plan's patches; returns the names of the pods.
    fn send(&mut self, plan: &Plan) -> Vec<String> {
        let mut sent = Vec::new();
        for patch in &plan.patches {
            let pod = self.pods.get_mut(&patch.key).unwrap();
            assert!(pod.patch(&patch.patch), "a test operation failed for {}", patch.key);
            sent.push(patch.key.name.clone());
        }
        self.observe();
        sent
    }

    fn kubelets(&mut self, names: &[String]) {
        let now = at(self.now);
        for pod in self.pods.values_mut().filter(|pod| names.contains(&pod.view().key.name)) {
            pod.kubelet(now);
        }
        self.observe();
    }

    fn round(&mut self, image: &str, strategy: &Value) -> Vec<String> {
        let plan = self.plan(image, strategy);
        let sent = self.send(&plan);
        self.kubelets(&sent);
        self.now += 6;
        sent
    }

    fn reason(&mut self, image: &str, strategy: &Value) -> String {
        let summary = self.plan(image, strategy).summary;
        verdict(&rollout(image, strategy.clone()), &summary).reason.to_owned()
    }
}

fn unready(name: &str) -> TestPod {
    TestPod::new(name).with(|pod| pod["status"]["conditions"][0]["status"] = json!("False"))
}

#[test]
fn a_rollout_moves_in_batches_and_ends() {
    let mut fleet = Fleet::of(5);
    let strategy = json!({"maxUnavailable": 2});
    assert_eq!(fleet.round("v2", &strategy).len(), 2);
    assert_eq!(fleet.round("v2", &strategy).len(), 2);
    assert_eq!(fleet.round("v2", &strategy).len(), 1);
    assert_eq!(fleet.round("v2", &strategy), Vec::<String>::new());
    assert!(fleet.pods.values().all(|pod| pod.image() == "v2"));
    assert_eq!(fleet.reason("v2", &strategy), "UpToDate");
}

#[test]
fn a_batch_waits_for_the_hold_time_of_the_one_before() {
    let mut fleet = Fleet::of(2);
    let strategy = json!({"minReadySeconds": 30});
    fleet.round("v2", &strategy);
    let plan = fleet.plan("v2", &strategy);
    assert_eq!(plan.patches, []);
    assert_eq!(plan.wake_at, Some(at(30)));
    fleet.now = 30;
    assert_eq!(fleet.plan("v2", &strategy).patches.len(), 1);
}

#[test]
fn pause_and_not_update_send_nothing() {
    let mut fleet = Fleet::of(2);
    assert_eq!(fleet.plan("v2", &json!({"paused": true})).patches, []);
    assert_eq!(fleet.reason("v2", &json!({"paused": true})), "Paused");
    assert_eq!(fleet.plan("v2", &json!({"type": "NotUpdate"})).patches, []);
    assert_eq!(fleet.reason("v2", &json!({"type": "NotUpdate"})), "NotUpdate");
}

#[test]
fn partition_keeps_pods_on_the_old_revision() {
    for (partition, updated) in [(json!(3), 2), (json!("50%"), 2), (json!("99%"), 1), (json!("100%"), 0), (json!(9), 0)]
    {
        let mut fleet = Fleet::of(5);
        let strategy = json!({"maxUnavailable": "100%", "partition": partition});
        assert_eq!(fleet.round("v2", &strategy).len(), updated, "{partition}");
        assert_eq!(fleet.round("v2", &strategy), Vec::<String>::new());
        assert_eq!(fleet.reason("v2", &strategy), "PartitionReached");
    }
}

#[test]
fn the_update_selector_limits_the_rollout() {
    let canary = TestPod::new("canary").with(|pod| pod["metadata"]["labels"]["canary"] = json!("yes"));
    let mut fleet = Fleet::new([TestPod::new("web-0"), canary]);
    let strategy = json!({"maxUnavailable": "100%", "selector": {"matchLabels": {"canary": "yes"}}});
    assert_eq!(fleet.round("v2", &strategy), ["canary"]);
    assert_eq!(fleet.round("v2", &strategy), Vec::<String>::new());
    assert_eq!(fleet.reason("v2", &strategy), "UpToDate");
}

#[test]
fn unready_pods_go_first_and_cost_nothing() {
    let mut fleet = Fleet::new([TestPod::new("a"), unready("b"), TestPod::new("c")]);
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!(fleet.send(&plan), ["b", "a"]);
}

#[test]
fn unready_pods_in_flight_are_capped() {
    let mut fleet = Fleet::new((0..30).map(|i| unready(&format!("web-{i}"))));
    let plan = fleet.plan("bad", &json!({}));
    assert_eq!(fleet.send(&plan).len(), 3);
    assert_eq!(fleet.plan("bad", &json!({})).patches, []);
}

#[test]
fn a_bad_image_stops_at_max_unavailable_and_a_good_one_heals() {
    let mut fleet = Fleet::of(10);
    let strategy = json!({"maxUnavailable": 2});
    let touched = fleet.round("bad", &strategy);
    assert_eq!(touched.len(), 2);
    for _ in 0..5 {
        assert_eq!(fleet.round("bad", &strategy), Vec::<String>::new());
    }
    assert_eq!(fleet.reason("bad", &strategy), "FailureBudgetExceeded");
    let mut healed = fleet.round("v1", &strategy);
    healed.sort();
    let mut failed = touched;
    failed.sort();
    assert_eq!(healed, failed);
    assert_eq!(fleet.reason("v1", &strategy), "UpToDate");
}

#[test]
fn a_third_image_in_mid_rollout_keeps_the_slots() {
    let mut fleet = Fleet::of(4);
    let plan = fleet.plan("v2", &json!({}));
    let first = fleet.send(&plan);
    let plan = fleet.plan("v3", &json!({}));
    assert_eq!(fleet.send(&plan), first, "the pod in flight is patched again, no other");
    assert_eq!(fleet.plan("v3", &json!({})).patches, [], "and only once");
}

#[test]
fn going_back_before_the_kubelet_looked_is_done_without_a_restart() {
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    let plan = fleet.plan("v1", &json!({}));
    fleet.send(&plan);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone());
    fleet.observe();
    assert_eq!(fleet.reason("v1", &json!({})), "UpToDate");
}

#[test]
fn an_image_set_by_hand_is_put_right() {
    let pod = TestPod::new("a").with(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
    let mut fleet = Fleet::new([pod]);
    assert_eq!(fleet.round("v1", &json!({})), ["a"]);
    assert_eq!(fleet.pods.values().next().unwrap().image(), "v1");
}

#[test]
fn what_cannot_be_patched_is_counted_with_a_reason() {
    let unknown =
        TestPod::new("a").with(|pod| pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!("gone"));
    let never = TestPod::new("b").with(|pod| pod["spec"]["restartPolicy"] = json!("Never"));
    let mut fleet = Fleet::new([unknown, never]);
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!(plan.patches, []);
    assert_eq!(plan.summary.counts.not_in_place, 2);
    let reasons = plan.summary.not_in_place;
    assert!(reasons[0].0.starts_with("RevisionUnknown") && reasons[1].0.contains("restartPolicy"), "{reasons:?}");
    assert_eq!(fleet.reason("v2", &json!({})), "NotInPlace");
}

#[test]
fn pods_that_ended_or_are_not_selected_do_not_count() {
    let ended = TestPod::new("a").with(|pod| pod["status"]["phase"] = json!("Succeeded"));
    let leaving = TestPod::new("b").with(|pod| pod["metadata"]["deletionTimestamp"] = json!(at(0).to_string()));
    let other = TestPod::new("c").with(|pod| pod["metadata"]["labels"]["app"] = json!("db"));
    let mut fleet = Fleet::new([ended, leaving, other]);
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.matched, 0);
    assert_eq!(fleet.reason("v2", &json!({})), "NoPods");
}

#[test]
fn a_refused_patch_is_not_repeated_before_the_pod_changes() {
    let mut fleet = Fleet::of(1);
    fleet.plan("v2", &json!({}));
    let view = fleet.pods.values().next().unwrap().view();
    fleet.index.refuse(&view, "denied by policy".into(), at(0));
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!(plan.patches, []);
    assert_eq!(plan.summary.failed, ["default/web-0 (PatchRefused: denied by policy)"]);
    fleet.pods.values_mut().next().unwrap().edit(|_| {});
    fleet.observe();
    assert_eq!(fleet.plan("v2", &json!({})).patches.len(), 1);
}

#[test]
fn a_pod_that_vanishes_in_flight_frees_its_slot() {
    let mut fleet = Fleet::of(2);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    let key = plan.patches[0].key.clone();
    fleet.pods.remove(&key);
    assert_eq!(fleet.index.remove(&key, &plan.patches[0].uid, at(0)), [SET]);
    assert_eq!(fleet.plan("v2", &json!({})).patches.len(), 1);
}

#[test]
fn an_older_version_of_a_pod_is_ignored() {
    let mut fleet = Fleet::of(1);
    let old = fleet.pods.values().next().unwrap().view();
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    assert_eq!(fleet.index.apply(old, at(0)), Vec::<String>::new());
    assert_eq!(fleet.plan("v2", &json!({})).patches, []);
}

/// Judges a pod whose sidecar was updated at time 0 and changed by `edit` since.
fn judge(now: i64, edit: impl FnOnce(&mut Value)) -> Progress {
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["status"]["observedGeneration"] = json!(2));
    pod.edit(edit);
    let view = pod.view();
    progress(&view, view.marks[SET].update.as_ref().unwrap(), &rollout("v2", json!({})).strategy, at(now))
}

fn agent(pod: &mut Value) -> &mut Value {
    &mut pod["status"]["containerStatuses"][0]
}

fn replaced(pod: &mut Value, started: i64) {
    agent(pod)["containerID"] = json!("c://new");
    agent(pod)["restartCount"] = json!(1);
    agent(pod)["state"] = json!({"running": {"startedAt": at(started).to_string()}});
}

#[test]
fn the_old_container_being_ready_proves_nothing() {
    assert_eq!(judge(100, |_| {}), Progress::Undecided(Some(at(600))));
    assert!(matches!(judge(600, |_| {}), Progress::Failed(_)));
}

#[test]
fn a_new_container_is_done_after_the_hold() {
    assert_eq!(judge(4, |pod| replaced(pod, 1)), Progress::Undecided(Some(at(6))));
    assert_eq!(judge(6, |pod| replaced(pod, 1)), Progress::Done);
}

#[test]
fn a_startup_probe_makes_the_hold_longer() {
    let probed = |pod: &mut Value| {
        replaced(pod, 1);
        pod["spec"]["containers"][0]["startupProbe"] = json!({"periodSeconds": 20});
    };
    assert_eq!(judge(22, probed), Progress::Undecided(Some(at(23))));
    assert_eq!(judge(23, probed), Progress::Done);
}

#[test]
fn nothing_is_done_that_the_kubelet_has_not_seen() {
    let unseen = |pod: &mut Value| {
        replaced(pod, 1);
        pod["status"]["observedGeneration"] = json!(1);
    };
    assert_eq!(judge(10, unseen), Progress::Undecided(Some(at(600))));
}

#[test]
fn evidence_of_failure_counts_once_the_status_is_fresh() {
    let waiting = |reason: &'static str| {
        move |pod: &mut Value| {
            agent(pod)["ready"] = json!(false);
            agent(pod)["state"] = json!({"waiting": {"reason": reason}});
        }
    };
    assert_eq!(judge(2, waiting("ErrImagePull")), Progress::Undecided(Some(at(3))));
    assert_eq!(judge(3, waiting("ErrImagePull")), Progress::Failed("agent: ErrImagePull".into()));
    assert_eq!(judge(3, waiting("ContainerCreating")), Progress::Undecided(Some(at(600))));
    assert_eq!(judge(3, waiting("CrashLoopBackOff")), Progress::Undecided(Some(at(600))), "the old one's");
    let crashed = |pod: &mut Value| {
        waiting("CrashLoopBackOff")(pod);
        agent(pod)["restartCount"] = json!(1);
    };
    assert_eq!(judge(3, crashed), Progress::Failed("agent: CrashLoopBackOff".into()));
}

#[test]
fn restarts_with_an_error_are_a_failure() {
    let restarted = |pod: &mut Value| {
        replaced(pod, 9);
        agent(pod)["restartCount"] = json!(2);
        agent(pod)["ready"] = json!(false);
        agent(pod)["lastState"] = json!({"terminated": {"exitCode": 7}});
    };
    assert_eq!(judge(10, restarted), Progress::Failed("agent: restarted 2 times, last exit code 7".into()));
}

/// What may happen between two plans.
#[derive(Clone, Debug)]
enum Step {
    Plan { image: usize, limit: usize },
    Kubelet(usize),
    AppReady(usize, bool),
    Delete(usize),
    Wait(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize, 1..5_usize).prop_map(|(image, limit)| Step::Plan { image, limit }),
        4 => any::<usize>().prop_map(Step::Kubelet),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(pod, ready)| Step::AppReady(pod, ready)),
        1 => any::<usize>().prop_map(Step::Delete),
        2 => (0..10_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// However images change, pods vanish and the operator restarts: a plan never takes more ready pods than
    /// maxUnavailable leaves, and the running counters equal a recount.
    #[test]
    fn no_plan_exceeds_its_budget(steps in prop::collection::vec(step(), 1..60), max in 1..4_usize, pods in 1..9_usize) {
        let images = ["v1", "v2", "v3", "bad"];
        let strategy = json!({"maxUnavailable": max});
        let mut fleet = Fleet::of(pods);
        for step in steps {
            let names: Vec<String> = fleet.pods.keys().map(|key| key.name.clone()).collect();
            let pick = |i: usize| names.get(i % names.len().max(1)).cloned().into_iter().collect::<Vec<_>>();
            match step {
                Step::Plan { image, limit } => {
                    fleet.index.configure(rollout(images[image], strategy.clone()), at(fleet.now));
                    let plan = fleet.index.plan(SET, at(fleet.now), limit);
                    prop_assert!(plan.patches.len() <= limit);
                    let before = plan.summary.counts.slots;
                    let taken = plan.patches.iter().filter(|p| {
                        let view = fleet.pods[&p.key].view();
                        view.ready && view.marks[SET].update.as_ref().is_none_or(|u| !u.was_ready
                            || progress(&view, u, &rollout("v1", strategy.clone()).strategy, at(fleet.now)) == Progress::Done)
                    }).count();
                    prop_assert!(taken == 0 || before + taken <= max, "{before} + {taken} > {max}");
                    fleet.send(&plan);
                    for patch in &plan.patches {
                        prop_assert_eq!(&fleet.pods[&patch.key].view().marks[SET].revision, &hash(images[image]));
                    }
                }
                Step::Kubelet(i) => fleet.kubelets(&pick(i)),
                Step::AppReady(i, ready) => {
                    let now = at(fleet.now);
                    for name in pick(i) {
                        fleet.pods.values_mut().filter(|p| p.view().key.name == name).for_each(|p| p.ready(ready, now));
                    }
                    fleet.observe();
                }
                Step::Delete(i) => {
                    for name in pick(i) {
                        let key = PodKey { namespace: "default".into(), name };
                        let uid = fleet.pods.remove(&key).unwrap().view().uid;
                        fleet.index.remove(&key, &uid, at(fleet.now));
                    }
                }
                Step::Wait(seconds) => fleet.now += seconds,
                Step::Restart => {
                    fleet.index = Index::default();
                    fleet.index.set_node("n", Some(true));
                    fleet.observe();
                }
            }
            let running = fleet.plan("v2", &strategy).summary;
            let mut recount = Fleet::new(fleet.pods.values().cloned());
            recount.now = fleet.now;
            prop_assert_eq!(running, recount.plan("v2", &strategy).summary);
        }
    }
}
