use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::validate::validate;
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::{PersistedProgress, Rollout};
use crate::core::rollout::testing;
use crate::core::rollout::testing::{Plan, SET, TestPod, at, hash, planned, target};

mod aborted;
mod created;
mod due;
mod evictions;
mod hot;
mod in_place;
mod judging;
mod knowledge;
mod listing;
mod no_failure;
mod order;
mod patched;
mod pending;
mod prepull;
mod priority;
mod properties;
mod readiness;
mod reasons;
mod review;
mod simulated;
mod steps;
mod untouched;
use crate::core::pod::PodKey;
use crate::core::revision::Template;
use crate::core::status::RolloutVerdict;

/// Where a rollout that is not stable stands, if new pods get the target.
pub(crate) fn verdict(rollout: &Rollout, summary: &Summary) -> RolloutVerdict {
    RolloutVerdict::of(rollout, summary, &rollout.target.revision, true)
}

/// Pods, an index that follows them, and a kubelet.
struct Fleet {
    pods: BTreeMap<PodKey, TestPod>,
    index: Index,
    now: i64,
}

impl Fleet {
    fn new(pods: impl IntoIterator<Item = TestPod>) -> Self {
        let pods = pods.into_iter().map(|pod| (pod.view().key, pod)).collect();
        Self { pods, index: Index::default(), now: 0 }.recounted()
    }

    /// What an operator sees that starts now.
    fn recounted(&self) -> Self {
        let mut fleet = Self { pods: self.pods.clone(), index: Index::default(), now: self.now };
        fleet.index.set_node("n", Some(true));
        fleet.observe();
        fleet
    }

    fn of(count: usize) -> Self {
        Self::new((0..count).map(|i| TestPod::new(&format!("web-{i}"))))
    }

    fn observe(&mut self) {
        for (key, pod) in &self.pods {
            if self.index.get(key).is_none_or(|known| known.resource_version != pod.resource_version()) {
                self.index.apply(pod.view(), at(self.now));
            }
        }
    }

    fn plan(&mut self, image: &str, strategy: &Value) -> Plan {
        self.index.configure(target(image, strategy.clone()), at(self.now));
        planned(&mut self.index, SET, &PersistedProgress::default(), at(self.now), usize::MAX)
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
        for (_, pod) in self.pods.iter_mut().filter(|(key, _)| names.contains(&key.name)) {
            pod.kubelet(now);
        }
        self.observe();
    }

    fn named(&mut self, name: &str) -> &mut TestPod {
        self.pods.values_mut().find(|pod| pod.view().key.name == name).unwrap()
    }

    fn set_ready(&mut self, names: &[String], ready: bool) {
        let now = at(self.now);
        self.pods.values_mut().filter(|pod| names.contains(&pod.view().key.name)).for_each(|pod| pod.ready(ready, now));
        self.observe();
    }

    fn delete(&mut self, names: &[String]) {
        for name in names {
            let key = PodKey { namespace: "default".into(), name: name.clone() };
            let uid = self.pods.remove(&key).unwrap().view().uid;
            self.index.remove(&key, &uid, at(self.now));
        }
    }

    fn round(&mut self, image: &str, strategy: &Value) -> Vec<String> {
        let plan = self.plan(image, strategy);
        let sent = self.send(&plan);
        self.kubelets(&sent);
        self.now += 6;
        sent
    }

    /// Slots that are taken at this second.
    fn slots(&mut self, now: i64) -> usize {
        planned(&mut self.index, SET, &PersistedProgress::default(), at(now), 0).summary.counts.slots
    }

    fn reason(&mut self, image: &str, strategy: &Value) -> String {
        let summary = self.plan(image, strategy).summary;
        verdict(&testing::rollout(image, strategy.clone()), &summary).reason.to_string()
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
    assert_eq!(fleet.reason("v2", &strategy), "SelectorReached");
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
    let seen = |fleet: &mut Fleet, generation: i64| {
        let pod = fleet.pods.values_mut().next().unwrap();
        pod.edit(|pod| pod["status"]["observedGeneration"] = json!(generation));
        fleet.observe();
    };
    seen(&mut fleet, 2);
    fleet.now = 50;
    assert_eq!(fleet.reason("v1", &json!({})), "RollingUpdate", "it pulls v2, and has killed v1");
    seen(&mut fleet, 3);
    assert_eq!(fleet.reason("v1", &json!({})), "UpToDate");
}

#[test]
fn a_refused_patch_is_not_repeated_before_the_pod_changes() {
    let mut fleet = Fleet::of(1);
    fleet.plan("v2", &json!({}));
    let view = fleet.pods.values().next().unwrap().view();
    fleet.index.refuse(SET, &view, "denied by policy".into(), None, at(0));
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
fn a_patch_without_a_clear_answer_holds_its_place_and_is_no_failure() {
    let mut fleet = Fleet::of(3);
    let plan = fleet.plan("v2", &json!({}));
    let request = &plan.patches[0];
    fleet.index.unanswered(SET, &request.key, "timeout", at(0));
    let pod = fleet.pods.get_mut(&request.key).unwrap();
    pod.edit(|pod| pod["status"]["phase"] = json!("Running"));
    fleet.observe();
    for image in ["v2", "v3"] {
        let plan = fleet.plan(image, &json!({}));
        assert_eq!((plan.patches.len(), plan.summary.counts.slots, plan.summary.counts.failed), (0, 1, 0), "{image}");
    }
    fleet.now = 9;
    assert!(fleet.pods.get_mut(&request.key).unwrap().patch(&request.patch), "it is carried out late");
    fleet.observe();
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.updated, 1);
    fleet.now = 10;
    assert_eq!(fleet.plan("v2", &json!({})).patches, [], "it still holds its slot, as any update");
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

#[test]
fn any_time_in_an_annotation_is_survived() {
    for at in ["9999-12-30T22:00:00Z", "-009999-01-02T01:59:59Z"] {
        let forged = json!({"revision": hash("v1"), "at": at, "wasReady": true,
            "containers": {"agent": {"id": "x", "restartCount": i32::MIN, "image": "v0"}}});
        let pod = TestPod::new("a")
            .with(|pod| pod["metadata"]["annotations"]["update.sidecarset.dev/logs"] = json!(forged.to_string()));
        Fleet::new([pod]).plan("v2", &json!({}));
    }
}

#[test]
fn a_refusal_is_about_one_set_and_one_revision() {
    let mut fleet = Fleet::of(1);
    fleet.plan("v2", &json!({}));
    let view = fleet.pods.values().next().unwrap().view();
    fleet.index.refuse(SET, &view, "no".into(), None, at(0));
    assert_eq!(fleet.plan("v2", &json!({})).patches, []);
    assert_eq!(fleet.plan("v3", &json!({})).patches.len(), 1, "another image may be allowed");
}

#[test]
fn a_pod_without_a_clear_answer_is_tried_again_and_lets_others_go_first() {
    let strategy = json!({"maxUnavailable": 2});
    let mut fleet = Fleet::of(3);
    let first = fleet.plan("v2", &strategy).patches[0].key.clone();
    fleet.index.unanswered(SET, &first, "timeout", at(0));
    let plan = fleet.plan("v2", &strategy);
    assert_eq!((plan.patches.len(), plan.patches[0].key == first, plan.wake_at), (1, false, Some(at(10))));
    fleet.now = 10;
    let keys: Vec<_> = fleet.plan("v2", &strategy).patches.into_iter().map(|p| p.key).collect();
    assert!(keys.contains(&first));
}

#[test]
fn a_late_answer_does_not_bring_a_pod_back() {
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    let (key, pod) = fleet.pods.pop_first().unwrap();
    fleet.index.remove(&key, &pod.view().uid, at(0));
    fleet.index.apply_answer(pod.view(), at(0));
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.matched, 0);
}

#[test]
fn a_pod_that_an_old_rollout_updated_costs_nothing_when_it_is_unready_later() {
    let mut fleet = Fleet::of(2);
    for _ in 0..2 {
        fleet.round("v2", &json!({}));
    }
    fleet.now = 10_000;
    let now = at(fleet.now);
    fleet.pods.values_mut().next().unwrap().ready(false, at(fleet.now - 60));
    fleet.observe();
    let mut next = target("v3", json!({}));
    next.stable = Some(hash("v2"));
    fleet.index.configure(next, now);
    assert_eq!(
        planned(&mut fleet.index, SET, &PersistedProgress::default(), now, usize::MAX).patches.len(),
        2,
        "the unready one is free, as it always was"
    );
}

#[test]
fn a_pod_that_never_gets_ready_after_its_update_has_failed() {
    let mut fleet = Fleet::of(1);
    fleet.round("v2", &json!({}));
    let now = at(fleet.now);
    fleet.pods.values_mut().next().unwrap().ready(false, now);
    fleet.observe();
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.failed, 0);
    fleet.now = 600;
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.failed, 1);
}

#[test]
fn failures_that_fill_the_cap_of_unready_pods_stop_the_rollout_too() {
    let mut fleet = Fleet::new((0..30).map(|i| unready(&format!("web-{i}"))));
    fleet.round("bad", &json!({}));
    assert_eq!(fleet.reason("bad", &json!({})), "FailureBudgetExceeded");
}

#[test]
fn a_way_back_to_the_stable_revision_is_not_finished_before_its_containers_are() {
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    fleet.kubelets(&["web-0".to_owned()]);
    fleet.now = 60;
    let mut back = target("v1", json!({}));
    back.stable = Some(hash("v1"));
    fleet.index.configure(back, at(fleet.now));
    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(fleet.now), usize::MAX);
    fleet.send(&plan);
    let counts = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(fleet.now), 0).summary.counts;
    assert_eq!((counts.undecided, counts.updated_ready), (1, 0));
}

#[test]
fn an_open_eviction_takes_a_slot() {
    let mut fleet = Fleet::of(5);
    fleet.index.configure(target("v2", json!({"maxUnavailable": 2})), at(0));
    let evicting = PersistedProgress { evictions: vec![evictions::open()], ..PersistedProgress::default() };
    assert_eq!(planned(&mut fleet.index, SET, &evicting, at(0), usize::MAX).patches.len(), 1);
}

#[test]
fn beside_a_hot_sidecar_others_are_still_upgraded_in_place() {
    let set = |image: &str| {
        let mut set = testing::set(image, json!({}));
        let hot = json!({"name": "mesh", "image": "mesh:1",
            "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "idle"}});
        set.spec.containers.push(serde_json::from_value(hot).unwrap());
        set
    };
    let (old, new) = (Template::of(&set("v1").spec), Template::of(&set("v2").spec));
    let (before, after) = (old.hash(0), new.hash(0));
    let known = [(&before, &old)];
    let target = Target::new(&validate(&set("v2")).unwrap(), (&after, &new), known, None);
    let pod = TestPod::new("web").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(before);
        for (name, image) in [("mesh-1", "mesh:1"), ("mesh-2", "idle")] {
            pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": name, "image": image}));
        }
    });
    let mut fleet = Fleet::new([pod]);
    fleet.index.configure(target, at(0));
    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), usize::MAX);
    assert_eq!(plan.summary.not_in_place, []);
    assert_eq!(fleet.send(&plan), ["web"]);
}
