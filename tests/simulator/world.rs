//! The model apiserver: pods as JSON, sets, revisions, watches, and requests on their way. It holds the truth.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::Status;
use serde::Deserialize;
use serde_json::{Value, json};
use sidecarset::api::{SidecarSet, SidecarSetStatus, keys};
use sidecarset::core::pod::{PodKey, PodView, SlimPod};
use sidecarset::core::revision::{History, Revision, Template};
use sidecarset::core::rollout::request::PodPatch;

use super::kubelet::{Kubelet, Pulls};
use super::truth::Ledger;

/// The sets: name, list, container. `mesh` is a native sidecar.
pub const SETS: [(&str, &str, &str); 2] = [("logs", "containers", "agent"), ("mesh", "initContainers", "proxy")];

/// The image of the pods' own container.
pub const APP_IMAGE: &str = "app";

/// What a watch of pods tells.
#[derive(Clone, Debug)]
pub enum PodEvent {
    Init,
    InitApply(Arc<PodView>),
    InitDone,
    Apply(Arc<PodView>),
    /// `true` if the object says that it was asked to go.
    Delete(Arc<PodView>, bool),
}

/// A pod in the cluster.
pub struct Pod {
    pub json: Value,
    pub view: Arc<PodView>,
    pub kubelet: Kubelet,
    pub ledger: Ledger,
}

/// A write on its way.
#[derive(Clone)]
pub enum Body {
    Patch { set: String, patch: Box<PodPatch>, promise: Promise },
    Status { set: String, status: Box<SidecarSetStatus> },
}

/// What the operator knew when it planned a patch, as the invariants need it.
#[derive(Clone, Debug)]
pub struct Promise {
    pub revision: String,
    pub max_unavailable: usize,
    pub max_unready: usize,
    /// [`World::churn`] of the set as far as the operator had seen it; `None` if it was behind.
    pub churn: Option<u64>,
    pub partition: Value,
    /// `updateStrategy.selector`, as far as it says what `tier` is.
    pub tier: Option<String>,
    /// Generation of the set, its steps, and the step behind which somebody let it go on.
    pub generation: i64,
    pub steps: Vec<Value>,
    pub approved: usize,
    pub going_back: bool,
}

pub struct Request {
    pub id: u64,
    pub epoch: u64,
    pub sent_at: i64,
    pub body: Body,
}

/// What comes back.
pub enum Reply {
    Pod(Arc<PodView>),
    Set(Box<SidecarSet>),
    Error(Box<Status>),
    Timeout,
}

#[derive(Default)]
pub struct World {
    /// Milliseconds.
    pub now: i64,
    pub version: u64,
    pub uids: u64,
    pub pods: BTreeMap<PodKey, Pod>,
    pub pulls: Pulls,
    pub sets: BTreeMap<String, SidecarSet>,
    pub history: BTreeMap<String, History>,
    pub watch: VecDeque<PodEvent>,
    pub set_watch: VecDeque<Arc<SidecarSet>>,
    pub requests: Vec<Request>,
    pub replies: Vec<(u64, Reply)>,
    /// Since when each revision of a set is known, and the generation that it came with.
    pub since: BTreeMap<(String, String), (i64, i64)>,
    /// Until then no event of a pod arrives; no pod can be read, and no answer arrives.
    pub watch_hangs_until: i64,
    pub reads_fail_until: i64,
    /// Counted up whenever somebody else than the operator changes what a set's rollout sees.
    pub churn: u64,
    pub trace: Option<Vec<String>>,
    /// The last stable revision that the operator wrote, by set.
    pub stable_sent: BTreeMap<String, String>,
    pub violation: Option<(&'static str, String)>,
}

impl World {
    pub fn time(&self) -> Timestamp {
        at(self.now)
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} {}", self.now as f64 / 1000.0, line()));
        }
    }

    /// An invariant does not hold; the first one is kept.
    pub fn violate(&mut self, invariant: &'static str, text: String) {
        if self.violation.is_none() {
            self.say(|| format!("!! {invariant}: {text}"));
            self.violation = Some((invariant, text));
        }
    }

    /// Changes a pod as any writer does: a new version, and the watch tells it.
    pub fn write(&mut self, key: &PodKey, change: impl FnOnce(&mut Value)) {
        self.version += 1;
        let (version, now) = (self.version, self.now);
        let Some(pod) = self.pods.get_mut(key) else { return };
        let before = Arc::clone(&pod.view);
        change(&mut pod.json);
        pod.json["metadata"]["resourceVersion"] = json!(version.to_string());
        pod.view = Arc::new(view(&pod.json));
        pod.ledger.observe(&pod.view, &pod.kubelet, now);
        let event = match (before.is_labelled(), pod.view.is_labelled()) {
            (_, true) => PodEvent::Apply(Arc::clone(&pod.view)),
            (true, false) => {
                PodEvent::Delete(Arc::new(PodView { resource_version: version, ..(*before).clone() }), false)
            }
            (false, false) => return,
        };
        self.watch.push_back(event);
    }

    /// The pod is gone. `quiet`: at once, so that the last object does not say that it was asked to go.
    pub fn remove(&mut self, key: &PodKey, quiet: bool) {
        self.version += 1;
        self.churn += 1;
        let Some(pod) = self.pods.remove(key) else { return };
        if pod.view.is_labelled() {
            let last = PodView { resource_version: self.version, ..(*pod.view).clone() };
            self.watch.push_back(PodEvent::Delete(Arc::new(last), !quiet));
        }
    }

    /// A pod as its workload makes it, with the sidecars that the webhook puts in.
    pub fn create(&mut self, name: &str, node: &str) {
        self.version += 1;
        self.uids += 1;
        self.churn += 1;
        let mut labels = json!({"app": "web", "tier": tier(name), keys::INJECTED: "true"});
        let mut containers = json!({"containers": [{"name": "app", "image": APP_IMAGE}], "initContainers": []});
        let names: Vec<String> = self.sets.keys().cloned().collect();
        for set in names {
            let Some((hash, template)) = self.injected(&set) else { continue };
            labels[keys::revision_label(&set)] = json!(hash);
            for list in ["containers", "initContainers"] {
                for entry in template.entries(list) {
                    let place = containers[list].as_array_mut().unwrap();
                    let known = entry.as_object().unwrap().iter();
                    let known = known
                        .filter(|(key, _)| ["name", "image", "restartPolicy", "startupProbe"].contains(&key.as_str()));
                    place.push(known.map(|(key, value)| (key.clone(), value.clone())).collect());
                }
            }
        }
        let created = second(self.now);
        containers["nodeName"] = json!(node);
        let json = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("u{}", self.uids), "generation": 1,
                "resourceVersion": self.version.to_string(), "creationTimestamp": created, "labels": labels},
            "spec": containers,
            "status": {"phase": "Pending",
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": created}]},
        });
        let view = Arc::new(view(&json));
        self.say(|| format!("pod {name} is created on {node} as u{}", view.uid));
        self.watch.push_back(PodEvent::Apply(Arc::clone(&view)));
        let kubelet = Kubelet::new(self.now);
        self.pods.insert(view.key.clone(), Pod { json, view, kubelet, ledger: Ledger::default() });
    }

    /// The revision that the webhook gives a new pod: what the status names, the newest before there is one.
    fn injected(&mut self, set: &str) -> Option<(String, Template)> {
        let object = self.sets.get(set)?;
        let named = object.status.as_ref().and_then(|status| status.injection_revision.clone());
        let known = named.and_then(|hash| Some((hash.clone(), self.history.get(set)?.get(&hash)?.template.clone())));
        known.or_else(|| {
            let template = Template::of(&self.sets[set].spec);
            let hash = template.hash(0);
            self.ensure(set, &hash, &template, self.sets[set].metadata.generation.unwrap());
            Some((hash, template))
        })
    }

    /// The revision object of a template, made if it is not there. `generation`: of the set as its maker sees it.
    pub fn ensure(&mut self, set: &str, hash: &str, template: &Template, generation: i64) {
        self.since.entry((set.to_owned(), hash.to_owned())).or_insert((self.now, generation));
        let history = self.history.entry(set.to_owned()).or_default();
        let number = i64::try_from(history.len()).unwrap();
        history.entry(hash.to_owned()).or_insert_with(|| Revision {
            template: template.clone(),
            number,
            owner: None,
            custom_version: None,
        });
    }

    /// A user changes a set.
    pub fn edit(&mut self, set: &str, change: impl FnOnce(&mut SidecarSet)) {
        self.version += 1;
        self.churn += 1;
        let version = self.version;
        let Some(object) = self.sets.get_mut(set) else { return };
        let before = object.spec.clone();
        change(object);
        if before != object.spec {
            object.metadata.generation = object.metadata.generation.map(|generation| generation + 1);
        }
        object.metadata.resource_version = Some(version.to_string());
        self.set_watch.push_back(Arc::new(object.clone()));
    }

    /// The watch of pods breaks; its next connection lists.
    pub fn relist(&mut self) {
        let pods = self.pods.values().filter(|pod| pod.view.is_labelled());
        let listed: Vec<_> = pods.map(|pod| PodEvent::InitApply(Arc::clone(&pod.view))).collect();
        self.watch.clear();
        self.watch.push_back(PodEvent::Init);
        self.watch.extend(listed);
        self.watch.push_back(PodEvent::InitDone);
    }

    /// A list of the pods with our label, or of those without it that carry marks.
    pub fn marked(&self, labelled: bool) -> VecDeque<Arc<PodView>> {
        let pods = self.pods.values().map(|pod| &pod.view).filter(|view| view.is_labelled() == labelled);
        pods.filter(|view| labelled || !view.marks.is_empty()).cloned().collect()
    }

    pub fn get(&self, key: &PodKey) -> Option<Arc<PodView>> {
        self.pods.get(key).map(|pod| Arc::clone(&pod.view))
    }

    /// Carries a request out, as the apiserver does.
    pub fn serve(&mut self, body: &Body) -> Reply {
        match body {
            Body::Patch { set, patch, promise } => self.serve_patch(set, patch, promise),
            Body::Status { set, status } => {
                self.version += 1;
                let version = self.version.to_string();
                let Some(object) = self.sets.get_mut(set) else { return error(404, false) };
                object.status = Some((**status).clone());
                object.metadata.resource_version = Some(version);
                let object = object.clone();
                self.set_watch.push_back(Arc::new(object.clone()));
                Reply::Set(Box::new(object))
            }
        }
    }

    fn serve_patch(&mut self, set: &str, request: &PodPatch, promise: &Promise) -> Reply {
        let Some(pod) = self.pods.get(&request.key) else { return error(404, false) };
        let mut patched = pod.json.clone();
        if json_patch::patch(&mut patched, &request.patch).is_err() {
            return error(422, false);
        }
        let before = Arc::clone(&pod.view);
        let seen = pod.json["spec"] != patched["spec"];
        self.write(&request.key, |pod| {
            *pod = patched;
            if seen {
                pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap() + 1);
            }
        });
        self.say(|| format!("{} is patched to {} of {set}", request.key, promise.revision));
        self.judge_patch(set, &before, &request.key, promise);
        Reply::Pod(Arc::clone(&self.pods[&request.key].view))
    }
}

/// Every other pod is a canary.
fn tier(name: &str) -> &'static str {
    if name.ends_with(['1', '3', '5', '7']) { "canary" } else { "main" }
}

pub fn error(code: u16, named: bool) -> Reply {
    let details = if named { json!({"name": "pod", "kind": "Pod"}) } else { json!({}) };
    let details = serde_json::from_value(details).ok();
    Reply::Error(Box::new(Status { code, details, ..Status::default() }))
}

pub fn view(json: &Value) -> PodView {
    PodView::new(SlimPod::deserialize(json).unwrap())
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_millis(1_767_225_600_000 + millis)
}

/// The API keeps whole seconds.
pub fn second(millis: i64) -> String {
    at(millis - millis.rem_euclid(1000)).to_string()
}
