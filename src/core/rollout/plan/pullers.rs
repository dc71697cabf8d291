//! The pods that pull: what they look like, what their status says, and which of them are there.
//!
//! A puller names a command that no image has: the kubelet pulls the image, fails to start the container, and nothing of
//! the image ever runs. That failure proves the pull. It works on every version of Kubernetes and with every runtime;
//! image volumes would need both to be new.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::keys;
use crate::core::base::text::bounded;
use crate::core::base::time::after;
use crate::core::pod::PodKey;
use crate::core::pod::kubelet::{CRASH_LOOP, is_not_pulled, is_not_started};
use crate::core::rollout::state::pulls::{Outcome, Pull};

/// A command that does not exist; its name is for who finds it in an event.
const NOTHING: &str = "/sidecarset.dev/pre-pull-runs-nothing";

/// User of a puller, which Pod Security "restricted" wants not to be root: `nobody`.
const NOBODY: i64 = 65534;

/// What the kubelet calls a container that was not there when its pod ended: it may never have been made.
const NEVER_SEEN: &str = "ContainerStatusUnknown";

/// A puller that is in no list for this long after its creation is gone.
const GONE: SignedDuration = SignedDuration::from_secs(10);

/// Pullers that vanish from a node before it is skipped.
const TRIES: usize = 3;

const TOO_SLOW: &str = "not finished by podUpdateTimeoutSeconds";

/// The fields of a puller that are decoded.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Pod")]
pub(crate) struct PullerPod {
    /// Its labels name the set.
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    spec: PullerSpec,
    #[serde(default)]
    status: PullerStatus,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct PullerSpec {
    containers: Vec<PullerContainer>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct PullerContainer {
    name: String,
    image: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct PullerStatus {
    phase: String,
    reason: String,
    container_statuses: Vec<ContainerStatus>,
}

impl PullerPod {
    /// Namespace and name.
    pub(crate) fn key(&self) -> PodKey {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        PodKey { namespace: text(&self.metadata.namespace), name: text(&self.metadata.name) }
    }

    /// Its UID.
    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// What became of its images; empty while that is open.
    fn outcomes(&self, is_late: bool) -> Vec<(String, Outcome)> {
        let states: Vec<(&String, Option<Outcome>)> =
            self.spec.containers.iter().map(|container| (&container.image, self.outcome(&container.name))).collect();
        let all_pulled = states.iter().all(|(_, outcome)| *outcome == Some(Outcome::Pulled));
        let any_failed = states.iter().any(|(_, outcome)| matches!(outcome, Some(Outcome::Failed(_))));
        let rest = match self.status.phase.as_str() {
            _ if all_pulled || any_failed => None,
            "Failed" if self.status.reason != "DeadlineExceeded" => {
                Some(Outcome::Skipped(bounded(format!("the node refuses the puller: {}", self.status.reason))))
            }
            "Failed" => Some(Outcome::Failed(TOO_SLOW.to_owned())),
            _ if is_late => Some(Outcome::Failed(TOO_SLOW.to_owned())),
            _ => return Vec::new(),
        };
        states.into_iter().filter_map(|(image, outcome)| Some((image.clone(), outcome.or(rest.clone())?))).collect()
    }

    fn outcome(&self, container: &str) -> Option<Outcome> {
        let status = self.status.container_statuses.iter().find(|status| status.name == container)?;
        let state = status.state.as_ref()?;
        let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        let ended = state.terminated.as_ref().is_some_and(|end| end.reason.as_deref() != Some(NEVER_SEEN));
        if is_not_pulled(waits) {
            return Some(Outcome::Failed(waits.to_owned()));
        }
        let tried = ended || state.running.is_some() || is_not_started(waits) || waits == CRASH_LOOP;
        tried.then_some(Outcome::Pulled)
    }
}

/// The puller for a pod of the batch as it is in the API; or why there can be none.
///
/// # Errors
/// The reason to skip pre-pulling, for people.
pub(crate) fn puller(pull: &Pull, pod: &Pod) -> Result<Pod, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    // Users and capabilities are Linux'; a puller without them may be refused by policy, and one with them by Windows.
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err("a Windows pod".to_owned());
    }
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers: Vec<Value> = (pull.images.iter().enumerate())
        .map(|(i, (image, name))| {
            // Of the running container: a patch cannot change it. With Never the puller tells whether the image is there.
            let policy = all().find(|container| container.name == *name).and_then(|c| c.image_pull_policy.clone());
            json!({
                "name": format!("pull-{i}"), "image": image, "imagePullPolicy": policy, "command": [NOTHING],
                "resources": {"requests": {"cpu": "0", "memory": "0", "ephemeral-storage": "0"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                },
            })
        })
        .collect();
    let puller = json!({
        "metadata": {
            "generateName": format!("{}-pull-", pull.set),
            "namespace": pull.pod.namespace,
            "labels": {keys::INJECT: "false", keys::PULLS_FOR: pull.set, keys::PULLS_REVISION: pull.revision},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": pull.pod.name, "uid": pull.uid,
                "controller": false, "blockOwnerDeletion": false,
            }],
        },
        "spec": {
            // Past the scheduler: the node of the pod, and whatever taints it has.
            "nodeName": pull.node, "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never", "activeDeadlineSeconds": pull.timeout_seconds.max(1),
            "serviceAccountName": spec.service_account_name, "imagePullSecrets": spec.image_pull_secrets,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": NOBODY, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": containers,
        },
    });
    serde_json::from_value(puller).map_err(|error| error.to_string())
}

/// Why the apiserver refused a puller, without what differs from one to the next: its name, and how full a quota is.
pub(crate) fn refusal(message: &str, namespace: &str) -> String {
    if message.contains("cannot create resource") {
        return format!("the operator may not create pods in {namespace}");
    }
    let why = message.split_once(" is forbidden: ").map_or(message, |(_, why)| why);
    bounded(why.split_once(", requested: ").map_or(why, |(quota, _)| quota).to_owned())
}

/// The pullers that this leader made. Others with the label are leftovers, or somebody's: what they say counts nothing.
#[derive(Debug, Default)]
pub(crate) struct Pullers {
    /// By UID.
    open: BTreeMap<String, Open>,
    /// How many vanished, by set and node.
    vanished: BTreeMap<(String, String), usize>,
}

#[derive(Debug)]
struct Open {
    pull: Pull,
    created: Timestamp,
    seen: bool,
}

/// What to do about pullers.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// What was found out, by image.
    pub(crate) results: Vec<(Pull, String, Outcome)>,
    /// Pullers to make.
    pub(crate) create: Vec<Pull>,
    /// Pullers to delete, with their UIDs.
    pub(crate) delete: Vec<(PodKey, String)>,
}

impl Pullers {
    /// No puller is known to be there.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes note of a puller that was made.
    pub(crate) fn created(&mut self, pull: Pull, uid: String, now: Timestamp) {
        self.open.insert(uid, Open { pull, created: now, seen: false });
    }

    /// Decides what to do, if `wanted` is what plans wait for and `listed` are all pods with the label. A list may be
    /// older than the last creations and deletions.
    pub(crate) fn step(&mut self, wanted: &[Pull], listed: &[PullerPod], now: Timestamp) -> Step {
        let mut step = Step::default();
        for pod in listed {
            let finished = match self.open.get_mut(pod.uid()) {
                Some(open) => {
                    open.seen = true;
                    let timeout = SignedDuration::from_secs(open.pull.timeout_seconds.into());
                    let outcomes = pod.outcomes(now >= after(open.created, timeout));
                    let unwanted = !wanted.iter().any(|pull| pull.is_same(&open.pull));
                    let finished = unwanted || !outcomes.is_empty();
                    let results = outcomes.into_iter().map(|(image, outcome)| (open.pull.clone(), image, outcome));
                    step.results.extend(results);
                    finished
                }
                None => true,
            };
            if finished && pod.metadata.deletion_timestamp.is_none() {
                step.delete.push((pod.key(), pod.uid().to_owned()));
            }
            if finished {
                self.open.remove(pod.uid());
            }
        }
        self.forget_vanished(listed, now, &mut step);
        let is_wanted = |set: &str, node: &str| wanted.iter().any(|pull| pull.set == set && pull.node == node);
        self.vanished.retain(|(set, node), _| is_wanted(set, node));
        let decided = |pull: &Pull| step.results.iter().any(|(done, _, _)| done.is_same(pull));
        let open = |pull: &Pull| self.open.values().any(|open| open.pull.is_same(pull));
        step.create = wanted.iter().filter(|pull| !decided(pull) && !open(pull)).cloned().collect();
        step
    }

    /// Somebody else deletes pullers: that must not go on for ever.
    fn forget_vanished(&mut self, listed: &[PullerPod], now: Timestamp, step: &mut Step) {
        let is_gone = |uid: &String, open: &Open| {
            listed.iter().all(|pod| pod.uid() != uid) && (open.seen || now >= after(open.created, GONE))
        };
        let gone: Vec<String> =
            self.open.iter().filter(|(uid, open)| is_gone(uid, open)).map(|(uid, _)| uid.clone()).collect();
        for Open { pull, .. } in gone.iter().filter_map(|uid| self.open.remove(uid)).collect::<Vec<_>>() {
            let times = self.vanished.entry((pull.set.clone(), pull.node.clone())).or_default();
            *times += 1;
            if *times == TRIES {
                *times = 0;
                let skipped = |image: &String| {
                    let why = format!("pullers in {} are deleted by something else", pull.pod.namespace);
                    (pull.clone(), image.clone(), Outcome::Skipped(why))
                };
                step.results.extend(pull.images.keys().map(skipped));
            }
        }
    }
}
