//! The model kubelet: what a real one was seen to do with a new image, phase by phase, and what it says meanwhile
//! (docs/kubelet.md). What a status says and whether a container works are two things here.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt};
use serde_json::{Value, json};
use sidecarset::core::pod::PodKey;

use super::world::{World, second};

/// `periodSeconds` of the startupProbes, in milliseconds.
pub const STARTUP_PERIOD: i64 = 5_000;

/// A container that the kubelet runs, or tries to.
#[derive(Clone, Debug)]
pub struct Running {
    pub image: String,
    /// Containers that were started so far.
    pub number: i64,
    pub started_at: i64,
    /// It works, whatever the status says.
    pub ready: bool,
    said: Said,
    native: bool,
    /// It has a startupProbe, and a readinessProbe.
    startup: bool,
    probed: bool,
    /// Exit code when it is told to stop.
    stops_with: i64,
    /// Images that were to follow another container.
    tried: BTreeSet<String>,
    /// Crashes of this image.
    crashes: i64,
    /// Exit code and time of the last container's end.
    ended: Option<(i64, i64)>,
    timers: Vec<(i64, Event)>,
}

/// Node and image, and when its pull ends.
pub type Pulls = BTreeMap<(String, String), i64>;

/// What the status says of a container.
#[derive(Clone, Debug)]
struct Said {
    state: State,
    /// For waiting ones.
    message: String,
    ready: bool,
    started: bool,
    ended: Option<(i64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Waiting(&'static str),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It is started, or would be if its image could be pulled.
    Start,
    /// The readinessProbe finds nobody.
    Unready,
    /// The startupProbe reports for the first time.
    Probe,
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
    /// A native sidecar is to be replaced when its startupProbe has passed.
    held: bool,
    pub next_at: i64,
    pub app_ready: bool,
}

impl Kubelet {
    pub fn new(now: i64) -> Self {
        let containers = BTreeMap::new();
        Self { containers, generation: 0, syncing: None, held: false, next_at: now, app_ready: true }
    }

    /// It has nothing left to do: what runs is what the pod of this generation wants, and will go on running.
    pub fn is_settled(&self, generation: i64) -> bool {
        let stays = |running: &Running| running.timers.is_empty();
        !self.is_busy(generation) && self.containers.values().all(stays)
    }

    /// A container runs that will crash, or did a moment ago: for that long it may be an accident.
    pub fn is_up_to_crash(&self, now: i64) -> bool {
        let will_crash = |running: &Running| running.timers.iter().any(|(_, event)| *event == Event::Crash);
        let has_crashed =
            |running: &Running| running.ended.is_some_and(|(_, at)| running.crashes > 0 && now - at <= 10_000);
        self.containers.values().any(|running| will_crash(running) || has_crashed(running))
    }

    fn is_busy(&self, generation: i64) -> bool {
        self.generation < generation || self.syncing.is_some() || self.held
    }

    /// When something happens by itself next; `i64::MAX` for never.
    pub fn due(&self, generation: i64) -> i64 {
        let timers = self.containers.values().flat_map(|running| &running.timers).map(|(at, _)| *at);
        let timers = timers.min().unwrap_or(i64::MAX);
        if self.is_busy(generation) { timers.min(self.next_at) } else { timers }
    }

    /// Takes the first timer that is due.
    fn timer(&mut self, now: i64) -> Option<(&mut Running, Event)> {
        let due = |running: &&mut Running| running.timers.iter().any(|(at, _)| *at <= now);
        let running = self.containers.values_mut().find(due)?;
        let first = (0..running.timers.len()).min_by_key(|place| running.timers[*place].0)?;
        let (_, event) = running.timers.remove(first);
        Some((running, event))
    }

    /// Stops every container with another image, to start the new one.
    fn act(&mut self, spec: &Value, pulls: &mut Pulls, now: i64, rng: &mut impl Rng) {
        self.held = false;
        for list in ["initContainers", "containers"] {
            for entry in spec[list].as_array().into_iter().flatten() {
                let name = entry["name"].as_str().unwrap();
                if !self.containers.contains_key(name) {
                    self.containers.insert(name.to_owned(), Running::new(entry, list == "initContainers", rng));
                }
                let (running, image) = (self.containers.get_mut(name).unwrap(), entry["image"].as_str().unwrap());
                if running.image == image {
                    continue;
                }
                let is_starting = running.said.state == State::Running && !running.said.started;
                if running.native && is_starting {
                    self.held = true;
                } else {
                    let place = (spec["nodeName"].to_string(), image.to_owned());
                    let pulled = pulls.entry(place).or_insert_with(|| {
                        if rng.random_bool(0.3) { now + rng.random_range(3_000..25_000) } else { now }
                    });
                    running.replace(image, *pulled, now, rng);
                }
            }
        }
    }
}

impl Said {
    fn down(state: State, ended: Option<(i64, i64)>) -> Self {
        Self {
            state,
            message: "back-off 5s restarting failed container".to_owned(),
            ready: false,
            started: false,
            ended,
        }
    }
}

impl World {
    /// One step of the kubelet of a pod; false if there was nothing to do.
    pub fn kubelet(&mut self, key: &PodKey, rng: &mut impl Rng) -> bool {
        let now = self.now;
        let Self { pods, pulls, .. } = self;
        let Some(pod) = pods.get_mut(key) else { return false };
        let generation = pod.view.generation;
        if pod.view.deleting || pod.kubelet.due(generation) > now {
            return false;
        }
        let kubelet = &mut pod.kubelet;
        let syncs = kubelet.is_busy(generation) && kubelet.next_at <= now;
        let waits = !syncs || rng.random_bool(0.5);
        if let Some((running, event)) = waits.then(|| kubelet.timer(now)).flatten() {
            running.happen(event, now, rng);
        } else if syncs {
            kubelet.next_at = now + rng.random_range(0..2_000);
            match kubelet.syncing.take() {
                // First it reports the generation; the old container runs on for a moment.
                None => {
                    kubelet.generation = generation;
                    kubelet.syncing = Some(pod.json["spec"].clone());
                }
                Some(spec) => kubelet.act(&spec, pulls, now, rng),
            }
        } else {
            return false;
        }
        self.report(key);
        let pod = &self.pods[key];
        let text = |(name, running): (&String, &Running)| {
            let Said { state, ready, .. } = &running.said;
            let truth = if running.ready { "ready" } else { "down" };
            format!("{name} {} {truth} ({state:?}{})", running.image, if *ready { ", ready" } else { "" })
        };
        if self.trace.is_some() {
            let containers: Vec<String> = pod.kubelet.containers.iter().map(text).collect();
            let (seen, all) = (pod.kubelet.generation, pod.view.generation);
            self.say(|| format!("   kubelet of {key}: {} (generation {seen} of {all})", containers.join(", ")));
        }
        true
    }

    /// Writes what the kubelet says into the pod's status.
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
                let status = |name: &Value| {
                    let running = containers.get(name.as_str().unwrap())?;
                    let is_ready = running.said.ready && (name != "app" || app_ready);
                    ready &= is_ready;
                    Some(running.status(name, is_ready))
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
    fn new(entry: &Value, native: bool, rng: &mut impl Rng) -> Self {
        let said = Said::down(State::Waiting("ContainerCreating"), None);
        let (startup, probed) = (entry["startupProbe"].is_object(), rng.random_bool(0.5));
        let stops_with = if rng.random_bool(0.5) { 0 } else { 143 };
        let (image, tried, timers) = (String::new(), BTreeSet::new(), Vec::new());
        let (number, started_at, crashes, ready, ended) = (0, 0, 0, false, None);
        Self {
            image,
            number,
            started_at,
            ready,
            said,
            native,
            startup,
            probed,
            stops_with,
            tried,
            crashes,
            ended,
            timers,
        }
    }

    /// The status says that it runs, and is ready.
    pub fn says_ready(&self) -> bool {
        self.said.ready
    }

    /// It is killed for another image, whose pull ends at a time: until then the status says what it said before. The image
    /// may also be in a back-off of its own because it was tried in this pod before: then it is not even tried for a while.
    fn replace(&mut self, image: &str, pulled: i64, now: i64, rng: &mut impl Rng) {
        image.clone_into(&mut self.image);
        self.timers.clear();
        self.ready = false;
        self.crashes = 0;
        if self.said.state == State::Running {
            self.ended = Some((self.stops_with, now));
        }
        let mut start = pulled.max(now + rng.random_range(0..3_000));
        let is_new = self.number == 0 || self.tried.insert(image.to_owned());
        if !is_new && rng.random_bool(0.4) {
            self.cannot_start("CrashLoopBackOff");
            start += rng.random_range(5_000..40_000);
        } else if self.probed && start > now + 2_000 {
            self.timers.push((now + 2_000, Event::Unready));
        }
        self.timers.push((start, Event::Start));
    }

    /// A native sidecar that ended with 0 gets no reason, the others what is said of an image, or of a back-off.
    fn cannot_start(&mut self, reason: &'static str) {
        let is_silent = self.native && self.ended.is_some_and(|(code, _)| code == 0);
        let state = if is_silent { State::Ended } else { State::Waiting(reason) };
        self.said = Said::down(state, self.ended);
        if reason != "CrashLoopBackOff" {
            self.said.message = format!("Back-off pulling image \"{}\"", self.image);
        }
    }

    fn happen(&mut self, event: Event, now: i64, rng: &mut impl Rng) {
        match event {
            Event::Start if self.image.contains("nopull") => {
                let reasons = ["ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff"];
                // What has never run has never crashed.
                let known = if self.number == 0 { 2 } else { 3 };
                self.cannot_start(reasons[rng.random_range(0..known)]);
                self.timers.push((now + rng.random_range(1_000..60_000), Event::Start));
            }
            Event::Start => self.start(now, rng),
            Event::Unready => self.said.ready = false,
            Event::Probe => (self.said.ready, self.said.started) = (false, false),
            Event::Ready => (self.ready, self.said.ready, self.said.started) = (true, true, true),
            Event::Crash => {
                (self.ready, self.ended) = (false, Some((1, now)));
                self.crashes += 1;
                // The first time it is started again at once.
                let wait = if self.crashes == 1 { 1_000 } else { 40_000 };
                let says_so = self.crashes > 1 && rng.random_bool(0.5);
                let state = if says_so { State::Waiting("CrashLoopBackOff") } else { State::Ended };
                self.said = Said::down(state, self.ended);
                self.timers.push((now + wait, Event::Start));
            }
        }
    }

    fn start(&mut self, now: i64, rng: &mut impl Rng) {
        let is = |tag: &str| self.image.contains(tag);
        // Until its startupProbe reports, the status says of it what it said of the container before.
        let inherits = self.startup && self.said.started;
        let looks_ready = if self.startup { inherits } else { !is("slow") };
        let later = if is("slow") { 20_000 } else { 0 };
        if is("crash") {
            self.timers.push((now + 1_500, Event::Crash));
        } else if self.startup {
            let first = rng.random_range(0..STARTUP_PERIOD);
            self.timers.push((now + first, Event::Probe));
            self.timers.push((now + later.max(first + STARTUP_PERIOD), Event::Ready));
        } else if is("slow") {
            self.timers.push((now + later, Event::Ready));
        }
        self.ready = !self.startup && looks_ready;
        (self.number, self.started_at) = (self.number + 1, now);
        let started = inherits || !self.startup;
        let message = String::new();
        self.said = Said { state: State::Running, message, ready: looks_ready, started, ended: self.ended };
    }

    fn status(&self, name: &Value, ready: bool) -> Value {
        let ended = self.said.ended.map(|(code, at)| json!({"exitCode": code, "finishedAt": second(at)}));
        let (mut state, mut last) = (json!({}), json!({}));
        match self.said.state {
            State::Running => state["running"] = json!({"startedAt": second(self.started_at)}),
            State::Waiting(reason) => state["waiting"] = json!({"reason": reason, "message": self.said.message}),
            State::Ended => state["terminated"] = json!(ended),
        }
        if let Some(ended) = ended.filter(|_| self.said.state != State::Ended) {
            last["terminated"] = ended;
        }
        let mut status = json!({"name": name, "ready": ready, "restartCount": (self.number - 1).max(0), "state": state,
            "lastState": last});
        if self.number > 0 {
            status["containerID"] = json!(format!("c://{}-{}", name.as_str().unwrap(), self.number));
        }
        status
    }
}
