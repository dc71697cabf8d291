//! Hot upgrades of one pod: two hot sidecars, one of them native, beside a cold one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::validate::validate;
use crate::api::{SidecarSet, keys};
use crate::core::pod::PodView;
use crate::core::revision::Template;
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::testing::{Plan, SET, TestPod, at, planned, set};

mod odd;
mod properties;

const IDLE: &str = "idle";
const TWINS: [&str; 4] = ["mesh-1", "mesh-2", "proxy-1", "proxy-2"];

/// Images of the hot `mesh`, the hot native `proxy`, and the cold `agent`.
type Images = [&'static str; 3];

fn hot_set([mesh, proxy, agent]: Images, strategy: &Value) -> SidecarSet {
    let mut set = set(agent, strategy.clone());
    let hot = json!({"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": IDLE});
    let sidecar = |name: &str, image: &str, more: Value| {
        let mut sidecar = json!({"name": name, "image": image, "upgradeStrategy": hot});
        sidecar.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(sidecar).unwrap()
    };
    set.spec.containers.push(sidecar("mesh", mesh, json!({})));
    set.spec.init_containers.push(sidecar("proxy", proxy, json!({"restartPolicy": "Always"})));
    set
}

fn revision(target: Images) -> String {
    Template::of(&hot_set(target, &json!({})).spec).hash(0)
}

fn born() -> TestPod {
    TestPod::new("web").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(revision(["v1"; 3]));
        let images = ["v1", IDLE, "v1", IDLE];
        let started = at(-1000).to_string();
        for (twin, image) in TWINS.into_iter().zip(images) {
            let (list, statuses) = lists(twin);
            let mut container = json!({"name": twin, "image": image});
            if list == "initContainers" {
                container["restartPolicy"] = json!("Always");
            }
            let status = json!({"name": twin, "containerID": format!("c://{twin}-0#{image}"), "ready": true,
                "restartCount": 0, "state": {"running": {"startedAt": started}}});
            push(&mut pod["spec"][list], container);
            push(&mut pod["status"][statuses], status);
            let (version, other) = if image == IDLE { ("0", "1") } else { ("1", "0") };
            pod["metadata"]["annotations"][format!("{}{twin}", keys::VERSION_PREFIX)] = json!(version);
            pod["metadata"]["annotations"][format!("{}{twin}", keys::VERSION_ALT_PREFIX)] = json!(other);
        }
        pod["status"]["containerStatuses"][0]["containerID"] = json!("c://agent-0#v1");
    })
}

fn push(list: &mut Value, entry: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(entry);
}

fn lists(container: &str) -> (&'static str, &'static str) {
    if container.starts_with("proxy") {
        ("initContainers", "initContainerStatuses")
    } else {
        ("containers", "containerStatuses")
    }
}

fn named<'a>(list: &'a mut Value, name: &str) -> &'a mut Value {
    list.as_array_mut().unwrap().iter_mut().find(|entry| entry["name"] == name).unwrap()
}

/// A pod, the operator's view of it, and a kubelet that acts on one container at a time.
struct World {
    pod: TestPod,
    index: Index,
    now: i64,
    strategy: Value,
    /// Revisions that were planned for, by hash.
    known: BTreeMap<String, Template>,
    /// `SIDECARSET_VERSION` and its `_ALT` that a program was started with, by containerID.
    env: BTreeMap<String, (u64, u64)>,
}

impl World {
    fn new() -> Self {
        let old = Template::of(&hot_set(OLD, &json!({})).spec);
        let mut world = Self {
            pod: born(),
            index: Index::default(),
            now: 0,
            strategy: json!({}),
            known: [(old.hash(0), old)].into(),
            env: BTreeMap::new(),
        };
        world.restart();
        world
    }

    /// Another operator goes on.
    fn restart(&mut self) {
        self.index = Index::default();
        self.index.set_node("n", Some(true));
        self.observe();
    }

    fn observe(&mut self) {
        self.index.apply(self.pod.view(), at(self.now));
    }

    fn plan(&mut self, target: Images) -> Plan {
        self.plan_with(target, |_| {})
    }

    fn plan_with(&mut self, images: Images, change: impl FnOnce(&mut Target)) -> Plan {
        let set = hot_set(images, &self.strategy);
        let template = Template::of(&set.spec);
        let hash = template.hash(0);
        let mut target = Target::new(&validate(&set).unwrap(), (&hash, &template), &self.known, None);
        self.known.insert(hash, template);
        change(&mut target);
        self.index.configure(target, at(self.now));
        planned(&mut self.index, SET, &PersistedProgress::default(), at(self.now), usize::MAX)
    }

    /// Plans and sends; the containers that got another image, with it.
    fn send(&mut self, target: Images) -> Vec<(String, String)> {
        let plan = self.plan(target);
        self.carry_out(&plan)
    }

    fn carry_out(&mut self, plan: &Plan) -> Vec<(String, String)> {
        let Some(request) = plan.patches.first() else { return Vec::new() };
        assert!(self.pod.patch(&request.patch), "a test operation failed");
        self.observe();
        changed(&serde_json::to_value(&request.patch).unwrap(), &self.pod.view())
    }

    /// The kubelet brings one container to its image, if it does not run it.
    fn kubelet(&mut self, name: &str) {
        let (list, statuses) = lists(name);
        let image = named(&mut self.pod.0["spec"][list], name)["image"].as_str().unwrap().to_owned();
        let now = at(self.now);
        let annotation = |pod: &Value, prefix: &str| -> u64 {
            pod["metadata"]["annotations"][format!("{prefix}{name}")].as_str().map_or(0, |v| v.parse().unwrap())
        };
        let env = (annotation(&self.pod.0, keys::VERSION_PREFIX), annotation(&self.pod.0, keys::VERSION_ALT_PREFIX));
        let mut started = None;
        self.pod.edit(|pod| {
            pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
            let status = named(&mut pod["status"][statuses], name);
            let current = status["containerID"].as_str().unwrap().ends_with(&format!("#{image}"));
            if image == "bad" {
                status["ready"] = json!(false);
                status["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
            } else if !current || status["state"]["running"].is_null() {
                let restarts = status["restartCount"].as_i64().unwrap() + 1;
                let id = format!("c://{name}-{restarts}#{image}");
                status["restartCount"] = json!(restarts);
                status["containerID"] = json!(id);
                status["ready"] = json!(true);
                status["state"] = json!({"running": {"startedAt": now.to_string()}});
                started = Some(id);
            }
        });
        self.env.extend(started.map(|id| (id, env)));
        self.pod_ready();
        self.observe();
    }

    fn pod_ready(&mut self) {
        let view = self.pod.view();
        let ready = view.containers.iter().all(|container| container.status.as_ref().is_some_and(|s| s.ready));
        self.pod.ready(ready, at(self.now));
    }

    fn kubelets(&mut self) {
        for name in TWINS.into_iter().chain(["agent"]) {
            self.kubelet(name);
        }
        self.now += 6;
    }

    fn state(&mut self, target: Images) -> PodState {
        self.plan(target);
        self.index.state(SET, &self.pod.view().key).unwrap().clone()
    }

    fn images(&self, sidecar: &str) -> [String; 2] {
        let view = self.pod.view();
        keys::twins(sidecar).map(|twin| view.container(&twin).unwrap().image.clone())
    }

    fn versions(&self, sidecar: &str) -> [(u64, String); 2] {
        let annotations = &self.pod.0["metadata"]["annotations"];
        let view = self.pod.view();
        keys::twins(sidecar).map(|twin| {
            let other = annotations[format!("{}{twin}", keys::VERSION_ALT_PREFIX)].as_str().unwrap();
            (*view.versions.get(&twin).unwrap(), other.to_owned())
        })
    }
}

fn changed(patch: &Value, pod: &PodView) -> Vec<(String, String)> {
    let operations = patch.as_array().unwrap().iter().filter(|operation| operation["op"] == "replace");
    let images = operations.filter_map(|operation| {
        let place = operation["path"].as_str()?.strip_suffix("/image")?.strip_prefix("/spec/")?;
        let (list, index) = place.split_once('/')?;
        let index: usize = index.parse().ok()?;
        let container = pod.containers.iter().find(|c| c.list.field() == list && c.index == index)?;
        Some((container.name.clone(), operation["value"].as_str()?.to_owned()))
    });
    images.collect()
}

fn pair(name: &str, image: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), image.to_owned())]
}

const OLD: Images = ["v1"; 3];
const NEW: Images = ["v2", "v1", "v1"];
const BAD: Images = ["bad", "v1", "v1"];

#[test]
fn a_new_image_goes_to_the_idle_twin_and_then_the_old_twin_is_reset() {
    let mut world = World::new();
    assert_eq!(world.state(OLD), PodState::Available);
    assert_eq!(world.send(NEW), pair("mesh-2", "v2"));
    assert_eq!(world.versions("mesh"), [(1, "2".into()), (2, "1".into())]);
    assert_eq!(world.state(NEW), PodState::Updating);
    world.kubelet("mesh-2");
    world.now += 4;
    assert_eq!(world.send(NEW), [], "the new twin must stay ready");
    world.now += 1;
    assert_eq!(world.state(NEW), PodState::ResetDue);
    assert_eq!(world.send(NEW), pair("mesh-1", IDLE));
    assert_eq!(world.versions("mesh"), [(0, "2".into()), (2, "0".into())]);
    assert_eq!(world.state(NEW), PodState::Updating, "not before the idle twin runs");
    world.kubelets();
    assert_eq!(world.state(NEW), PodState::Available);
    assert_eq!(world.send(["v3", "v1", "v1"]), pair("mesh-1", "v3"), "the next one goes the other way");
    assert_eq!(world.versions("mesh"), [(3, "2".into()), (2, "3".into())]);
}

#[test]
fn from_the_upgrade_to_the_end_of_the_reset_the_pod_holds_its_slot() {
    let mut world = World::new();
    world.send(NEW);
    let slots = |world: &mut World| world.plan_with(NEW, |target| target.strategy.paused = true).summary.counts.slots;
    assert_eq!(slots(&mut world), 1);
    world.kubelets();
    assert_eq!(slots(&mut world), 1, "before the reset");
    world.send(NEW);
    assert_eq!(slots(&mut world), 1, "after the reset");
    world.kubelets();
    assert_eq!(slots(&mut world), 0);
}

#[test]
fn a_good_image_goes_to_the_twin_that_failed() {
    let mut world = World::new();
    assert_eq!(world.send(BAD), pair("mesh-2", "bad"));
    world.kubelets();
    assert!(matches!(world.state(BAD), PodState::Failed(_)));
    world.restart();
    assert_eq!(world.send(["v3", "v1", "v1"]), pair("mesh-2", "v3"));
    world.kubelets();
    assert_eq!(world.send(["v3", "v1", "v1"]), pair("mesh-1", IDLE));
}

#[test]
fn going_back_resets_the_twin_that_failed() {
    let mut world = World::new();
    world.send(BAD);
    world.kubelets();
    assert_eq!(world.send(OLD), pair("mesh-2", IDLE));
    assert_eq!(world.versions("mesh"), [(1, "0".into()), (0, "1".into())]);
    world.kubelets();
    assert_eq!(world.state(OLD), PodState::Available);
}

#[test]
fn another_image_in_the_middle_goes_to_the_twin_that_does_not_serve() {
    let mut world = World::new();
    world.send(NEW);
    world.kubelet("mesh-2");
    assert_eq!(world.send(["v3", "v1", "v1"]), pair("mesh-2", "v3"));
    assert_eq!(world.versions("mesh"), [(1, "3".into()), (3, "1".into())]);
}

#[test]
fn a_pod_that_has_handed_over_is_reset_before_it_goes_back_to_the_same_image() {
    let mut world = World::new();
    world.send(NEW);
    world.kubelets();
    assert_eq!(world.send(OLD), pair("mesh-1", IDLE));
    assert!(
        matches!(world.state(OLD), PodState::NotInPlace(_)),
        "v1 again would not restart the program that handed over"
    );
    world.kubelets();
    assert_eq!(world.send(OLD), pair("mesh-1", "v1"));
    world.kubelets();
    assert_eq!(world.send(OLD), pair("mesh-2", IDLE));
    world.kubelets();
    assert_eq!((world.images("mesh"), world.state(OLD)), (["v1".into(), IDLE.into()], PodState::Available));
}

#[test]
fn a_twin_that_gets_ready_after_the_deadline_must_still_stay_ready() {
    let mut world = World::new();
    world.send(BAD);
    world.kubelet("mesh-2");
    world.now = 700;
    assert!(matches!(world.state(BAD), PodState::Failed(_)));
    world.pod.edit(|pod| {
        let status = named(&mut pod["status"]["containerStatuses"], "mesh-2");
        status["containerID"] = json!("c://late#bad");
        status["ready"] = json!(true);
        status["state"] = json!({"running": {"startedAt": at(700).to_string()}});
    });
    world.pod_ready();
    world.observe();
    assert_eq!(world.state(BAD), PodState::Updating);
    world.now = 705;
    assert_eq!(world.state(BAD), PodState::ResetDue);
}

#[test]
fn a_paused_set_leaves_both_twins_running_and_says_so() {
    let mut world = World::new();
    world.send(NEW);
    world.kubelets();
    world.strategy = json!({"paused": true});
    let plan = world.plan(NEW);
    assert_eq!((plan.patches.len(), plan.summary.counts.resets_due), (0, 1));
    assert_eq!(plan.summary.slot_holders, ["default/web (a twin is to be reset)"]);
}

#[test]
fn partition_and_steps_do_not_hold_a_reset_back() {
    for strategy in [json!({"partition": "100%"}), json!({"steps": [{"replicas": 0, "pause": {}}]})] {
        let mut world = World::new();
        world.send(NEW);
        world.kubelets();
        world.strategy = strategy;
        assert_eq!(world.send(NEW), pair("mesh-1", IDLE));
    }
}

#[test]
fn a_reset_of_a_pod_that_holds_no_slot_takes_one() {
    let mut world = World::new();
    world.pod.ready(false, at(-60));
    world.observe();
    world.send(NEW);
    world.kubelets();
    let evicting = PersistedProgress { evictions: vec![super::evictions::open()], ..PersistedProgress::default() };
    world.plan(NEW);
    assert_eq!(planned(&mut world.index, SET, &evicting, at(world.now), usize::MAX).patches, []);
    assert_eq!(world.send(NEW), pair("mesh-1", IDLE));
}

#[test]
fn hot_and_cold_sidecars_change_in_one_request_and_are_reset_together() {
    let mut world = World::new();
    let sent = world.send(["v2"; 3]);
    assert_eq!(sent.len(), 3);
    assert!(sent.contains(&("agent".into(), "v2".into())) && sent.contains(&("proxy-2".into(), "v2".into())));
    world.kubelet("mesh-2");
    world.now += 6;
    assert_eq!(world.send(["v2"; 3]), [], "one hand-over waits for the other");
    world.kubelets();
    let mut resets = world.send(["v2"; 3]);
    resets.sort();
    assert_eq!(resets, [("mesh-1".into(), IDLE.into()), ("proxy-1".into(), IDLE.into())]);
}

#[test]
fn a_cold_change_in_the_middle_of_a_hand_over_does_not_lose_it() {
    let mut world = World::new();
    world.send(NEW);
    world.kubelet("mesh-2");
    let target = ["v2", "v1", "v2"];
    assert_eq!(world.send(target), pair("agent", "v2"));
    world.kubelets();
    assert_eq!(world.send(target), pair("mesh-1", IDLE));
}

#[test]
fn a_hand_over_keeps_its_record_while_another_sidecar_is_reset_first() {
    let mut world = World::new();
    world.send(["v2", "v2", "v1"]);
    world.kubelets();
    let target = ["v3", "v2", "v1"];
    assert_eq!(world.send(target), pair("mesh-1", IDLE));
    world.kubelets();
    let mut sent = world.send(target);
    sent.sort();
    assert_eq!(sent, [("mesh-1".into(), "v3".into()), ("proxy-1".into(), IDLE.into())]);
    world.kubelets();
    assert_eq!(world.send(target), pair("mesh-2", IDLE));
    world.kubelets();
    assert_eq!(world.state(target), PodState::Available);
}
