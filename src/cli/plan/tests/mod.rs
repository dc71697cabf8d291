mod texts;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::decide::Action;
use super::*;
use crate::core::revision::{Revision, Template};
use crate::core::rollout::testing::{SET, TestPod, at, set};

fn revision(set: &SidecarSet) -> (String, Revision) {
    let template = Template::of(&set.spec);
    (template.hash(0), Revision { template, number: 1, owner: None, custom_version: None })
}

/// A cluster whose set has the image `v1`, with a history of that.
fn world() -> ClusterSnapshot {
    let existing = set("v1", json!({}));
    ClusterSnapshot {
        revisions: [(SET.to_owned(), BTreeMap::from([revision(&existing)]))].into(),
        existing: Some(existing),
        namespaces: [("default".to_owned(), BTreeMap::new())].into(),
        ..ClusterSnapshot::default()
    }
}

/// A pod with the label of the set and no sidecar.
fn uninjected(name: &str, labels: Value) -> Value {
    let mut pod = TestPod::new(name).0;
    pod["metadata"]["annotations"] = json!({});
    pod["metadata"]["labels"] = labels;
    pod["spec"]["containers"] = json!([{"name": "app", "image": "app"}]);
    pod
}

fn planner(set: SidecarSet, world: ClusterSnapshot, pods: &[Value]) -> Planner {
    let mut planner = Planner::new(&validate(&set).unwrap(), world, at(0));
    for pod in pods {
        planner.add(pod).unwrap();
    }
    planner
}

/// Action, number and reason, as the table shows them.
fn table(planner: &mut Planner) -> Vec<(&'static str, usize, String)> {
    let mut table: Vec<(&'static str, usize, String)> = Vec::new();
    for row in planner.plan().rows {
        match table.last_mut().filter(|last| last.0 == row.action.as_str() && last.2 == row.why) {
            Some(last) => last.1 += 1,
            None => table.push((row.action.as_str(), 1, row.why)),
        }
    }
    table
}

fn carriers(number: usize) -> Vec<Value> {
    (0..number).map(|i| TestPod::new(&format!("p{i}")).0).collect()
}

/// The same as pods of a controller of this kind.
fn owned(number: usize, kind: &str) -> Vec<Value> {
    let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "web", "controller": true}]);
    let mut pods = carriers(number);
    for pod in &mut pods {
        pod["metadata"]["ownerReferences"] = owner.clone();
    }
    pods
}

fn with_env(update_strategy: Value) -> SidecarSet {
    let mut set = serde_json::to_value(set("v1", update_strategy)).unwrap();
    set["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    serde_json::from_value(set).unwrap()
}

fn row(action: &'static str, pods: usize, why: &str) -> (&'static str, usize, String) {
    (action, pods, why.to_owned())
}

#[test]
fn a_new_image_is_patched_in_place_in_batches() {
    let mut planner = planner(set("v2", json!({"maxUnavailable": 2})), world(), &carriers(5));
    assert_eq!(table(&mut planner), [row("patch in place", 5, "agent: v1 -> v2")]);
    let plan = planner.plan();
    assert!(plan.differs());
    assert_eq!(plan.first.len(), 2);
    let text = render(&plan, &[], false);
    assert!(text.contains("first: 2 pods now ("), "{text}");
    assert!(text.contains("then at most 2 unavailable"), "{text}");
}

#[test]
fn a_partition_keeps_pods_on_the_old_revision() {
    let mut planner = planner(set("v2", json!({"partition": 2})), world(), &carriers(5));
    assert_eq!(
        table(&mut planner),
        [
            row("patch in place", 3, "agent: v1 -> v2"),
            row("untouched", 2, "updateStrategy.partition keeps it on the old revision"),
        ]
    );
    let text = render(&planner.plan(), &[], false);
    assert!(text.contains("partition keeps 2 on the old revision"), "{text}");
}

#[test]
fn a_paused_set_patches_nothing_first() {
    let mut planner = planner(set("v2", json!({"paused": true})), world(), &carriers(3));
    assert_eq!(table(&mut planner), [row("patch in place", 3, "agent: v1 -> v2")]);
    assert!(planner.plan().first.is_empty());
    let text = render(&planner.plan(), &[], false);
    assert!(text.contains("first: nothing; paused: set updateStrategy.paused to false to go on"), "{text}");
}

#[test]
fn what_the_strategy_excludes_is_untouched() {
    let not_update = set("v2", json!({"type": "NotUpdate"}));
    let expected = row("untouched", 3, "updateStrategy.type is NotUpdate");
    assert_eq!(table(&mut planner(not_update, world(), &carriers(3))), [expected]);
    let selected = set("v2", json!({"selector": {"matchLabels": {"tier": "canary"}}}));
    let expected = row("untouched", 3, "it is outside updateStrategy.selector");
    assert_eq!(table(&mut planner(selected, world(), &carriers(3))), [expected]);
}

#[test]
fn more_than_an_image_leaves_pods_behind_or_evicts_them() {
    let mut skip = planner(with_env(json!({})), world(), &carriers(3));
    assert_eq!(table(&mut skip), [row("leave behind", 3, "containers[agent].env changed")]);
    let evict = |strategy: Value, pods: &[Value]| table(&mut planner(with_env(strategy), world(), pods));
    let evicts = || json!({"whenNotInPlace": "Evict"});
    let env = "containers[agent].env changed";
    assert_eq!(evict(evicts(), &owned(3, "ReplicaSet")), [row("evict", 3, env)]);
    let exempt = format!("{env}; pods of DaemonSets are not evicted");
    assert_eq!(evict(evicts(), &owned(3, "DaemonSet")), [row("leave behind", 3, &exempt)]);
    let kept = format!("updateStrategy.partition keeps it on the old revision; {env}");
    let half = json!({"whenNotInPlace": "Evict", "partition": 2});
    assert_eq!(evict(half, &owned(3, "ReplicaSet")), [row("evict", 1, env), row("untouched", 2, &kept)]);
}

#[test]
fn uninjected_pods_are_injected_when_recreated_or_evicted_unless_they_opt_out() {
    let pods = [
        uninjected("a", json!({"app": "web"})),
        uninjected("b", json!({"app": "web", "sidecarset.dev/inject": "false"})),
    ];
    let new = ClusterSnapshot { existing: None, ..world() };
    let mut injected = planner(set("v1", json!({})), new.clone(), &pods);
    let table_of_injected = table(&mut injected);
    assert_eq!(table_of_injected[0], row("inject when recreated", 1, "it has no sidecars of the set"));
    assert!(table_of_injected[1].2.starts_with("OptedOut"), "{table_of_injected:?}");
    assert!(injected.plan().differs(), "a new set");

    let mut evicting = set("v1", json!({}));
    evicting.spec.injection_strategy.existing_pods = crate::api::v1beta1::ExistingPods::Evict;
    assert_eq!(
        table(&mut planner(evicting.clone(), new.clone(), &pods))[0].0,
        "inject when recreated",
        "nobody owns it"
    );
    let mut pods = pods;
    pods[0]["metadata"]["ownerReferences"] = owned(1, "ReplicaSet")[0]["metadata"]["ownerReferences"].clone();
    assert_eq!(table(&mut planner(evicting, new, &pods))[0].0, "evict");
}

#[test]
fn a_pod_that_a_fail_closed_set_cannot_inject_is_refused_when_recreated() {
    let mut pod = uninjected("a", json!({"app": "web"}));
    pod["spec"]["containers"][0]["name"] = json!("agent");
    let mut fail = set("v1", json!({}));
    fail.spec.injection_strategy.failure_policy = crate::api::v1beta1::FailurePolicy::Fail;
    let table = table(&mut planner(fail, world(), &[pod]));
    assert_eq!(table[0].0, "refuse when recreated");
}

#[test]
fn a_pod_that_is_selected_no_longer_keeps_its_sidecars() {
    let mut narrower = set("v2", json!({}));
    narrower.spec.selector = serde_json::from_value(json!({"matchLabels": {"app": "api"}})).unwrap();
    let mut planner = planner(narrower, world(), &carriers(2));
    assert_eq!(table(&mut planner), [row("no longer selected", 2, "it keeps its sidecars until it is recreated")]);
}

#[test]
fn pods_that_have_ended_are_not_counted() {
    let mut ended = TestPod::new("done").0;
    ended["status"]["phase"] = json!("Succeeded");
    let mut uninjected = uninjected("gone", json!({"app": "web"}));
    uninjected["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(table(&mut planner(set("v2", json!({})), world(), &[ended, uninjected])), []);
}

#[test]
fn the_same_set_again_changes_nothing() {
    let mut planner = planner(set("v1", json!({})), world(), &carriers(2));
    let plan = planner.plan();
    assert!(!plan.differs());
    assert_eq!(table(&mut planner), [row("untouched", 2, "at this revision")]);
    let text = render(&plan, &[], false);
    assert!(text.starts_with("SidecarSet logs: not changed"), "{text}");
    assert!(!text.contains("---"), "{text}");
}

#[test]
fn the_text_shows_every_pod_on_request_and_the_differences() {
    let mut planner = planner(set("v2", json!({})), world(), &carriers(2));
    let plan = planner.plan();
    let before = TestPod::new("p0").0;
    let after = planner.outcome(Action::Patch, &before).unwrap();
    let example = Example { action: Action::Patch, pod: plan.rows[0].pod.clone(), before, after };
    let text = render(&plan, &[example], true);
    for line in [
        "ACTION           POD          WHY",
        "patch in place   default/p0   agent: v1 -> v2",
        "--- SidecarSet logs (now)",
        "+++ SidecarSet logs (planned)",
        "-  - image: v1",
        "+  - image: v2",
        "--- Pod default/p0 (now)",
        "+++ Pod default/p0 (patched in place)",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }
    assert!(!text.contains("containerStatuses"), "{text}");
}

#[test]
fn a_recreated_pod_is_shown_with_its_sidecar() {
    let planner = planner(set("v1", json!({})), world(), &[]);
    let after = planner.outcome(Action::Inject, &uninjected("a", json!({"app": "web"}))).unwrap();
    assert_eq!(after["spec"]["containers"][0]["name"], "agent");
    let left = planner.outcome(Action::Nothing, &uninjected("a", json!({"app": "web"})));
    assert_eq!(left, None);
}

#[test]
fn an_invalid_set_is_refused_with_paths() {
    let mut document = serde_json::to_value(set("v1", json!({}))).unwrap();
    document["spec"]["containers"][0]["livnessProbe"] = json!({});
    document["spec"]["containers"][0]["name"] = json!("Agent");
    let error = Manifest::read(&document).unwrap_err().to_string();
    assert!(error.contains("\n  spec.containers[0].livnessProbe: is not a field"), "{error}");
    assert!(error.contains("\n  spec.containers[0].name: must have at most 63"), "{error}");
}

#[test]
fn metadata_and_resources_are_named_and_shown() {
    let changed = |agent: Value, patches: Value| {
        let mut set = serde_json::to_value(set("v1", json!({}))).unwrap();
        set["spec"]["containers"] = json!([agent]);
        set["spec"]["patchPodMetadata"] = patches;
        serde_json::from_value::<SidecarSet>(set).unwrap()
    };
    let agent = |cpu: &str| json!({"name": "agent", "image": "v1", "resources": {"requests": {"cpu": cpu}}});
    let existing = changed(agent("10m"), json!([]));
    let (hash, old) = revision(&existing);
    let world = ClusterSnapshot {
        revisions: [(SET.to_owned(), [(hash.clone(), old)].into())].into(),
        existing: Some(existing),
        ..world()
    };
    let mut pod = TestPod::new("p").0;
    pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10m"}});
    let target = changed(agent("20m"), json!([{"annotations": {"a": "1"}}]));
    let mut planner = planner(target, world, &[pod.clone()]);
    let why = "agent: requests.cpu 10m -> 20m, labels and annotations".to_owned();
    assert_eq!(table(&mut planner), [("patch in place", 1, why)]);
    let after = planner.outcome(Action::Patch, &pod).unwrap();
    assert_eq!(after["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "20m"}}));
    assert_eq!(after["metadata"]["annotations"]["a"], "1");
}

/// A canary of the set.
fn canary() -> SidecarSet {
    let mut canary = set("v2", json!({}));
    canary.metadata.name = Some("logs-canary".to_owned());
    canary.metadata.annotations = Some(
        [("sidecarset.dev/canary".to_owned(), "true".to_owned()), ("sidecarset.dev/base".to_owned(), SET.to_owned())]
            .into(),
    );
    canary
}

#[test]
fn a_set_may_need_another_one_of_the_same_input() {
    let mut world = ClusterSnapshot::default();
    assert!(check(&validate(&canary()).unwrap(), &world).unwrap_err().to_string().contains("there is no SidecarSet"));
    world.suppose(&[set("v1", json!({}))]);
    assert!(check(&validate(&canary()).unwrap(), &world).is_ok());
}

#[test]
fn sets_of_the_input_take_the_place_of_those_in_the_cluster() {
    let mut other = set("v1", json!({}));
    other.metadata.name = Some("other".to_owned());
    let mut world = ClusterSnapshot { others: vec![other.clone()], ..ClusterSnapshot::default() };
    assert!(check(&validate(&set("v1", json!({}))).unwrap(), &world).is_err(), "both have the container");
    other.spec.selector = serde_json::from_value(json!({"matchLabels": {"app": "api"}})).unwrap();
    world.suppose(&[other]);
    assert!(check(&validate(&set("v1", json!({}))).unwrap(), &world).is_ok());
}

#[test]
fn a_refusal_is_a_remark_only_where_the_set_needs_others_of_the_input() {
    let refusal = || Err(Error::Api(kube::Error::Api(kube::core::Status::failure("no base", "Invalid").boxed())));
    let expected = "The apiserver refuses the set until the others of the input are applied: no base\n";
    assert_eq!(remark(refusal(), false).unwrap(), expected);
    assert!(remark(refusal(), true).is_err());
}
