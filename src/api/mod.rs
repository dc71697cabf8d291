//! The vocabulary: the `SidecarSet` type, the keys written on pods, reasons and condition types.

pub mod crd;
pub mod expression;
pub mod keys;
pub mod order;
pub mod qos;
pub mod quantity;
pub mod reasons;
pub mod selector;
pub mod v1beta1;
pub mod validate;

pub(crate) use v1beta1::SidecarSetSpec;
pub use v1beta1::{SidecarSet, SidecarSetStatus};

/// The base of a canary set: both annotations must be there (OpenKruise's rule).
pub(crate) fn canary_base(set: &SidecarSet) -> Option<&str> {
    let annotations = set.metadata.annotations.as_ref()?;
    (annotations.get(keys::CANARY)? == "true").then(|| annotations.get(keys::BASE).map(String::as_str)).flatten()
}
