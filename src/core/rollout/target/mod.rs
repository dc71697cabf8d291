//! What a set wants of its running pods, compiled once per change.

pub(crate) mod changes;
pub(crate) mod order;
pub mod rollout;
pub mod strategy;

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::api::selector::Selector;
use crate::api::validate::ValidSidecarSet;
use crate::core::base::resources::Resources;
use crate::core::base::time::{after, seconds};
use crate::core::revision::{Change, Sidecar, Template};
use crate::core::rollout::target::changes::{NonImageChange, resizable};
use crate::core::rollout::target::strategy::Strategy;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub(crate) set: String,
    pub(crate) selector: Selector,
    /// Their namespaces; `None` for all.
    pub(crate) namespace_selector: Option<Selector>,
    /// Hash of the revision that pods should reach.
    pub revision: String,
    pub(crate) sidecars: Vec<Sidecar>,
    /// What it takes to come from another known revision to this one, by hash.
    pub(crate) changes: BTreeMap<String, Change>,
    /// Sidecars, by name, whose image is the same in another known revision, by its hash.
    pub(crate) kept_images: BTreeMap<String, Vec<String>>,
    pub(crate) hash_without_images: String,
    /// What changes besides images on the way from another known revision, by hash; no entry if nothing does.
    pub(crate) beside: BTreeMap<String, NonImageChange>,
    /// cpu and memory that the target gives to its containers, by name in a pod.
    pub(crate) resources: BTreeMap<String, Resources>,
    /// The last revision that was fully rolled out. If it is `revision`, later failures are none of this rollout.
    pub(crate) stable: Option<String>,
    /// Forward to a new revision, nowhere, or back.
    pub direction: Direction,
    /// When the rollout began, in whole seconds; `None` where nobody asks.
    pub(crate) started_at: Option<Timestamp>,
    /// When a retry was asked for: updates that had failed before are given the whole timeout again.
    pub retried_at: Option<Timestamp>,
    /// How to get there.
    pub strategy: Strategy,
}

/// Where a rollout is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the revision of the spec.
    Forward,
    /// Nowhere: the revision of the spec was aborted.
    Halted,
    /// To the stable revision, because that of the spec was aborted. Partition, steps and selector are for the way
    /// forward.
    Back,
}

impl Target {
    /// Compiles a set. `revisions` are all known ones, the target included or not; `stable` is the last one that was
    /// fully rolled out.
    pub fn new<'a>(
        valid: &ValidSidecarSet,
        target: (&str, &Template),
        revisions: impl IntoIterator<Item = (&'a String, &'a Template)>,
        stable: Option<&str>,
    ) -> Self {
        let (revision, template) = target;
        let (set, selectors) = (valid.name(), valid.selectors());
        let revisions: Vec<_> = revisions.into_iter().filter(|(hash, _)| *hash != revision).collect();
        let changes = revisions.iter().map(|(hash, old)| ((*hash).clone(), old.change_to(template)));
        let beside =
            revisions.iter().map(|(hash, old)| Some(((*hash).clone(), NonImageChange::between(set, old, template)?)));
        let sidecars: Vec<Sidecar> = template.sidecars().collect();
        let kept_images = |old: &Template| {
            let old: Vec<Sidecar> = old.sidecars().collect();
            let is_kept = |new: &&Sidecar| old.iter().any(|old| old.name == new.name && old.image == new.image);
            sidecars.iter().filter(is_kept).map(|sidecar| sidecar.name.clone()).collect()
        };
        let mut compiled = Self {
            kept_images: revisions.iter().map(|(hash, old)| ((*hash).clone(), kept_images(old))).collect(),
            set: set.to_owned(),
            selector: selectors.pods.clone(),
            namespace_selector: selectors.namespaces.clone(),
            revision: revision.to_owned(),
            sidecars,
            hash_without_images: template.hash_without_images(),
            changes: changes.chain([(revision.to_owned(), Change::InPlace)]).collect(),
            beside: beside.flatten().collect(),
            resources: resizable(template),
            stable: stable.map(str::to_owned),
            direction: Direction::Forward,
            started_at: None,
            retried_at: None,
            strategy: Strategy::new(valid),
        };
        // Pods of the stable revision have nothing to stay behind with, unless new pods are pinned to an old one.
        if compiled.is_reached_by_stable() && valid.set().spec.injection_strategy.revision.is_none() {
            compiled.strategy.take_all();
        }
        compiled
    }

    /// The way back to the stable revision, after the one of the spec was aborted.
    #[must_use]
    pub(crate) fn going_back(mut self) -> Self {
        self.direction = Direction::Back;
        self.strategy.selector = None;
        self.strategy.take_all();
        self
    }

    /// Whether pods of a namespace with these labels belong to the set; `None` for a namespace that is not known.
    pub(crate) fn in_namespace(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let selector = self.namespace_selector.as_ref();
        selector.is_none_or(|selector| labels.is_some_and(|labels| selector.matches(labels)))
    }

    /// Every pod stands for both as it does: they differ at most in how many pods are patched, and when.
    pub(crate) fn says_the_same_of_pods(&self, other: &Self) -> bool {
        let strategy = self.strategy.clone().with_limits_of(&other.strategy);
        Self { strategy, ..self.clone() } == *other
    }

    /// Until when what had failed before a retry is not failed; `None` without a retry.
    pub(crate) fn retry_ends(&self) -> Option<Timestamp> {
        Some(after(self.retried_at?, seconds(self.strategy.pod_update_timeout_seconds)))
    }

    /// A pod of this revision has all that the target gives to running pods. It is left as it is, its label too.
    pub(crate) fn is_reached_by(&self, revision: &str) -> bool {
        revision == self.revision || self.changes.get(revision) == Some(&Change::Nothing)
    }

    /// False if the target gives running pods nothing that they do not have from the stable revision: only new pods can
    /// prove it.
    pub(crate) fn changes_running_pods(&self) -> bool {
        !self.is_rolling() || !self.is_reached_by_stable()
    }

    /// A sidecar has the same image in a known revision.
    pub(crate) fn keeps_image(&self, revision: &str, sidecar: &str) -> bool {
        self.kept_images.get(revision).is_some_and(|sidecars| sidecars.iter().any(|name| name == sidecar))
    }

    fn is_reached_by_stable(&self) -> bool {
        self.stable.as_ref().is_some_and(|stable| self.is_reached_by(stable))
    }

    /// What running pods have of this revision is stable.
    pub(crate) fn is_stable(&self, revision: &str) -> bool {
        self.stable.as_deref() == Some(revision) || (!self.is_rolling() && self.is_reached_by(revision))
    }

    /// False once the target was fully rolled out.
    pub(crate) fn is_rolling(&self) -> bool {
        self.stable.as_ref() != Some(&self.revision)
    }
}
