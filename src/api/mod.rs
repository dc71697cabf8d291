//! The vocabulary: the `SidecarSet` type, the keys written on pods, reasons and condition types.

pub mod crd;
pub mod expression;
pub mod keys;
pub mod quantity;
pub mod reasons;
pub mod selector;
pub mod v1beta1;
pub mod validate;

pub use v1beta1::{SidecarSet, SidecarSetSpec, SidecarSetStatus};
