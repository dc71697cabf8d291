//! Who goes first.

pub(crate) mod apportion;
pub(crate) mod candidates;
pub(crate) mod cost;
pub(crate) mod queue;
