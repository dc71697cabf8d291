//! Who goes first.

pub(crate) mod apportion;
pub(crate) mod queue;
pub mod rules;
