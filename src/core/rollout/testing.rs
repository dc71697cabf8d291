//! Pods and rollouts for tests, and a kubelet that obeys.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::SidecarSet;
use crate::api::validate::validate;
use crate::core::pod::{PodKey, PodView, SlimPod};
use crate::core::revision::Template;
use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::plan::{Report, begin_batch, report};
use crate::core::rollout::request::PodPatch;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::Pull;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::{PersistedProgress, Rollout};

pub(crate) const SET: &str = "logs";

/// Time zero of all tests plus some seconds.
pub(crate) fn at(seconds: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

pub fn set(image: &str, update_strategy: Value) -> SidecarSet {
    serde_json::from_value(json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": SET, "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": image}],
            "updateStrategy": update_strategy,
        }
    }))
    .unwrap()
}

pub fn hash(image: &str) -> String {
    Template::of(&set(image, json!({})).spec).hash(0)
}

impl Index {
    /// Where a pod stands in the rollout of a set; `None` if it does not belong to the set.
    pub(crate) fn state(&self, set: &str, pod: &PodKey) -> Option<&PodState> {
        Some(&self.set(set)?.assessment(pod)?.state)
    }
}

/// A rollout to `image`, from images `v1`, `v2`, `v3` and `bad`.
pub(crate) fn target(image: &str, update_strategy: Value) -> Target {
    let known: BTreeMap<String, Template> = ["v1", "v2", "v3", "bad"]
        .map(|image| Template::of(&set(image, json!({})).spec))
        .map(|template| (template.hash(0), template))
        .into();
    let set = set(image, update_strategy);
    let template = Template::of(&set.spec);
    Target::new(&validate(&set).unwrap(), (&template.hash(0), &template), &known, None)
}

/// The same as a rollout of which nothing is persisted.
pub fn rollout(image: &str, update_strategy: Value) -> Rollout {
    let target = Target { started_at: Some(at(0)), ..target(image, update_strategy) };
    Rollout {
        update_revision: target.revision.clone(),
        target,
        persisted: PersistedProgress::default(),
        way_back: None,
        aborted_because: None,
        stray_approval: None,
        next_retry: String::new(),
    }
}

/// What a round decides, and what it would tell if its requests were not sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) patches: Vec<PodPatch>,
    pub(crate) summary: Summary,
    pub(crate) pulls: Vec<Pull>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// The next batch of a set.
pub(crate) fn planned(
    index: &mut Index,
    set: &str,
    persisted: &PersistedProgress,
    now: Timestamp,
    limit: usize,
) -> Plan {
    let patches = begin_batch(index, set, persisted, now, limit);
    let Report { summary, pulls, wake_at } = report(index, set, persisted, now);
    Plan { patches, summary, pulls, wake_at }
}

/// Takes the hash without images out of the mark of injection: an update in place leaves it as it was.
pub(crate) fn remove_hash_without_images(metadata: &mut Value, set: &str) {
    let text = &mut metadata["annotations"][crate::api::keys::injection_annotation(set)];
    let mut mark: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    mark.as_object_mut().unwrap().remove("hashWithoutImages");
    *text = json!(mark.to_string());
}

/// A pod in the cluster, as JSON: patches are applied to it as the apiserver does.
#[derive(Clone, Debug)]
pub(crate) struct TestPod(pub(crate) Value);

impl TestPod {
    /// A ready pod that was born with `v1`.
    pub fn new(name: &str) -> Self {
        let started = at(-1000).to_string();
        let status = |name: &str| {
            json!({"name": name, "containerID": format!("c://{name}-0"), "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": started}}})
        };
        Self(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1", "generation": 1,
                "creationTimestamp": started,
                "labels": {"app": "web", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/logs": hash("v1")},
                "annotations": {"injection.sidecarset.dev/logs": "{\"containers\":[\"agent\"]}"},
            },
            "spec": {"nodeName": "n", "containers": [{"name": "agent", "image": "v1"}, {"name": "app", "image": "app"}]},
            "status": {
                "phase": "Running", "observedGeneration": 1,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": started}],
                "containerStatuses": [status("agent"), status("app")],
            }
        }))
    }

    pub(crate) fn view(&self) -> PodView {
        PodView::new(serde_json::from_value::<SlimPod>(self.0.clone()).unwrap())
    }

    pub(crate) fn resource_version(&self) -> u64 {
        self.0["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    /// Changes the pod. As the apiserver does, counts its resourceVersion up, and its generation if the spec has changed.
    pub(crate) fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let (spec, generation) = (self.0["spec"].clone(), self.0["metadata"]["generation"].clone());
        edit(&mut self.0);
        if self.0["spec"] != spec && self.0["metadata"]["generation"] == generation {
            self.0["metadata"]["generation"] = json!(generation.as_i64().unwrap_or(0) + 1);
        }
        self.0["metadata"]["resourceVersion"] = json!((self.resource_version() + 1).to_string());
    }

    pub(crate) fn with(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        self.edit(edit);
        self
    }

    /// Applies a patch as the apiserver does; `false` if a `test` failed.
    pub(crate) fn patch(&mut self, patch: &json_patch::Patch) -> bool {
        let mut patched = self.0.clone();
        if json_patch::patch(&mut patched, patch).is_err() {
            return false;
        }
        self.edit(|pod| *pod = patched);
        true
    }

    pub(crate) fn image(&self) -> &str {
        self.0["spec"]["containers"][0]["image"].as_str().unwrap()
    }

    /// The kubelet replaces the sidecar; a `bad` image cannot be pulled.
    pub(crate) fn kubelet(&mut self, now: Timestamp) {
        let image = self.image().to_owned();
        self.edit(|pod| {
            pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
            let agent = &mut pod["status"]["containerStatuses"][0];
            if image == "bad" {
                agent["ready"] = json!(false);
                agent["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
            } else {
                let restarts = agent["restartCount"].as_i64().unwrap() + 1;
                agent["restartCount"] = json!(restarts);
                agent["containerID"] = json!(format!("c://agent-{restarts}"));
                agent["ready"] = json!(true);
                agent["state"] = json!({"running": {"startedAt": now.to_string()}});
            }
        });
        self.ready(image != "bad", now);
    }

    pub(crate) fn ready(&mut self, ready: bool, now: Timestamp) {
        self.edit(|pod| {
            let condition = &mut pod["status"]["conditions"][0];
            let value = json!(if ready { "True" } else { "False" });
            if condition["status"] != value {
                condition["status"] = value;
                condition["lastTransitionTime"] = json!(now.to_string());
            }
        });
    }
}
