//! Who goes first.

pub(crate) mod apportion;
pub(crate) mod key;
pub(crate) mod queue;
