//! What a set wants of its running pods, compiled once per change.

pub mod direction;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::SidecarSetSpec;
use crate::api::selector::{Selector, SelectorError};
use crate::api::v1beta1::{FailureAction, Step, UpdateType, WhenNotInPlace};
use crate::core::base::percent::scaled;
use crate::core::base::resources::Resources;
use crate::core::base::time::after;
use crate::core::revision::{Change, Sidecar, Template};
use crate::core::rollout::assess::resize;
use crate::core::rollout::order::rules::Order;
use crate::core::rollout::request::metadata::MetadataChange;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Name of the set.
    pub set: String,
    /// Pods that belong to the set.
    pub selector: Selector,
    /// Their namespaces; `None` for all.
    pub namespace_selector: Option<Selector>,
    /// Hash of the revision that pods should reach.
    pub revision: String,
    /// Its sidecars.
    pub sidecars: Vec<Sidecar>,
    /// What it takes to come from another known revision to this one, by hash.
    pub changes: BTreeMap<String, Change>,
    /// [`Template::shape`] of the target.
    pub shape: String,
    /// What changes besides images on the way from another known revision, by hash; no entry if nothing does.
    pub beside: BTreeMap<String, Beside>,
    /// cpu and memory that the target gives to its containers, by name in a pod.
    pub resources: BTreeMap<String, Resources>,
    /// The last revision that was fully rolled out. If it is `revision`, later failures are none of this rollout.
    pub stable: Option<String>,
    /// Forward to a new revision, nowhere, or back.
    pub mode: Mode,
    /// When a retry was asked for: updates that had failed before are given the whole timeout again.
    pub retried_at: Option<Timestamp>,
    /// How to get there.
    pub strategy: Strategy,
}

/// What a running pod is given besides images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// `patchPodMetadata`, if it differs.
    pub metadata: Option<Arc<MetadataChange>>,
    /// Containers whose resources differ, by name in a pod.
    pub resized: BTreeSet<String>,
}

impl Beside {
    fn between(set: &str, from: &Template, to: &Template) -> Option<Self> {
        let metadata = MetadataChange::between(set, from, to).map(Arc::new);
        let beside = Self { metadata, resized: resize::changed(from, to) };
        (beside != Self::default()).then_some(beside)
    }
}

/// Where a rollout is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To the revision of the spec.
    Forward,
    /// Nowhere: the revision of the spec was aborted.
    Stopped,
    /// To the stable revision, because that of the spec was aborted. Partition, steps and selector are for the way
    /// forward.
    Back,
}

/// `spec.updateStrategy`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// False for type `NotUpdate`.
    pub enabled: bool,
    /// `paused`.
    pub paused: bool,
    /// Only these pods are upgraded.
    pub selector: Option<Selector>,
    /// Pods that stay on the old revision.
    pub partition: IntOrString,
    /// Batches with pauses between them.
    pub steps: Vec<Step>,
    /// Pods that may be unavailable because of upgrades.
    pub max_unavailable: IntOrString,
    /// Pods of one workload that may be unavailable.
    pub max_unavailable_per_workload: Option<IntOrString>,
    /// Which pods are patched first.
    pub order: Order,
    /// Seconds that a new sidecar must have been ready.
    pub min_ready_seconds: i32,
    /// Seconds after which an update has failed.
    pub timeout_seconds: i32,
    /// Seconds without progress after which the set is stalled.
    pub progress_deadline_seconds: i32,
    /// Pods that may fail.
    pub max_failed: IntOrString,
    /// What happens when more fail.
    pub action: FailureAction,
    /// Pods that cannot be upgraded in place are evicted.
    pub evicts: bool,
    /// Images are pulled before containers are stopped.
    pub pre_pull: bool,
}

impl Rollout {
    /// Compiles a spec. `revisions` are all known ones, the target included or not; `stable` is the last one that was
    /// fully rolled out.
    ///
    /// # Errors
    /// A selector that does not parse; validation says so with its full path.
    pub fn new<'a>(
        set: &str,
        spec: &SidecarSetSpec,
        target: (&str, &Template),
        revisions: impl IntoIterator<Item = (&'a String, &'a Template)>,
        stable: Option<&str>,
    ) -> Result<Self, SelectorError> {
        let (revision, template) = target;
        let parse = |selector: &Option<_>| selector.as_ref().map(Selector::parse).transpose();
        let update = &spec.update_strategy;
        let revisions: Vec<_> = revisions.into_iter().filter(|(hash, _)| *hash != revision).collect();
        let changes = revisions.iter().map(|(hash, old)| ((*hash).clone(), old.change_to(template)));
        let beside = revisions.iter().map(|(hash, old)| Some(((*hash).clone(), Beside::between(set, old, template)?)));
        // With the stable revision as target there is no old one to stay on, unless new pods are pinned to one.
        let back = stable == Some(revision) && spec.injection_strategy.revision.is_none();
        let partition = update.partition.clone().filter(|_| !back);
        Ok(Self {
            set: set.to_owned(),
            selector: Selector::parse(&spec.selector)?,
            namespace_selector: parse(&spec.namespace_selector)?,
            revision: revision.to_owned(),
            sidecars: template.sidecars().collect(),
            shape: template.shape(),
            changes: changes.chain([(revision.to_owned(), Change::InPlace)]).collect(),
            beside: beside.flatten().collect(),
            resources: resize::wanted(template),
            stable: stable.map(str::to_owned),
            mode: Mode::Forward,
            retried_at: None,
            strategy: Strategy {
                enabled: update.type_ == UpdateType::RollingUpdate,
                paused: update.paused,
                selector: parse(&update.selector)?,
                partition: partition.unwrap_or(IntOrString::Int(0)),
                steps: if back { Vec::new() } else { update.steps.clone() },
                max_unavailable: update.max_unavailable.clone(),
                max_unavailable_per_workload: update.max_unavailable_per_workload.clone(),
                order: Order::new(update)?,
                min_ready_seconds: update.min_ready_seconds,
                timeout_seconds: update.pod_update_timeout_seconds,
                progress_deadline_seconds: update.progress_deadline_seconds,
                max_failed: update.failure_policy.max_failed.clone(),
                action: update.failure_policy.action,
                evicts: update.when_not_in_place == WhenNotInPlace::Evict,
                pre_pull: update.pre_pull,
            },
        })
    }

    /// The way back to the stable revision, after the one of the spec was aborted.
    #[must_use]
    pub fn going_back(mut self) -> Self {
        self.mode = Mode::Back;
        self.strategy.selector = None;
        self.strategy.partition = IntOrString::Int(0);
        self.strategy.steps = Vec::new();
        self
    }

    /// Until when what had failed before a retry is not failed; `None` without a retry.
    pub fn retry_ends(&self) -> Option<Timestamp> {
        Some(after(self.retried_at?, SignedDuration::from_secs(self.strategy.timeout_seconds.into())))
    }

    /// False once the target was fully rolled out.
    pub fn is_rolling(&self) -> bool {
        self.stable.as_ref() != Some(&self.revision)
    }

    /// False if every pod may be upgraded.
    pub fn has_partition(&self) -> bool {
        !matches!(&self.strategy.partition, IntOrString::Int(0)) && scaled(&self.strategy.partition, 100) > 0
    }

    /// Pods that must stay on the old revision: a percentage is rounded up, but below 100 % at least one of several
    /// pods moves (OpenKruise's rule).
    pub fn keep_old(&self, matched: usize) -> usize {
        let keep = scaled(&self.strategy.partition, matched).min(matched);
        let all_by_percent = matches!(&self.strategy.partition, IntOrString::String(text) if text != "100%");
        if all_by_percent && keep == matched && matched > 1 { matched - 1 } else { keep }
    }

    /// Pods that upgrades may make unavailable at once, at least 1.
    pub fn max_unavailable(&self, matched: usize) -> usize {
        scaled(&self.strategy.max_unavailable, matched).max(1)
    }

    /// Pods that were not ready anyway and may be in an undecided or failed update at once.
    pub fn max_unready(&self, matched: usize) -> usize {
        self.max_unavailable(matched).max(matched.div_ceil(10))
    }

    /// Pods whose update may fail before the rollout is aborted.
    pub fn max_failed(&self, matched: usize) -> usize {
        scaled(&self.strategy.max_failed, matched)
    }
}
