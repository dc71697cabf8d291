//! A pod as upgrades see it: a slim projection, so that 100,000 pods fit into 250 megabytes (`make bench`).

pub(crate) mod kubelet;
mod marks;
pub(crate) mod readiness;
mod slim;
pub(crate) mod workload;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerState, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::api::image::Image;
use crate::api::keys;
use crate::api::qos::QosClass;
use crate::core::base::lists::List;
use crate::core::base::resources::{ResizeTrouble, Resources};
use crate::core::base::shared::Shared;
use crate::core::base::small_map::SmallMap;
use crate::core::base::text::bounded;
use crate::core::pod::marks::marks;
pub(crate) use crate::core::pod::marks::{InjectionRecord, Mark, Replaced, RevisionMark, Update, suffixed};
pub use crate::core::pod::slim::SlimPod;
use crate::core::pod::slim::{SlimContainer, SlimContainerStatus};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub(crate) namespace: String,
    /// Name of the pod.
    pub name: String,
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The controller of a pod; it is in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// For example `apps/v1`.
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Owner {
    /// The owner that controls the object, if one does.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let owners = metadata.owner_references.iter().flatten();
        let OwnerReference { api_version, kind, name, uid, .. } =
            owners.into_iter().find(|owner| owner.controller == Some(true))?.clone();
        Some(Self { api_version, kind, name, uid })
    }
}

/// A pod as the index keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Namespace and name.
    pub key: PodKey,
    /// Distinguishes a pod from a later one of the same name.
    pub uid: String,
    /// `metadata.resourceVersion` as a number; 0 if it is none. Larger is newer (KEP-5504).
    pub resource_version: u64,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status.observedGeneration`; absent below Kubernetes 1.34.
    pub observed_generation: Option<i64>,
    /// All labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// False if the pod has no annotations at all.
    pub has_annotations: bool,
    /// The controller that made it.
    pub owner: Option<Arc<Owner>>,
    /// Creation time.
    pub created: Timestamp,
    /// True from the moment the pod is asked to go.
    pub deleting: bool,
    /// `status.phase`, empty if unset.
    pub phase: Cow<'static, str>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.restartPolicy` is `Always`, or unset.
    pub restarts_always: bool,
    /// The pod's Ready condition, and since when it is what it is.
    pub ready: bool,
    /// See `ready`.
    pub ready_changed: Option<Timestamp>,
    /// Position of the Ready condition in `status.conditions`.
    pub ready_condition: Option<usize>,
    /// It has pod-level resources, `spec.resources`.
    pub has_resources: bool,
    /// What the kubelet says of a resize that is not done.
    pub resize: Option<Box<ResizeTrouble>>,
    /// All containers, init containers first, in the order of the spec.
    pub containers: Box<[ContainerView]>,
    /// What sets wrote on the pod, by set name.
    pub marks: SmallMap<Arc<str>, Mark>,
    /// Annotations `version.sidecarset.dev/<container>` of the twins of hot sidecars, by container.
    pub versions: SmallMap<String, u64>,
}

/// A container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerView {
    /// What the pod's spec says of it: the same in many pods.
    pub(crate) spec: Arc<ContainerSpec>,
    /// What the kubelet says about it.
    pub(crate) status: Option<ContainerStatus>,
}

impl Deref for ContainerView {
    type Target = ContainerSpec;

    fn deref(&self) -> &ContainerSpec {
        &self.spec
    }
}

/// What the pod's spec says of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerSpec {
    pub(crate) list: List,
    pub(crate) index: usize,
    pub(crate) name: String,
    /// `spec…image`.
    pub image: String,
    /// An init container that is no native sidecar.
    pub(crate) is_plain_init: bool,
    /// Seconds between two startup probes, if there is one. Kubernetes' default is 10.
    pub(crate) startup_period: Option<i32>,
    /// cpu and memory; `None` if none are named.
    pub(crate) resources: Option<Box<Resources>>,
    /// `resizePolicy` is `RestartContainer`: for cpu, for memory.
    pub(crate) restarts_on_resize: [bool; 2],
}

/// What the kubelet says about a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerStatus {
    pub(crate) index: usize,
    /// `containerID`, empty before the first start.
    pub(crate) id: String,
    pub(crate) ready: bool,
    /// It runs, and its startupProbe has not succeeded.
    pub(crate) is_starting: bool,
    /// Restarts, those we caused included.
    pub(crate) restart_count: i32,
    /// When the container started, if it runs.
    pub(crate) running_since: Option<Timestamp>,
    /// Reason why it waits, for example `ImagePullBackOff`.
    pub(crate) waiting: Option<String>,
    /// The message of that reason quotes the image of the spec. Also if there is no message.
    pub(crate) names_image: bool,
    /// Exit code of the last container that ended here, if it had ever run.
    pub(crate) exit_code: Option<i32>,
    /// When it ended.
    pub(crate) ended_at: Option<Timestamp>,
    /// The container has the resources of its spec; `None` if the kubelet does not say which it has.
    pub(crate) has_resources: Option<bool>,
}

#[derive(Debug, Default)]
pub(crate) struct Common {
    labels: Shared<BTreeMap<String, String>>,
    owners: Shared<Owner>,
    containers: Shared<ContainerSpec>,
    revisions: Shared<RevisionMark>,
    texts: Shared<str>,
}

impl PodView {
    /// Shares with other pods what they have in common.
    pub(crate) fn share(&mut self, common: &mut Common) {
        common.labels.share(&mut self.labels);
        if let Some(owner) = &mut self.owner {
            common.owners.share(owner);
        }
        if let Some(node) = &mut self.node {
            common.texts.share(node);
        }
        self.marks.share(&mut common.texts, |mark, texts| mark.share(&mut common.revisions, texts));
        for container in &mut self.containers {
            common.containers.share(&mut container.spec);
        }
    }

    /// Projects a pod. Annotations of sets that cannot be read are left out, as if they were not there.
    pub fn new(pod: SlimPod) -> Self {
        let SlimPod { metadata, spec, status } = pod;
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let owner = Owner::of(&metadata).map(Arc::new);
        let labels = metadata.labels.unwrap_or_default();
        let annotations = metadata.annotations.unwrap_or_default();
        Self {
            owner,
            key: PodKey { namespace: metadata.namespace.unwrap_or_default(), name: metadata.name.unwrap_or_default() },
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0),
            generation: metadata.generation.unwrap_or(0),
            observed_generation: status.observed_generation,
            created: metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: metadata.deletion_timestamp.is_some(),
            phase: phase(status.phase.unwrap_or_default()),
            node: spec.node_name.map(Arc::from),
            has_resources: spec.resources.is_some(),
            resize: status.conditions.iter().find_map(resize_trouble),
            restarts_always: spec.restart_policy.is_none_or(|policy| policy == "Always"),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            ready_condition: status.conditions.iter().position(|condition| condition.type_ == "Ready"),
            ready_changed: ready.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0),
            marks: marks(&labels, &annotations),
            versions: suffixed(&annotations, keys::VERSION_PREFIX)
                .filter_map(|(container, version)| Some((container, version.parse().ok()?)))
                .collect(),
            has_annotations: !annotations.is_empty(),
            labels: Arc::new(labels),
            containers: containers(List::Init, spec.init_containers, &status.init_container_statuses)
                .chain(containers(List::Ordinary, spec.containers, &status.container_statuses))
                .collect(),
        }
    }

    /// A node whose clock is ahead tells of what happens later than now. It has happened when it was first seen: `before` is
    /// the pod as it was then.
    pub(crate) fn set_clock(&mut self, before: Option<&Self>, now: Timestamp) {
        let before = before.filter(|before| before.uid == self.uid);
        if let Some(changed) = self.ready_changed.as_mut().filter(|at| **at > now) {
            let same = before.filter(|before| before.ready == self.ready);
            *changed = same.and_then(|before| before.ready_changed).unwrap_or(now);
        }
        for container in &mut self.containers {
            let Some(status) = &mut container.status else { continue };
            let Some(since) = status.running_since.as_mut().filter(|at| **at > now) else { continue };
            let known = before.and_then(|before| before.container(&container.spec.name)?.status.as_ref());
            let same = known.filter(|known| known.id == status.id);
            *since = same.and_then(|known| known.running_since).unwrap_or(now);
        }
    }

    /// Neither ended nor asked to go.
    pub fn is_active(&self) -> bool {
        !self.deleting && !matches!(&*self.phase, "Succeeded" | "Failed")
    }

    /// A plain init container has run its course, or the pod is past all of them: the image in its spec means nothing.
    pub(crate) fn is_past(&self, container: &ContainerView) -> bool {
        let has_started = |other: &ContainerView| {
            other.list == List::Ordinary && other.status.as_ref().is_some_and(|status| !status.id.is_empty())
        };
        let ended_well = container.status.as_ref().is_some_and(|status| {
            status.exit_code == Some(0) && status.running_since.is_none() && status.waiting.is_none()
        });
        container.is_plain_init && (ended_well || self.containers.iter().any(has_started))
    }

    /// A kubelet has it, and says so: a node name alone can be written by anybody.
    pub(crate) fn has_begun(&self) -> bool {
        let is_reported = self.node.is_some() && self.containers.iter().any(|container| container.status.is_some());
        self.phase == "Running" || is_reported
    }

    /// It has the label that the watch of pods selects by.
    pub fn is_labelled(&self) -> bool {
        self.labels.get(keys::INJECTED).is_some_and(|value| value == "true")
    }

    /// The kubelet has seen this generation of the pod, as far as it says. A request of which admission made no change has
    /// none of its own: the mark that says it comes in one object with the pod's.
    pub(crate) fn has_seen(&self, generation: i64) -> bool {
        self.observed_generation.is_none_or(|observed| observed >= generation.min(self.generation))
    }

    /// Those that keep the pod from being ready.
    pub(crate) fn unready_containers(&self) -> impl Iterator<Item = &ContainerView> {
        let is_unready = |container: &&ContainerView| container.status.as_ref().is_some_and(|status| !status.ready);
        self.containers.iter().filter(is_unready)
    }

    /// Of this name.
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The `QoS` class that its containers give it, each with the resources that `resources` says.
    pub(crate) fn class<'a>(&'a self, resources: impl Fn(&'a ContainerView) -> Option<&'a Resources>) -> QosClass {
        let nothing = Resources::default();
        QosClass::of(self.containers.iter().flat_map(|container| resources(container).unwrap_or(&nothing).for_qos()))
    }

    pub(crate) fn restarts(&self) -> i32 {
        self.containers.iter().filter_map(|c| c.status.as_ref()).map(|status| status.restart_count).sum()
    }
}

/// Most pods run.
fn phase(phase: String) -> Cow<'static, str> {
    if phase == "Running" { Cow::Borrowed("Running") } else { Cow::Owned(phase) }
}

fn containers(
    list: List,
    containers: Vec<SlimContainer>,
    statuses: &[SlimContainerStatus],
) -> impl Iterator<Item = ContainerView> {
    containers.into_iter().enumerate().map(move |(index, container)| ContainerView {
        status: statuses
            .iter()
            .enumerate()
            .find(|(_, status)| status.name == container.name)
            .map(|(index, status)| container_status(index, status, &container)),
        spec: Arc::new(ContainerSpec {
            list,
            index,
            is_plain_init: list == List::Init && container.restart_policy.as_deref() != Some("Always"),
            restarts_on_resize: ["cpu", "memory"].map(|name| restarts_on_resize(&container, name)),
            startup_period: container.startup_probe.as_ref().map(|probe| probe.period_seconds.unwrap_or(10)),
            resources: (container.resources != Resources::default()).then(|| Box::new(container.resources)),
            name: container.name,
            image: container.image.unwrap_or_default(),
        }),
    })
}

fn restarts_on_resize(container: &SlimContainer, resource: &str) -> bool {
    let mut policies = container.resize_policy.iter().filter(|policy| policy.resource_name == resource);
    policies.any(|policy| policy.restart_policy == "RestartContainer")
}

fn resize_trouble(condition: &PodCondition) -> Option<Box<ResizeTrouble>> {
    let reason = condition.reason.as_deref().filter(|_| condition.status == "True")?;
    let message = condition.message.clone().unwrap_or_default();
    let is_trouble = match condition.type_.as_str() {
        "PodResizePending" => true,
        "PodResizeInProgress" => reason == "Error",
        _ => false,
    };
    is_trouble.then(|| Box::new(ResizeTrouble { reason: bounded(reason.to_owned()), message: bounded(message) }))
}

fn container_status(index: usize, status: &SlimContainerStatus, container: &SlimContainer) -> ContainerStatus {
    let ContainerState { running, terminated, waiting } = &status.state;
    let message = waiting.as_ref().and_then(|waiting| waiting.message.as_ref());
    let image = container.image.as_deref().unwrap_or_default();
    let ended = terminated.as_ref().or(status.last_state.terminated.as_ref());
    // A kubelet that ends while it starts a container leaves exit code 128, `StartError`, of one started in 1970.
    let ended = ended.filter(|ended| ended.started_at.as_ref().is_none_or(|at| at.0 != Timestamp::UNIX_EPOCH));
    ContainerStatus {
        index,
        id: status.container_id.clone().unwrap_or_default(),
        ready: status.ready,
        is_starting: status.started == Some(false) && running.is_some(),
        restart_count: status.restart_count,
        running_since: running
            .as_ref()
            .map(|running| running.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)),
        waiting: waiting.as_ref().and_then(|waiting| waiting.reason.clone()).map(bounded),
        names_image: message.is_none_or(|message| names(message, image)),
        exit_code: ended.map(|ended| ended.exit_code),
        ended_at: ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0),
        has_resources: status.resources.as_ref().map(|actual| container.resources.are_applied(actual)),
    }
}

/// Whether a message about a pull may be about this image: it quotes the image, or none. Kubelets quote what the spec says
/// (`Back-off pulling image "agent:v2"`), containerd the whole name, with the digest in place of the tag if there are both
/// (`failed to pull and unpack image "docker.io/library/agent:latest": not found`), and a kubelet names it without quotes where
/// it explains why (`image pull failed for agent:v2 because the registry is unavailable`). Others name none.
fn names(message: &str, image: &str) -> bool {
    let Image { name, digest, .. } = Image::parse(image);
    let tag = Image::parse(image).pulled_tag().unwrap_or_default();
    let quoted = |reference: String| {
        message.contains(&format!("{reference}\"")) || message.contains(&format!("{reference} because "))
    };
    !(message.contains('"') || message.contains(" because "))
        || quoted(image.to_owned())
        || digest.map_or_else(|| quoted(format!("{name}:{tag}")), |digest| quoted(format!("{name}@{digest}")))
}

/// Kubelets from 1.32 on restart a native sidecar for a new image (kubernetes#126525). `None`: not a version.
pub(crate) fn restarts_native_sidecars(kubelet: &str) -> Option<bool> {
    let mut parts = kubelet.trim_start_matches('v').split('.');
    let mut number = || parts.next()?.parse::<u32>().ok();
    Some((number()?, number()?) >= (1, 32))
}

#[cfg(test)]
mod tests {
    use super::{names, restarts_native_sidecars};

    #[test]
    fn a_message_names_an_image_as_the_spec_or_the_runtime_writes_it() {
        let about = |image: &str| format!("failed to pull and unpack image \"{image}\": not found");
        for (message, image, expected) in [
            (about("agent:v2"), "agent:v2", true),
            (about("docker.io/library/agent:v2"), "agent:v2", true),
            (about("docker.io/library/agent:latest"), "agent", true),
            (about("r.test:5000/agent:latest"), "r.test:5000/agent", true),
            (about("r.test/agent@sha256:1"), "r.test/agent:v2@sha256:1", true),
            ("reading manifest v2 in r.test/agent: manifest unknown".to_owned(), "r.test/agent:v2", true),
            (about("agent:v20"), "agent:v2", false),
            (about("agent:v1"), "agent", false),
        ] {
            assert_eq!(names(&message, image), expected, "{message} {image}");
        }
    }

    #[test]
    fn kubelets_from_1_32_on_restart_native_sidecars() {
        for (version, expected) in [
            ("v1.32.0", Some(true)),
            ("v1.31.14", Some(false)),
            ("v2.0.1", Some(true)),
            ("1.36.3+k3s1", Some(true)),
            ("", None),
        ] {
            assert_eq!(restarts_native_sidecars(version), expected, "{version}");
        }
    }
}
