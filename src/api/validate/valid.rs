//! A set that validation accepts.

use std::sync::Arc;

use crate::api::keys;
use crate::api::selector::Selector;
use crate::api::v1beta1::{FailurePolicy, SidecarSet, SidecarSetStatus};

/// A set that validation accepts, with its selectors parsed: who takes one need not check or parse anything again. Only
/// `validate_with` makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidSidecarSet {
    set: Arc<SidecarSet>,
    selectors: Arc<Selectors>,
    warnings: Arc<[String]>,
}

/// The selectors of a set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selectors {
    /// `selector`: pods that belong to the set.
    pub(crate) pods: Selector,
    /// `namespaceSelector`: their namespaces; `None` for all.
    pub(crate) namespaces: Option<Selector>,
    /// `updateStrategy.selector`: only these pods are upgraded; `None` for all.
    pub(crate) upgraded: Option<Selector>,
    /// `updateStrategy.priorityStrategy.weightPriority`: weights and the pods that get them.
    pub(crate) weights: Vec<(u32, Selector)>,
}

impl ValidSidecarSet {
    /// For validation only: nothing is checked here.
    pub(super) fn new(set: Arc<SidecarSet>, selectors: Selectors, warnings: Vec<String>) -> Self {
        Self { set, selectors: Arc::new(selectors), warnings: warnings.into() }
    }

    /// The set.
    pub fn set(&self) -> &Arc<SidecarSet> {
        &self.set
    }

    /// False for a set on its way out, and for one that may be left out of pods that the API server would refuse with it.
    pub(crate) fn is_served(&self) -> bool {
        let is_left_out = self.set.spec.injection_strategy.failure_policy == FailurePolicy::Ignore;
        self.set.metadata.deletion_timestamp.is_none() && !(is_left_out && self.set.refusal().is_some())
    }

    pub(crate) fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// Legal, but likely not what is wanted.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The set in another version; `None` if what validation looks at differs.
    pub(crate) fn renewed(&self, newer: Arc<SidecarSet>) -> Option<Self> {
        let annotation = |set: &SidecarSet, key: &str| set.metadata.annotations.as_ref()?.get(key).cloned();
        let same_annotations =
            [keys::CANARY, keys::BASE].into_iter().all(|key| annotation(&self.set, key) == annotation(&newer, key));
        let same = self.set.metadata.name == newer.metadata.name && same_annotations && self.set.spec == newer.spec;
        same.then(|| Self { set: newer, ..self.clone() })
    }

    /// The set with another status, which validation does not look at.
    #[must_use]
    pub(crate) fn with_status(&self, status: Option<SidecarSetStatus>) -> Self {
        Self { set: Arc::new(SidecarSet { status, ..SidecarSet::clone(&self.set) }), ..self.clone() }
    }
}
