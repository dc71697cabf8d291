//! What the plan says of a rollout that is under way, stands, or is given up.

use super::*;
use crate::api::v1beta1::ExistingPods;
use crate::core::rollout::testing::hash;

/// A cluster in which `image` is being rolled out, with this status.
fn under_way(image: &str, update_strategy: Value, status: Value) -> ClusterSnapshot {
    let mut existing = set(image, update_strategy);
    existing.status = Some(serde_json::from_value(status).unwrap());
    let known = [revision(&existing), revision(&set("v1", json!({})))];
    ClusterSnapshot { revisions: [(SET.to_owned(), known.into())].into(), existing: Some(existing), ..world() }
}

/// The same set again, as the plan gets it.
fn again(world: &ClusterSnapshot) -> SidecarSet {
    SidecarSet { status: None, ..world.existing.clone().unwrap() }
}

/// A pod that was made with this image.
fn born(name: &str, image: &str) -> Value {
    let mut pod = TestPod::new(name).0;
    pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash(image));
    pod["spec"]["containers"][0]["image"] = json!(image);
    pod
}

fn text(set: SidecarSet, world: ClusterSnapshot, pods: &[Value]) -> String {
    render(&planner(set, world, pods).plan(), &[], false)
}

#[track_caller]
fn has_line(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

fn steps() -> Value {
    json!({"maxUnavailable": 2, "steps": [
        {"replicas": 1, "pause": {}}, {"replicas": "50%", "pause": {"durationSeconds": 20}}, {"replicas": 5},
    ]})
}

/// The first step is reached.
fn first_step() -> ClusterSnapshot {
    let status = json!({"updateRevision": hash("v2"), "currentStep": 1, "observedGeneration": 1});
    under_way("v2", steps(), status)
}

fn after_first_step() -> Vec<Value> {
    [born("new", "v2")].into_iter().chain(carriers(5)).collect()
}

#[test]
fn steps_say_what_they_let_through_and_where_they_wait() {
    let text = text(set("v2", steps()), world(), &carriers(6));
    has_line(&text, "first: 1 pod now (default/p0), then at most 2 unavailable");
    has_line(
        &text,
        "steps: 0 of 3 reached; step 1 lets 1 of 6 pods go, then waits for approval; step 2 lets 3 go, then pauses 20 s; step 3 lets 5 go; then the rest follows",
    );
}

#[test]
fn of_many_steps_the_next_three_are_named() {
    let many = json!({"steps": [{"replicas": 1}, {"replicas": 2}, {"replicas": 3}, {"replicas": 4}, {"replicas": 9}]});
    let text = text(set("v2", many), world(), &carriers(6));
    has_line(
        &text,
        "steps: 0 of 5 reached; step 1 lets 1 of 6 pods go; step 2 lets 2 go; step 3 lets 3 go; 2 more steps; then the rest follows",
    );
}

#[test]
fn a_step_that_waits_for_approval_says_how_to_approve() {
    let text = text(again(&first_step()), first_step(), &after_first_step());
    let approve = format!("annotate with sidecarset.dev/approve={}/1", hash("v2"));
    has_line(&text, &format!("first: nothing; step 1 waits for approval: {approve}"));
    has_line(
        &text,
        "steps: 1 of 3 reached; step 2 lets 3 of 6 pods go, then pauses 20 s; step 3 lets 5 go; then the rest follows",
    );
}

#[test]
fn an_approved_step_lets_the_next_one_begin() {
    let mut approved = again(&first_step());
    approved.annotations_mut().insert("sidecarset.dev/approve".to_owned(), format!("{}/2", hash("v2")));
    let text = text(approved, first_step(), &after_first_step());
    has_line(&text, "first: 2 pods now (default/p0, default/p1), then at most 2 unavailable");
    assert!(text.contains("step 2 lets 3 of 6 pods go, and is approved; "), "{text}");
}

#[test]
fn full_slots_are_named() {
    let mut pods = carriers(3);
    pods[0] = born("p0", "v2");
    pods[0]["metadata"]["annotations"]["update.sidecarset.dev/logs"] = json!(
        json!({"revision": hash("v2"), "at": at(0).to_string(), "wasReady": true, "containers": {"agent":
            {"id": "c://agent-0", "restartCount": 0, "image": "v1"}}})
        .to_string()
    );
    let world = under_way("v2", json!({}), json!({"updateRevision": hash("v2")}));
    let text = text(again(&world), world, &pods);
    has_line(&text, "first: nothing; 1 of 1 unavailable: default/p0 (updating)");
}

/// `bad` was given up, with one pod at it.
fn given_up(action: &str) -> ClusterSnapshot {
    let status = json!({"updateRevision": hash("bad"), "abortedRevision": hash("bad"), "stableRevision": hash("v1"),
        "abortedBecause": "1 failed: default/p9 (agent: ImagePullBackOff)", "observedGeneration": 1});
    under_way("bad", json!({"failurePolicy": {"action": action}}), status)
}

fn one_bad_pod() -> Vec<Value> {
    [born("p9", "bad")].into_iter().chain(carriers(2)).collect()
}

#[test]
fn a_revision_that_was_given_up_says_so_and_how_to_try_again() {
    let text = text(again(&given_up("Pause")), given_up("Pause"), &one_bad_pod());
    let bad = hash("bad");
    has_line(
        &text,
        &format!(
            "revision {bad} is given up: stopped by 1 failed: default/p9 (agent: ImagePullBackOff); apply a working image, or try again: annotate with sidecarset.dev/retry={bad}/1"
        ),
    );
    has_line(&text, &format!("untouched   2      revision {bad} is given up"));
    assert!(!text.contains("partition"), "{text}");
}

#[test]
fn pods_that_are_evicted_in_turn_stay_when_the_revision_is_given_up() {
    let mut world = given_up("Pause");
    let mut existing = serde_json::to_value(again(&world)).unwrap();
    existing["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    existing["spec"]["updateStrategy"]["whenNotInPlace"] = json!("Evict");
    let existing: SidecarSet = serde_json::from_value(existing).unwrap();
    let revision = revision(&existing).0;
    let status = json!({"updateRevision": revision, "abortedRevision": revision, "stableRevision": hash("v1")});
    world.existing = Some(SidecarSet { status: serde_json::from_value(status).unwrap(), ..existing.clone() });
    let kept = format!("revision {revision} is given up; containers[agent].env changed");
    assert_eq!(table(&mut planner(existing, world, &owned(2, "ReplicaSet"))), [row("untouched", 2, &kept)]);
}

#[test]
fn on_the_way_back_the_revision_of_the_file_is_named_and_where_pods_go() {
    let text = text(again(&given_up("Rollback")), given_up("Rollback"), &one_bad_pod());
    let (bad, stable) = (hash("bad"), hash("v1"));
    has_line(&text, &format!("SidecarSet logs: not changed, revision {bad}"));
    assert!(
        text.contains(&format!("revision {bad} is given up, and pods go back to {stable}: stopped by 1 ")),
        "{text}"
    );
    has_line(&text, "patch in place   1      agent: bad -> v1");
    has_line(&text, "untouched        2      back on the stable revision");
    has_line(&text, "first: 1 pod now (default/p9), then at most 1 unavailable");
}

#[test]
fn the_first_evictions_are_one_of_each_owner_within_the_budget() {
    let mut pods = owned(4, "ReplicaSet");
    for pod in &mut pods[2..] {
        pod["metadata"]["ownerReferences"][0]["uid"] = json!("other");
    }
    let of = |budget: usize| {
        let set = with_env(json!({"whenNotInPlace": "Evict", "maxUnavailable": budget}));
        text(set, world(), &pods)
    };
    let allow = "one of each owner, if PodDisruptionBudgets allow it";
    has_line(&of(1), &format!("first: evict 1 pod now (default/p3; {allow}), then at most 1 unavailable"));
    has_line(&of(3), &format!("first: evict 2 pods now (default/p3, default/p1; {allow}), then at most 3 unavailable"));
}

#[test]
fn an_owner_with_an_open_eviction_waits_and_holds_its_slot() {
    let target = with_env(json!({"whenNotInPlace": "Evict", "maxUnavailable": 1}));
    let evictions = json!([{"namespace": "default", "pod": "p9", "podUid": "uid-p9", "podCreated": at(-1000).to_string(),
        "cause": "NotInPlace", "ownerApiVersion": "apps/v1", "ownerKind": "ReplicaSet", "ownerName": "web",
        "ownerUid": "web", "revision": revision(&target).0, "at": at(0).to_string()}]);
    let status = json!({"updateRevision": revision(&target).0, "evictions": evictions});
    let mut world = world();
    world.existing = Some(SidecarSet { status: serde_json::from_value(status).unwrap(), ..target.clone() });
    let text = text(target, world, &owned(2, "ReplicaSet"));
    let expected =
        "\nfirst: nothing; 1 of 1 unavailable: default/p9 (evicted); cannot be updated in place, evicted in turn: 2 (";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn steps_hold_for_evictions_too() {
    let mut strategy = steps();
    strategy["whenNotInPlace"] = json!("Evict");
    let mut pods = owned(4, "ReplicaSet");
    for (i, pod) in pods.iter_mut().enumerate() {
        pod["metadata"]["ownerReferences"][0]["uid"] = json!(format!("{i}"));
    }
    let text = text(with_env(strategy), world(), &pods);
    assert!(text.contains("\nfirst: evict 1 pod now (default/p0; "), "{text}");
    assert!(text.contains("\nsteps: 0 of 3 reached; step 1 lets 1 of 4 pods go, then waits for approval; "), "{text}");
}

#[test]
fn pods_without_sidecars_that_are_evicted_have_a_first_one_too() {
    let mut pods: Vec<Value> = ["a", "b"].map(|name| uninjected(name, json!({"app": "web"}))).into();
    for pod in &mut pods {
        pod["metadata"]["ownerReferences"] = owned(1, "ReplicaSet")[0]["metadata"]["ownerReferences"].clone();
    }
    let mut evicting = set("v1", json!({"maxUnavailable": 2}));
    evicting.spec.injection_strategy.existing_pods = ExistingPods::Evict;
    let new = ClusterSnapshot { existing: None, ..world() };
    assert!(text(evicting.clone(), new.clone(), &pods).contains("\nfirst: evict 1 pod now (default/b; "));
    evicting.spec.update_strategy.paused = true;
    let text = text(evicting, new, &pods);
    has_line(&text, "first: nothing; paused: set updateStrategy.paused to false to go on");
}

#[test]
fn what_is_written_differently_and_means_the_same_changes_nothing() {
    let with = |resources: Value| {
        let mut set = serde_json::to_value(set("v1", json!({}))).unwrap();
        set["spec"]["containers"][0]["resources"] = resources;
        serde_json::from_value::<SidecarSet>(set).unwrap()
    };
    let (before, after) =
        (with(json!({"limits": {"memory": "1Gi"}})), with(json!({"limits": {"memory": "1024Mi"}, "claims": []})));
    let revisions = [(SET.to_owned(), BTreeMap::from([revision(&before)]))].into();
    let mut pod = TestPod::new("p").0;
    pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(revision(&before).0);
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}});
    let mut planner = planner(after, ClusterSnapshot { revisions, existing: Some(before), ..world() }, &[pod]);
    assert_eq!(table(&mut planner), [row("untouched", 1, "at this revision")]);
    let plan = planner.plan();
    assert!(!plan.differs());
    assert!(render(&plan, &[], false).contains(": written differently, means the same, revision "));
}
