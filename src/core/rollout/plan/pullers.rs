//! The pods that pull: what they look like, what their status says, and which of them are there.
//!
//! A puller names a command that no image has: the kubelet pulls the image, fails to start the container, and nothing of
//! the image ever runs. That failure proves the pull. It works on every version of Kubernetes and with every runtime;
//! image volumes would need both to be new.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::keys;
use crate::core::base::text::bounded;
use crate::core::base::time::{after, seconds};
use crate::core::pod::PodKey;
use crate::core::pod::kubelet::{CRASH_LOOP, is_not_pulled, is_not_started};
use crate::core::rollout::state::pulls::{Pull, PullResult};

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

/// What became of a puller's images; empty while that is open.
fn outcomes(puller: &Pod, is_late: bool) -> Vec<(String, PullResult)> {
    let status = puller.status.clone().unwrap_or_default();
    let statuses = status.container_statuses.unwrap_or_default();
    let of = |name: &str| statuses.iter().find(|status| status.name == name).and_then(container_outcome);
    let containers = puller.spec.iter().flat_map(|spec| &spec.containers);
    let images: Vec<(String, Option<PullResult>)> =
        containers.map(|container| (container.image.clone().unwrap_or_default(), of(&container.name))).collect();
    let all_pulled = images.iter().all(|(_, outcome)| *outcome == Some(PullResult::Pulled));
    let any_failed = images.iter().any(|(_, outcome)| matches!(outcome, Some(PullResult::Failed(_))));
    let (has_failed, reason) = (status.phase.as_deref() == Some("Failed"), status.reason.unwrap_or_default());
    let rest = match () {
        () if all_pulled || any_failed => None,
        () if has_failed && reason != "DeadlineExceeded" => {
            Some(PullResult::Skipped(bounded(format!("the node refuses the puller: {reason}"))))
        }
        () if has_failed || is_late => Some(PullResult::Failed(TOO_SLOW.to_owned())),
        () => return Vec::new(),
    };
    images.into_iter().filter_map(|(image, outcome)| Some((image, outcome.or(rest.clone())?))).collect()
}

fn container_outcome(status: &ContainerStatus) -> Option<PullResult> {
    let state = status.state.as_ref()?;
    let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let ended = state.terminated.as_ref().is_some_and(|end| end.reason.as_deref() != Some(NEVER_SEEN));
    if is_not_pulled(waits) {
        return Some(PullResult::Failed(waits.to_owned()));
    }
    let tried = ended || state.running.is_some() || is_not_started(waits) || waits == CRASH_LOOP;
    tried.then_some(PullResult::Pulled)
}

fn uid(puller: &Pod) -> &str {
    puller.metadata.uid.as_deref().unwrap_or_default()
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

#[derive(Debug, Default)]
pub(crate) struct PullerStep {
    /// What was found out, by image.
    pub(crate) results: Vec<(Pull, String, PullResult)>,
    pub(crate) create: Vec<Pull>,
    /// Pullers to delete, with their UIDs.
    pub(crate) delete: Vec<(PodKey, String)>,
}

impl Pullers {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(crate) fn created(&mut self, pull: Pull, uid: String, now: Timestamp) {
        self.open.insert(uid, Open { pull, created: now, seen: false });
    }

    /// Decides what to do, if `wanted` is what plans wait for and `listed` are all pods with the label. A list may be
    /// older than the last creations and deletions.
    pub(crate) fn step(&mut self, wanted: &[Pull], listed: &[Pod], now: Timestamp) -> PullerStep {
        let mut step = PullerStep::default();
        for pod in listed {
            if let Some(open) = self.open.get_mut(uid(pod)) {
                open.seen = true;
                let outcomes = outcomes(pod, now >= after(open.created, seconds(open.pull.timeout_seconds)));
                if outcomes.is_empty() && wanted.iter().any(|pull| pull.is_same(&open.pull)) {
                    continue;
                }
                let result = |(image, outcome)| (open.pull.clone(), image, outcome);
                step.results.extend(outcomes.into_iter().map(result));
                self.open.remove(uid(pod));
            }
            if pod.metadata.deletion_timestamp.is_none() {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                let key = PodKey { namespace: text(&pod.metadata.namespace), name: text(&pod.metadata.name) };
                step.delete.push((key, uid(pod).to_owned()));
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
    fn forget_vanished(&mut self, listed: &[Pod], now: Timestamp, step: &mut PullerStep) {
        let is_gone = |of: &String, open: &mut Open| {
            listed.iter().all(|pod| uid(pod) != of) && (open.seen || now >= after(open.created, GONE))
        };
        for (_, Open { pull, .. }) in self.open.extract_if(.., is_gone) {
            let times = self.vanished.entry((pull.set.clone(), pull.node.clone())).or_default();
            *times += 1;
            if *times == TRIES {
                *times = 0;
                let skipped = |image: &String| {
                    let why = format!("pullers in {} are deleted by something else", pull.pod.namespace);
                    (pull.clone(), image.clone(), PullResult::Skipped(why))
                };
                step.results.extend(pull.images.keys().map(skipped));
            }
        }
    }
}
