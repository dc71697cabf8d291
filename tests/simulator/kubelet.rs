//! The model kubelet: what a real one was seen to do with a new image, phase by phase.

use std::collections::BTreeMap;

use rand::{Rng, RngExt};
use serde_json::{Value, json};
use sidecarset::core::pod::PodKey;

use super::world::{World, second};

/// A container that the kubelet runs, or tries to.
#[derive(Clone, Debug, Default)]
pub struct Running {
    pub image: String,
    /// Containers that were started so far.
    pub number: i64,
    pub started_at: i64,
    pub ready: bool,
    /// When it crashes, or is tried again, or becomes ready.
    next: Option<(i64, Event)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Start,
    Ready,
    Crash,
}

/// See the module. One per pod.
#[derive(Clone, Debug)]
pub struct Kubelet {
    pub containers: BTreeMap<String, Running>,
    /// Generation whose spec was last acted on.
    generation: i64,
    /// The spec that is being acted on, since its generation was reported as observed.
    syncing: Option<Value>,
    pub next_at: i64,
    pub app_ready: bool,
}

impl Kubelet {
    pub fn new(now: i64) -> Self {
        Self { containers: BTreeMap::new(), generation: 0, syncing: None, next_at: now, app_ready: true }
    }

    /// It has nothing left to do: what runs is what the pod of this generation wants, and will go on running.
    pub fn is_settled(&self, generation: i64) -> bool {
        let stays = |running: &Running| running.next.is_none();
        self.generation >= generation && self.syncing.is_none() && self.containers.values().all(stays)
    }

    /// When something happens by itself next; `i64::MAX` for never.
    pub fn due(&self, generation: i64) -> i64 {
        let timers = self.containers.values().filter_map(|running| running.next).map(|(at, _)| at);
        let timers = timers.min().unwrap_or(i64::MAX);
        let wanted = self.generation < generation || self.syncing.is_some();
        if wanted { timers.min(self.next_at) } else { timers }
    }
}

impl World {
    /// One step of the kubelet of a pod; false if there was nothing to do.
    pub fn kubelet(&mut self, key: &PodKey, rng: &mut impl Rng) -> bool {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(key) else { return false };
        let generation = pod.view.generation;
        if pod.view.deleting || pod.kubelet.due(generation) > now {
            return false;
        }
        let kubelet = &mut pod.kubelet;
        let mut timers = kubelet.containers.iter().filter_map(|(name, running)| Some((name.clone(), running.next?)));
        let timer = timers.find(|(_, (at, _))| *at <= now);
        let busy = kubelet.syncing.is_some() || kubelet.generation < generation;
        if let Some((name, (_, event))) = timer.filter(|_| !busy || kubelet.next_at > now || rng.random_bool(0.5)) {
            kubelet.containers.get_mut(&name).unwrap().happen(event, now);
        } else if busy && kubelet.next_at <= now {
            kubelet.next_at = now + rng.random_range(0..2_000);
            match kubelet.syncing.take() {
                // First it reports the generation; the old container runs on for a moment.
                None => {
                    kubelet.generation = generation;
                    kubelet.syncing = Some(pod.json["spec"].clone());
                }
                // Then it stops every container with another image, and starts the new one.
                Some(spec) => {
                    let entries = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array());
                    for entry in entries.flatten() {
                        let image = entry["image"].as_str().unwrap();
                        let running = kubelet.containers.entry(entry["name"].as_str().unwrap().to_owned()).or_default();
                        if running.image != image {
                            image.clone_into(&mut running.image);
                            running.ready = false;
                            running.next = Some((now + rng.random_range(0..3_000), Event::Start));
                        }
                    }
                }
            }
        } else {
            return false;
        }
        self.report(key);
        let pod = &self.pods[key];
        let text = |(name, running): (&String, &Running)| {
            format!("{name} {} {}", running.image, if running.ready { "ready" } else { "down" })
        };
        if self.trace.is_some() {
            let containers: Vec<String> = pod.kubelet.containers.iter().map(text).collect();
            let (seen, all) = (pod.kubelet.generation, pod.view.generation);
            self.say(|| format!("   kubelet of {key}: {} (generation {seen} of {all})", containers.join(", ")));
        }
        true
    }

    /// Writes what the kubelet knows into the pod's status.
    pub fn report(&mut self, key: &PodKey) {
        let Some(pod) = self.pods.get(key) else { return };
        let Kubelet { containers, generation, app_ready, .. } = &pod.kubelet;
        let (containers, generation, app_ready) = (containers.clone(), *generation, *app_ready);
        let now = self.now;
        self.write(key, |pod| {
            let lists = [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")];
            let mut ready = true;
            for (list, statuses) in lists {
                let names: Vec<Value> =
                    pod["spec"][list].as_array().into_iter().flatten().map(|c| c["name"].clone()).collect();
                let before = pod["status"][statuses].take();
                let status = |name: &Value| {
                    let running = containers.get(name.as_str().unwrap())?;
                    let old = before.as_array().into_iter().flatten().find(|status| status["name"] == *name);
                    let is_ready = running.ready && (name != "app" || app_ready);
                    ready &= is_ready;
                    Some(running.status(name, old, is_ready, now))
                };
                let statuses_now: Vec<Value> = names.iter().filter_map(status).collect();
                pod["status"][statuses] = json!(statuses_now);
            }
            ready &= !containers.is_empty();
            pod["status"]["observedGeneration"] = json!(generation);
            pod["status"]["phase"] = json!(if containers.is_empty() { "Pending" } else { "Running" });
            let condition = &mut pod["status"]["conditions"][0];
            let value = if ready { "True" } else { "False" };
            if condition["status"] != value {
                *condition = json!({"type": "Ready", "status": value, "lastTransitionTime": second(now)});
            }
        });
    }
}

impl Running {
    fn happen(&mut self, event: Event, now: i64) {
        let is = |tag: &str| self.image.contains(tag);
        if event == Event::Start {
            self.started_at = now;
        }
        self.next = match event {
            Event::Start if is("nopull") => Some((now + 60_000, Event::Start)),
            Event::Start if is("slow") => {
                self.number += 1;
                Some((now + 20_000, Event::Ready))
            }
            Event::Start => {
                self.number += 1;
                self.ready = true;
                is("crash").then_some((now + 1_500, Event::Crash))
            }
            Event::Ready => {
                self.ready = true;
                None
            }
            Event::Crash => {
                self.ready = false;
                Some((now + 40_000, Event::Start))
            }
        };
    }

    fn status(&self, name: &Value, old: Option<&Value>, ready: bool, now: i64) -> Value {
        let id =
            if self.number == 0 { String::new() } else { format!("c://{}-{}", name.as_str().unwrap(), self.number) };
        let state = match self.next {
            Some((_, Event::Start)) if self.image.contains("nopull") => json!({"waiting": {"reason": "ErrImagePull"}}),
            Some((_, Event::Start)) if self.image.contains("crash") && self.number > 0 => {
                json!({"waiting": {"reason": "CrashLoopBackOff"}})
            }
            Some((_, Event::Start)) => json!({"waiting": {"reason": "ContainerCreating"}}),
            _ => {
                let since = old.filter(|old| old["containerID"] == *id && old["state"]["running"].is_object());
                since.map_or_else(|| json!({"running": {"startedAt": second(now)}}), |old| old["state"].clone())
            }
        };
        let mut status =
            json!({"name": name, "ready": ready, "restartCount": (self.number - 1).max(0), "state": state});
        if !id.is_empty() {
            status["containerID"] = json!(id);
        }
        if self.image.contains("crash") && self.number > 0 && state_is_waiting(&status) {
            status["lastState"] = json!({"terminated": {"exitCode": 1}});
        }
        status
    }
}

fn state_is_waiting(status: &Value) -> bool {
    status["state"]["waiting"].is_object()
}
