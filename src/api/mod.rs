//! The vocabulary: the `SidecarSet` type, the keys written on pods, reasons and condition types.

pub(crate) mod canonical;
pub mod crd;
pub(crate) mod expression;
pub(crate) mod image;
pub mod keys;
pub(crate) mod order;
pub(crate) mod qos;
pub(crate) mod quantity;
pub mod reasons;
pub(crate) mod selector;
pub(crate) mod v1beta1;
pub mod validate;

use reasons::Reason;
use reasons::condition::READY;
pub(crate) use v1beta1::SidecarSetSpec;
pub use v1beta1::{SidecarSet, SidecarSetStatus};

impl SidecarSet {
    /// What is wrong with this very generation, as the leader says: no pod may have the sidecars.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let ready = self.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == READY)?;
        let is_refused = Reason::named(&ready.reason) == Some(Reason::InvalidSpec);
        (is_refused && ready.observed_generation == self.metadata.generation).then_some(ready.message.as_str())
    }
}

/// The base of a canary set: both annotations must be there (OpenKruise's rule).
pub(crate) fn canary_base(set: &SidecarSet) -> Option<&str> {
    let annotations = set.metadata.annotations.as_ref()?;
    (annotations.get(keys::CANARY)? == "true").then(|| annotations.get(keys::BASE).map(String::as_str)).flatten()
}
