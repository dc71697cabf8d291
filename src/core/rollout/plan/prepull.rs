//! Pre-pulling: which nodes must have the new images before a sidecar on them is stopped, and what came of it.
//!
//! The kubelet stops the old container first and pulls the new image afterwards, so a missing image costs the sidecar.
//! With `updateStrategy.prePull` a pod whose sidecar lives is patched only when its node has the image.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::base::time::after;
use crate::core::pod::{PodKey, PodView};
use crate::core::rollout::assess::images::{has_image, to_restart};
use crate::core::rollout::budget::counts::Counts;
use crate::core::rollout::order::queue::SCANNED;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::{Outcome, Pull, PullResults, is_used};
use crate::core::rollout::state::set::SetState;
use crate::core::rollout::target::Target;

/// Nodes that pull for one set at the same time, whatever the size of its batches.
pub const MOST_AT_ONCE: usize = 32;

/// What messages say about pulls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulling {
    /// Images that are being pulled.
    pub images: BTreeSet<String>,
    /// Nodes that pull them.
    pub nodes: Vec<String>,
    /// Why nobody could pull, and on how many nodes.
    pub skipped: Vec<(String, usize)>,
}

/// Pods that wait for nodes on which pulling failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Blocked {
    /// How many.
    pub(crate) pods: usize,
    /// Why, by node: `pull of agent:v2: ErrImagePull`.
    pub(crate) nodes: BTreeMap<String, String>,
    /// When the first of these nodes is tried again.
    pub(crate) again_at: Option<Timestamp>,
}

/// Where a pod stands.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It may be patched.
    Open,
    /// Its node has to pull these first.
    Wants(BTreeMap<String, String>),
    /// Its node could not, and may try again at this time.
    Failed { why: String, again_at: Timestamp, images: BTreeMap<String, String> },
}

/// Lets pods pass whose nodes are ready. Costs nothing where `prePull` is not used.
pub(crate) struct Door<'a> {
    index: &'a Index,
    target: &'a Target,
    known: Option<&'a PullResults>,
    now: Timestamp,
}

impl<'a> Door<'a> {
    pub(crate) fn new(index: &'a Index, set: &'a SetState, now: Timestamp) -> Self {
        Self { index, target: &set.target, known: index.pulls(&set.target.set), now }
    }

    /// Only on the way to a new revision: the stable one has run on these nodes, and nothing may delay the way back.
    pub(crate) fn is_used(&self) -> bool {
        is_used(self.target)
    }

    /// Whether a pod may be patched now.
    pub(crate) fn lets(&self, key: &PodKey) -> bool {
        !self.is_used() || self.standing(key).is_none_or(|(standing, _)| standing == Standing::Open)
    }

    fn standing(&self, key: &PodKey) -> Option<(Standing, std::sync::Arc<PodView>)> {
        let pod = self.index.get(key)?;
        let Some(node) = &pod.node else { return Some((Standing::Open, pod)) };
        let images = lives_without(&pod, self.target, self.now);
        let known = self.known.and_then(|known| known.nodes.get(node));
        let timeout = SignedDuration::from_secs(self.target.strategy.timeout_seconds.into());
        let (mut missing, mut failed) = (false, None);
        for image in images.keys() {
            match known.and_then(|images| images.get(image)) {
                Some((Outcome::Pulled | Outcome::Skipped(_), _)) => {}
                Some((Outcome::Failed(why), at)) => {
                    failed = Some((format!("pull of {image}: {why}"), after(*at, timeout)));
                }
                None => missing = true,
            }
        }
        let standing = match failed {
            Some((why, again_at)) => Standing::Failed { why, again_at, images },
            None if missing => Standing::Wants(images),
            None => Standing::Open,
        };
        Some((standing, pod))
    }

    /// Candidates, first to go first, that failed pulls keep from going.
    pub(crate) fn blocked<'k>(&self, candidates: impl Iterator<Item = &'k PodKey>) -> Blocked {
        let mut blocked = Blocked::default();
        if !self.is_used() || !self.known.is_some_and(PullResults::has_failures) {
            return blocked;
        }
        for key in candidates.take(SCANNED) {
            if let Some((Standing::Failed { why, again_at, .. }, pod)) = self.standing(key) {
                blocked.pods += 1;
                blocked.nodes.insert(pod.node.clone().unwrap_or_default(), why);
                blocked.again_at = blocked.again_at.into_iter().chain([again_at]).min();
            }
        }
        blocked
    }

    /// What the next batch, of so many pods, waits for: one pull per node. A node that failed is no part of it until it
    /// is tried again.
    pub(crate) fn pulls<'k>(&self, candidates: impl Iterator<Item = &'k PodKey>, batch: usize) -> Vec<Pull> {
        let mut pulls: Vec<Pull> = Vec::new();
        if !self.is_used() {
            return pulls;
        }
        let mut room = batch;
        for (standing, pod) in candidates.take(SCANNED).filter_map(|key| self.standing(key)) {
            let images = match standing {
                Standing::Failed { again_at, .. } if self.now < again_at => continue,
                Standing::Failed { images, .. } | Standing::Wants(images) => images,
                Standing::Open => BTreeMap::new(),
            };
            if room == 0 || pulls.len() == MOST_AT_ONCE {
                break;
            }
            room -= 1;
            if !images.is_empty() && pulls.iter().all(|pull| Some(&pull.node) != pod.node.as_ref()) {
                pulls.extend(self.pull(&pod, images));
            }
        }
        pulls
    }

    fn pull(&self, pod: &PodView, images: BTreeMap<String, String>) -> Option<Pull> {
        Some(Pull {
            set: self.target.set.clone(),
            revision: self.target.revision.clone(),
            node: pod.node.clone()?,
            images,
            pod: pod.key.clone(),
            uid: pod.uid.clone(),
            timeout_seconds: self.target.strategy.timeout_seconds,
        })
    }

    /// What to say about these pulls, and about those that were skipped.
    pub(crate) fn pulling(&self, pulls: &[Pull]) -> Pulling {
        let mut skipped: BTreeMap<&String, usize> = BTreeMap::new();
        for images in self.known.filter(|_| self.is_used()).into_iter().flat_map(|known| known.nodes.values()) {
            let reasons = images.values().filter_map(|(outcome, _)| match outcome {
                Outcome::Skipped(why) => Some(why),
                Outcome::Pulled | Outcome::Failed(_) => None,
            });
            for why in reasons.collect::<BTreeSet<_>>() {
                *skipped.entry(why).or_default() += 1;
            }
        }
        Pulling {
            images: pulls.iter().flat_map(|pull| pull.images.keys()).cloned().collect(),
            nodes: pulls.iter().map(|pull| pull.node.clone()).collect(),
            skipped: skipped.into_iter().map(|(why, nodes)| (why.clone(), nodes)).collect(),
        }
    }
}

impl Blocked {
    /// The set's counters with what failed pulls add: each node is one failure.
    pub(crate) fn added_to(&self, counts: &Counts) -> Counts {
        Counts { failed: counts.failed + self.nodes.len(), blocked: self.pods, ..counts.clone() }
    }
}

/// Images that the pod lacks and that would replace a sidecar that is ready now, with the container that gets each. A
/// sidecar that is down gains nothing by waiting.
fn lives_without(pod: &PodView, target: &Target, now: Timestamp) -> BTreeMap<String, String> {
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
