//! What goes wrong, and what people do meanwhile.

use rand::{Rng, RngExt};
use serde_json::{Value, json};
use sidecarset::api::{SidecarSet, keys};
use sidecarset::core::pod::PodKey;

use super::operator::{NODES, Operator, WRITE_TIMEOUT};
use super::run::Run;
use super::world::{Body, PodEvent, Request, SETS, World, error, second};

const IMAGES: [&str; 8] = ["v1", "v2", "v2", "v3", "v3", "v4-nopull", "v5-crash", "v6-slow"];

/// Kinds of disturbances; a mask leaves some out to make a failing run simpler.
pub const KINDS: [&str; 24] = [
    "image",
    "pause",
    "budget",
    "partition",
    "steps",
    "approve",
    "retry",
    "action",
    "env",
    "crash",
    "relist",
    "duplicate",
    "delete",
    "create",
    "label lost",
    "marks lost",
    "app readiness",
    "image by hand",
    "type",
    "request faults",
    "selector",
    "watch hangs",
    "outage",
    "answer lost",
];

impl Run {
    /// A patch is carried out, and the operator gets no clear answer; the watch hangs, and reads fail. Meanwhile the set
    /// wants other pods than this one.
    fn lose_an_answer(&mut self, time: i64) {
        let world = &mut self.world;
        let is_patch = |request: &Request| matches!(request.body, Body::Patch { .. });
        let Some(place) = world.requests.iter().position(is_patch) else { return };
        let Request { id, body, .. } = world.requests.swap_remove(place);
        let Body::Patch { set, patch, .. } = &body else { return };
        let is_canary = world.pods.get(&patch.key).is_some_and(|pod| pod.view.labels["tier"] == "canary");
        let others = json!({"matchLabels": {"tier": if is_canary { "main" } else { "canary" }}});
        world.edit(set, |set| set.spec.update_strategy.selector = serde_json::from_value(others).unwrap());
        world.reads_fail_until = world.now + time;
        world.watch_hangs_until = world.reads_fail_until;
        world.serve(&body);
        self.operator.reply(world, id, error(504, false), &mut self.rng, self.faults);
    }

    pub fn disturb(&mut self) {
        let kind = self.rng.random_range(0..KINDS.len());
        let set = self.any_set();
        let pod = self.any_pod();
        let (draw, other) = (self.rng.random_range(0..1000_usize), amount(&mut self.rng));
        let list = SETS.iter().find(|(name, ..)| *name == set).unwrap().1;
        if !self.allowed(kind) {
            return;
        }
        let what = KINDS[kind];
        self.world.say(|| format!("-- {what} ({set}, {pod:?}, {draw})"));
        let status = self.world.sets[&set].status.clone().unwrap_or_default();
        let now = self.world.now;
        let world = &mut self.world;
        match (what, pod) {
            ("answer lost", _) => self.lose_an_answer([20_000, 40_000, 60_000][draw % 3]),
            ("image", _) => world.edit(&set, |set| set_image(set, list, IMAGES[draw % IMAGES.len()])),
            ("pause", _) => world.edit(&set, |set| set.spec.update_strategy.paused = draw % 3 == 0),
            ("budget", _) => world.edit(&set, |set| {
                set.spec.update_strategy.max_unavailable = serde_json::from_value(other).unwrap();
            }),
            ("partition", _) => world.edit(&set, |set| set_partition(set, draw)),
            ("steps", _) => world.edit(&set, |set| set_steps(set, draw)),
            ("approve" | "retry", _) => {
                let key = if what == "approve" { keys::APPROVE } else { keys::RETRY };
                let value = format!("{}/{}", status.update_revision.unwrap_or_default(), draw % 3);
                world.edit(&set, |set| {
                    set.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
                });
            }
            ("action", _) => world.edit(&set, |set| {
                let action = ["Pause", "Rollback", "Ignore"][draw % 3];
                set.spec.update_strategy.failure_policy.action = serde_json::from_value(json!(action)).unwrap();
            }),
            ("env", _) => world.edit(&set, |set| set_env(set, list, draw % 4 == 0)),
            ("type", _) => world.edit(&set, |set| {
                let type_ = if draw % 4 == 0 { "NotUpdate" } else { "RollingUpdate" };
                set.spec.update_strategy.type_ = serde_json::from_value(json!(type_)).unwrap();
            }),
            ("selector", _) => world.edit(&set, |set| {
                let canaries = json!({"matchLabels": {"tier": "canary"}});
                let selector = if draw % 2 == 0 { json!(null) } else { canaries };
                set.spec.update_strategy.selector = serde_json::from_value(selector).unwrap();
            }),
            ("watch hangs", _) => world.watch_hangs_until = now + [3_000, 15_000, 40_000][draw % 3],
            ("outage", _) => {
                world.reads_fail_until = now + [3_000, 15_000, 60_000][draw % 3];
                world.watch_hangs_until = world.reads_fail_until;
            }
            ("crash", _) => {
                let (epoch, concurrency) = (self.operator.epoch + 1, 1 + draw % 4);
                self.world.replies.clear();
                self.operator = Operator::start(&mut self.world, epoch, WRITE_TIMEOUT, concurrency);
            }
            ("relist", _) => world.relist(),
            ("duplicate", Some(key)) => {
                // A watch that resumes may tell again what it told.
                if let Some(pod) = world.get(&key).filter(|pod| pod.is_labelled()) {
                    world.watch.push_back(PodEvent::Apply(pod));
                }
            }
            ("delete", Some(key)) if draw % 2 == 0 => {
                world.churn += 1;
                world.write(&key, |pod| pod["metadata"]["deletionTimestamp"] = json!(second(now)));
            }
            ("delete", Some(key)) => {
                let deleting = world.pods[&key].view.deleting;
                world.remove(&key, !deleting);
                // A StatefulSet makes it again at once, under the same name.
                if draw % 3 > 0 {
                    world.create(&key.name, NODES[usize::from(draw % 20 == 0)].0);
                }
            }
            ("create", _) if world.pods.len() < 8 => {
                let name = (0..9).map(|i| format!("p{i}")).find(|name| world.pods.keys().all(|key| key.name != *name));
                world.create(&name.unwrap(), NODES[usize::from(draw % 10 == 0)].0);
            }
            ("label lost", Some(key)) => world.tamper(&key, None, |pod| {
                pod["metadata"]["labels"].as_object_mut().unwrap().remove(keys::INJECTED);
            }),
            ("marks lost", Some(key)) => world.tamper(&key, Some(&set), |pod| {
                pod["metadata"]["labels"].as_object_mut().unwrap().remove(&keys::revision_label(&set));
            }),
            ("app readiness", Some(key)) => {
                if let Some(pod) = world.pods.get_mut(&key).filter(|pod| !pod.view.deleting) {
                    pod.kubelet.app_ready = draw % 2 == 0;
                    world.report(&key);
                }
            }
            ("image by hand", Some(key)) => world.tamper(&key, Some(&set), |pod| {
                let container = pod["spec"][list].as_array_mut().into_iter().flatten().find(|c| c["name"] != "app");
                if let Some(container) = container {
                    container["image"] = json!(["v1", "by-hand"][draw % 2]);
                    pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap() + 1);
                }
            }),
            _ => {}
        }
    }
}

pub fn amount(rng: &mut impl Rng) -> Value {
    [json!(1), json!(1), json!(2), json!(3), json!("30%"), json!("100%")][rng.random_range(0..6)].clone()
}

impl World {
    /// Somebody else writes a pod, of one set or of all.
    fn tamper(&mut self, key: &PodKey, set: Option<&str>, change: impl FnOnce(&mut Value)) {
        self.churn += 1;
        self.write(key, change);
        let records = self.pods.get_mut(key).into_iter().flat_map(|pod| pod.ledger.records.iter_mut());
        records.filter(|(of, _)| set.is_none_or(|set| set == *of)).for_each(|(_, record)| record.tampered = true);
    }
}

fn with_entry(set: &mut SidecarSet, list: &str, change: impl FnOnce(&mut Value)) {
    let mut spec = json!(set.spec);
    change(&mut spec[list][0]);
    set.spec = serde_json::from_value(spec).unwrap();
}

pub fn set_image(set: &mut SidecarSet, list: &str, image: &str) {
    with_entry(set, list, |entry| entry["image"] = json!(image));
}

pub fn set_env(set: &mut SidecarSet, list: &str, on: bool) {
    with_entry(set, list, |entry| {
        let env = if on { json!([{"name": "A", "value": "1"}]) } else { json!([]) };
        entry["env"] = env;
    });
}

fn set_partition(set: &mut SidecarSet, draw: usize) {
    let strategy = &mut set.spec.update_strategy;
    strategy.steps.clear();
    let partition = [json!(null), json!(1), json!(2), json!("50%"), json!("99%")][draw % 5].clone();
    strategy.partition = serde_json::from_value(partition).unwrap();
}

fn set_steps(set: &mut SidecarSet, draw: usize) {
    let strategy = &mut set.spec.update_strategy;
    strategy.partition = None;
    let steps = json!([{"replicas": 1, "pause": {}}, {"replicas": "50%", "pause": {"durationSeconds": 30}}]);
    strategy.steps = if draw.is_multiple_of(3) { Vec::new() } else { serde_json::from_value(steps).unwrap() };
}
