//! Upgrading the sidecars of running pods: who is where, who is next, and what to send.

pub mod index;
pub mod patch;
pub mod plan;
pub mod progress;
pub mod rollout;
mod set_index;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use index::Index;
pub use plan::{Plan, Summary};
pub use rollout::Rollout;
pub use set_index::{Counts, State};
