//! What differs from the template and yet nothing is to be done about in a running pod.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{Fleet, planned};
use crate::api::SidecarSet;
use crate::api::v1beta1::NewPods;
use crate::api::validate::validate;
use crate::core::pod::PodKey;
use crate::core::revision::Template;
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::testing::{self, Plan, SET, TestPod, at, hash};
use crate::core::rollout::tests::aborted::World;

#[test]
fn a_pod_whose_image_is_spelled_otherwise_is_at_the_target() {
    let spelled = TestPod::new("a").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["spec"]["containers"][0]["image"] = json!("docker.io/library/v2:latest");
    });
    let other = TestPod::new("b").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["spec"]["containers"][0]["image"] = json!("v2@sha256:aa");
    });
    let mut fleet = Fleet::new([spelled, other]);
    assert_eq!(fleet.round("v2", &json!({"maxUnavailable": 2})), ["b"], "a tag is no digest");
}

/// A set with a plain init container beside the agent.
fn with_init(agent: &str, init: &str) -> SidecarSet {
    let mut set = testing::set(agent, json!({}));
    set.spec.init_containers = serde_json::from_value(json!([{"name": "prepare", "image": init}])).unwrap();
    set
}

/// The rollout from these sets to the last, the first of which is stable.
fn target(sets: &[SidecarSet]) -> Target {
    let templates: Vec<(String, Template)> =
        sets.iter().map(|set| Template::of(&set.spec)).map(|template| (template.hash(0), template)).collect();
    let (target, stable) = (templates.last().unwrap(), &templates[0].0);
    let known = templates.iter().map(|(hash, template)| (hash, template));
    Target::new(&validate(sets.last().unwrap()).unwrap(), (&target.0, &target.1), known, Some(stable))
}

/// Pods that were made with a set.
fn made_with(set: &SidecarSet, names: &[&str]) -> Fleet {
    let revision = Template::of(&set.spec).hash(0);
    Fleet::new(names.iter().map(|name| {
        TestPod::new(name).with(|pod| {
            pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(revision);
            pod["spec"]["containers"][0]["image"] = json!(set.spec.containers[0].container.image);
            pod["spec"]["initContainers"] =
                json!([{"name": "prepare", "image": set.spec.init_containers[0].container.image}]);
        })
    }))
}

fn plan(fleet: &mut Fleet, target: &Target) -> Plan {
    fleet.index.configure(target.clone(), at(fleet.now));
    planned(&mut fleet.index, SET, &PersistedProgress::default(), at(fleet.now), usize::MAX)
}

fn specs(fleet: &Fleet) -> Vec<&Value> {
    fleet.pods.values().map(|pod| &pod.0["spec"]["initContainers"][0]["image"]).collect()
}

#[test]
fn a_new_image_of_a_plain_init_container_touches_no_running_pod() {
    let (old, new) = (with_init("v1", "prepare:1"), with_init("v1", "prepare:2"));
    let mut fleet = made_with(&old, &["a", "b"]);
    let wanted = target(&[old, new]);
    let plan = plan(&mut fleet, &wanted);
    assert_eq!(plan.patches, []);
    assert_eq!((plan.summary.counts.slots, plan.summary.not_in_place.len()), (0, 0));
    assert_eq!(plan.summary.counts.updated_ready, 2, "they count as updated");
    assert!(!wanted.changes_running_pods());
}

#[test]
fn beside_a_plain_init_container_others_are_upgraded_in_place() {
    let (old, new) = (with_init("v1", "prepare:1"), with_init("v2", "prepare:2"));
    let mut fleet = made_with(&old, &["a"]);
    let wanted = target(&[old, new.clone()]);
    assert!(wanted.changes_running_pods());
    let patches = plan(&mut fleet, &wanted);
    assert_eq!(fleet.send(&patches), ["a"]);
    assert_eq!(specs(&fleet), ["prepare:1"]);
    let pod = fleet.pods.values().next().unwrap();
    assert_eq!(pod.0["spec"]["containers"][0]["image"], "v2");
    assert_eq!(pod.0["metadata"]["labels"]["revision.sidecarset.dev/logs"], json!(Template::of(&new.spec).hash(0)));
    fleet.kubelets(&["a".to_owned()]);
    fleet.now += 6;
    assert_eq!(plan(&mut fleet, &wanted).summary.counts.updated_ready, 1);
}

#[test]
fn an_update_in_flight_is_judged_on_when_only_new_pods_get_something_else() {
    let sets = [with_init("v1", "prepare:1"), with_init("bad", "prepare:1"), with_init("bad", "prepare:2")];
    let mut fleet = made_with(&sets[0], &["a", "b"]);
    let patches = plan(&mut fleet, &target(&sets[..2]));
    let sent = fleet.send(&patches);
    assert_eq!(sent.len(), 1);
    fleet.kubelets(&sent);
    let next = target(&sets);
    fleet.now += 1;
    let during = plan(&mut fleet, &next);
    assert_eq!((during.patches.len(), during.summary.counts.slots), (0, 1), "its slot is not free");
    fleet.now += 700;
    let after = plan(&mut fleet, &next);
    assert_eq!((after.patches.len(), after.summary.counts.failed), (0, 1));
}

#[test]
fn restarts_of_pods_that_were_made_before_prove_nothing_of_a_new_init_container() {
    let (old, new) = (with_init("v1", "prepare:1"), with_init("v1", "prepare:2"));
    let mut fleet = made_with(&old, &["a"]);
    for pod in fleet.pods.values_mut() {
        pod.edit(|pod| {
            pod["status"]["conditions"][0]["status"] = json!("False");
            let agent = &mut pod["status"]["containerStatuses"][0];
            agent["restartCount"] = json!(5);
            agent["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": at(-10).to_string()}});
        });
    }
    fleet.observe();
    let plan = plan(&mut fleet, &target(&[old, new]));
    assert_eq!((plan.summary.counts.failed, plan.summary.exceeded), (0, false));
}

#[test]
fn an_image_that_admission_rewrites_is_not_fought() {
    let mut fleet = Fleet::of(1);
    fleet.round("v2", &json!({}));
    let pod = fleet.pods.values_mut().next().unwrap();
    // In the same request: the generation is the one that the update recorded.
    pod.0["spec"]["containers"][0]["image"] = json!("mirror/v2");
    fleet.observe();
    for now in [0, 60, 10_000] {
        fleet.now = now;
        let plan = fleet.plan("v2", &json!({}));
        assert_eq!((plan.patches.len(), plan.summary.counts.updated), (0, 1), "{now}");
    }
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
    fleet.observe();
    assert_eq!(fleet.plan("v2", &json!({})).patches.len(), 1, "a later generation is somebody's change");
}

#[test]
fn an_image_that_admission_sets_back_has_failed_at_once_and_is_asked_for_again_by_a_retry() {
    let set_back = |pod: &mut Value| {
        pod["spec"]["containers"][0]["image"] = json!("v1");
        pod["metadata"]["generation"] = json!(1);
    };
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    fleet.named("web-0").edit(set_back);
    fleet.observe();
    let summary = fleet.plan("v2", &json!({})).summary;
    assert_eq!(summary.failed, ["default/web-0 (agent: admission set the image back to v1)"]);
    assert_eq!(summary.counts.updated_ready, 0);
    fleet.now = 5;
    let retried = Target { retried_at: Some(at(5)), ..testing::target("v2", json!({})) };
    fleet.index.configure(retried, at(5));
    let again = testing::planned(&mut fleet.index, SET, &PersistedProgress::default(), at(5), usize::MAX);
    assert_eq!(fleet.send(&again), ["web-0"]);
}

/// Its pods, and the set that they were made with, which is stable.
fn world(stable: &SidecarSet, names: &[&str]) -> World {
    let mut world = World::new(made_with(stable, names), json!({}));
    world.apply_set(stable.clone());
    world.set.status.as_mut().unwrap().stable_revision = Some(revision(stable));
    world.plan();
    world
}

fn revision(set: &SidecarSet) -> String {
    Template::of(&set.spec).hash(0)
}

#[test]
fn partition_and_steps_hold_back_nothing_where_running_pods_have_nothing_to_change() {
    for strategy in [json!({"partition": "50%"}), json!({"steps": [{"replicas": 1, "pause": {}}]})] {
        let mut world = world(&with_init("v1", "prepare:1"), &["a", "b"]);
        let mut new = with_init("v1", "prepare:2");
        new.spec.update_strategy = serde_json::from_value(strategy.clone()).unwrap();
        world.apply_set(new.clone());
        world.plan();
        assert_eq!(world.status().injection_revision, Some(revision(&new)), "{strategy}");
        world.fleet.pods.extend(made_with(&new, &["c"]).pods);
        world.fleet.observe();
        world.plan();
        assert_eq!((world.status().stable_revision.clone(), world.reason()), (Some(revision(&new)), "UpToDate"));
    }
}

#[test]
fn a_pause_holds_back_what_only_new_pods_get_and_says_so() {
    let old = with_init("v1", "prepare:1");
    let given = |new_pods: NewPods| {
        let mut world = world(&old, &["a"]);
        let mut new = with_init("v1", "prepare:2");
        new.spec.update_strategy.paused = true;
        new.spec.injection_strategy.new_pods = new_pods;
        world.apply_set(new);
        world.plan();
        let (_, text) = world.message().split_once("to go on; ").unwrap();
        (world.status().injection_revision.clone().unwrap(), world.reason().to_owned(), text.to_owned())
    };
    let (old, new) = (revision(&old), revision(&with_init("v1", "prepare:2")));
    assert_eq!(given(NewPods::FollowRollout), (old.clone(), "Paused".into(), format!("new pods get {old}")));
    assert_eq!(given(NewPods::Latest), (new, "Paused".into(), "new pods get the new revision".into()));
}

#[test]
fn of_pods_that_cannot_be_updated_in_place_it_is_said_what_new_ones_get() {
    let old = with_init("v1", "prepare:1");
    let told = |edit: fn(&mut SidecarSet)| {
        let mut world = world(&old, &["a", "b"]);
        let mut new = old.clone();
        new.spec.containers[0].container.env = serde_json::from_value(json!([{"name": "V", "value": "2"}])).unwrap();
        edit(&mut new);
        world.apply_set(new.clone());
        world.plan();
        let is_new = world.status().injection_revision == Some(revision(&new));
        let names = if is_new { "the new revision".to_owned() } else { revision(&old) };
        assert!(world.message().contains(&format!("new pods get {names}")), "{}", world.message());
        (world.reason().to_owned(), is_new)
    };
    let partition =
        |set: &mut SidecarSet| set.spec.update_strategy.partition = Some(IntOrString::String("100%".into()));
    let paused = |set: &mut SidecarSet| set.spec.update_strategy.paused = true;
    let latest = |set: &mut SidecarSet| {
        set.spec.update_strategy.paused = true;
        set.spec.injection_strategy.new_pods = NewPods::Latest;
    };
    assert_eq!(told(|_| {}), ("NotInPlace".into(), true));
    assert_eq!(told(partition), ("NotInPlace".into(), false), "none may move");
    assert_eq!(told(paused), ("Paused".into(), false), "to restart a workload would bring it nothing");
    assert_eq!(told(latest), ("NotInPlace".into(), true), "the pause keeps nobody from it");
}

/// Made with this set, and its plain init container cannot be pulled.
fn hanging(set: &SidecarSet, names: &[&str]) -> Fleet {
    let mut fleet = made_with(set, names);
    for pod in fleet.pods.values_mut() {
        pod.edit(|pod| {
            let waiting = |name: &str, reason: &str| json!({"name": name, "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}});
            pod["status"]["phase"] = json!("Pending");
            pod["status"]["conditions"][0]["status"] = json!("False");
            pod["status"]["initContainerStatuses"] = json!([waiting("prepare", "ImagePullBackOff")]);
            let others = ["agent", "app"].map(|name| waiting(name, "PodInitializing"));
            pod["status"]["containerStatuses"] = json!(others);
        });
    }
    fleet
}

#[test]
fn a_pod_that_hangs_in_a_plain_init_container_gets_its_new_image() {
    let bad = with_init("v1", "prepare:bad");
    let mut world = world(&with_init("v1", "prepare:1"), &["a"]);
    world.fleet.pods.extend(hanging(&bad, &["b"]).pods);
    world.apply_set(bad);
    world.fleet.observe();
    world.plan();
    assert!(world.message().contains("default/b (prepare: ImagePullBackOff)"), "{}", world.message());
    world.apply_set(with_init("v1", "prepare:3"));
    let plan = world.plan();
    assert_eq!(world.fleet.send(&plan), ["b"]);
    assert_eq!(specs(&world.fleet), ["prepare:1", "prepare:3"]);
    let update = |world: &World| world.fleet.index.state(SET, &key("b")).cloned();
    assert_eq!(update(&world), Some(PodState::Updating));
    world.fleet.named("b").edit(|pod| {
        let ended = json!({"terminated": {"exitCode": 0, "finishedAt": at(1).to_string()}});
        pod["status"]["initContainerStatuses"][0]["state"] = ended;
        pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
        pod["status"]["containerStatuses"] =
            made_with(&with_init("v1", "prepare:3"), &["b"]).named("b").0["status"]["containerStatuses"].clone();
    });
    world.fleet.set_ready(&["b".to_owned()], true);
    assert_eq!(update(&world), Some(PodState::Available));
}

#[test]
fn a_pod_that_hangs_in_a_plain_init_container_goes_back_too() {
    let mut world = world(&with_init("v1", "prepare:1"), &["a"]);
    let mut bad = with_init("v1", "prepare:bad");
    bad.spec.update_strategy =
        serde_json::from_value(json!({"failurePolicy": {"action": "Rollback", "maxFailed": 0}})).unwrap();
    world.fleet.pods.extend(hanging(&bad, &["b"]).pods);
    world.apply_set(bad);
    world.fleet.observe();
    world.settle();
    world.settle();
    assert_eq!(specs(&world.fleet), ["prepare:1", "prepare:1"], "{}", world.message());
}

fn key(name: &str) -> PodKey {
    PodKey { namespace: "default".into(), name: name.into() }
}
