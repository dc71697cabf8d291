//! Pre-pulling: which nodes must have the new images before a sidecar on them is stopped, and what came of it.
//!
//! The kubelet stops the old container first and pulls the new image afterwards, so a missing image costs the sidecar.
//! With `updateStrategy.prePull` a pod whose sidecar lives is patched only when its node has the image.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::{Pull, images_to_pull};
use crate::core::rollout::state::set::SetState;
use crate::core::rollout::target::Target;

/// Nodes that pull for one set at the same time, whatever the size of its batches.
pub(crate) const MOST_AT_ONCE: usize = 32;

/// What messages say about pulls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pulling {
    /// Images that are being pulled.
    pub(crate) images: BTreeSet<String>,
    /// Nodes that pull them.
    pub(crate) nodes: Vec<String>,
    /// Why nobody could pull, and on how many nodes.
    pub(crate) skipped: Vec<(String, usize)>,
}

/// What nodes have to pull for the next batch: one pull per node, and at most so many.
pub(crate) fn pulls<'a>(
    all: &Index,
    set: &SetState,
    batch: impl Iterator<Item = &'a PodKey>,
    most: usize,
    now: Timestamp,
) -> Vec<Pull> {
    let mut pulls: Vec<Pull> = Vec::new();
    for key in batch.filter(|key| set.must_pull(key)) {
        if pulls.len() == most {
            break;
        }
        let pull = all.get(key).and_then(|pod| pull(&pod, &set.target, now));
        pulls.extend(pull.filter(|pull| pulls.iter().all(|other| other.node != pull.node)));
    }
    pulls
}

fn pull(pod: &PodView, target: &Target, now: Timestamp) -> Option<Pull> {
    Some(Pull {
        set: target.set.clone(),
        revision: target.revision.clone(),
        node: pod.node.clone()?,
        images: images_to_pull(pod, target, now),
        pod: pod.key.clone(),
        uid: pod.uid.clone(),
        timeout_seconds: target.strategy.pod_update_timeout_seconds,
    })
}

/// What to say about these pulls, and about those that were skipped.
pub(crate) fn pulling(set: &SetState, pulls: &[Pull]) -> Pulling {
    Pulling {
        images: pulls.iter().flat_map(|pull| pull.images.keys()).cloned().collect(),
        nodes: pulls.iter().map(|pull| pull.node.clone()).collect(),
        skipped: set.pulls.skipped().into_iter().map(|(why, nodes)| (why.to_owned(), nodes)).collect(),
    }
}
