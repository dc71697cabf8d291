//! Pre-pulling: which nodes must have the new images before a sidecar on them is stopped, and what became of pulling them.
//!
//! The kubelet stops the old container first and pulls the new image afterwards, so a missing image costs the sidecar.
//! What is known is memory of the leader: a new one pulls again, which is cheap where the image is there already.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::base::time::after;
use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::checks::{has_image, to_restart};
use crate::core::rollout::target::{Direction, Target};

/// A pull that the next batch waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) set: String,
    /// Hash of the revision that has the images.
    pub(crate) revision: String,
    pub(crate) node: String,
    /// By image, the container of the pod that is to get it.
    pub(crate) images: BTreeMap<String, String>,
    /// A pod of the batch on this node: its namespace, pull secrets and service account are used.
    pub(crate) pod: PodKey,
    pub(crate) uid: String,
    /// Seconds after which a pull that is not finished has failed: `podUpdateTimeoutSeconds`.
    pub(crate) timeout_seconds: i32,
}

impl Pull {
    /// Whether both are the same work, for whichever pod.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let images = |pull: &Self| pull.images.keys().cloned().collect::<Vec<_>>();
        (&self.set, &self.revision, &self.node) == (&other.set, &other.revision, &other.node)
            && images(self) == images(other)
    }
}

/// What became of pulling one image on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PullResult {
    Pulled,
    /// It could not be pulled; the text says why. Tried again after `podUpdateTimeoutSeconds`.
    Failed(String),
    /// Nobody could try; the text says why. Pods are patched without.
    Skipped(String),
}

/// What is known of the pulls for the target of one set, by node, then by image.
#[derive(Debug, Default)]
pub struct PullResults(BTreeMap<String, BTreeMap<String, (PullResult, Timestamp)>>);

/// Whether a candidate may go, as far as the images on its node are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePull {
    pub(crate) node: String,
    pub(crate) state: PullState,
}

/// See [`NodePull`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullState {
    /// The node has the images, or nobody can pull them.
    Done,
    /// It has to pull first.
    Wanted,
    /// It could not pull.
    Failed {
        /// When it is tried again; `None` if it is by now.
        again_at: Option<Timestamp>,
    },
}

impl PullState {
    /// The node has to pull before the pod can go.
    pub(crate) fn must_pull(self) -> bool {
        matches!(self, Self::Wanted | Self::Failed { again_at: None })
    }
}

impl PullResults {
    /// What became of pulling an image on the node of `pull`; nothing if the set wants something else by now.
    pub(crate) fn note(&mut self, target: &Target, pull: &Pull, image: &str, outcome: PullResult, now: Timestamp) {
        if target.revision == pull.revision {
            self.0.entry(pull.node.clone()).or_default().insert(image.to_owned(), (outcome, now));
        }
    }

    /// What of it is still true for another target: nothing for another revision, and after a retry what has worked.
    pub(crate) fn for_target(mut self, old: &Target, new: &Target) -> Self {
        if old.revision != new.revision || !is_used(new) {
            return Self::default();
        }
        if old.retried_at != new.retried_at {
            for images in self.0.values_mut() {
                images.retain(|_, (outcome, _)| *outcome == PullResult::Pulled);
            }
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A node that is gone may come back without its images. True if something was known of it.
    pub(crate) fn forget_node(&mut self, node: &str) -> bool {
        self.0.remove(node).is_some()
    }

    /// What a candidate waits for; `None` for one that needs no pull.
    pub fn of(&self, pod: &PodView, target: &Target, now: Timestamp) -> Option<NodePull> {
        let node = pod.node.as_deref().filter(|_| is_used(target))?;
        let images = images_to_pull(pod, target, now);
        if images.is_empty() {
            return None;
        }
        let known = self.0.get(node);
        let outcomes: Vec<_> = images.keys().map(|image| known.and_then(|known| known.get(image))).collect();
        let timeout = SignedDuration::from_secs(target.strategy.pod_update_timeout_seconds.into());
        let failed = outcomes.iter().flatten().filter(|(outcome, _)| matches!(outcome, PullResult::Failed(_)));
        let state = match failed.map(|(_, at)| after(*at, timeout)).max() {
            Some(again_at) => PullState::Failed { again_at: Some(again_at).filter(|again_at| now < *again_at) },
            None if outcomes.contains(&None) => PullState::Wanted,
            None => PullState::Done,
        };
        Some(NodePull { node: node.to_owned(), state })
    }

    /// Why a node could not pull, for example `pull of agent:v2: ErrImagePull`.
    pub(crate) fn why_failed(&self, node: &str) -> String {
        let why = self.0.get(node).into_iter().flatten().find_map(|(image, (outcome, _))| match outcome {
            PullResult::Failed(why) => Some(format!("pull of {image}: {why}")),
            PullResult::Pulled | PullResult::Skipped(_) => None,
        });
        why.unwrap_or_default()
    }

    /// Why nobody could pull, and on how many nodes.
    pub(crate) fn skipped(&self) -> BTreeMap<&str, usize> {
        let mut skipped = BTreeMap::new();
        for images in self.0.values() {
            let reasons = images.values().filter_map(|(outcome, _)| match outcome {
                PullResult::Skipped(why) => Some(why.as_str()),
                PullResult::Pulled | PullResult::Failed(_) => None,
            });
            for why in reasons.collect::<BTreeSet<_>>() {
                *skipped.entry(why).or_default() += 1;
            }
        }
        skipped
    }
}

/// Only on the way to a new revision: the stable one has run on these nodes, and nothing may delay the way back.
pub(crate) fn is_used(target: &Target) -> bool {
    // A revision that was given up may be tried again: what is known of it is kept meanwhile.
    target.strategy.pre_pull && target.direction != Direction::Back && target.is_rolling()
}

/// Images that the pod lacks and that would replace a sidecar that is ready now, with the container that gets each. A
/// sidecar that is down gains nothing by waiting.
pub(crate) fn images_to_pull(pod: &PodView, target: &Target, now: Timestamp) -> BTreeMap<String, String> {
    let Some(mark) = pod.marks.get(&target.set) else { return BTreeMap::new() };
    let changed = target.sidecars.iter().filter(|sidecar| sidecar.long_running);
    let changed = changed.filter(|sidecar| !has_image(pod, mark, sidecar, target, now));
    let alive = changed.filter_map(|sidecar| {
        let container = to_restart(pod, mark, sidecar, target, now).ok()?;
        let alive = container.status.as_ref().is_some_and(|status| status.ready);
        alive.then(|| (sidecar.image.clone(), container.name.clone()))
    });
    alive.collect()
}
