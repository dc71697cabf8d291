//! What became of pulling images before pods are patched: memory of the leader. A new one pulls again, which is cheap where
//! the image is there already.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::PodKey;
use crate::core::rollout::target::{Direction, Target};

/// A pull that the next batch waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Name of the set.
    pub set: String,
    /// Hash of the revision that has the images.
    pub revision: String,
    /// Where to pull.
    pub node: String,
    /// By image, the container of the pod that is to get it.
    pub images: BTreeMap<String, String>,
    /// A pod of the batch on this node: its namespace, pull secrets and service account are used.
    pub pod: PodKey,
    /// Its UID.
    pub uid: String,
    /// Seconds after which a pull that is not finished has failed: `podUpdateTimeoutSeconds`.
    pub timeout_seconds: i32,
}

impl Pull {
    /// Whether both are the same work, for whichever pod.
    pub fn is_same(&self, other: &Self) -> bool {
        let images = |pull: &Self| pull.images.keys().cloned().collect::<Vec<_>>();
        (&self.set, &self.revision, &self.node) == (&other.set, &other.revision, &other.node)
            && images(self) == images(other)
    }
}

/// What became of pulling one image on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node has it.
    Pulled,
    /// It could not be pulled; the text says why. Tried again after `podUpdateTimeoutSeconds`.
    Failed(String),
    /// Nobody could try; the text says why. Pods are patched without.
    Skipped(String),
}

/// What is known of the pulls of one set's revision: memory of the leader. A new one pulls again, which is cheap where
/// the image is there already.
#[derive(Debug, Default)]
pub(crate) struct PullResults {
    pub(crate) revision: String,
    retried_at: Option<Timestamp>,
    /// By node, then by image.
    pub(crate) nodes: BTreeMap<String, BTreeMap<String, (Outcome, Timestamp)>>,
}

impl PullResults {
    /// What became of pulling an image on the node of `pull`; nothing if the set wants something else by now.
    pub(crate) fn note(&mut self, target: &Target, pull: &Pull, image: &str, outcome: Outcome, now: Timestamp) {
        if target.revision != pull.revision {
            return;
        }
        if self.revision != pull.revision {
            *self = Self { revision: pull.revision.clone(), retried_at: target.retried_at, ..Self::default() };
        }
        self.nodes.entry(pull.node.clone()).or_default().insert(image.to_owned(), (outcome, now));
    }

    /// Forgets pulls of a revision that is not the target any more, and failures from before a retry.
    pub(crate) fn renew(&mut self, target: &Target) {
        if self.revision == target.revision && is_used(target) {
            self.retry(target.retried_at);
        } else {
            *self = Self::default();
        }
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.nodes.values().flat_map(BTreeMap::values).any(|(outcome, _)| matches!(outcome, Outcome::Failed(_)))
    }

    /// A retry gives what did not work another chance.
    fn retry(&mut self, retried_at: Option<Timestamp>) {
        if self.retried_at != retried_at {
            self.retried_at = retried_at;
            for images in self.nodes.values_mut() {
                images.retain(|_, (outcome, _)| *outcome == Outcome::Pulled);
            }
        }
    }
}

/// Only on the way to a new revision: the stable one has run on these nodes, and nothing may delay the way back.
pub(crate) fn is_used(target: &Target) -> bool {
    // A revision that was given up may be tried again: what is known of it is kept meanwhile.
    target.strategy.pre_pull && target.direction != Direction::Back && target.is_rolling()
}
