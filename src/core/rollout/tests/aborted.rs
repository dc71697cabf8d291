//! Revisions that are given up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::validate::validate;
use crate::api::{SidecarSet, SidecarSetStatus, keys};
use crate::core::revision::{History, Revision, Template};
use crate::core::rollout::target::rollout::rollout;
use crate::core::rollout::testing::{Plan, SET, TestPod, at, hash, planned, set};
use crate::core::rollout::tests::{Fleet, unready};
use crate::core::status::{InjectionState, status};

/// A set as the API has it, its pods, and an operator that knows nothing else.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) set: SidecarSet,
    history: History,
}

impl World {
    /// Pods that run `v1`, the stable revision.
    pub fn new(fleet: Fleet, strategy: Value) -> Self {
        let history = ["v1", "v2", "v3", "bad"].map(|image| known(&set(image, json!({})))).into();
        let mut set = set("v1", strategy);
        set.status = Some(SidecarSetStatus {
            update_revision: Some(hash("v1")),
            stable_revision: Some(hash("v1")),
            observed_generation: Some(1),
            ..SidecarSetStatus::default()
        });
        Self { fleet, set, history }
    }

    pub fn apply(&mut self, image: &str, strategy: Value) {
        self.apply_set(set(image, strategy));
    }

    pub(crate) fn apply_set(&mut self, set: SidecarSet) {
        self.history.extend([known(&set)]);
        self.set.spec = set.spec;
        self.set.metadata.generation = self.set.metadata.generation.map(|generation| generation + 1);
    }

    pub(crate) fn annotate(&mut self, key: &str, value: String) {
        self.set.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
    }

    pub(crate) fn status(&self) -> &SidecarSetStatus {
        self.set.status.as_ref().unwrap()
    }

    pub(crate) fn reason(&self) -> &str {
        &self.status().conditions.iter().find(|c| c.type_ == "Ready").unwrap().reason
    }

    pub(crate) fn message(&self) -> &str {
        self.status().message.as_deref().unwrap()
    }

    pub fn plan(&mut self) -> Plan {
        let now = at(self.fleet.now);
        let template = Template::of(&self.set.spec);
        let rollout = rollout(&validate(&self.set).unwrap(), (&template.hash(0), &template), &self.history, now);
        self.fleet.index.configure(rollout.target.clone(), now);
        let plan = planned(&mut self.fleet.index, SET, &rollout.persisted, now, usize::MAX);
        let (status, _) = status(&self.set, &rollout, &plan.summary, &InjectionState::default(), now);
        self.set.status = Some(status);
        plan
    }

    /// One round of operator and kubelets; returns how many pods were patched. The hold time passes.
    pub(crate) fn round(&mut self) -> usize {
        let plan = self.plan();
        let sent = self.fleet.send(&plan);
        self.fleet.kubelets(&sent);
        self.fleet.now += 6;
        self.plan();
        sent.len()
    }

    /// Rounds until nothing moves; returns how many requests were sent.
    pub(crate) fn settle(&mut self) -> usize {
        std::iter::repeat_with(|| self.round()).take_while(|sent| *sent > 0).sum()
    }

    pub(crate) fn with_image(&self, image: &str) -> usize {
        self.fleet.pods.values().filter(|pod| pod.image() == image).count()
    }
}

fn known(set: &SidecarSet) -> (String, Revision) {
    let template = Template::of(&set.spec);
    (template.hash(0), Revision { template, number: 1, owner: None, custom_version: None })
}

/// The promise of the failure budget, for 1,000 pods: not one more is touched.
#[test]
fn a_bad_image_on_a_thousand_pods_touches_exactly_the_budget() {
    let strategy = json!({"maxUnavailable": 7, "failurePolicy": {"maxFailed": "100%"}});
    let mut ready = World::new(Fleet::of(1000), strategy.clone());
    ready.apply("bad", strategy.clone());
    ready.settle();
    assert_eq!((ready.with_image("bad"), ready.reason()), (7, "FailureBudgetExceeded"));

    let mut none_ready = World::new(Fleet::new((0..1000).map(|i| unready(&format!("web-{i}")))), strategy.clone());
    none_ready.apply("bad", strategy);
    none_ready.settle();
    assert_eq!((none_ready.with_image("bad"), none_ready.reason()), (100, "FailureBudgetExceeded"));
}

#[test]
fn more_failed_pods_than_allowed_stop_a_rollout_that_has_slots_left() {
    let strategy = json!({"maxUnavailable": 5, "failurePolicy": {"maxFailed": 2}});
    let mut world = World::new(Fleet::of(20), strategy.clone());
    world.apply("v2", strategy);
    let plan = world.plan();
    let sent = world.fleet.send(&plan);
    let fail = |pod: &mut Value| {
        pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
        let agent = &mut pod["status"]["containerStatuses"][0];
        agent["ready"] = json!(false);
        agent["state"] = json!({"waiting": {"reason": "ErrImagePull"}});
        pod["status"]["conditions"][0]["status"] = json!("False");
    };
    for pod in world.fleet.pods.values_mut().filter(|pod| sent[..2].contains(&pod.view().key.name)) {
        pod.edit(fail);
    }
    world.fleet.kubelets(&sent[2..]);
    world.fleet.observe();
    world.fleet.now += 6;
    let next = world.fleet.plan("v2", &json!({"maxUnavailable": 5, "failurePolicy": {"maxFailed": 2}}));
    assert_eq!((next.summary.exceeded, next.patches.len()), (false, 3), "two may fail");
    let third = &sent[2];
    world.fleet.pods.values_mut().filter(|pod| pod.view().key.name == *third).for_each(|pod| pod.edit(fail));
    world.fleet.observe();
    assert_eq!(world.plan().patches, []);
    assert_eq!((world.reason(), world.status().failed_pods), ("FailureBudgetExceeded", 3));
}

#[test]
fn an_aborted_revision_stays_so_when_its_pods_recover_and_until_it_is_retried() {
    let mut world = World::new(Fleet::of(10), json!({}));
    world.apply("bad", json!({}));
    world.settle();
    assert_eq!(world.status().aborted_revision, Some(hash("bad")));
    for pod in world.fleet.pods.values_mut().filter(|pod| pod.image() == "bad") {
        let now = at(world.fleet.now).to_string();
        pod.edit(|pod| {
            let agent = &mut pod["status"]["containerStatuses"][0];
            (agent["ready"], agent["containerID"]) = (json!(true), json!("c://recovered"));
            agent["state"] = json!({"running": {"startedAt": now}});
        });
        pod.ready(true, at(world.fleet.now));
    }
    world.fleet.observe();
    world.fleet.now += 60;
    assert_eq!(world.round(), 0);
    assert_eq!((world.reason(), world.status().failed_pods), ("FailureBudgetExceeded", 0));
    let advice = format!("sidecarset.dev/retry={}/1", hash("bad"));
    assert!(world.message().contains(&advice) && world.message().contains("ImagePullBackOff"), "{}", world.message());
    world.annotate(keys::RETRY, format!("{}/1", hash("bad")));
    assert_eq!(world.round(), 1);
    assert_eq!(world.status().handled_retry, Some(format!("{}/1", hash("bad"))));
}

#[test]
fn one_retry_is_one_try() {
    let mut world = World::new(Fleet::of(10), json!({}));
    world.apply("bad", json!({}));
    world.settle();
    world.annotate(keys::RETRY, format!("{}/1", hash("bad")));
    world.settle();
    assert_eq!(world.reason(), "RollingUpdate", "the failed pod has the whole timeout again");
    world.fleet.now += 601;
    world.settle();
    assert_eq!((world.with_image("bad"), world.reason()), (1, "FailureBudgetExceeded"));
    world.fleet.now += 601;
    world.settle();
    assert_eq!(world.reason(), "FailureBudgetExceeded", "the annotation is still there, and means nothing any more");
    world.annotate(keys::RETRY, format!("{}/2", hash("bad")));
    world.settle();
    assert_eq!(world.reason(), "RollingUpdate");
    world.annotate(keys::RETRY, format!("{}/1", hash("v1")));
    world.fleet.now += 601;
    world.settle();
    assert_eq!(world.reason(), "FailureBudgetExceeded", "that was for another revision");
}

#[test]
fn a_rollback_brings_failed_pods_back_first_and_all_of_them_and_stays() {
    let strategy =
        json!({"maxUnavailable": 3, "partition": 2, "failurePolicy": {"action": "Rollback", "maxFailed": 1}});
    let mut world = World::new(Fleet::of(12), strategy.clone());
    world.apply("v2", strategy);
    assert_eq!((world.round(), world.round()), (3, 3));
    let worse: Vec<String> =
        world.fleet.pods.values().filter(|pod| pod.image() == "v2").take(3).map(|pod| pod.view().key.name).collect();
    for pod in world.fleet.pods.values_mut().filter(|pod| worse.contains(&pod.view().key.name)) {
        pod.edit(|pod| {
            let agent = &mut pod["status"]["containerStatuses"][0];
            agent["ready"] = json!(false);
            agent["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        });
        pod.ready(false, at(world.fleet.now));
    }
    world.fleet.observe();
    assert_eq!(world.plan().patches, [], "it is given up first");
    assert_eq!(world.reason(), "RollingBack", "not Stalled for a moment: who waits for the rollout would leave");
    assert_eq!(world.status().aborted_revision, Some(hash("v2")));
    assert_eq!(world.status().injection_revision, Some(hash("v1")), "new pods do not get it either");
    let plan = world.plan();
    assert_eq!(world.reason(), "RollingBack");
    assert!(world.message().contains("; stopped by 3 failed: default/web-"), "{}", world.message());
    let mut first = world.fleet.send(&plan);
    first.sort();
    assert_eq!(first, worse, "the failed ones, and they fill the budget");
    world.fleet.kubelets(&first);
    world.fleet.now += 6;
    world.settle();
    assert_eq!((world.with_image("v1"), world.reason()), (12, "RolledBack"));
    assert_eq!(world.status().updated_pods, 0);
    assert!(world.message().contains("stopped by 3 failed: default/web-"), "{}", world.message());
    world.fleet.now += 3600;
    assert_eq!(world.settle(), 0, "nothing rolls out again by itself");
    world.apply("v3", json!({"maxUnavailable": 12}));
    assert_eq!((world.round(), world.status().aborted_revision.clone()), (12, None));
    assert_eq!(world.reason(), "UpToDate");
}

#[test]
fn with_action_ignore_the_rollout_waits_as_long_as_it_takes() {
    let strategy = json!({"maxUnavailable": 2, "failurePolicy": {"action": "Ignore"}, "progressDeadlineSeconds": 60});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("bad", strategy);
    world.settle();
    assert_eq!((world.with_image("bad"), world.reason()), (2, "RollingUpdate"));
    world.fleet.now += 60;
    world.plan();
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
    assert!(world.message().contains("2 of 2 unavailable"), "{}", world.message());
    assert_eq!(world.status().aborted_revision, None);
}

#[test]
fn going_back_to_the_stable_revision_ignores_partition() {
    let strategy = json!({"maxUnavailable": "100%", "partition": "50%"});
    let mut world = World::new(Fleet::of(10), strategy.clone());
    world.apply("v2", strategy.clone());
    world.settle();
    assert_eq!((world.with_image("v2"), world.reason()), (5, "PartitionReached"));
    world.apply("v1", strategy);
    world.settle();
    assert_eq!(world.with_image("v1"), 10);
}

#[test]
fn the_time_of_the_retry_is_kept_for_its_revision_only() {
    let mut world = World::new(Fleet::new([TestPod::new("a")]), json!({}));
    world.apply("bad", json!({}));
    world.settle();
    world.annotate(keys::RETRY, format!("{}/1", hash("bad")));
    let now = at(world.fleet.now);
    world.plan();
    assert_eq!(world.status().retried_at, Some(Time(now)));
    world.fleet.now += 30;
    world.plan();
    assert_eq!(world.status().retried_at, Some(Time(now)));
    world.apply("v2", json!({}));
    world.plan();
    assert_eq!(world.status().retried_at, None);
}

#[test]
fn pods_that_are_born_with_a_broken_sidecar_are_failures_of_a_rollout() {
    let strategy = json!({"failurePolicy": {"action": "Rollback", "maxFailed": 1}});
    let born = |name: &str| {
        TestPod::new(name).with(|pod| {
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("bad"));
            pod["spec"]["containers"][0]["image"] = json!("bad");
            let agent = &mut pod["status"]["containerStatuses"][0];
            agent["ready"] = json!(false);
            agent["state"] = json!({"waiting": {"reason": "ErrImagePull"}});
            pod["status"]["conditions"][0]["status"] = json!("False");
        })
    };
    let pods = || [TestPod::new("old"), born("new-1"), born("new-2")];
    let mut world = World::new(Fleet::new(pods()), strategy.clone());
    world.apply("bad", strategy.clone());
    world.plan();
    assert_eq!((world.status().failed_pods, world.status().aborted_revision.clone()), (2, Some(hash("bad"))));
    assert_eq!(world.status().injection_revision, Some(hash("v1")));

    let mut first = World::new(Fleet::new(pods()), strategy.clone());
    first.set.status = None;
    first.apply("bad", strategy);
    first.plan();
    assert_eq!(
        (first.status().failed_pods, first.status().aborted_revision.clone()),
        (2, None),
        "there is nothing to go back to"
    );
}

#[test]
fn a_second_try_says_what_failed_and_until_when() {
    let mut world = World::new(Fleet::of(3), json!({}));
    world.apply("bad", json!({}));
    world.settle();
    world.annotate(keys::RETRY, format!("{}/1", hash("bad")));
    world.plan();
    let expected = format!("agent: ImagePullBackOff, tried again until {:.0}", at(world.fleet.now + 600));
    assert!(world.message().contains(&expected), "{}", world.message());
}

#[test]
fn updated_pods_that_are_not_ready_are_named() {
    let mut world = World::new(Fleet::new([unready("a"), TestPod::new("b")]), json!({}));
    world.apply("v2", json!({"maxUnavailable": 2}));
    let plan = world.plan();
    let sent = world.fleet.send(&plan);
    world.fleet.kubelets(&sent);
    for (key, pod) in &mut world.fleet.pods {
        pod.ready(key.name == "b", at(world.fleet.now));
    }
    world.fleet.observe();
    world.fleet.now += 6;
    world.plan();
    assert_eq!(world.reason(), "UpToDate", "as many as maxUnavailable may be so");
    assert!(world.message().contains("1 updated not ready: default/a"), "{}", world.message());
}
