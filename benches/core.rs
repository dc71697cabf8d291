//! What the rollout core costs at 100,000 pods, without a cluster: `cargo bench --bench core`, or `make bench`.
//!
//! Prints a table with the limit beside each figure, and exits non-zero if a figure is more than twice its limit. Times are
//! the best of several: others on the machine count little. What grows with the number of pods is counted.
#![allow(clippy::unwrap_used, missing_docs)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;
use sidecarset::api::validate::validate;
use sidecarset::core::pod::{PodView, SlimPod};
use sidecarset::core::revision::{History, Revision, Template};
use sidecarset::core::rollout::state::index::Index;
use sidecarset::core::rollout::target::rollout::rollout;
use sidecarset::core::round::{Answers, Round, RoundFacts};

const PODS: usize = 100_000;
const SETS: usize = 500;
const PODS_PER_NODE: usize = 100;
const PODS_PER_NAMESPACE: usize = 500;
/// Revisions that a set keeps by default.
const REVISIONS: usize = 10;
/// Pods that change in turn, however many there are, as those of a workload do that is rolled out: what differs is the work,
/// not how much memory the processor's caches have to hold.
const BUSY: usize = 1_000;
const TIMES: usize = 5;
const TOO_WIDE: f64 = 2.0;

fn main() {
    let mut table = Table::default();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    // First, as memory that was used and freed would be used again.
    let mut fleet = memory(&mut table);
    pod_events(&mut table, &mut criterion);
    changes_beside_pods(&mut table, &mut fleet);
    changes_of_sets(&mut table, &mut fleet);
    quiet_round(&mut table, &mut criterion, &mut fleet);
    drop(fleet);
    set_of_all_pods(&mut table);
    criterion.final_summary();
    std::process::exit(i32::from(!table.print()));
}

/// 100,000 pods, each with the marks and the record of one of 500 sets.
fn memory(table: &mut Table) -> Fleet {
    let before = resident();
    let fleet = Fleet::new(PODS, SETS);
    let bytes = resident() - before;
    table.add("memory of 100,000 pods of 500 sets", bytes / 1e6, 250.0, "MB");
    table.add("    of one pod", bytes / count(PODS) / 1e3, 2.5, "kB");
    fleet
}

fn pod_events(table: &mut Table, criterion: &mut Criterion) {
    let mut cost = |pods: usize, apart: usize| {
        let mut fleet = Fleet::new(pods, 1);
        let mut version = 2;
        let best = measure(criterion, &format!("pod event among {pods}, {apart} apart"), || {
            version += 1;
            let events: Vec<PodView> = (0..BUSY).map(|i| fleet.pod(i * apart, version, version % 2 == 0)).collect();
            let started = Instant::now();
            for event in events {
                black_box(fleet.index.apply(event, now(version)));
            }
            started.elapsed() / u32::try_from(BUSY).unwrap()
        });
        best.as_secs_f64() * 1e6
    };
    let (few, many, scattered) = (cost(1_000, 1), cost(PODS, 1), cost(PODS, PODS / BUSY));
    table.add("one pod event among 1,000 pods of a set", few, 10.0, "µs");
    table.add("one pod event among 100,000 pods of a set", many, 10.0, "µs");
    table.add("    ratio", many / few, 1.3, "");
    table.add("    of pods here and there among them", scattered, 10.0, "µs");
}

fn changes_beside_pods(table: &mut Table, fleet: &mut Fleet) {
    let per_node = count(PODS_PER_NODE);
    let (mut left, mut joined, mut relabelled) = (Best::default(), Best::default(), Best::default());
    for _ in 0..TIMES {
        left.add(fleet.settle(|index| index.set_node("node-7", None)));
        joined.add(fleet.settle(|index| index.set_node("node-7", Some(true))));
        relabelled.add(fleet.settle(|index| index.set_namespace("ns-7", Some(BTreeMap::new()))));
        fleet.settle(|index| index.set_namespace("ns-7", Some(fleet_labels())));
    }
    left.print(table, "a node leaves: pods assessed", per_node, 5.0);
    joined.print(table, "a node joins: pods assessed", per_node, 5.0);
    relabelled.print(table, "a namespace is relabelled: pods assessed", count(PODS_PER_NAMESPACE), 5.0);
}

fn changes_of_sets(table: &mut Table, fleet: &mut Fleet) {
    let (mut paused, mut longer) = (Best::default(), Best::default());
    for i in 0..TIMES {
        fleet.change(&spec(3, json!({"minReadySeconds": 20})));
        paused.add(fleet.change(&spec(3, json!({"minReadySeconds": 20, "paused": true}))));
        longer.add(fleet.change(&spec(3, json!({"minReadySeconds": 30 + i}))));
    }
    paused.print(table, "a set is paused: pods assessed", 0.0, 5.0);
    longer.print(table, "minReadySeconds of a set: pods assessed", count(PODS / SETS), 5.0);
}

/// All that a round does but for its I/O.
fn quiet_round(table: &mut Table, criterion: &mut Criterion, fleet: &mut Fleet) {
    let best = measure(criterion, "round without a pod to patch", || {
        let set = Arc::clone(&fleet.sets[5]);
        let started = Instant::now();
        fleet.round(&set);
        started.elapsed()
    });
    table.add("a round without a pod to patch", best.as_secs_f64() * 1e6, 200.0, "µs");
}

fn set_of_all_pods(table: &mut Table) {
    let mut fleet = Fleet::new(PODS, 1);
    let mut longer = Best::default();
    for i in 0..TIMES {
        longer.add(fleet.change(&spec(0, json!({"minReadySeconds": 20 + i}))));
    }
    longer.print(table, "minReadySeconds of a set of 100,000 pods: pods assessed", count(PODS), 5.0);
}

/// Pods at rest, spread evenly over sets, nodes and namespaces.
struct Fleet {
    index: Index,
    sets: Vec<Arc<SidecarSet>>,
    history: History,
    revision: String,
    hash_without_images: String,
}

impl Fleet {
    fn new(pods: usize, sets: usize) -> Self {
        let revisions = (1..=REVISIONS).map(|number| {
            let mut old = spec(0, json!({}));
            old.spec.containers[0].container.image = Some(format!("registry.example.com/agents/agent:1.{number}"));
            let template = Template::of(&old.spec);
            let number = i64::try_from(number).unwrap();
            (template.hash(0), Revision { template, number, owner: None, custom_version: None })
        });
        let template = Template::of(&spec(0, json!({})).spec);
        let mut fleet = Self {
            index: Index::default(),
            history: revisions.collect(),
            revision: template.hash(0),
            hash_without_images: template.hash_without_images(),
            sets: (0..sets).map(|set| Arc::new(fleet_set(set, &template.hash(0)))).collect(),
        };
        for node in 0..pods / PODS_PER_NODE {
            fleet.index.set_node(&format!("node-{node}"), Some(true));
        }
        for namespace in 0..pods.div_ceil(PODS_PER_NAMESPACE) {
            fleet.index.set_namespace(&format!("ns-{namespace}"), Some(fleet_labels()));
        }
        for i in 0..pods {
            let pod = fleet.pod(i, 1, true);
            fleet.index.apply(pod, now(0));
        }
        for set in fleet.sets.clone() {
            fleet.round(&set);
        }
        fleet
    }

    /// As the watch tells of it: decoded from JSON.
    fn pod(&self, i: usize, version: i64, ready: bool) -> PodView {
        let set = format!("set-{}", i % self.sets.len());
        let id = |container: &str| format!("containerd://{i:056x}{container:0>8}");
        let status = |container: &str| {
            json!({"name": container, "containerID": id(container), "ready": ready, "restartCount": 1,
                "started": true, "state": {"running": {"startedAt": now(-900)}}, "lastState": {},
                "image": "registry.example.com/agents/agent:1.10", "imageID": id("image")})
        };
        let replaced = |container: &str, image: &str| json!({"id": id(container), "restartCount": 0, "image": image});
        let record = json!({
            "revision": self.revision, "at": now(-1000), "wasReady": true, "generation": 2,
            "containers": {
                "agent": replaced("old", "registry.example.com/agents/agent:1.9"),
                "proxy": replaced("older", "registry.example.com/agents/proxy:1.9")},
            "others": {"app": null}, "hashWithoutImages": self.hash_without_images,
        });
        let injected = json!({"containers": ["agent"], "initContainers": ["proxy"], "volumes": ["logs"],
            "hashWithoutImages": self.hash_without_images});
        let container = |name: &str, image: &str| json!({"name": name, "image": image});
        let condition = |name: &str| json!({"type": name, "status": if ready { "True" } else { "False" }, "lastTransitionTime": now(-900)});
        let text = json!({
            "metadata": {
                "name": format!("web-{}-5d4f7c9b8-{i:05x}", i % self.sets.len()),
                "namespace": format!("ns-{}", i / PODS_PER_NAMESPACE), "generation": 2, "resourceVersion": version.to_string(),
                "uid": format!("0b2f2c6e-5c1e-4a57-9d3e-{i:012x}"), "creationTimestamp": now(-5000),
                "labels": {
                    "app": set, "pod-template-hash": "5d4f7c9b8", "app.kubernetes.io/part-of": "shop",
                    "sidecarset.dev/injected": "true", (format!("revision.sidecarset.dev/{set}")): self.revision},
                "annotations": {
                    (format!("injection.sidecarset.dev/{set}")): injected.to_string(),
                    (format!("update.sidecarset.dev/{set}")): record.to_string()},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                    "name": format!("web-{}-5d4f7c9b8", i % self.sets.len()),
                    "uid": format!("7a1d3f0c-8a42-4c1f-8f7b-{:012x}", i % self.sets.len())}],
            },
            "spec": {
                "nodeName": format!("node-{}", i / PODS_PER_NODE), "restartPolicy": "Always",
                "initContainers": [container("proxy", "registry.example.com/agents/proxy:1.10")],
                "containers": [
                    container("app", "registry.example.com/shop/web:2026-01-01"),
                    container("agent", "registry.example.com/agents/agent:1.10")],
            },
            "status": {
                "phase": "Running", "observedGeneration": 2,
                "conditions": [condition("PodScheduled"), condition("Ready")],
                "initContainerStatuses": [status("proxy")],
                "containerStatuses": [status("app"), status("agent")],
            }
        })
        .to_string();
        PodView::new(serde_json::from_str::<SlimPod>(&text).unwrap())
    }

    /// Something changes, and the sets concerned have their rounds: pods assessed, and the longest time in milliseconds
    /// that one call took.
    fn settle(&mut self, change: impl FnOnce(&mut Index) -> Vec<String>) -> (f64, f64) {
        let assessed = self.index.assessments();
        let started = Instant::now();
        let sets = change(&mut self.index);
        let mut longest = started.elapsed();
        for set in self.sets.clone() {
            if sets.contains(&set.metadata.name.clone().unwrap()) {
                longest = longest.max(self.round(&set));
            }
        }
        (count(usize::try_from(self.index.assessments() - assessed).unwrap()), longest.as_secs_f64() * 1e3)
    }

    fn change(&mut self, set: &SidecarSet) -> (f64, f64) {
        let mut set = set.clone();
        set.status = fleet_set(0, &self.revision).status;
        let set = Arc::new(set);
        let assessed = self.index.assessments();
        let longest = self.round(&set);
        (count(usize::try_from(self.index.assessments() - assessed).unwrap()), longest.as_secs_f64() * 1e3)
    }

    /// A round in the order of the controller, without its I/O. Returns the longest time that one call took.
    fn round(&mut self, set: &Arc<SidecarSet>) -> Duration {
        let valid = validate(set).unwrap();
        let template = Template::of(&set.spec);
        let rollout = rollout(&valid, (&template.hash(0), &template), &self.history.clone(), now(0));
        let mut longest = Duration::ZERO;
        let mut longer = |started: Instant| longest = longest.max(started.elapsed());
        let started = Instant::now();
        let (round, _replaced) = Round::begin(&mut self.index, Arc::clone(set), rollout);
        longer(started);
        loop {
            let started = Instant::now();
            let is_assessed = round.assess(&mut self.index, now(0));
            longer(started);
            if is_assessed {
                break;
            }
        }
        let started = Instant::now();
        let mut planned = round.plan(&mut self.index, 0, now(0)).unwrap();
        longer(started);
        assert_eq!(planned.take_requests().len(), 0);
        let started = Instant::now();
        let known = RoundFacts { newest: Some(Arc::clone(set)), ..RoundFacts::default() };
        black_box(planned.end(&mut self.index, Answers::default(), known, now(0)).unwrap());
        longer(started);
        longest
    }
}

fn spec(set: usize, strategy: Value) -> SidecarSet {
    serde_json::from_value(json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
        "metadata": {"name": format!("set-{set}"), "generation": 1, "uid": format!("uid-{set}")},
        "spec": {
            "selector": {"matchLabels": {"app": format!("set-{set}")}},
            "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]},
            "containers": [{
                "name": "agent", "image": "registry.example.com/agents/agent:1.10",
                "env": [{"name": "LEVEL", "value": "info"}],
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": [{"name": "logs", "mountPath": "/logs"}]}],
            "initContainers": [{
                "name": "proxy", "image": "registry.example.com/agents/proxy:1.10", "restartPolicy": "Always"}],
            "volumes": [{"name": "logs", "emptyDir": {}}],
            "updateStrategy": strategy,
        }
    }))
    .unwrap()
}

/// Fully rolled out.
fn fleet_set(set: usize, revision: &str) -> SidecarSet {
    let mut set = spec(set, json!({}));
    set.status = serde_json::from_value(
        json!({"updateRevision": revision, "stableRevision": revision, "observedGeneration": 1}),
    )
    .ok();
    set
}

fn fleet_labels() -> BTreeMap<String, String> {
    [("team".to_owned(), "a".to_owned())].into()
}

fn now(seconds: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

/// Lets criterion measure, and returns the best that it has seen.
fn measure(criterion: &mut Criterion, name: &str, once: impl FnMut() -> Duration) -> Duration {
    let (seen, once) = (RefCell::new(Vec::new()), RefCell::new(once));
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            (0..times)
                .map(|_| {
                    let took = (once.borrow_mut())();
                    seen.borrow_mut().push(took);
                    took
                })
                .sum()
        });
    });
    seen.into_inner().into_iter().min().unwrap()
}

/// Memory of this process in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

fn count(number: usize) -> f64 {
    u32::try_from(number).unwrap().into()
}

/// The most pods that were assessed, and the shortest of the longest times in milliseconds.
#[derive(Default)]
struct Best(f64, Option<f64>);

impl Best {
    fn add(&mut self, (assessed, longest): (f64, f64)) {
        self.0 = self.0.max(assessed);
        self.1 = Some(self.1.map_or(longest, |best| best.min(longest)));
    }

    fn print(&self, table: &mut Table, what: &'static str, assessed: f64, held: f64) {
        table.add(what, self.0, assessed, "");
        table.add("    longest time under the lock", self.1.unwrap(), held, "ms");
    }
}

#[derive(Default)]
struct Table(Vec<(&'static str, f64, f64, &'static str)>);

impl Table {
    fn add(&mut self, what: &'static str, figure: f64, limit: f64, unit: &'static str) {
        self.0.push((what, figure, limit, unit));
    }

    /// False if a figure is far beyond its limit.
    fn print(&self) -> bool {
        println!("\n{:58}{:>12}{:>12}", "", "measured", "limit");
        for (what, figure, limit, unit) in &self.0 {
            let over = if figure > limit { "  OVER" } else { "" };
            println!("{what:58}{figure:>12.2}{limit:>12.1} {unit:2}{over}");
        }
        self.0.iter().all(|(_, figure, limit, _)| *figure <= limit * TOO_WIDE)
    }
}
