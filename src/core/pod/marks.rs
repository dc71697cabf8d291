//! What sets write on a pod: which revision it has, what injection added, and the last update.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::keys;
use crate::core::base::resources::Resize;
use crate::core::base::shared::{Shared, text};
use crate::core::base::small_map::SmallMap;

/// What one set wrote on a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// What many pods have in common.
    pub(crate) shared: Arc<RevisionMark>,
    /// Annotation `update.sidecarset.dev/<set>`.
    pub update: Option<Update>,
    /// Annotation `injection.sidecarset.dev/<set>` of a canary set.
    pub(crate) canary: Option<Box<InjectionRecord>>,
}

/// Which revision a pod has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RevisionMark {
    /// Label `revision.sidecarset.dev/<set>`.
    pub revision: String,
    /// `hashWithoutImages` of the last update, or else of the injection; empty for pods of a release that did not write it.
    pub(crate) hash_without_images: String,
}

impl Deref for Mark {
    type Target = RevisionMark;

    fn deref(&self) -> &RevisionMark {
        &self.shared
    }
}

/// The annotation `injection.sidecarset.dev/<set>`: what this set added to the pod. What the pod had itself, such as an
/// equal volume, is not in it.
///
/// ```json
/// {"containers":["agent"],"initContainers":[],"volumes":["logs"],"annotations":["example.com/agent"]}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InjectionRecord {
    pub(crate) containers: Vec<String>,
    pub(crate) init_containers: Vec<String>,
    pub(crate) volumes: Vec<String>,
    /// Those of the volumes that are claims.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) claims: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) image_pull_secrets: Vec<String>,
    /// Keys of labels from `patchPodMetadata`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<String>,
    /// Keys of annotations from `patchPodMetadata`, those that hot-upgrade twins read, and `kubectl`'s default container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) annotations: Vec<String>,
    /// Annotations of the pod's own that `patchPodMetadata` has changed: what they were before.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) replaced: BTreeMap<String, String>,
    /// The working twin by container name, for example `{"agent":"agent-1"}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) hot: BTreeMap<String, String>,
    /// Base of a canary set: its pods are the base's when the canary goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resources: bool,
    /// [`Template::hash_without_images`](crate::core::revision::Template::hash_without_images) of the revision that was
    /// injected. Updates in place record theirs and leave this one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hash_without_images: String,
}

impl InjectionRecord {
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &String> {
        self.containers.iter().chain(&self.init_containers)
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The last in-place update of a set on a pod, written in the same request as the images.
///
/// ```json
/// {"revision":"7f9c…","at":"2026-01-01T00:00:00Z","wasReady":true,"generation":2,
///  "containers":{"agent":{"id":"containerd://…","restartCount":0,"image":"agent:1"}},"others":{"app":null}}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    pub(crate) revision: String,
    /// When the request was planned, by the operator's clock. It is part of the request, which is sent at most
    /// `PLAN_HOLDS` later: so the window is never longer than asked for.
    pub(crate) at: Timestamp,
    /// The pod was ready, or unready only because of an unfinished update before this one.
    pub was_ready: bool,
    /// `metadata.generation` that the request made, or an older one if somebody else changed the pod meanwhile; 0 if it is
    /// not known.
    #[serde(default)]
    pub(crate) generation: i64,
    /// The long-running containers whose image was changed, by name.
    pub(crate) containers: SmallMap<Arc<str>, Replaced>,
    /// When the containers that are not this set's had last ended, by the node's clock; null for never. Empty if the pod
    /// was not ready.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) others: SmallMap<Arc<str>, Option<Timestamp>>,
    /// [`Template::hash_without_images`](crate::core::revision::Template::hash_without_images) of the revision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) hash_without_images: String,
    /// The containers whose resources are changed by a request of its own after this one, by name.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) resizes: SmallMap<String, Resize>,
}

/// The container that an update replaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replaced {
    /// `containerID` at the time of the update, empty if it had never started.
    pub(crate) id: String,
    /// Its restart count then.
    pub(crate) restart_count: i32,
    /// The image that this container runs.
    #[serde(with = "text")]
    pub(crate) image: Arc<str>,
    /// It did not run then. What the kubelet says of it may be about an image before, until a new container runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) down: bool,
}

impl Replaced {
    /// The container was made with the pod, in no other's place.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Mark {
    /// Shares with other pods what they have in common.
    pub(crate) fn share(&mut self, revisions: &mut Shared<RevisionMark>, texts: &mut Shared<str>) {
        revisions.share(&mut self.shared);
        if let Some(update) = &mut self.update {
            update.containers.share(texts, |replaced, texts| texts.share(&mut replaced.image));
            update.others.share(texts, |_, _| ());
        }
    }
}

pub(crate) fn marks(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> SmallMap<Arc<str>, Mark> {
    suffixed(labels, keys::REVISION_PREFIX)
        .map(|(set, revision)| {
            let update: Option<Update> =
                annotations.get(&keys::update_annotation(set)).and_then(|text| serde_json::from_str(text).ok());
            let injection = annotations.get(&keys::injection_annotation(set)).map(String::as_str).unwrap_or_default();
            let hash = update
                .as_ref()
                .map_or_else(|| hash_without_images(injection), |update| update.hash_without_images.as_str())
                .to_owned();
            let shared = RevisionMark { revision: revision.clone(), hash_without_images: hash };
            (set, Mark { shared: Arc::new(shared), update, canary: canary(injection) })
        })
        .collect()
}

/// Members of a map whose keys have a prefix, without it.
pub(crate) fn suffixed<'a>(
    map: &'a BTreeMap<String, String>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a String)> {
    map.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

/// Out of a mark that is not worth decoding.
fn hash_without_images(text: &str) -> &str {
    let behind = text.split_once(r#""hashWithoutImages":""#).map(|(_, behind)| behind);
    behind.and_then(|behind| behind.split_once('"')).map_or("", |(hash, _)| hash)
}

/// Most marks are of no canary, and are not worth decoding.
fn canary(text: &str) -> Option<Box<InjectionRecord>> {
    let mark: InjectionRecord = text.contains("\"base\"").then(|| serde_json::from_str(text).ok())??;
    mark.base.is_some().then(|| Box::new(mark))
}
