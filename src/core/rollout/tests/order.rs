//! Which pods are patched first, and how many of each workload.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::core::pod::PodView;
use crate::core::rollout::assess::attempt::{Attempt, Progress};
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::testing;
use crate::core::rollout::testing::{SET, TestPod, at, planned, target};
use crate::core::rollout::tests::{Fleet, verdict};

pub(super) fn labelled(name: &str, key: &str, value: &str) -> TestPod {
    TestPod::new(name).with(|pod| pod["metadata"]["labels"][key] = json!(value))
}

/// A pod of a Deployment.
pub(crate) fn owned(deployment: &str, name: &str) -> TestPod {
    labelled(name, "pod-template-hash", "5d4f").with(|pod| {
        let owner = format!("{deployment}-5d4f");
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}]);
    })
}

pub(super) fn with_readiness(pod: TestPod, ready: bool) -> TestPod {
    pod.with(|pod| pod["status"]["conditions"][0]["status"] = json!(if ready { "True" } else { "False" }))
}

/// Names in the order in which the pods are patched, joined.
fn whole_order(fleet: &mut Fleet, strategy: &Value) -> String {
    let names: Vec<String> = std::iter::from_fn(|| {
        let round = fleet.round("v2", strategy);
        (!round.is_empty()).then_some(round)
    })
    .flatten()
    .collect();
    names.join(" ")
}

#[test]
fn priority_comes_before_what_a_pod_costs_and_the_name_comes_last() {
    let pods = ["a:1", "b:3", "c:3", "d:2", "e:none"].map(|pod| {
        let (name, value) = pod.split_once(':').unwrap();
        labelled(name, "rank", value)
    });
    let older = |pod: &mut Value| pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(-5000).to_string());
    let restless = labelled("f", "rank", "1").with(older);
    let mut fleet = Fleet::new(pods.into_iter().chain([restless, TestPod::new("g")]));
    let strategy = json!({"priorityStrategy": {"orderPriority": [{"orderedKey": "rank"}]}});
    assert_eq!(whole_order(&mut fleet, &strategy), "b c d a f e g");
}

#[test]
fn classes_are_spread_however_small_the_batches_are() {
    for batch in [json!(1), json!(2), json!(4), json!("100%")] {
        let zone = |zone: &'static str, count| (0..count).map(move |i| labelled(&format!("{zone}{i}"), "zone", zone));
        let mut fleet = Fleet::new(zone("a", 6).chain(zone("b", 3)));
        let strategy = json!({"maxUnavailable": batch, "scatterStrategy": [{"key": "zone", "value": "*"}]});
        assert_eq!(whole_order(&mut fleet, &strategy), "a0 b0 a1 a2 b1 a3 a4 b2 a5", "{batch}");
    }
}

#[test]
fn within_a_class_the_more_urgent_goes_first() {
    let pod = |name: &str, canary: &str, rank: &str| {
        labelled(name, "rank", rank).with(|pod| pod["metadata"]["labels"]["canary"] = json!(canary))
    };
    let pods = [pod("a", "no", "1"), pod("b", "no", "8"), pod("c", "yes", "2"), pod("d", "yes", "9")];
    let strategy = json!({
        "scatterStrategy": [{"key": "canary", "value": "yes"}],
        "priorityStrategy": {"orderPriority": [{"orderedKey": "rank"}]},
    });
    assert_eq!(whole_order(&mut Fleet::new(pods), &strategy), "d b c a");
}

#[test]
fn partition_takes_a_fair_sample() {
    let zone = |zone: &'static str, count| (0..count).map(move |i| labelled(&format!("{zone}{i}"), "zone", zone));
    let mut fleet = Fleet::new(zone("a", 8).chain(zone("b", 4)));
    let strategy = json!({"partition": "50%", "scatterStrategy": [{"key": "zone", "value": "*"}]});
    assert_eq!(whole_order(&mut fleet, &strategy), "a0 b0 a1 a2 b1 a3");
}

const ONE_EACH: &str = r#"{"maxUnavailable": "100%", "maxUnavailablePerWorkload": 1}"#;

fn one_each() -> Value {
    serde_json::from_str(ONE_EACH).unwrap()
}

#[test]
fn each_workload_has_its_own_budget() {
    let pods = ["w0:web", "w1:web", "d0:db", "d1:db"].map(|pod| {
        let (name, deployment) = pod.split_once(':').unwrap();
        owned(deployment, name)
    });
    let mut fleet = Fleet::new(pods.into_iter().chain([TestPod::new("x"), TestPod::new("y")]));
    assert_eq!(fleet.round("v2", &one_each()), ["d0", "w0", "x", "y"], "pods without controller are on their own");
    assert_eq!(fleet.round("v2", &one_each()), ["d1", "w1"]);
    assert_eq!(fleet.reason("v2", &one_each()), "UpToDate");
}

#[test]
fn a_pod_that_is_unready_for_other_reasons_takes_the_room_of_its_workload() {
    let current = owned("web", "w0").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(testing::hash("v2"));
        pod["spec"]["containers"][0]["image"] = json!("v2");
    });
    let mut fleet = Fleet::new([with_readiness(current, false), owned("web", "w1"), owned("db", "d0")]);
    assert_eq!(fleet.round("v2", &one_each()), ["d0"]);
    assert_eq!(fleet.round("v2", &one_each()), Vec::<String>::new());
    let summary = fleet.plan("v2", &one_each()).summary;
    assert_eq!(summary.blocked_workloads, 1);
    let message = verdict(&testing::rollout("v2", one_each()), &summary).message;
    let expected = "; maxUnavailablePerWorkload leaves no room in Deployment default/web (1 of 1 unavailable)";
    assert!(message.ends_with(expected), "{message}");
    fleet.pods.values_mut().for_each(|pod| pod.ready(true, at(100)));
    fleet.observe();
    assert_eq!(fleet.round("v2", &one_each()), ["w1"]);
}

#[test]
fn outdated_unready_pods_are_patched_in_a_workload_without_room() {
    let mut fleet = Fleet::new([with_readiness(owned("web", "w0"), false), owned("web", "w1")]);
    assert_eq!(fleet.round("v2", &one_each()), ["w0"]);
    assert_eq!(fleet.round("v2", &one_each()), ["w1"]);
}

#[test]
fn a_pod_in_flight_can_be_patched_again_in_a_workload_without_room() {
    let mut fleet = Fleet::new([owned("web", "w0"), owned("web", "w1")]);
    let plan = fleet.plan("v2", &one_each());
    assert_eq!(fleet.send(&plan), ["w0"]);
    let plan = fleet.plan("v3", &one_each());
    assert_eq!(fleet.send(&plan), ["w0"]);
}

#[test]
fn failed_pods_that_fill_every_workload_that_is_left_stop_the_rollout() {
    let names = ["web-0", "web-1", "web-2", "db-0", "db-1", "db-2"];
    let mut fleet = Fleet::new(names.map(|name| owned(name.split_once('-').unwrap().0, name)));
    let strategy = json!({
        "maxUnavailable": "100%", "maxUnavailablePerWorkload": 1, "failurePolicy": {"maxFailed": 5},
    });
    let plan = fleet.plan("bad", &strategy);
    assert_eq!(fleet.send(&plan), ["db-0", "web-0"]);
    fleet.kubelets(&["db-0".to_owned()]);
    fleet.now = 6;
    assert_eq!(fleet.reason("bad", &strategy), "RollingUpdate", "the other workload may go on");
    fleet.kubelets(&["web-0".to_owned()]);
    fleet.now = 12;
    assert_eq!(fleet.reason("bad", &strategy), "FailureBudgetExceeded");
}

#[test]
fn a_rollout_that_moves_says_nothing_of_workloads() {
    let mut fleet = Fleet::new([owned("web", "w0"), owned("web", "w1"), owned("db", "d0"), owned("db", "d1")]);
    let strategy = json!({"maxUnavailable": 1, "maxUnavailablePerWorkload": 1});
    let plan = fleet.plan("v2", &strategy);
    fleet.send(&plan);
    let summary = fleet.plan("v2", &strategy).summary;
    let message = verdict(&testing::rollout("v2", strategy), &summary).message;
    assert!(message.ends_with("; 1 of 1 unavailable: default/d0 (updating)"), "{message}");
}

/// What may happen between two plans.
#[derive(Clone, Debug)]
enum Step {
    Plan { image: usize, limit: usize },
    Kubelet(usize),
    AppReady(usize, bool),
    Add { workload: usize, zone: usize },
    Delete(usize),
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize, prop_oneof![1..5_usize, Just(usize::MAX)])
            .prop_map(|(image, limit)| Step::Plan { image, limit }),
        4 => any::<usize>().prop_map(Step::Kubelet),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(pod, ready)| Step::AppReady(pod, ready)),
        2 => (0..3_usize, 0..3_usize).prop_map(|(workload, zone)| Step::Add { workload, zone }),
        1 => any::<usize>().prop_map(Step::Delete),
        2 => (0..10_i64).prop_map(Step::Wait),
    ]
}

fn pod(i: usize, workload: usize, zone: usize) -> TestPod {
    let name = format!("pod-{i}");
    let pod = if workload == 0 { TestPod::new(&name) } else { owned(&format!("app-{workload}"), &name) };
    pod.with(|pod| pod["metadata"]["labels"]["zone"] = json!(format!("z-{zone}")))
}

fn workload(pod: &PodView) -> String {
    pod.owner.as_ref().map_or(pod.key.name.clone(), |owner| owner.name.clone())
}

fn is_unavailable(pod: &PodView, now: i64) -> bool {
    let target = target("v1", json!({}));
    let update = pod.marks.get(SET).unwrap().update.as_ref();
    !pod.ready
        || update
            .is_some_and(|update| Attempt { pod, update, target: &target, now: at(now) }.progress() != Progress::Done)
}

/// Pods and unavailable pods by workload.
fn census(fleet: &Fleet) -> BTreeMap<String, (usize, usize)> {
    let mut census: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for view in fleet.pods.values().map(TestPod::view) {
        let (pods, unavailable) = census.entry(workload(&view)).or_default();
        *pods += 1;
        *unavailable += usize::from(is_unavailable(&view, fleet.now));
    }
    census
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens: no plan takes more of a workload than there is room for, none leaves a pod whose workload has
    /// room, and what the running index says and plans, one that is built anew says and plans, too.
    #[test]
    fn no_plan_exceeds_the_room_of_a_workload(
        steps in prop::collection::vec(step(), 1..40),
        pods in prop::collection::vec((0..3_usize, 0..3_usize), 1..9),
        max in prop_oneof![(1..4_i32).prop_map(|n| json!(n)), Just(json!("50%"))],
    ) {
        let images = ["v1", "v2", "v3", "bad"];
        let strategy = json!({
            "maxUnavailable": "100%", "maxUnavailablePerWorkload": max, "failurePolicy": {"action": "Ignore"},
            "scatterStrategy": [{"key": "zone", "value": "*"}],
            "priorityStrategy": {"orderPriority": [{"orderedKey": "zone"}]},
        });
        let limit_of = |pods: usize| max.as_u64().map_or(pods.div_ceil(2), |max| usize::try_from(max).unwrap());
        let mut made = pods.len();
        let mut fleet = Fleet::new(pods.into_iter().enumerate().map(|(i, (workload, zone))| pod(i, workload, zone)));
        for step in steps {
            let names: Vec<String> = fleet.pods.keys().map(|key| key.name.clone()).collect();
            let pick = |i: usize| names.get(i % names.len().max(1)).cloned().into_iter().collect::<Vec<_>>();
            match step {
                Step::Plan { image, limit } => {
                    fleet.index.configure(target(images[image], strategy.clone()), at(fleet.now));
                    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(fleet.now), limit);
                    let mut census = census(&fleet);
                    for key in plan.patches.iter().map(|patch| &patch.key) {
                        let view = fleet.pods[key].view();
                        if !is_unavailable(&view, fleet.now) {
                            let (pods, unavailable) = census.get_mut(&workload(&view)).unwrap();
                            *unavailable += 1;
                            prop_assert!(*unavailable <= limit_of(*pods), "{unavailable} of {pods} of {}", workload(&view));
                        }
                    }
                    // One that was ready a moment ago takes room as if it were, and counts as unavailable all the same.
                    let chosen = plan.patches.iter().map(|patch| fleet.pods[&patch.key].view());
                    let unready: BTreeSet<String> = chosen.filter(|view| !view.ready).map(|view| workload(&view)).collect();
                    let has_turn = |view: &PodView| view.ready && limit == usize::MAX && !unready.contains(&workload(view));
                    for view in fleet.pods.values().map(TestPod::view).filter(has_turn) {
                        let chosen = plan.patches.iter().any(|patch| patch.key == view.key);
                        let (pods, unavailable) = census[&workload(&view)];
                        if !chosen && fleet.index.state(SET, &view.key) == Some(&PodState::Outdated) {
                            prop_assert!(unavailable >= limit_of(pods), "{} could be patched", view.key);
                        }
                    }
                    fleet.send(&plan);
                }
                Step::Kubelet(i) => fleet.kubelets(&pick(i)),
                Step::AppReady(i, ready) => fleet.set_ready(&pick(i), ready),
                Step::Add { workload, zone } => {
                    let pod = pod(made, workload, zone);
                    made += 1;
                    fleet.pods.insert(pod.view().key, pod);
                    fleet.observe();
                }
                Step::Delete(i) => fleet.delete(&pick(i)),
                Step::Wait(seconds) => fleet.now += seconds,
            }
            let running = fleet.plan("v2", &strategy);
            prop_assert_eq!(running, fleet.recounted().plan("v2", &strategy));
        }
    }
}

/// A rollout that began at time zero, and pods of a workload that is made anew again and again.
#[test]
fn pods_that_are_made_meanwhile_wait_for_those_that_existed() {
    let strategies = [
        json!({}),
        json!({"maxUnavailable": 9, "partition": 3}),
        json!({"scatterStrategy": [{"key": "owner", "value": "*"}]}),
        json!({"maxUnavailable": 9, "steps": [{"replicas": 3, "pause": {}}]}),
    ];
    for strategy in strategies {
        let young = |i: usize| {
            let pod = with_readiness(labelled(&format!("young-{i}"), "owner", "young"), i.is_multiple_of(2));
            pod.with(|pod| pod["metadata"]["creationTimestamp"] = json!(at(5).to_string()))
        };
        let web = |i: usize| labelled(&format!("web-{i}"), "owner", "web");
        let mut fleet = Fleet::new((0..3).map(web).chain((0..3).map(young)));
        fleet.now = 10;
        let started = Target { started_at: Some(at(0)), ..target("v2", strategy.clone()) };
        fleet.index.configure(started, at(10));
        let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(10), usize::MAX);
        let mut first: Vec<&str> = plan.patches.iter().map(|patch| patch.key.name.as_str()).collect();
        first.truncate(if strategy["maxUnavailable"] == 9 { 3 } else { 1 });
        assert!(first.iter().all(|name| name.starts_with("web")), "{strategy}: {first:?}");
    }
}
